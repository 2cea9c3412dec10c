"""What several experiments need: rows of data, and how wrong a model is about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractDynamics, RunState, Task
from forethought.math.dataset import append, empty
from forethought.types import Array, Dataset, Spec, Trajectory

CHUNK = 256
"""Rows that a model is asked about at once, so that their number does not cost a compilation."""


class Rows(NamedTuple):
    """Transitions: states, actions, next states."""

    x: Float[np.ndarray, "r n"]
    u: Float[np.ndarray, "r m"]
    y: Float[np.ndarray, "r n"]


def joined(trajectories: Sequence[Trajectory]) -> Rows:
    """The transitions of all of them."""
    return Rows(*(np.concatenate([np.asarray(getattr(t, part)) for t in trajectories]) for part in Rows._fields))


def rows_in(data: Dataset) -> Rows:
    """The transitions of a dataset."""
    return Rows(*(np.asarray(getattr(data, part))[: int(data.count)] for part in Rows._fields))


def data_of(spec: Spec, rows: Rows) -> Dataset:
    """The rows as data that a learner takes, without rewards."""
    count = len(rows.x)
    nothing, never = np.zeros(count), np.zeros(count, bool)
    whole = Trajectory(*rows, nothing, never, never, np.arange(count), nothing, np.zeros(count, np.int64))
    return append(empty(spec, count), whole, 0)


def spread(rows: Rows) -> Float[np.ndarray, " n"]:
    """Standard deviation of each component of the state: the unit that errors are told in."""
    return np.std(rows.x, axis=0) + 1e-12


def error(model: AbstractDynamics, rows: Rows, unit: Float[np.ndarray, " n"]) -> float:
    """Root mean square of the model's one-step error over rows and components."""
    return float(np.sqrt(np.mean(((predicted(model, rows) - rows.y) / unit) ** 2)))


def predicted(model: AbstractDynamics, rows: Rows) -> Float[np.ndarray, "r n"]:
    """The mean next state of every row."""
    count, n = rows.x.shape
    fill = lambda a: np.concatenate([a, np.broadcast_to(a[:1], (-count % CHUNK, a.shape[1]))])
    x, u = fill(rows.x), fill(rows.u)
    parts = [_means(model, x[i : i + CHUNK], u[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])[:count, :n]


@eqx.filter_jit
def _means(model: AbstractDynamics, x: Float[Array, "r n"], u: Float[Array, "r m"]) -> Float[Array, "r k"]:
    at = jnp.zeros((), jnp.int32)
    one = lambda x, u: model.predict(x.astype(jnp.float32), u.astype(jnp.float32), at).mean
    return jax.vmap(one)(jnp.asarray(x), jnp.asarray(u))


def stepped(algorithm: Any, task: Task, state: RunState, until: Callable[[RunState], bool]) -> RunState:
    """Turns of an algorithm's loop, each at most an episode, until the state is as it should be."""
    while not until(state):
        state, _ = algorithm.step(task, state, task.limit)
    return state


def cost_of(trajectories: Sequence[Trajectory]) -> float:
    """Mean over episodes of what they cost, minus their returns."""
    return float(np.mean([-np.sum(t.reward) for t in trajectories]))
