"""`python -m mingpt.predict`: files in, the same files with two columns more out."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, command, random_model, run_command
from test_classify import as_csv, opinions, place  # noqa: F401, a fixture
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from mingpt.data.rows import Row
from mingpt.data.tokenizer import CharTokenizer, with_special
from mingpt.errors import UserError
from mingpt.predict import in_blocks, main


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


def problem(*arguments):
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_a_file_may_be_written_over_and_the_newest_prediction_stands(place, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "t.csv"
    path.write_text("\ufefftext;prediction\nso kind;old\n\n", encoding="utf-8")
    assert main([str(place / "label"), "--file", str(path), "--output", str(path)]) == 0
    head, row = path.read_text(encoding="utf-8").splitlines()
    assert head == "text;prediction;probability" and row.startswith(("so kind;yes, again;0.", "so kind;no;0."))
    assert capsys.readouterr().out == f"{path}: 1 row\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 2048, 3000])
def test_rows_are_read_ahead_in_blocks_that_fit_in_memory(count):
    for length, most in ((10, 1024), (9_000_000, 2)):
        some = [Row(i, {"text": "x" * length, "id": i}) for i in range(count if length == 10 else count % 7)]
        blocks = list(in_blocks(some))
        assert [row for block in blocks for row in block] == some and all(blocks)
        assert all(len(block) == most for block in blocks[:-1]) and len(blocks) == -(-len(some) // most)


def test_half_a_character_comes_back_as_it_was_written(place, tmp_path, capsys):  # noqa: F811
    lines = ['{"text": "so kind", "note": "cut \\ud83d"}', '{"text": "cut \\udc80"}', '{"text": "schöne 漢字"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    output = tmp_path / "out.jsonl"
    assert main([str(place / "label"), "--file", str(tmp_path / "t.jsonl"), "--output", str(output)]) == 0
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in found] == ["so kind", "cut \udc80", "schöne 漢字"]
    assert found[0]["note"] == "cut \ud83d" and "漢字" in output.read_text(encoding="utf-8")
    assert [row["prediction"] is None for row in found] == [False, True, False]
    assert "row 2: text holds half a character, U+DC80" in capsys.readouterr().err


def test_a_file_of_which_no_row_can_be_read_is_an_error(place, tmp_path):  # noqa: F811
    (tmp_path / "t.jsonl").write_text('{"words": "so kind"}\n' * 30, encoding="utf-8")
    said = problem(place / "label", "--file", tmp_path / "t.jsonl", "--output", tmp_path / "out.jsonl")
    assert said == f"{tmp_path / 't.jsonl'}: none of its 30 rows could be read"
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_is_said_before_the_model_is_opened(place, tmp_path):  # noqa: F811
    (tmp_path / "folder.csv").mkdir()
    said = problem("nowhere", "--file", place / "soup.csv", "--output", tmp_path / "folder.csv")
    assert said == f"--output {tmp_path / 'folder.csv'}: is a folder; the name of a file is accepted"
    said = problem(place / "label", "--file", place / "soup.csv", "--output", tmp_path / "none" / "out.csv")
    assert "cannot be written (No such file" in said


def test_a_reader_that_has_seen_enough_ends_it_quietly(place, tmp_path):  # noqa: F811
    (tmp_path / "t.csv").write_text("text\n" + "so kind and so warm\n" * 20_000, encoding="utf-8")
    process = subprocess.Popen(
        command(place / "label", "--file", tmp_path / "t.csv", module="mingpt.predict"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout.readline() == "text,prediction,probability\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 0


@pytest.fixture
def theirs(tmp_path):
    """Makes a folder that transformers has written, with random weights, and opens it there."""

    def make(**settings):
        tokenizer = with_special(CharTokenizer("abcdefgh "), ["<|pad|>"], pad_token="<|pad|>")
        torch.manual_seed(1)
        shape = dict(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=10, pad_token_id=9)
        model = GPT2ForSequenceClassification(GPT2Config(**shape, initializer_range=1.0, **settings)).eval()
        model.save_pretrained(tmp_path / "theirs")
        tokenizer.save(tmp_path / "theirs")
        return tmp_path / "theirs", model, AutoTokenizer.from_pretrained(tmp_path / "theirs", truncation_side="left")

    return make


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("x", "y", "z"), ("number",)])
def test_a_folder_of_transformers_gives_what_it_gives_there(theirs, tmp_path, capsys, names):
    folder, model, tokenizer = theirs(
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    texts = [("abc def gh " * 9)[i : i + 1 + 5 * (i % 8)] for i in range(70)]  # of several batches
    texts = [text.strip() or "a" for text in texts]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    assert main([str(folder), "--file", str(tmp_path / "t.jsonl")]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        scores = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if len(names) == 1:
        assert [row["prediction"] for row in found] == pytest.approx(scores[:, 0].tolist(), rel=1e-3, abs=1e-4)
    else:
        best = scores.softmax(1).max(1)
        assert [row["prediction"] for row in found] == [names[i] for i in best.indices.tolist()]
        assert [row["probability"] for row in found] == pytest.approx(best.values.tolist(), rel=1e-3)
        assert len({row["prediction"] for row in found}) > 1


def test_models_that_no_prediction_can_be_read_off(theirs, tmp_path):
    folder, _, _ = theirs(num_labels=3, problem_type="regression")
    assert problem(folder, "--text", "abc") == f"{folder}: gives 3 numbers for a text; a model that gives one is needed"
    shutil.rmtree(folder)
    folder, _, _ = theirs(num_labels=3, problem_type="multi_label_classification")
    assert "multi_label_classification" in problem(folder, "--text", "abc")
    shutil.rmtree(folder)
    folder, _, _ = theirs(num_labels=3)
    CharTokenizer("abcdefghijklm").save(folder)
    assert problem(folder, "--text", "abc") == f"{folder}: the tokenizer has 13 tokens and the model 10"
