"""`forethought.kl_lqr`: golden values, and a public function that computes in float64 from anywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought import KLSolution, KLStatus, LinearGaussian, UserError, kl_lqr
from kl_cases import divergences, expected, integrator, kl_case, scalar


@pytest.fixture(autouse=True, scope="module")
def quickly():
    """Programs are compiled in half the time, and run a few times each."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def solve(p, epsilon, **settings) -> KLSolution:
    return kl_lqr(*p[:-1], LinearGaussian(*p.old_policy), epsilon, **settings)


class TestGolden:
    @pytest.mark.parametrize(
        ("epsilon", "multiplier", "mean", "variance"),
        [(0.1, 11.823277689894, 0.434050457, 0.855316514), (1.0, 2.411962526, 1.359939021, 0.546686993)],
    )
    def test_one_step_and_one_number(self, epsilon, multiplier, mean, variance):
        found = solve(scalar(2.0), epsilon, tolerance=1e-12)
        assert found.status == KLStatus.SOLVED
        assert float(found.lam) == pytest.approx(multiplier, abs=6e-10)
        assert float(found.policy.k[0, 0]) == pytest.approx(mean, abs=6e-10)
        assert float(found.policy.cov[0, 0, 0]) == pytest.approx(variance, abs=6e-10)
        assert float(found.kl[0]) == pytest.approx(epsilon, rel=1e-11)
        assert float(found.cost) == pytest.approx(mean**2 + variance - 6.0 * mean, abs=1e-8)

    @pytest.mark.parametrize("factor", [1e-8, 10.0, 1e8])
    def test_the_multiplier_has_the_unit_of_the_cost(self, factor):
        p = scalar(2.0)
        plain = solve(p, 0.1, tolerance=1e-12)
        scaled = solve(p._replace(C=factor * p.C, c=factor * p.c), 0.1, tolerance=1e-12)
        assert float(scaled.lam) / factor == pytest.approx(float(plain.lam), rel=1e-10)
        assert float(scaled.policy.k[0, 0]) == pytest.approx(float(plain.policy.k[0, 0]), rel=1e-10)

    @pytest.mark.parametrize(
        ("epsilon", "multiplier", "cost", "gain"),
        [
            (0.2, 10.6934438726, 15.1367628854, [-0.23737221, -0.54360232]),
            (2.0, 1.02895551559, 9.73674945708, [-0.8777014, -1.55648002]),
        ],
    )
    def test_the_double_integrator(self, epsilon, multiplier, cost, gain):
        found = solve(integrator(), epsilon, tolerance=1e-12)
        assert float(found.lam) == pytest.approx(multiplier, rel=6e-12)
        assert float(found.cost) == pytest.approx(cost, rel=6e-12)
        np.testing.assert_allclose(found.policy.K[0, 0], gain, atol=6e-9)
        assert float(found.kl.sum()) == pytest.approx(epsilon, rel=1e-11)
        assert found.solves <= 8

    def test_the_double_integrator_without_a_bound_to_speak_of(self):
        found = solve(integrator(), 1e12, tolerance=1e-12)
        assert found.status == KLStatus.INACTIVE
        np.testing.assert_allclose(found.policy.K[0, 0], [-2.61683504, -3.45337243], atol=6e-9)
        assert float(found.cost) == pytest.approx(6.82474618384, abs=1e-10)
        assert found.solves <= 20

    def test_maximum_entropy_of_the_double_integrator(self):
        """tau = 1: J = 16.82474618384, and J - H = -30.3907104031."""
        found = solve(integrator(), 1e12, entropy=1.0)
        assert found.status == KLStatus.INACTIVE
        assert float(found.cost) == pytest.approx(16.82474618384, abs=1e-9)
        entropy = 0.5 * np.sum(np.log(2.0 * np.pi * np.e * np.asarray(found.policy.cov)))
        assert float(found.cost) - entropy == pytest.approx(-30.3907104031, abs=1e-9)

    def test_a_cost_that_falls_away_for_ever(self):
        """r = -1/2: at l = 1 KL is 4.653426, and at l <= 1/2 there is nothing."""
        p = scalar(-0.5)
        found = solve(p, 4.653426, tolerance=1e-12)
        assert found.status == KLStatus.SOLVED
        assert float(found.lam) == pytest.approx(1.0, abs=1e-7)
        for epsilon in (1e-3, 1.0, 1e3):
            for start in (1e-6, 0.5, 1e6):
                found = solve(p, epsilon, lam=start, tolerance=1e-9)
                assert found.status == KLStatus.SOLVED
                assert found.lam > 0.5
                assert found.kl[0] <= 1.1 * epsilon


def test_what_is_returned_is_what_it_says():
    """KL and cost by textbook formulas from the policy and its covariances; whichever bound."""
    for seed in range(6):
        p = kl_case(seed=seed, lift=-0.5 * (seed % 2))
        for epsilon in (0.8, np.full(4, 0.2)):
            found = solve(p, epsilon)
            policy = LinearGaussian(*map(np.asarray, found.policy))
            np.testing.assert_allclose(found.kl, divergences(p, policy), rtol=1e-9, atol=1e-12)
            assert float(found.cost) == pytest.approx(expected(p, policy), rel=1e-10)
            np.testing.assert_array_equal(policy.cov, np.swapaxes(policy.cov, 1, 2))
            assert found.lam.shape == np.shape(epsilon)
            assert found.status == KLStatus.SOLVED


def test_a_bound_of_zero_returns_the_old_policy_bit_by_bit():
    p = kl_case()
    for epsilon in (0.0, np.zeros(4)):
        found = solve(p, epsilon)
        assert found.status == KLStatus.SOLVED
        assert np.isinf(found.lam).all()
        assert not found.kl.any()
        assert float(found.cost) == pytest.approx(expected(p, p.old_policy), rel=1e-12)
        for a, b in zip(found.policy, p.old_policy, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_noise_in_the_dynamics_is_noise_of_zero():
    p = kl_case(seed=1)
    for a, b in zip(
        jax.tree.leaves(solve(p._replace(W=None), 0.5)),
        jax.tree.leaves(solve(p._replace(W=0.0 * p.W), 0.5)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_only_symmetric_parts_count():
    p, rng = kl_case(m=2, seed=1), np.random.default_rng(0)

    def odd(matrix):
        skew = rng.standard_normal(np.shape(matrix))
        return matrix + skew - np.swapaxes(skew, -1, -2)

    old = p.old_policy._replace(cov=odd(p.old_policy.cov))
    other = p._replace(W=odd(p.W), C=odd(p.C), C_T=odd(p.C_T), P0=odd(p.P0), old_policy=old)
    for a, b in zip(jax.tree.leaves(solve(other, 0.5)), jax.tree.leaves(solve(p, 0.5)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_the_units_of_states_and_controls_do_not_matter(unit):
    p = kl_case(seed=2)
    for x, u in ((unit, 1.0), (1.0, unit)):
        own, z = np.array([x, 1.0]), np.array([x, 1.0, u])
        old = p.old_policy
        other = p._replace(
            F=p.F / own[:, None] * z,
            f=p.f / own,
            W=p.W / own[:, None] / own,
            C=p.C * z[:, None] * z,
            c=p.c * z,
            C_T=p.C_T * own[:, None] * own,
            c_T=p.c_T * own,
            m0=p.m0 / own,
            P0=p.P0 / own[:, None] / own,
            old_policy=old._replace(K=old.K / u * own, k=old.k / u, cov=old.cov / u**2),
        )
        plain, scaled = solve(p, 0.5), solve(other, 0.5)
        assert float(scaled.lam) == pytest.approx(float(plain.lam), rel=1e-7)
        assert float(scaled.cost) == pytest.approx(float(plain.cost), rel=1e-9)
        np.testing.assert_allclose(scaled.policy.K * u / own, plain.policy.K, rtol=1e-6, atol=1e-9)


def arrays(p):
    """All arguments but the bound as one tree of arrays."""
    return tuple(p[:-1]), LinearGaussian(*p.old_policy)


def test_inside_jit_and_vmap_it_is_the_same():
    cases = [kl_case(seed=seed, lift=-0.5 * (seed % 2)) for seed in range(4)]
    epsilons = jnp.asarray([0.1, 1.0, 0.0, 1e-6])
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(arrays, cases))
    batch = jax.jit(jax.vmap(lambda given, e: kl_lqr(*given[0], given[1], e)))(stack, epsilons)
    shared = jax.vmap(lambda e: solve(cases[0], e))(epsilons)
    jitted = jax.jit(lambda given, e: kl_lqr(*given[0], given[1], e))
    for i, p in enumerate(cases):
        one = solve(p, float(epsilons[i]))
        for many in (jax.tree.map(lambda leaf, i=i: leaf[i], batch), jitted(arrays(p), epsilons[i])):
            for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)
        assert float(shared.cost[i]) == pytest.approx(float(solve(cases[0], float(epsilons[i])).cost), rel=1e-9)


def test_it_computes_in_64_bit_whatever_jax_is_set_to():
    p = kl_case()
    wide = solve(p, 0.5)
    with jax.enable_x64(False):
        narrow = solve(p, 0.5)
        assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype(np.float64), np.dtype(np.int32)}
        for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
            np.testing.assert_array_equal(a, b)
        single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), arrays(p))
        assert kl_lqr(*single[0], single[1], 0.5).cost.dtype == np.float64
        with pytest.raises(UserError, match="jax_enable_x64"):
            jax.jit(lambda given: kl_lqr(*given[0], given[1], 0.5))(single)
        assert not jax.config.read("jax_enable_x64")
    lists = jax.tree.map(lambda a: a.tolist(), arrays(p))
    listed = LinearGaussian(*(lists[1][i] for i in range(3)))
    np.testing.assert_array_equal(kl_lqr(*lists[0], listed, 0.5).policy.K, wide.policy.K)
    whole = jax.tree.map(lambda a: np.asarray(a).astype(int), scalar(2.0)[:-1])
    numbers = kl_lqr(*whole, LinearGaussian([[[0]]], [[0]], [[[1]]]), 1)
    assert float(numbers.lam) == float(solve(scalar(2.0), 1.0).lam)


def test_the_multiplier_can_be_given():
    p = kl_case(seed=3)
    cold = solve(p, 0.5)
    warm = solve(p, 0.5, lam=cold.lam)
    assert warm.solves == 1
    assert float(warm.lam) == pytest.approx(float(cold.lam), rel=1e-12)
    bounds = np.full(4, 0.1)
    cold = solve(p, bounds)
    assert solve(p, bounds, lam=cold.lam).solves <= 2 < cold.solves


def test_one_program_per_shape():
    """Other numbers, from NumPy or from jax, compile nothing."""
    p = kl_case()
    settled = lambda a: jax.tree.map(jnp.asarray, a)
    given = settled(arrays(p))
    kl_lqr(*given[0], given[1], jnp.asarray(0.5))
    solve(p, 0.5)
    heard = []

    def listen(event: str, seconds: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            heard.append(event)

    others = [kl_case(seed=seed) for seed in range(3)]
    moved = [settled(arrays(q)) for q in others]
    bounds = [jnp.asarray(e) for e in (0.1, 3.0, 0.0)]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for q, given, bound in zip(others, moved, bounds, strict=True):
            solve(q, 0.3)
            solve(q, 2.0)
            kl_lqr(*given[0], given[1], bound)
        assert heard == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("epsilon", [1e-3, 1.0, 100.0, 1e8])
def test_unstable_dynamics_over_a_long_horizon(epsilon):
    """Spectral radius 1.5 over 500 steps: the old controller costs 1e177."""
    rng, T = np.random.default_rng(0), 500
    A = rng.standard_normal((4, 4))
    A *= 1.5 / np.abs(np.linalg.eigvals(A)).max()
    F = np.tile(np.hstack([A, rng.standard_normal((4, 2))]), (T, 1, 1))
    old = LinearGaussian(np.zeros((T, 2, 4)), np.zeros((T, 2)), np.tile(np.eye(2), (T, 1, 1)))
    C = np.tile(np.eye(6), (T, 1, 1))
    zero = solve_long(F, C, old, 0.0)
    found = solve_long(F, C, old, epsilon)
    assert float(zero.cost) > 1e170
    assert float(found.kl.sum()) <= 1.1 * epsilon
    assert found.status in (KLStatus.SOLVED, KLStatus.INACTIVE)
    assert float(found.cost) < float(zero.cost)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    if epsilon <= 100.0:
        assert found.status == KLStatus.SOLVED
        assert found.solves <= 12
    else:
        assert float(found.cost) < 25.0


def solve_long(F, C, old, epsilon) -> KLSolution:
    T = len(F)
    rest = (np.zeros((T, 6)), np.eye(4), np.zeros(4), np.ones(4), np.eye(4))
    return kl_lqr(F, np.zeros((T, 4)), None, C, *rest, old, epsilon)
