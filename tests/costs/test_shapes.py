"""Quadratic, saturating, learned and terminal costs against their formulas in NumPy."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.costs.learned import LearnedCost
from forethought.costs.quadratic import Quadratic
from forethought.costs.saturating import CartPoleSwingUpCost, Saturating
from forethought.costs.terminal import TerminalValue

T0 = jnp.zeros((), jnp.int32)
rng = np.random.default_rng(0)


def f32(*values) -> jnp.ndarray:
    return jnp.asarray(np.asarray(values[0] if len(values) == 1 else values), jnp.float32)


def test_quadratic_is_the_form_of_state_and_action() -> None:
    goal, rest = rng.normal(size=3), rng.normal(size=2)
    q, r, f = (w @ w.T for w in (rng.normal(size=(3, 3)), rng.normal(size=(2, 2)), rng.normal(size=(3, 3))))
    x, u, y = rng.normal(size=3), rng.normal(size=2), rng.normal(size=3)
    cost = Quadratic(goal, q, r, f, rest)
    e, v = x - goal, u - rest
    assert float(cost.stage(f32(x), f32(u), f32(y), T0)) == pytest.approx(e @ q @ e + v @ r @ v, rel=1e-4)
    assert float(cost.terminal(f32(x))) == pytest.approx(e @ f @ e, rel=1e-4)
    diagonal = Quadratic(goal, np.diag(q), np.diag(r), rest=rest)
    expected = np.diag(q) @ e**2 + np.diag(r) @ v**2
    assert float(diagonal.stage(f32(x), f32(u), f32(y), T0)) == pytest.approx(expected, rel=1e-4)
    assert float(diagonal.terminal(f32(x))) == 0
    assert diagonal.stage(f32(x), f32(u), f32(y), T0).dtype == jnp.float32
    assert bool(cost.alive(f32(y)))
    assert cost.extras == 0


def test_angles_are_measured_the_short_way_round() -> None:
    cost = Quadratic(np.array([np.pi, np.pi]), np.ones(2), np.ones(1), angles=(1,))
    x = f32(np.pi, -np.pi + 0.1)
    assert float(cost.stage(x, f32([0.0]), x, T0)) == pytest.approx(0.01, rel=1e-3)


def test_saturating_is_of_the_next_state() -> None:
    cost = Saturating(np.array([1.0, 0.0]), np.array([0.5, 2.0]))
    x, y = f32(5.0, 5.0), f32(0.5, 0.3)
    assert float(cost.stage(x, f32([9.0]), y, T0)) == pytest.approx(1 - np.exp(-0.5 * 0.25 - 2 * 0.09), rel=1e-5)
    assert float(cost.stage(x, f32([9.0]), f32(1.0, 0.0, 7.0, 7.0), T0)) == 0
    assert float(cost.stage(x, f32([9.0]), f32(100.0, 0.0), T0)) == 1


@given(p=st.floats(-3, 3), a=st.floats(-20, 20), v=st.floats(-5, 5))
def test_cartpole_swing_up_cost(p: float, a: float, v: float) -> None:
    wrapped = np.arctan2(np.sin(a), np.cos(a))
    expected = 1 - np.exp(-(((abs(wrapped) - np.pi) / 3) ** 2) - p**2)
    y = f32(p, v, a, v)
    assert float(CartPoleSwingUpCost().stage(f32(0, 0, 0, 0), f32([3.0]), y, T0)) == pytest.approx(expected, abs=1e-5)


def test_learned_cost_reads_the_extra_outputs() -> None:
    cost = LearnedCost(3)
    y = f32(9.0, 9.0, 9.0, 2.5, 0.2)
    assert float(cost.stage(y[:3], f32([1.0]), y, T0)) == -2.5
    assert bool(cost.alive(y))
    assert not bool(cost.alive(y.at[4].set(0.6)))
    assert not bool(cost.alive(y.at[4].set(jnp.nan)))
    assert cost.extras == 2
    assert float(cost.terminal(y[:3])) == 0


def test_terminal_value_replaces_only_the_end() -> None:
    class Value(eqx.Module):
        weight: jnp.ndarray

        def __call__(self, x):
            return jnp.sum(self.weight * x)

    inner = Quadratic(np.zeros(2), np.ones(2), np.ones(1), np.ones(2))
    cost = TerminalValue(inner, Value(f32(1.0, 10.0)))
    x, u = f32(2.0, 3.0), f32([1.0])
    assert float(cost.terminal(x)) == 32
    assert float(cost.stage(x, u, x, T0)) == float(inner.stage(x, u, x, T0)) == 14
    assert cost.extras == 0
    assert TerminalValue(LearnedCost(2), Value(f32(1.0, 1.0))).extras == 2
    assert not bool(TerminalValue(LearnedCost(2), inner.terminal).alive(f32(0, 0, 0, 1)))
