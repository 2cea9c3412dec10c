"""Divergences of linear-Gaussian policies against joint Gaussians, textbook formulas, sampling and long doubles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular
from scipy.stats import multivariate_normal

from forethought.math.linear_kl import lower_inverse, policy_kl, precision_root, solve_lower, surprise
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
    policy_entropy,
)
from kl_cases import Controller, KLCase, divergences, entropies, expected, kl_case, states

divergence, marginal, minus_log = jax.jit(policy_kl), jax.jit(linear_marginals), jax.jit(surprise)
SHAPES = [(1, 1, 1), (2, 1, 4), (3, 2, 6), (2, 4, 3), (4, 7, 2)]


def factored(policy) -> LinearGaussianPolicy:
    return LinearGaussianPolicy(*map(jnp.asarray, (policy.K, policy.k, np.linalg.cholesky(policy.cov))))


def dynamics_of(p: KLCase) -> LinearDynamics:
    return LinearDynamics(*map(jnp.asarray, (p.F, p.f, p.W)))


def marginals_of(p: KLCase, policy):
    return marginal(dynamics_of(p), factored(policy), jnp.asarray(p.m0), jnp.asarray(p.P0))


def other(p: KLCase, seed=7) -> Controller:
    """Not the old controller of the case."""
    T, m, n = p.old_policy.K.shape
    return kl_case(n, m, T, seed=seed).old_policy


@pytest.mark.parametrize(("n", "m", "T"), SHAPES)
def test_it_is_the_cross_entropy_less_the_entropy(n, m, T):
    p = kl_case(n, m, T, seed=n + m)
    new = other(p)
    found = divergence(factored(new), factored(p.old_policy), marginals_of(p, new))
    np.testing.assert_allclose(found, divergences(p, new), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(policy_entropy(factored(new)), entropies(new), rtol=1e-12, atol=1e-12)


def path(p: KLCase, policy) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_0, u_0, x_1, u_1, ...) without the last state, as one linear map of all noise."""
    T, m, n = policy.K.shape
    noises = n + T * (m + n)
    root = lambda cov: np.linalg.cholesky(cov)
    x, mean = np.zeros((n, noises)), p.m0
    x[:, :n] = root(p.P0)
    rows, means = [], []
    for t in range(T):
        u = policy.K[t] @ x
        at = n + t * (m + n)
        u[:, at : at + m] += root(policy.cov[t])
        mean_u = policy.K[t] @ mean + policy.k[t]
        rows += [x, u]
        means += [mean, mean_u]
        x = p.F[t] @ np.vstack([x, u])
        x[:, at + m : at + m + n] += root(p.W[t])
        mean = p.F[t] @ np.concatenate([mean, mean_u]) + p.f[t]
    G = np.vstack(rows)
    return np.concatenate(means), G @ G.T


def test_the_sum_over_time_is_the_divergence_of_the_trajectories():
    """Between the joint Gaussians of all states and actions: dynamics and initial states cancel."""
    p = kl_case(2, 2, 3, seed=5)
    new = other(p)
    (a, A), (b, B) = path(p, new), path(p, p.old_policy)
    inverse = np.linalg.inv(B)
    logs = np.linalg.slogdet(B)[1] - np.linalg.slogdet(A)[1]
    whole = 0.5 * (np.trace(inverse @ A) + (b - a) @ inverse @ (b - a) - len(a) + logs)
    found = divergence(factored(new), factored(p.old_policy), marginals_of(p, new))
    assert float(found.sum()) == pytest.approx(whole, rel=1e-9)


def test_the_states_that_count_are_those_that_are_given():
    """Under the old policy's states it is another number."""
    p = kl_case(3, 2, 6, seed=2)
    new = other(p)
    kl = lambda whose: divergence(factored(new), factored(p.old_policy), marginals_of(p, whose))
    mine, theirs = kl(new), kl(p.old_policy)
    assert mine[0] == pytest.approx(float(theirs[0]), rel=1e-13)  # x_0 is x_0
    assert np.abs(np.asarray(mine - theirs)[1:]).min() > 1e-3


@pytest.mark.parametrize(("n", "m", "T"), SHAPES)
def test_of_a_policy_with_itself_it_is_exactly_zero(n, m, T):
    for seed in range(5):
        p = kl_case(n, m, T, seed=seed)
        policy = factored(p.old_policy)
        assert not divergence(policy, policy, marginals_of(p, p.old_policy)).any()


def test_other_gains_count_through_the_spread_of_states_alone():
    """K + D with k - D mean: the mean of u stays, and what is left is tr(D S D^T) / 2 in units of the old noise."""
    p = kl_case(3, 2, 6, seed=3)
    old, rng = p.old_policy, np.random.default_rng(0)
    move = 1e-3 * rng.standard_normal(old.K.shape)
    _, covs = states(p, old)
    means, _ = states(p, old)
    k = np.stack([old.k[t] - move[t] @ means[t] for t in range(6)])
    found = divergence(factored(old._replace(K=old.K + move, k=k)), factored(old), marginals_of(p, old))
    want = [0.5 * np.trace(np.linalg.solve(old.cov[t], move[t] @ covs[t] @ move[t].T)) for t in range(6)]
    np.testing.assert_allclose(found, want, rtol=1e-9)


@pytest.mark.parametrize("d", [0.0, 9.0, 1e-1, 1e-2, 1e-4, 1e-8, 1e-12, 1e-15, -1e-15, -1e-8, -1e-2, -0.9, -2.1])
@pytest.mark.parametrize("sigma", [1e-150, 1e-3, 1.0, 1e150])
def test_small_differences_are_not_lost(d, sigma):
    """A standard deviation that is 1 + d times the old one, against long doubles; never below 0."""
    n, T = 1, 3
    still = jnp.zeros((T, 1, n))
    policy = lambda s: LinearGaussianPolicy(still, jnp.zeros((T, 1)), jnp.full((T, 1, 1), s))
    new, old = sigma * (1.0 + d), sigma
    zero = LinearDynamics(jnp.zeros((T, 1, 2)), jnp.zeros((T, 1)))
    marginals = marginal(zero, policy(new), jnp.zeros(1), jnp.eye(1))
    found = np.asarray(divergence(policy(new), policy(old), marginals))
    real = (np.longdouble(abs(new)) - np.longdouble(old)) / np.longdouble(old)
    # d - log(1 + d) by its alternating series, where it converges fast.
    bracket = real - np.log1p(real) if abs(real) > 0.05 else sum((-real) ** k / k for k in range(2, 15))
    assert (found >= 0.0).all()
    np.testing.assert_allclose(found, float(real**2 / 2 + bracket), rtol=1e-12)


@pytest.mark.parametrize("ratio", [1e-300, 1e-30, 1e-9, 1e9, 1e100])
def test_noise_that_nearly_vanished_is_far_but_not_infinitely(ratio):
    still = jnp.zeros((1, 1, 1))
    policy = lambda s: LinearGaussianPolicy(still, jnp.zeros((1, 1)), jnp.full((1, 1, 1), s))
    zero = LinearDynamics(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1)))
    marginals = marginal(zero, policy(ratio), jnp.zeros(1), jnp.eye(1))
    found = float(divergence(policy(ratio), policy(1.0), marginals)[0])
    assert found == pytest.approx(0.5 * (ratio**2 - 1.0) - np.log(ratio), rel=1e-14)


@pytest.mark.parametrize("which", ["old", "new", "both"])
def test_without_noise_nothing_is_near(which):
    p = kl_case(3, 2, 6, seed=1)
    new, old = factored(other(p)), factored(p.old_policy)
    flat = lambda policy: policy._replace(L=policy.L.at[2, 1, 1].set(0.0))
    new, old = flat(new) if which != "old" else new, flat(old) if which != "new" else old
    found = divergence(new, old, marginals_of(p, other(p)))
    assert np.isinf(found[2])
    assert np.isfinite(np.delete(np.asarray(found), 2)).all()


@pytest.mark.parametrize("field", ["K", "k", "L"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_infinitely_far(field, bad):
    p = kl_case(3, 2, 6, seed=1)
    new, old = factored(other(p)), factored(p.old_policy)
    place = (4, 1) if field == "k" else (4, 1, 0)
    hurt = lambda policy: policy._replace(**{field: getattr(policy, field).at[place].set(bad)})
    marginals = marginals_of(p, other(p))
    for a, b in ((hurt(new), old), (new, hurt(old))):
        found = divergence(a, b, marginals)
        assert np.isinf(found[4])
        assert np.isfinite(np.delete(np.asarray(found), 4)).all()


def test_cost_and_divergence_agree_with_sampling():
    """200,000 rollouts, within four standard errors."""
    N, p = 200_000, kl_case(3, 2, 5, seed=4)
    new, old, rng = other(p), p.old_policy, np.random.default_rng(1)
    x = rng.multivariate_normal(p.m0, p.P0, N)
    costs, ratios = np.zeros(N), np.zeros(N)
    for t in range(5):
        mean = x @ new.K[t].T + new.k[t]
        noise = rng.multivariate_normal(np.zeros(2), new.cov[t], N)
        u = mean + noise
        z = np.concatenate([x, u], axis=1)
        costs += 0.5 * np.sum(z @ p.C[t] * z, axis=1) + z @ p.c[t]
        log = lambda error, cov: multivariate_normal(np.zeros(2), cov).logpdf(error)
        ratios += log(noise, new.cov[t]) - log(u - x @ old.K[t].T - old.k[t], old.cov[t])
        x = z @ p.F[t].T + p.f[t] + rng.multivariate_normal(np.zeros(3), p.W[t], N)
    costs += 0.5 * np.sum(x @ p.C_T * x, axis=1) + x @ p.c_T
    cost = QuadraticCost(*map(jnp.asarray, (p.C, p.c, np.zeros(5), p.C_T, p.c_T, 0.0)))
    marginals = marginals_of(p, new)
    J, KL = float(expected_cost(cost, marginals)), float(divergence(factored(new), factored(old), marginals).sum())
    assert abs(costs.mean() - J) < 4 * costs.std() / np.sqrt(N)
    assert abs(ratios.mean() - KL) < 4 * ratios.std() / np.sqrt(N)
    assert pytest.approx(expected(p, new), rel=1e-12) == J


@pytest.mark.parametrize(("n", "m", "T"), SHAPES)
def test_surprise_is_minus_the_log_density_but_for_a_constant(n, m, T):
    p = kl_case(n, m, T, seed=9)
    old, rng = p.old_policy, np.random.default_rng(3)
    found = minus_log(factored(old))
    for t in range(T):
        z = rng.standard_normal((6, n + m))
        errors = z[:, n:] - z[:, :n] @ old.K[t].T - old.k[t]
        want = -np.atleast_1d(multivariate_normal(np.zeros(m), old.cov[t]).logpdf(errors))
        M, own = np.asarray(found.M[t]), np.asarray(found.m[t])
        got = 0.5 * np.sum(z @ M * z, axis=1) + z @ own
        np.testing.assert_allclose(got - got[0], want - want[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(M, M.T)
        assert np.linalg.eigvalsh(M)[0] > -1e-12 * np.abs(M).max()


@pytest.mark.parametrize("m", [1, 2, 6, 7])
def test_the_root_of_a_covariance_is_lower_triangular(m):
    rng = np.random.default_rng(m)
    root = rng.standard_normal((5, m, m))
    Quu = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(m)
    L = np.asarray(precision_root(jnp.asarray(Quu)))
    np.testing.assert_allclose(L @ np.swapaxes(L, 1, 2), np.linalg.inv(Quu), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(L, np.linalg.cholesky(np.linalg.inv(Quu)), rtol=1e-8, atol=1e-9)
    assert not np.triu(L, 1).any()


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_forward_substitution(m, scale):
    rng = np.random.default_rng(m)
    lower = scale * (np.tril(rng.standard_normal((4, m, m)), -1) + np.eye(m))
    right = rng.standard_normal((4, m, 3))
    want = [solve_triangular(a, b, lower=True) for a, b in zip(lower, right, strict=True)]
    np.testing.assert_allclose(solve_lower(jnp.asarray(lower), jnp.asarray(right)), want, rtol=1e-11)
    np.testing.assert_allclose(lower_inverse(jnp.asarray(lower)) * scale, np.linalg.inv(lower / scale), atol=1e-11)
    noisy = lower + np.triu(rng.standard_normal((4, m, m)), 1)  # above the diagonal nothing is read
    np.testing.assert_array_equal(
        solve_lower(jnp.asarray(noisy), jnp.asarray(right)), solve_lower(jnp.asarray(lower), jnp.asarray(right))
    )
    same = np.asarray(solve_lower(jnp.asarray(lower), jnp.asarray(lower)))
    np.testing.assert_array_equal(same, np.broadcast_to(np.eye(m), (4, m, m)))


def test_a_pivot_of_zero_is_infinite_and_no_exception():
    assert np.isinf(lower_inverse(jnp.zeros((2, 1, 1)))).all()


def test_derivatives_vanish_where_the_policies_are_one():
    """KL is least there, in every parameter."""
    p = kl_case(3, 2, 4, seed=6)
    old = factored(p.old_policy)
    total = lambda policy: divergence(policy, old, marginals_of(p, p.old_policy)).sum()
    gradient = jax.jit(jax.grad(total))(old)
    assert max(float(jnp.abs(g).max()) for g in gradient) < 1e-13
    move = jax.tree.map(lambda a: 1e-4 * jnp.tril(jnp.ones_like(a)) if a.ndim == 3 else 1e-4 + 0 * a, old)
    assert float(total(jax.tree.map(jnp.add, old, move))) > 0.0
