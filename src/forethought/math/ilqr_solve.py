"""Iterative LQR as one compiled loop: expand, sweep back, try the step, accept it or regularise.

Li and Todorov, Iterative linear quadratic regulator design, ICINCO 2004; schedules of regularisation and acceptance of
Tassa, Erez and Todorov, IROS 2012.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.math.control_problem import ControlProblem, Expansion, Feedback, Trail, defects_of, expand, unroll
from forethought.math.ilqr_sweep import Damping, Limits, Slope, Sweep, slope_of, sweep_back, units
from forethought.types import Array, Flag, Scalar


class ILQRStatus(enum.IntEnum):
    """How a solve ended.  Whatever it is, what is returned is the best that was found, and consistent."""

    CONVERGED = 0
    """The gradient is below the tolerance, and Quu is positive definite at every step: a local minimum,
    as far as the Hessian that is used can tell."""
    SMALL_STEP = 1
    """No step lowers the cost by more than its tolerance or rounding, though the gradient is not below its own."""
    NOT_POSITIVE_DEFINITE = 2
    """The gradient is below the tolerance, or no regularisation helps, and Quu is not positive definite."""
    UNBOUNDED = 3
    """The cost falls without end."""
    NOT_FINITE = 4
    """The first trajectory, or the derivatives at the best one, are not finite."""
    ITERATION_LIMIT = 5
    """As many iterations as were allowed."""
    INFEASIBLE = 6
    """Limits with low > high, or constraints that the solution violates."""


FACTOR = 1.6
"""Growth of the factor by which the regularisation changes."""
LEAST_DAMPING, MOST_DAMPING = 1e-6, 1e10
"""Below the first the regularisation is 0; beyond the second nothing helps.  In the units of `Scales`."""
SHARES = 11
"""Shares of the step that are tried: 1, 1/2, ... 1/1000, evenly in their logarithm."""
ENOUGH = 1e-4
"""The least share of the predicted decrease that is accepted."""
CLOSED = 1e-12
"""Defects below this share of the states are rounding."""
SLIGHT = 1e-5
"""Regularisation up to this leaves a step nearly as it is."""
DEEP = 1e8
"""A solve that ends without a minimum below -DEEP times the size of the first cost is unbounded."""
BOTTOM = 1e12
"""A cost below -BOTTOM times the size of the first trajectory's is taken for unbounded."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a solve is done: what cannot change without compiling anew."""

    iterations: int = 500
    """Most backward sweeps that propose a step."""
    tolerance: float = 1e-6
    """Relative gradient (see `Slope.relative`) that counts as zero."""
    cost_tolerance: float = 1e-12
    """An accepted step that lowers the cost by less than this share of its size is the last one."""
    resolution: float = 2.2e-16
    """Relative rounding error of the cost: smaller predicted changes cannot be seen."""
    bending: bool = False
    """Whether the second derivatives of the dynamics count: differential dynamic programming."""
    damping: Damping = "control"


class Solved(NamedTuple):
    """What a solve found."""

    trail: Trail
    K: Float[Array, "T m n"]
    slope: Slope
    iterations: Int[Array, ""]
    status: Int[Array, ""]


class _State(NamedTuple):
    """What is carried from turn to turn."""

    trail: Trail
    jumps: Float[Array, "T n"] | None
    """The defects of the trajectory in multiple shooting."""
    sweep: Sweep
    """The step that is tried next."""
    rate: Scalar
    """Predicted decrease per share of it, to first order; of the merit in multiple shooting."""
    scale: Scalar
    """The size of the first trajectory's cost."""
    price: Scalar
    """Of a defect, in the merit: cost + price sum |d_t|."""
    slope: Slope
    mu: Scalar
    """Regularisation, in the units of `units`."""
    delta: Scalar
    """Factor by which mu changes next."""
    iterations: Int[Array, ""]
    """Steps tried; -1 before the first rollout."""
    ending: Int[Array, ""]
    """The status; -1 as long as steps are tried."""


def solve(
    problem: ControlProblem,
    xs: Float[Array, "_ n"],
    us: Float[Array, "T m"],
    limits: Limits | None,
    options: Options,
    *,
    shooting: bool = False,
) -> Solved:
    """Improve controls from xs[0] until a status says why not further.

    With `shooting` the states are a guess, too, and may jump (multiple shooting); the jumps are closed on the way.
    Without it xs beyond the first do not matter.  One iteration is one step that is tried, with as many backward sweeps
    as it takes to find the regularisation under which Quu is positive definite, most often one.
    """
    dtype, (T, m), n = xs.dtype, us.shape, xs.shape[1]
    zero, count = jnp.zeros((), dtype), jnp.full((), -1, jnp.int32)
    us = us if limits is None else jnp.clip(us, limits.low, limits.high)
    sweep = Sweep(jnp.zeros((T, m, n), dtype), jnp.zeros_like(us), zero, zero, jnp.ones((), bool), jnp.zeros_like(us))
    trail = Trail(xs, us, jnp.full((), jnp.inf, dtype), zero, jnp.ones((T + 1,), bool))
    jumps = defects_of(problem, xs, us) if shooting else None
    began = _State(
        trail,
        jumps,
        sweep,
        zero,
        zero,
        zero,
        Slope(jnp.zeros_like(us), zero, jnp.zeros((m,), dtype), zero),
        zero,
        jnp.ones((), dtype),
        count,
        count,
    )
    turn = lambda now: _turn(problem, now, limits, options)
    end = jax.lax.while_loop(lambda now: now.ending < 0, turn, began)
    K = jnp.where(end.sweep.definite, end.sweep.K, 0.0)
    deep = end.trail.cost < -DEEP * jnp.where(end.scale > 0.0, end.scale, 1.0)
    gave_up = (end.ending == ILQRStatus.SMALL_STEP) | (end.ending == ILQRStatus.ITERATION_LIMIT)
    ending = jnp.where(deep & gave_up, ILQRStatus.UNBOUNDED, end.ending).astype(jnp.int32)
    return Solved(end.trail, K, end.slope, jnp.maximum(end.iterations, 0), ending)


def _turn(problem: ControlProblem, now: _State, limits: Limits | None, options: Options) -> _State:
    """Try the step; expand around where that leads; sweep back for the next one.

    The first turn has no step yet and only rolls out.  The last one finds no reason for another step, so that gains and
    gradient are always those of the trajectory that is returned.
    """
    now, gained = _move(problem, now, limits)
    small = (jnp.abs(gained) <= options.cost_tolerance * now.trail.size) & (now.mu <= SLIGHT)
    ending = jnp.where((now.ending < 0) & small, ILQRStatus.SMALL_STEP, now.ending)
    over = now.iterations >= options.iterations
    ending = jnp.where((ending < 0) & over, ILQRStatus.ITERATION_LIMIT, ending)

    expansion = expand(problem, now.trail)
    jumps = None if now.jumps is None else expansion.F[:, :-1, -1]
    return _propose(problem, now._replace(jumps=jumps, ending=ending.astype(jnp.int32)), expansion, limits, options)


def _move(problem: ControlProblem, now: _State, limits: Limits | None) -> tuple[_State, Scalar]:
    """Take the step if any share of it is good enough, and change the regularisation; and by how much the cost fell."""
    first = now.iterations < 0
    trail, accepted = _line_search(problem, now, limits, first)
    gained = jnp.where(first | ~accepted, jnp.inf, now.trail.cost - trail.cost)
    bottom = -BOTTOM * jnp.where(now.trail.size > 0.0, now.trail.size, 1.0)
    # Judged by the size of the trajectory before: one step cannot do that to a cost that has a minimum.
    fell = accepted & ~first & (trail.cost < bottom)
    more, faster = _raised(now.mu, now.delta)
    slower = jnp.minimum(1.0 / FACTOR, now.delta / FACTOR)
    less = jnp.where(now.mu * slower > LEAST_DAMPING, now.mu * slower, 0.0)
    hopeless = ~accepted & (more > MOST_DAMPING)
    ending = jnp.where(fell, ILQRStatus.UNBOUNDED, jnp.where(hopeless, ILQRStatus.SMALL_STEP, -1))
    moved = now._replace(
        trail=jax.tree.map(lambda a, b: jnp.where(accepted, a, b), trail, now.trail),
        mu=jnp.where(first, now.mu, jnp.where(accepted, less, more)),
        delta=jnp.where(first, now.delta, jnp.where(accepted, slower, faster)),
        iterations=now.iterations + 1,
        scale=jnp.where(first, trail.size, now.scale),
        ending=ending.astype(jnp.int32),
    )
    return moved, gained


def _line_search(problem: ControlProblem, now: _State, limits: Limits | None, first: Flag) -> tuple[Trail, Flag]:
    """The first share of the step that gives enough of the predicted decrease, and whether there is one.

    One share after the other: most often the first is taken.  The first turn has a share of 0: it rolls out.
    """
    inf = jnp.full_like(now.trail.us, jnp.inf)
    low, high = (-inf, inf) if limits is None else limits
    gap = jnp.zeros_like(now.rate) if now.jumps is None else jnp.sum(jnp.abs(now.jumps))
    second = now.sweep.quadratic if now.jumps is None else jnp.zeros_like(now.rate)

    def attempt(search: tuple) -> tuple:
        index, alpha, _, _ = search
        feedback = Feedback(now.sweep.K, now.sweep.k, alpha, low, high)
        trail = unroll(problem, now.trail.xs, now.trail.us, feedback, now.jumps)
        gained = now.trail.cost - trail.cost + now.price * alpha * gap  # +inf is never a decrease
        expected = alpha * (now.rate - alpha * second)
        fine = (gained > ENOUGH * expected) & (expected > 0.0) & jnp.isfinite(trail.cost)
        return index + 1, alpha * 10.0 ** (-3.0 / (SHARES - 1)), trail, fine | (first & jnp.isfinite(trail.cost))

    most = jnp.where(first, 1, SHARES)
    whole = jnp.where(first, 0.0, 1.0).astype(now.rate.dtype)
    began = (jnp.zeros((), jnp.int32), whole, now.trail, jnp.zeros((), bool))
    _, _, trail, accepted = jax.lax.while_loop(lambda s: ~s[3] & (s[0] < most), attempt, began)
    return trail, accepted


def _propose(
    problem: ControlProblem, now: _State, expansion: Expansion, limits: Limits | None, options: Options
) -> _State:
    """Sweep back, with more and more regularisation until Quu is positive definite everywhere.

    Where the solve ends, the last sweep has none, or as little as it takes: those gains are the ones that a user wants,
    and they tell a minimum from a saddle.
    """
    unit, bending = units(expansion, options.damping), problem if options.bending else None
    finite = jnp.all(jnp.isfinite(expansion.F)) & jnp.all(jnp.isfinite(expansion.C)) & jnp.isfinite(now.trail.cost)
    closed = jnp.ones((), bool)
    if now.jumps is not None:
        closed = jnp.sum(jnp.abs(now.jumps)) <= CLOSED * jnp.sum(jnp.abs(now.trail.xs))

    def attempt(search: tuple[_State, Flag]) -> tuple[_State, Flag]:
        before = search[0]
        sweep = sweep_back(expansion, jax.tree.map(lambda v: before.mu * v, unit), before.trail, limits, bending)
        slope = slope_of(sweep.gradient, expansion, before.trail.us, limits, before.slope.largest)
        settled = closed & (slope.relative <= options.tolerance) & (before.ending != ILQRStatus.UNBOUNDED)
        ending = jnp.where(settled, ILQRStatus.CONVERGED, before.ending)
        ending = jnp.where(finite & jnp.isfinite(slope.norm), ending, ILQRStatus.NOT_FINITE)
        rate, price = _rate(expansion, sweep, before)
        after = before._replace(sweep=sweep, slope=slope, rate=rate, price=price, ending=ending)
        return _judge(after, (before.ending < 0) & (ending >= 0), options)

    start = now._replace(mu=jnp.where(now.ending >= 0, 0.0, now.mu))
    return jax.lax.while_loop(lambda search: ~search[1], attempt, (start, jnp.zeros((), bool)))[0]


def _judge(now: _State, settled: Flag, options: Options) -> tuple[_State, Flag]:
    """What a sweep means: its status, the regularisation of the next, and whether there need not be one.

    `settled` says that the trajectory has just turned out to be the last one.
    """
    sweep, going = now.sweep, now.ending < 0
    second = sweep.quadratic if now.jumps is None else 0.0
    visible = now.rate - second > options.resolution * now.trail.size
    # A decrease that is smaller than rounding: what is there is as good as it gets.
    still = sweep.definite & ~visible & going
    again = (settled | still) & (now.mu > 0.0)
    more, faster = _raised(now.mu, now.delta)
    converged, broken = now.ending == ILQRStatus.CONVERGED, now.ending == ILQRStatus.NOT_FINITE
    failed = ~sweep.definite & (more > MOST_DAMPING) & (going | converged)
    saddle = sweep.definite & converged & (now.mu > 0.0)
    ending = jnp.where((failed | saddle) & ~again, ILQRStatus.NOT_POSITIVE_DEFINITE, now.ending)
    ending = jnp.where(still, ILQRStatus.SMALL_STEP, ending).astype(jnp.int32)
    kept = sweep.definite | again
    mu = jnp.where(again, 0.0, jnp.where(kept, now.mu, jnp.minimum(more, 2.0 * MOST_DAMPING)))
    sweep = sweep._replace(definite=sweep.definite & ~broken)
    after = now._replace(sweep=sweep, mu=mu, delta=jnp.where(kept, now.delta, faster), ending=ending)
    return after, broken | ~again & (sweep.definite | (mu > MOST_DAMPING))


def _raised(mu: Scalar, delta: Scalar) -> tuple[Scalar, Scalar]:
    """More regularisation."""
    delta = jnp.maximum(FACTOR, delta * FACTOR)
    return jnp.maximum(LEAST_DAMPING, mu * delta), delta


def _rate(expansion: Expansion, sweep: Sweep, now: _State) -> tuple[Scalar, Scalar]:
    """The predicted decrease per share of the step, to first order; in multiple shooting of the merit, with the price.

    The price never falls, and is so high that closing the jumps is worth twice the cost that it adds.
    """
    if now.jumps is None:
        return -sweep.linear, now.price

    def step(x: Array, at: tuple) -> tuple[Array, tuple[Scalar, Scalar]]:
        F, C, K, k = at
        w = jnp.concatenate([k + jnp.sum(K * x, axis=1), x])
        bent = jnp.sum(C[:-1, :-1] * w[:, None] * w)
        return jnp.sum(F[:-1, :-1] * w, axis=1) + F[:-1, -1], (jnp.sum(C[:-1, -1] * w), bent)

    c_T = expansion.end[:-1, -1]
    last, (each, bent) = jax.lax.scan(step, jnp.zeros_like(c_T), (expansion.F, expansion.C, sweep.K, sweep.k))
    change, gap = jnp.sum(each) + jnp.sum(c_T * last), jnp.sum(jnp.abs(now.jumps))
    curve = jnp.sum(bent) + jnp.sum(expansion.end[:-1, :-1] * last[:, None] * last)
    needed = 2.0 * jnp.maximum(change + 0.5 * jnp.maximum(curve, 0.0), 0.0) / jnp.where(gap > 0.0, gap, 1.0)
    price = jnp.where((gap > 0.0) & sweep.definite, jnp.maximum(now.price, needed), now.price)
    return price * gap - change, price
