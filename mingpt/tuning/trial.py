"""A trial: one configuration and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Curve = list[tuple[float, float]]  # (step, value) in order of step


@dataclass
class Trial:
    """One configuration and what came of it."""

    number: int  # 0, 1, 2, ...
    config: dict[str, Any]  # of JSON's values
    state: str = "running"  # then "done", "stopped" (early) or "failed"
    value: float = math.nan  # of a trial that is done; the lower the better
    curve: Curve = field(default_factory=list)  # inf for nan
    seconds: float = math.nan  # of work, once it has ended; without what was lost in a kill
    attempts: int = 1  # how often it was begun, without those that were put back
    why: str = ""  # of a failed one, in a line
