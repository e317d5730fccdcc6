"""The Gaussian process beside scikit-learn's, its gradients beside finite differences."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from mingpt.tuning.gp import GP, JITTER, distances, fit, negative_log_posterior, negative_log_prior, unpack

D = 3
THETA = np.array([-0.7, 0.2, 0.5, 0.3, -4.0, 0.6])  # ln l of three dimensions, ln s2, ln nu, ln c
NO_CATEGORY = np.zeros(D, dtype=bool)


class AlongOne(Matern):
    """scikit-learn's Matern-5/2 kernel of a single column."""

    def __init__(self, column=0, length_scale=1.0, length_scale_bounds="fixed", nu=2.5):
        super().__init__(length_scale, length_scale_bounds, nu)
        self.column = column

    def __call__(self, X, Y=None, eval_gradient=False):
        return super().__call__(X[:, [self.column]], None if Y is None else Y[:, [self.column]], eval_gradient)


def theirs(U, z, theta):
    ell, s2, nu, c = unpack(theta)
    kernel = ConstantKernel(s2, "fixed")
    for d in range(U.shape[1]):
        part = ConstantKernel(1 / (1 + c), "fixed")
        part += ConstantKernel(c / (1 + c), "fixed") * AlongOne(d, ell[d])
        kernel = kernel * part
    kernel += WhiteKernel(nu + JITTER, "fixed")
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(U, z)


def data(n=25, seed=0):
    U = np.random.default_rng(seed).random((n, D))
    return U, np.sin(5 * U[:, 0]) + U[:, 1] ** 2 - U[:, 2]


def test_mean_variance_and_likelihood_are_scikit_learns():
    U, z = data()
    ours = GP(U, z, NO_CATEGORY, THETA)
    oracle = theirs(U, z - ours.mean, THETA)
    X = np.random.default_rng(1).random((40, D))
    mu, deviation = oracle.predict(X, return_std=True)
    mean, variance = ours.predict(X)
    np.testing.assert_allclose(mean, mu + ours.mean, rtol=1e-7)
    np.testing.assert_allclose(variance, deviation**2 - unpack(THETA)[2] - JITTER, rtol=1e-6, atol=1e-10)

    pairs = np.tril_indices(len(z), -1)
    d = distances(U, U, NO_CATEGORY)[:, pairs[0], pairs[1]]
    value, _ = negative_log_posterior(THETA, d, pairs, z, 0.0)
    assert value - negative_log_prior(THETA)[0] == pytest.approx(-oracle.log_marginal_likelihood(), rel=1e-9)


def test_the_mean_is_the_generalised_least_squares_one():
    U, z = data()
    K = theirs(U, z, THETA).kernel_(U)
    inverse = np.linalg.inv(K)
    assert GP(U, z, NO_CATEGORY, THETA).mean == pytest.approx((inverse @ z).sum() / inverse.sum())
    assert GP(U, np.full(len(z), 7.0), NO_CATEGORY, THETA).mean == pytest.approx(7.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_posterior_of_theta(seed):
    rng = np.random.default_rng(seed)
    U, z = data(18, seed)
    U[:, 2] = np.where(U[:, 2] > 0.5, 0.75, 0.25)
    pairs = np.tril_indices(len(z), -1)
    d = distances(U, U, np.array([False, False, True]))[:, pairs[0], pairs[1]]
    extra = rng.random(len(z)) * 0.1
    theta = THETA + rng.normal(size=len(THETA)) * 0.3

    def value(theta):
        return negative_log_posterior(theta, d, pairs, z, extra)[0]

    check_gradient(value, theta, negative_log_posterior(theta, d, pairs, z, extra)[1])


def test_the_gradients_of_mean_and_variance():
    U, z = data()
    gp = GP(U, z, NO_CATEGORY, THETA)
    x = np.random.default_rng(2).random(D)
    mean, variance, by_mean, by_variance = gp.predict_with_gradient(x[None])
    np.testing.assert_allclose([mean[0], variance[0]], np.ravel(gp.predict(x[None])), rtol=1e-9)
    check_gradient(lambda u: gp.predict(u[None])[0][0], x, by_mean[0])
    check_gradient(lambda u: gp.predict(u[None])[1][0], x, by_variance[0])


def check_gradient(f, x, gradient, h=1e-5):
    steps = h * np.eye(len(x))
    np.testing.assert_allclose(gradient, [(f(x + e) - f(x - e)) / (2 * h) for e in steps], rtol=1e-5, atol=1e-6)


def test_a_category_is_equal_or_not_however_far_its_number():
    U = np.array([[0.1, 0.5, 0.17], [0.1, 0.5, 0.5], [0.1, 0.5, 0.83]])
    d = distances(U, U, np.array([False, False, True]))
    np.testing.assert_array_equal(d[2], 1 - np.eye(3))


def test_extra_noise_makes_a_single_value_count_less():
    U, z = data()
    extra = np.zeros(len(z))
    extra[4] = 10.0
    z[4] += 3.0
    trusted = GP(U, z, NO_CATEGORY, THETA).predict(U[[4]])[0][0]
    doubted = GP(U, z, NO_CATEGORY, THETA, extra).predict(U[[4]])[0][0]
    assert abs(trusted - z[4]) < 1.0 < 2.0 < z[4] - doubted


def test_fit_improves_on_its_start_and_finds_the_dimensions_that_matter():
    U, _ = data(40)
    z = np.sin(7 * U[:, 0])
    z = (z - z.mean()) / z.std()
    theta, value = fit(U, z, NO_CATEGORY)
    pairs = np.tril_indices(len(z), -1)
    d = distances(U, U, NO_CATEGORY)[:, pairs[0], pairs[1]]
    assert value < negative_log_posterior(np.array([0, 0, 0, 0, np.log(1e-3), 0.0]), d, pairs, z, 0.0)[0] - 10
    ell, _, nu, _ = unpack(theta)
    assert ell[0] < min(ell[1], ell[2])
    assert nu < 1e-3
