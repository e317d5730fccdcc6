"""Every setting of a GPT and of a training run: its name, default, range, unit and meaning.

One field here is at once a flag (`--n_layer 6`), a line of `--help`, a key of a config file and of
train.json, and a name that a search may vary. settings.py says what a setting is, cli.py makes the
flags; this file holds what there is to set, and needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from mingpt.defaults import OPTIMIZERS, SCRATCH_ITERS, TASKS, completed
from mingpt.errors import UserError
from mingpt.settings import Settings, setting

ARCHITECTURE, DATA, TRAINING, OPTIMIZER, MACHINE = (
    "architecture",
    "data",
    "training",
    "optimizer",
    "machine and files",
)
LABELS = ("classify",)  # the task that learns labels,
TABLES = ("classify", "regress")  # and those that learn from a table


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

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.n_embd % self.n_head:
            divisors = [str(n) for n in range(1, min(self.n_embd, 256) + 1) if self.n_embd % n == 0]
            yield (
                ("n_head", "n_embd"),
                f"--n_head {self.n_head}: does not divide --n_embd {self.n_embd}; these do: {', '.join(divisors)}",
            )


@dataclass(kw_only=True)
class GPTConfig(Architecture):
    """What a GPT module is built from. Raises UserError where a setting is out of range.

    >>> GPTConfig(vocab_size=65, n_layer=6).n_layer
    6
    """

    vocab_size: int = setting(50257, group=ARCHITECTURE, within="[1, inf)", help="tokens in the vocabulary")
    layer_norm_epsilon: float = setting(
        1e-5, group=ARCHITECTURE, within="(0, inf)", help="added to the variance by which LayerNorm divides"
    )

    num_labels: int = setting(
        0, group=ARCHITECTURE, within="[0, inf)", help="scores of a text that the model gives; 0: it only writes"
    )
    gelu_in_updates: str = setting(
        "none",
        group=ARCHITECTURE,
        choices=("none", "tanh"),
        help="approximation of GELU while training; GPT-2's own weights were trained with tanh",
    )

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise UserError(*problems)


@dataclass(kw_only=True)
class Training(Architecture):
    """How a GPT is trained, apart from where the run lies. What is None is decided by `resolve`."""

    data: str = setting(
        "pydoc",
        group=DATA,
        metavar="PATH",
        help="pydoc (the manual inside Python), shakespeare (downloaded once), a UTF-8 text file, or a folder of them",
    )
    task: str = setting(
        "text",
        group=DATA,
        choices=tuple(TASKS),
        help="what is learned: to write on, to answer, to label, or to value",
    )
    loss: str | None = setting(
        None,
        group=DATA,
        choices=("cross_entropy", "mse", "mae", "huber"),
        follows="task: cross_entropy, or mse for regress",
        help="what is made small",
    )
    label_smoothing: float = setting(
        0.0, group=DATA, within="[0, 1)", help="share of the certainty that cross_entropy takes from the right answer"
    )
    class_weights: bool = setting(False, group=DATA, help="let rare classes count more, so that all count alike")
    text_column: str = setting("text", group=DATA, help="the column of the text to label")
    label_column: str | None = setting(
        None, group=DATA, follows="the data: label, or in regress rating", help="the column of what is to be learned"
    )
    tokenizer: str | None = setting(
        None,
        group=DATA,
        follows="task: char for text, else bpe",
        choices=("char", "byte", "gpt2", "bpe"),
        help="the characters of the text, the 256 bytes, GPT-2's 50,257 pieces of words, or such pieces learned",
    )
    vocab_size: int = setting(
        1024, group=DATA, within="[257, inf)", help="tokens at most that --tokenizer bpe learns; only bpe uses it"
    )

    init_from: str | None = setting(
        None,
        group=TRAINING,
        metavar="MODEL",
        help="fine-tune the model of this folder or name on the hub, such as gpt2; its shape and its tokenizer stay",
    )
    lora_rank: int = setting(
        0,
        group=TRAINING,
        within="[0, inf)",
        help="fine-tune added matrices of this rank instead of all weights; they are merged on saving; 0: all weights",
    )
    batch_size: int = setting(16, group=TRAINING, within="[1, inf)", help="sequences in one update")
    gradient_accumulation: int = setting(
        1,
        group=TRAINING,
        within="[1, inf)",
        help="parts in which a batch is computed, to save memory; a divisor of batch_size",
    )
    max_iters: int | None = setting(
        None,
        group=TRAINING,
        within="[1, inf)",
        follows=f"task and init_from: {SCRATCH_ITERS:,}, or some passes over the data",
        help="updates in all",
    )
    eval_interval: int | None = setting(
        None, group=TRAINING, within="[1, inf)", follows="max_iters", help="updates between two evaluations"
    )
    patience: int = setting(
        0,
        group=TRAINING,
        within="[0, inf)",
        help="stop after so many evaluations that were no better; 0: never",
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
        help="step size after the warm-up; wsd: constant, then linear over the last three tenths",
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
    threads: int | None = setting(None, group=MACHINE, within="[1, 1024]", follows="the machine", help="CPU threads")
    seed: int = setting(
        0, group=MACHINE, within="[0, 2147483647]", help="of the weights, of dropout and of the order of the text"
    )
    config: str | None = setting(None, group=MACHINE, metavar="FILE", help="JSON file of settings; flags win over it")

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from super().misfits()
        whole = completed(self)
        if self.vocab_size != Training.vocab_size and whole.tokenizer != "bpe":
            yield (
                ("vocab_size", "tokenizer"),
                f"--vocab_size {self.vocab_size}: needs --tokenizer bpe; {whole.tokenizer} has a vocabulary of its own",
            )
        if self.label_smoothing and whole.loss != "cross_entropy":
            yield (
                ("label_smoothing", "loss", "task"),
                f"--label_smoothing {self.label_smoothing}: is of cross_entropy, and the loss is {whole.loss}",
            )
        for name, tasks in (("class_weights", LABELS), ("text_column", TABLES), ("label_column", TABLES)):
            if getattr(self, name) != getattr(Training, name) and self.task not in tasks:
                yield (name, "task"), f"--{name}: needs --task {' or '.join(tasks)}; this is --task {self.task}"
        if self.lora_rank and self.init_from is None:
            yield (
                ("lora_rank", "init_from"),
                f"--lora_rank {self.lora_rank}: needs --init_from, the model that it adapts",
            )
        if self.batch_size % self.gradient_accumulation:
            yield (
                ("gradient_accumulation", "batch_size"),
                f"--gradient_accumulation {self.gradient_accumulation}: does not divide --batch_size {self.batch_size}",
            )
        if whole.min_learning_rate > whole.learning_rate:
            yield (
                ("min_learning_rate", "learning_rate", "optimizer"),
                f"--min_learning_rate {whole.min_learning_rate}: is above --learning_rate {whole.learning_rate}",
            )
        if whole.max_iters is not None and whole.warmup_iters > whole.max_iters:
            yield (
                ("warmup_iters", "max_iters"),
                f"--warmup_iters {whole.warmup_iters}: is above --max_iters {whole.max_iters}",
            )


@dataclass(kw_only=True)
class TrainConfig(Training):
    """One training run: all of its flags."""

    out_dir: str | None = setting(
        None, group=MACHINE, metavar="FOLDER", help="the run's folder; left out: a new out/NAME each time"
    )
    resume: bool = setting(False, group=MACHINE, help="go on with the run in out_dir from where it stopped")


T = TypeVar("T", bound=Training)


def resolve(config: T) -> T:
    """The settings with every default decided that hangs on another. Raises UserError where anything is wrong.

    >>> resolve(TrainConfig(optimizer="sgd")).momentum
    0.9
    """
    problems = config.problems()
    if problems:
        raise UserError(*problems)
    return completed(config)
