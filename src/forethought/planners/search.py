"""What the sampling planners share: plans are arrays z [H, d] in search coordinates."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import Plan, Problem
from forethought.math.finite import credible
from forethought.math.rollout import Scored
from forethought.policies.open_loop import OpenLoop
from forethought.types import Array, Metrics, Scalar


class Searched(eqx.Module):
    """Warm start of a planner that remembers one plan."""

    mean: Float[Array, "H d"]


def shift_plan(z: Float[Array, "... H d"]) -> Float[Array, "... H d"]:
    """The plan one step later: the first action is gone, the last one is repeated."""
    return jnp.concatenate([z[..., 1:, :], z[..., -1:, :]], axis=-2)


def finish(problem: Problem, z: Float[Array, "H d"], cost: Scalar, metrics: Metrics) -> Plan:
    """The plan at z; the safe action throughout if its cost is not finite or the state it starts from not credible."""
    ok = jnp.isfinite(cost) & credible(problem.x0)
    us = jax.vmap(problem.actions.decode)(z)
    us = jnp.where(ok, us, jnp.broadcast_to(problem.actions.safe(), us.shape))
    return Plan(OpenLoop(us, jnp.asarray(problem.t0, jnp.int32)), cost, ok, metrics)


def seen(populations: Scored, last: Scored | None = None) -> Metrics:
    """What a plan says about the scoring of its populations, stacked [I ...], and of the last candidates.

    `left_out`: the most particles that had to be left out of one scoring; `tied`: whether nowhere in the search one
    candidate was cheaper than another.
    """
    left_out = jnp.max(populations.left_out)
    if last is not None:
        left_out = jnp.maximum(left_out, last.left_out)
    return {"left_out": left_out, "tied": jnp.all(populations.tied)}


def elites(z: Float[Array, "N H d"], costs: Float[Array, " N"], k: int) -> tuple[Array, Array]:
    """The k cheapest plans, cheapest first, and their costs (+inf costs rank last)."""
    negative, index = jax.lax.top_k(-costs, k)
    return z[index], -negative


def elite_moments(z: Float[Array, "K H d"], costs: Float[Array, " K"]) -> tuple[Array, Array]:
    """Mean and standard deviation [H, d] over the elites whose cost is finite (zeros if there is none)."""
    weight = jnp.isfinite(costs).astype(z.dtype)[:, None, None]
    total = jnp.maximum(jnp.sum(weight, axis=0), 1.0)
    mean = jnp.sum(weight * z, axis=0) / total
    return mean, jnp.sqrt(jnp.sum(weight * (z - mean) ** 2, axis=0) / total)
