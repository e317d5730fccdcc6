"""A Gaussian process: from values at a few points, what is believed of the value at any other.

Notation:

    U        (n, D) points of the unit cube that were tried
    y        (n,) their values; z: the same, warped and standardised
    d_d      |u_d - u'_d|, the distance of two points along dimension d; 0 or 1 where d is a category
    ell, s2    (D,) lengthscales: how far along each dimension values stay alike; variance of the process
    c        how much a dimension says by itself, 1/c -> 0: only all together
    nu       variance of the noise in z
    theta    (ln ell, ln s2, ln nu, ln c): the hyperparameters, all found by the data
    K        (n, n) covariance of the values at U, noise on the diagonal;  K = L L'
    m        the mean of the process, a constant

The kernel is a product over the dimensions of Matern-5/2 kernels (Rasmussen and Williams 2006, equation
4.17), each with a constant beside it, so that it has additive terms of every order (Duvenaud et al. 2011):

    k(u, u') = s2 prod_d (1 + c M(d_d / ell_d)) / (1 + c)^D,    M(r) = (1 + a + a^2/3) exp(-a),  a = sqrt(5) r

The mean is the generalised least squares one, m = 1'K^-1 z / 1'K^-1 1, and the posterior at u, with k the
covariances of u with U (Rasmussen and Williams, equations 2.25 and 2.26):

    mu = m + k' alpha,    alpha = K^-1 (z - m),    sigma^2 = k(u, u) - k' K^-1 k

theta maximises the likelihood of z times a prior. With W = alpha alpha' - K^-1 the derivative of the log
likelihood along any theta_i is tr(W dK/dtheta_i) / 2 (equation 5.9); that m follows theta adds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

SQRT5 = math.sqrt(5)
# Added to the diagonal whatever nu is. A floor of 1e-6 costs Branin, which has no noise, a factor of five
# in regret; below 1e-8 the Cholesky decomposition begins to fail.
JITTER = 1e-8
# Of ln l, ln s2, ln nu, ln c. Wide enough that the prior decides, not they.
BOUNDS = ((math.log(0.03), math.log(30)), (-5.0, 5.0), (-18.0, 0.0), (-6.0, 6.0))
START = (0.0, 0.0, math.log(1e-3), 0.0)


def distances(U: np.ndarray, V: np.ndarray, is_category: np.ndarray) -> np.ndarray:
    """(D, n, m): how far apart along each dimension the points U (n, D) and V (m, D) are."""
    difference = np.abs(U.T[:, :, None] - V.T[:, None, :])
    difference[is_category] = difference[is_category] > 1e-9
    return difference


def matern(r: np.ndarray) -> np.ndarray:
    """The Matern-5/2 kernel at a distance of r lengthscales."""
    a = SQRT5 * r
    return (1 + a + a * a / 3) * np.exp(-a)


def unpack(theta: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """l (D,), s2, nu and c."""
    return np.exp(theta[:-3]), math.exp(theta[-3]), math.exp(theta[-2]), math.exp(theta[-1])


def covariance(d: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """k for distances d (D, ...): an array of the shape behind D."""
    ell, s2, _, c = unpack(theta)
    k = np.full(d.shape[1:], s2)
    for its, length in zip(d, ell, strict=True):  # one after the other, since all at once leave the processor's cache
        k *= (1 + c * matern(its / length)) / (1 + c)
    return k


def negative_log_prior(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """-ln p(theta) up to a constant, and its gradient.

    Lengthscales neither much below the cube's width nor far above it, two-sided as in Optuna's GP;
    s2 ~ Gamma(2, 1); nu ~ Gamma(0.1, 30), which prefers none; ln c ~ N(0, 2^2).
    """
    ell, s2, nu, _ = unpack(theta)
    value = (0.1 * (ell**2 + ell**-2)).sum() - theta[-3] + s2 - 0.1 * theta[-2] + 30 * nu + theta[-1] ** 2 / 8
    gradient = np.concatenate([0.2 * (ell**2 - ell**-2), [s2 - 1, 30 * nu - 0.1, theta[-1] / 4]])
    return float(value), gradient


def negative_log_posterior(
    theta: np.ndarray, d: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], z: np.ndarray, extra: np.ndarray
) -> tuple[float, np.ndarray]:
    """-ln p(z | theta) - ln p(theta) and its gradient.

    d (D, p) holds the distances of the p pairs of points, i > j; extra (n,) is added to the noise of
    single points. A theta whose K is not positive definite is infinitely bad.
    """
    n, D = len(z), len(d)
    ell, s2, nu, c = unpack(theta)
    r = d / ell[:, None]
    a = SQRT5 * r
    e = np.exp(-a)
    F = 1 + c * (1 + a + a * a / 3) * e  # (D, p)
    k = s2 * F.prod(0) / (1 + c) ** D  # (p,)
    K = np.zeros((n, n))
    K[pairs] = k  # the lower triangle, all that is read
    K[np.diag_indices(n)] = s2 + nu + JITTER + extra
    L, failed = dpotrf(K, lower=True)
    if failed:
        return np.inf, np.zeros_like(theta)
    inverse, _ = dpotri(L, lower=True)
    inverse[pairs[::-1]] = inverse[pairs]
    ones = inverse.sum(0)
    z = z - ones @ z / ones.sum()
    alpha = inverse @ z
    value = 0.5 * z @ alpha + np.log(np.diag(L)).sum() + 0.5 * n * math.log(2 * math.pi)

    A = (alpha[pairs[0]] * alpha[pairs[1]] - inverse[pairs]) * k  # W o K over the pairs
    trace = alpha @ alpha - np.trace(inverse)  # of W
    by_l = (5 / 3) * c * ((1 + a) * e * r * r / F) @ A
    by_s2 = A.sum() + 0.5 * s2 * trace
    by_nu = 0.5 * nu * trace
    by_c = A @ ((1 - 1 / F).sum(0) - D * c / (1 + c))
    prior, gradient = negative_log_prior(theta)
    return value + prior, gradient - np.concatenate([by_l, [by_s2, by_nu, by_c]])


def fit(
    U: np.ndarray,
    z: np.ndarray,
    is_category: np.ndarray,
    extra: np.ndarray | float = 0.0,
    start: np.ndarray | None = None,
    iterations: int = 60,
) -> tuple[np.ndarray, float]:
    """The most probable theta for values z (n,) at U (n, D), and its negative log posterior."""
    n, D = U.shape
    pairs = np.tril_indices(n, -1)
    d = distances(U, U, is_category)[:, pairs[0], pairs[1]]
    start = np.concatenate([np.full(D, START[0]), START[1:]]) if start is None else start
    found = minimize(
        negative_log_posterior,
        start,
        (d, pairs, z, extra),
        jac=True,
        method="L-BFGS-B",
        bounds=[BOUNDS[0]] * D + list(BOUNDS[1:]),
        options=dict(maxiter=iterations, gtol=1e-2, ftol=1e-6),
    )
    return found.x, float(found.fun)


@dataclass
class GP:
    """The posterior given values z (n,) at points U (n, D), with everything that predictions reuse."""

    U: np.ndarray
    z: np.ndarray
    is_category: np.ndarray
    theta: np.ndarray
    extra: np.ndarray | float = 0.0

    def __post_init__(self) -> None:
        n = len(self.z)
        _, _, nu, _ = unpack(self.theta)
        K = covariance(distances(self.U, self.U, self.is_category), self.theta)
        K[np.diag_indices(n)] += nu + JITTER + self.extra
        self.L = cholesky(K, lower=True, check_finite=False)
        ones = cho_solve((self.L, True), np.ones(n), check_finite=False)  # K^-1 1
        self.mean = float(ones @ self.z / ones.sum())
        self.alpha = cho_solve((self.L, True), self.z - self.mean, check_finite=False)

    def predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mu (m,) and sigma^2 (m,), without noise, at X (m, D)."""
        k = covariance(distances(X, self.U, self.is_category), self.theta)  # (m, n)
        v = solve_triangular(self.L, k.T, lower=True, check_finite=False)
        return self.mean + k @ self.alpha, math.exp(self.theta[-3]) - (v * v).sum(0)

    def predict_with_gradient(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """mu (m,), sigma^2 (m,) and their gradients by u (m, D) each; a category's is 0."""
        ell, s2, _, c = unpack(self.theta)
        difference = X.T[:, :, None] - self.U.T[:, None, :]  # (D, m, n)
        r = distances(X, self.U, self.is_category) / ell[:, None, None]
        a = SQRT5 * r
        e = np.exp(-a)
        F = 1 + c * (1 + a + a * a / 3) * e
        k = s2 * F.prod(0) / (1 + c) ** len(ell)  # (m, n)
        slope = -(5 / 3) * c * (1 + a) * e * difference / (ell * ell)[:, None, None] / F  # d ln k / du_d
        slope[self.is_category] = 0
        v = solve_triangular(self.L, k.T, lower=True, check_finite=False)  # (n, m)
        weights = solve_triangular(self.L, v, lower=True, trans=1, check_finite=False).T  # (m, n): K^-1 k
        mu_gradient = np.einsum("dmn,mn->md", slope, k * self.alpha)
        variance_gradient = -2 * np.einsum("dmn,mn->md", slope, k * weights)
        return self.mean + k @ self.alpha, s2 - (v * v).sum(0), mu_gradient, variance_gradient
