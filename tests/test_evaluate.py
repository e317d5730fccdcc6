"""python -m mingpt.evaluate against the model itself, against scikit-learn, and against what training reported."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_in_process
from serving import models  # noqa: F401, a fixture
from sklearn.metrics import accuracy_score, f1_score, root_mean_squared_error

from mingpt import GPT, load_tokenizer
from mingpt.data.dialogue import encode_dialogue

pytestmark = pytest.mark.xdist_group("serve")


def evaluate(models, *arguments) -> dict[str, float]:  # noqa: F811
    result = run_in_process(*arguments, cwd=models, module="mingpt.evaluate")
    assert result.returncode == 0, result.stderr
    rows = [line.rsplit(maxsplit=1) for line in result.stdout.splitlines()]
    return {name.strip(): float(value.replace(",", "")) for name, value in rows}


@torch.no_grad()
def test_a_text_is_read_in_windows_and_each_token_counts_once(models):  # noqa: F811
    text = (models / "fox.txt").read_text(encoding="utf-8")[:1000]
    (models / "thousand.txt").write_text("\ufeff" + text, encoding="utf-8")
    model, tokenizer = GPT.from_pretrained(models / "out/fox"), load_tokenizer(models / "out/fox")
    ids = torch.tensor(tokenizer.encode(text))
    nats = 0.0
    for start in range(0, 999, 64):
        window = ids[start : start + 65]
        nats -= model(window[None, :-1])[0].log_softmax(-1)[range(len(window) - 1), window[1:]].sum().item()
    metrics = evaluate(models, "out/fox", "--data", "thousand.txt")
    assert metrics == {
        "tokens": 999,
        "nll": pytest.approx(nats / 999, rel=1e-4),
        "perplexity": pytest.approx(math.exp(nats / 999), rel=1e-4),
        "bits_per_byte": pytest.approx(nats / 999 / math.log(2), rel=1e-4),  # a character is a byte here
    }


@torch.no_grad()
def test_of_dialogues_the_answers_count(models):  # noqa: F811
    lines = (models / "talk.jsonl").read_text(encoding="utf-8").splitlines()[:7]
    (models / "seven.jsonl").write_text("\n".join(lines), encoding="utf-8")
    model, tokenizer = GPT.from_pretrained(models / "out/talk"), load_tokenizer(models / "out/talk")
    nats, tokens = 0.0, 0
    for line in lines:
        ids, mask = encode_dialogue(tokenizer, json.loads(line)["messages"])
        logprobs = model(torch.tensor(ids[None, :-1]))[0].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        nats -= logprobs[torch.tensor(mask[1:])].sum().item()
        tokens += int(mask.sum())
    metrics = evaluate(models, "out/talk", "--data", "seven.jsonl")
    assert metrics["tokens"] == tokens and metrics["nll"] == pytest.approx(nats / tokens, rel=1e-4)


def test_tables_have_the_metrics_of_scikit_learn_on_the_predictions(models):  # noqa: F811
    head = (models / "rows.csv").read_text(encoding="utf-8").splitlines()[:18]
    (models / "few.csv").write_text("\n".join(head), encoding="utf-8")
    rows = list(csv.DictReader(head))
    for name, column in (("rows", "label"), ("stars", "rating")):
        done = run_in_process(f"out/{name}", "--file", "few.csv", cwd=models, module="mingpt.predict")
        predicted = [row["prediction"] for row in csv.DictReader(done.stdout.splitlines())]
        metrics = evaluate(models, f"out/{name}", "--data", "few.csv")
        true = [row[column] for row in rows]
        assert metrics["rows"] == 17
        if name == "rows":
            assert metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted), rel=1e-5)
            assert metrics["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"), rel=1e-5)
        else:
            error = root_mean_squared_error(np.array(true, float), np.array(predicted, float))
            assert metrics["rmse"] == pytest.approx(error, rel=1e-4)


def test_the_best_checkpoint_has_the_metrics_that_its_run_reported(models):  # noqa: F811
    text = (models / "fox.txt").read_text(encoding="utf-8")
    (models / "validation.txt").write_text(text[len(text) * 9 // 10 :], encoding="utf-8")
    rows = [json.loads(line) for line in (models / "out/fox/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = min(row["bits_per_byte"] for row in rows)
    assert evaluate(models, "out/fox", "--data", "validation.txt")["bits_per_byte"] == pytest.approx(best, rel=1e-4)


def test_wrong_data_is_a_line(models):  # noqa: F811
    def refused(*arguments):
        return run_in_process(*arguments, cwd=models, module="mingpt.evaluate")

    (models / "other.csv").write_text("text,label\na b,good\nc d,awful\n", encoding="utf-8")
    (models / "one.txt").write_text("a", encoding="utf-8")
    assert_refused(
        refused("out/rows", "--data", "other.csv"), "other.csv: has the label awful, the model has bad, good"
    )
    assert_refused(refused("out/fox"), "--data: is missing")
    assert_refused(refused("out/fox", "--data", "one.txt"), "--data one.txt: has 1 characters; at least 20 are needed")
    assert_refused(refused("out/fox", "--data", "no.txt"), "--data no.txt: no such file")
    (models / "chinese.txt").write_text("\u4e2d\u6587" * 20, encoding="utf-8")
    assert_refused(refused("out/fox", "--data", "chinese.txt"), "chinese.txt", "U+4E2D")
    assert_refused(refused("out/talk", "--data", "rows.csv"), "rows.csv: is not a .jsonl file")
    assert_refused(refused("out/rows", "--data", "rows.csv", "--text_column", "words"), "has no column words")
