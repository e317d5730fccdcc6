"""A trial: one configuration and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Curve = list[tuple[int, float]]  # (step, value) in order of step


@dataclass
class Trial:
    """One configuration and what came of it."""

    number: int  # 0, 1, 2, ...
    config: dict[str, Any]  # of JSON's values
    state: str = "running"  # then "done", "stopped" (early) or "failed"
    value: float = math.nan  # of a trial that is done; lower is better
    curve: Curve = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)  # of JSON's values, such as "seconds" and "error"

    @property
    def lowest(self) -> float:
        """The lowest value of the curve; nan where it is empty."""
        return min((value for _, value in self.curve if not math.isnan(value)), default=math.nan)
