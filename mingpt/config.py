"""Every setting of a GPT and of a training run: name, type, default, range and help.

A field here is at once a flag (`--n_layer 6`), a line of --help, a key of a config file and of train.json, and a
parameter that a study may search. A default of None is filled in once per run, by resolve.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from mingpt.data.tokenizer import TOKENIZERS
from mingpt.losses import LOSSES
from mingpt.schedules import SCHEDULES
from mingpt.settings import Settings, setting

# Where each task's class is: they need torch, which --help does not wait for.
TASKS = {
    "text": "mingpt.tasks.text:TextTask",
    "chat": "mingpt.tasks.chat:ChatTask",
    "classify": "mingpt.tasks.classify:ClassifyTask",
    "regress": "mingpt.tasks.regress:RegressTask",
}

# Good hyperparameters of each optimizer (tests/benchmarks/optimizers.py); `warmup` is a fraction of max_iters.
# The size of Muon's updates does not depend on the gradient's, so it needs neither warm-up nor clipping.
ADAM = dict(learning_rate=3e-3, momentum=0.0, beta1=0.9, beta2=0.99, weight_decay=0.0, grad_clip=1.0, warmup=0.05)
OPTIMIZER_DEFAULTS: dict[str, dict[str, float]] = {
    "adam": ADAM,
    "adamw": ADAM | dict(weight_decay=0.1),
    "sgd": ADAM | dict(learning_rate=0.3, momentum=0.9, beta1=0.0, beta2=0.0),
    "muon": dict(learning_rate=0.02, momentum=0.85, beta1=0.8, beta2=0.95, weight_decay=0.0, grad_clip=0.0, warmup=0.0),
}

Task = Literal[tuple(TASKS)]
Loss = Literal[tuple(LOSSES)]
TokenizerName = Literal[tuple(TOKENIZERS)]
Optimizer = Literal[tuple(OPTIMIZER_DEFAULTS)]
Schedule = Literal[tuple(SCHEDULES)]


class Architecture(Settings):
    """The architecture of a GPT, apart from its vocabulary. Each field reaches the model and its files as it is."""

    group = "architecture"
    n_layer: int = setting(2, "number of blocks", ge=1)
    n_head: int = setting(4, "attention heads per block; divides n_embd", ge=1)
    n_embd: int = setting(96, "embedding dimension, the width of the residual stream", ge=1)
    block_size: int = setting(64, "context length in tokens", ge=1)
    dropout: float = setting(0.0, "dropout probability", ge=0, lt=1)
    attention: Literal["explicit", "fused"] = setting(
        "explicit",
        "softmax(QK'/sqrt(d))V written out, or PyTorch's fused kernel",
        follows="device and block_size: fused for long contexts and on a GPU",
    )
    activation: Literal["gelu", "gelu_new"] = setting(
        "gelu", "exact GELU, or the tanh approximation that GPT-2 was trained with"
    )

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.n_embd % self.n_head:
            divisors = ", ".join(str(n) for n in range(1, min(self.n_embd, 256) + 1) if self.n_embd % n == 0)
            line = f"--n_head {self.n_head}: does not divide --n_embd {self.n_embd}; its divisors: {divisors}"
            yield ("n_head", "n_embd"), line


class GPTConfig(Architecture):
    """What a GPT module is built from. Raises UserError where a value is out of range.

    >>> GPTConfig(vocab_size=65, n_layer=6).n_layer
    6
    """

    vocab_size: int = setting(50257, "number of tokens in the vocabulary", ge=1)
    layer_norm_epsilon: float = setting(1e-5, "epsilon of LayerNorm", gt=0)
    num_labels: int = setting(0, "outputs of the score head; 0: a language model", ge=0)


class DataSettings(Settings):
    """Data and task."""

    group = "data"
    data: str | None = setting(
        None,
        "pydoc (the manual inside Python), shakespeare (downloaded once), shop (dialogues), or a file: UTF-8 text or a "
        "folder of it, JSONL dialogues for chat, CSV, TSV or JSONL for classify and regress",
        metavar="PATH",
        follows="task: pydoc for text, shop for chat",
        min_length=1,
    )
    task: Task = setting("text", "language modeling, dialogue, text classification, or text regression")
    loss: Loss | None = setting(None, "training loss", follows="task: cross_entropy, or mse for regress")
    label_smoothing: float = setting(0.0, "label smoothing of cross_entropy", ge=0, lt=1)
    class_weights: bool = setting(False, "weight classes inversely to their frequency in the loss of classify")
    text_column: str | None = setting(None, "column of a table with the text", follows="task: text", min_length=1)
    label_column: str | None = setting(
        None, "column of a table with the target", follows="task: label, or rating for regress", min_length=1
    )
    tokenizer: TokenizerName | None = setting(
        None,
        "characters, bytes, GPT-2's byte-level BPE, or a byte-level BPE learned from the data",
        follows="task and data: char for a text under 500,000 characters, else bpe",
    )
    vocab_size: int | None = setting(
        None, "vocabulary size of bpe; implies --tokenizer bpe", follows="task: 1024 for text, else 4096", ge=257
    )


class LoopSettings(Settings):
    """Initialization, batches and duration."""

    group = "training"
    init_from: str | None = setting(
        None, "fine-tune the model in this folder, or of this name on the hub, such as gpt2", metavar="MODEL"
    )
    lora_rank: int = setting(0, "fine-tune low-rank adapters of this rank, merged on saving; 0: all weights", ge=0)
    batch_size: int = setting(16, "sequences per update", ge=1)
    gradient_accumulation: int = setting(1, "micro-batches per update; divides batch_size", ge=1)
    max_iters: int | None = setting(None, "number of updates", follows="task, or 3 epochs with init_from", ge=1)
    eval_interval: int | None = setting(None, "updates between evaluations", follows="max_iters / 20", ge=1)
    patience: int = setting(0, "stop after this many evaluations without improvement; 0: never", ge=0)


class OptimizerSettings(Settings):
    """Optimizer and learning rate schedule."""

    group = "optimizer"
    optimizer: Optimizer = setting("muon", "optimizer")
    learning_rate: float | None = setting(None, "peak learning rate", follows="optimizer, task and init_from", gt=0)
    min_learning_rate: float | None = setting(
        None, "learning rate at the end of the schedule", follows="learning_rate / 10", ge=0
    )
    warmup_iters: int | None = setting(
        None, "updates of linear learning rate warm-up", follows="optimizer and max_iters", ge=0
    )
    schedule: Schedule = setting(
        "linear", "learning rate after warm-up; wsd: constant, then linear decay over the last 30 %"
    )
    weight_decay: float | None = setting(
        None, "weight decay of matrices, decoupled in adamw and muon", follows="optimizer", ge=0
    )
    beta1: float | None = setting(None, "decay rate of Adam's first moment", follows="optimizer", ge=0, lt=1)
    beta2: float | None = setting(None, "decay rate of Adam's second moment", follows="optimizer", ge=0, lt=1)
    momentum: float | None = setting(None, "momentum of sgd and muon", follows="optimizer", ge=0, lt=1)
    grad_clip: float | None = setting(None, "maximum gradient norm; 0 disables clipping", follows="optimizer", ge=0)


class MachineSettings(Settings):
    """Device and precision."""

    group = "machine and files"
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto: a GPU if available, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "autocast dtype of matrix products; auto: bfloat16 if the device has it; weights stay float32"
    )
    compile: bool = setting(False, "torch.compile the model")
    threads: int | None = setting(
        None, "CPU threads, divided among the processes of torchrun", follows="the machine", ge=1, le=1024
    )
    seed: int = setting(0, "random seed", ge=0, le=2**31 - 1)
    config: str | None = setting(None, "JSON file of settings; flags override it", metavar="FILE")


class Training(MachineSettings, OptimizerSettings, LoopSettings, DataSettings, Architecture):
    """How a GPT is trained, apart from where the run is saved."""

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.init_from is None or "n_embd" in self.model_fields_set:  # else n_embd is the base model's
            yield from super().conflicts()
        pairs = (
            ("gradient_accumulation", "batch_size", lambda parts, size: size % parts == 0, "does not divide"),
            ("min_learning_rate", "learning_rate", lambda low, high: low <= high, "is above"),
            ("warmup_iters", "max_iters", lambda warmup, total: warmup <= total, "is above"),
        )
        for name, other, is_valid, problem in pairs:
            value, bound = getattr(self, name), getattr(self, other)
            if {name, other} <= self.given().keys() and not is_valid(value, bound):  # other defaults may yet be chosen
                yield (name, other), f"--{name} {value}: {problem} --{other} {bound}"
        if self.vocab_size is not None and self.tokenizer not in (None, "bpe"):
            line = f"--vocab_size {self.vocab_size}: applies to --tokenizer bpe, not to {self.tokenizer}"
            yield ("vocab_size", "tokenizer"), line
        if self.label_smoothing and self.loss not in (None, "cross_entropy"):
            line = f"--label_smoothing {self.label_smoothing}: applies to cross_entropy, not to {self.loss}"
            yield ("label_smoothing", "loss"), line
        if self.lora_rank and self.init_from is None:
            yield ("lora_rank",), f"--lora_rank {self.lora_rank}: needs --init_from, the model to adapt"


class TrainConfig(Training):
    """One training run: all of its flags."""

    out_dir: str | None = setting(None, "folder of the run", metavar="FOLDER", follows="data: a new folder out/NAME")
    resume: bool = setting(False, "resume the run in out_dir from its last state")
