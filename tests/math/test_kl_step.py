"""The KL-bounded step against its dual, SLSQP over all gains and covariances, and unconstrained control."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from forethought.math.kl_dual import Bracket, KLStatus
from forethought.math.kl_step import _known, first_guess, kl_step, within
from forethought.math.linear_kl import policy_kl
from forethought.math.linear_quadratic import expected_cost, linear_marginals, policy_entropy
from forethought.math.lqr import lqr_backward, max_entropy_policy
from kl_cases import Controller, divergences, expected, integrator, kl_case
from kl_parts import TIGHT, USUAL, number, parts, plain, quick, stacked, tried, usual, whole

COSTS = pytest.mark.parametrize("lift", [0.0, -0.6], ids=["convex", "indefinite"])
ENTROPY = 0.5
guessed, known, entropy_of = jax.jit(first_guess), jax.jit(_known), jax.jit(policy_entropy)


@COSTS
@pytest.mark.parametrize("entropy", [0.0, ENTROPY])
def test_the_slope_of_the_dual_is_what_the_bound_is_missed_by(lift, entropy):
    """g(l) = J + l (KL - epsilon) - a H: by differences, for one multiplier and for one of each step."""
    given, epsilon, rng = parts(usual(lift=lift)), 0.3, np.random.default_rng(0)

    def dual(multiplier):
        trial = tried(given, multiplier, entropy=entropy)
        assert trial.ok
        return float(trial.cost + jnp.sum(multiplier * (trial.result[1] - epsilon)))

    for _ in range(3):
        multiplier = np.exp(rng.uniform(1.5, 3.0, 4))
        kl = np.asarray(tried(given, multiplier, entropy=entropy).result[1])
        for t in range(4):
            h = 1e-4 * multiplier[t] * np.eye(4)[t]
            slope = (dual(multiplier + h) - dual(multiplier - h)) / (2.0 * h[t])
            assert slope == pytest.approx(kl[t] - epsilon, abs=1e-7)
        one, h = multiplier[0], 1e-4 * multiplier[0]
        slope = (dual(np.full(4, one + h)) - dual(np.full(4, one - h))) / (2.0 * h)
        trial = tried(given, one, entropy=entropy)
        assert slope == pytest.approx(float(trial.kl) - 4 * epsilon, abs=1e-7)
        assert float(trial.kl) == float(trial.result[1].sum())


@quick
def slope(given, policy, multiplier, entropy):
    """Of J + sum l_t KL_t - a H in K, k and the factor of the noise."""
    dynamics, cost, start, old = given

    def lagrangian(policy):
        marginals = linear_marginals(dynamics, policy, *start)
        held = jnp.sum(multiplier * policy_kl(policy, old, marginals))
        return expected_cost(cost, marginals) + held - entropy * jnp.sum(policy_entropy(policy))

    found = jax.grad(lagrangian)(policy)
    return found._replace(L=jnp.tril(found.L))


@COSTS
@pytest.mark.parametrize("entropy", [0.0, ENTROPY])
def test_what_is_tried_is_stationary_in_every_parameter(lift, entropy):
    for seed in range(3):
        given, multiplier = parts(usual(seed, lift=lift)), number([3.0, 5.0, 2.5, 8.0])
        trial = tried(given, multiplier, entropy=entropy)
        gradient = slope(given, trial.result[0], multiplier, number(entropy))
        assert trial.ok
        assert max(float(jnp.abs(g).max()) for g in gradient) < 1e-11


def test_maximum_entropy_is_stationary_without_a_bound():
    given = parts(usual(3))
    policy = max_entropy_policy(lqr_backward(*given[:2]), 2.0)
    gradient = slope(given, policy, jnp.zeros(4), number(2.0))
    assert max(float(jnp.abs(g).max()) for g in gradient) < 1e-11


@COSTS
@pytest.mark.parametrize(("n", "m", "T"), [(3, 2, 4), (2, 7, 3)])
def test_cost_and_kl_are_those_of_textbook_formulas_in_the_new_states(n, m, T, lift):
    p = kl_case(n, m, T, seed=4, lift=lift)
    found = whole(parts(p), 0.5 * T)
    new = plain(found.policy)
    np.testing.assert_allclose(found.kl, divergences(p, new), rtol=1e-9, atol=1e-12)
    assert float(found.cost) == pytest.approx(expected(p, new), rel=1e-10)
    assert found.status == KLStatus.SOLVED
    assert float(found.kl.sum()) == pytest.approx(0.5 * T, rel=1e-9)
    assert float(found.cost) < expected(p, p.old_policy)
    assert not np.triu(np.asarray(found.policy.L), 1).any()


class TestAgainstSLSQP:
    """Over K, k and the logarithm of the noise, with nothing known of any dual."""

    T, n, m = 2, 2, 1

    def unpack(self, v) -> Controller:
        T, n, m = self.T, self.n, self.m
        K, k, logs = v[: T * n].reshape(T, m, n), v[T * n : T * n + T].reshape(T, m), v[-T:]
        return Controller(K, k, np.exp(2.0 * logs).reshape(T, m, m))

    @COSTS
    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("bound", [0.05, 1.0])
    def test_the_least_cost_and_the_policy_are_the_same(self, seed, lift, bound):
        p = kl_case(self.n, self.m, self.T, seed=seed, lift=lift)
        old = p.old_policy
        begin = np.concatenate([old.K.ravel(), old.k.ravel(), 0.5 * np.log(old.cov.ravel())])
        rule = {"type": "ineq", "fun": lambda v: bound - divergences(p, self.unpack(v)).sum()}
        cost = lambda v: expected(p, self.unpack(v))
        other = minimize(cost, begin, method="SLSQP", constraints=[rule], options={"ftol": 1e-13, "maxiter": 500})
        assert rule["fun"](other.x) > -1e-8
        found = whole(parts(p), bound)
        assert found.status == KLStatus.SOLVED
        assert float(found.cost) == pytest.approx(other.fun, abs=2e-6)
        for a, b in zip(plain(found.policy), self.unpack(other.x), strict=True):
            np.testing.assert_allclose(a, b, atol=5e-3)


@COSTS
def test_the_first_guess_is_exact_for_small_bounds(lift):
    for seed in range(4):
        given = parts(usual(seed, lift=lift))
        guess = float(guessed(*given, number(1e-8)))
        found = whole(given, 1e-8, how=USUAL)
        assert found.solves == 1
        assert float(found.multiplier) == pytest.approx(guess, rel=1e-12)
        assert float(whole(given, 1e-8).multiplier) == pytest.approx(guess, rel=2e-3)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e150])
def test_the_first_guess_has_the_unit_of_the_cost(scale):
    one, scaled = (guessed(*parts(usual(scale=s)), number(0.1)) for s in (1.0, scale))
    assert float(scaled) / scale == pytest.approx(float(one), rel=1e-10)


def test_the_multiplier_of_the_last_step_saves_solves():
    """A problem that moves slowly, as it does between two rounds of learning."""
    cold, warm = [], []
    for seed in range(8):
        p = usual(seed, lift=-0.3)
        last = whole(parts(p), 3.0, how=USUAL)
        after = parts(p._replace(C=1.05 * p.C, old_policy=p.old_policy._replace(k=p.old_policy.k + 0.01)))
        cold.append(int(whole(after, 3.0, how=USUAL).solves))
        warm.append(int(whole(after, 3.0, guess=last.multiplier, how=USUAL).solves))
    assert sum(warm) < 0.7 * sum(cold)
    assert np.median(warm) <= 2


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_guess_that_is_none_is_passed_over(bad):
    """The multiplier of a step that failed is infinite: the next one begins afresh."""
    given = parts(usual())
    found = whole(given, 1e-8, guess=bad, how=USUAL)
    assert found.solves == 1
    assert float(found.multiplier) == pytest.approx(float(guessed(*given, number(1e-8))), rel=1e-12)


@pytest.mark.parametrize("far", [1e-250, 1e-40, 1e-3, 1e3, 1e40, 1e250])
def test_a_guess_may_be_far_off(far):
    given = parts(usual())
    found = whole(given, 0.5, guess=far, how=USUAL)
    assert within(found, number(0.5))
    if 1e-16 < far < 1e16:
        assert found.status == KLStatus.SOLVED


class TestEntropy:
    def test_a_loose_bound_is_not_reached_and_leaves_maximum_entropy(self):
        given = parts(usual(1))
        found = whole(given, 1e9, entropy=ENTROPY)
        assert found.status == KLStatus.INACTIVE
        assert found.solves <= 20
        for a, b in zip(plain(found.policy), plain(max_entropy_policy(lqr_backward(*given[:2]), ENTROPY)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("start", [1e-3, 1.0, 30.0, 1e3])
    def test_the_best_is_that_of_cost_less_entropy(self, start):
        """From wherever the search begins: the least expected cost alone would be another one of those tried."""
        for seed in range(4):
            given = parts(usual(seed))
            found = whole(given, 2.0, guess=start, entropy=ENTROPY)
            objective = float(found.cost) - ENTROPY * float(entropy_of(found.policy).sum())
            for multiplier in np.geomspace(1e-3, 1e5, 25):
                trial = tried(given, multiplier, entropy=ENTROPY)
                assert float(trial.kl) > 2.0 or objective <= float(trial.cost) + 1e-8
            assert float(found.kl.sum()) <= 2.0 * (1 + 1e-9)
            assert float(found.cost) == pytest.approx(expected(usual(seed), plain(found.policy)), rel=1e-10)


RANDOM = 150
many = jax.jit(
    lambda given, epsilons: jax.lax.map(lambda one: (kl_step(*one[0], one[1]), _known(*one[0])), (given, epsilons))
)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@COSTS
def test_random_problems_keep_the_bound_and_never_cost_more(lift, scale):
    given = stacked(RANDOM, lift=lift, scale=scale)
    epsilons = 4 * 10.0 ** np.random.default_rng(0).uniform(-3, 0.5, RANDOM)
    found, before = many(given, epsilons)
    assert (found.kl.sum(1) <= 1.1 * epsilons).all()
    assert (found.cost <= before.cost + 1e-9 * np.abs(before.cost)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert (found.status == KLStatus.SOLVED).all()
    assert np.median(found.solves) <= 4
    assert found.solves.max() <= (6 if lift == 0.0 else 20)


def test_few_evaluations_still_keep_the_bound():
    """The last one that was tried may be beyond; what is returned is not."""
    how, ended = Bracket(evaluations=2, tolerance=1e-3), set()
    for seed in range(6):
        given = parts(usual(seed, lift=-0.5))
        for start in (1e-2, 1.0, 50.0):
            found = whole(given, 0.7, guess=start, how=how)
            assert within(found, number(0.7), 1e-3)
            assert found.solves <= 2
            ended.add(int(found.status))
            if found.status == KLStatus.FAILED:
                assert np.isinf(found.multiplier)
                assert not found.kl.any()
                for a, b in zip(found.policy, given[3], strict=True):
                    np.testing.assert_array_equal(a, b)
                assert float(found.cost) == pytest.approx(float(known(*given).cost), rel=1e-12)
    assert {KLStatus.FAILED, KLStatus.LIMITED} <= ended


def test_a_batch_is_a_loop():
    given, epsilons = stacked(5, lift=-0.3), number([1e-6, 0.1, 0.0, 20.0, 0.5])
    batch = quick(jax.vmap(kl_step))(*given, epsilons)
    for i in range(5):
        one = whole(jax.tree.map(lambda leaf, i=i: number(leaf[i]), given), epsilons[i], how=USUAL)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-9)


def test_a_cost_of_nothing_changes_nothing():
    p = usual()
    found = whole(parts(p._replace(C=0.0 * p.C, c=0.0 * p.c, C_T=0.0 * p.C_T, c_T=0.0 * p.c_T)), 0.5)
    assert found.kl.sum() < 1e-12
    assert found.cost == 0.0
    np.testing.assert_allclose(found.policy.K, p.old_policy.K, atol=1e-9)
    np.testing.assert_allclose(plain(found.policy).cov, p.old_policy.cov, atol=1e-9)


def test_larger_bounds_cost_less_down_to_control_without_noise():
    given = parts(integrator())
    costs = [float(whole(given, e, how=USUAL).cost) for e in (0.0, 0.01, 0.2, 2.0, 20.0, 200.0, 1e12)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(6.82474618384, abs=1e-9)


def test_the_tolerance_of_a_tight_search_is_kept():
    for seed in range(10):
        found = whole(parts(usual(seed, lift=-0.6)), 0.9, how=TIGHT)
        assert abs(float(found.kl.sum()) / 0.9 - 1.0) <= 1e-10
        assert found.solves <= 20
