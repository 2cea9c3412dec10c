"""Gradients through imagined rollouts, against the closed form of a linear-quadratic-Gaussian problem."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractCost, AbstractDynamics
from forethought.costs.quadratic import Quadratic
from forethought.math.closed_loop import Parts, Stretch, lyapunov, pathwise, unroll
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.total_propagation import total_propagation

A, B = jnp.asarray([[1.0, 0.1], [-0.2, 0.9]]), jnp.asarray([[0.0], [0.3]])
GAIN = jnp.asarray([[-1.0, -0.5]])
START = jnp.asarray([1.0, -0.5])
STATE, ACTION, FINAL = np.array([1.0, 0.1]), np.array([0.2]), np.array([2.0, 1.0])
COST = Quadratic(np.zeros(2), STATE, ACTION, FINAL)
H, LENGTH, DISCOUNT, NOISE = 20, 15, 0.97, 0.05


class Linear(AbstractDynamics):
    """x' ~ N(A x + B u, noise^2)."""

    A: jax.Array
    B: jax.Array
    noise: jax.Array

    def predict(self, x, u, t):
        return DiagonalGaussian(self.A @ x + self.B @ u, jnp.full(x.shape, self.noise))

    def draw(self, key, particles):
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *v.shape)), self)


class Gain(eqx.Module):
    K: jax.Array

    def __call__(self, x):
        return self.K @ x


def stretch(length=LENGTH, discount=DISCOUNT):
    return Stretch(jnp.asarray(length, jnp.int32), jnp.asarray(discount, jnp.float32), jnp.ones(2))


def exact(K, noise=NOISE, A=A):
    """E J by the recursion of mean and covariance."""
    mean, cov, total = START, jnp.zeros((2, 2)), 0.0
    form = lambda weight, second: jnp.trace(jnp.diag(jnp.asarray(weight)) @ second)
    for h in range(LENGTH):
        second = cov + jnp.outer(mean, mean)
        total += DISCOUNT**h * (form(STATE, second) + form(ACTION, K @ second @ K.T))
        closed = A + B @ K
        mean, cov = closed @ mean, closed @ cov @ closed.T + noise**2 * jnp.eye(2)
    return total + DISCOUNT**LENGTH * form(FINAL, cov + jnp.outer(mean, mean))


def parts(K=GAIN):
    return Parts(*eqx.partition(Gain(K), eqx.is_inexact_array))


def estimated(method, P, noise=NOISE, A=A, key=1):
    model = Linear(A, B, jnp.asarray(noise)).draw(jr.key(0), P)
    starts = jnp.broadcast_to(START, (P, 2))
    return eqx.filter_jit(method)(parts(), model, COST, starts, jr.split(jr.key(key), (P, H)), stretch())


@pytest.mark.parametrize("method", [pathwise, total_propagation])
def test_the_gradient_is_that_of_the_closed_form(method) -> None:
    slope, health = estimated(method, 4000)
    value, wanted = jax.value_and_grad(exact)(GAIN)
    assert float(health.cost) == pytest.approx(float(value), rel=0.01)
    np.testing.assert_allclose(slope.K, wanted, atol=0.02 * float(jnp.linalg.norm(wanted)))
    assert float(health.norm) == pytest.approx(float(jnp.linalg.norm(wanted)), rel=0.02)
    assert int(health.lost) == 0


def test_with_hardly_any_noise_both_follow_the_path() -> None:
    wanted = jax.grad(lambda K: exact(K, 1e-3))(GAIN)
    for method in (pathwise, total_propagation):
        slope, health = estimated(method, 64, 1e-3)
        np.testing.assert_allclose(slope.K, wanted, rtol=5e-3)
        assert float(health.snr) > 100.0
        assert float(np.max(health.mixture)) < 1e-3  # the likelihood ratio is all noise here


def test_adjoints_are_those_of_the_rollout() -> None:
    """dJ/dx_h of a linear system without noise: 2 P_h x_h, by the recursion of its Lyapunov equation."""
    _, health = estimated(pathwise, 2, 1e-9)
    closed, x = A + B @ GAIN, [START]
    for _ in range(LENGTH):
        x.append(closed @ x[-1])
    P, adjoint = DISCOUNT**LENGTH * jnp.diag(jnp.asarray(FINAL)), np.zeros(H)
    for h in reversed(range(LENGTH)):
        stage = jnp.diag(jnp.asarray(STATE)) + GAIN.T @ jnp.diag(jnp.asarray(ACTION)) @ GAIN
        P = DISCOUNT**h * stage + closed.T @ P @ closed
        adjoint[h] = jnp.linalg.norm(2.0 * P @ x[h])
    np.testing.assert_allclose(health.adjoint[:LENGTH], adjoint[:LENGTH], rtol=1e-4)


class Chaos(AbstractDynamics):
    """x' ~ N(2 sin(3 x) + B u, 0.3^2): states stay small, and differences of them grow threefold per step."""

    B: jax.Array

    def predict(self, x, u, t):
        return DiagonalGaussian(2.0 * jnp.sin(3.0 * x) + self.B @ u, jnp.full(x.shape, 0.3))

    def draw(self, key, particles):
        return Chaos(jnp.broadcast_to(self.B, (particles, *self.B.shape)))


def test_total_propagation_survives_chaos() -> None:
    """Where the pathwise gradient explodes the mixture takes the likelihood ratio, and varies a thousand times less."""
    P, starts = 64, jnp.broadcast_to(START, (64, 2))
    run = eqx.filter_jit(
        lambda method, key: method(parts(), Chaos(B).draw(key, P), COST, starts, jr.split(key, (P, H)), stretch())
    )
    found = {m: [run(m, jr.key(key)) for key in range(8)] for m in (pathwise, total_propagation)}
    spread = {m: np.std([np.asarray(slope.K) for slope, _ in each], axis=0).max() for m, each in found.items()}
    assert spread[total_propagation] < 1e-3 * spread[pathwise]
    mixture = np.mean([health.mixture[:LENGTH] for _, health in found[total_propagation]], axis=0)
    assert mixture[: LENGTH - 5].min() > 0.8
    # Where little is amplified yet, at the end of the rollout, the path is the better one.
    assert mixture[LENGTH - 1] < 0.5
    # And it shows in what is logged: adjoints that grow backwards, and a gradient that is noise.
    health = found[pathwise][0][1]
    assert float(health.adjoint[0] / health.adjoint[LENGTH - 1]) > 1e3
    assert float(health.snr) < 1.0


def test_the_exponent_is_the_logarithm_of_the_spectral_radius() -> None:
    model = Linear(A, B, jnp.asarray(NOISE))
    found = lyapunov(Gain(GAIN), model, START, jr.key(2), 400, jnp.asarray(400))
    radius = np.abs(np.linalg.eigvals(np.asarray(A + B @ GAIN))).max()
    assert float(found) == pytest.approx(np.log(radius), abs=0.02)


def test_a_particle_that_is_not_finite_does_not_reach_the_mean() -> None:
    P = 8
    good = Linear(A, B, jnp.asarray(NOISE)).draw(jr.key(0), P)
    sick = eqx.tree_at(lambda m: m.A, good, good.A.at[3].set(jnp.nan))
    starts, keys = jnp.broadcast_to(START, (P, 2)), jr.split(jr.key(1), (P, H))
    others = np.array([i for i in range(P) if i != 3])
    for method in (pathwise, total_propagation):
        slope, health = method(parts(), sick, COST, starts, keys, stretch())
        assert int(health.lost) == 1
        few = jax.tree.map(lambda v: v[others], good)
        wanted, _ = method(parts(), few, COST, starts[others], keys[others], stretch())
        np.testing.assert_allclose(slope.K, wanted.K, rtol=1e-4)


class Leaving(AbstractCost):
    """1 per step while x_0 > -0.4; the episode ends where it is not."""

    extras: int = eqx.field(static=True, default=0)

    def stage(self, x, u, y, t):
        return jnp.ones(())

    def terminal(self, x):
        return jnp.asarray(100.0)

    def alive(self, y):
        return y[0] > -0.4


def test_nothing_is_paid_after_the_end_of_an_episode() -> None:
    """x_0 falls by 0.5 per step: the second step ends the episode, and there is no terminal cost."""
    down = Linear(jnp.eye(2), jnp.asarray([[-0.5], [0.0]]), jnp.asarray(1e-9))
    push = lambda x: jnp.ones((1,))
    keys = jr.split(jr.key(0), 6)
    rolled = unroll(push, down, Leaving(), jnp.asarray([0.4, 0.0]), keys, stretch(5, 0.5))
    assert float(rolled.cost) == pytest.approx(1.5)
    assert rolled.ended.tolist() == [False, True, False, False, False, False]
    assert rolled.counts.tolist() == [True, True, False, False, False, False]
    far = unroll(push, down, Leaving(), jnp.asarray([9.0, 0.0]), keys, stretch(5, 0.5))
    assert float(far.cost) == pytest.approx(2.0 - 0.5**4 + 100.0 * 0.5**5)
