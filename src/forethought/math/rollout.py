"""The one place where a model is unrolled."""

from __future__ import annotations

import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractCost, AbstractDynamics, Problem
from forethought.types import Action, Array, Flag, RandomKey, Scalar, State, Time


class Imagination(eqx.Module):
    """How plans are tried out inside the model."""

    particles: int = 5
    """Imagined rollouts per plan, each through one drawn model."""
    propagation: Literal["ts-inf", "ts-1"] = "ts-inf"
    """ts-inf: a particle keeps its model for the whole horizon; ts-1: the models are shuffled at each step."""
    noise: bool = True
    """Whether the model's own noise is added at each step."""
    risk: float = 0.0
    """Plans are ranked by mean + risk * standard deviation of the cost over particles; below 0 seeks uncertainty."""


def imagine(
    how: Imagination, dynamics: AbstractDynamics, problem: Problem, us: Float[Array, "N H m"], key: RandomKey
) -> Float[Array, "P N"]:
    """Discounted cost of N open-loop plans for each of the P particles in `dynamics` (the result of `draw`).

    J = sum_{h<H} g^h c(x_h, u_h, y_h, t0+h) + g^H c_T(x_H), with x_{h+1} the first n entries of y_h, no cost after
    the imagined episode has ended, and +inf where anything on the way was not finite.  All plans share the particles'
    random numbers, so that differences between plans are not noise.
    """
    count, horizon = us.shape[0], us.shape[1]
    shape = (how.particles, count)
    # Draws outermost, plans next: each step is one [P, N, d] x [P, d, h] product per layer.
    each_plan = jax.vmap(functools.partial(_step, noise=how.noise), in_axes=(None, None, 0, 0, None, None))
    # A belief may hold plain numbers beside its stacked arrays (a user's physics): only arrays are mapped.
    axes = (eqx.if_array(0), None, 0, None, None, 0)
    each_particle = eqx.filter_vmap(each_plan, in_axes=axes)

    def advance(carry, inputs):
        u, h, keys = inputs
        if how.propagation == "ts-1":
            order = jr.permutation(keys[-1], how.particles)
            carry = jax.tree.map(lambda leaf: leaf[order], carry)
        x, alive, total = carry
        y, cost, lives = each_particle(dynamics, problem.cost, x, u, problem.t0 + h, keys[:-1])
        weight = jnp.float32(problem.discount) ** h.astype(jnp.float32)
        # Where an episode has ended nothing is added, not even a NaN times zero.
        total = total + jnp.where(alive, weight * cost.astype(jnp.float32), 0.0)
        return (y[..., : x.shape[-1]], alive & lives, total), None

    x0 = jnp.broadcast_to(problem.x0.astype(jnp.float32), (*shape, problem.x0.shape[0]))
    start = (x0, jnp.ones(shape, bool), jnp.zeros(shape, jnp.float32))
    keys = jr.split(key, (horizon, how.particles + 1))
    inputs = (jnp.swapaxes(us.astype(jnp.float32), 0, 1), jnp.arange(horizon, dtype=jnp.int32), keys)
    (x, alive, total), _ = jax.lax.scan(advance, start, inputs)
    terminal = jax.vmap(jax.vmap(problem.cost.terminal))(x).astype(jnp.float32)
    total = total + jnp.where(alive, jnp.float32(problem.discount) ** horizon * terminal, 0.0)
    return jnp.where(jnp.isfinite(total), total, jnp.inf)


def _step(
    dynamics: AbstractDynamics, cost: AbstractCost, x: State, u: Action, t: Time, key: RandomKey, *, noise: bool
) -> tuple[Float[Array, " k"], Scalar, Flag]:
    """One imagined transition, its cost, and whether the episode goes on."""
    prediction = dynamics.predict(x, u, t)
    y = prediction.sample(key) if noise else prediction.mean
    y = y.astype(x.dtype)
    # A belief that says NaN about anything, be it only whether the episode has ended, must not look cheap.
    charged = jnp.where(jnp.all(jnp.isfinite(y)), cost.stage(x, u, y, t), jnp.inf)
    return y, charged, cost.alive(y)


def score(how: Imagination, problem: Problem, z: Float[Array, "N H d"], key: RandomKey) -> Float[Array, " N"]:
    """What each of N plans in search coordinates costs: mean + risk * std over particles, +inf if not finite."""
    k_draw, k_roll = jr.split(key)
    dynamics = problem.dynamics.draw(k_draw, how.particles)
    us = jax.vmap(jax.vmap(problem.actions.decode))(z)
    costs = imagine(how, dynamics, problem, us, k_roll)
    total = jnp.mean(costs, axis=0)
    if how.risk != 0.0:
        total = total + how.risk * jnp.std(costs, axis=0)
    return jnp.where(jnp.isfinite(total), total, jnp.inf)


def predict_ahead(dynamics: AbstractDynamics, x0: State, us: Float[Array, "H m"], t0: Time) -> Float[Array, "H n"]:
    """The states that the mean predictions pass through under the given actions."""

    def advance(x, inputs):
        u, h = inputs
        y = dynamics.predict(x, u, t0 + h).mean[: x.shape[0]].astype(x.dtype)
        return y, y

    steps = jnp.arange(us.shape[0], dtype=jnp.int32)
    return jax.lax.scan(advance, x0, (us, steps))[1]
