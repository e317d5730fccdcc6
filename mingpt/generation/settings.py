"""The settings that the commands that generate text share, and the model they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mingpt.errors import UserError
from mingpt.settings import Settings, setting

if TYPE_CHECKING:  # importing torch takes a second
    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

TEXT, SAMPLING, MACHINE = "text", "sampling", "machine"


class GenerationSettings(Settings):
    """Base of the settings of a command that generates text."""

    folder: str = setting(help="a model's folder, such as out/pydoc, or a name on the hub, such as gpt2")
    max_new_tokens: int = setting(200, group=TEXT, ge=0, help="maximum number of tokens to generate")
    temperature: float = setting(0.8, group=SAMPLING, ge=0, help="sampling temperature; 0: greedy decoding")
    top_k: int = setting(0, group=SAMPLING, ge=0, help="top-k sampling: keep the k most probable tokens; 0: all")
    top_p: float = setting(
        1.0, group=SAMPLING, gt=0, le=1, help="nucleus sampling: keep the most probable tokens that sum to p; 1: all"
    )
    min_p: float = setting(
        0.0, group=SAMPLING, ge=0, le=1, help="keep tokens with at least p times the highest probability; 0: all"
    )
    repetition_penalty: float = setting(
        1.0, group=SAMPLING, gt=0, help="above 1: tokens that have occurred become less probable; 1: no penalty"
    )
    seed: int | None = setting(None, group=SAMPLING, ge=0, lt=2**31, follows="the system's entropy", help="random seed")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", group=MACHINE, help="auto: a GPU if available, else the CPU"
    )
    dtype: Literal["float32", "bfloat16", "int8"] = setting(
        "float32",
        group=MACHINE,
        help="dtype of the weights; bfloat16 where supported, and int8 on x86 CPUs, are faster and less exact",
    )

    def sampling(self) -> dict[str, Any]:
        """The settings of that group, as decoding.generate takes them."""
        fields = type(self).model_fields.items()
        return {name: getattr(self, name) for name, f in fields if f.json_schema_extra["group"] == SAMPLING}


def load_model(settings: GenerationSettings) -> tuple[GPT, Tokenizer]:
    """The language model on its device, optimized for decoding, and its tokenizer. Raises UserError if not usable."""
    import torch

    from mingpt import pretrained
    from mingpt.data.tokenizer import load_tokenizer
    from mingpt.device import choose_device
    from mingpt.generation.linear import has_int8, optimize_for_decoding
    from mingpt.model import GPT

    is_int8 = settings.dtype == "int8"
    device = choose_device("cpu" if is_int8 and settings.device == "auto" else settings.device)
    if is_int8 and (device != "cpu" or not has_int8()):
        raise UserError(f"--dtype int8: needs an x86 CPU (device: {device})")
    name = settings.folder
    folder = pretrained.locate(name)
    config = pretrained.read_config(folder)
    if config.num_labels:
        raise UserError(f"{name}: is a classification or regression model; use python -m mingpt.predict {name}")
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{name}: its tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    stored = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    model = GPT.from_pretrained(folder, stored).to(device)
    return optimize_for_decoding(model, settings.dtype), tokenizer
