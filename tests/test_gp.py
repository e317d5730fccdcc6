"""The Gaussian process compared with scikit-learn's, its gradients with finite differences."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from mingpt.tuning.gp import GP, JITTER, differences, fit, negative_log_posterior, negative_log_prior, unpack

D = 3
THETA = np.array([-0.7, 0.2, 0.5, 0.3, -4.0, 0.6])  # ln ell of three dimensions, ln s2, ln nu, logit w
NUMBERS = np.zeros(D, dtype=bool)
WITH_CATEGORY = np.array([False, False, True])


class MaternOfColumn(Matern):
    """scikit-learn's Matern-5/2 kernel of a single column."""

    def __init__(self, column=0, length_scale=1.0, length_scale_bounds="fixed", nu=2.5):
        super().__init__(length_scale, length_scale_bounds, nu)
        self.column = column

    def __call__(self, X, Y=None, eval_gradient=False):
        return super().__call__(X[:, [self.column]], None if Y is None else Y[:, [self.column]], eval_gradient)


def sklearn_gp(U, z, theta):
    ell, s2, nu, w = unpack(theta)
    kernel = ConstantKernel(s2, "fixed")
    for d in range(U.shape[1]):
        kernel *= ConstantKernel(1 - w, "fixed") + ConstantKernel(w, "fixed") * MaternOfColumn(d, ell[d])
    kernel += WhiteKernel(nu + JITTER, "fixed")
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(U, z)


def data(n=25, seed=0):
    U = np.random.default_rng(seed).random((n, D))
    return U, np.sin(5 * U[:, 0]) + U[:, 1] ** 2 - U[:, 2]


def loss(theta, U, z, is_category, tau2):
    pairs = np.tril_indices(len(z), -1)
    return negative_log_posterior(theta, differences(U, U, is_category)[:, pairs[0], pairs[1]], pairs, z, tau2)


def check_gradient(f, x, gradient, h=1e-5):
    numeric = [(f(x + e) - f(x - e)) / (2 * h) for e in h * np.eye(len(x))]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_mean_variance_and_marginal_likelihood():
    U, z = data()
    gp = GP(U, z, NUMBERS, THETA, 0 * z)
    inverse = np.linalg.inv(sklearn_gp(U, z, THETA).kernel_(U))
    assert gp.mean == pytest.approx((inverse @ z).sum() / inverse.sum())
    oracle = sklearn_gp(U, z - gp.mean, THETA)
    X = np.random.default_rng(1).random((40, D))
    mu, deviation = oracle.predict(X, return_std=True)
    mean, variance = gp.predict(X)
    np.testing.assert_allclose(mean, mu + gp.mean, rtol=1e-7)
    np.testing.assert_allclose(variance, deviation**2 - unpack(THETA)[2] - JITTER, rtol=1e-6, atol=1e-10)
    value = loss(THETA, U, z, NUMBERS, 0 * z)[0] - negative_log_prior(THETA)[0]
    assert value == pytest.approx(-oracle.log_marginal_likelihood(), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_categories_and_the_gradient_by_the_hyperparameters(seed):
    rng = np.random.default_rng(seed)
    U, z = data(18, seed)
    U[:, 2] = np.where(U[:, 2] > 0.5, 0.75, 0.25)
    np.testing.assert_array_equal(differences(U, U, WITH_CATEGORY)[2], U[:, None, 2] != U[:, 2])
    theta, rest = THETA + rng.normal(size=D + 3) * 0.3, (U, z, WITH_CATEGORY, rng.random(18) * 0.1)
    check_gradient(lambda theta: loss(theta, *rest)[0], theta, loss(theta, *rest)[1])


def test_gradients_of_mean_and_variance():
    U, z = data()
    x = np.random.default_rng(2).random(D)
    for is_category in (NUMBERS, WITH_CATEGORY):
        gp = GP(U, z, is_category, THETA, 0 * z)
        mean, variance, by_mean, by_variance = gp.predict_with_gradient(x[None])
        np.testing.assert_allclose([mean[0], variance[0]], np.ravel(gp.predict(x[None])), rtol=1e-9)
        check_gradient(lambda u, gp=gp: gp.predict(u[None])[0][0], x, by_mean[0])
        check_gradient(lambda u, gp=gp: gp.predict(u[None])[1][0], x, by_variance[0])


def test_value_with_a_large_variance_counts_less():
    U, z = data()
    z[4] += 3.0
    exact, inexact = (GP(U, z, NUMBERS, THETA, tau2 * np.eye(len(z))[4]).predict(U[[4]])[0][0] for tau2 in (0.0, 10.0))
    assert abs(exact - z[4]) < 1.0 < 2.0 < z[4] - inexact


def test_fit_finds_the_dimension_that_matters():
    U, _ = data(40)
    z = 2 * np.sin(7 * U[:, 0])
    theta, value = fit(U, z, NUMBERS, 0 * z)
    ell, _, nu, _ = unpack(theta)
    assert (ell[0] < ell[1:]).all() and nu < 1e-3
    assert value < loss(0 * theta, U, z, NUMBERS, 0 * z)[0] - 10
