"""log EI beside 60 digits, its gradient beside finite differences, its maximiser beside trying everything."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.tuning import Choice, Float, Int
from mingpt.tuning.acquisition import (
    log_expected_improvement,
    log_expected_improvement_with_gradient,
    log_h,
    maximise,
)
from mingpt.tuning.gp import GP
from mingpt.tuning.space import Space


@pytest.mark.parametrize("q", [5, 1, 0, -0.5, -0.999, -1, -1.001, -3, -10, -38, -300, -999, -1001, -1e4, -1e5])
def test_log_h_at_sixty_digits(q):
    with mpmath.workdps(60):
        exact = mpmath.log(mpmath.npdf(q) + q * mpmath.erfc(-mpmath.mpf(q) / mpmath.sqrt(2)) / 2)
        assert float(abs(log_h(q) - exact) / abs(exact)) < 1e-14


def test_log_h_joins_its_pieces_smoothly_and_never_falls():
    q = np.linspace(-2000, 5, 200_001)
    assert np.isfinite(log_h(q)).all()
    assert (np.diff(log_h(q)) > 0).all()
    assert np.isfinite(log_h(np.array([-1e8, -1e150, 1e8]))).all()


def model(space, n=12, seed=0):
    U = space.snap(np.random.default_rng(seed).random((n, len(space.names))))
    z = np.sin(4 * U.sum(1)) + U[:, 0]
    theta = np.concatenate([np.full(len(space.names), -0.5), [0.0, np.log(1e-4), 1.0]])
    return GP(U, (z - z.mean()) / z.std(), space.is_category, theta)


def test_the_gradient_of_log_ei():
    gp = model(Space({name: Float(0, 1) for name in "abc"}))
    X = np.random.default_rng(3).random((20, 3))
    for best in (gp.z.min(), gp.z.min() - 3, gp.z.min() - 50):  # the last is far beyond what EI itself could hold
        value, gradient = log_expected_improvement_with_gradient(gp, best, X)
        np.testing.assert_allclose(value, log_expected_improvement(gp, best, X), rtol=1e-9)
        for d, e in enumerate(1e-6 * np.eye(3)):
            slope = log_expected_improvement(gp, best, X + e) - log_expected_improvement(gp, best, X - e)
            np.testing.assert_allclose(gradient[:, d], slope / 2e-6, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_the_maximum_over_a_discrete_space_is_the_one_found_by_trying_everything(seed):
    space = Space(
        {
            "optimizer": Choice("adamw", "sgd", "muon"),
            "n_layer": Int(1, 6),
            "momentum": Float(0.5, 0.9, step=0.1, when={"optimizer": ["sgd", "muon"]}),
            "width": Int(16, 128, log=True, step=16),
        }
    )
    gp = model(space, seed=seed)
    everything = np.array([space.point(config) for config in space.configurations()])
    assert len(everything) == space.size == (1 + 2 * 5) * 6 * 8
    value = log_expected_improvement(gp, gp.z.min(), everything)
    is_seen = (np.abs(everything[:, None] - gp.U[None]).max(2) < 1e-9).any(1)
    best = value[~is_seen].max()
    u = maximise(gp, gp.z.min(), space, gp.U, np.random.default_rng(seed))
    assert log_expected_improvement(gp, gp.z.min(), u[None])[0] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_maximum_over_a_mixed_space_is_no_worse_than_the_best_of_many(seed):
    space = Space({"x": Float(0, 1), "kind": Choice("a", "b"), "y": Float(1e-4, 1, log=True), "n": Int(1, 1000)})
    gp = model(space, seed=seed)
    many = space.snap(np.random.default_rng(seed + 100).random((20_000, 4)))
    u = maximise(gp, gp.z.min(), space, gp.U, np.random.default_rng(seed))
    found = log_expected_improvement(gp, gp.z.min(), np.stack([u, *many]))
    assert found[0] >= found[1:].max() - 0.01


def test_what_was_seen_is_never_proposed_and_a_used_up_space_says_so():
    space = Space({"a": Choice(1, 2, 4), "b": Choice("x", "y")})
    everything = np.array([space.point(config) for config in space.configurations()])
    gp = model(space, n=6)
    for left in range(6):
        u = maximise(gp, gp.z.min(), space, np.delete(everything, left, axis=0), np.random.default_rng(0))
        np.testing.assert_array_equal(u, everything[left])
    assert maximise(gp, gp.z.min(), space, everything, np.random.default_rng(0)) is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 20))
def test_every_proposal_is_in_the_space_and_new(seed, n):
    space = Space(
        {
            "lr": Float(1e-5, 1, log=True),
            "optimizer": Choice("adamw", "sgd"),
            "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd"]}),
            "layers": Int(1, 3),
        }
    )
    gp = model(space, n=n, seed=seed)
    u = maximise(gp, gp.z.min(), space, gp.U, np.random.default_rng(seed))
    assert space.contains(space.config(u))
    np.testing.assert_allclose(space.point(space.config(u)), u, atol=1e-12)
    assert np.abs(gp.U - u).max(1).min() > 1e-9
