"""Small convex quadratic programs with limits on every variable, by projected Newton steps.

Bertsekas, SIAM Journal on Control and Optimization 20(2), 1982; in the form of Tassa, Mansard and Todorov,
Control-limited differential dynamic programming, ICRA 2014.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from forethought.math.small_matrices import cholesky_solve
from forethought.types import Array, Flag

ROUNDS = 100
"""Most projected Newton steps; one to five are usual."""
SHORTEST = 1e-20
"""A step that has been cut to this share of itself without helping ends the search: rounding is all that is left."""
SHRINK, ENOUGH = 0.6, 0.1
"""Factor of the backtracking, and the share of the linear prediction that counts as a decrease (Armijo)."""
SETTLED = 1e-13
"""A free gradient below this, relative to the numbers that it is a difference of, is zero."""


class BoxQP(NamedTuple):
    """The minimiser, which variables are free there, and whether the problem was solved."""

    x: Float[Array, " m"]
    free: Bool[Array, " m"]
    """False where the gradient, or equal limits, hold x at a limit.  There x is equal to that limit."""
    definite: Flag
    """Whether the Hessian of the free variables was positive definite beyond rounding at every step."""
    rounds: Int[Array, ""]


def box_qp(
    hessian: Float[Array, "m m"],
    gradient: Float[Array, " m"],
    limits: tuple[Float[Array, " m"], Float[Array, " m"]],
    start: Float[Array, " m"],
    tolerance: float,
) -> BoxQP:
    """minimise 1/2 x^T H x + g^T x with low <= x <= high, from `start`; limits may be infinite, and equal.

    Only the free rows of H have to be positive definite, beyond `tolerance` (see `cholesky_solve`).  One variable is
    solved in closed form.
    """
    low, high = limits
    if hessian.shape[0] == 1:
        return _one(hessian, gradient, low, high, tolerance)

    def advance(now: tuple[BoxQP, Flag]) -> tuple[BoxQP, Flag]:
        (x, _, definite, rounds), _ = now
        slope = gradient + jnp.sum(hessian * x, axis=1)
        free = ~(((x <= low) & (slope > 0.0)) | ((x >= high) & (slope < 0.0)) | (low >= high))
        terms = jnp.abs(gradient) + jnp.sum(jnp.abs(hessian * x), axis=1)
        settled = jnp.all(jnp.where(free, jnp.abs(slope) <= SETTLED * terms, True))
        matrix, right = reduced(hessian, free), jnp.where(free, -slope, 0.0)
        solved = cholesky_solve(matrix, right[:, None], tolerance)
        moved = _backtrack(hessian, slope, limits, x, solved.whole[:, 0])
        stop = settled | ~solved.definite | jnp.all(moved == x)
        return BoxQP(jnp.where(stop, x, moved), free, definite & solved.definite, rounds + 1), stop

    first = jnp.clip(start, low, high)
    began = BoxQP(first, jnp.ones(first.shape, bool), jnp.ones((), bool), jnp.zeros((), jnp.int32))
    going = lambda now: ~now[1] & (now[0].rounds < ROUNDS)
    return jax.lax.while_loop(going, advance, (began, jnp.zeros((), bool)))[0]


def reduced(hessian: Float[Array, "m m"], free: Bool[Array, " m"]) -> Float[Array, "m m"]:
    """The Hessian of the free variables, with an identity in the place of the others: its shape does not depend on
    which those are."""
    return jnp.where(free[:, None] & free, hessian, jnp.eye(hessian.shape[0], dtype=hessian.dtype))


def _one(hessian: Array, gradient: Array, low: Array, high: Array, tolerance: float) -> BoxQP:
    """One variable: the unconstrained minimum, clipped.  Without positive curvature it is no minimum."""
    curve = hessian[0]
    definite = curve[0] > tolerance * jnp.abs(curve[0])  # NaN is not
    best = -gradient / jnp.where(definite, curve, 1.0)
    free = (best >= low) & (best <= high) & (low < high)
    # Held by equal limits, the curvature does not matter.
    return BoxQP(jnp.clip(best, low, high), free, definite | (low[0] >= high[0]), jnp.ones((), jnp.int32))


def _backtrack(hessian: Array, slope: Array, limits: tuple[Array, Array], x: Array, step: Array) -> Array:
    """The first point on the projected arc x + s step that decreases enough; x if there is none."""

    def enough(s: Array) -> Flag:
        moved = jnp.clip(x + s * step, *limits) - x
        linear = jnp.sum(slope * moved)
        change = linear + 0.5 * jnp.sum(moved * jnp.sum(hessian * moved, axis=1))  # of the objective, not cancelled
        return change <= ENOUGH * linear

    def shorter(now: tuple[Array, Flag]) -> tuple[Array, Flag]:
        s = SHRINK * now[0]
        return s, enough(s)

    one = jnp.ones((), x.dtype)
    s, fine = jax.lax.while_loop(lambda now: ~now[1] & (now[0] > SHORTEST), shorter, (one, enough(one)))
    return jnp.where(fine, jnp.clip(x + s * step, *limits), x)
