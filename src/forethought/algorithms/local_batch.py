"""The rollouts of one iteration, as arrays: conditions, then rollouts, then time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from forethought.math.angles import wrap_observation
from forethought.types import Array, Box, Dataset


class Batch(NamedTuple):
    """N rollouts from each of c conditions, padded: where an episode has ended its last state stays and weighs 0."""

    x: Float[Array, "c N T+1 n"]
    """Angles run on without a jump through an episode, so that straight lines can be fitted to them."""
    u: Float[Array, "c N T m"]
    weight: Float[Array, "c N T"]
    """1 where a transition was executed."""
    cost: Float[Array, "c N"]
    """-return of each rollout."""

    @property
    def whole(self) -> np.ndarray:
        """[c]: whether each condition has a rollout at all."""
        return np.asarray(np.any(np.asarray(self.weight), axis=(1, 2)))


def batch_of(
    data: Dataset, first: int, conditions: Sequence[int], rollouts: int, horizon: int, angles: Sequence[int]
) -> Batch:
    """The last `rollouts` episodes of each condition, of those numbered from `first` on."""
    count = int(data.count)
    episode, condition = np.asarray(data.episode)[:count], np.asarray(data.condition)[:count]
    n, m, c = data.x.shape[1], data.u.shape[1], len(conditions)
    x, u = np.zeros((c, rollouts, horizon + 1, n)), np.zeros((c, rollouts, horizon, m))
    weight, cost = np.zeros((c, rollouts, horizon)), np.zeros((c, rollouts))
    for i, seed in enumerate(conditions):
        numbers = np.unique(episode[(episode >= first) & (condition == seed)])[-rollouts:]
        for j, number in enumerate(numbers):
            rows = np.flatnonzero(episode == number)[:horizon]
            T = len(rows)
            states = np.concatenate([np.asarray(data.x)[rows], np.asarray(data.y)[rows[-1:]]])
            x[i, j, : T + 1], x[i, j, T + 1 :] = states, states[-1]
            u[i, j, :T], weight[i, j, :T] = np.asarray(data.u)[rows], 1.0
            cost[i, j] = -float(np.sum(np.asarray(data.reward)[rows]))
        x[i, len(numbers) :] = x[i, :1]
        _run_on(x[i], angles)
    return Batch(x, u, weight, cost)


def _run_on(x: np.ndarray, angles: Sequence[int]) -> None:
    """Angles [N T+1 n] without jumps in time, and all rollouts in the same turn at their start."""
    for angle in angles:
        x[:, :, angle] = np.unwrap(x[:, :, angle], axis=1)
        turns = np.round((x[:, 0, angle] - x[0, 0, angle]) / (2.0 * np.pi))
        x[:, :, angle] -= 2.0 * np.pi * turns[:, None]


def nearest_turn(xs: np.ndarray, reference: np.ndarray, angles: Sequence[int]) -> np.ndarray:
    """States [... n] with their angles in the turn that is nearest to the reference's."""
    off = (xs - reference).reshape(-1, xs.shape[-1])
    return reference + np.stack([wrap_observation(row, angles) for row in off]).reshape(xs.shape)


def newest(data: Dataset, episodes: int) -> Dataset:
    """The rows of the last so many episodes, in arrays of the same capacity."""
    count = int(data.count)
    numbers = np.unique(np.asarray(data.episode)[:count])
    if len(numbers) <= episodes:
        return data
    first = int(np.argmax(np.asarray(data.episode)[:count] >= numbers[-episodes]))
    kept = np.arange(count - first) + first

    def moved(rows: Array) -> Array:
        out = np.zeros_like(np.asarray(rows))
        out[: len(kept)] = np.asarray(rows)[kept]
        return out

    parts = {f.name: moved(getattr(data, f.name)) for f in dataclasses.fields(data) if f.name != "count"}
    return Dataset(**parts, count=np.asarray(len(kept), np.asarray(data.count).dtype))


def clip_rate(batch: Batch, actions: Box) -> float:
    """Share of the executed controls that were at a limit."""
    u, real = np.asarray(batch.u), np.asarray(batch.weight)[..., None] > 0.0
    low, high = np.asarray(actions.low, np.float64), np.asarray(actions.high, np.float64)
    at = (u <= low + 1e-6 * (high - low)) | (u >= high - 1e-6 * (high - low))
    return float(np.sum(at & real) / max(np.sum(real) * u.shape[-1], 1))
