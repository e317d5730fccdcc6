"""What the commands share that write with a model: how each next token is chosen, and the model opened for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mingpt.errors import UserError
from mingpt.settings import Settings, setting

if TYPE_CHECKING:  # torch takes a second to import
    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

CHOICE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # what sampling.generate calls its choice


@dataclass(kw_only=True)
class Writing(Settings):
    """The settings of a command that writes."""

    folder: str = setting(help="a model's folder, such as out/pydoc, or a name on the hub, such as gpt2")
    max_new_tokens: int = setting(200, group="text", within="[0, inf)", help="tokens to add, at most")
    temperature: float = setting(
        0.8, group="choice", within="[0, inf)", help="0: always the most probable token; 1: as the model scores them"
    )
    top_k: int = setting(0, group="choice", within="[0, inf)", help="choose among the k most probable; 0: all")
    top_p: float = setting(
        1.0, group="choice", within="(0, 1]", help="choose among the most probable that make up this share"
    )
    min_p: float = setting(
        0.0, group="choice", within="[0, 1]", help="choose among those with this share of the most probable one's"
    )
    repetition_penalty: float = setting(
        1.0, group="choice", within="(0, inf)", help="above 1: tokens that have occurred become less probable"
    )
    seed: int | None = setting(
        None, group="choice", within="[0, 2147483647]", follows="chance", help="the same seed, the same text"
    )
    device: str = setting(
        "auto", group="machine", choices=("auto", "cpu", "cuda", "mps"), help="auto: a GPU where there is one"
    )
    dtype: str = setting(
        "float32",
        group="machine",
        choices=("float32", "bfloat16"),
        help="of the weights; bfloat16 takes half the memory, and half the time where the processor has it",
    )

    def choice(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in CHOICE}


def opened(config: Writing) -> tuple[GPT, Tokenizer]:
    """The model on its device, and its tokenizer."""
    import torch

    from mingpt import hub
    from mingpt.data.tokenizer import load_tokenizer
    from mingpt.device import choose_device
    from mingpt.model import GPT

    device = choose_device(config.device)
    folder = hub.locate(config.folder)
    tokenizer = load_tokenizer(folder)
    model = GPT.from_pretrained(folder, getattr(torch, config.dtype)).to(device)
    if model.config.num_labels:
        raise UserError(f"{config.folder}: labels or values texts, as python -m mingpt.predict does, and writes none")
    if len(tokenizer.pieces) > model.config.vocab_size:
        raise UserError(
            f"{config.folder}: the tokenizer has {len(tokenizer.pieces)} tokens and the model {model.config.vocab_size}"
        )
    return model, tokenizer
