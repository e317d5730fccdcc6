"""Text classification: what is learned and held out, the folder in transformers, tables that are refused."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MACHINE, random_model, read_metrics, train
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2ForSequenceClassification, pipeline

from mingpt import GPT, trainer
from mingpt.config import TrainConfig
from mingpt.data.tokenizer import TOKENIZERS, load_tokenizer
from mingpt.errors import UserError
from mingpt.resolve import resolve
from mingpt.run import load_task, read_facts, start
from mingpt.tasks.classify import split

WORDS = {"yes, again": ("good", "fine", "warm", "kind"), "no": ("bad", "cold", "rude", "late")}
SMALL = dict(n_layer=1, n_head=2, n_embd=32, block_size=32, vocab_size=300)


def write_reviews(path, count=160):
    """Texts whose words decide label and rating, with quotes, commas and line breaks."""
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "rating", "id"])
        for i in range(count):
            label = "yes, again" if i % 3 else "no"
            text = f'The soup was {rng.choice(WORDS[label])}, "{rng.choice(WORDS[label])}"\nand so was visit {i}'
            writer.writerow([text, label, 4.5 if i % 3 else 1.5, i])
    return path


def make_task(name, path, **settings):
    asked = TrainConfig(task=name, data=str(path), **settings)
    data, facts = read_facts(asked)
    return load_task(name)(resolve(asked, facts), data)


def fit(name, path, **settings):
    """The task of a complete run in this process."""
    run = start(TrainConfig(task=name, data=str(path), device="cpu", dtype="float32", threads=1, **settings))
    for _ in trainer.train(run.config, run.task, run.folder, run.state):
        pass
    return run.task


def assert_equal_scores(folder, task):
    """Of the folder's model here and in transformers, for the texts of the validation part."""
    theirs = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    ours, pad = GPT.from_pretrained(folder), theirs.config.pad_token_id
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == pad == task.pad_id
    for x, _, mask, _ in task.validation.batches(4):
        x, mask = torch.from_numpy(x), torch.from_numpy(mask)
        assert all(pad not in row[: int(m.nonzero().max()) + 1] for row, m in zip(x, mask, strict=True))
        with torch.no_grad():
            scores = ours.score(ours.hidden_states(x)[mask])
            torch.testing.assert_close(scores, theirs(x).logits, rtol=1e-4, atol=1e-4)
    return theirs.config


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A folder with a table and a run in `out` that has learned it; and what the run printed."""
    folder = tmp_path_factory.mktemp("classify")
    write_reviews(folder / "soup.csv")
    flags = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    options = ["--max_iters", 80, "--eval_interval", 40, "--out_dir", "out", *MACHINE]
    return folder, train(folder, "--task", "classify", "--data", "soup.csv", *flags, *options)


def test_it_learns_and_reports_a_confusion_matrix(run):
    folder, printed = run
    assert read_metrics(folder / "out")[-1]["accuracy"] == read_metrics(folder / "out")[-1]["macro_f1"] == 1.0
    assert "144 texts for training, 16 for validation" in printed and "2 classes (yes, again " in printed
    assert "validation part: confusion matrix (rows: true class, columns: predicted)" in printed
    assert "no               5           0\n" in printed and "yes, again       0          11\n" in printed
    assert "python -m mingpt.predict out --file soup.csv --output predictions.csv\n" in printed


def test_transformers_opens_the_folder_with_equal_scores_and_reads_the_end_of_a_long_text(run):
    folder = run[0] / "out"
    config = assert_equal_scores(folder, make_task("classify", run[0] / "soup.csv", **SMALL))
    assert config.id2label == {0: "no", 1: "yes, again"} and config.problem_type == "single_label_classification"
    assert config.task_specific_params["mingpt"] == {"task": "classify", "text_column": "text"}
    classify = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    model, tokenizer = GPT.from_pretrained(folder), load_tokenizer(folder)
    text = "The soup was bad, rude, cold. " * 9 + "good, fine <|pad|>"
    ids = torch.tensor(tokenizer.encode(text)[-32:])
    with torch.no_grad():
        expected = model.score(model.hidden_states(ids[None])[0, -1]).softmax(dim=-1)
    scores = {result["label"]: result["score"] for result in classify([text], truncation=True)[0]}
    assert [scores["no"], scores["yes, again"]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_loss_is_that_of_each_text_alone_with_and_without_class_weights(run):
    path = run[0] / "soup.csv"
    plain, weighted = (
        make_task("classify", path, **SMALL, class_weights=value, batch_size=12) for value in (False, True)
    )
    short = make_task("classify", path, **SMALL | {"block_size": 8})
    for example, (ids, _) in zip(short.train.examples, short.data.train, strict=True):
        assert np.array_equal(example.ids, ids[-8:])  # the end of a long text
    model = random_model(vocab_size=plain.tokenizer.vocab_size, block_size=32, num_labels=2)
    counts = np.bincount([plain.classes[label] for _, label in plain.data.train])
    for task, w in ((plain, None), (weighted, torch.tensor(144 / (2 * counts), dtype=torch.float32))):
        batch = [torch.from_numpy(part) for part in task.batch(3)]
        losses = []
        for row, y, mask in zip(*batch[:3], strict=True):
            last = int(mask.nonzero().squeeze())
            scores = model.score(model.hidden_states(row[None, : last + 1])[:, -1])
            losses.append(F.cross_entropy(scores, y[last : last + 1], w, reduction="none"))
        torch.testing.assert_close(task.loss(model, *batch), torch.cat(losses).mean(), rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=200), st.integers(0, 2**31 - 1))
def test_a_tenth_of_each_class_is_held_out(classes, seed):
    train_part, validation = split(np.array(classes), seed)
    assert sorted([*train_part, *validation]) == list(range(len(classes))) and len(validation)
    for k in set(classes):
        count, held_out = classes.count(k), sum(classes[i] == k for i in validation)
        assert count // 10 <= held_out <= -(-count // 10) - (count == 1)
    assert np.array_equal(split(np.array(classes), seed)[1], validation)


def test_fine_tuning_with_low_rank_adapters(run, monkeypatch):
    monkeypatch.chdir(run[0])
    tokenizer = TOKENIZERS["byte"]([], [], None)
    random_model(vocab_size=tokenizer.vocab_size, block_size=64, n_embd=32, n_head=2).save_pretrained("base")
    tokenizer.save("base")
    task = fit("classify", "soup.csv", init_from="base", lora_rank=2, max_iters=60, learning_rate=0.01, out_dir="tuned")
    assert task.train.token_dropout == 0 and read_metrics(Path("tuned"))[-1]["accuracy"] > 0.6
    assert assert_equal_scores("tuned", task).n_embd == 32


@pytest.mark.parametrize(
    ("content", "settings", "problem"),
    [
        ("text,label\n" + "a,x\n" * 30, {}, "every row has the label x"),
        ("text,label\n" + "".join(f"a,{i}\n" for i in range(30)), {}, "no two rows have the same label"),
        ("text,label\na,1\nb,two\n", dict(task="regress"), "t.csv, row 3: label is two"),
        ("text,label\n" + "a,x\nb,y\n" * 30, dict(loss="mse"), "--loss mse: does not fit --task classify"),
    ],
)
def test_what_cannot_be_learned_is_one_line(tmp_path, content, settings, problem):
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=problem) as caught:
        make_task(settings.pop("task", "classify"), tmp_path / "t.csv", **settings)
    assert len(caught.value.problems) == 1
