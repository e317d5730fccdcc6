"""What the tasks reach on the data that ship, beside what else one would use on the same rows.

    python tests/benchmarks/tasks.py [--seeds 3] [--data data/reviews.csv] [--only classify,regress]

Each seed holds out another tenth. classify: accuracy beside TF-IDF with logistic regression, and beside transformers'
GPT2ForSequenceClassification of our size, tokens and rows in a plain loop of AdamW for as many seconds as ours
took. regress: RMSE beside ridge regression on TF-IDF.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from mingpt.config import TrainConfig
from mingpt.data.examples import Examples
from mingpt.model import GPT
from mingpt.run import start
from mingpt.tasks.base import Task
from mingpt.trainer import State, train

ROOT = Path(__file__).parents[2]


def learned(place: Path, **asked: Any) -> tuple[Task, State, GPT, float]:
    """A run as `python train.py` makes it: its task, its state, the best model, and its seconds."""
    began = time.perf_counter()
    run = start(TrainConfig(**asked, out_dir=str(place)))
    for _ in train(run.config, run.task, run.folder, run.state):
        pass
    seconds = time.perf_counter() - began
    run.folder.close()
    return run.task, run.state, GPT.from_pretrained(place), seconds


def linear(task: Any, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a linear model on TF-IDF predicts for the validation part, and the truth."""
    parts = [task.data.train, task.data.validation]
    texts = [[task.tokenizer.decode(ids) for ids, _ in part] for part in parts]
    targets = [np.array([target for _, target in part]) for part in parts]
    table = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model.fit(table.fit_transform(texts[0]), targets[0])
    return model.predict(table.transform(texts[1])), targets[1]


def plain_transformers(task: Any, shape: Any, seconds: float) -> float:
    """The held-out accuracy of transformers' own module after as many seconds of AdamW; the best of its evaluations."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(task.config.seed)
    config = GPT2Config(
        vocab_size=shape.vocab_size, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer
    )
    config.n_head, config.num_labels, config.pad_token_id = shape.n_head, shape.num_labels, task.pad_id
    config.bos_token_id = config.eos_token_id = None
    model = GPT2ForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    examples = Examples(task.train.examples, task.config.batch_size, task.pad_id)  # without token dropout
    began, step, best = time.perf_counter(), 0, 0.0
    while time.perf_counter() - began < seconds:
        model.train()
        x, y, mask, _ = map(torch.from_numpy, examples.batch(task.config.seed, step))
        F.cross_entropy(model(x).logits, y[mask]).backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % examples.sampler.batches == 0:
            model.eval()
            right = 0
            for batch in task.validation.batches(task.config.batch_size):
                x, y, mask, _ = map(torch.from_numpy, batch)
                with torch.no_grad():
                    right += int((model(x).logits.argmax(-1) == y[mask]).sum())
            best = max(best, right / len(task.data.validation))
    return best


def classify(options: argparse.Namespace, place: Path) -> None:
    rows = []
    for seed in range(options.seeds):
        task, state, model, seconds = learned(place / f"c{seed}", task="classify", data=options.data, seed=seed)
        best = next(row for row in state.metrics if row["step"] == state.progress.best_step)
        predicted, truth = linear(task, LogisticRegression(C=10, max_iter=1000))
        theirs = plain_transformers(task, model.config, seconds)
        rows.append((best["accuracy"], best["macro_f1"], float((predicted == truth).mean()), theirs, seconds))
    ours, macro_f1, tfidf, theirs, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
    print(f"classify, mean of {options.seeds} held-out tenths: accuracy {ours:.3f} (macro-F1 {macro_f1:.3f})")
    print(
        f"  TF-IDF and logistic regression {tfidf:.3f}; transformers in a plain loop {theirs:.3f}; {seconds:.0f} s each"
    )


def regress(options: argparse.Namespace, place: Path) -> None:
    rows = []
    for seed in range(options.seeds):
        task, state, _, seconds = learned(place / f"r{seed}", task="regress", data=options.data, seed=seed)
        best = next(row for row in state.metrics if row["step"] == state.progress.best_step)
        predicted, truth = linear(task, Ridge(alpha=1.0))
        rows.append((best["rmse"], best["r2"], float(np.sqrt(((predicted - truth) ** 2).mean())), seconds))
    ours, r2, ridge, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
    print(f"regress, mean of {options.seeds} held-out tenths: RMSE {ours:.3f} (R2 {r2:.3f})")
    print(f"  TF-IDF and ridge regression {ridge:.3f}; {seconds:.0f} s each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=str(ROOT / "data" / "reviews.csv"))
    parser.add_argument("--only", default="classify,regress")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for part in options.only.split(","):
            {"classify": classify, "regress": regress}[part](options, Path(name))


if __name__ == "__main__":
    main()
