"""Iterative LQR as a planner: search for a start, polish it, and return the feedback around the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float

from forethought.core import AbstractCost, AbstractDynamics, AbstractPlanner, Plan, Problem
from forethought.math.control_problem import ControlProblem
from forethought.math.finite import credible, need_x64
from forethought.math.gaussian import Wrapped
from forethought.math.ilqr_solve import Limits, Options, Solved, solve
from forethought.math.ilqr_sweep import Damping
from forethought.math.lanes import in_lanes
from forethought.math.rollout import Imagination
from forethought.planners.icem import ICEM, ICEMWarm
from forethought.planners.search import shift_plan
from forethought.policies.open_loop import OpenLoop
from forethought.policies.tracking import Tracking
from forethought.types import Action, Array, Box, Metrics, RandomKey, Scalar, State, Time, UserError


class ILQRWarm(eqx.Module):
    """The last plan, whether there is one, and the warm start of the search."""

    us: Float[Array, "H m"]
    known: Bool[Array, ""]
    search: ICEMWarm


class ILQR(AbstractPlanner[ILQRWarm]):
    """Descent along the model's own slopes, from the best plans of a short search and from the last plan.

    iLQR alone ends in the nearest local minimum, which for a swing-up is most often a bad one: so each plan begins with
    a search by iCEM, and its result and the shifted last plan are both polished.  The cheaper one is the plan; the
    search begins there next time.  A search over a long horizon finds little: a problem of more than `window` steps is
    first driven through the model, planning so many steps ahead at each step, and what comes of it is polished as a
    whole.  The model is its mean prediction, as if it were certain.  Limits are kept exactly.

    The plan's policy is the feedback around it (`Tracking`); MPC plans again before it matters, v0.5 and v1.0 live on
    it.  Actions must be continuous.
    """

    search: ICEM = ICEM(Imagination(propagation="mean"), samples=128, iterations=3)
    window: int = 30
    """Longest horizon that is searched at once."""
    drives: int = 3
    """How often a longer one is driven through the model, each time with other random numbers."""
    iterations: int = 10
    """Most steps of the descent per start."""
    long_iterations: int = 100
    """The same for a problem of more than `window` steps."""
    tolerance: float = 1e-4
    """Relative gradient at which a start counts as polished."""
    cost_tolerance: float = 1e-5
    """A step that lowers the cost by less than this share of it is the last one."""
    damping: Damping = "control"
    """What the regularisation holds back: control or state."""

    @property
    def imagination(self) -> Imagination:
        """How the search tries out plans, which decides what of a model is needed."""
        return self.search.imagination

    def init(self, problem: Problem) -> ILQRWarm:
        """No plan yet.  Raises `UserError` for discrete actions."""
        need_x64("The planner ilqr")
        if not isinstance(problem.actions, Box):
            raise UserError(
                "The planner ilqr follows slopes and needs continuous actions; these are discrete: take icem, cem, "
                "mppi or shooting."
            )
        us = jnp.zeros((problem.horizon, problem.actions.m), jnp.float64)
        return ILQRWarm(us, jnp.zeros((), bool), self.search.init(self._shortened(problem)))

    def plan(self, problem: Problem, warm: ILQRWarm, key: RandomKey) -> tuple[Plan, ILQRWarm]:
        """Search, polish the search's plan and the last one, and take the cheaper result."""
        if problem.horizon <= self.window:
            return self._plan(problem, warm, key)
        driven, known = jax.lax.map(lambda k: self._drive(problem, k), jr.split(key, self.drives))
        starts = jnp.concatenate([driven, jnp.where(warm.known, warm.us, driven[0])[None]])
        polished = polish(self, problem, starts, self.long_iterations)
        plan, us = chosen(problem, polished, jnp.append(known, warm.known), {})
        return plan, ILQRWarm(us, plan.ok, warm.search)

    def shift(self, warm: ILQRWarm) -> ILQRWarm:
        """Drop the executed action, repeat the last one."""
        return ILQRWarm(shift_plan(warm.us), warm.known, self.search.shift(warm.search))

    def _shortened(self, problem: Problem) -> Problem:
        return dataclasses.replace(problem, horizon=min(problem.horizon, self.window))

    def _plan(self, problem: Problem, warm: ILQRWarm, key: RandomKey) -> tuple[Plan, ILQRWarm]:
        """A plan of a horizon that can be searched at once."""
        found, search = self.search.plan(problem, warm.search, key)
        assert isinstance(found.policy, OpenLoop)
        first = found.policy.us.astype(jnp.float64)
        polished = polish(self, problem, jnp.stack([first, jnp.where(warm.known, warm.us, first)]), self.iterations)
        plan, us = chosen(problem, polished, jnp.stack([found.ok, warm.known]), found.metrics)
        encoded = jax.vmap(problem.actions.encode)(us).astype(jnp.float32)
        mean = jnp.where(plan.ok, encoded, search.mean)
        return plan, ILQRWarm(us, plan.ok, eqx.tree_at(lambda s: s.mean, search, mean))

    def _drive(self, problem: Problem, key: RandomKey) -> tuple[Float[Array, "H m"], Bool[Array, ""]]:
        """The actions of replanning at every step of the horizon, inside the model, and whether all plans were fine."""
        short = self._shortened(problem)

        def advance(now: tuple, key: RandomKey) -> tuple[tuple, Action]:
            x, t, warm, fine = now
            plan, warm = self._plan(dataclasses.replace(short, x0=x, t0=t), warm, key)
            u, _ = plan.policy.act(None, x, t)
            y = problem.dynamics.predict(x, u, t).mean[: x.shape[0]].astype(x.dtype)
            return (y, t + 1, self.shift(warm), fine & plan.ok), u

        x0, t0 = problem.x0.astype(jnp.float32), jnp.asarray(problem.t0, jnp.int32)
        start = (x0, t0, self.init(short), jnp.ones((), bool))
        (_, _, _, fine), us = jax.lax.scan(advance, start, jr.split(key, problem.horizon))
        return us.astype(jnp.float64), fine


def polish(how: ILQR, problem: Problem, starts: Float[Array, "S H m"], iterations: int) -> Solved:
    """Every start, descended from."""
    resolution = 8.0 * float(jnp.finfo(seen_as(problem).dtype).eps)
    options = Options(iterations, how.tolerance, how.cost_tolerance, resolution, damping=how.damping)
    arrays, rest = eqx.partition(problem, eqx.is_array)

    def lane(arrays: Problem, us: Array) -> Solved:
        problem: Problem = eqx.combine(arrays, rest)
        box, control = problem.actions, control_problem(problem)
        x0 = problem.x0.astype(jnp.float64)
        xs = jnp.broadcast_to(x0, (us.shape[0] + 1, x0.shape[0]))
        assert isinstance(box, Box)
        low, high = (jnp.broadcast_to(jnp.asarray(v, jnp.float64), us.shape) for v in (box.low, box.high))
        return solve(control, xs, us, Limits(low, high), options)

    return jax.vmap(lambda us: in_lanes(lane, arrays, us))(starts)


def chosen(
    problem: Problem, polished: Solved, usable: Bool[Array, " S"], metrics: Metrics
) -> tuple[Plan, Float[Array, "H m"]]:
    """The plan of the cheapest usable solution, and its actions; the safe action if there is none."""
    costs = jnp.where(usable, polished.trail.cost, jnp.inf)
    index = jnp.argmin(costs)
    best: Solved = jax.tree.map(lambda a: a[index], polished)
    trail, box = best.trail, problem.actions
    assert isinstance(box, Box)
    ok = jnp.isfinite(costs[index]) & credible(problem.x0) & jnp.all(jnp.isfinite(trail.us))
    safe = jnp.broadcast_to(box.safe(), trail.us.shape).astype(jnp.float64)
    xs = jnp.where(ok & jnp.isfinite(trail.xs[:-1]), trail.xs[:-1], 0.0)
    gains = jnp.where(ok & jnp.isfinite(best.K), best.K, 0.0)
    us, t0 = jnp.where(ok, trail.us, safe), jnp.asarray(problem.t0, jnp.int32)
    policy = Tracking(xs, us, gains, box, t0, seen_as(problem).angles)
    return Plan(policy, costs[index].astype(jnp.float32), ok, {**metrics, "polishing": best.iterations}), us


class Seen(NamedTuple):
    """How a model answers a planner: in which precision, and which of its outputs are angles that it wraps."""

    dtype: jnp.dtype
    angles: tuple[int, ...]


def seen_as(problem: Problem) -> Seen:
    """Found by asking it without computing anything."""
    ask = lambda model: model.predict(problem.x0.astype(jnp.float32), problem.actions.safe(), jnp.asarray(problem.t0))
    said = eqx.filter_eval_shape(ask, problem.dynamics)
    n = problem.x0.shape[0]
    angles = tuple(i for i in said.angles if i < n) if isinstance(said, Wrapped) else ()
    return Seen(said.mean.dtype, angles)


class MeanStep(eqx.Module):
    """y = the mean prediction, with angles anywhere on the line: a trajectory must not jump by a turn."""

    dynamics: AbstractDynamics
    t0: Time
    dtype: jnp.dtype = eqx.field(static=True)
    """What the model computes in; the trajectory itself is float64."""

    def __call__(self, x: State, u: Action, t: Time) -> Float[Array, " k"]:
        said = self.dynamics.predict(x.astype(self.dtype), u.astype(self.dtype), self.t0 + t)
        mean = said.unwrapped.mean if isinstance(said, Wrapped) else said.mean
        return mean.astype(x.dtype)


class Discounted(eqx.Module):
    """g^t c(x, u, y, t0 + t)."""

    cost: AbstractCost
    t0: Time
    discount: float = eqx.field(static=True)

    def __call__(self, x: State, u: Action, y: Array, t: Time) -> Scalar:
        return self.discount ** t.astype(x.dtype) * self.cost.stage(x, u, y, self.t0 + t).astype(x.dtype)


class DiscountedTerminal(eqx.Module):
    """g^H c_T(x)."""

    cost: AbstractCost
    discount: float = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __call__(self, x: State) -> Scalar:
        return self.discount**self.horizon * self.cost.terminal(x).astype(x.dtype)


def control_problem(problem: Problem) -> ControlProblem:
    """A planning problem with the model as if its mean were certain, for trajectory optimisation in float64."""
    t0 = jnp.asarray(problem.t0, jnp.int32)
    step = MeanStep(problem.dynamics, t0, seen_as(problem).dtype)
    stage = Discounted(problem.cost, t0, problem.discount)
    terminal = DiscountedTerminal(problem.cost, problem.discount, problem.horizon)
    x, u = problem.x0.astype(jnp.float64), problem.actions.safe().astype(jnp.float64)
    y = jax.eval_shape(step, x, u, t0)
    return ControlProblem(
        step,
        stage,
        terminal,
        alive=problem.cost.alive,
        looks_ahead=reads(stage, 2, x, u, y, t0),
        curvature="projected",
    )


def reads(function: Callable[..., Array], index: int, *arguments: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a function makes any use of one of its arguments, found by tracing it."""
    traced = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments)).jaxpr
    asked = traced.invars[index]
    return any(v is asked for equation in traced.eqns for v in equation.invars) or asked in traced.outvars
