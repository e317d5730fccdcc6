"""log EI compared with 60 digits and with finite differences, its maximum with exhaustive search."""

import math
import tracemalloc

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.tuning.acquisition import Acquisition, log_ei, log_h, maximize, sobol
from mingpt.tuning.gp import GP
from mingpt.tuning.parameters import Choice, Float, Int
from mingpt.tuning.space import Space


@pytest.mark.parametrize("q", [5, 1, 0, -0.5, -0.999, -1, -1.001, -3, -10, -38, -300, -999, -1001, -1e4, -1e5])
def test_log_h_at_sixty_digits(q):
    with mpmath.workdps(60):
        exact = mpmath.log(mpmath.npdf(q) + q * mpmath.erfc(-mpmath.mpf(q) / mpmath.sqrt(2)) / 2)
        assert float(abs(log_h(q) - exact) / abs(exact)) < 1e-14


def test_log_h_is_increasing_and_finite():
    assert (np.diff(log_h(np.linspace(-2000, 5, 200_001))) > 0).all()
    assert np.isfinite(log_h(np.array([-1e8, -1e150, 1e8]))).all()


@pytest.mark.parametrize("incumbent", [0.0, -3.0, -50.0])  # EI itself underflows at the last
def test_derivatives_of_log_ei(incumbent):
    rng = np.random.default_rng(0)
    mu, variance = rng.normal(size=20), rng.uniform(0.1, 2, 20)
    _, by_mu, by_variance = log_ei(mu, variance, incumbent)
    for derivative, h, k in ((by_mu, 1e-6, 0), (by_variance, 0, 1e-6)):
        change = log_ei(mu + h, variance + k, incumbent)[0] - log_ei(mu - h, variance - k, incumbent)[0]
        np.testing.assert_allclose(derivative, change / 2e-6, rtol=1e-4)


def test_sobol_points_fill_the_cube():
    points = sobol(250, 3, np.random.default_rng(0))
    assert points.shape == (256, 3)
    assert (np.sort((points * 256).astype(int), axis=0) == np.arange(256)[:, None]).all()  # one in each stratum


def model(space, n=12, seed=0):
    U = space.snap(np.random.default_rng(seed).random((n, len(space.names))))
    z = np.sin(4 * U.sum(1)) + U[:, 0]
    theta = np.concatenate([np.full(len(space.names), -0.5), [0.0, np.log(1e-4), 1.0]])
    return GP(U, (z - z.mean()) / z.std(), space.is_category, theta, np.zeros(n))


def acquisition(gp, precision=0.0):
    """With a belief that the minimum lies near 0.3 along each dimension."""
    D = gp.U.shape[1]
    return Acquisition(gp, gp.z.min(), np.full(D, 0.3), np.full(D, precision))


def best(f, space, seed=0):
    return maximize(f, space, np.random.default_rng(seed))


@pytest.mark.parametrize("precision", [0.0, 20.0])
def test_gradient_of_the_acquisition(precision):
    space = Space({"x": Float(0, 1), "y": Float(0, 1)})
    f, X = acquisition(model(space), precision), np.random.default_rng(3).random((9, 2))
    value, gradient = f.gradient(X)
    assert value == pytest.approx(f(X))
    log_normal = -(((X - 0.3) ** 2).sum(1)) * precision / 2
    assert value - log_normal == pytest.approx(log_ei(*f.gp.predict(X), f.incumbent)[0])
    for d, h in enumerate(np.eye(2) * 1e-6):
        np.testing.assert_allclose(gradient[:, d], (f(X + h) - f(X - h)) / 2e-6, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_maximum_over_a_discrete_space_is_that_of_exhaustive_search(seed):
    conditional = Choice(0.5, 0.6, 0.7, 0.8, 0.9, when={"optimizer": ["sgd", "muon"]})
    space = Space(
        {"optimizer": Choice("adamw", "sgd", "muon"), "n_layer": Int(1, 6), "momentum": conditional, "width": Int(1, 8)}
    )
    f = acquisition(model(space, seed=seed), precision=seed % 2 * 10.0)
    everything = np.array([space.point(config) for config in space.configurations()])
    X = best(f, space, seed)
    assert f(X[:1])[0] == pytest.approx(f(everything).max(), abs=1e-6)
    assert (np.diff(f(X)) < 1e-9).all()


@pytest.mark.parametrize("seed", range(4))
def test_maximum_over_a_mixed_space_is_no_worse_than_the_best_of_many(seed):
    space = Space({"x": Float(0, 1), "kind": Choice("a", "b"), "y": Float(1e-4, 1, log=True), "n": Int(1, 1000)})
    f = acquisition(model(space, seed=seed), precision=seed % 2 * 10.0)
    many = space.snap(np.random.default_rng(seed + 100).random((20_000, 4)))
    assert f(best(f, space, seed)[:1])[0] >= f(many).max() - 0.01


def test_number_of_values_costs_no_memory():
    space = Space({"a": Int(1, 10**9), "b": Float(0, 1, step=1e-9), "c": Int(0, math.factorial(50))})
    f = acquisition(model(space))
    best(f, space)  # imports
    tracemalloc.start()
    u = best(f, space)[0]
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert space.contains(space.config(u))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 20))
def test_maximum_is_a_point_of_a_configuration(seed, n):
    momentum = Float(0.5, 0.99, when={"optimizer": ["sgd"]})
    space = Space({"lr": Float(1e-5, 1, log=True), "optimizer": Choice("adamw", "sgd"), "momentum": momentum})
    u = best(acquisition(model(space, n, seed)), space, seed)[0]
    assert space.contains(space.config(u))
    np.testing.assert_allclose(space.point(space.config(u)), u, atol=1e-5)  # values have six digits
