"""Costs of reaching, against their formulas and the environment's own reward."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.costs.known import known_cost
from forethought.costs.reaching import ArmOffset, Components, PegInsertionCost, Reaching
from forethought.tasks import task
from forethought.testing import check_cost
from forethought.worlds import reaching
from forethought.worlds.registered import PEG_INSERTION

T0 = jnp.zeros((), jnp.int32)
rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    "kwargs", [{}, {"distance_weight": 2.0, "log_weight": 0.1, "alpha": 1e-4, "control_weight": 0.05}]
)
def test_peg_reward_is_minus_the_cost(kwargs) -> None:
    """To the digits of float64 on random transitions, those beyond the torque limits too, and near the target."""
    env = gymnasium.make(PEG_INSERTION, disable_env_checker=True, **kwargs).unwrapped
    cost = known_cost(PEG_INSERTION, kwargs)
    assert isinstance(cost, PegInsertionCost)
    stage = jax.jit(lambda x, u, y: cost.stage(x, u, y, T0))
    inside = np.array([1.02573383, -1.60651821, -0.99001195])
    for i in range(200):
        if i % 20 == 0:
            start = {"start": inside} if i % 40 == 0 else None
            x, _ = env.reset(seed=i, options=start)
        u = rng.uniform(-1.5, 1.5, 3).astype(np.float32)
        y, reward, *_ = env.step(u)
        now = stage(jnp.asarray(x), jnp.asarray(u), jnp.asarray(y))
        assert now.dtype == jnp.float64
        assert float(now) == pytest.approx(-reward, rel=1e-12)
        single = stage(*(jnp.asarray(v, jnp.float32) for v in (x, u, y)))
        assert single.dtype == jnp.float32
        assert float(single) == pytest.approx(-reward, rel=1e-4)
        x = y
    assert known_cost(PEG_INSERTION, {"wind": 1.0}) is None
    assert float(cost.terminal(jnp.ones(10))) == 0
    assert bool(cost.alive(jnp.ones(10)))


def test_reaching_is_its_formula() -> None:
    cost = Reaching(Components((2, 0)), 2.0, 0.3, 0.01, 0.5)
    x, u, y = rng.normal(size=3), rng.normal(size=2), rng.normal(size=3)
    square = y[0] ** 2 + y[2] ** 2
    expected = 2.0 * square + 0.3 * (np.log(square + 0.01) - np.log(0.01)) + 0.5 * u @ u
    assert float(cost.stage(*map(jnp.asarray, (x, u, y)), T0)) == pytest.approx(expected, rel=1e-12)
    assert float(cost.terminal(jnp.asarray(x))) == 0
    assert bool(cost.alive(jnp.asarray(y)))


def test_reaching_is_smooth_at_the_target() -> None:
    """Value and slope 0, curvature 2 (distance_weight + log_weight/alpha)."""
    cost = Reaching(Components((0, 1)))
    at = lambda y: cost.stage(y, jnp.zeros(2), y, T0)
    zero = jnp.zeros(3)
    assert float(at(zero)) == 0
    assert np.array_equal(jax.grad(at)(zero), zero)
    assert np.allclose(jax.hessian(at)(zero), np.diag([2002.0, 2002.0, 0.0]))


def test_arm_offset_is_the_arms() -> None:
    x = rng.normal(size=(20, 4))
    offset = ArmOffset(reaching.ARM_TARGET, reaching.TwoLinkArm().lengths)
    expected = reaching.arm_tip(x) - reaching.ARM_TARGET
    assert np.allclose(jax.vmap(offset)(jnp.asarray(x)), expected, atol=1e-12)


def test_reacher_may_have_the_smooth_cost() -> None:
    """The end of |d| has a kink; the cost of a task can be replaced."""
    it = task("Reacher-v5")
    smooth = dataclasses.replace(it, cost=Reaching(Components((8, 9))))
    check_cost(smooth.cost, smooth.spec)
    y = jnp.asarray(np.r_[rng.normal(size=8), 0.03, 0.04])
    assert float(smooth.cost.stage(y, jnp.zeros(2), y, T0)) == pytest.approx(0.0025 + 0.01 * np.log(251), rel=1e-6)
    assert float(it.cost.stage(y, jnp.zeros(2), y, T0)) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("name", ["arm-reach", PEG_INSERTION])
def test_costs_are_as_they_must_be(name: str) -> None:
    it = task(name)
    check_cost(it.cost, it.spec)
