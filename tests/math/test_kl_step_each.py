"""A bound for every step: each multiplier by its own slope of the dual, SLSQP, and what keeps no bound."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from forethought.math.kl_dual import Bracket, KLStatus
from forethought.math.kl_step import _known, kl_step_each, within
from kl_cases import Controller, divergences, expected, kl_case
from kl_parts import USUAL, each, number, parts, plain, quick, stacked, tried, usual, whole

COSTS = pytest.mark.parametrize("lift", [0.0, -0.6], ids=["convex", "indefinite"])


@COSTS
def test_every_bound_is_reached_and_costs_are_those_of_textbook_formulas(lift):
    for seed in range(4):
        p, bounds = usual(seed, lift=lift), np.array([0.1, 0.7, 0.02, 0.3])
        found = each(parts(p), bounds)
        new = plain(found.policy)
        assert found.status == KLStatus.SOLVED
        np.testing.assert_allclose(found.kl, bounds, rtol=1e-9)
        np.testing.assert_allclose(divergences(p, new), bounds, rtol=1e-8)
        assert float(found.cost) == pytest.approx(expected(p, new), rel=1e-10)
        assert float(found.cost) < expected(p, p.old_policy)
        again = tried(parts(p), found.multiplier)
        np.testing.assert_allclose(again.result[0].K, found.policy.K, rtol=1e-8, atol=1e-9)


class TestAgainstSLSQP:
    T, n, m = 2, 2, 1

    def unpack(self, v) -> Controller:
        T, n, m = self.T, self.n, self.m
        K, k, logs = v[: T * n].reshape(T, m, n), v[T * n : T * n + T].reshape(T, m), v[-T:]
        return Controller(K, k, np.exp(2.0 * logs).reshape(T, m, m))

    @COSTS
    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_least_cost_and_the_policy_are_the_same(self, seed, lift):
        p, bounds = kl_case(self.n, self.m, self.T, seed=seed, lift=lift), np.array([0.05, 0.8])
        old = p.old_policy
        begin = np.concatenate([old.K.ravel(), old.k.ravel(), 0.5 * np.log(old.cov.ravel())])
        rule = {"type": "ineq", "fun": lambda v: bounds - divergences(p, self.unpack(v))}
        cost = lambda v: expected(p, self.unpack(v))
        other = minimize(cost, begin, method="SLSQP", constraints=[rule], options={"ftol": 1e-13, "maxiter": 500})
        assert rule["fun"](other.x).min() > -1e-8
        found = each(parts(p), bounds)
        assert found.status == KLStatus.SOLVED
        assert float(found.cost) == pytest.approx(other.fun, abs=2e-6)
        for a, b in zip(plain(found.policy), self.unpack(other.x), strict=True):
            np.testing.assert_allclose(a, b, atol=5e-3)


def test_one_bound_for_all_steps_is_the_looser_one():
    """Bounds on each step that add up to it allow less."""
    for seed in range(4):
        given = parts(usual(seed, lift=-0.4 * (seed % 2)))
        loose, strict = whole(given, 2.0), each(given, 0.5)
        assert float(loose.cost) < float(strict.cost)
        assert loose.kl.max() > 0.5


def test_the_multipliers_of_the_last_step_save_solves():
    cold, warm = [], []
    for seed in range(8):
        p = usual(seed, lift=-0.3)
        last = each(parts(p), 0.6, how=USUAL)
        after = parts(p._replace(C=1.05 * p.C, old_policy=p.old_policy._replace(k=p.old_policy.k + 0.01)))
        cold.append(int(each(after, 0.6, how=USUAL).solves))
        warm.append(int(each(after, 0.6, guess=last.multiplier, how=USUAL).solves))
    assert sum(warm) < 0.7 * sum(cold)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_guess_that_is_none_is_passed_over(bad):
    given = parts(usual())
    found = each(given, 0.2, guess=[1.0, bad, 2.0, 3.0], how=USUAL)
    np.testing.assert_array_equal(found.multiplier, each(given, 0.2, how=USUAL).multiplier)


@pytest.mark.parametrize("spread", [1e3, 1e40, 1e300])
def test_a_guess_may_be_far_off(spread):
    found = each(parts(usual()), 0.2, guess=[1.0, spread, 1.0, 1.0 / spread], how=USUAL)
    assert within(found, number([0.2] * 4))
    if spread == 1e3:
        assert found.status == KLStatus.SOLVED


def test_with_an_entropy_what_is_least_is_cost_less_entropy():
    for seed in range(4):
        given = parts(usual(seed))
        found = each(given, 0.5, entropy=0.5)
        assert within(found, number([0.5] * 4), 1e-9)
        free = tried(given, found.multiplier, entropy=0.5)
        np.testing.assert_allclose(free.result[0].K, found.policy.K, rtol=1e-8, atol=1e-9)
        assert float(found.cost) == pytest.approx(expected(usual(seed), plain(found.policy)), rel=1e-10)
        for factor in (0.8, 1.25, 3.0):
            other = tried(given, factor * found.multiplier, entropy=0.5)
            assert (other.result[1] > 0.5).any() or float(other.cost) >= float(free.cost) - 1e-9


RANDOM = 150
many = jax.jit(
    lambda given, bounds: jax.lax.map(lambda one: (kl_step_each(*one[0], one[1]), _known(*one[0])), (given, bounds))
)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@COSTS
def test_random_problems_keep_every_bound_and_never_cost_more(lift, scale):
    given = stacked(RANDOM, lift=lift, scale=scale)
    bounds = 10.0 ** np.random.default_rng(0).uniform(-3, 0.5, (RANDOM, 1)) * np.ones(4)
    found, before = many(given, bounds)
    assert (found.kl <= 1.1 * bounds).all()
    assert (found.cost <= before.cost + 1e-9 * np.abs(before.cost)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.mean(found.status == KLStatus.SOLVED) >= 0.99
    assert np.median(found.solves) <= 8


def test_few_evaluations_still_keep_every_bound():
    how, ended = Bracket(evaluations=5, tolerance=1e-3), set()
    for seed in range(6):
        given = parts(usual(seed, lift=-0.5))
        for start in (1e-6, 1e-2, 1.0, 50.0):
            found = each(given, 0.2, guess=start, how=how)
            assert within(found, number([0.2] * 4), 1e-3)
            assert found.solves <= 5
            ended.add(int(found.status))
            if found.status == KLStatus.FAILED:
                assert np.isinf(found.multiplier).all()
                assert not found.kl.any()
                for a, b in zip(found.policy, given[3], strict=True):
                    np.testing.assert_array_equal(a, b)
    assert {KLStatus.FAILED, KLStatus.LIMITED} <= ended


def test_a_batch_is_a_loop():
    given, bounds = stacked(5, lift=-0.3), np.outer([1e-6, 0.1, 0.0, 2.0, 0.5], np.ones(4))
    batch = quick(jax.vmap(kl_step_each))(*given, bounds)
    for i in range(5):
        one = each(jax.tree.map(lambda leaf, i=i: number(leaf[i]), given), bounds[i], how=USUAL)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("bounds", "status"),
    [
        ([0.0] * 4, KLStatus.SOLVED),
        ([0.1, 0.0, 0.1, 0.1], KLStatus.FAILED),
        ([0.1, -1.0, 0.1, 0.1], KLStatus.FAILED),
        ([0.1, np.nan, 0.1, 0.1], KLStatus.FAILED),
        ([0.1, np.inf, 0.1, 0.1], KLStatus.FAILED),
    ],
)
def test_bounds_that_leave_the_old_policy(bounds, status):
    given = parts(usual())
    found = each(given, bounds, how=USUAL)
    assert found.status == status
    assert found.solves == 0
    assert np.isinf(found.multiplier).all()
    for a, b in zip(found.policy, given[3], strict=True):
        np.testing.assert_array_equal(a, b)


@COSTS
@pytest.mark.parametrize("bounds", [[1e-6, 1.0, 1e-3, 0.5], [1e-9, 1e-1, 1e-9, 1e-1], [3.0, 1e-6, 1e-6, 1e-6]])
def test_bounds_may_differ_a_lot_between_steps(bounds, lift):
    found = each(parts(usual(lift=lift)), bounds, how=USUAL)
    assert found.status == KLStatus.SOLVED
    assert within(found, number(bounds))


def test_a_cost_of_nothing_changes_nothing():
    p = usual()
    found = each(parts(p._replace(C=0.0 * p.C, c=0.0 * p.c, C_T=0.0 * p.C_T, c_T=0.0 * p.c_T)), 0.5)
    assert found.kl.max() < 1e-12
    np.testing.assert_allclose(found.policy.K, p.old_policy.K, atol=1e-9)
