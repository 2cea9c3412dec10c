"""A cost expanded around the samples of a few rollouts, as one quadratic per step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.linear_quadratic import QuadraticCost
from forethought.math.moments import symmetric
from forethought.math.quadratise import Quadratisation, curvature
from forethought.types import Array, Scalar, Time

Stage = Callable[[Float[Array, " d"], Time], Scalar]
"""A stage cost of (z, t) with z = [x; u]."""

FLAT = 1e-12
"""Negative curvature that is rounding, in units of the largest entry."""


def expand_samples(
    stage: Stage,
    terminal: Callable[[Float[Array, " n"]], Scalar],
    z: Float[Array, "T N d"],
    last: Float[Array, "N n"],
    weight: Float[Array, "_ N"],
) -> QuadraticCost:
    """The mean of the samples' second-order expansions, each around its own sample.

        C = mean H_i,   c = mean (g_i - H_i z_i),   cc = mean (l_i - g_i^T z_i + 1/2 z_i^T H_i z_i)

    and then with the negative eigenvalues of C set to 0, value and slope at the mean sample kept.  Where a cost bends
    down, as log(1 + d^2) does far from the target, its curvature would have the step go as far as the KL bound lets it,
    whatever the fit is worth there.

    weight [t, i], [T+1, N], says how much sample i counts at step t, the end included; where none does all do.  A
    sample whose derivatives are not finite does not count.
    """
    T = z.shape[0]
    each = jax.vmap(jax.vmap(lambda z, t: curvature(lambda z: stage(z, t), z), in_axes=(0, None)))
    forms = each(z, jnp.arange(T, dtype=jnp.int32))
    at = _convex(*jax.vmap(_mean)(forms, z, weight[:-1]))
    end = _mean(jax.vmap(lambda x: curvature(terminal, x))(last), last, weight[-1])
    return QuadraticCost(*at, *(part[0] for part in _convex(*(part[None] for part in end))))


def _convex(
    C: Float[Array, "T d d"], c: Float[Array, "T d"], cc: Float[Array, " T"], mean: Float[Array, "T d"]
) -> tuple:
    """C, c and cc with no negative curvature, and the same value and slope at the mean."""
    eye = jnp.eye(C.shape[1], dtype=C.dtype)
    size = jnp.max(jnp.abs(C), axis=(1, 2))[:, None, None]
    lower = jnp.linalg.cholesky(C + (FLAT * size + 1e-300) * eye, symmetrize_input=False)

    def clipped(C: Array) -> Array:
        values, vectors = jnp.linalg.eigh(C, symmetrize_input=False)
        positive = jnp.maximum(values, 0.0)[:, None, :] * vectors
        return symmetric(jnp.matmul(positive, jnp.swapaxes(vectors, 1, 2), precision="highest"))

    # Most costs have nothing to clip, and eigenvalues take ten times as long as a Cholesky factor.
    convex = jax.lax.cond(jnp.all(jnp.isfinite(lower)), lambda C: C, clipped, C)
    gone = jnp.sum((C - convex) * mean[:, None, :], axis=2)
    return convex, c + gone, cc - 0.5 * jnp.sum(gone * mean, axis=1)


def _mean(
    form: Quadratisation, z: Float[Array, "N d"], weight: Float[Array, " N"]
) -> tuple[Array, Array, Scalar, Array]:
    """C, c and cc of the samples at one time, and their mean."""
    value, g, H = form
    sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(g), axis=1) & jnp.all(jnp.isfinite(H), axis=(1, 2))
    value, g = jnp.where(sound, value, 0.0), jnp.where(sound[:, None], g, 0.0)
    H = jnp.where(sound[:, None, None], H, 0.0)
    w = jnp.where(sound, jnp.where(jnp.any(sound & (weight > 0.0)), weight, 1.0), 0.0)
    w = w / jnp.maximum(jnp.sum(w), 1e-300)
    Hz = jnp.sum(H * z[:, None, :], axis=2)
    constant = value - jnp.sum(g * z, axis=1) + 0.5 * jnp.sum(Hz * z, axis=1)
    C = symmetric(jnp.sum(w[:, None, None] * H, axis=0))
    c, cc = jnp.sum(w[:, None] * (g - Hz), axis=0), jnp.sum(w * constant)
    return C, c, cc, jnp.sum(w[:, None] * z, axis=0)
