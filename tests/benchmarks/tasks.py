"""What the tasks reach on the data that ship, beside what else one would use on the same rows.

    python tests/benchmarks/tasks.py [--seeds 3] [--data data/reviews.csv] [--only classify,regress,chat]

Each seed holds out another tenth. classify: accuracy beside TF-IDF with logistic regression, and beside transformers'
GPT2ForSequenceClassification of our size, tokens and rows in a plain loop of AdamW for as many seconds as ours
took. regress: RMSE beside ridge regression on TF-IDF. chat: the loss on the assistant's tokens before and after,
and twenty answers for a person to read.
"""

from __future__ import annotations

import argparse
import itertools
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

from mingpt.config import TrainConfig, resolve
from mingpt.data import labelled
from mingpt.device import on_this_machine
from mingpt.finetune import with_defaults, with_updates
from mingpt.model import GPT
from mingpt.run import Run
from mingpt.tasks import Task, new_task
from mingpt.trainer import State, train

ROOT = Path(__file__).parents[2]
ANSWERS = 20


def learned(place: Path, **asked: Any) -> tuple[Task, State, GPT, float]:
    """A run as `python train.py` makes it: its task, its state, the best model, and its seconds."""
    asked = with_defaults(TrainConfig(**asked), set(asked))
    config = on_this_machine(resolve(asked))
    began = time.perf_counter()
    task = new_task(config)
    config = on_this_machine(resolve(with_updates(asked, task)))
    state = State(config, task.model_config())
    run = Run.create(str(place), "")
    run.save_settings(config, task)
    for _ in train(config, task, run, state):
        pass
    seconds = time.perf_counter() - began
    run.close()
    return task, state, GPT.from_pretrained(place), seconds


def texts_and_targets(task: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The rows as the task has them, and which of them are held out."""
    examples = labelled.read_examples(Path(task.config.data), task.config.text_column, task.column, task.value)
    is_held_out = np.zeros(len(examples), dtype=bool)
    is_held_out[task.held_out] = True
    return [example.text for example in examples], np.array([example.target for example in examples]), is_held_out


def linear(task: Any, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a linear model on TF-IDF predicts for the held-out rows, and the truth."""
    texts, targets, is_held_out = texts_and_targets(task)
    table = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    learned_from = [text for text, held in zip(texts, is_held_out, strict=True) if not held]
    others = [text for text, held in zip(texts, is_held_out, strict=True) if held]
    model.fit(table.fit_transform(learned_from), targets[~is_held_out])
    return model.predict(table.transform(others)), targets[is_held_out]


def plain_transformers(task: Any, shape: Any, seconds: float) -> float:
    """The held-out accuracy of transformers' own module after as many seconds of AdamW; the best of its evaluations."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(task.config.seed)
    config = GPT2Config(
        vocab_size=shape.vocab_size, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer
    )
    config.n_head, config.num_labels, config.pad_token_id = shape.n_head, shape.num_labels, task.pad
    config.bos_token_id = config.eos_token_id = None
    model = GPT2ForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    began, step, best = time.perf_counter(), 0, 0.0
    while time.perf_counter() - began < seconds:
        model.train()
        epoch, place = divmod(step, task.updates_in_epoch())
        idx, _, targets = map(torch.from_numpy, task.data.side_by_side(task.data.order(task.config.seed, epoch)[place]))
        F.cross_entropy(model(idx).logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % task.updates_in_epoch() == 0:
            model.eval()
            with torch.no_grad():
                parts = [(model(torch.from_numpy(i)).logits, t) for i, _, t in task.data.in_order(task.held_out)]
            right = sum(int((scores.argmax(-1).numpy() == targets).sum()) for scores, targets in parts)
            best = max(best, right / len(task.held_out))
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


def chat(options: argparse.Namespace, place: Path) -> None:
    from mingpt.streaming import answer

    task, state, model, seconds = learned(place / "chat", task="chat", data=str(ROOT / "data" / "support.jsonl"))
    fresh = State(task.config, task.model_config())
    before = task.evaluate(fresh.averaged, "cpu")["val_loss"]
    after = min(row["val_loss"] for row in state.metrics)
    losses = f"{before:.3f} before, {after:.3f} after"
    print(f"chat: loss on the assistant's tokens {losses}; {seconds:.0f} s")
    for messages, ids in itertools.islice(task.questions(model.config.block_size // 2), ANSWERS):
        _, parts = answer(model, task.tokenizer, ids, 80, seed=0, temperature=0.7)
        print(f"\n  > {messages[-1]['content']}\n  {''.join(parts).strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=str(ROOT / "data" / "reviews.csv"))
    parser.add_argument("--only", default="classify,regress,chat")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for part in options.only.split(","):
            {"classify": classify, "regress": regress, "chat": chat}[part](options, Path(name))


if __name__ == "__main__":
    main()
