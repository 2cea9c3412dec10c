"""The ring against a plain list."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.math.ring import Transitions, empty_ring, push, row_numbers

C = 7
write = jax.jit(push)


def rows(first: int, count: int) -> Transitions:
    """Rows that are numbered."""
    at = jnp.arange(first, first + count, dtype=jnp.float32)
    return Transitions(at[:, None] * jnp.ones(2), at[:, None], at, at[:, None] + jnp.ones(2), at.astype(int) % 2 == 0)


def test_it_keeps_the_newest_sound_rows_and_nothing_else():
    random, ring, kept, first = np.random.default_rng(0), empty_ring(C, 2, 1), [], 1
    for count in (3, 0, 5, 7, 1, 2, 6):
        sound = random.random(max(count, 1)) < (0.7 if count else 0.0)
        made = rows(first, max(count, 1))
        # What is not sound may hold anything.
        made = made._replace(cost=jnp.where(jnp.asarray(sound), made.cost, jnp.nan))
        ring = write(ring, made, jnp.asarray(sound))
        kept = [*kept, *np.flatnonzero(sound) + first][-C:]
        first += max(count, 1)
        assert int(ring.filled) == len(kept)
        filled = Transitions(*(np.asarray(part)[: len(kept)] for part in ring.rows))
        assert sorted(filled.cost) == [float(k) for k in kept]
        np.testing.assert_array_equal(filled.x[:, 1], filled.cost)
        np.testing.assert_array_equal(filled.z[:, 0], filled.cost)
        np.testing.assert_array_equal(filled.y[:, 0], filled.cost + 1.0)
        np.testing.assert_array_equal(filled.ends, filled.cost.astype(int) % 2 == 0)
    oldest_first = np.roll(np.asarray(ring.rows.cost), -int(ring.head))
    assert list(oldest_first) == [float(k) for k in kept]


def test_draws_are_of_what_is_there_each_as_often_as_any_other():
    ring = push(empty_ring(C, 2, 1), rows(1, 4), jnp.asarray([True, False, True, True]))
    index = row_numbers(ring, jr.key(0), (2, 3000))
    values, counts = np.unique(np.asarray(ring.rows.cost[index]), return_counts=True)
    assert list(values) == [1.0, 3.0, 4.0]
    assert np.all(np.abs(counts - 2000) < 200)


def test_of_an_empty_ring_the_first_place_is_named():
    assert not np.asarray(row_numbers(empty_ring(C, 2, 1), jr.key(0), (5,))).any()
