"""The lowest value of any function, in few trials: `from mingpt.tuning import Float, Int, Choice, minimize`."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "Choice": "mingpt.tuning.parameters",
    "Float": "mingpt.tuning.parameters",
    "Int": "mingpt.tuning.parameters",
    "Space": "mingpt.tuning.space",
    "Study": "mingpt.tuning.study",
    "Trial": "mingpt.tuning.trial",
    "minimize": "mingpt.tuning.study",
}

__all__ = ["Choice", "Float", "Int", "Space", "Study", "Trial", "minimize"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, as in mingpt itself."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mingpt.tuning' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
