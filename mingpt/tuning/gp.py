"""Gaussian process regression with a product of Matern-5/2 kernels.

Notation:

    U, X     (n, D), (m, D) points of the unit cube: those with values, those to predict
    z        (n,) standardized values at U;  tau2 (n,) known part of their variance
    delta    (D, n, m) differences u_d - u'_d of two points; where d is a category, 0 if equal and 1 if not
    ell      (D,) length scales;  s2 signal variance;  nu noise variance
    w        weight of the dimensions: near 0 their effects add up, at 1 the kernel is the plain product
    theta    (D + 3,) the hyperparameters: ln ell, ln s2, ln nu, logit w
    K        (n, n) covariance of z, noise on the diagonal;  K = L L' (Cholesky)

The kernel is a product of Matern-5/2 kernels M (Rasmussen and Williams 2006, equation 4.17), each added to a constant,
which gives additive terms of every order (Duvenaud et al. 2011):

    k(u, u') = s2 prod_d F_d,    F_d = 1 - w + w M(a_d),    a_d = sqrt(5) |delta_d| / ell_d
    M(a) = (1 + a + a^2 / 3) exp(-a),    M'(a) = -a (1 + a) / 3 exp(-a)
    d ln k / d a_d = w M'(a_d) / F_d,    d ln k / d logit w = sum_d (1 - w) (1 - 1 / F_d)

The mean is constant, estimated by generalized least squares. With k the covariances of u with U, the posterior at u
is normal (Rasmussen and Williams, equations 2.25 and 2.26) with

    mean = 1' K^-1 z / 1' K^-1 1,    alpha = K^-1 (z - mean)
    mu = mean + k' alpha,    sigma^2 = s2 - k' K^-1 k

theta maximizes its posterior density. With W = alpha alpha' - K^-1 the derivative of the log marginal likelihood
along theta_i is tr(W dK / d theta_i) / 2 (equation 5.9); that the mean depends on theta adds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotri, dpotrs
from scipy.optimize import minimize
from scipy.special import expit

SQRT5 = math.sqrt(5)
# Added to the diagonal. 1e-6 multiplies the regret on Branin by five; below 1e-8 the decomposition begins to fail.
JITTER = 1e-8
# Bounds and start of ln ell, ln s2, ln nu, logit w. The bounds are wide enough for the prior to decide.
BOUNDS = [(math.log(0.03), math.log(30)), (-5.0, 5.0), (-18.0, 0.0), (-6.0, 6.0)]
START = [0.0, 0.0, math.log(1e-3), 0.0]


def differences(U: np.ndarray, V: np.ndarray, is_category: np.ndarray) -> np.ndarray:
    """delta (D, n, m) of the points U (n, D) and V (m, D)."""
    delta = U.T[:, :, None] - V.T[:, None, :]
    delta[is_category] = np.abs(delta[is_category]) > 1e-9
    return delta


def unpack(theta: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """ell (D,), s2, nu and w."""
    return np.exp(theta[:-3]), math.exp(theta[-3]), math.exp(theta[-2]), float(expit(theta[-1]))


def kernel(delta: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k (...), a (D, ...) and F (D, ...) for delta (D, ...), whose trailing shape is any."""
    ell, s2, _, w = unpack(theta)
    a = (np.abs(delta).T * (SQRT5 / ell)).T
    F = a / 3 + 1  # in place from here on: most of a suggestion's time is spent on these lines
    F *= a
    F += 1
    F *= np.exp(-a)
    F *= w
    F += 1 - w
    return s2 * F.prod(0), a, F


def kernel_slope(a: np.ndarray, F: np.ndarray, w: float) -> np.ndarray:
    """d ln k / d a (D, ...)."""
    slope = np.exp(-a)
    slope *= a
    slope *= 1 + a
    slope *= -w / 3
    slope /= F
    return slope


def regress(K: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """L (n, n), the generalized least squares mean, and alpha (n,)."""
    L = np.linalg.cholesky(K)
    solved, _ = dpotrs(L, np.stack([np.ones_like(z), z], axis=1), lower=True)  # K^-1 (1, z)
    mean = float(solved[:, 1].sum() / solved[:, 0].sum())
    return L, mean, solved[:, 1] - mean * solved[:, 0]


def negative_log_prior(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """-ln p(theta) up to a constant, and its gradient.

    The density of ell falls off on both sides of the cube's width, as in Optuna's GP; s2 ~ Gamma(2, 1);
    nu ~ Gamma(0.1, 30), which prefers little noise; logit w ~ N(0, 2^2).
    """
    ell, s2, nu, _ = unpack(theta)
    value = (0.1 * (ell**2 + ell**-2)).sum() - theta[-3] + s2 - 0.1 * theta[-2] + 30 * nu + theta[-1] ** 2 / 8
    gradient = np.concatenate([0.2 * (ell**2 - ell**-2), [s2 - 1, 30 * nu - 0.1, theta[-1] / 4]])
    return float(value), gradient


def negative_log_posterior(
    theta: np.ndarray, delta: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], z: np.ndarray, tau2: np.ndarray
) -> tuple[float, np.ndarray]:
    """-ln p(z | theta) - ln p(theta) and its gradient; delta (D, p) of the pairs of points below the diagonal of K."""
    n = len(z)
    _, s2, nu, w = unpack(theta)
    k, a, F = kernel(delta, theta)
    K = np.diag(s2 + nu + JITTER + tau2)
    K[pairs] = k  # the lower triangle is enough
    try:
        L, mean, alpha = regress(K, z)
    except np.linalg.LinAlgError:  # not positive definite: the line search takes a shorter step
        return np.inf, np.zeros_like(theta)
    value = 0.5 * (z - mean) @ alpha + np.log(np.diag(L)).sum() + 0.5 * n * math.log(2 * math.pi)

    W = np.outer(alpha, alpha) - dpotri(L, lower=True)[0]  # the lower triangle
    A = W[pairs] * k  # tr(W dK) / 2 is the sum of A d ln k, and half of the diagonal's
    by_ell = -(kernel_slope(a, F, w) * a) @ A
    by_s2, by_nu = A.sum() + 0.5 * s2 * np.trace(W), 0.5 * nu * np.trace(W)
    by_w = ((1 - w) * (1 - 1 / F)).sum(0) @ A
    prior, gradient = negative_log_prior(theta)
    return value + prior, gradient - np.concatenate([by_ell, [by_s2, by_nu, by_w]])


def fit(
    U: np.ndarray, z: np.ndarray, is_category: np.ndarray, tau2: np.ndarray, start: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The theta with the highest posterior density for z (n,) at U (n, D), and -ln of that density."""
    D, pairs = U.shape[1], np.tril_indices(len(z), -1)
    data = differences(U, U, is_category)[:, pairs[0], pairs[1]], pairs, z, tau2
    start = [START[0]] * D + START[1:] if start is None else start
    bounds = [BOUNDS[0]] * D + BOUNDS[1:]
    options = {"maxiter": 60, "gtol": 1e-2, "ftol": 1e-4}
    result = minimize(negative_log_posterior, start, data, "L-BFGS-B", jac=True, bounds=bounds, options=options)
    return result.x, float(result.fun)


@dataclass
class GP:
    """The posterior given values z (n,) at points U (n, D), and what all predictions share."""

    U: np.ndarray
    z: np.ndarray
    is_category: np.ndarray
    theta: np.ndarray
    tau2: np.ndarray

    def __post_init__(self) -> None:
        k, _, _ = kernel(differences(self.U, self.U, self.is_category), self.theta)
        K = k + np.diag(unpack(self.theta)[2] + JITTER + self.tau2)
        self.L, self.mean, self.alpha = regress(K, self.z)

    def predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mu (m,) and sigma^2 (m,), without noise, at X (m, D)."""
        k, _, _ = kernel(differences(self.U, X, self.is_category), self.theta)  # (n, m)
        v = solve_triangular(self.L, k, lower=True, check_finite=False)
        return self.mean + self.alpha @ k, unpack(self.theta)[1] - (v * v).sum(0)

    def predict_with_gradient(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """mu (m,), sigma^2 (m,) and their gradients (m, D) by u; 0 along a category."""
        ell, s2, _, w = unpack(self.theta)
        delta = differences(self.U, X, self.is_category)
        k, a, F = kernel(delta, self.theta)
        by_u = kernel_slope(a, F, w) * np.sign(delta) * (-SQRT5 / ell)[:, None, None]  # d ln k / du_d (D, n, m)
        by_u[self.is_category] = 0
        v = solve_triangular(self.L, k, lower=True, check_finite=False)
        solved = solve_triangular(self.L, v, lower=True, trans=1, check_finite=False)  # K^-1 k
        by_mu = np.einsum("dnm,nm->md", by_u, k * self.alpha[:, None])
        by_variance = -2 * np.einsum("dnm,nm->md", by_u, k * solved)
        return self.mean + self.alpha @ k, s2 - (v * v).sum(0), by_mu, by_variance
