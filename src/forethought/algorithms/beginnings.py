"""Where imagined rollouts of v2.0 begin: where episodes do, and anywhere in the data as far as that is alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractWorld
from forethought.types import Dataset, RandomKey

POOL = 256
"""Start states that an improvement chooses from."""
NEAR = 0.03
"""Standard deviation of imagined beginnings around real ones, in the spread of the data."""
ASKED = 64
"""Resets of a copy of the world that say where episodes begin."""


def asked(world: AbstractWorld, key: RandomKey) -> Float[np.ndarray, "S n"]:
    """The states that so many resets of a copy of the world begin in: no step is taken.

    Of a few episodes only a few beginnings are known, and a policy that was improved from those alone does not know the
    others.  The first state of an episode is what others assume to be given, too (Deisenroth and Rasmussen, 2011).
    """
    copy = world.fresh()
    try:
        found = np.stack([np.asarray(copy.reset(k).x, np.float64) for k in jr.split(key, ASKED)])
    finally:
        copy.close()
    return found[np.isfinite(found).all(axis=1)]


def where_episodes_were(data: Dataset) -> tuple[Float[np.ndarray, "S n"], Float[np.ndarray, "r n"]]:
    """(the states that episodes began in, all states), as far as they are finite."""
    count = int(data.count)
    x, t = np.asarray(data.x)[:count], np.asarray(data.t)[:count]
    fine = np.isfinite(x).all(axis=1)
    began = x[fine & (t == 0)]
    return (began if len(began) else x[fine][:1]), x[fine]


def share_visited(began: Float[np.ndarray, "S n"], scale: Float[np.ndarray, " n"], most: float) -> float:
    """Which share of the imagined rollouts begins anywhere in the data: as much of `most` as the spread of beginnings
    is of the spread of the data.

    Where episodes begin everywhere the policy must know what to do everywhere; where they all begin at one place, most
    places that were visited are such that no policy does well from there, and their large gradients drown the others.
    """
    if len(began) < 2:
        return 0.0
    spread = np.std(began, axis=0, ddof=1) / scale
    return most * min(1.0, float(np.sqrt(np.mean(spread**2))))


def start_pool(
    began: Float[np.ndarray, "S n"],
    states: Float[np.ndarray, "r n"],
    share: float,
    scale: Float[np.ndarray, " n"],
    key: RandomKey,
) -> Float[jax.Array, "s n"]:
    """POOL start states, float32: of a fixed size, whatever the data.

    That share of them are any states that were visited; the others are near those that episodes began in, NEAR away in
    units of `scale`: of a few episodes only a few beginnings are known, and the next one is another.
    """
    k_first, k_any, k_near = jr.split(key, 3)
    other = round(POOL * share)
    first = began[np.asarray(jr.randint(k_first, (POOL - other,), 0, len(began)))]
    anywhere = states[np.asarray(jr.randint(k_any, (other,), 0, len(states)))]
    near = NEAR * scale * np.asarray(jr.normal(k_near, first.shape, jnp.float32))
    return jnp.asarray(np.concatenate([first + near, anywhere]), jnp.float32)
