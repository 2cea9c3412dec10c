"""Growing a dataset.  Plain NumPy on the host: data arrive in pieces of any length, and nothing here is compiled."""

from __future__ import annotations

import numpy as np

from forethought.types import Dataset, Spec, Trajectory

SMALLEST = 512
"""Rows of a new dataset: enough for the classic tasks never to grow, too few to matter in memory."""


def empty(spec: Spec, capacity: int = SMALLEST) -> Dataset:
    """A dataset without rows; the capacity is rounded up to a power of two."""
    capacity = 1 << max(capacity - 1, 0).bit_length()
    rows = (capacity,)
    return Dataset(
        x=np.zeros((capacity, spec.n)),
        u=np.zeros((capacity, spec.m)),
        y=np.zeros((capacity, spec.n)),
        reward=np.zeros(rows),
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        t=np.zeros(rows, np.int64),
        log_prob=np.zeros(rows),
        condition=np.zeros(rows, np.int64),
        episode=np.zeros(rows, np.int64),
        count=np.zeros((), np.int64),
    )


def append(data: Dataset, trajectory: Trajectory, episode: int) -> Dataset:
    """A new dataset with the trajectory's rows at the end, its capacity doubled as often as needed."""
    count, more = int(data.count), trajectory.length
    capacity = data.capacity
    while capacity < count + more:
        capacity *= 2

    def extended(old: np.ndarray, rows: np.ndarray) -> np.ndarray:
        out = np.zeros((capacity, *old.shape[1:]), old.dtype)
        out[:count] = old[:count]
        out[count : count + more] = rows
        return out

    columns = {
        name: extended(np.asarray(getattr(data, name)), np.asarray(getattr(trajectory, name)))
        for name in ("x", "u", "y", "reward", "terminated", "truncated", "t", "log_prob", "condition")
    }
    ids = extended(np.asarray(data.episode), np.full(more, episode))
    return Dataset(**columns, episode=ids, count=np.asarray(count + more, np.int64))


def latest(data: Dataset, k: int) -> list[Trajectory]:
    """The last k episodes, oldest first, each without padding."""
    count = int(data.count)
    ids = np.asarray(data.episode)[:count]
    wanted = np.unique(ids)[-k:]
    return [rows(data, np.flatnonzero(ids == i)) for i in wanted]


def rows(data: Dataset, index: np.ndarray) -> Trajectory:
    """The transitions at the given rows."""
    pick = {name: np.asarray(getattr(data, name))[index] for name in Trajectory.__dataclass_fields__}
    return Trajectory(**pick)
