"""Labels and numbers: the real command, the folder in transformers, the measures against scikit-learn's."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_command, train
from sklearn import metrics
from transformers import AutoTokenizer, GPT2ForSequenceClassification

from mingpt import GPT, load_tokenizer
from mingpt.config import GPTConfig, TrainConfig, resolve
from mingpt.data.labelled import LabelledData, split
from mingpt.data.tokenizer import ByteTokenizer
from mingpt.device import on_this_machine
from mingpt.files import read_json_object
from mingpt.finetune import with_defaults
from mingpt.run import Run
from mingpt.tasks import measures, new_task
from mingpt.trainer import State, Watch, evaluate

SMALL = [
    "--n_layer",
    "1",
    "--n_head",
    "2",
    "--n_embd",
    "32",
    "--block_size",
    "32",
    "--vocab_size",
    "300",
    "--threads",
    "1",
]
GOOD, BAD = ("good", "fine", "warm", "kind"), ("bad", "cold", "rude", "late")


def opinions(count: int = 160) -> list[dict[str, object]]:
    """Texts whose words say what is to be learned, with quotes, commas and line breaks in some."""
    chance = random.Random(1)
    rows = []
    for i in range(count):
        words = GOOD if i % 2 else BAD
        text = f'The soup was {chance.choice(words)}, "{chance.choice(words)}"\nand so was visit {i}'
        rows.append({"text": text, "label": "yes, again" if i % 2 else "no", "rating": 4.5 if i % 2 else 1.5, "id": i})
    return rows


def as_csv(rows: list[dict[str, object]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A table, a model that labels it in out/label, and one that values it in out/value."""
    place = tmp_path_factory.mktemp("rows")
    (place / "soup.csv").write_text(as_csv(opinions()), encoding="utf-8-sig", newline="")
    common = ["--data", "soup.csv", *SMALL, "--max_iters", "80", "--eval_interval", "40"]
    printed = train(place, "--task", "classify", *common, "--out_dir", "label")
    (place / "classify.txt").write_text(printed, encoding="utf-8")
    printed = train(place, "--task", "regress", "--loss", "huber", *common, "--out_dir", "value")
    (place / "regress.txt").write_text(printed, encoding="utf-8")
    return place


def last_row(folder) -> dict[str, float]:
    return json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def test_it_learns_and_says_how_well(place):
    printed = (place / "classify.txt").read_text(encoding="utf-8")
    assert "accuracy" in printed and "python -m mingpt.predict label" in printed
    assert last_row(place / "label")["accuracy"] == 1.0 and last_row(place / "label")["macro_f1"] == 1.0
    assert last_row(place / "value")["rmse"] < 0.5 and last_row(place / "value")["r2"] > 0.8
    assert "RMSE" in (place / "regress.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["label", "value"])
def test_transformers_opens_the_folder_with_equal_scores(place, name):
    theirs = GPT2ForSequenceClassification.from_pretrained(place / name).eval()
    ours, tokenizer = GPT.from_pretrained(place / name), load_tokenizer(place / name)
    settings = read_json_object(place / name / "config.json")
    pad = settings["pad_token_id"]
    assert theirs.config.pad_token_id == pad and AutoTokenizer.from_pretrained(place / name).pad_token_id == pad
    texts = [row["text"] for row in opinions(7)]
    ids = [tokenizer.encode(text)[-32:] for text in texts]
    assert all(pad not in row for row in ids)
    idx = torch.tensor([row + [pad] * (32 - len(row)) for row in ids])
    last = torch.tensor([len(row) - 1 for row in ids])
    with torch.no_grad():
        torch.testing.assert_close(ours.scores(idx, last), theirs(idx).logits, rtol=1e-4, atol=1e-4)
    if name == "label":
        assert theirs.config.id2label == {0: "no", 1: "yes, again"}
        assert theirs.config.problem_type == "single_label_classification"
    else:
        assert theirs.config.problem_type == "regression"
        assert 2.5 < settings["target_mean"] < 3.5 and 1.4 < settings["target_std"] < 1.6


def test_the_measures_are_those_of_scikit_learn():
    chance = np.random.default_rng(0)
    truth, said = chance.integers(0, 3, 200), chance.integers(0, 3, 200)
    n = measures.confusion(truth, said, 3)
    assert np.array_equal(n, metrics.confusion_matrix(truth, said))
    found = measures.of_classes(n)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    targets, values = chance.normal(size=100), chance.normal(size=100)
    found = measures.of_numbers(targets, values)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(targets, values))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(targets, values))
    assert found["r2"] == pytest.approx(metrics.r2_score(targets, values))
    assert found["correlation"] == pytest.approx(np.corrcoef(targets, values)[0, 1])


def test_a_tenth_of_each_class_is_held_out_another_for_each_seed():
    strata = np.array([0] * 200 + [1] * 50 + [2] * 10)
    learned, held_out = split(strata, seed=0)
    assert sorted([*learned, *held_out]) == list(range(260))
    assert [int((strata[held_out] == k).sum()) for k in range(3)] == [20, 5, 1]
    assert set(split(strata, seed=1)[1]) != set(held_out)
    assert np.array_equal(split(strata, seed=0)[1], held_out)


def test_a_batch_is_a_function_of_seed_and_step_and_each_text_comes_once_in_an_epoch(place):
    asked = dict(task="classify", data=str(place / "soup.csv"), vocab_size=300, batch_size=8, tokenizer="bpe")
    task = new_task(resolve(with_defaults(TrainConfig(**asked), set(asked))))
    again = new_task(resolve(with_defaults(TrainConfig(**asked), set(asked))))
    for step in (0, 5, 17, 40):
        for one, other in zip(task.batch(step), again.batch(step), strict=True):
            assert torch.equal(one, other)
    seen = [tuple(row[: last + 1].tolist()) for step in range(task.updates_in_epoch()) for row, last in zip(
        task.batch(step)[0], task.batch(step)[1], strict=True)]  # fmt: skip
    assert len(set(seen)) >= 0.9 * len(seen)


def test_updates_from_scratch_leave_tokens_out_and_evaluations_do_not():
    texts = [np.arange(2 + 40 * i, 2 + 40 * i + 30 + i) for i in range(40)]
    data = LabelledData(texts, np.arange(40), np.arange(40), batch_size=8, pad=0, token_dropout=0.25)
    kept = total = 0
    for step in range(data.batches):
        for row, last, number in zip(*data.batch(3, step), strict=True):
            ids = row[: last + 1]
            assert (np.diff(ids) > 0).all() and set(ids) <= set(texts[number]) and not row[last + 1 :].any()
            kept, total = kept + len(ids), total + len(texts[number])
    assert 0.7 < kept / total < 0.8
    whole = [
        row[: last + 1].tolist() for batch in data.in_order(np.arange(40)) for row, last, _ in zip(*batch, strict=True)
    ]
    assert sorted(whole) == [text.tolist() for text in texts]
    data.token_dropout = 0.999
    assert (data.batch(0, 0)[1] >= 0).all()  # a token of each is left


def test_the_model_is_kept_by_accuracy_and_a_later_one_that_is_as_good_wins(place, tmp_path):
    asked = TrainConfig(task="classify", data=str(place / "soup.csv"), n_layer=1, vocab_size=300, patience=2)
    config = on_this_machine(resolve(dataclasses.replace(asked, device="cpu", max_iters=9)))
    task = new_task(config)
    state, run = State(config, task.model_config()), Run.create(str(tmp_path / "run"), "")
    state.progress.first_loss = 1.0
    kept = []
    for step, (loss, accuracy) in enumerate([(0.5, 0.6), (0.9, 0.8), (0.4, 0.7), (0.8, 0.8), (0.3, 0.7), (0.2, 0.5)]):
        state.progress.step, state.progress.loss_count = step, 1
        task.evaluate = lambda model, device, found=(loss, accuracy): {"val_loss": found[0], "accuracy": found[1]}
        state.averaged.score.weight.data.fill_(step)
        evaluate(config, task, run, state, 0.1, Watch(0.0))
        kept.append(int(GPT.from_pretrained(run.folder).score.weight[0, 0]))
    run.close()
    assert kept == [0, 1, 1, 3, 3, 3] and state.progress.best_step == 3
    assert state.progress.is_finished(config)  # two in a row were no better


def test_a_study_goes_by_accuracy_and_its_trials_are_as_long_as_a_run(place):
    flags = [
        "--task",
        "classify",
        "--data",
        "soup.csv",
        *SMALL,
        "--search",
        "learning_rate=0.003,0.01",
        "--trials",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tune.py"), "--strategy", "grid", *flags, "--trials", "1", "--study", "s"]
    result = subprocess.run(command, cwd=place, env=environment, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "1 - accuracy, the lower the better" in result.stdout and "300 updates in each trial" in result.stdout
    (trial,) = csv.DictReader((place / "s" / "trials.csv").read_text(encoding="utf-8").splitlines())
    lines = (place / "s" / "trials" / "0000" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    best = max(json.loads(line)["accuracy"] for line in lines)
    assert float(trial["value"]) == pytest.approx(1 - best)


def test_it_starts_from_a_model_that_writes_with_small_added_matrices(place):
    torch.manual_seed(0)
    GPT(GPTConfig(vocab_size=256, n_layer=1, n_head=2, n_embd=32, block_size=32)).save_pretrained(place / "writer")
    ByteTokenizer().save(place / "writer")
    flags = ["--task", "classify", "--data", "soup.csv", "--init_from", "writer", "--max_iters", "60", "--threads", "1"]
    train(place, *flags, "--lora_rank", "2", "--learning_rate", "0.01", "--out_dir", "tuned")
    assert last_row(place / "tuned")["accuracy"] > 0.9
    theirs = GPT2ForSequenceClassification.from_pretrained(place / "tuned")
    assert theirs.config.n_embd == 32 and theirs.config.num_labels == 2


def test_a_model_that_labels_is_not_asked_to_write(place):
    result = run_command("label", "--prompt", "a", cwd=place, module="mingpt.generate")
    assert result.returncode == 2 and "python -m mingpt.predict" in result.stderr


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("text,label\n" + "a,x\n" * 30, [], "every row has the label x"),
        ("text,mood\na,x\nb,y\n", [], "label"),
        ("text,label\na,x\n,y\n", [], "row"),
        ("text,label\na,1\nb,two\n", ["--task", "regress"], "two"),
        ("text,label\na,1\nb,nan\n", ["--task", "regress"], "nan"),
        ("text,label\n" + "a,x\nb,y\n" * 30, ["--loss", "mse"], "--loss mse"),
    ],
)
def test_what_cannot_be_learned_is_one_line(tmp_path, content, options, said):
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    task = [] if "--task" in options else ["--task", "classify"]
    result = run_command(*task, *options, "--data", "t.csv", cwd=tmp_path)
    assert result.returncode == 2, result.stdout
    assert said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
