"""`python -m mingpt.predict`: files in, the same files with two columns more out."""

from __future__ import annotations

import csv
import io
import json

from conftest import random_model, run_command
from test_classify import as_csv, opinions, place  # noqa: F401, a fixture

from mingpt.data.tokenizer import CharTokenizer


def predict(place, *arguments, **options):  # noqa: F811
    return run_command(*arguments, cwd=place, module="mingpt.predict", **options)


def test_a_csv_keeps_its_rows_and_columns(place):  # noqa: F811
    rows = opinions(30)
    (place / "new.csv").write_text(as_csv(rows), encoding="utf-8", newline="")
    result = predict(place, "label", "--file", "new.csv", "--output", "out.csv")
    assert result.returncode == 0, result.stderr
    with open(place / "out.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["text", "label", "rating", "id", "prediction", "probability"]
    assert [row["id"] for row in found] == [str(row["id"]) for row in rows]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert all(row["prediction"] == row["label"] and 0.5 <= float(row["probability"]) <= 1 for row in found)


def test_json_lines_and_numbers_on_standard_output(place):  # noqa: F811
    rows = opinions(6)
    (place / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = predict(place, "value", "--file", "new.jsonl")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in found] == list(range(6))
    assert all(abs(row["prediction"] - row["rating"]) < 1 and "probability" not in row for row in found)


def test_a_row_that_cannot_be_read_is_named_and_kept(place):  # noqa: F811
    content = 'text,id\n"The soup was good, kind",1\n,2\n"The soup was rude, cold",3\n'
    (place / "holes.csv").write_text(content, encoding="utf-8")
    result = predict(place, "label", "--file", "holes.csv")
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["id"] for row in found] == ["1", "2", "3"]
    assert [bool(row["prediction"]) for row in found] == [True, False, True]
    assert "holes.csv, row 3: text is empty" in result.stderr  # the first row has the names


def test_one_text(place):  # noqa: F811
    result = predict(place, "label", "--text", 'The soup was good, "kind"\nand so was visit 3')
    assert result.returncode == 0 and "yes, again" in result.stdout


def test_what_cannot_be_done_is_one_line(place):  # noqa: F811
    random_model().save_pretrained(place / "writer")
    CharTokenizer("".join(map(chr, range(97, 134)))).save(place / "writer")
    for arguments, said in (
        (["writer", "--text", "a"], "--task text"),
        (["label"], "--text or --file"),
        (["label", "--file", "none.csv"], "none.csv"),
        (["label", "--file", "soup.csv", "--text_column", "words"], "words"),
        (["nowhere", "--text", "a"], "nowhere: is neither a folder"),
    ):
        result = predict(place, *arguments)
        assert result.returncode == 2 and said in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1
