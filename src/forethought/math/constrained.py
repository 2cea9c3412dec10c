"""Trajectories under constraints: an augmented Lagrangian around iterative LQR.

Howell, Jackson and Manchester, ALTRO, IROS 2019, without its last phase.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.control_problem import ControlProblem, unroll
from forethought.math.dual import DEFAULT, Ascent, Residuals, dual_ascent, penalised
from forethought.math.ilqr_solve import ILQRStatus, Limits, Options, Solved, solve
from forethought.types import Action, Array, Scalar, State, Time


class Constraints(eqx.Module):
    """What a trajectory has to keep: equal(x, u, t) = 0 and less(x, u, t) <= 0 at each step, and the same of the last
    state alone.  Each gives a vector; None is no constraint.

    An obstacle of radius r is less = lambda x, u, t: jnp.stack([r**2 - jnp.sum((x[:2] - centre) ** 2)]).  The functions
    may be modules, whose arrays are then arguments.
    """

    equal: Callable[[State, Action, Time], Array] | None = None
    less: Callable[[State, Action, Time], Array] | None = None
    final_equal: Callable[[State], Array] | None = None
    final_less: Callable[[State], Array] | None = None

    def at(self, x: State, u: Action, t: Time) -> Residuals:
        """Residuals of one step."""
        ask = lambda function: () if function is None else function(x, u, t)
        return Residuals(ask(self.equal), ask(self.less))

    def at_end(self, x: State) -> Residuals:
        """Residuals of the last state."""
        ask = lambda function: () if function is None else function(x)
        return Residuals(ask(self.final_equal), ask(self.final_less))


class _Stage(eqx.Module):
    """A stage cost with what the augmented Lagrangian adds."""

    stage: Callable
    constraints: Constraints
    multipliers: Residuals
    step: Scalar

    def __call__(self, x: State, u: Action, y: Array, t: Time) -> Scalar:
        here = jax.tree.map(lambda m: m[t], self.multipliers)
        return self.stage(x, u, y, t) + penalised(self.constraints.at(x, u, t), here, self.step)


class _Terminal(eqx.Module):
    """A terminal cost, likewise."""

    terminal: Callable
    constraints: Constraints
    multipliers: Residuals
    step: Scalar

    def __call__(self, x: State) -> Scalar:
        return self.terminal(x) + penalised(self.constraints.at_end(x), self.multipliers, self.step)


class Kept(NamedTuple):
    """A solution with how well it keeps the constraints."""

    solved: Solved
    violation: Scalar
    """max(|equal|, less, 0) over all steps and the end."""
    multipliers: Residuals
    """((stage), (final)): per step [T ...] and of the last state."""


def solve_constrained(
    problem: ControlProblem,
    constraints: Constraints,
    xs: Float[Array, "_ n"],
    us: Float[Array, "T m"],
    limits: Limits | None,
    options: Options,
    *,
    ascent: Ascent = DEFAULT,
) -> Kept:
    """Minimise the augmented Lagrangian by iterative LQR, raise the multipliers, repeat.

    The status is that of the last solve, or INFEASIBLE if the constraints are violated by more than the tolerance.  The
    cost is the problem's own; gradient and gains are those of the augmented Lagrangian.
    """
    times = jnp.arange(us.shape[0], dtype=jnp.int32)

    def residuals(solved: Solved) -> Residuals:
        stages = jax.vmap(constraints.at)(solved.trail.xs[:-1], solved.trail.us, times)
        end = constraints.at_end(solved.trail.xs[-1])
        return Residuals((stages.equal, end.equal), (stages.less, end.less))

    def minimise(before: Solved, multipliers: Residuals, step: Scalar) -> Solved:
        (equal, final_equal), (less, final_less) = multipliers
        stage = _Stage(problem.stage, constraints, Residuals(equal, less), step)
        terminal = _Terminal(problem.terminal, constraints, Residuals(final_equal, final_less), step)
        augmented = dataclasses.replace(problem, stage=stage, terminal=terminal)
        found = solve(augmented, before.trail.xs, before.trail.us, limits, options)
        return found._replace(iterations=before.iterations + found.iterations)

    clipped = us if limits is None else jnp.clip(us, limits.low, limits.high)
    first = unroll(problem, xs, clipped)
    shape = jax.eval_shape(lambda: solve(problem, xs, us, limits, options))
    start: Solved = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)._replace(trail=first)
    found = dual_ascent(minimise, residuals, start, _first_step(residuals(start), first.size), ascent)
    solved = found.x
    true = unroll(problem, solved.trail.xs, solved.trail.us)
    sound = jnp.isfinite(true.cost) & (solved.status != ILQRStatus.NOT_FINITE)
    status = jnp.where(found.violation <= ascent.tolerance, solved.status, ILQRStatus.INFEASIBLE)
    status = jnp.where(sound, status, ILQRStatus.NOT_FINITE).astype(jnp.int32)
    return Kept(solved._replace(trail=true, status=status), found.violation, found.multipliers)


def _first_step(found: Residuals, size: Scalar) -> Scalar:
    """A penalty that weighs what is violated at the start ten times as much as the cost there (Birgin and Martinez,
    Practical Augmented Lagrangian Methods, 2014, section 12.4), so that it means the same in any units."""
    positive = [jnp.maximum(d, 0.0) for d in jax.tree.leaves(found.less)]
    squares = sum((jnp.sum(c**2) for c in [*jax.tree.leaves(found.equal), *positive]), jnp.zeros_like(size))
    known = jnp.isfinite(squares) & jnp.isfinite(size) & (squares > 0.0) & (size > 0.0)
    return jnp.where(known, jnp.clip(20.0 * size / jnp.where(known, squares, 1.0), 1e-3, 1e6), 1.0)
