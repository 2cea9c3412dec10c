"""Planners made into policies: plan again at every step (v1.5), or once per episode (v0.5, v1.0)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractCost, AbstractDynamics, AbstractPlanner, AbstractPolicy, Plan, Problem
from forethought.math.finite import credible, nan_free, where_all
from forethought.planners.standby import Ready, Safe, get_ready, secured
from forethought.types import Action, Actions, Array, Metrics, RandomKey, State, Time


class Planning(eqx.Module):
    """Everything a plan needs but the state: what MPC and PlanOnce have in common."""

    planner: AbstractPlanner
    dynamics: AbstractDynamics
    cost: AbstractCost
    actions: Actions
    horizon: int = eqx.field(static=True)
    discount: float = eqx.field(static=True, default=1.0)
    safe: Safe = "zero"
    """What is done when there is no plan to trust."""

    def problem(self, x: State, t: Time) -> Problem:
        """The planning problem at state x, step t."""
        x, t = jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.int32)
        return Problem(self.dynamics, self.cost, self.actions, x, t, self.horizon, self.discount)


class Tally(eqx.Module):
    """What an episode's plans came to so far."""

    cost: Float[Array, ""]
    """Expected cost of the last plan."""
    failures: Int[Array, ""]
    """How often there was nothing to trust, and the safe action was taken."""
    ties: Int[Array, ""]
    """Plans whose candidates all cost the same: a model or a cost that is constant, or nothing left to gain."""
    left_out: Int[Array, ""]
    """The most particles that a plan had to leave out, because nothing was finite in them."""
    spread: Float[Array, ""]
    """Standard deviation of the last plan's elites, in half ranges; NaN where the planner says nothing of it."""


def nothing_yet() -> Tally:
    """Before the first plan."""
    zero = jnp.zeros((), jnp.int32)
    return Tally(jnp.zeros((), jnp.float32), zero, zero, zero, jnp.full((), jnp.nan, jnp.float32))


def tallied(tally: Tally, plan: Plan) -> Tally:
    """With one more plan, its failure not counted.  A planner that says nothing about ties has none."""
    tied = jnp.asarray(plan.metrics.get("tied", False), bool) & plan.ok
    left_out = jnp.asarray(plan.metrics.get("left_out", 0), jnp.int32)
    return Tally(
        cost=plan.cost.astype(jnp.float32),
        failures=tally.failures,
        ties=tally.ties + tied.astype(jnp.int32),
        left_out=jnp.maximum(tally.left_out, left_out),
        spread=jnp.asarray(plan.metrics.get("spread", jnp.nan), jnp.float32),
    )


def failed(tally: Tally, sound: Bool[Array, ""]) -> Tally:
    """With one more failure unless all was sound."""
    return eqx.tree_at(lambda c: c.failures, tally, tally.failures + (~sound).astype(jnp.int32))


class MPCCarry(eqx.Module):
    """What MPC remembers: the warm start, its random key, what its plans came to, and what the safe action needs."""

    warm: Any
    key: RandomKey
    tally: Tally
    ready: Ready

    @property
    def failures(self) -> Int[Array, ""]:
        """How often the safe action was taken."""
        return self.tally.failures


class MPC(AbstractPolicy[MPCCarry]):
    """Plan, take the first action, shift, plan again.

    When there is no plan to trust (an observation that is not credible, no candidate of finite cost, an action that is
    not finite) the safe action is taken, the warm start is left alone, and `failures` counts it: whoever runs the
    policy must look at it.
    """

    planning: Planning

    def init(self, x: State, key: RandomKey) -> MPCCarry:
        """A cold start."""
        it = self.planning
        warm = it.planner.init(it.problem(x, jnp.zeros((), jnp.int32)))
        return MPCCarry(warm, key, nothing_yet(), get_ready(it.safe, it.actions, x, jr.fold_in(key, 1)))

    def act(self, carry: MPCCarry, x: State, t: Time) -> tuple[Action, MPCCarry]:
        """The first action of a fresh plan from x."""
        it = self.planning
        key, now = jr.split(carry.key)
        problem = it.problem(x, t)
        plan, warm = it.planner.plan(problem, carry.warm, now)
        u, _ = plan.policy.act(plan.policy.init(problem.x0, now), problem.x0, problem.t0)
        trusted = plan.ok & credible(problem.x0)
        u, sound, ready = secured(it.safe, it.actions, carry.ready, (problem.x0, problem.t0), (u, trusted))
        warm = it.planner.shift(warm)
        warm = where_all(sound & nan_free(warm), warm, carry.warm)
        return u, MPCCarry(warm, key, failed(tallied(carry.tally, plan), sound), ready)


class PlanOnceCarry(eqx.Module):
    """The plan that is being executed, and what it was expected to cost."""

    plan: AbstractPolicy
    inner: Any
    elapsed: Int[Array, ""]
    """Steps since the plan was made, which may have been in the middle of an episode."""
    ok: Bool[Array, ""]
    """Whether the plan can be trusted."""
    tally: Tally
    ready: Ready

    @property
    def failures(self) -> Int[Array, ""]:
        """How often there was nothing to trust: a plan that failed counts once, not once per step."""
        return self.tally.failures


class PlanOnce(AbstractPolicy[PlanOnceCarry]):
    """Plan from the first state of the episode, then execute without looking: the lecture's v0.5 and v1.0.

    If that plan cannot be trusted the safe action is taken throughout the episode; the next one plans anew.
    """

    planning: Planning

    def init(self, x: State, key: RandomKey) -> PlanOnceCarry:
        """Solve for the whole episode from x."""
        it = self.planning
        problem = it.problem(x, jnp.zeros((), jnp.int32))
        k_plan, k_inner = jr.split(key)
        plan, _ = it.planner.plan(problem, it.planner.init(problem), k_plan)
        ok = plan.ok & credible(problem.x0)
        return PlanOnceCarry(
            plan=plan.policy,
            inner=plan.policy.init(problem.x0, k_inner),
            elapsed=jnp.zeros((), jnp.int32),
            ok=ok,
            tally=failed(tallied(nothing_yet(), plan), ok),
            ready=get_ready(it.safe, it.actions, x, jr.fold_in(key, 1)),
        )

    def act(self, carry: PlanOnceCarry, x: State, t: Time) -> tuple[Action, PlanOnceCarry]:
        """The next planned action."""
        it = self.planning
        u, inner = carry.plan.act(carry.inner, x, carry.elapsed)
        u, sound, ready = secured(it.safe, it.actions, carry.ready, (x, t), (u, carry.ok))
        tally = failed(carry.tally, sound | ~carry.ok)  # a plan that failed was counted when it was made
        return u, PlanOnceCarry(carry.plan, inner, carry.elapsed + 1, carry.ok, tally, ready)


def planning_metrics(carry: MPCCarry | PlanOnceCarry) -> Metrics:
    """What the run reports about planning: the last plan's expected cost and the spread of its elites, failed plans,
    ties, particles left out."""
    tally = carry.tally
    counts = {"plan_failures": tally.failures, "plan_ties": tally.ties, "plan_left_out": tally.left_out}
    return {"plan_cost": tally.cost, "plan_spread": tally.spread, **counts}
