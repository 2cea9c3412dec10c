"""Equations of motion against Gymnasium, an independent integrator, and the conservation of energy."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from forethought.costs.gymnasium import PendulumCost
from forethought.worlds import classic

rng = np.random.default_rng(0)


def stepper(system):
    return jax.jit(lambda x, u: system(x, u))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pendulum_is_gymnasiums(dtype: str) -> None:
    """Rollouts of 200 random steps.  In float64 to 1e-5.  In float32 an error of 1e-7 grows near the upright position,
    so that whole rollouts agree to 5e-3 and single steps to 1e-5."""
    step = stepper(classic.Pendulum())
    cost = PendulumCost()
    for seed in range(5):
        env = gymnasium.make("Pendulum-v1", disable_env_checker=True)
        env.reset(seed=seed)
        env.action_space.seed(seed)
        th, w = env.unwrapped.state
        x = jnp.asarray([np.cos(th), np.sin(th), w], dtype)
        for t in range(200):
            # In float64: NumPy would otherwise round the torque's part of the acceleration to float32.
            u = env.action_space.sample().astype(np.float64)
            th, w = env.unwrapped.state
            before = jnp.asarray([np.cos(th), np.sin(th), w], dtype)
            y, reward, *_ = env.step(u)
            one = step(before, jnp.asarray(u, dtype))
            assert one.dtype == dtype
            assert np.abs(np.asarray(one) - y).max() <= 1e-5
            assert float(cost.stage(before, jnp.asarray(u), one, jnp.asarray(t))) == pytest.approx(-reward, abs=1e-4)
            x = step(x, jnp.asarray(u, dtype))
            assert np.abs(np.asarray(x) - y).max() <= (1e-5 if dtype == "float64" else 5e-3)


def test_swing_up_meets_an_independent_integration() -> None:
    """The issue's equations, written again for scipy, with the force held over 0.05 s."""
    big, m, l, b, g = 0.5, 0.5, 0.5, 0.1, 9.82  # noqa: E741

    def derivative(_, state, u):
        _, v, a, w = state
        s, c = np.sin(a), np.cos(a)
        dv = (2 * m * l * w**2 * s + 3 * m * g * s * c + 4 * u - 4 * b * v) / (4 * (big + m) - 3 * m * c**2)
        dw = (-3 * m * l * w**2 * s * c - 6 * (big + m) * g * s - 6 * (u - b * v) * c) / (
            4 * l * (big + m) - 3 * m * l * c**2
        )
        return [v, dv, w, dw]

    step = stepper(classic.CartPoleSwingUp())
    for _ in range(20):
        x, u = rng.normal(0, [1, 2, 3, 5]), rng.uniform(-10, 10, 1)
        exact = solve_ivp(derivative, (0, 0.05), x, args=(u[0],), rtol=1e-10, atol=1e-12).y[:, -1]
        assert np.allclose(step(jnp.asarray(x), jnp.asarray(u)), exact, atol=1e-4, rtol=1e-5)
        single = step(jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32))
        assert single.dtype == jnp.float32
        assert np.allclose(single, exact, atol=2e-4, rtol=1e-4)
    assert classic.CartPoleSwingUp().substeps >= 5


def cart_energy(x: np.ndarray) -> float:
    _, v, a, w = x
    m = l = 0.5  # noqa: E741
    return 0.5 * v**2 + 0.5 * m * l * v * w * np.cos(a) + m * l**2 * w**2 / 6 - 0.5 * m * 9.82 * l * np.cos(a)


def test_swing_up_without_friction_keeps_its_energy() -> None:
    """And with friction it loses it: the check can fail."""
    for friction, least, most in ((0.0, -1e-4, 1e-4), (0.1, -10.0, -1e-2)):
        step = stepper(classic.CartPoleSwingUp(b=friction, substeps=20))
        x = jnp.asarray([0.0, 1.0, 2.5, -1.0])
        before = cart_energy(np.asarray(x))
        for _ in range(100):
            x = step(x, jnp.zeros(1))
        assert least < cart_energy(np.asarray(x)) - before < most


def test_acrobot_is_gymnasiums_and_keeps_its_energy() -> None:
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True).unwrapped
    step = stepper(classic.Acrobot())
    for action in (0, 1, 2):
        for _ in range(20):
            env.reset(seed=0)
            env.state = rng.uniform([-np.pi, -np.pi, -4, -9], [np.pi, np.pi, 4, 9])
            y = step(jnp.asarray(env.state), jnp.asarray([action - 1.0]))
            env.step(action)
            turn = np.asarray(y) - env.state
            turn[:2] = (turn[:2] + np.pi) % (2 * np.pi) - np.pi
            assert np.abs(turn).max() <= 1e-5

    def energy(x):
        a, b, da, db = x
        kinetic = 0.5 * 1.25 * da**2 + 0.5 * (da**2 + 2 * 0.5 * da * (da + db) * np.cos(b))
        kinetic += 0.5 * 1.25 * (da + db) ** 2
        return kinetic - 9.8 * (1.5 * np.cos(a) + 0.5 * np.cos(a + b))

    fine = stepper(classic.Acrobot(substeps=40))
    x = jnp.asarray([1.5, -0.5, 0.3, 0.2])
    before = energy(np.asarray(x))
    for _ in range(50):
        x = fine(x, jnp.zeros(1))
    assert energy(np.asarray(x)) == pytest.approx(before, abs=1e-4)
    pushed = fine(x, jnp.ones(1))
    assert abs(energy(np.asarray(pushed)) - before) > 1e-3


def test_cart_pole_is_gymnasiums() -> None:
    env = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
    step = stepper(classic.CartPole())
    for action, force in ((0, -10.0), (1, 10.0)):
        for _ in range(20):
            env.reset(seed=0)
            env.state = rng.uniform(-2, 2, 4)
            y = step(jnp.asarray(env.state), jnp.asarray([force]))
            env.step(action)
            assert np.abs(np.asarray(y) - env.state).max() <= 1e-6


def test_double_integrator_and_quadrotor() -> None:
    y = stepper(classic.DoubleIntegrator())(jnp.asarray([1.0, 2.0]), jnp.asarray([3.0]))
    exact = solve_ivp(lambda _, s: [s[1], 3.0], (0, 0.1), [1.0, 2.0], rtol=1e-10).y[:, -1]
    assert np.allclose(y, exact, atol=1e-9)
    craft = classic.Quadrotor(substeps=20)
    for _ in range(10):
        x, u = rng.normal(size=6), rng.uniform(0, 9.8, 2)

        def derivative(_, s, u=u):
            total = u[0] + u[1]
            spin = 0.25 * (u[0] - u[1]) / 0.05
            return [s[3], s[4], s[5], -total * np.sin(s[2]), total * np.cos(s[2]) - 9.81, spin]

        exact = solve_ivp(derivative, (0, 0.05), x, rtol=1e-10, atol=1e-12).y[:, -1]
        assert np.allclose(craft(jnp.asarray(x), jnp.asarray(u)), exact, atol=1e-7)
    hover = jnp.full(2, 0.5 * craft.m * craft.g)
    assert np.allclose(craft(jnp.zeros(6), hover), 0, atol=1e-6)


def test_readings() -> None:
    assert np.allclose(
        classic.tip_height(np.array([[0, 0, 1, 1], [np.pi, 0, 0, 0], [np.pi / 2, np.pi / 2, 0, 0]])), [-2, 2, 1]
    )
    assert np.allclose(
        classic.pole_angle(np.array([[0, 0, 0, 0], [0, 0, -3.0, 0], [0, 0, 3.5, 0]])), [np.pi, np.pi - 3, 3.5 - np.pi]
    )
