"""The cart with drag and the two-link arm against SciPy, Lagrange's equations and the balance of energy and work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from forethought.core import AbstractPolicy
from forethought.tasks import MISSES, task
from forethought.testing import check_world
from forethought.worlds import reaching
from forethought.worlds.reaching import DragCart, TwoLinkArm

rng = np.random.default_rng(0)


def flow(derivative, x, seconds: float) -> np.ndarray:
    return solve_ivp(lambda _, s: derivative(s), (0, seconds), x, rtol=1e-10, atol=1e-12).y[:, -1]


def test_cart_meets_an_independent_integration() -> None:
    cart = DragCart()
    step = jax.jit(lambda x, u: cart(x, u))
    for _ in range(20):
        x, u = rng.normal(0, [1, 1, 3, 3]), rng.uniform(-2, 2, 2)

        def derivative(s, u=u):
            drag = 0.5 + 0.5 * np.hypot(s[2], s[3])
            return [s[2], s[3], u[0] - drag * s[2], u[1] - drag * s[3]]

        assert np.allclose(step(jnp.asarray(x), jnp.asarray(u)), flow(derivative, x, 0.1), atol=1e-4)
        single = step(jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32))
        assert single.dtype == jnp.float32
        assert np.allclose(single, flow(derivative, x, 0.1), atol=1e-4)


def test_cart_at_rest_at_full_speed_and_its_slope_at_rest() -> None:
    cart = DragCart()
    rest = jnp.array([0.3, -2.0, 0.0, 0.0])
    assert np.array_equal(cart(rest, jnp.zeros(2)), rest)
    # u = c v + k v^2 holds a speed: 2 = 0.5 v + 0.5 v^2.
    v = (-1 + np.sqrt(17)) / 2
    moving = cart(jnp.array([0.0, 0.0, 0.0, v]), jnp.array([0.0, 2.0]))
    assert np.allclose(moving, [0, 0.1 * v, 0, v], atol=1e-9)
    slope = jax.jacfwd(lambda x: cart(x, jnp.zeros(2)))(rest)
    decay = np.exp(-0.05)
    exact = np.eye(4)
    exact[2, 2] = exact[3, 3] = decay
    exact[0, 2] = exact[1, 3] = (1 - decay) / 0.5
    assert np.allclose(slope, exact, atol=1e-5)


def lagrange(arm: TwoLinkArm, x, u):
    """dx/dt of two rods from their Lagrangian alone, whose derivatives jax takes."""
    (m1, m2), (l1, l2) = arm.masses, arm.lengths
    centre1 = lambda q: 0.5 * l1 * jnp.array([jnp.cos(q[0]), jnp.sin(q[0])])
    unit2 = lambda q: jnp.array([jnp.cos(q[0] + q[1]), jnp.sin(q[0] + q[1])])
    centre2 = lambda q: 2.0 * centre1(q) + 0.5 * l2 * unit2(q)

    def energies(q, v):
        v1, v2 = jax.jacfwd(centre1)(q) @ v, jax.jacfwd(centre2)(q) @ v
        turning = m1 * l1**2 * v[0] ** 2 + m2 * l2**2 * (v[0] + v[1]) ** 2
        kinetic = 0.5 * (m1 * v1 @ v1 + m2 * v2 @ v2 + turning / 12.0)
        return kinetic, arm.g * (m1 * centre1(q)[1] + m2 * centre2(q)[1])

    difference = lambda q, v: energies(q, v)[0] - energies(q, v)[1]
    q, v = x[:2], x[2:]
    mass = jax.hessian(difference, 1)(q, v)
    force = u - arm.damping * v + jax.grad(difference)(q, v) - jax.jacfwd(jax.grad(difference, 1))(q, v) @ v
    return jnp.concatenate([v, jnp.linalg.solve(mass, force)])


@pytest.mark.parametrize("arm", [TwoLinkArm(), TwoLinkArm((1.5, 0.7), (0.4, 0.6), 0.05, 9.81)], ids=["flat", "upright"])
def test_arm_obeys_lagrange(arm: TwoLinkArm) -> None:
    fine = TwoLinkArm(arm.masses, arm.lengths, arm.damping, arm.g)
    x, u = rng.normal(0, [2, 2, 3, 3]), rng.uniform(-3, 3, 2)
    derivative, expected = jax.jit(fine.derivative), jax.jit(lambda x, u: lagrange(arm, x, u))
    for _ in range(10):
        x, u = rng.normal(0, [2, 2, 3, 3]), rng.uniform(-3, 3, 2)
        assert np.allclose(derivative(jnp.asarray(x), jnp.asarray(u)), expected(x, u), rtol=1e-9, atol=1e-9)
    exact = flow(lambda s: np.asarray(derivative(jnp.asarray(s), jnp.asarray(u))), x, 0.05)
    assert np.allclose(fine(jnp.asarray(x), jnp.asarray(u)), exact, atol=2e-4)
    single = fine(jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32))
    assert single.dtype == jnp.float32
    assert np.allclose(single, exact, atol=1e-3)


def test_arm_has_a_proper_inertia() -> None:
    arm = TwoLinkArm((1.5, 0.7), (0.4, 0.6))
    for b in np.linspace(-np.pi, np.pi, 21):
        m = np.asarray(arm.inertia(jnp.array([0.3, b, 0.0, 0.0])))
        assert np.array_equal(m, m.T)
        assert np.linalg.eigvalsh(m)[0] > 0.01


def test_work_on_the_arm_becomes_energy_or_heat() -> None:
    """With damping and gravity: what the motors did, less what the joints took, is what the arm has."""
    arm = TwoLinkArm((1.5, 0.7), (0.4, 0.6), 0.3, 9.81, substeps=20)
    step = jax.jit(lambda x, u: arm(x, u))

    def energy(x):
        (m1, m2), (l1, l2) = arm.masses, arm.lengths
        outer = 0.5 * m2 * l2 * np.sin(x[0] + x[1])
        v = x[2:]
        return 0.5 * v @ np.asarray(inertia(jnp.asarray(x))) @ v + 9.81 * ((0.5 * m1 + m2) * l1 * np.sin(x[0]) + outer)

    # Between two readings the power is integrated over pieces of the step.
    piece = TwoLinkArm(arm.masses, arm.lengths, arm.damping, arm.g, dt=0.0025, substeps=1)
    fine = jax.jit(lambda x, u: piece(x, u))
    inertia = jax.jit(arm.inertia)
    x, work, heat = np.array([0.2, 0.9, 0.0, 0.0]), 0.0, 0.0
    first = energy(x)
    for t in range(40):
        u = np.array([3.0 * np.sin(0.3 * t), 1.5 * np.cos(0.2 * t)])
        # Between two readings the power is integrated over pieces of the step.
        piece = TwoLinkArm(arm.masses, arm.lengths, arm.damping, arm.g, dt=0.0025, substeps=1)
        fine = jax.jit(lambda x, u: piece(x, u)) if t == 0 else fine  # noqa: B023
        speeds = [x[2:]]
        y = x
        for _ in range(20):
            y = np.asarray(fine(jnp.asarray(y), jnp.asarray(u)))
            speeds.append(y[2:])
        speeds = np.array(speeds)
        work += np.trapezoid(speeds @ u, dx=0.0025)
        heat += np.trapezoid(0.3 * np.sum(speeds**2, axis=1), dx=0.0025)
        x = np.asarray(step(jnp.asarray(x), jnp.asarray(u)))
        assert np.allclose(x, y, atol=1e-8)
    assert heat > 0.3
    assert energy(x) - first == pytest.approx(work - heat, abs=1e-3)


def test_arm_without_damping_keeps_its_energy_and_rests_in_the_plane() -> None:
    arm = TwoLinkArm(damping=0.0, substeps=20)
    x = jnp.array([0.0, 1.0, 2.0, -3.0])
    kinetic = lambda x: float(0.5 * x[2:] @ arm.inertia(x) @ x[2:])
    before = kinetic(x)
    step, y = jax.jit(lambda x: arm(x, jnp.zeros(2))), x
    for _ in range(40):
        y = step(y)
    assert kinetic(y) == pytest.approx(before, abs=1e-5)
    rest = jnp.array([0.4, -2.0, 0.0, 0.0])
    assert np.array_equal(TwoLinkArm()(rest, jnp.zeros(2)), rest)


def test_tip() -> None:
    at = reaching.arm_tip(np.array([[0, 0, 9, 9], [np.pi / 2, 0, 0, 0], [0, np.pi / 2, 0, 0]]))
    assert np.allclose(at, [[1, 0], [0, 1], [0.5, 0.5]])


class ToRest(AbstractPolicy):
    """u = kp (goal - x[:2]) - kd x[2:]."""

    goal: np.ndarray
    kp: np.ndarray
    kd: np.ndarray

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return self.kp * (self.goal - x[:2]) - self.kd * x[2:], None


def to_rest(*numbers: float) -> ToRest:
    goal, kp, kd = np.split(np.array(numbers, np.float32), [2, 3])
    return ToRest(goal, kp, kd)


SOLVED = {"drag-cart": to_rest(0.0, 0.0, 4.0, 3.0), "arm-reach": to_rest(0.537, 1.5108, 8.0, 2.5)}


@pytest.mark.parametrize("name", SOLVED)
def test_tasks_can_be_solved_within_their_limits_and_not_by_doing_nothing(name: str) -> None:
    """By position feedback to joint angles that were worked out by hand."""
    it = task(name)
    episodes = it.world.rollouts(SOLVED[name], jr.key(0), it.starts, it.limit)
    assert all(q.length == 50 for q in episodes)
    assert [it.success(q) for q in episodes] == [True] * 10
    assert max(MISSES[name](q) for q in episodes) <= 0.02
    most = np.asarray(it.world.actions.high)
    assert np.all(np.abs(np.concatenate([q.u for q in episodes])) <= most)
    assert np.abs(np.concatenate([q.u for q in episodes])).max() == most.max()
    idle = it.world.rollouts(to_rest(0.0, 0.0, 0.0, 0.0), jr.key(0), it.starts, it.limit)
    assert not any(it.success(q) for q in idle)
    assert it.success.__doc__


@pytest.mark.parametrize("name", SOLVED)
def test_worlds_are_as_they_must_be(name: str) -> None:
    world = task(name).world
    check_world(world)
    starts = [np.asarray(world.reset(jr.key(i), 3).x) for i in range(3)]
    assert np.array_equal(starts[0], starts[1])
    assert np.array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0], world.reset(jr.key(0), 4).x)
