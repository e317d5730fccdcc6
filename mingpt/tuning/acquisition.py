"""Log expected improvement, and its maximum over a space of numbers and categories.

Notation, beside that of gp.py:

    f*       value of the incumbent, the lowest so far
    q        (f* - mu) / sigma
    phi, Phi density and distribution function of the standard normal
    EI       E[max(f* - f, 0)] = sigma h(q),    h(q) = phi(q) + q Phi(q)

A few deviations above f* EI is less than a float can hold, and its gradient with it. Its logarithm stays finite and
smooth (Ament et al. 2023, "Unexpected Improvements to Expected Improvement", equation 9):

    log EI = log sigma + log h(q),    d log EI = (phi(q) / h(q) d sigma - Phi(q) / h(q) d mu) / sigma

Its maximum is sought in three steps: many candidates at once; from the best few a quasi-Newton climb along all
parameters with many values; a sweep that tries every value of each parameter with few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from mingpt.tuning.gp import GP, unpack
from mingpt.tuning.space import Space

CANDIDATES = 128  # spread over the cube
PERTURBATIONS = 24  # of each of the best three points, by 0.001 to 0.1
STARTS = 6  # the best candidate, four drawn in proportion to EI, the best point so far
SWEPT = 20  # a parameter with at most so many values, or a category, is swept; all others are climbed
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def sobol(n: int, D: int, rng: np.random.Generator) -> np.ndarray:
    """The first points of a scrambled Sobol sequence: n or, up to the next power of two, more."""
    from scipy.stats.qmc import Sobol  # here, since it takes a second

    return Sobol(D, seed=rng).random_base2((n - 1).bit_length())


def log_h(q: np.ndarray) -> np.ndarray:
    """log(phi(q) + q Phi(q)) for any q, without cancellation or underflow.

    Below -1: h = phi (1 - t), t = -q sqrt(pi/2) erfcx(-q / sqrt 2) -> 1. Where t is 1 to a float's last
    digits, 1 - t is q^-2 - 3 q^-4 + ...
    """
    q = np.asarray(q, dtype=float)
    near, low = np.maximum(q, -1.0), np.minimum(q, -1.0)
    direct = np.log(np.exp(-0.5 * near * near - LOG_SQRT_2PI) + near * np.exp(log_ndtr(near)))
    middle, far = np.maximum(low, -1e3), np.minimum(low, -1e3)
    log_1_t = np.log1p(middle * math.sqrt(math.pi / 2) * erfcx(-middle / math.sqrt(2)))
    series = np.log1p(-3 / far**2) - 2 * np.log(-far)
    tail = -0.5 * low * low - LOG_SQRT_2PI + np.where(low > -1e3, log_1_t, series)
    return np.where(q > -1.0, direct, tail)


def log_ei(mu: np.ndarray, variance: np.ndarray, incumbent: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log EI and its derivatives by mu and by sigma^2, all (m,)."""
    sigma = np.sqrt(np.maximum(variance, 1e-12))
    q = (incumbent - mu) / sigma
    log_of_h = log_h(q)
    by_mu = -np.exp(log_ndtr(q) - log_of_h) / sigma
    by_variance = np.exp(-0.5 * q * q - LOG_SQRT_2PI - log_of_h) / (2 * sigma * sigma)
    return np.log(sigma) + log_of_h, by_mu, by_variance


@dataclass(frozen=True)
class Acquisition:
    """log EI, plus the logarithm of a belief about where the minimum lies: normal around `center` (Hvarfner et al.
    2022, "piBO"), with `precision` (D,) the inverse variances along each dimension, 0 for no belief.
    """

    gp: GP
    incumbent: float
    center: np.ndarray
    precision: np.ndarray

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Its values (m,) at X (m, D)."""
        return log_ei(*self.gp.predict(X), self.incumbent)[0] - (X - self.center) ** 2 @ self.precision / 2

    def gradient(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its values (m,) and gradients (m, D)."""
        mu, variance, mu_gradient, variance_gradient = self.gp.predict_with_gradient(X)
        value, by_mu, by_variance = log_ei(mu, variance, self.incumbent)
        gradient = by_mu[:, None] * mu_gradient + by_variance[:, None] * variance_gradient
        moved = X - self.center
        return value - moved**2 @ self.precision / 2, gradient - moved * self.precision


def maximize(f: Acquisition, space: Space, rng: np.random.Generator) -> np.ndarray:
    """Points (m, D) of the space, the one with the largest acquisition first."""
    gp = f.gp
    is_swept = space.is_category | np.array([p.k is not None and p.k <= SWEPT for p in space.parameters.values()])
    X = candidates(gp, space, is_swept, rng)
    value = f(X)
    starts = rng.choice(len(X), size=STARTS - 2, p=np.exp(value - np.logaddexp.reduce(value)))
    x = np.concatenate([X[[value.argmax(), *starts]], gp.U[[gp.z.argmin()]]])
    for _ in range(2):  # the second time from the best of the first alone
        climbed = space.snap(climb(f, space, x, ~is_swept))
        x, its = sweep(f, space, climbed, rng.permutation(np.flatnonzero(is_swept)))
        X, value = np.concatenate([X, x]), np.concatenate([value, its])
        if np.array_equal(climbed, x):
            break
        x = x[[its.argmax()]]
    return X[np.argsort(-value)]


def candidates(gp: GP, space: Space, is_swept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points (m, D) all over the space, and near the best three so far."""
    D = len(is_swept)
    centers = np.repeat(gp.U[np.argsort(gp.z)[:3]], PERTURBATIONS, axis=0)
    moved = centers + 10 ** rng.uniform(-3, -1, (len(centers), 1)) * rng.standard_normal(centers.shape)
    redrawn = np.where(rng.random(centers.shape) < 1 / D, rng.random(centers.shape), centers)
    near = np.where(is_swept, redrawn, reflect(moved))
    return space.snap(np.concatenate([sobol(CANDIDATES, D, rng), near]))


def reflect(X: np.ndarray) -> np.ndarray:
    """Points near the unit cube, reflected at its faces."""
    return (1 - np.abs(1 - np.abs(X))).clip(0, 1)


def climb(f: Acquisition, space: Space, X: np.ndarray, is_climbed: np.ndarray) -> np.ndarray:
    """X (m, D) moved uphill along the parameters that are climbed, in one L-BFGS-B run for all.

    Its unit is the length scale, in which the surface is about equally steep in all directions.
    """
    is_free = space.active(X) & is_climbed
    scale = np.broadcast_to(np.clip(unpack(f.gp.theta)[0], 0.05, 2), X.shape)[is_free]
    X = X.copy()

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        X[is_free] = x * scale
        value, gradient = f.gradient(X)
        return -value.sum(), -gradient[is_free] * scale

    if is_free.any():
        bounds = [(0, 1 / s) for s in scale]
        options = {"maxiter": 25, "gtol": 1e-4, "ftol": 1e-9}
        result = minimize(negative, X[is_free] / scale, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        X[is_free] = result.x * scale
    return X.clip(0, 1)


def sweep(f: Acquisition, space: Space, X: np.ndarray, swept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X (m, D) with the best value of each parameter `swept`, one after the other; and its acquisition (m,)."""
    value = f(X)
    rows = np.arange(len(X))
    for d in swept:
        tried = np.repeat(X[:, None], len(space.levels(d)), axis=1)  # (m, k, D)
        tried[:, :, d] = space.levels(d)
        tried = space.snap(tried.reshape(-1, X.shape[1])).reshape(tried.shape)
        its = f(tried.reshape(-1, X.shape[1])).reshape(len(X), -1)
        j = its.argmax(1)
        is_better = its[rows, j] > value
        X = np.where(is_better[:, None], tried[rows, j], X)
        value = np.where(is_better, its[rows, j], value)
    return X, value
