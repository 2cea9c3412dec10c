"""A ring of transitions of fixed size: what a model imagined lately, for those who learn from it."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int

from forethought.types import Array, RandomKey


class Transitions(NamedTuple):
    """Transitions as an actor-critic sees them, with any leading axes: float32, actions in units of half their range
    (`Box.encode`), costs and not rewards."""

    x: Float[Array, "*K n"]
    z: Float[Array, "*K m"]
    cost: Float[Array, "*K"]
    y: Float[Array, "*K n"]
    ends: Bool[Array, "*K"]
    """Whether the step ended the episode for good: nothing is paid after y.  What only the clock ended goes on."""


class Ring(eqx.Module):
    """C places of which the first `filled` are in use; what is written next goes to `head`, over the oldest rows."""

    rows: Transitions
    head: Int[Array, ""]
    filled: Int[Array, ""]

    @property
    def size(self) -> int:
        """Places C."""
        return self.rows.cost.shape[0]


def empty_ring(size: int, n: int, m: int) -> Ring:
    """A ring with nothing in it."""
    zeros = lambda *shape: jnp.zeros((size, *shape), jnp.float32)
    rows = Transitions(zeros(n), zeros(m), zeros(), zeros(n), jnp.zeros((size,), bool))
    zero = jnp.zeros((), jnp.int32)
    return Ring(rows, zero, zero)


def push(ring: Ring, rows: Transitions, sound: Bool[Array, " r"]) -> Ring:
    """The ring with those of the rows [r, ...] written into it that are sound, in their order.

    No more rows than places may come at once.
    """
    size, rank = ring.size, jnp.cumsum(sound, dtype=jnp.int32)
    # A place beyond the end is none: such a row is dropped.
    place = jnp.where(sound, (ring.head + rank - 1) % size, size)
    written = jax.tree.map(lambda old, new: old.at[place].set(new.astype(old.dtype), mode="drop"), ring.rows, rows)
    count = rank[-1]
    return Ring(Transitions(*written), (ring.head + count) % size, jnp.minimum(ring.filled + count, size))


def row_numbers(ring: Ring, key: RandomKey, shape: tuple[int, ...]) -> Int[Array, "*K"]:
    """Numbers of rows in use, each as likely as any other; 0 where none is in use."""
    at = jr.uniform(key, shape, jnp.float32) * ring.filled.astype(jnp.float32)
    return jnp.minimum(at.astype(jnp.int32), jnp.maximum(ring.filled - 1, 0))
