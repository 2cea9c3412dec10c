"""The controller of a run, for a user's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium
import jax.random as jr
import numpy as np
from gymnasium import spaces

from forethought.core import AbstractPolicy, Task
from forethought.math.act import act, start
from forethought.math.angles import wrap_observation
from forethought.planners.mpc import MPC, PlanOnce
from forethought.runs.experiment import Experiment, Named, open_run
from forethought.runs.precision import in_64_bit
from forethought.worlds.guard import TransitionError, check_observation
from forethought.worlds.gym import GymWorld
from forethought.worlds.source import Guarded, executed


class ControlError(Exception):
    """There is no action to trust: `safe_action` is what to do instead, in the environment's own form."""

    def __init__(self, sentence: str, safe_action: Any):
        super().__init__(sentence)
        self.safe_action = safe_action


class LoadedPolicy:
    """A trained controller for a user's own loop: `reset()` before each episode, then `act(observation)`.

    It is not an Equinox module: it remembers the episode it is in.
    """

    def __init__(self, task: Task, policy: AbstractPolicy):
        self.task = task
        self.policy = policy
        self._view = _View(task)
        self.reset()

    @in_64_bit
    def reset(self, seed: int = 0) -> None:
        """Forget the episode; the next `act` begins a new one."""
        self._key = jr.key(seed)
        self._carry: Any = None
        self._frames: list[np.ndarray] = []
        self._t = 0
        self._failures = 0

    @in_64_bit
    def act(self, observation: Any) -> Any:
        """The action for an observation as the environment gives it, in the form in which it takes one (an int for
        Discrete).  Raises `ControlError` if the observation is not one of the environment, or no plan of finite cost
        was found."""
        try:
            frame = self._view.vector(observation, self._t)
        except TransitionError as error:
            raise ControlError(f"{error} No action is given for it.", self.safe_action) from error
        history = self._view.history
        frames = [*(self._frames or [frame] * history), frame][-history:]
        x = wrap_observation(np.concatenate(frames), self.task.spec.angles)
        carry = start(self.policy, x.astype(np.float32), self._key) if self._carry is None else self._carry
        u, carry = act(self.policy, carry, x.astype(np.float32), np.asarray(self._t, np.int32))
        # A failed plan is not taken over: the episode stands where it stood, and the next observation may be better.
        failures = int(getattr(carry, "failures", 0))
        if failures > self._failures or not np.isfinite(np.asarray(u)).all():
            # What the policy gives then is the safe action that it was configured with.
            sentence = f"{self.task.name}, step {self._t}: no plan of finite cost was found."
            usable = np.isfinite(np.asarray(u)).all()
            raise ControlError(sentence, self._view.native(np.asarray(u), self._t) if usable else self.safe_action)
        self._frames, self._carry = frames, carry
        self._t += 1
        return self._view.native(np.asarray(u), self._t - 1)

    @property
    @in_64_bit
    def safe_action(self) -> Any:
        """What to do now when nothing better is known, in the environment's own form: what the policy was configured
        with (zero, hold, or another policy), or zero."""
        u = np.asarray(self.task.world.actions.safe())
        if self._carry is not None and isinstance(self.policy, (MPC, PlanOnce)):
            nothing = np.full(self.task.spec.n, np.nan, np.float32)
            asked = np.asarray(act(self.policy, self._carry, nothing, np.asarray(self._t, np.int32))[0])
            u = asked if np.isfinite(asked).all() else u
        return self._view.native(u, self._t)


class _View:
    """Between the environment's own observations and actions and the library's vectors."""

    def __init__(self, task: Task):
        self.task = task
        world = task.world
        self.gym = isinstance(world, GymWorld)
        self.history = world.source.history if isinstance(world, GymWorld) else 1
        if isinstance(world, GymWorld):
            layer: Any = world.env
            while not isinstance(layer, Guarded):
                layer = layer.env
            self.observations: gymnasium.Space = layer.env.observation_space
            self.actions: gymnasium.Space = layer.env.action_space
        else:
            self.observations = spaces.Box(-np.inf, np.inf, (world.spec.n,), np.float64)

    def vector(self, observation: Any, t: int) -> np.ndarray:
        """One observation as float64.  Raises `TransitionError` if it is not of the space."""
        check_observation(observation, self.observations, self.task.name, t)
        return np.asarray(spaces.flatten(self.observations, observation), np.float64).reshape(-1)

    def native(self, u: np.ndarray, t: int) -> np.ndarray | int:
        """An action as the environment takes it."""
        if not self.gym:
            return u.astype(np.float32)
        return executed(self.actions, u, self.task.name, t)[1]


@in_64_bit
def load(
    path: str | Path,
    task: str | Task | None = None,
    experiment: Experiment | None = None,
    *,
    env: dict[str, Any] | None = None,
    which: Literal["newest", "best"] = "newest",
    strict: bool = False,
) -> LoadedPolicy:
    """The controller of a run: of its newest valid checkpoint, or of the one with the best training returns.

    Nothing that a file names is imported or opened: a task given as module:id, classes of your own, and files of an
    environment are named again as `task`, `experiment` and `env`.  Raises `UserError` if the run cannot be read, or, if
    `strict`, if anything in it is damaged.
    """
    run = open_run(Path(path), Named(task, experiment, None, env), which=which, strict=strict)
    return LoadedPolicy(run.task, run.algorithm.policy(run.task, run.state))
