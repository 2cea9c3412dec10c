"""Small recipes, for tests of runs: what is learned does not matter there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import gymnasium
import numpy as np

from forethought import ICEM, V15, EnsembleLearner, Experiment, Imagination
from forethought.cli import main

TINY = [
    *("--planner.samples", "8", "--planner.elites", "4", "--planner.iterations", "1"),
    *("--model", "ensemble", "--model.gradient-steps", "10", "--model.width", "8", "--model.members", "2"),
    *("--planner.imagination.particles", "2"),
]
"""Flags that make every planner and model small."""
PACE = ["--algorithm.horizon", "3", "--algorithm.base-steps", "10", "--algorithm.refit-every", "10"]
"""Flags of v1.5 that give one turn per episode of ten steps."""


class Answer(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def call(capsys: Any, *words: str | Path) -> Answer:
    """The command line in this process, whose compilation cache it leaves alone."""
    capsys.readouterr()
    with patch.dict(os.environ, {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", "unused")}):
        status = main([str(w) for w in words])
    said = capsys.readouterr()
    return Answer(status, said.out, said.err)


def recipe(**settings: Any) -> Experiment:
    """An experiment of which every part is small, with one turn per episode of ten steps."""
    planner = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
    learner = EnsembleLearner(members=2, width=8, gradient_steps=10)
    algorithm = V15(planner, learner, base_steps=10, refit_every=10, horizon=3)
    return Experiment(**{"task": "pendulum", "algorithm": algorithm, "steps": 30, "limit": 10} | settings)


class Fragile(gymnasium.Env):
    """A point that moves, and an environment in which something happens at a certain step of the process."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    taken: ClassVar[int] = 0
    """Steps over all instances."""
    fault: ClassVar[tuple[int, Any] | None] = None
    """(step, what is raised, or the observation that is returned)."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action: Any) -> Any:
        Fragile.taken += 1
        self.x = (0.9 * self.x + 0.1 * action).astype(np.float32)
        if Fragile.fault is not None and Fragile.fault[0] == Fragile.taken:
            what = Fragile.fault[1]
            if isinstance(what, BaseException):
                raise what
            return what, 0.0, False, False, {}
        return self.x.copy(), -float(self.x @ self.x), False, False, {}

    @staticmethod
    def plan_fault(step: int | None, what: Any = None) -> None:
        """Let something happen at this step, counted from now."""
        Fragile.taken = 0
        Fragile.fault = None if step is None else (step, what)


if "tests/Fragile-v0" not in gymnasium.registry:
    gymnasium.register("tests/Fragile-v0", entry_point=Fragile, max_episode_steps=10)
