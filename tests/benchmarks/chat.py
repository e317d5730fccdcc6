"""Whether a chat from random weights makes sense.

    python tests/benchmarks/chat.py [--seeds 3] [--questions FILE] [--data shop] [--transformers]

Trains as `python train.py --task chat` does, and prints the seconds and the accuracy on each held-out part. The model
of seed 0 answers the questions of FILE, {"system": ..., "questions": [...], "conversations": [[...]]}; its answers are
written to FILE's name with _answers, for a person to judge each from question and answer alone. With --transformers,
GPT2LMHeadModel of the same shape is trained beside it: the same batches, in a plain loop of AdamW, for as many seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from mingpt.config import TrainConfig  # noqa: E402
from mingpt.data.dialogue import encode_prompt  # noqa: E402
from mingpt.files import read_json, write_json  # noqa: E402
from mingpt.model import GPT  # noqa: E402
from mingpt.run import Run, start  # noqa: E402
from mingpt.tasks.answers import answer_greedily  # noqa: E402
from mingpt.trainer import train  # noqa: E402

QUESTIONS = Path(__file__).with_name("chat_questions.json")


def learn(place: Path, **asked: Any) -> tuple[Run, GPT, float]:
    """A run as `python train.py` makes it, its best model, and its seconds of training."""
    run = start(TrainConfig(task="chat", out_dir=str(place), **asked))
    for row in train(run.config, run.task, run.folder, run.state):
        print(f"  {row['step']:>6} {row['seconds']:>6.0f} s  {row['bits_per_byte']:.4f} bits per byte", flush=True)
    return run, GPT.from_pretrained(place), run.state.progress.seconds


def accuracies(run: Run, model: GPT) -> dict[str, dict[str, float]]:
    parts = dict.fromkeys(question.part for question in run.task.questions)
    return {part: run.task.score(model, [q for q in run.task.questions if q.part == part]) for part in parts}


def plain_transformers(run: Run, seconds: float) -> GPT:
    """transformers' own module, trained on the same batches for as many seconds; its weights in our module."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = run.state.model.config
    torch.manual_seed(run.config.seed)
    sizes = dict(n_embd=shape.n_embd, n_layer=shape.n_layer, n_head=shape.n_head, n_positions=shape.block_size)
    config = GPT2Config(vocab_size=shape.vocab_size, **sizes, bos_token_id=None, eos_token_id=None)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    theirs = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        x, y, mask, _ = map(torch.from_numpy, run.task.batch(step))
        F.cross_entropy(theirs(x).logits[mask], y[mask]).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    print(f"transformers: {step:,} updates")
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return GPT.from_pretrained(folder)


def answer_questions(run: Run, model: GPT, path: Path) -> None:
    """Answer each question as the first of a conversation, and hold the conversations."""
    asked = read_json(path)
    system = {"role": "system", "content": asked["system"]}

    def reply(*spoken: str) -> str:
        roles = ("user", "assistant") * len(spoken)
        messages = [system, *({"role": role, "content": text} for role, text in zip(roles, spoken, strict=False))]
        prompt, _ = encode_prompt(run.task.tokenizer, messages, run.task.max_prompt)
        return answer_greedily(model, run.task.tokenizer, [prompt])[0]

    answers = [{"question": question, "answer": reply(question)} for question in asked["questions"]]
    conversations = []
    for messages in asked["conversations"]:
        spoken: list[str] = []
        for message in messages:
            spoken += [message, reply(*spoken, message)]
        conversations.append(spoken)
    written = {"system": asked["system"], "answers": answers, "conversations": conversations}
    write_json(path.with_name(f"{path.stem}_answers.json"), written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="shop")
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--transformers", action="store_true")
    options = parser.parse_args()
    tables: dict[str, list[dict[str, dict[str, float]]]] = {"ours": [], "transformers": []}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.seeds):
            run, model, seconds = learn(Path(name, str(seed)), data=options.data, seed=seed)
            print(f"seed {seed}: {seconds:.0f} s, {run.config.max_iters:,} updates, {run.config.threads} threads")
            tables["ours"].append(accuracies(run, model))
            if seed == 0:
                answer_questions(run, model, options.questions)
            if options.transformers:
                tables["transformers"].append(accuracies(run, plain_transformers(run, seconds)))
            run.folder.close()
    for arm, runs in tables.items():
        for part in runs[0] if runs else ():
            values = {key: [run[part][key] for run in runs] for key in runs[0][part]}
            means = "  ".join(f"{key} {statistics.mean(each):.3f} {each}" for key, each in values.items())
            print(f"{arm:13}{part:11}{means}")


if __name__ == "__main__":
    main()
