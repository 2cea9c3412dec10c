"""Transitions of one episode as they come, and as a `Trajectory` when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from forethought.types import Trajectory


@dataclass(eq=False)
class Recorder:
    """Lists that grow by one per step."""

    x: np.ndarray
    """The observation [n] before the first step."""
    m: int
    """Dimension of the actions."""
    t: int
    """Step of the episode at which recording starts."""
    condition: int
    u: list[np.ndarray] = field(default_factory=list)
    y: list[np.ndarray] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)

    def add(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """Record one transition; the flags first and the reward last, so that an interrupt in here leaves at most a
        row that `trajectory`, which counts rewards, does not see."""
        self.u.append(u)
        self.y.append(y)
        self.terminated.append(terminated)
        self.truncated.append(truncated)
        self.reward.append(reward)

    def trajectory(self) -> Trajectory:
        """Everything so far: floats in float64, times and conditions in int64."""
        count = len(self.reward)
        n = self.x.shape[0]
        y = np.asarray(self.y[:count], np.float64).reshape(count, n)
        return Trajectory(
            x=np.concatenate([self.x[None], y])[:count].astype(np.float64),
            u=np.asarray(self.u[:count], np.float64).reshape(count, self.m),
            y=y,
            reward=np.asarray(self.reward[:count], np.float64),
            terminated=np.asarray(self.terminated[:count], bool),
            truncated=np.asarray(self.truncated[:count], bool),
            t=np.arange(self.t, self.t + count, dtype=np.int64),
            log_prob=np.zeros(count, np.float64),
            condition=np.full(count, self.condition, np.int64),
        )


def joined(trajectories: Sequence[Trajectory]) -> Trajectory | None:
    """All transitions one after another; None where there are no trajectories."""
    if not trajectories:
        return None
    return jax.tree.map(lambda *parts: np.concatenate(parts), *trajectories)
