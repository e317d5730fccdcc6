"""A GPT that can be read in an evening and used for real work the next day: `from mingpt import GPT, GPTConfig`."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {"GPT": "mingpt.model", "GPTConfig": "mingpt.config", "load_tokenizer": "mingpt.data.tokenizer"}

__all__ = ["GPT", "GPTConfig", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that --help does not import torch (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mingpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
