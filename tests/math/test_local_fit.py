from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from forethought.math import local_fit
from forethought.math.local_fit import (
    LocalFit,
    NIWPrior,
    fit_bayesian,
    fit_initial,
    fit_regression,
    widened,
    widened_dynamics,
)
from forethought.math.local_rows import same_turn, unwrapped
from forethought.types import UserError

regression = jax.jit(fit_regression, static_argnames=("ridge", "window", "angles"))
bayesian = jax.jit(fit_bayesian, static_argnames=("window", "angles"))
initial = jax.jit(fit_initial, static_argnames=("floor", "angles"))


N, M, T, R = 3, 2, 6, 25
"""One shape for most tests, which compile once for it; fewer rows are had by weights."""


def system(seed: int, n: int = N, m: int = M, steps: int = T):
    """Linear dynamics of every step: F, f, and a factor of W."""
    random = np.random.default_rng(seed)
    F = random.normal(size=(steps, n, n + m)) / np.sqrt(n + m)
    root = 0.1 * np.tril(random.normal(size=(steps, n, n))) + 0.1 * np.eye(n)
    return F, random.normal(size=(steps, n)), root


def rollouts(seed: int, F, f, root, rows: int = R, noise: float = 1.0):
    """Rows [T, N, ...] around centres of their own, with columns of unequal spread that are correlated."""
    random = np.random.default_rng(seed)
    steps, n, d = F.shape
    mix = np.eye(d) + 0.3 * random.normal(size=(steps, d, d))
    z = random.normal(size=(steps, 1, d)) + np.einsum("tij,trj->tri", mix, random.normal(size=(steps, rows, d)))
    shock = np.einsum("tij,trj->tri", root, random.normal(size=(steps, rows, n)))
    return z, np.einsum("tij,trj->tri", F, z) + f[:, None] + noise * shock


def prior_for(seed: int, steps: int = T, d: int = N + M, n: int = N, kappa0: float = 0.7, n0: float = 1.3) -> NIWPrior:
    """Any positive definite prior."""
    random = np.random.default_rng(seed)
    half = random.normal(size=(steps, d + n, d + n))
    cov = half @ half.transpose(0, 2, 1) / (d + n) + 0.1 * np.eye(d + n)
    full = lambda value: np.full(steps, value)
    return NIWPrior(random.normal(size=(steps, d + n)), cov, full(kappa0), full(n0))


def first(count: int, rows: int = R) -> np.ndarray:
    """Weights of the first `count` rollouts."""
    return (np.arange(rows) < count).astype(float)


def close(a, b, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def is_sound(fit: LocalFit) -> None:
    """Every number is finite, and every W symmetric and positive definite."""
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit))
    W = np.asarray(fit.dynamics.W)
    assert not np.any(W - W.transpose(0, 2, 1))
    spread = np.sqrt(np.diagonal(W, axis1=1, axis2=2))
    assert (spread > 0.0).all()
    assert np.linalg.eigvalsh(W / spread[:, :, None] / spread[:, None, :]).min() > 0.0


# --- version 1.0 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [1, 2, 20])
def test_without_noise_regression_is_exact(more: int) -> None:
    F, f, root = system(0)
    z, y = rollouts(1, F, f, root, noise=0.0)
    fit = regression(z, y, first(N + M + more), ridge=1e-14)
    close(fit.dynamics.F, F, atol=1e-7)
    close(fit.dynamics.f, f, atol=1e-7)
    # With n + m + 1 rows nothing is left for the noise, and no W that is 0 is claimed.
    assert (np.asarray(fit.guessed) == (more == 1)).all()
    if more > 1:
        assert np.abs(fit.dynamics.W).max() < 1e-10
    is_sound(fit)


def test_regression_is_least_squares_with_unbiased_noise() -> None:
    """Against NumPy's lstsq on [z, 1] step by step, with rows of weight 0 in different places."""
    n, m, steps, count = N, M, T, R
    F, f, root = system(2)
    z, y = rollouts(3, F, f, root)
    weight = np.ones((steps, count))
    weight[2, 4:7] = weight[5, 0] = 0.0
    fit = regression(z, y, weight, ridge=1e-14)
    for t in range(steps):
        use = weight[t] > 0
        design = np.concatenate([z[t, use], np.ones((use.sum(), 1))], axis=1)
        answer, *_ = np.linalg.lstsq(design, y[t, use], rcond=None)
        close(fit.dynamics.F[t], answer[:-1].T)
        close(fit.dynamics.f[t], answer[-1])
        rest = y[t, use] - design @ answer
        close(fit.dynamics.W[t], rest.T @ rest / (use.sum() - n - m - 1))
        assert fit.freedom[t] == pytest.approx(use.sum() - n - m - 1)
        assert fit.rows[t] == use.sum()
        at = z[t, 0]
        doubt = np.append(at, 1.0) @ np.linalg.solve(design.T @ design, np.append(at, 1.0))
        close(widened(fit, t, at), (1.0 + doubt) * fit.dynamics.W[t])
    assert not fit.guessed.any()


def test_the_ridge_is_on_the_slopes_of_standard_inputs() -> None:
    """N ridge |(F - [I 0]) diag(s)|^2 beside the squares, by the dense formula."""
    count, ridge = R, 0.3
    F, f, root = system(4)
    z, y = rollouts(5, F, f, root)
    fit = regression(z, y, first(R), ridge=ridge)
    stay = np.eye(N, N + M)
    for t in range(T):
        away, out = z[t] - z[t].mean(axis=0), y[t] - y[t].mean(axis=0)
        penalty = count * ridge * np.diag(away.var(axis=0))
        slope = stay + np.linalg.solve(away.T @ away + penalty, away.T @ (out - away @ stay.T)).T
        close(fit.dynamics.F[t], slope)
        close(fit.dynamics.f[t], y[t].mean(axis=0) - slope @ z[t].mean(axis=0))


def test_a_window_pools_the_rows_of_neighbours() -> None:
    F, f, root = system(6)
    z, y = rollouts(7, F, f, root, 8)
    pooled = regression(z, y, first(4, 8), window=1)
    of = lambda v: np.concatenate([v[2, :4], v[3, :4], v[4, :4], np.zeros((R - 12, v.shape[2]))])
    alone = regression(np.stack([of(z)] * T), np.stack([of(y)] * T), first(12))
    close(pooled.dynamics.F[3], alone.dynamics.F[0], atol=1e-7)
    close(pooled.dynamics.W[3], alone.dynamics.W[0], atol=1e-7)
    assert list(np.asarray(pooled.rows)) == [8.0, 12.0, 12.0, 12.0, 12.0, 8.0]


def test_information_tells_when_actions_are_a_function_of_states() -> None:
    """What the lecture's controllers 1.0 and 2.0 leave for the regression: with noise the rows have full rank."""
    n, m, count = N, M, R
    F, f, root = system(8)
    z, _ = rollouts(9, F, f, root)
    K = np.random.default_rng(10).normal(size=(m, n))
    noise = np.random.default_rng(11).normal(size=(T, count, m))
    for size, low, high in ((0.0, 0.0, 1e-8), (0.3, 0.003, 1.0)):
        u = z[:, :, :n] @ K.T + size * noise
        both = np.concatenate([z[:, :, :n], u], axis=2)
        y = np.einsum("tij,trj->tri", F, both) + f[:, None]
        for fit in both_fits(both, y, first(R), prior_for(0)):
            assert (low <= fit.information).all()
            assert (fit.information <= high).all()
            is_sound(fit)
    # By its definition: the inverse of the variance inflation factor.
    each = np.linalg.inv(np.stack([np.corrcoef(rows.T) for rows in both]))
    close(fit.information, 1.0 / np.diagonal(each, axis1=1, axis2=2).max(axis=1), rtol=1e-6)


# --- version 2.0 ------------------------------------------------------------------------------------------------------


def dense_joint(z, y, prior: NIWPrior, t: int):
    """The normal-inverse-Wishart update of step t, by the book."""
    xi = np.concatenate([z[t], y[t]], axis=1)
    count, mean = len(xi), xi.mean(axis=0)
    k0, n0 = prior.strength_mean[t], prior.strength_cov[t]
    scatter = (xi - mean).T @ (xi - mean)
    gap = mean - prior.mean[t]
    Psi = n0 * prior.cov[t] + scatter + k0 * count / (k0 + count) * np.outer(gap, gap)
    return (k0 * prior.mean[t] + count * mean) / (k0 + count), k0 + count, Psi, scatter


def test_bayesian_fit_is_the_conditional_of_the_joint_posterior() -> None:
    """By inverting the whole joint densely: the precision's blocks give slope and covariance of y given z."""
    d, steps, count = N + M, T, 4
    F, f, root = system(12)
    z, y = rollouts(13, F, f, root)
    prior = prior_for(14)
    fit = bayesian(z, y, first(count), prior)
    z, y = z[:, :count], y[:, :count]
    for t in range(steps):
        mu, kappa, Psi, scatter = dense_joint(z, y, prior, t)
        precision = np.linalg.inv(Psi)
        rest = np.linalg.inv(precision[d:, d:])
        slope = -rest @ precision[d:, :d]
        close(fit.dynamics.F[t], slope)
        close(fit.dynamics.f[t], mu[d:] - slope @ mu[:d])
        decided = np.trace(scatter[:d, :d] @ np.linalg.inv(Psi[:d, :d]))
        freedom = prior.strength_cov[t] + count - decided - count / kappa
        close(fit.decided[t], decided)
        close(fit.freedom[t], freedom)
        close(fit.dynamics.W[t], rest / freedom, rtol=1e-8)
        close(fit.centre[t], mu[:d])
        close(fit.kappa[t], kappa)
        close(fit.root[t].T @ fit.root[t], np.linalg.inv(Psi[:d, :d]), atol=1e-8)


def test_bayesian_fit_is_matrix_normal_regression() -> None:
    """On [z, 1] with the prior precision and mean that the joint's prior means, and its sums of squares."""
    d, steps, count = N + M, T, 4
    F, f, root = system(15)
    z, y = rollouts(16, F, f, root)
    prior = prior_for(17)
    fit = bayesian(z, y, first(count), prior)
    z, y = z[:, :count], y[:, :count]
    for t in range(steps):
        k0, n0, mu0 = prior.strength_mean[t], prior.strength_cov[t], prior.mean[t]
        Psi0 = n0 * prior.cov[t]
        column = k0 * mu0[:d, None]
        Lambda0 = np.block([[Psi0[:d, :d] + column @ mu0[None, :d], column], [column.T, np.full((1, 1), k0)]])
        slope0 = np.linalg.solve(Psi0[:d, :d], Psi0[:d, d:]).T
        B0 = np.concatenate([slope0, (mu0[d:] - slope0 @ mu0[:d])[:, None]], axis=1)
        V0 = Psi0[d:, d:] - slope0 @ Psi0[:d, d:]
        design = np.concatenate([z[t], np.ones((count, 1))], axis=1)
        Lambda = Lambda0 + design.T @ design
        B = np.linalg.solve(Lambda, (B0 @ Lambda0 + y[t].T @ design).T).T
        V = V0 + (y[t] - design @ B.T).T @ (y[t] - design @ B.T) + (B - B0) @ Lambda0 @ (B - B0).T
        close(fit.dynamics.F[t], B[:, :d])
        close(fit.dynamics.f[t], B[:, d])
        close(fit.dynamics.W[t] * fit.freedom[t], V)
        at = np.append(z[t, 1] + 1.0, 1.0)
        close(widened(fit, t, at[:-1]) / fit.dynamics.W[t], 1.0 + at @ np.linalg.solve(Lambda, at))


def test_a_weak_prior_is_regression() -> None:
    F, f, root = system(18)
    z, y = rollouts(19, F, f, root)
    prior = prior_for(20, kappa0=1e-9, n0=1e-9)
    weak, plain = bayesian(z, y, first(12), prior), regression(z, y, first(12), ridge=1e-14)
    close(weak.dynamics.F, plain.dynamics.F, atol=1e-6)
    close(weak.dynamics.f, plain.dynamics.f, atol=1e-6)
    close(weak.dynamics.W, plain.dynamics.W, atol=1e-6)
    close(weak.freedom, plain.freedom, atol=1e-6)
    close(weak.information, plain.information, atol=1e-6)
    none = bayesian(z, y, first(12), prior_for(20, kappa0=0.0, n0=0.0))
    close(none.dynamics.F, plain.dynamics.F, atol=1e-6)


def test_no_rows_are_the_prior() -> None:
    F, f, root = system(21)
    z, y = rollouts(22, F, f, root)
    prior = prior_for(23)
    fit = bayesian(z, y, first(0), prior)
    slope = np.linalg.solve(prior.cov[:, :5, :5], prior.cov[:, :5, 5:]).transpose(0, 2, 1)
    close(fit.dynamics.F, slope)
    close(fit.dynamics.f, prior.mean[:, 5:] - np.einsum("tij,tj->ti", slope, prior.mean[:, :5]))
    close(fit.dynamics.W, prior.cov[:, 5:, 5:] - slope @ prior.cov[:, :5, 5:], rtol=1e-8)
    assert (np.asarray(fit.rows) == 0).all()
    assert not fit.guessed.any()


def test_a_strong_prior_is_the_prior() -> None:
    F, f, root = system(24)
    z, y = rollouts(25, F, f, root)
    prior = prior_for(26, kappa0=1e9, n0=1e9)
    fit = bayesian(z, y, first(6), prior)
    slope = np.linalg.solve(prior.cov[:, :5, :5], prior.cov[:, :5, 5:]).transpose(0, 2, 1)
    close(fit.dynamics.F, slope, atol=1e-6)
    close(fit.dynamics.W, prior.cov[:, 5:, 5:] - slope @ prior.cov[:, :5, 5:], rtol=1e-6)


# --- calibration ------------------------------------------------------------------------------------------------------


def joint_of(F, f, root, mean_z, cov_z) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of [z; y] of one step."""
    cross = F @ cov_z
    cov = np.block([[cov_z, cross.T], [cross, cross @ F.T + root @ root.T]])
    return np.concatenate([mean_z, F @ mean_z + f]), cov


def of_noise(fit: LocalFit, root: np.ndarray) -> float:
    """E[tr(L^-1 W L^-T)] / n over all fits, 1 where W is right."""
    half = np.linalg.solve(root, np.asarray(fit.dynamics.W))
    return float(np.mean(np.trace(np.linalg.solve(root, half.transpose(0, 2, 1)), axis1=1, axis2=2)) / root.shape[0])


def of_fresh_rows(fit: LocalFit, z: np.ndarray, y: np.ndarray) -> float:
    """Median of the squared Mahalanobis distance of a new row from its prediction, per output."""
    dynamics = widened_dynamics(fit, z)
    away = y - np.einsum("tij,tj->ti", dynamics.F, z) - dynamics.f
    square = np.sum(away * np.linalg.solve(np.asarray(dynamics.W), away[:, :, None])[:, :, 0], axis=1)
    return float(np.median(square)) / (stats.chi2.median(away.shape[1]) / away.shape[1]) / away.shape[1]


FITS, MOST = 1500, 50


@pytest.mark.parametrize("count", [5, 10, 50])
@pytest.mark.parametrize("n0", [0.1, 1.0, 5.0])
def test_noise_and_predictions_are_calibrated_with_a_prior(count: int, n0: float) -> None:
    """Over 1,500 fits with a right prior, n + m = 3.  Dividing by n0 + N would give 0.55 of W at n0 = 1, N = 5, the
    mean of the inverse Wishart 0.36."""
    fits = FITS
    F, f, root = (part[0] for part in system(27, 2, 1, 1))
    random = np.random.default_rng(28)
    half = np.eye(3) + 0.4 * random.normal(size=(3, 3))
    mean, cov = joint_of(F, f, root, random.normal(size=3), half @ half.T)
    every = random.multivariate_normal(mean, cov, size=(fits, MOST + 1))
    repeat = lambda value: np.broadcast_to(value, (fits, *np.shape(value)))
    prior = NIWPrior(repeat(mean), repeat(cov), repeat(np.array(n0)), repeat(np.array(n0)))
    fit = bayesian(every[:, :MOST, :3], every[:, :MOST, 3:], first(count, MOST), prior)
    assert 0.9 < of_noise(fit, root) < 1.1
    if n0 > 0.1 or count > 5:  # one degree of freedom is left there, and the median of such a Student t is another
        assert 0.7 < of_fresh_rows(fit, every[:, MOST, :3], every[:, MOST, 3:]) < 1.5


@pytest.mark.parametrize("count", [6, 10, 50])
def test_noise_and_predictions_are_calibrated_without_one(count: int) -> None:
    F, f, root = (np.broadcast_to(part, (FITS, *part.shape[1:])) for part in system(29, 2, 1, 1))
    z, y = rollouts(30, F, f, root, MOST + 1)
    fit = regression(z[:, :MOST], y[:, :MOST], first(count, MOST))
    assert 0.9 < of_noise(fit, root[0]) < 1.1
    if count > 6:  # the median of a Student t with two degrees of freedom is another
        assert 0.7 < of_fresh_rows(fit, z[:, MOST], y[:, MOST]) < 1.5


def test_the_prior_helps_where_rows_are_few() -> None:
    """A prior whose slopes are wrong by a fifth, n + m = 3: much better at 4 and 5 rows, as good as none at 50."""
    fits = FITS
    F, f, root = (part[0] for part in system(31, 2, 1, 1))
    random = np.random.default_rng(32)
    mean, cov = joint_of(F, f, root, np.zeros(3), np.eye(3))
    wrong = F * (1.0 + 0.2 * np.sign(random.normal(size=F.shape)))
    mean0, cov0 = joint_of(wrong, f, root, np.zeros(3), np.eye(3))
    repeat = lambda value: np.broadcast_to(value, (fits, *np.shape(value)))
    prior = NIWPrior(repeat(mean0), repeat(cov0), repeat(np.array(1.0)), repeat(np.array(1.0)))
    gains = {}
    for count in (4, 5, 50):
        every = random.multivariate_normal(mean, cov, size=(fits, MOST))
        z, y, weight = every[:, :, :3], every[:, :, 3:], first(count, MOST)
        error = lambda fit: np.median(np.abs(np.asarray(fit.dynamics.F) - F).max(axis=(1, 2)))
        gains[count] = error(regression(z, y, weight)) / error(bayesian(z, y, weight, prior))
    assert gains[4] > 2.0
    assert gains[5] > 1.4
    assert 0.9 < gains[50] < 1.15


# --- invariance -------------------------------------------------------------------------------------------------------


def both_fits(z, y, weight, prior: NIWPrior) -> list[LocalFit]:
    return [regression(z, y, weight), bayesian(z, y, weight, prior)]


def test_order_of_rollouts_does_not_matter() -> None:
    F, f, root = system(33)
    z, y = rollouts(34, F, f, root)
    prior, order, weight = prior_for(35), np.random.default_rng(36).permutation(R), first(9)
    pairs = zip(both_fits(z, y, weight, prior), both_fits(z[:, order], y[:, order], weight[order], prior), strict=True)
    for one, other in pairs:
        jax.tree.map(lambda a, b: close(a, b, atol=1e-7), one, other)


@pytest.mark.parametrize("size", [1e-8, 1e-3, 1e8])
@pytest.mark.parametrize("count", [4, 12])
def test_units_do_not_matter(size: float, count: int) -> None:
    """A state in other units, and actions in yet others: with rows enough and without."""
    F, f, root = system(37)
    z, y = rollouts(38, F, f, root)
    weight, prior = first(count), prior_for(39)
    of_x, of_u = np.array([1.0, size, size]), np.array([1.0, 1.0 / size])
    of_z = np.concatenate([of_x, of_u])
    of_all = np.concatenate([of_z, of_x])
    scaled = prior._replace(mean=prior.mean * of_all, cov=prior.cov * of_all[:, None] * of_all)
    pairs = zip(both_fits(z, y, weight, prior), both_fits(z * of_z, y * of_x, weight, scaled), strict=True)
    for one, other in pairs:
        # What too few rows leave to the ridge is known to 1e-16 / 1e-10, and the slopes here are of size 1.
        close(other.dynamics.F / of_x[:, None] * of_z, one.dynamics.F, atol=5e-5)
        close(other.dynamics.W / of_x[:, None] / of_x, one.dynamics.W, atol=1e-6)
        close(other.information, one.information, atol=1e-6)
        is_sound(other)


def test_conditions_are_a_batch() -> None:
    F, f, root = system(40)
    sets = [rollouts(seed, F, f, root) for seed in (41, 42)]
    priors = [prior_for(seed) for seed in (43, 44)]
    weight = first(9)
    z, y = (np.stack(part) for part in zip(*sets, strict=True))
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *priors)
    at_once = jax.jit(jax.vmap(fit_bayesian, in_axes=(0, 0, None, 0)))(z, y, weight, whole)
    plain = jax.jit(jax.vmap(fit_regression, in_axes=(0, 0, None)))(z, y, weight)
    for i in range(2):
        alone = bayesian(z[i], y[i], weight, priors[i]), regression(z[i], y[i], weight)
        for many, one in zip((at_once, plain), alone, strict=True):
            jax.tree.map(lambda a, b, i=i: close(a[i], b, atol=1e-6), many, one)


def test_everything_is_float64() -> None:
    z, y = jnp.ones((2, 3, 3), jnp.float32), jnp.ones((2, 3, 2), jnp.float32)
    prior = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), prior_for(45, 2, 3, 2))
    for fit in (regression(z, y, jnp.ones(3, bool)), bayesian(z, y, jnp.ones(3, bool), prior)):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(fit)} == {"float64", "bool"}


# --- bad input --------------------------------------------------------------------------------------------------------


def spoiled(kind: str):
    """Rows with something wrong with them: z, y, weight."""
    steps, count = 1 if kind == "one step" else T, 1 if kind == "one rollout" else R
    F, f, root = system(46, steps=steps)
    z, y = rollouts(47, F, f, root, count)
    weight = np.tile(first(2 if kind == "two rollouts" else 8, count), (steps, 1))
    if kind == "identical rollouts":
        z[:], y[:] = z[:, :1], y[:, :1]
    if kind == "all zero":
        z[:], y[:] = 0.0, 0.0
    if kind == "NaN rollout":
        z[2, 3, 1], y[4, 3, 0], y[:, 5] = np.nan, np.inf, np.nan
    if kind == "all NaN":
        z[:], y[:] = np.nan, np.nan
    if kind == "all dead":
        weight[:] = 0.0
        y[:] = np.nan
    if kind == "dead from step 3 on":
        weight[3:] = 0.0
        z[3:] = np.nan
    if kind == "constant inputs":
        z[:, :, 1], z[:, :, 4] = 3.0, 0.0
    if kind == "constant outputs":
        y[:] = 1.0
    if kind == "repeated column":
        z[:, :, 1] = z[:, :, 0]
    if kind == "actions of the state":
        z[:, :, 3:] = z[:, :, :2] - 1.0
    if kind == "far from zero":
        z, y = z + 1e6, y + 1e6
    if kind == "huge":
        z, y = 1e8 * z, 1e8 * y
    if kind == "tiny":
        z, y = 1e-8 * z, 1e-8 * y
    if kind == "unbelievable":
        z[1, 2, 0] = 1e200
    return z, y, weight


BAD = [
    *(
        "one rollout",
        "two rollouts",
        "one step",
        "identical rollouts",
        "all zero",
        "NaN rollout",
        "all NaN",
        "all dead",
    ),
    *("dead from step 3 on", "constant inputs", "constant outputs", "repeated column", "actions of the state"),
    *("far from zero", "huge", "tiny", "unbelievable"),
]


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_give_finite_fits(kind: str) -> None:
    z, y, weight = spoiled(kind)
    fits = [regression(z, y, weight)] + [regression(z, y, weight, window=1)] * (z.shape[:2] == (T, R))
    fits += [bayesian(z, y, weight, prior_for(48, z.shape[0]))]
    fits += [bayesian(z, y, weight, prior_for(48, z.shape[0], kappa0=0.0, n0=0.0))]
    for fit in fits:
        is_sound(fit)
        assert (np.asarray(fit.information) >= 0.0).all()
    few = np.asarray(fits[0].rows) <= 6
    assert (np.asarray(fits[0].guessed) == few)[few].all()
    assert np.isfinite(widened_dynamics(fits[0], np.zeros((z.shape[0], 5))).W).all()


def test_rows_that_are_no_numbers_count_as_absent() -> None:
    F, f, root = system(49)
    z, y = rollouts(50, F, f, root)
    weight = np.tile(first(9), (T, 1))
    weight[:, 7] = 0.0
    without = weight.copy()
    without[2, 3] = without[4, 5] = 0.0
    prior = prior_for(51)
    clean = both_fits(z, y, without, prior)
    z[2, 3, 1], y[4, 5, 0], y[:, 7] = np.nan, np.inf, np.nan
    for ours, theirs in zip(both_fits(z, y, weight, prior), clean, strict=True):
        assert list(np.asarray(ours.left_out)) == [0, 0, 1, 0, 1, 0]
        assert list(np.asarray(ours.rows)) == [8, 8, 7, 8, 7, 8]
        jax.tree.map(close, ours._replace(left_out=theirs.left_out), theirs)


def test_with_one_rollout_things_stay_as_they_are() -> None:
    """x+ = x + the change that was seen; and a prior says the rest."""
    F, f, root = system(52)
    z, y = rollouts(53, F, f, root)
    fit = regression(z, y, first(1))
    close(fit.dynamics.F, np.broadcast_to(np.eye(N, N + M), (T, N, N + M)))
    close(fit.dynamics.f, (y - z[:, :, :N])[:, 0])
    assert fit.guessed.all()


def test_without_64_bits_it_says_so() -> None:
    jax.config.update("jax_enable_x64", False)
    try:
        for call in (fit_regression, fit_initial):
            args = (np.zeros((1, 2, 2)), np.zeros((1, 2, 1))) if call is fit_regression else (np.zeros((2, 1)),)
            with pytest.raises(UserError, match="float64"):
                call(*args, np.ones(2))
    finally:
        jax.config.update("jax_enable_x64", True)


# --- angles -----------------------------------------------------------------------------------------------------------


def turning(wrapped: bool, count: int = R):
    """Rollouts of an angle with its speed, through the cut at pi."""
    random = np.random.default_rng(54)
    x = np.array([3.0, 1.0]) + 0.1 * random.normal(size=(count, 2))
    xs, us, ys = [], [], []
    for _ in range(5):
        u = random.normal(size=(count, 1))
        y = x + 0.1 * np.stack([x[:, 1], u[:, 0] - np.sin(x[:, 0])], axis=1)
        xs, us, ys, x = [*xs, x], [*us, u], [*ys, y], y
    x, u, y = np.stack(xs), np.stack(us), np.stack(ys)
    fold = lambda v: np.stack([(v[..., 0] + np.pi) % (2 * np.pi) - np.pi, v[..., 1]], axis=-1)
    return (fold(x), u, fold(y)) if wrapped else (x, u, y)


def test_rollouts_on_both_sides_of_the_cut_are_fitted_on_the_line() -> None:
    plain, cut = turning(wrapped=False), turning(wrapped=True)
    assert (np.abs(np.diff(np.sign(cut[0][2, :, 0]))) > 0).any()
    x, y = unwrapped(cut[0], cut[2], np.ones(R), (0,))
    close(x, plain[0])
    close(y, plain[2])
    ours = regression(np.concatenate([x, cut[1]], axis=2), cut[2], np.ones(R), angles=(0,))
    theirs = regression(np.concatenate([plain[0], plain[1]], axis=2), plain[2], np.ones(R))
    close(ours.dynamics.F, theirs.dynamics.F, atol=1e-7)
    close(ours.dynamics.f, theirs.dynamics.f, atol=1e-7)
    # Without being told, the regression takes the jump for a movement.
    blind = regression(np.concatenate([cut[0], cut[1]], axis=2), cut[2], np.ones(R))
    assert np.abs(blind.dynamics.F - theirs.dynamics.F).max() > 1.0


def test_unwrapping_ignores_dead_rows_and_keeps_bits() -> None:
    x, _, y = turning(wrapped=True)
    dead = np.ones(R)
    dead[4] = 0.0
    other = x.copy()
    other[:, 4] = np.nan
    found, _ = unwrapped(other, y, dead, (0,))
    clean, _ = unwrapped(x, y, dead, (0,))
    alive = dead > 0
    assert (np.asarray(found)[:, alive] == np.asarray(clean)[:, alive]).all()
    same = np.asarray(found) == x
    assert same[0, alive].mean() > 0.7  # the others are those beyond the cut
    assert same[:, alive, 1].all()
    assert unwrapped(x, y, dead, ())[0] is x
    assert same_turn(np.array([0.1, 6.0]), np.array([6.2, 0.0]), (0,))[0] == pytest.approx(0.1 + 2 * np.pi)


# --- initial states ---------------------------------------------------------------------------------------------------


def test_initial_states() -> None:
    random = np.random.default_rng(55)
    x0 = random.normal(size=(7, 3)) * [1.0, 1e-6, 1e6]
    weight = np.array([1, 1, 0, 1, 1, 1, 1.0])
    bad = x0.copy()
    bad[2], bad[5, 0] = np.nan, np.inf
    mean, cov = initial(bad, weight)
    use = np.array([0, 1, 3, 4, 6])
    close(mean, x0[use].mean(axis=0))
    expected = np.cov(x0[use].T)
    units = np.sqrt(np.diag(expected))
    close(cov / units[:, None] / units, expected / units[:, None] / units + 1e-6 * np.eye(3))
    scale = np.array([2.0, 3.0, 4.0])
    mean, cov = initial(np.broadcast_to(x0[:1], (7, 3)), np.ones(7), floor=1e-4, scale=scale)
    close(mean, x0[0])
    close(cov, np.diag(1e-4 * scale**2), rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_initial_states_always_have_a_covariance(count: int) -> None:
    weight = (np.arange(4) < count).astype(float)
    mean, cov = initial(np.array([[0.0, 5.0]] * 4), weight)
    assert np.isfinite(mean).all()
    assert np.linalg.eigvalsh(cov).min() > 0.0
    close(mean, [0.0, 5.0] if count else [0.0, 0.0])


def test_initial_angles_are_averaged_across_the_cut() -> None:
    x0 = np.array([[3.1, 0.0], [-3.1, 0.0], [3.0, 0.0]])
    mean, cov = initial(x0, np.ones(3), angles=(0,))
    around = np.array([3.1, -3.1 + 2 * np.pi, 3.0])
    assert mean[0] == pytest.approx(around.mean())
    assert cov[0, 0] == pytest.approx(around.var(ddof=1), rel=1e-5)


def test_a_fit_is_a_pytree_of_arrays_of_fixed_shape() -> None:
    """Whatever the weights: a loop that refits compiles once."""
    F, f, root = system(56)
    z, y = rollouts(57, F, f, root, 4)
    before = regression._cache_size()
    shapes = [jax.tree.map(jnp.shape, regression(z, y, weight)) for weight in (np.ones(4), np.zeros(4))]
    assert shapes[0] == shapes[1]
    assert regression._cache_size() == before + 1
    assert local_fit.RIDGE > local_fit.LEAST_RIDGE


def test_noise_free_models_are_better_than_the_floor_hides() -> None:
    """Columns of small change: the floor of W is far below what a step of 1 ms moves."""
    key = jr.key(58)
    x = jr.normal(key, (3, 20, 2), jnp.float64)
    u = jr.normal(jr.key(59), (3, 20, 1), jnp.float64)
    noise = 1e-5 * jr.normal(jr.key(60), (3, 20, 2), jnp.float64)
    y = x + 1e-3 * jnp.concatenate([x[:, :, 1:], u], axis=2) + noise
    fit = regression(jnp.concatenate([x, u], axis=2), y, np.ones(20))
    assert 0.5e-10 < np.mean(np.diagonal(fit.dynamics.W, axis1=1, axis2=2)) < 2e-10
