"""A world with a witness, where the world itself works in whole pieces of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from forethought.core import AbstractPolicy, AbstractWitness, AbstractWorld
from forethought.types import Actions, Cursor, RandomKey, Spec, Trajectory


class Watched(AbstractWorld):
    """Shows a piece to the witness when it is done, row by row: for worlds in which nothing real is at stake.

    A world whose steps are real shows each of them itself, before the next action.
    """

    spec: Spec
    actions: Actions
    replayable: bool = eqx.field(static=True)
    world: AbstractWorld
    witness: AbstractWitness = eqx.field(static=True)

    def reset(self, key: RandomKey, condition: int | None = None) -> Cursor:
        """The world's reset.  Which condition it was is known from the first transition on."""
        return self.world.reset(key, condition)

    def collect(
        self, policy: AbstractPolicy, carry: Any, at: Cursor, key: RandomKey, steps: int
    ) -> tuple[Trajectory, Any, Cursor]:
        """The world's collect; what an error carries of a piece is shown too."""
        try:
            trajectory, carry, at = self.world.collect(policy, carry, at, key, steps)
        except BaseException as error:
            part = getattr(error, "trajectory", None)
            if isinstance(part, Trajectory):
                self._show(part)
            raise
        self._show(trajectory)
        return trajectory, carry, at

    def rollouts(
        self, policy: AbstractPolicy, key: RandomKey, conditions: Sequence[int], steps: int
    ) -> list[Trajectory]:
        """The world's rollouts."""
        episodes = self.world.rollouts(policy, key, conditions, steps)
        for episode in episodes:
            self._show(episode)
        return episodes

    def fresh(self) -> AbstractWorld:
        """A copy of the world that nobody watches."""
        return self.world.fresh()

    def watched(self, witness: AbstractWitness) -> Watched:
        """The world with another witness."""
        return watch(self.world, witness)

    def close(self) -> None:
        """Close the world."""
        self.world.close()

    def _show(self, trajectory: Trajectory) -> None:
        """Row by row, in order."""
        x, u, y = (np.asarray(v, np.float64) for v in (trajectory.x, trajectory.u, trajectory.y))
        rows = zip(u, y, trajectory.reward, trajectory.terminated, trajectory.truncated, strict=True)
        for i, (action, after, reward, terminated, truncated) in enumerate(rows):
            if int(trajectory.t[i]) == 0:
                self.witness.began(x[i], int(trajectory.condition[i]))
            self.witness.happened(action, after, float(reward), bool(terminated), bool(truncated))


def watch(world: AbstractWorld, witness: AbstractWitness) -> Watched:
    """The world, watched piece by piece."""
    return Watched(spec=world.spec, actions=world.actions, replayable=world.replayable, world=world, witness=witness)
