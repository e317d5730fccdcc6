"""Every setting of a GPT and of a training run: its name, default, range, unit and meaning.

One field here is at once a flag (`--n_layer 6`), a line of `--help`, a key of a config file and of
train.json, and a name that a search may vary. settings.py says what a setting is, cli.py makes the
flags; this file holds what there is to set, and needs nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass

from mingpt.errors import UserError
from mingpt.settings import Settings, setting

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

ARCHITECTURE, DATA, TRAINING, OPTIMIZER, MACHINE = (
    "architecture",
    "data",
    "training",
    "optimizer",
    "machine and files",
)


@dataclass(kw_only=True)
class Architecture(Settings):
    """The shape of a GPT, apart from its vocabulary."""

    n_layer: int = setting(2, group=ARCHITECTURE, within="[1, inf)", help="blocks, one after the other")
    n_head: int = setting(
        4, group=ARCHITECTURE, within="[1, inf)", help="heads of attention in a block; a divisor of n_embd"
    )
    n_embd: int = setting(96, group=ARCHITECTURE, within="[1, inf)", help="width of the residual stream, in channels")
    block_size: int = setting(64, group=ARCHITECTURE, within="[1, inf)", help="longest context, in tokens")
    dropout: float = setting(
        0.0, group=ARCHITECTURE, within="[0, 1)", help="share of the activations set to 0 while training"
    )
    attention: str = setting(
        "explicit",
        group=ARCHITECTURE,
        choices=("explicit", "fused"),
        help="softmax(QK'/sqrt(d))V written out, or PyTorch's kernel for long contexts",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if not problems and self.n_embd % self.n_head:
            divisors = [str(n) for n in range(1, min(self.n_embd, 256) + 1) if self.n_embd % n == 0]
            problems.append(
                f"--n_head {self.n_head}: does not divide --n_embd {self.n_embd}; these do: {', '.join(divisors)}"
            )
        return problems


@dataclass(kw_only=True)
class GPTConfig(Architecture):
    """What a GPT module is built from. Raises UserError where a setting is out of range.

    >>> GPTConfig(vocab_size=65, n_layer=6).n_layer
    6
    """

    vocab_size: int = setting(50257, group=ARCHITECTURE, within="[1, inf)", help="tokens in the vocabulary")

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise UserError(*problems)


@dataclass(kw_only=True)
class TrainConfig(Architecture):
    """One training run: all of its flags. What is None is decided by `resolve`."""

    data: str = setting(
        "pydoc",
        group=DATA,
        metavar="PATH",
        help="pydoc (the manual inside Python), shakespeare (downloaded once), a UTF-8 text file, or a folder of them",
    )
    tokenizer: str = setting(
        "char",
        group=DATA,
        choices=("char", "byte", "gpt2"),
        help="the characters of the text, the 256 bytes, or GPT-2's 50,257 pieces of words",
    )

    batch_size: int = setting(16, group=TRAINING, within="[1, inf)", help="sequences in one update")
    gradient_accumulation: int = setting(
        1,
        group=TRAINING,
        within="[1, inf)",
        help="parts in which a batch is computed, to save memory; a divisor of batch_size",
    )
    max_iters: int = setting(3500, group=TRAINING, within="[1, inf)", help="updates in all")
    eval_interval: int | None = setting(
        None, group=TRAINING, within="[1, inf)", follows="max_iters", help="updates between two evaluations"
    )
    patience: int = setting(
        0, group=TRAINING, within="[0, inf)", help="stop after so many evaluations without a better loss; 0: never"
    )

    optimizer: str = setting(
        "muon",
        group=OPTIMIZER,
        choices=tuple(OPTIMIZERS),
        help="muon learns fastest, adamw is the usual one, sgd the classic",
    )
    learning_rate: float | None = setting(
        None, group=OPTIMIZER, within="(0, inf)", follows="optimizer", help="step size, at its largest"
    )
    min_learning_rate: float | None = setting(
        None,
        group=OPTIMIZER,
        within="[0, inf)",
        follows="learning_rate, a tenth of it",
        help="step size at the end of the schedule",
    )
    warmup_iters: int | None = setting(
        None,
        group=OPTIMIZER,
        within="[0, inf)",
        follows="optimizer and max_iters",
        help="updates over which the step size first rises",
    )
    schedule: str = setting(
        "linear",
        group=OPTIMIZER,
        choices=("constant", "cosine", "linear", "wsd"),
        help="step size after the warm-up; wsd: constant, then linear over the last fifth",
    )
    weight_decay: float | None = setting(
        None, group=OPTIMIZER, within="[0, inf)", follows="optimizer", help="pull of the matrices towards 0"
    )
    beta1: float | None = setting(
        None, group=OPTIMIZER, within="[0, 1)", follows="optimizer", help="Adam's memory of the gradient"
    )
    beta2: float | None = setting(
        None, group=OPTIMIZER, within="[0, 1)", follows="optimizer", help="Adam's memory of the gradient's square"
    )
    momentum: float | None = setting(
        None, group=OPTIMIZER, within="[0, 1)", follows="optimizer", help="memory of the gradient in sgd and muon"
    )
    grad_clip: float | None = setting(
        None,
        group=OPTIMIZER,
        within="[0, inf)",
        follows="optimizer",
        help="longest gradient, as a norm over all parameters; 0: any",
    )

    device: str = setting(
        "auto", group=MACHINE, choices=("auto", "cpu", "cuda", "mps"), help="auto: a GPU where there is one"
    )
    dtype: str = setting(
        "auto",
        group=MACHINE,
        choices=("auto", "float32", "bfloat16"),
        help="of the matrix products; auto: bfloat16 where the device has it; weights stay float32",
    )
    compile: bool = setting(False, group=MACHINE, help="compile the model first; pays on a GPU, in long runs")
    threads: int | None = setting(None, group=MACHINE, within="[1, inf)", follows="the machine", help="CPU threads")
    seed: int = setting(
        0, group=MACHINE, within="[0, 2147483647]", help="of the weights, of dropout and of the order of the text"
    )
    out_dir: str | None = setting(
        None, group=MACHINE, metavar="FOLDER", help="the run's folder; left out: a new out/NAME each time"
    )
    resume: bool = setting(False, group=MACHINE, help="go on with the run in out_dir from where it stopped")
    config: str | None = setting(None, group=MACHINE, metavar="FILE", help="JSON file of settings; flags win over it")

    def problems(self) -> list[str]:
        problems = super().problems()
        if problems:
            return problems
        if self.batch_size % self.gradient_accumulation:
            problems.append(
                f"--gradient_accumulation {self.gradient_accumulation}: does not divide --batch_size {self.batch_size}"
            )
        if (self.min_learning_rate or 0) > (self.learning_rate or math.inf):
            problems.append(
                f"--min_learning_rate {self.min_learning_rate}: is above --learning_rate {self.learning_rate}"
            )
        if (self.warmup_iters or 0) > self.max_iters:
            problems.append(f"--warmup_iters {self.warmup_iters}: is above --max_iters {self.max_iters}")
        return problems


def resolve(config: TrainConfig) -> TrainConfig:
    """Decide every default that hangs on another setting, once; what is set already stays.

    Raises UserError where the settings, now complete, do not fit together.

    >>> resolve(TrainConfig(optimizer="sgd")).momentum
    0.9
    """
    known = OPTIMIZERS[config.optimizer]
    learning_rate = known["learning_rate"] if config.learning_rate is None else config.learning_rate
    decided = {
        "learning_rate": learning_rate,
        "min_learning_rate": learning_rate / 10,
        "warmup_iters": round(known["warmup"] * config.max_iters),
        "eval_interval": max(10, math.ceil(config.max_iters / 20)),
        "threads": min(available_cores(), 8),  # so small a model gains nothing from more
    }
    decided |= {name: known[name] for name in ("momentum", "beta1", "beta2", "weight_decay", "grad_clip")}
    missing = {name: value for name, value in decided.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **missing)
    problems = config.problems()
    if problems:
        raise UserError(*problems)
    return config


def available_cores() -> int:
    """Processors that this process may use; a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
