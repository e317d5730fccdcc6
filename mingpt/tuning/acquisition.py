"""Where to look next: the logarithm of the expected improvement, and how its maximum is found.

Notation, beside that of gp.py:

    f*       the best (lowest) value seen
    q        (f* - mu) / sigma: by how many deviations a point is expected to be better
    phi, Phi density and distribution of the standard normal
    EI       E[max(f* - f, 0)] = sigma h(q),    h(q) = phi(q) + q Phi(q)

EI falls below what a float can hold a few deviations from the best point, and its gradient with it; its
logarithm stays finite and smooth (Ament et al. 2023, "Unexpected Improvements to Expected Improvement",
equation 9):

    log EI = log sigma + log h(q),    d log EI = (phi(q)/h(q) d sigma - Phi(q)/h(q) d mu) / sigma

The maximum over a mixed space is found in three steps: many points at once, a quasi-Newton climb along the
continuous dimensions from the best few, and a sweep that tries every value of each discrete dimension.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from mingpt.tuning.gp import GP, unpack
from mingpt.tuning.points import first_unseen, is_new
from mingpt.tuning.sequence import evenly
from mingpt.tuning.space import Space

CANDIDATES = 256  # spread evenly; 2,048 found nothing better
PERTURBATIONS = 8  # around each of the best three points, at each of the widths
WIDTHS = (1e-3, 1e-2, 1e-1)
STARTS = 6  # the best candidate, four drawn by how good they are, the best point seen
SWEPT = 20  # a discrete dimension with at most so many values is tried out; a longer one is climbed and rounded
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_h(q: np.ndarray) -> np.ndarray:
    """log(phi(q) + q Phi(q)) for any q, with no cancellation and no underflow.

    Below -1: h = phi (1 - w), w = -q sqrt(pi/2) erfcx(-q / sqrt 2) -> 1. Where w is 1 to a float's last
    digits, 1 - w is q^-2 - 3 q^-4 + ...
    """
    q = np.asarray(q, dtype=float)
    near = np.maximum(q, -1.0)
    direct = np.log(np.exp(-0.5 * near * near - LOG_SQRT_2PI) + near * np.exp(log_ndtr(near)))
    low = np.minimum(q, -1.0)
    w = -low * math.sqrt(math.pi / 2) * erfcx(-low / math.sqrt(2))
    far = np.minimum(low, -1e3)
    series = np.log1p(-3 / far**2) - 2 * np.log(-far)
    tail = np.where(low > -1e3, np.log1p(-np.where(low > -1e3, w, 0.0)), series)
    return np.where(q > -1.0, direct, -0.5 * low * low - LOG_SQRT_2PI + tail)


def log_expected_improvement(gp: GP, best: float, X: np.ndarray) -> np.ndarray:
    """log EI (m,) at X (m, D), below the value `best`."""
    mu, variance = gp.predict(X)
    sigma = np.sqrt(np.maximum(variance, 1e-12))
    return np.log(sigma) + log_h((best - mu) / sigma)


def log_expected_improvement_with_gradient(gp: GP, best: float, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log EI (m,) and its gradient (m, D)."""
    mu, variance, mu_gradient, variance_gradient = gp.predict_with_gradient(X)
    sigma = np.sqrt(np.maximum(variance, 1e-12))
    sigma_gradient = variance_gradient / (2 * sigma)[:, None]
    q = (best - mu) / sigma
    log_of_h = log_h(q)
    by_mu = -np.exp(log_ndtr(q) - log_of_h) / sigma
    by_sigma = np.exp(-0.5 * q * q - LOG_SQRT_2PI - log_of_h) / sigma
    return np.log(sigma) + log_of_h, by_mu[:, None] * mu_gradient + by_sigma[:, None] * sigma_gradient


def maximise(gp: GP, best: float, space: Space, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The point (D,) with the largest log EI that is not among `seen` (n, D); None where all points are."""
    levels = [space.levels(d) for d in range(len(space.names))]
    is_swept = np.array(
        [
            its is not None and (len(its) <= SWEPT or is_category)
            for its, is_category in zip(levels, space.is_category, strict=True)
        ]
    )
    X = candidates(gp, space, is_swept, rng)
    value = log_expected_improvement(gp, best, X)
    chosen = starts(gp, X, value, rng)
    for _ in range(2):  # from all starts, then from the best place alone, where the sweep has moved it
        climbed = space.snap(climb(gp, best, space, chosen, ~is_swept))
        chosen, its = sweep(gp, best, space, climbed, levels, np.flatnonzero(is_swept), rng)
        X, value = np.concatenate([X, chosen]), np.concatenate([value, its])
        if np.array_equal(climbed, chosen):
            break
        chosen = chosen[[np.argmax(its)]]
    for i in np.argsort(-value):
        if is_new(X[i], seen):
            return X[i]
    return first_unseen(space, seen, rng)


def candidates(gp: GP, space: Space, is_swept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points everywhere, and points near the best three."""
    D = len(is_swept)
    everywhere = evenly(CANDIDATES, D, rng)
    near = []
    for centre in gp.U[np.argsort(gp.z)[:3]]:
        for width in WIDTHS:
            moved = centre + width * rng.standard_normal((PERTURBATIONS, D))
            moved = np.where(moved < 0, -moved, np.where(moved > 1, 2 - moved, moved))  # back from the walls
            rolled = rng.random((PERTURBATIONS, D))
            keep = rng.random((PERTURBATIONS, D)) > 1 / D
            near.append(np.where(is_swept, np.where(keep, centre, rolled), moved))
    return space.snap(np.concatenate([everywhere, *near]).clip(0, 1))


def starts(gp: GP, X: np.ndarray, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where to climb from: the best candidate, others drawn in proportion to EI, and the best point seen."""
    weight = np.exp(value - value.max())
    drawn = rng.choice(len(X), size=STARTS - 2, p=weight / weight.sum())
    return np.concatenate([X[[np.argmax(value)]], X[drawn], gp.U[[np.argmin(gp.z)]]])


def climb(gp: GP, best: float, space: Space, X: np.ndarray, is_climbed: np.ndarray) -> np.ndarray:
    """Each of X (m, D) moved uphill along the dimensions that are climbed, all in one L-BFGS-B run.

    It runs in units of the lengthscales, in which the surface is about equally steep in all directions.
    """
    is_free = space.active(X) & is_climbed
    if not is_free.any():
        return X
    scale = np.broadcast_to(np.clip(unpack(gp.theta)[0], 0.05, 2), X.shape)[is_free]
    X = X.copy()

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        X[is_free] = x * scale
        value, gradient = log_expected_improvement_with_gradient(gp, best, X)
        return -value.sum(), -gradient[is_free] * scale

    bounds = [(0, 1 / s) for s in scale]
    options = dict(maxiter=40, gtol=1e-4, ftol=1e-9)
    x = minimize(negative, X[is_free] / scale, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    X[is_free] = x * scale
    return X.clip(0, 1)


def sweep(
    gp: GP, best: float, space: Space, X: np.ndarray, levels: list, swept: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each of X (m, D) with every value of each swept dimension tried, one after the other; and their log EI (m,)."""
    value = log_expected_improvement(gp, best, X)
    for d in rng.permutation(swept):
        tried = np.repeat(X, len(levels[d]), axis=0)
        tried[:, d] = np.tile(levels[d], len(X))
        tried = space.snap(tried)
        its = log_expected_improvement(gp, best, tried).reshape(len(X), -1)
        j = its.argmax(1)
        is_better = its.max(1) > value
        tried = tried.reshape(len(X), -1, X.shape[1])[np.arange(len(X)), j]
        X = np.where(is_better[:, None], tried, X)
        value = np.where(is_better, its.max(1), value)
    return X, value
