"""The settings of a run: what was asked for, over the defaults of the data, optimizer, fine-tuning and task.

resolve(asked, facts) -> config       once per run; the result is frozen and complete
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mingpt.config import OPTIMIZER_DEFAULTS, Architecture, GPTConfig, Training
from mingpt.errors import UserError
from mingpt.settings import format_value
from mingpt.tasks.base import Task

# Fine-tuning changes a trained model little: a few epochs of AdamW with early stopping.
FINE_TUNING: dict[str, Any] = dict(optimizer="adamw", batch_size=8, patience=3)
FINE_TUNING_WARMUP = 0.1  # fraction of max_iters
FINE_TUNING_EPOCHS = 3
# The optimizer's learning rate from scratch times this over n_embd: AdamW's optimum falls with the width (Yang et al.
# 2022, "Tensor Programs V"), and at GPT-2's 768 channels this gives the usual 5e-5.
FINE_TUNING_SCALE = 12.8
LORA_SCALE = 10  # of the learning rate, relative to fine-tuning all weights
# Tokens from which attention is fused by default on a CPU, where the backward pass of the fused kernel is slow in
# bfloat16 (tests/benchmarks/LOG.md); it takes less memory, too.
FUSED_FROM = {"float32": 128, "bfloat16": 512}

TASK_SETTINGS = ("label_smoothing", "class_weights", "text_column", "label_column")  # each used by some tasks only
FREE_IN_FINE_TUNING = ("dropout", "attention")  # architecture that the weights do not depend on


@dataclass(frozen=True)
class Facts:
    """What the task, the data, the model to start from and the machine say."""

    task: type[Task]
    examples: int | None = None  # in the training part; None: `tokens` in windows of block_size
    tokens: int = 0
    from_data: dict[str, Any] = field(default_factory=dict)  # defaults that depend on the data
    base: GPTConfig | None = None  # of the model to start from
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1


T = TypeVar("T", bound=Training)


def resolve(asked: T, facts: Facts) -> T:
    """The complete settings of a run.

    In order, each over the one before: the defaults of the fields, of the task, of the data, of fine-tuning, of the
    optimizer, and what was asked for. Raises UserError where the task or the model to start from does not allow it.

    >>> from mingpt.config import TrainConfig
    >>> from mingpt.tasks.text import TextTask
    >>> resolve(TrainConfig(optimizer="sgd"), Facts(TextTask)).momentum
    0.9
    """
    given = asked.given()
    if problems := find_problems(asked, given, facts):
        raise UserError(*problems)
    values: dict[str, Any] = dict(asked) | {"loss": facts.task.losses[0]} | facts.task.defaults | facts.from_data
    if facts.base:  # which brings its architecture and its tokenizer
        values |= {name: getattr(facts.base, name) for name in Architecture.model_fields} | FINE_TUNING
        values |= {"tokenizer": None, "vocab_size": None}
    values |= given
    if "attention" not in given:
        context = facts.base.block_size if facts.base else values["block_size"]  # the model's, not that of the windows
        is_long = facts.device == "cpu" and context >= FUSED_FROM[facts.dtype]
        values["attention"] = "fused" if is_long or facts.device == "cuda" else "explicit"
    if values["tokenizer"] != "bpe" and "vocab_size" not in given:
        values["vocab_size"] = None
    optimizer = OPTIMIZER_DEFAULTS[values["optimizer"]]
    max_iters = values["max_iters"] or default_max_iters(values, facts)
    learning_rate = values["learning_rate"] or default_learning_rate(values, facts)
    warmup = FINE_TUNING_WARMUP if facts.base else optimizer["warmup"]
    derived = optimizer | {
        "max_iters": max_iters,
        "eval_interval": max(10, math.ceil(max_iters / 20)),
        "learning_rate": learning_rate,
        "min_learning_rate": learning_rate / 10,
        "warmup_iters": round(warmup * max_iters),
        "threads": facts.threads,
    }
    if values["optimizer"] == "muon" and not facts.base:
        derived["weight_decay"] = facts.task.muon_weight_decay
    values |= {name: derived[name] for name in values.keys() & derived.keys() if values[name] is None}
    return type(asked)(**values | {"device": facts.device, "dtype": facts.dtype})


def find_problems(asked: Training, given: dict[str, Any], facts: Facts) -> list[str]:
    """What was asked for and contradicts the task or the model to start from.

    block_size may be shorter than the model's: the windows are then shorter, and the model keeps its positions.
    """
    unused = {*TASK_SETTINGS} - {*facts.task.uses}
    problems = [f"--{name}: is not used by --task {asked.task}" for name in TASK_SETTINGS if name in unused & {*given}]
    if asked.loss is not None and asked.loss not in facts.task.losses:
        accepted = ", ".join(facts.task.losses)
        problems.append(f"--loss {asked.loss}: does not fit --task {asked.task}, which accepts {accepted}")
    if facts.base is None:
        return problems
    for name, value in given.items():
        own = getattr(facts.base, name, None)
        is_fixed = name in Architecture.model_fields and name not in FREE_IN_FINE_TUNING
        if is_fixed and (value > own if name == "block_size" else value != own):
            problems.append(f"--{name} {format_value(value)}: the model in --init_from has {format_value(own)}")
        if name in ("tokenizer", "vocab_size"):
            problems.append(f"--{name} {value}: the model in --init_from has its own tokenizer")
    return problems


def default_max_iters(values: dict[str, Any], facts: Facts) -> int:
    if facts.base is None and facts.task.max_iters is not None:
        return facts.task.max_iters
    examples = facts.tokens // values["block_size"] if facts.examples is None else facts.examples
    updates_per_epoch = max(1, math.ceil(examples / values["batch_size"]))
    if facts.base is not None:
        return FINE_TUNING_EPOCHS * updates_per_epoch
    return max(facts.task.min_iters, facts.task.epochs * updates_per_epoch)


def default_learning_rate(values: dict[str, Any], facts: Facts) -> float:
    learning_rate = OPTIMIZER_DEFAULTS[values["optimizer"]]["learning_rate"]
    if facts.base is None:
        return learning_rate * facts.task.learning_rate_scale
    scale = FINE_TUNING_SCALE / facts.base.n_embd * (LORA_SCALE if values["lora_rank"] else 1)
    return float(f"{learning_rate * scale:.2g}")
