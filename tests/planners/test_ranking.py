"""Plans that are not finite never win, and discrete actions are searched like continuous ones."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractCost, AbstractDynamics, Problem
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import Imagination
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning, PlanOnce
from forethought.planners.mppi import MPPI
from forethought.planners.search import elite_moments, elites
from forethought.planners.shooting import RandomShooting
from forethought.types import Box, Choices

ONE = Imagination(particles=1)
ALL = [
    RandomShooting(ONE, samples=400),
    CEM(ONE, samples=100, elites=10),
    ICEM(ONE, samples=100),
    MPPI(ONE, samples=100),
]


class Integrator(AbstractDynamics):
    """y = x + u, NaN where x exceeds `edge` (a model that breaks beyond a region)."""

    edge: float = 1e9

    def predict(self, x, u, t):
        y = jnp.where(x > self.edge, jnp.nan, x + u[0])
        return DiagonalGaussian(y, jnp.zeros_like(y))

    def draw(self, key, particles):
        return self


class Reach(AbstractCost):
    """Negative cost that grows with x: the broken region looks attractive to a planner that takes NaN for 0."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return 10.0 - y[0]

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.ones((), bool)


class Undefined(AbstractCost):
    """As `Reach`, but it is the cost, not the model, that is NaN beyond the edge."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return 10.0 - y[0] + 0.0 * jnp.sqrt(1.5 - y[0])

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.ones((), bool)


class Code(AbstractCost):
    """The cost of one-hot action u at time t is 0 for choice t % 3 and 1 otherwise: only the right sequence is free."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return 1.0 - u[t % 3]

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.ones((), bool)


class Still(AbstractDynamics):
    """Nothing moves."""

    def predict(self, x, u, t):
        return DiagonalGaussian(x, jnp.zeros_like(x))

    def draw(self, key, particles):
        return self


def problem(dynamics, cost, actions, horizon, t0=0):
    x0 = jnp.zeros((1,), jnp.float32)
    return Problem(dynamics, cost, actions, x0, jnp.asarray(t0, jnp.int32), horizon)


@eqx.filter_jit
def solve(planner, p, key):
    return planner.plan(p, planner.init(p), key)


@pytest.mark.parametrize("planner", ALL, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("dynamics", "cost"), [(Integrator(edge=1.5), Reach()), (Integrator(), Undefined())])
def test_a_plan_through_nan_never_wins(planner, dynamics, cost) -> None:
    actions = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    plan, _ = solve(planner, problem(dynamics, cost, actions, 4), jr.key(0))
    x, path = 0.0, []
    for u in np.asarray(plan.policy.us)[:, 0]:
        path.append(x)
        x += u
    assert bool(plan.ok)
    assert max(path) <= 1.5 + 1e-6, "the plan steps into the region where the model is NaN"
    assert max(path) > 0.5, "the plan should still go as far as it safely can"


@pytest.mark.parametrize("planner", ALL, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t0", [0, 4])
def test_discrete_sequences_are_found(planner, t0) -> None:
    p = problem(Still(), Code(), Choices(np.eye(3, dtype=np.float32)), 4, t0)
    costs = [float(solve(planner, p, jr.key(seed))[0].cost) for seed in range(3)]
    # 3^4 = 81 sequences, one of them free: a planner that ignores time or scores finds cost 0 with luck only.
    assert min(costs) == 0.0
    plan, _ = solve(planner, p, jr.key(int(np.argmin(costs))))
    np.testing.assert_array_equal(np.argmax(plan.policy.us, axis=1), [(t0 + h) % 3 for h in range(4)])


def test_elites_rank_infinite_costs_last_and_moments_ignore_them() -> None:
    z = jnp.arange(5.0)[:, None, None]
    best, costs = elites(z, jnp.asarray([jnp.inf, 3.0, 1.0, jnp.inf, 2.0]), 4)
    np.testing.assert_array_equal(best[:3, 0, 0], [2.0, 4.0, 1.0])
    assert np.isinf(costs[3])
    mean, std = elite_moments(best, costs)
    np.testing.assert_allclose(mean, np.mean([2.0, 4.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(std, np.std([2.0, 4.0, 1.0]), rtol=1e-6)


def test_mpc_counts_failures_and_keeps_its_warm_start() -> None:
    actions = Box(np.full(1, 0.5, np.float32), np.full(1, 1.0, np.float32))
    planning = Planning(ICEM(ONE, samples=16), Integrator(), Reach(), actions, 3)
    policy = MPC(planning)
    zero = jnp.zeros((), jnp.int32)
    carry = policy.init(jnp.zeros(1, jnp.float32), jr.key(0))
    _, carry = policy.act(carry, jnp.zeros(1, jnp.float32), zero)
    u, after = policy.act(carry, jnp.asarray([jnp.nan], jnp.float32), zero)
    np.testing.assert_array_equal(u, [0.5])  # the allowed action nearest to zero
    assert int(after.failures) == 1
    assert int(carry.failures) == 0
    np.testing.assert_array_equal(after.warm.mean, carry.warm.mean)


def test_plan_once_executes_its_plan_whatever_the_state() -> None:
    actions = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    policy = PlanOnce(Planning(ICEM(ONE, samples=16), Integrator(), Reach(), actions, 5))
    carry = policy.init(jnp.zeros(1, jnp.float32), jr.key(0))
    for step, x in enumerate((0.0, 100.0, -3.0, 0.0, 7.0)):
        # It took over at step 30 of an episode: the plan begins there.
        u, carry = policy.act(carry, jnp.full((1,), x, jnp.float32), jnp.asarray(30 + step, jnp.int32))
        np.testing.assert_array_equal(u, carry.plan.us[step])
