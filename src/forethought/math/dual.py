"""Constrained minimisation by dual ascent: one multiplier per constraint, raised while the constraint is violated.

The aside of the lecture, for equalities and inequalities: min f(x) with C(x) = 0 and D(x) <= 0 has the Lagrangian
L(x, l, m) = f + l C + m D with m >= 0, and its dual function g(l, m) = min_x L is concave with the slopes C(x*), D(x*):
those of x* drop out, as L does not vary with x there.  So multipliers climb along the residuals.  With the penalty
rho/2 |C|^2 in L as well (the augmented Lagrangian) a step of rho is right for any problem, convex or not.

Bertsekas, Constrained Optimization and Lagrange Multiplier Methods, 1982; Nocedal and Wright, Numerical Optimization,
2006, chapter 17.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from forethought.types import Array, Scalar

X = TypeVar("X")


class Residuals(NamedTuple):
    """Trees of arrays: what must be 0, and what must be at most 0.  Multipliers have the same form."""

    equal: PyTree[Float[Array, "..."]]
    less: PyTree[Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Ascent:
    """How multipliers climb."""

    tolerance: float = 1e-6
    """Largest violation that is accepted."""
    rounds: int = 40
    growth: float = 10.0
    """Factor of the step where violations did not fall below `progress` of what they were; 1: a fixed step."""
    progress: float = 0.25
    largest: float = 1e10
    """No step is larger than this many times the first one: beyond it the constraints are taken for infeasible."""


DEFAULT = Ascent()


class Ascended(NamedTuple):
    """The minimiser of the last Lagrangian, and how well it keeps the constraints."""

    x: Any
    multipliers: Residuals
    step: Scalar
    violation: Scalar
    """max(|C|, D, 0)."""
    rounds: Int[Array, ""]
    converged: Bool[Array, ""]
    """Whether constraints and complementary slackness hold to the tolerance."""


def dual_ascent(
    minimise: Callable[[X, Residuals, Scalar], X],
    residuals: Callable[[X], Residuals],
    x: X,
    step: Scalar | float,
    how: Ascent = DEFAULT,
) -> Ascended:
    """Alternate x <- minimise(x, multipliers, step) and l <- l + step C(x), m <- max(0, m + step D(x)).

    `minimise` begins at the last x.  It may ignore the step: then this is dual gradient ascent with a fixed or growing
    step; or add `penalised` to f: then it is the method of multipliers.  Multipliers begin at 0.  A residual that is
    not finite is a violation of +inf and moves no multiplier.
    """
    shapes = jax.eval_shape(residuals, x)
    none = Residuals(*jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tuple(shapes)))
    first = jnp.asarray(step, jnp.result_type(float))
    infinite = jnp.full((), jnp.inf, first.dtype)
    no = jnp.zeros((), bool)
    began = (Ascended(x, none, first, infinite, jnp.zeros((), jnp.int32), no), infinite)

    def turn(carry: tuple[Ascended, Scalar]) -> tuple[Ascended, Scalar]:
        now, off_before = carry
        x = minimise(now.x, now.multipliers, now.step)
        found = residuals(x)
        off = _off(found, now.multipliers, now.step)
        moved = climbed(now.multipliers, found, now.step)
        slow = off > how.progress * off_before
        step = jnp.where(slow, how.growth * now.step, now.step)
        done = Ascended(x, moved, step, violation(found), now.rounds + 1, off <= how.tolerance)
        return done, off

    def going(carry: tuple[Ascended, Scalar]) -> Array:
        now, _ = carry
        return ~now.converged & (now.rounds < how.rounds) & (now.step <= how.largest * first)

    return jax.lax.while_loop(going, turn, began)[0]


def climbed(multipliers: Residuals, found: Residuals, step: Scalar) -> Residuals:
    """The multipliers one step up the dual function."""
    up = lambda old, c: jnp.where(jnp.isfinite(c), old + step * c, old)
    equal = jax.tree.map(up, multipliers.equal, found.equal)
    less = jax.tree.map(lambda old, c: jnp.maximum(up(old, c), 0.0), multipliers.less, found.less)
    return Residuals(equal, less)


def penalised(found: Residuals, multipliers: Residuals, step: Scalar) -> Scalar:
    """What the augmented Lagrangian adds to f: l C + step/2 C^2, and (max(0, m + step D)^2 - m^2) / (2 step)."""
    equal = jax.tree.map(lambda c, price: jnp.sum(price * c + 0.5 * step * c**2), found.equal, multipliers.equal)
    bound = lambda d, m: jnp.sum((jnp.maximum(m + step * d, 0.0) ** 2 - m**2) / (2.0 * step))
    less = jax.tree.map(bound, found.less, multipliers.less)
    return _total([*jax.tree.leaves(equal), *jax.tree.leaves(less)])


def violation(found: Residuals) -> Scalar:
    """max(|C|, D, 0) over everything; +inf if anything is not finite."""
    return _largest([jnp.abs(c) for c in jax.tree.leaves(found.equal)], jax.tree.leaves(found.less))


def _off(found: Residuals, multipliers: Residuals, step: Scalar) -> Scalar:
    """The violation, with that of complementary slackness: an inequality with room has no multiplier."""
    slack = jax.tree.map(lambda d, m: jnp.abs(jnp.maximum(d, -m / step)), found.less, multipliers.less)
    return jnp.maximum(violation(found), _largest([], jax.tree.leaves(slack)))


def _largest(magnitudes: list[Any], signed: list[Any]) -> Scalar:
    each = [jnp.max(jnp.where(jnp.isfinite(a), a, jnp.inf), initial=0.0) for a in [*magnitudes, *signed]]
    return jnp.max(jnp.stack([jnp.zeros((), jnp.result_type(float)), *each]))


def _total(parts: list[Any]) -> Scalar:
    return sum(parts, jnp.zeros((), jnp.result_type(float)))
