"""A policy that proposes to a planner."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.globally import V15
from forethought.core import AbstractDynamics, AbstractPolicy, Problem
from forethought.costs.quadratic import Quadratic
from forethought.costs.terminal import TerminalValue
from forethought.math.gaussian import DiagonalGaussian
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.ilqr import ILQR
from forethought.planners.mpc import MPC, Planning
from forethought.planners.mppi import MPPI
from forethought.planners.proposed import Proposed, followed
from forethought.tasks import task
from forethought.types import Box, UserError

H = 12
LIMITS = Box(np.full(1, -2.0, np.float32), np.full(1, 2.0, np.float32))
COST = Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.01]))


class Mass(AbstractDynamics):
    """A double integrator."""

    def predict(self, x, u, t):
        A, B = jnp.asarray([[1.0, 0.2], [0.0, 1.0]], jnp.float32), jnp.asarray([[0.02], [0.2]], jnp.float32)
        return DiagonalGaussian(A @ x + B @ u, jnp.full((2,), 1e-3, jnp.float32))

    def draw(self, key, particles):
        return self


class Feedback(AbstractPolicy):
    """u = gain x within the limits."""

    gain: jax.Array

    def init(self, x, key):
        return key

    def act(self, carry, x, t):
        return jnp.clip(self.gain @ x, -2.0, 2.0), carry


GOOD = Feedback(jnp.asarray([[-3.0, -2.5]], jnp.float32))
X0 = jnp.asarray([1.0, 0.0], jnp.float32)


def problem(cost=COST):
    return Problem(Mass(), cost, LIMITS, X0, jnp.zeros((), jnp.int32), H)


def rolled(policy):
    """The policy's own cost over the horizon."""
    x, total = X0, 0.0
    for _ in range(H):
        u, _ = policy.act(None, x, 0)
        total += float(COST.stage(x, u, x, jnp.zeros((), jnp.int32)))
        x = Mass().predict(x, u, 0).mean
    return total


@pytest.mark.parametrize(
    "planner",
    [ICEM(samples=4, iterations=1, elites=3), CEM(samples=4, iterations=1, elites=2), MPPI(samples=4, iterations=1)],
)
def test_a_short_search_is_as_good_as_the_policy_that_proposes(planner) -> None:
    it = problem()
    alone, _ = planner.plan(it, planner.init(it), jr.key(0))
    wrapped = Proposed(planner, GOOD)
    plan, warm = wrapped.plan(it, wrapped.init(it), jr.key(0))
    assert bool(plan.metrics["proposal_used"])
    assert float(plan.cost) < 0.8 * float(alone.cost)
    assert float(plan.cost) < 1.05 * rolled(GOOD)
    assert jax.tree.structure(warm) == jax.tree.structure(planner.init(it))


def test_a_bad_proposal_is_not_used() -> None:
    it, planner = problem(), ICEM(samples=64, iterations=4)
    _, warm = planner.plan(it, planner.init(it), jr.key(0))
    for gain in (jnp.asarray([[3.0, 3.0]], jnp.float32), jnp.asarray([[jnp.nan, 0.0]], jnp.float32)):
        plan, after = Proposed(planner, Feedback(gain)).plan(it, warm, jr.key(1))
        assert not bool(plan.metrics["proposal_used"])
        assert np.isfinite(float(plan.cost))
        assert np.isfinite(np.asarray(after.mean)).all()


def test_what_is_proposed_is_what_the_policy_does() -> None:
    z = np.asarray(followed(GOOD, Mass(), problem(), jr.key(0)))
    x = X0
    for h in range(H):
        u, _ = GOOD.act(None, x, 0)
        assert float(z[h, 0]) == pytest.approx(float(u[0]) / 2.0, rel=1e-5)
        x = Mass().predict(x, u, 0).mean


def test_as_a_controller_it_compiles_once_and_a_value_closes_its_horizon() -> None:
    class Far(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return self.weight * jnp.sum(x**2)

    count = []

    @eqx.filter_jit
    def act(policy, carry, x):
        count.append(1)
        return policy.act(carry, x, jnp.zeros((), jnp.int32))

    short = []
    for weight in (0.0, 30.0):
        cost = TerminalValue(COST, Far(jnp.asarray(weight, jnp.float32)))
        planner = Proposed(ICEM(samples=64, iterations=4), Feedback(GOOD.gain * (1.0 + weight)))
        policy = MPC(Planning(planner, Mass(), cost, LIMITS, 2))
        u, _ = act(policy, policy.init(X0, jr.key(0)), X0)
        short.append(float(u[0]))
    assert len(count) == 1
    # Two steps are too short to gain from an effort; with what comes after them it pays.
    assert short[1] < short[0] - 0.2


def test_ilqr_has_no_mean_to_begin_at() -> None:
    with pytest.raises(UserError, match="a policy proposes to cem, icem or mppi"):
        Proposed(ILQR(), GOOD).init(problem())
    # Before anything is tried on the machine.
    with pytest.raises(UserError, match="ILQR has no mean"):
        V15(ILQR(), proposal="policy").init(task("pendulum"), jr.key(0))
