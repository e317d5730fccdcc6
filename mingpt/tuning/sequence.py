"""Points that fill the unit cube evenly, however many are taken.

The additive recurrence of Roberts (2018, "The unreasonable effectiveness of quasirandom sequences"), the
golden ratio's for one dimension and its like for more:

    u_n = (shift + n (phi^-1, phi^-2, ..., phi^-D)) mod 1,    phi > 1 with phi^(D + 1) = phi + 1
"""

from __future__ import annotations

import numpy as np


def evenly(n: int, D: int, rng: np.random.Generator) -> np.ndarray:
    """The first n points (n, D) of the sequence, shifted at random."""
    phi = 2.0
    for _ in range(60):  # a fixed point that contracts by more than a half each time
        phi = (1 + phi) ** (1 / (D + 1))
    return (rng.random(D) + np.arange(n)[:, None] * phi ** -np.arange(1.0, D + 1)) % 1
