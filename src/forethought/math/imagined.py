"""Episodes of a policy inside drawn models, as rows to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractCost, AbstractDynamics, AbstractPolicy
from forethought.types import Array, RandomKey, Scalar, State


class Starts(NamedTuple):
    """Where imagined episodes begin: R of them in each of P beliefs."""

    x: Float[Array, "P R n"]
    t: Int[Array, "P R"]
    """Step of the episode that the state was seen in."""


class Room(NamedTuple):
    """Where states may be: a model that is asked far from its data answers with anything."""

    low: Float[Array, " n"]
    high: Float[Array, " n"]


class Imagined(NamedTuple):
    """H steps of each imagined episode."""

    x: Float[Array, "P R H n"]
    u: Float[Array, "P R H m"]
    y: Float[Array, "P R H n"]
    cost: Float[Array, "P R H"]
    terminated: Bool[Array, "P R H"]
    use: Bool[Array, "P R H"]
    """Which steps happened: none after the episode's end, and none from where something was not finite."""


def episodes(
    beliefs: AbstractDynamics,
    policy: AbstractPolicy,
    cost: AbstractCost,
    starts: Starts,
    room: Room,
    key: RandomKey,
    *,
    horizon: int,
) -> Imagined:
    """The policy for `horizon` steps from every start, each rollout in one of the P `beliefs` (the result of `draw`).

    x_{h+1} = clip(y_h), y_h ~ p(y | x_h, u_h) with the model's own noise, u_h from the policy with its own.  Every
    rollout keeps its belief: it is a doubt about the system, not a noise of its own at every step.
    """
    arrays, rest = eqx.partition(beliefs, eqx.is_array)
    P, R = starts.t.shape
    keys = jr.split(key, (P, R))

    def of_belief(arrays, x, t, keys):
        dynamics = eqx.combine(arrays, rest)
        return jax.vmap(lambda x, t, k: _episode(dynamics, policy, cost, (x, t), room, k, horizon=horizon))(x, t, keys)

    return jax.vmap(of_belief)(arrays, starts.x.astype(jnp.float32), starts.t.astype(jnp.int32), keys)


def _episode(
    dynamics: AbstractDynamics,
    policy: AbstractPolicy,
    cost: AbstractCost,
    start: tuple[Array, Array],
    room: Room,
    key: RandomKey,
    *,
    horizon: int,
) -> Imagined:
    x, t = start
    k_policy, k_model = jr.split(key)
    n = x.shape[0]

    def step(now: tuple, key: RandomKey) -> tuple[tuple, Imagined]:
        x, t, carry, alive = now
        u, carry = policy.act(carry, x, t)
        said = dynamics.predict(x, u, t).sample(key).astype(jnp.float32)
        y = jnp.clip(said[:n], room.low, room.high)
        whole = jnp.concatenate([y, said[n:]])
        charged = cost.stage(x, u, whole, t).astype(jnp.float32)
        good = alive & jnp.all(jnp.isfinite(whole)) & jnp.isfinite(charged)
        lives = cost.alive(whole)
        row = Imagined(x, u, jnp.where(good, y, x), jnp.where(good, charged, 0.0), good & ~lives, good)
        return (row.y, t + 1, carry, good & lives), row

    began = (x, t, policy.init(x, k_policy), jnp.ones((), bool))
    return jax.lax.scan(step, began, jr.split(k_model, horizon))[1]


def discounted(
    imagined: Imagined, discount: float, terminal: Callable[[State], Scalar] | None = None
) -> Float[Array, " P"]:
    """Mean discounted cost of the episodes in each belief, sum_h g^h c_h + g^H V(x_H) where they go on at the horizon;
    +inf where one of them broke off, not being finite."""
    horizon = imagined.cost.shape[-1]
    weight = jnp.float32(discount) ** jnp.arange(horizon, dtype=jnp.float32)
    total = jnp.sum(weight * imagined.cost, axis=-1)
    ended = jnp.any(imagined.terminated, axis=-1)
    if terminal is not None:
        left = jax.vmap(jax.vmap(terminal))(imagined.y[..., -1, :])
        total = total + jnp.where(ended, 0.0, jnp.float32(discount) ** horizon * left)
    broken = ~imagined.use[..., -1] & ~ended
    return jnp.mean(jnp.where(broken | ~jnp.isfinite(total), jnp.inf, total), axis=-1)
