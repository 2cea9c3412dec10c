"""One step of a policy's parameters within a KL bound: the natural gradient, and how far to go along it.

minimise  surrogate(theta)  with  KL(old || theta) <= epsilon.  To first order in the surrogate and second in KL that is

    theta = old - F^-1 g / l,   KL = 1/2 g^T F^-1 g / l^2,   l* = sqrt(g^T F^-1 g / (2 epsilon)),

with g the surrogate's slope and F the curvature of KL, which is the Fisher information of the policy in the states that
KL is averaged over.  KL falls like l^-2 exactly, so that the shared search for a multiplier (`kl_dual`) has nothing to
search: it measures the real KL at l*, and goes on by secant steps only where that is not what the quadratic said.  A
step that the surrogate does not confirm counts as one that does not exist, so that the same search backtracks.

Kakade, A natural policy gradient, NIPS 2001; Schulman et al., Trust region policy optimization, ICML 2015.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.math.kl_dual import Bracket, KLStatus, Trial, solve_kl_dual
from forethought.types import Array, Scalar

Vector = Float[jax.Array, " p"]
TOLERANCE = 0.02
"""Of the search for the multiplier, which aims so far below the bound that what it accepts never exceeds it."""


@dataclasses.dataclass(frozen=True)
class StepHow:
    """How a step is looked for; cannot change without compiling anew."""

    conjugate: int = 10
    """Most products with the Fisher information."""
    damping: float = 0.01
    """Added to the Fisher information, in units of its curvature along the slope."""
    ratio: float = 0.1
    """Least share of the improvement that the slope promises which a step must bring."""
    evaluations: int = 12
    """Most steps along the direction that are tried."""


class TrustStep(NamedTuple):
    """A step, and how it was found."""

    theta: Vector
    """Finite, within the bound and better than the old one; or the old one."""
    kl: Scalar
    """KL(old || theta) as measured."""
    multiplier: Scalar
    predicted: Scalar
    """How much the slope promises that the surrogate falls."""
    actual: Scalar
    """How much it falls."""
    status: Int[Array, ""]
    """A `KLStatus`: solved (KL is the bound, or up to 4% less), inactive (the slope is zero), limited (a shorter step
    was better, or all that was found), failed (no step keeps the bound and is better, or something is not finite)."""
    evaluations: Int[Array, ""]
    residual: Scalar
    """|(F + d I) s - g| / |g| of the direction s."""


class Solved(NamedTuple):
    """What conjugate gradients found."""

    x: Vector
    rest: Vector
    """b - (A + d I) x."""
    added: Scalar
    """d."""


def conjugate_gradients(
    product: Callable[[Vector], Vector], b: Vector, steps: int, tolerance: float = 1e-6, damping: float = 0.0
) -> Solved:
    """x with (A + d I) x = b for a symmetric positive definite A, given v -> A v;  d = damping b^T A b / b^T b.

    Starts at 0 and ends after `steps` products, or where the residual is below the tolerance times |b|, or at a
    direction along which A is not positive: what was found before it is returned.  Hestenes and Stiefel, Methods of
    conjugate gradients for solving linear systems, 1952.
    """
    whole = jnp.sum(b * b)

    def going(carry: tuple) -> Array:
        _, r, _, _, count, positive = carry
        return (count < steps) & (jnp.sum(r * r) > tolerance**2 * whole) & positive

    def turn(carry: tuple) -> tuple:
        x, r, p, added, count, _ = carry
        Ap, size, before = product(p), jnp.sum(p * p), jnp.sum(r * r)
        # The first direction is b itself.
        added = jnp.where(count == 0, damping * jnp.sum(p * Ap) / size, added)
        curvature = jnp.sum(p * Ap) + added * size
        positive = curvature > 0.0
        length = jnp.where(positive, before / jnp.where(positive, curvature, 1.0), 0.0)
        x, r = x + length * p, r - length * (Ap + added * p)
        return x, r, r + jnp.sum(r * r) / before * p, added, count + 1, positive

    zero = jnp.zeros((), b.dtype)
    began = (jnp.zeros_like(b), b, b, zero, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    x, r, _, added, _, _ = jax.lax.while_loop(going, turn, began)
    return Solved(x, r, added)


def fisher_product(kl: Callable[[Vector], Scalar], theta: Vector) -> Callable[[Vector], Vector]:
    """v -> F v, F the second derivative of KL(old || theta) at theta = old, where its slope is zero.

    The derivative of the slope along v: no matrix is formed.
    """
    return lambda v: jax.jvp(jax.grad(kl), (theta,), (v,))[1]


def trust_region_step(
    theta: Vector,
    measure: Callable[[Vector], tuple[Scalar, Scalar]],
    epsilon: Scalar,
    how: StepHow = StepHow(),
) -> TrustStep:
    """The step from theta that lowers the surrogate with KL <= epsilon, along the natural gradient.

    `measure(theta)` gives the surrogate (a cost) and KL(old || theta), which is 0 at the theta given.  Of all
    lengths that were tried the one with the lowest surrogate is taken, if it keeps the bound and brings at least
    `ratio` of what the slope promises.
    """
    surrogate, kl = (lambda v: measure(v)[0]), (lambda v: measure(v)[1])
    began, g = jax.value_and_grad(surrogate)(theta)
    solved = conjugate_gradients(fisher_product(kl, theta), g, how.conjugate, damping=how.damping)
    s, size = solved.x, jnp.sum(g * g)
    wide = lambda v: v.astype(jnp.result_type(float))
    slope = wide(jnp.sum(g * s))
    # s^T F s, from F s = g - rest - added s: one product less, and in the program too.
    twice = wide(jnp.sum(s * (g - solved.rest - solved.added * s)))
    before = wide(began)

    def attempt(multiplier: Scalar) -> Trial:
        tried = theta - (s / multiplier.astype(s.dtype))
        cost, moved = map(wide, measure(tried))
        promised = slope / multiplier
        ok = (before - cost >= how.ratio * promised) & (cost < before) & jnp.all(jnp.isfinite(tried))
        return Trial(moved, cost, ok, tried)

    epsilon = wide(jnp.asarray(epsilon))
    nothing = slope == 0.0
    bound = jnp.where(
        nothing, 0.0, jnp.where(jnp.isfinite(slope) & (slope > 0.0), epsilon / (1.0 + TOLERANCE), jnp.nan)
    )
    search = Bracket(tolerance=TOLERANCE, evaluations=how.evaluations)
    old = Trial(jnp.zeros_like(before), before, jnp.ones((), bool), theta)
    found = solve_kl_dual(attempt, old, jnp.where(nothing, 0.0, bound), jnp.sqrt(twice / (2.0 * bound)), search)
    return TrustStep(
        theta=found.result,
        kl=found.kl,
        multiplier=found.multiplier,
        predicted=jnp.where(jnp.isfinite(found.multiplier), slope / found.multiplier, 0.0),
        actual=jnp.where(jnp.isfinite(found.multiplier), before - found.cost, 0.0),
        status=jnp.where(nothing, KLStatus.INACTIVE, found.status).astype(jnp.int32),
        evaluations=found.evaluations,
        residual=jnp.sqrt(jnp.sum(solved.rest**2) / jnp.where(size > 0.0, size, 1.0)),
    )
