"""The model that a task learns with: the shape asked for, or that of the model it starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mingpt import gpt2
from mingpt.config import GPTConfig, TrainConfig
from mingpt.data.tokenizer import Tokenizer


def model_config(config: TrainConfig, tokenizer: Tokenizer, origin: Path | None, num_labels: int = 0) -> GPTConfig:
    """What a GPT is built from, with room for each of the tokenizer's ids and for num_labels scores.

    The model in `origin` keeps its shape, and its vocabulary where that is larger.
    """
    if origin is None:
        names = ("n_layer", "n_head", "n_embd", "block_size", "dropout", "attention")
        asked = {name: getattr(config, name) for name in names}
        return GPTConfig(vocab_size=len(tokenizer.pieces), num_labels=num_labels, **asked)
    found = gpt2.read_config(origin / "config.json")
    return dataclasses.replace(
        found,
        vocab_size=max(found.vocab_size, len(tokenizer.pieces)),
        num_labels=num_labels,
        dropout=config.dropout,
        attention=config.attention,
        gelu_in_updates="none" if config.init_from is None else found.gelu_in_updates,
    )
