"""A GPT to read in an evening and to use for real work the next day: `from mingpt import GPT, GPTConfig`."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"GPT": "mingpt.model", "GPTConfig": "mingpt.config", "load_tokenizer": "mingpt.data.tokenizer"}

__all__ = ["GPT", "GPTConfig", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `--help` need not wait for torch (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mingpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
