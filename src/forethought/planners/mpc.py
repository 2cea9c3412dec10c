"""Planners made into policies: plan again at every step (v1.5), or once per episode (v0.5, v1.0)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, Int

from forethought.core import AbstractCost, AbstractDynamics, AbstractPlanner, AbstractPolicy, Problem
from forethought.types import Action, Actions, Array, Metrics, RandomKey, State, Time


class Planning(eqx.Module):
    """Everything a plan needs but the state: what MPC and PlanOnce have in common."""

    planner: AbstractPlanner
    dynamics: AbstractDynamics
    cost: AbstractCost
    actions: Actions
    horizon: int = eqx.field(static=True)
    discount: float = eqx.field(static=True, default=1.0)

    def problem(self, x: State, t: Time) -> Problem:
        """The planning problem at state x, step t."""
        x, t = jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.int32)
        return Problem(self.dynamics, self.cost, self.actions, x, t, self.horizon, self.discount)


class MPCCarry(eqx.Module):
    """What MPC remembers: the warm start, its random key, and how often no plan was found."""

    warm: Any
    key: RandomKey
    failures: Int[Array, ""]
    cost: Float[Array, ""]
    """Expected cost of the last plan."""


class MPC(AbstractPolicy[MPCCarry]):
    """Plan, take the first action, shift, plan again.

    When no candidate plan has a finite cost (a NaN observation, a broken model) the safe action is taken, the warm
    start is left alone, and `failures` counts it: whoever runs the policy must look at it.
    """

    planning: Planning

    def init(self, x: State, key: RandomKey) -> MPCCarry:
        """A cold start."""
        warm = self.planning.planner.init(self.planning.problem(x, jnp.zeros((), jnp.int32)))
        return MPCCarry(warm, key, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def act(self, carry: MPCCarry, x: State, t: Time) -> tuple[Action, MPCCarry]:
        """The first action of a fresh plan from x."""
        key, now = jr.split(carry.key)
        problem = self.planning.problem(x, t)
        plan, warm = self.planning.planner.plan(problem, carry.warm, now)
        u, _ = plan.policy.act(plan.policy.init(problem.x0, now), problem.x0, problem.t0)
        shifted = self.planning.planner.shift(warm)
        warm = jax.tree.map(lambda new, old: jnp.where(plan.ok, new, old), shifted, carry.warm)
        failures = carry.failures + jnp.where(plan.ok, 0, 1).astype(jnp.int32)
        return u, MPCCarry(warm, key, failures, plan.cost.astype(jnp.float32))


class PlanOnceCarry(eqx.Module):
    """The plan that is being executed, and what it was expected to cost."""

    plan: AbstractPolicy
    inner: Any
    elapsed: Int[Array, ""]
    """Steps since the plan was made, which may have been in the middle of an episode."""
    failures: Int[Array, ""]
    cost: Float[Array, ""]


class PlanOnce(AbstractPolicy[PlanOnceCarry]):
    """Plan from the first state of the episode, then execute without looking: the lecture's v0.5 and v1.0."""

    planning: Planning

    def init(self, x: State, key: RandomKey) -> PlanOnceCarry:
        """Solve for the whole episode from x."""
        problem = self.planning.problem(x, jnp.zeros((), jnp.int32))
        k_plan, k_inner = jr.split(key)
        plan, _ = self.planning.planner.plan(problem, self.planning.planner.init(problem), k_plan)
        failures = jnp.where(plan.ok, 0, 1).astype(jnp.int32)
        inner = plan.policy.init(problem.x0, k_inner)
        return PlanOnceCarry(plan.policy, inner, jnp.zeros((), jnp.int32), failures, plan.cost.astype(jnp.float32))

    def act(self, carry: PlanOnceCarry, x: State, t: Time) -> tuple[Action, PlanOnceCarry]:
        """The next planned action."""
        del t
        u, inner = carry.plan.act(carry.inner, x, carry.elapsed)
        return u, PlanOnceCarry(carry.plan, inner, carry.elapsed + 1, carry.failures, carry.cost)


def planning_metrics(carry: MPCCarry | PlanOnceCarry) -> Metrics:
    """What the run reports about planning: the expected cost of the last plan and the number of failed plans."""
    return {"plan_cost": carry.cost, "plan_failures": carry.failures}
