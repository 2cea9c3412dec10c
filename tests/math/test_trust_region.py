"""Trust-region steps beside dense solves, explicit Fisher matrices and the closed form of a quadratic bandit."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from forethought.math.kl_dual import KLStatus
from forethought.math.trust_region import StepHow, conjugate_gradients, fisher_product, trust_region_step

rng = np.random.default_rng(5)
DEFAULT, EXACT = StepHow(), StepHow(conjugate=30, damping=0.0)


def spd(n, least=0.5):
    A = rng.normal(size=(n, n))
    return A @ A.T + least * np.eye(n)


@pytest.mark.parametrize("n", [1, 4, 25])
def test_conjugate_gradients_solve(n):
    A, b = spd(n), rng.normal(size=n)
    product = lambda v: jnp.asarray(A) @ v
    found = conjugate_gradients(product, jnp.asarray(b), 3 * n, 1e-12)
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b), rtol=1e-7)
    np.testing.assert_allclose(found.rest, b - A @ np.asarray(found.x), atol=1e-9)
    assert float(found.added) == 0.0
    # One step is the best along b.
    short = conjugate_gradients(product, jnp.asarray(b), 1)
    np.testing.assert_allclose(short.x, b * (b @ b) / (b @ A @ b), rtol=1e-12)
    added = 0.3 * (b @ A @ b) / (b @ b)
    damped = conjugate_gradients(product, jnp.asarray(b), 3 * n, 1e-12, damping=0.3)
    assert float(damped.added) == pytest.approx(added, rel=1e-12)
    np.testing.assert_allclose(damped.x, np.linalg.solve(A + added * np.eye(n), b), rtol=1e-7)


def test_conjugate_gradients_stop_at_a_direction_that_is_not_positive():
    A = jnp.diag(jnp.asarray([1.0, -2.0]))
    found = conjugate_gradients(lambda v: A @ v, jnp.asarray([0.0, 1.0]), 10)
    np.testing.assert_array_equal(found.x, 0.0)
    found = conjugate_gradients(lambda v: A @ v, jnp.zeros(2), 10)
    np.testing.assert_array_equal(found.x, 0.0)
    np.testing.assert_array_equal(found.rest, 0.0)


X = jnp.asarray(rng.normal(size=(30, 3)))


def said(theta):
    """Mean (through a tanh) and log std of a Gaussian policy of two actions."""
    W = theta[:6].reshape(3, 2)
    return jnp.tanh(X @ W), theta[6:]


def policy_kl(old, theta):
    """mean over states of KL(old || theta), written out."""
    (m0, s0), (m1, s1) = said(old), said(theta)
    return jnp.mean(jnp.sum(s1 - s0 + (jnp.exp(2 * s0) + (m0 - m1) ** 2) / (2 * jnp.exp(2 * s1)) - 0.5, axis=1))


def test_the_fisher_product_is_that_of_the_score_matrix():
    """F = mean_x E[grad log p grad log p^T], with the expectation over actions by Gauss-Hermite quadrature."""
    theta = jnp.asarray(rng.normal(size=8) * 0.3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()

    def log_prob(theta, i, e):
        (m0, s0), (m, s) = jax.lax.stop_gradient(said(theta_old)), said(theta)
        u = m0[i] + jnp.exp(s0) * e
        return jnp.sum(-0.5 * ((u - m[i]) / jnp.exp(s)) ** 2 - s)

    theta_old = theta
    score = jax.jit(jax.vmap(jax.grad(log_prob), in_axes=(None, 0, None)))
    F = np.zeros((8, 8))
    for a, wa in zip(nodes, weights, strict=True):
        for b, wb in zip(nodes, weights, strict=True):
            rows = np.asarray(score(theta, jnp.arange(30), jnp.asarray([a, b])))
            F += wa * wb * rows.T @ rows / 30
    product = fisher_product(lambda v: policy_kl(theta, v), theta)
    mine = np.stack([np.asarray(product(jnp.asarray(e))) for e in np.eye(8)])
    np.testing.assert_allclose(mine, F, atol=1e-10)


SIGMA, H = spd(3), spd(3)
FISHER = jnp.asarray(np.linalg.inv(SIGMA))
BEST = jnp.asarray(rng.normal(size=3))


@eqx.filter_jit
def bandit_step(theta, epsilon, how=EXACT):
    """J = 1/2 (mu - b)^T H (mu - b), actions N(mu, SIGMA): KL is exactly quadratic in the mean."""

    def measure(v):
        return 0.5 * (v - BEST) @ jnp.asarray(H) @ (v - BEST), 0.5 * (v - theta) @ FISHER @ (v - theta)

    return trust_region_step(theta, measure, epsilon, how)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-1])
def test_the_bandits_multiplier_has_a_closed_form(epsilon):
    theta = BEST + jnp.asarray([3.0, -2.0, 4.0])
    g = H @ np.asarray(theta - BEST)
    found = bandit_step(theta, jnp.asarray(epsilon))
    assert float(found.multiplier) == pytest.approx(np.sqrt(g @ SIGMA @ g / (2.0 * epsilon)), rel=0.01)
    exact = np.sqrt(g @ SIGMA @ g / (2.0 * epsilon / 1.02))  # it aims 2% below the bound
    assert int(found.status) == KLStatus.SOLVED
    assert int(found.evaluations) == 1
    assert float(found.multiplier) == pytest.approx(exact, rel=1e-6)
    assert float(found.kl) == pytest.approx(epsilon, rel=0.05)
    assert float(found.kl) <= epsilon
    np.testing.assert_allclose(found.theta, theta - SIGMA @ g / exact, rtol=1e-6)
    assert float(found.predicted) == pytest.approx(g @ SIGMA @ g / exact, rel=1e-6)


def test_the_bandit_improves_at_every_step_and_arrives():
    theta, costs = BEST + jnp.asarray([3.0, -2.0, 4.0]), []
    for _ in range(300):
        found = bandit_step(theta, jnp.asarray(0.02))
        off = np.asarray(found.theta - BEST)
        costs.append(0.5 * off @ H @ off)
        assert float(found.kl) <= 0.02
        theta = found.theta
    assert np.all(np.diff(costs) <= 0.0)
    assert costs[-1] < 1e-3 * costs[0]


@eqx.filter_jit
def neural_step(theta, advantage, noise, epsilon, how=DEFAULT):
    (m0, s0), size = said(theta), noise.shape[0]
    u = m0 + jnp.exp(s0) * noise
    log_prob = lambda v: (lambda m, s: jnp.sum(-0.5 * ((u - m) / jnp.exp(s)) ** 2 - s, axis=1))(*said(v))
    base = log_prob(theta)

    def measure(v):
        return jnp.sum(jnp.exp(log_prob(v) - base) * advantage) / size, policy_kl(theta, v)

    return trust_region_step(theta, measure, epsilon, how), base


THETA = jnp.asarray(rng.normal(size=8) * 0.3)
NOISE, ADVANTAGE = jnp.asarray(rng.normal(size=(30, 2))), jnp.asarray(rng.normal(size=30))


@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("how", [EXACT, StepHow(), StepHow(conjugate=3, damping=1.0)])
def test_the_realised_kl_is_the_bound_to_a_twentieth_and_never_more(epsilon, how):
    """Whatever damping, curvature and an unfinished solve do to the direction: KL is measured."""
    found, _ = neural_step(THETA, ADVANTAGE, NOISE, jnp.asarray(epsilon), how)
    assert int(found.status) == KLStatus.SOLVED
    kl = float(policy_kl(THETA, found.theta))
    assert 0.95 * epsilon <= kl <= epsilon
    assert kl == pytest.approx(float(found.kl), rel=1e-9)
    assert float(found.actual) > 0.0


def test_the_multiplier_is_the_root_that_brentq_finds():
    found, _ = neural_step(THETA, ADVANTAGE, NOISE, jnp.asarray(0.05), EXACT)
    s = np.asarray(THETA - found.theta) * float(found.multiplier)
    kl = lambda log_l: float(policy_kl(THETA, THETA - s / np.exp(log_l)))
    at = lambda bound: np.exp(brentq(lambda v: kl(v) - bound, np.log(1e-2), np.log(1e4)))
    assert at(0.05) * (1 - 1e-9) <= float(found.multiplier) <= at(0.95 * 0.05)


def test_a_step_that_would_go_too_far_is_shortened():
    """Near the optimum the surrogate, not the bound, says how far: the step is limited, and still an improvement."""
    theta = BEST + jnp.asarray([1e-2, 0.0, 0.0])
    found = bandit_step(theta, jnp.asarray(10.0))
    assert int(found.status) == KLStatus.LIMITED
    off, before = np.asarray(found.theta - BEST), np.asarray(theta - BEST)
    assert 0.5 * off @ H @ off < 0.5 * before @ H @ before
    assert float(found.kl) < 1e-2
    assert int(found.evaluations) <= EXACT.evaluations


@pytest.mark.parametrize(
    ("advantage", "epsilon", "status"),
    [
        (ADVANTAGE.at[3].set(jnp.nan), 0.01, KLStatus.FAILED),
        (ADVANTAGE.at[3].set(jnp.inf), 0.01, KLStatus.FAILED),
        (ADVANTAGE, float("nan"), KLStatus.FAILED),
        (ADVANTAGE, -1.0, KLStatus.FAILED),
        (ADVANTAGE, float("inf"), KLStatus.FAILED),
        (ADVANTAGE, 0.0, KLStatus.SOLVED),
        (jnp.zeros(30), 0.01, KLStatus.INACTIVE),
    ],
)
def test_where_there_is_no_step_the_old_parameters_come_back(advantage, epsilon, status):
    found, _ = neural_step(THETA, advantage, NOISE, jnp.asarray(epsilon))
    np.testing.assert_array_equal(found.theta, THETA)
    assert int(found.status) == status
    assert float(found.kl) == 0.0
    assert float(found.actual) == 0.0


def test_a_surrogate_that_lies_about_its_slope_is_not_believed():
    """It rises wherever one goes: no step is accepted."""

    @eqx.filter_jit
    def step(theta):
        def measure(v):
            d = v - theta
            return jnp.sum(d) + 1e9 * jnp.sum(d * d), 0.5 * jnp.sum(d * d)

        return trust_region_step(theta, measure, jnp.asarray(0.01), StepHow(evaluations=3))

    found = step(jnp.ones(4))
    assert int(found.status) == KLStatus.FAILED
    np.testing.assert_array_equal(found.theta, 1.0)
