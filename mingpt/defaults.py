"""The defaults that hang on something: on the optimizer, the task, or the model that a run starts from.

A flag that is not given takes its value from here; all others have theirs beside their name, in config.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mingpt.config import Training

T = TypeVar("T", bound="Training")

# What each optimizer does best with; a flag that is left out takes its value from here. Measured
# by tests/benchmarks/optimizers.py. `warmup` is a share of max_iters. The size of Muon's updates does
# not depend on that of the gradient, so it needs neither warm-up nor clipping.
OPTIMIZERS: dict[str, dict[str, float]] = {
    "adam": dict(learning_rate=3e-3, momentum=0.0, beta1=0.9, beta2=0.99, weight_decay=0.0, grad_clip=1.0, warmup=0.05),
    "adamw": dict(
        learning_rate=3e-3, momentum=0.0, beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0, warmup=0.05
    ),
    "sgd": dict(learning_rate=0.3, momentum=0.9, beta1=0.0, beta2=0.0, weight_decay=0.0, grad_clip=1.0, warmup=0.05),
    "muon": dict(learning_rate=0.02, momentum=0.85, beta1=0.8, beta2=0.95, weight_decay=0.0, grad_clip=0.0, warmup=0.0),
}

# Fine-tuning changes a model that can already write: little, over a few passes, and stopping in time.
FINE_TUNING = dict(optimizer="adamw", batch_size=8, patience=3, attention="fused")
FINE_TUNING_WARMUP = 0.1  # of max_iters
# The learning rate of training from scratch times this, divided by the width: Adam's best one falls with the width
# (Yang et al. 2022, "Tensor Programs V"), and for GPT-2's 768 channels it is the usual 5e-5.
FINE_TUNING_RATE = 12.8
LORA_RATE = 10  # times that of fine-tuning all weights
FINE_TUNING_PASSES = 3  # over the training part
SCRATCH_ITERS = 3500  # updates of a run on text,
TRIAL_ITERS = 200  # and of each trial of a study

# What fits each task from scratch on a small set of data, for the flags that are not given (tests/benchmarks/LOG.md).
TASKS: dict[str, dict[str, Any]] = {
    "text": {},
    "chat": dict(vocab_size=4096, block_size=256, batch_size=4, dropout=0.1),
    "classify": dict(vocab_size=4096, n_layer=1, block_size=128, batch_size=32, dropout=0.2),
    "regress": dict(vocab_size=4096, n_layer=1, block_size=128, batch_size=32, dropout=0.2),
}
PASSES = {"chat": 6, "classify": 5, "regress": 5}  # over the training part, where max_iters is not given,
FEWEST_UPDATES = 300  # and of a table at least so many
RATES = {"text": 1.0, "chat": 0.5, "classify": 0.25, "regress": 0.25}  # times the optimizer's learning rate


def completed(config: T) -> T:
    """The settings with every None decided; what is set stays.

    How many updates fine-tuning and the small tasks take, the data decide; until then what follows max_iters is not
    right yet.
    """
    known = OPTIMIZERS[config.optimizer]
    rate, warmup, max_iters = known["learning_rate"], known["warmup"], config.max_iters
    if config.init_from is not None:
        rate *= FINE_TUNING_RATE / config.n_embd * (LORA_RATE if config.lora_rank else 1)
        rate, warmup = float(f"{rate:.2g}"), FINE_TUNING_WARMUP
    else:
        rate *= RATES[config.task]
        if max_iters is None and config.task == "text":
            max_iters = SCRATCH_ITERS
    learning_rate = rate if config.learning_rate is None else config.learning_rate
    decided = {
        "max_iters": max_iters,
        "tokenizer": "char" if config.task == "text" else "bpe",
        "loss": "mse" if config.task == "regress" else "cross_entropy",
        "learning_rate": learning_rate,
        "min_learning_rate": learning_rate / 10,
        "warmup_iters": round(warmup * (max_iters or 0)),
        "eval_interval": max(10, math.ceil((max_iters or 0) / 20)),
        "threads": min(available_cores(), 8),  # so small a model gains nothing from more
    }
    decided |= {name: known[name] for name in ("momentum", "beta1", "beta2", "weight_decay", "grad_clip")}
    missing = {name: value for name, value in decided.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def available_cores() -> int:
    """Processors that this process may use; a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
