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


def expand_samples(
    stage: Stage,
    terminal: Callable[[Float[Array, " n"]], Scalar],
    z: Float[Array, "T N d"],
    last: Float[Array, "N n"],
    weight: Float[Array, "_ N"],
) -> QuadraticCost:
    """The mean of the samples' second-order expansions, each around its own sample.

        C = mean H_i,   c = mean (g_i - H_i z_i),   cc = mean (l_i - g_i^T z_i + 1/2 z_i^T H_i z_i)

    weight [t, i], [T+1, N], says how much sample i counts at step t, the end included; where none does all do.  A
    sample whose derivatives are not finite does not count.
    """
    T = z.shape[0]
    each = jax.vmap(jax.vmap(lambda z, t: curvature(lambda z: stage(z, t), z), in_axes=(0, None)))
    forms = each(z, jnp.arange(T, dtype=jnp.int32))
    C, c, cc = jax.vmap(_mean)(forms, z, weight[:-1])
    end = jax.vmap(lambda x: curvature(terminal, x))(last)
    C_T, c_T, cc_T = _mean(end, last, weight[-1])
    return QuadraticCost(C, c, cc, C_T, c_T, cc_T)


def _mean(form: Quadratisation, z: Float[Array, "N d"], weight: Float[Array, " N"]) -> tuple[Array, Array, Scalar]:
    """C, c and cc of the samples at one time."""
    value, g, H = form
    sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(g), axis=1) & jnp.all(jnp.isfinite(H), axis=(1, 2))
    value, g = jnp.where(sound, value, 0.0), jnp.where(sound[:, None], g, 0.0)
    H = jnp.where(sound[:, None, None], H, 0.0)
    w = jnp.where(sound, jnp.where(jnp.any(sound & (weight > 0.0)), weight, 1.0), 0.0)
    w = w / jnp.maximum(jnp.sum(w), 1e-300)
    Hz = jnp.sum(H * z[:, None, :], axis=2)
    constant = value - jnp.sum(g * z, axis=1) + 0.5 * jnp.sum(Hz * z, axis=1)
    C = symmetric(jnp.sum(w[:, None, None] * H, axis=0))
    return C, jnp.sum(w[:, None] * (g - Hz), axis=0), jnp.sum(w * constant)
