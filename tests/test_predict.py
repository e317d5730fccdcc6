"""`python -m mingpt.predict` against transformers' predictions, and the files that it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess

import pytest
import torch
from conftest import ROOT, assert_refused, command, run_command
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from mingpt.data.tables import column_names, read_rows
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.errors import UserError
from mingpt.predict import main

TRICKY = 'a "b", c; d\te\nf\rg, sep=; ünïcode 漢字'


def save(folder, kind=GPT2ForSequenceClassification, **settings):
    """A folder that transformers has written, with random weights, and its model."""
    torch.manual_seed(1)
    tokenizer = TOKENIZERS["byte"]([], [], None).with_special(["<|pad|>"], pad_token="<|pad|>")
    shape = dict(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=tokenizer.vocab_size, pad_token_id=256)
    model = kind(GPT2Config(**shape, initializer_range=1.0, **settings)).eval()
    model.save_pretrained(folder)
    tokenizer.save(folder, truncation_side="left")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save(folder, id2label={0: "yes, again", 1: "no", 2: "perhaps"})
    return folder


def problem(*arguments):
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    return str(caught.value)


def predict(folder, tmp_path, name, content, *options):
    """The rows that are written for a file of this content."""
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    output = tmp_path / f"out{(tmp_path / name).suffix}"
    assert main([str(folder), "--file", str(tmp_path / name), "--output", str(output), *options]) == 0
    rows = list(read_rows(output))
    assert not any(row.problem for row in rows)
    return [row.fields for row in rows]


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("x", "y", "z"), ("number",)])
def test_predictions_are_those_of_transformers(tmp_path, capsys, labels):
    model = save(tmp_path, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    texts = [f"{'abc déf gh ' * 9}{i}"[-1 - 7 * (i % 8) :] for i in range(1100)]  # of several batches and blocks
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    assert main([str(tmp_path), "--file", str(tmp_path / "t.jsonl")]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["text"] for row in rows] == texts
    longer = sum(len(text.encode()) > 32 for text in texts)
    assert printed.err.endswith(f"\nnote: {longer:,} texts exceed 32 tokens; the end of each was read\n")
    batch = AutoTokenizer.from_pretrained(tmp_path)(
        texts, padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        scores = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if len(labels) == 1:
        settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        settings |= {"target_mean": 3.0, "target_std": 0.5}
        (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        assert [row["prediction"] for row in rows] == pytest.approx(scores[:, 0].tolist(), rel=1e-3, abs=1e-4)
        assert main([str(tmp_path), "--text", texts[0]]) == 0
        assert float(capsys.readouterr().out) == pytest.approx(3 + 0.5 * scores[0, 0].item(), rel=1e-3)
    else:
        best = scores.softmax(1).max(1)
        assert [row["prediction"] for row in rows] == [labels[i] for i in best.indices.tolist()]
        assert [row["probability"] for row in rows] == pytest.approx(best.values.tolist(), rel=1e-3)
        assert len({row["prediction"] for row in rows}) > 1
        assert main([str(tmp_path), "--text", texts[0]]) == 0
        assert capsys.readouterr().out == f"{rows[0]['prediction']}\t{rows[0]['probability']}\n"


@pytest.mark.parametrize(
    ("name", "mark", "delimiter"),
    [("a.csv", "", ","), ("a.csv", "\ufeffsep=;\n", ";"), ("a.csv", "\ufeff", "\t"), ("a.tsv", "", "\t")],
)
def test_delimited_files_are_read_back_equal(folder, tmp_path, name, mark, delimiter):
    table = [["", "text", "a;b;c;d;e;f;g"], ["1", TRICKY, " x "], ["2", " so kind", "a\rb"], ["", "x", "007"]]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)
    rows = predict(folder, tmp_path, name, mark + buffer.getvalue())
    assert list(rows[0]) == ["column 1", "text", "a;b;c;d;e;f;g", "prediction", "probability"]
    assert [list(row.values())[:3] for row in rows] == table[1:]
    assert all(row["prediction"] in ("yes, again", "no", "perhaps") for row in rows)
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


def test_json_keeps_its_keys_and_values(folder, tmp_path):
    rows = [{"text": TRICKY, "id": 1}, {"n": [1, {"a": None}], "text": "x"}, {"text": "y", "note": "cut \ud83d"}]
    written = predict(folder, tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [{k: v for k, v in row.items() if k[:4] not in ("pred", "prob")} for row in written] == rows
    assert "漢字" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_columns_of_the_users_own_are_not_overwritten(folder, tmp_path):
    (row,) = predict(folder, tmp_path, "a.csv", "prediction,text\nmine,so kind\n")
    assert row["prediction"] == "mine" and list(row) == ["prediction", "text", "prediction_2", "probability_2"]
    first, last = predict(folder, tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "a", "probability": 5}\n')
    assert list(first) == ["text", "prediction_2", "probability_2"] and last["probability"] == 5
    (tmp_path / "out.csv").replace(tmp_path / "a.csv")  # once more, onto itself
    assert main([str(folder), "--file", str(tmp_path / "a.csv"), "--output", str(tmp_path / "a.csv")]) == 0
    assert column_names(tmp_path / "a.csv")[2:] == [
        "prediction_2",
        "probability_2",
        "prediction_2_2",
        "probability_2_2",
    ]


def test_rows_that_cannot_be_read_have_no_prediction_and_a_note(folder, tmp_path, capsys):
    rows = predict(folder, tmp_path, "a.jsonl", '{"text": "a", "id": 1}\n{"text": \n{"id": 3}\n')
    assert [(row.get("id"), bool(row["prediction"])) for row in rows] == [(1, True), (None, False), (3, False)]
    first, second, last = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'a.jsonl'}, row 2: is not valid JSON" in first and "row 3: has no column text" in second
    assert last == "note: 2 of 3 rows have no prediction"
    rows = predict(folder, tmp_path, "a.csv", "text,id\nso kind,1\n,2\nrude\ncold,4\n" + ",5\n" * 30)
    assert [bool(row["prediction"]) for row in rows] == [True, False, False, True] + [False] * 30
    assert [row["id"] for row in rows[:4]] == ["1", "2", "", "4"] and rows[2]["text"] == "rude"
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == f"note: {tmp_path / 'a.csv'}, row 3: text is empty; it must be a non-empty text"
    assert len(notes) == 11 and notes[10] == "note: 32 of 34 rows have no prediction"


def test_nothing_is_written_where_nothing_can_be_predicted(folder, tmp_path):
    path, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"text": ""}\n' * 30, encoding="utf-8")
    assert problem(folder, "--file", path, "--output", output) == f"{path}: none of its 30 rows can be read"
    path.write_text("[]\n" * 3, encoding="utf-8")
    assert problem(folder, "--file", path, "--output", output) == f"{path}: none of its 3 rows can be read"
    path.write_text('{"text": ""}\n', encoding="utf-8")
    assert "has no column words; it has text" in problem(folder, "--file", path, "--text_column", "words")
    path.write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    assert f"{path}, row 2: is not UTF-8" in problem("nowhere", "--file", path, "--output", output)
    path.write_text('{"text": "a"}\n', encoding="utf-8")
    arguments = [folder, "--file", path, "--output", tmp_path / "none" / "a.jsonl"]
    result = run_command(*arguments, cwd=tmp_path, module="mingpt.predict")
    assert_refused(result, f"error: {tmp_path}/none/", "No such file or directory")
    assert "same suffix" in problem(folder, "--file", path, "--output", tmp_path / "a.csv")
    assert "--text or --file" in problem(folder) and "at least 1 character" in problem(folder, "--text", "")
    assert list(tmp_path.iterdir()) == [path]


def test_models_of_other_tasks_are_refused(tmp_path):
    for name, settings in (("a", "regression"), ("b", "multi_label_classification")):
        save(tmp_path / name, num_labels=3, problem_type=settings)
        assert "is not a model of --task classify or regress" in problem(tmp_path / name, "--text", "abc")
    save(tmp_path / "c", kind=GPT2LMHeadModel)
    assert_refused(run_command("c", "--text", "abc", cwd=tmp_path, module="mingpt.predict"), "c: is not a model of")


def test_a_large_file_is_streamed_and_a_closed_pipe_ends_it_quietly(folder, tmp_path):
    with open(tmp_path / "t.csv", "w", encoding="utf-8") as file:
        file.write("text,größe\n")
        file.writelines("so kind and so warm,5\n" for _ in range(20_000))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}  # the output is UTF-8 anyway
    arguments = command(folder, "--file", tmp_path / "t.csv", module="mingpt.predict")
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    with subprocess.Popen(arguments, env=environment, **pipe) as process:
        assert process.stdout.readline() == '"text","größe","prediction","probability"\n'
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 0
