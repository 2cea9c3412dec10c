"""Planners."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, pair, require_allowed, require_same_tree, said
from forethought.core import AbstractPlanner, AbstractPolicy, Plan, Problem
from forethought.costs.quadratic import Quadratic
from forethought.models.known import KnownDynamics
from forethought.policies.open_loop import OpenLoop
from forethought.types import Action, Actions, Array, Box, Choices, State


def check_planner(planner: AbstractPlanner, *, discrete: bool = True) -> None:
    """Plan for a mass that is to be pushed to the origin: within limits that are not symmetric, with a warm start, from
    a state that is NaN, through a model that says NaN, under vmap, and, if `discrete`, with three choices."""
    name = name_of(planner, AbstractPlanner)
    _check_planning(name, planner, _mass(Box(np.full(1, -1.0, np.float32), np.full(1, 2.0, np.float32))))
    if discrete:
        _check_planning(name, planner, _mass(Choices(np.array([[0.0], [-1.0], [1.0]], np.float32))))


class Push(eqx.Module):
    """A mass [position, velocity] that is pushed for 0.3 s; a gain of NaN breaks it."""

    gain: Array

    def __call__(self, x: State, u: Action) -> State:
        """The next state."""
        u = jnp.asarray(u, x.dtype) * jnp.asarray(self.gain, x.dtype)
        return jnp.stack([x[0] + 0.3 * x[1] + 0.045 * u[0], x[1] + 0.3 * u[0]])


def _mass(actions: Actions) -> Problem:
    """Ten steps from one metre away."""
    cost = Quadratic(np.zeros(2, np.float32), np.array([1.0, 0.1], np.float32), np.array([0.01], np.float32))
    dynamics = KnownDynamics(Push(jnp.ones((), jnp.float32)))
    return Problem(dynamics, cost, actions, jnp.array([1.0, 0.0], jnp.float32), jnp.zeros((), jnp.int32), 10)


@eqx.filter_jit
def _plan(planner: AbstractPlanner, problem: Problem, warm: Any, key: Any) -> Any:
    return planner.plan(problem, warm, key)


@eqx.filter_jit
def _execute(problem: Problem, policy: AbstractPolicy, key: Any) -> tuple[Any, Any]:
    """True cost and actions of a plan: the dynamics are certain."""

    def advance(state: Any, t: Any) -> Any:
        x, carry = state
        u, carry = policy.act(carry, x, t)
        y = problem.dynamics.predict(x, u, t).mean
        return (y, carry), (problem.cost.stage(x, u, y, t), u)

    first = (problem.x0, policy.init(problem.x0, key))
    _, (costs, us) = jax.lax.scan(advance, first, problem.t0 + jnp.arange(problem.horizon, dtype=jnp.int32))
    return jnp.sum(costs), us


def _solve(what: str, planner: AbstractPlanner, problem: Problem, warm: Any, key: Any) -> tuple[Plan, Any]:
    """One plan, its parts checked."""
    result = attempt(what, lambda: _plan(planner, problem, warm, key))
    plan, after = pair(what, result, "(plan, warm)")
    expect(isinstance(plan, Plan), f"{what} returned {said(plan)}; expected a Plan")
    ok, cost = np.asarray(plan.ok), np.asarray(plan.cost)
    expect(ok.shape == () and ok.dtype == bool, f"{what}: ok is {said(plan.ok)}; expected a boolean of shape ()")
    expect(cost.shape == (), f"{what}: cost is {said(plan.cost)}; expected a number of shape ()")
    require_same_tree(f"{what} (warm start)", after, warm, "the warm start it was given")
    return plan, after


def _good(what: str, problem: Problem, plan: Plan, key: Any) -> np.ndarray:
    """The actions of a plan, which must be allowed, better than doing nothing, and cost what the plan says."""
    expect(bool(plan.ok), f"{what} says ok=False on a problem that has a solution; expected ok=True")
    expect(np.isfinite(plan.cost), f"{what}: cost is {float(plan.cost)}; expected a finite number")
    cost, us = attempt(f"{what}: its policy", lambda: _execute(problem, plan.policy, key))
    for t, u in enumerate(np.asarray(us)):
        require_allowed(f"{what}: action {t}", u, problem.actions)
    safe = jnp.broadcast_to(problem.actions.safe(), us.shape)
    idle = float(_execute(problem, OpenLoop(safe, problem.t0), key)[0])
    worse = f"{what} found a plan that costs {float(cost):.3g}; doing nothing costs {idle:.3g}: expected less"
    expect(float(cost) < idle, worse)
    near = abs(float(plan.cost) - float(cost)) <= 0.1 * abs(float(cost)) + 0.1
    seen = f"{what}: cost says {float(plan.cost):.3g} and executing the plan costs {float(cost):.3g}"
    expect(near, f"{seen}; expected the same within a tenth, as the dynamics are certain")
    return np.asarray(us)


def _check_planning(name: str, planner: AbstractPlanner, problem: Problem) -> None:
    """Cold, again, warm, NaN, broken, vmapped."""
    kind = "" if isinstance(problem.actions, Box) else " with discrete actions"
    what, keys = f"{name}.plan{kind}", jr.split(jr.key(0), 3)
    cold = attempt(f"{name}.init{kind}", lambda: planner.init(problem))
    plan, warm = _solve(what, planner, problem, cold, keys[0])
    us = _good(what, problem, plan, keys[1])
    again = _execute(problem, _solve(what, planner, problem, cold, keys[0])[0].policy, keys[1])[1]
    expect(
        np.array_equal(us, again), f"{what} gave two plans for the same problem, warm start and key; expected the same"
    )
    shifted = attempt(f"{name}.shift{kind}", lambda: planner.shift(warm))
    require_same_tree(f"{name}.shift{kind}", shifted, warm, "the warm start it was given")
    x1 = problem.dynamics.predict(problem.x0, jnp.asarray(us[0]), problem.t0).mean
    later = eqx.tree_at(lambda p: (p.x0, p.t0), problem, (x1, jnp.ones((), jnp.int32)))
    _good(f"{what} from a warm start", later, _solve(what, planner, later, shifted, keys[2])[0], keys[1])
    lost = eqx.tree_at(lambda p: p.x0, problem, jnp.full((2,), jnp.nan, jnp.float32))
    broken = eqx.tree_at(lambda p: p.dynamics.step.gain, problem, jnp.full((), jnp.nan, jnp.float32))
    for case, bad in (("a state that is NaN", lost), ("a model that says NaN", broken)):
        plan, _ = _solve(what, planner, bad, cold, keys[0])
        expect(not bool(plan.ok), f"{what} says ok=True for {case}; expected ok=False")
        u, safe = _execute(bad, plan.policy, keys[1])[1][0], problem.actions.safe()
        held = np.array_equal(u, safe)
        expect(held, f"{what} gave the action {np.asarray(u)} for {case}; expected the safe one, {np.asarray(safe)}")
    many = lambda x: planner.plan(eqx.tree_at(lambda p: p.x0, problem, x), cold, keys[0])[0].cost
    starts = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    attempt(f"{what} under vmap", lambda: eqx.filter_eval_shape(jax.vmap(many), starts))
