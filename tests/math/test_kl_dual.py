"""The multiplier of one KL bound against closed forms, SciPy's root finder, and what cannot be solved."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from forethought.math.kl_dual import DEFAULT, Bracket, KLStatus, Trial, solve_kl_dual

YES = jnp.ones((), bool)
HERE = jnp.zeros(())
TIGHT = Bracket(tolerance=1e-9)


def old_at(cost=0.0, dtype=jnp.float64) -> Trial:
    """What is known before: a result of -1."""
    number = lambda v: jnp.asarray(v, dtype)
    return Trial(number(0.0), number(cost), YES, number(-1.0))


@functools.partial(jax.jit, static_argnums=(0, 3))
def solved(attempt, epsilon, start, how=DEFAULT):
    """`attempt` gives (kl, cost, ok); the result is the multiplier itself."""

    def trial(multiplier):
        kl, cost, ok = attempt(multiplier)
        return Trial(kl, cost, jnp.asarray(ok), multiplier)

    return solve_kl_dual(trial, old_at(dtype=epsilon.dtype), epsilon, start, how)


def number(value, dtype=jnp.float64):
    return jnp.asarray(value, dtype)


class TestTrustRegion:
    """g^T d with d^T F d / 2 <= epsilon: d = -F^-1 g / l, KL = g^T F^-1 g / (2 l^2)."""

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_one_further_evaluation_lands_on_it(self, scale, dtype):
        rng = np.random.default_rng(0)
        root, gradient = rng.standard_normal((5, 5)), scale * rng.standard_normal(5)
        fisher = root @ root.T + np.eye(5)
        natural = np.linalg.solve(fisher, gradient)
        F, g, direction = (jnp.asarray(a, dtype) for a in (fisher, gradient, natural))

        @jax.jit
        def step(epsilon, start):
            def attempt(multiplier):
                move = -direction / multiplier
                return Trial(0.5 * move @ (F @ move), g @ move, YES, move)

            old = Trial(jnp.zeros((), dtype), jnp.zeros((), dtype), YES, jnp.zeros(5, dtype))
            return solve_kl_dual(attempt, old, epsilon, start)

        for epsilon in (1e-3, 1.0):
            want = np.sqrt(gradient @ natural / (2.0 * epsilon))
            for start in (want, want / 30.0, want * 900.0):
                found = step(jnp.asarray(epsilon, dtype), jnp.asarray(start, dtype))
                assert found.status == KLStatus.SOLVED
                assert found.evaluations == (1 if start == want else 2)
                assert found.multiplier == pytest.approx(want, rel=1e-5 if dtype is jnp.float32 else 1e-12)
                assert found.multiplier.dtype == found.kl.dtype == found.cost.dtype == dtype
                np.testing.assert_allclose(found.result, -natural / want, rtol=1e-4)
                assert found.kl == pytest.approx(epsilon, rel=1e-4)


SAMPLES = np.random.default_rng(1).gamma(2.0, 1.0, 40)


def softmin(multiplier):
    """Weights of samples, tilted by exp(-S / l): KL to equal weights, and the mean of S."""
    weights = jax.nn.softmax(-SAMPLES / multiplier)
    logs = jax.nn.log_softmax(-SAMPLES / multiplier)
    return jnp.sum(weights * (logs + np.log(SAMPLES.size))), jnp.sum(weights * SAMPLES), YES


class TestWeights:
    @pytest.mark.parametrize("epsilon", [1e-4, 0.1, 1.0, 3.0])
    @pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
    def test_weights_of_samples_against_a_root_finder(self, epsilon, start):
        gap = lambda x: float(softmin(np.exp(x))[0]) - epsilon
        want = np.exp(brentq(gap, -12.0, 12.0, xtol=1e-13))
        found = solved(softmin, number(epsilon), number(start), TIGHT)
        assert found.status == KLStatus.SOLVED
        assert found.multiplier == pytest.approx(want, rel=1e-7)
        assert found.evaluations <= 14
        assert solved(softmin, number(epsilon), number(start)).evaluations <= 8

    def test_the_multiplier_is_that_of_the_dual(self):
        """g(l) = -l epsilon - l log mean exp(-S / l) is largest there, and as large as the primal: no gap."""
        dual = lambda x: np.exp(x) * (0.7 + np.log(np.mean(np.exp(-SAMPLES / np.exp(x)))))
        best = minimize_scalar(dual, bounds=(-6.0, 6.0), method="bounded", options={"xatol": 1e-10})
        found = solved(softmin, number(0.7), number(1.0), TIGHT)
        assert found.multiplier == pytest.approx(np.exp(best.x), rel=1e-6)
        assert found.cost == pytest.approx(-best.fun, rel=1e-8)

    @pytest.mark.parametrize("epsilon", [4.2, 1e12, 1e300])
    def test_more_than_log_n_is_never_reached(self, epsilon):
        found = solved(softmin, number(epsilon), number(1.0))
        assert found.status == KLStatus.INACTIVE
        assert found.kl == pytest.approx(np.log(SAMPLES.size))
        assert found.cost == pytest.approx(SAMPLES.min())
        assert found.evaluations <= 10


@pytest.mark.parametrize("factor", [1e-150, 1e-8, 10.0, 1e8, 1e150])
def test_the_unit_of_the_cost_is_that_of_the_multiplier(factor):
    """The same steps, in another unit."""

    def attempt(multiplier, unit):
        kl, cost, ok = softmin(multiplier / unit)
        return Trial(kl, cost * unit, ok, multiplier)

    run = jax.jit(lambda unit: solve_kl_dual(lambda x: attempt(x, unit), old_at(), number(0.3), 20.0 * unit))
    both = [run(number(unit)) for unit in (1.0, factor)]
    assert both[1].evaluations == both[0].evaluations
    assert both[1].multiplier / factor == pytest.approx(float(both[0].multiplier), rel=1e-9)


def ended(multiplier):
    """Nothing up to 0.5, where KL is infinite."""
    above = multiplier - 0.5
    return 1.0 / jnp.maximum(above, 1e-30), -1.0 / jnp.maximum(above, 1e-30), above > 0.0


class TestWhereNothingIs:
    @pytest.mark.parametrize("start", [1e-12, 1e-3, 0.49, 0.5, 0.51, 1e3, 1e9])
    @pytest.mark.parametrize("epsilon", [1e-3, 1.0, 1e6])
    def test_it_counts_as_infinitely_far(self, start, epsilon):
        found = solved(ended, number(epsilon), number(start))
        assert found.status == KLStatus.SOLVED
        assert found.multiplier > 0.5
        assert found.multiplier == pytest.approx(0.5 + 1.0 / epsilon, rel=0.2)
        assert found.evaluations <= 40
        assert found.kl <= 1.1 * epsilon

    @pytest.mark.parametrize(
        "nothing",
        [
            lambda x: (0.1 / x, -1.0 / x, False),
            lambda x: (0.1 / x + jnp.nan, -1.0 / x, True),
            lambda x: (0.1 / x + jnp.inf, -1.0 / x, True),
            lambda x: (0.1 / x, -1.0 / x + jnp.nan, True),
            lambda x: (0.1 / x, -1.0 / x - jnp.inf, True),
            lambda x: (0.1 / x, -1.0 / x + jnp.inf, True),
            lambda x: (2.0 + 0.1 / x, -1.0 / x, True),
        ],
        ids=["no", "KL NaN", "KL inf", "cost NaN", "cost -inf", "cost inf", "KL above"],
    )
    def test_the_old_one_is_returned_if_nothing_keeps_the_bound(self, nothing):
        found = solved(nothing, number(1.0), number(1.0))
        assert found.status == KLStatus.FAILED
        assert found.result == -1.0
        assert np.isinf(found.multiplier)
        assert found.kl == found.cost == 0.0
        assert found.evaluations <= 50

    @pytest.mark.parametrize("epsilon", [-1.0, -1e-300, np.nan, np.inf, -np.inf])
    def test_bounds_that_are_none_fail_without_an_evaluation(self, epsilon):
        found = solved(softmin, number(epsilon), number(1.0))
        assert (found.status, found.evaluations, found.result) == (KLStatus.FAILED, 0, -1.0)
        assert found.kl == found.cost == 0.0

    def test_a_bound_of_zero_leaves_the_old_one(self):
        found = solved(softmin, number(0.0), number(1.0))
        assert (found.status, found.evaluations, found.result) == (KLStatus.SOLVED, 0, -1.0)

    @pytest.mark.parametrize("start", [0.0, -1.0, np.nan, np.inf, -np.inf])
    def test_starts_that_are_none(self, start):
        found = solved(softmin, number(0.3), number(start))
        assert found.multiplier == solved(softmin, number(0.3), number(1.0)).multiplier


def jump(multiplier):
    """KL falls from 5 to 0.01 at 3."""
    return jnp.where(multiplier < 3.0, 5.0, 0.01) / multiplier**0.01, -1.0 / multiplier, True


@pytest.mark.parametrize("start", [0.1, 3.0, 50.0])
def test_where_kl_jumps_the_side_that_keeps_the_bound_is_returned(start):
    found = solved(jump, number(1.0), number(start))
    assert found.status == KLStatus.LIMITED
    assert found.kl < 0.01
    assert found.multiplier == pytest.approx(3.0, rel=1e-6)
    assert found.multiplier >= 3.0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("most", [1, 2, 3, 5, 50])
def test_of_all_that_was_tried_the_cheapest_that_keeps_the_bound_is_returned(seed, most):
    """Whatever KL and cost do from one multiplier to the next; some are nothing at all."""
    tried = []
    rng = np.random.default_rng(seed)

    def attempt(multiplier):
        kl, cost, ok = 3.0 / float(multiplier) * rng.lognormal(), rng.standard_normal(), rng.random() < 0.7
        tried.append((kl, cost, ok, float(multiplier)))
        return Trial(number(kl), number(cost), jnp.asarray(ok), multiplier)

    with jax.disable_jit():
        found = solve_kl_dual(attempt, old_at(0.1), number(0.2), number(rng.lognormal(2.0)), Bracket(evaluations=most))
    kept = [(cost, kl, x) for kl, cost, ok, x in tried if ok and kl <= 1.1 * 0.2]
    assert found.evaluations == len(tried) <= most
    if kept:
        assert (float(found.cost), float(found.kl), float(found.result)) == min(kept)
        assert found.multiplier == found.result
        assert found.status in (KLStatus.SOLVED, KLStatus.LIMITED, KLStatus.INACTIVE)
    else:
        assert (found.status, found.result, found.kl) == (KLStatus.FAILED, -1.0, 0.0)
        assert found.cost == pytest.approx(0.1)


@pytest.mark.parametrize("tolerance", [1e-12, 1e-3, 0.1, 0.9])
def test_the_tolerance_is_that_of_kl(tolerance):
    found = solved(softmin, number(0.4), number(1e-2), Bracket(tolerance=tolerance))
    assert found.status == KLStatus.SOLVED
    assert abs(float(found.kl) / 0.4 - 1.0) <= tolerance * (1.0 + 1e-9)


def test_many_shapes_of_kl_take_few_evaluations():
    """Sums of powers: as steep as -2, as flat as a logarithm, and with an end."""
    rng = np.random.default_rng(3)
    counts = []
    grid = [(a, b) for a in (0.0, 0.5) for b in (1.0, 1e4)]

    @functools.partial(jax.jit, static_argnums=0)
    def run(kind, end, width, epsilon, start):
        def attempt(x):
            y = x - end
            shapes = (width / y**2, jnp.log1p(width / y**2), width / (y + y**2))
            return Trial(shapes[kind], -shapes[kind], y > 0.0, x)

        return solve_kl_dual(attempt, old_at(), epsilon, start)

    for kind in range(3):
        for end, width in grid:
            for _ in range(6):
                epsilon, start = 10.0 ** rng.uniform(-2, 1), 10.0 ** rng.uniform(-3, 3)
                found = run(kind, end, width, number(epsilon), number(start))
                assert found.status == KLStatus.SOLVED
                assert abs(found.kl / epsilon - 1.0) <= 0.1
                counts.append(int(found.evaluations))
    assert np.median(counts) <= 5
    assert max(counts) <= 20


def test_a_batch_is_a_loop():
    """Lanes that end early are left alone while others go on."""
    epsilons = jnp.asarray([1e-4, 0.3, 3.0, 0.0, jnp.nan, 2.0])
    starts = jnp.asarray([1.0, 1e6, 1.0, 1.0, 1.0, 1e-6])
    batch = jax.vmap(lambda e, s: solved(softmin, e, s))(epsilons, starts)
    assert len(set(batch.evaluations.tolist())) > 3
    for i in range(6):
        one = solved(softmin, epsilons[i], starts[i])
        for a, b in zip(batch, one, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10)  # another program rounds otherwise, and up to 50 times
        assert batch.evaluations[i] == one.evaluations


def test_new_numbers_are_no_new_program():
    traced = []

    @jax.jit
    def run(epsilon, start):
        traced.append(1)
        return solve_kl_dual(lambda x: Trial(1.0 / x**2, -1.0 / x, YES, x), old_at(), epsilon, start)

    for epsilon, start in ((1.0, 1.0), (0.0, 3.0), (np.nan, 2.0), (1e-9, np.inf)):
        run(number(epsilon), number(start))
    assert len(traced) == 1
