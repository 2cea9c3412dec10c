"""How a Gymnasium environment is made, and the wrapper that checks all it returns.

Nothing here needs jax: worker processes import this and little else.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.utils import flatten_space
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeLimit

from forethought.errors import UserError
from forethought.worlds import registered as registered  # makes our own ids known
from forethought.worlds.guard import FIVE, Checker, Guard, Say, TransitionError


@dataclass(eq=False)
class Source:
    """How an environment is made, again and again."""

    id: str
    """As the user wrote it: a Gymnasium id or module:id."""
    kwargs: Mapping[str, Any]
    limit: int | None
    """Environment steps after which an episode is truncated; None: as registered."""
    action_repeat: int
    history: int
    guard: Guard = field(default_factory=Guard)
    resets: Sequence[Mapping[str, Any]] = ()
    """Reset options of the first reset seeds: seed i comes with resets[i], and any other seed without options."""

    def options(self, seed: int) -> dict[str, Any] | None:
        """The options that go to the environment's reset with this seed."""
        return dict(self.resets[seed]) if seed < len(self.resets) else None

    def make(self) -> gymnasium.Env:
        """A new instance: checked, its actions repeated, its observations flat and stacked.

        The guard sits innermost, so that it sees what the environment itself returned.  Raises `UserError` where
        Gymnasium cannot make it, whatever the reason, and for observations that are no vectors.
        """
        env = self.bare()
        refuse_observation(env.observation_space, self.id)
        env = Guarded(env, self.id, self.action_repeat, self.guard)
        if not _flat(env.observation_space):
            env = FlattenObservation(env)
        if self.history > 1:
            env = FlattenObservation(FrameStackObservation(env, self.history))
        return env

    def bare(self) -> gymnasium.Env:
        """A new instance as Gymnasium makes it, with its time limit.

        Raises `UserError` where Gymnasium cannot make it, whatever the reason, or it has no spaces.
        """
        try:
            # Our guard says more than Gymnasium's checker, and is ten times faster.
            env = gymnasium.make(self.id, max_episode_steps=self.limit, disable_env_checker=True, **dict(self.kwargs))
        except Exception as error:
            given = f" with {dict(self.kwargs)}" if self.kwargs else ""
            raise UserError(f"Gymnasium cannot make {self.id}{given}: {_line(error)}.") from error
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), spaces.Space):
                raise UserError(
                    f"{self.id} has no {name}; its __init__ must set self.{name} to one of Gymnasium's spaces, such "
                    "as gymnasium.spaces.Box."
                )
        return env


class Guarded(gymnasium.Wrapper):
    """Checks every transition, and repeats each action `repeat` times with the rewards summed.

    What is no fault but should be known goes to `say` as a sentence; None: it becomes a warning.
    """

    def __init__(self, env: gymnasium.Env, name: str, repeat: int, guard: Guard | None = None, say: Say | None = None):
        super().__init__(env)
        self.name = name
        self.repeat = repeat
        self.steps = 0
        self.checker = Checker(env.observation_space, name, guard, say)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's reset; `TransitionError` if it fails or returns something else."""
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise TransitionError(self.name, None, "reset", error, "raised an exception") from error
        self.checker.reset(result)
        self.steps = 0
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step, `repeat` times or until the episode ends; `TransitionError` if one fails."""
        total = 0.0
        for _ in range(self.repeat):
            try:
                result = self.env.step(action)
            except Exception as error:
                part, wrong = _blame(error)
                raise TransitionError(self.name, self.steps, part, error, wrong) from error
            self.checker.transition(result, self.steps)
            self.steps += 1
            y, reward, terminated, truncated, info = result
            total += float(reward)
            if terminated or truncated:
                break
        return y, total, terminated, truncated, info


def executed(space: spaces.Space, u: np.ndarray, name: str, t: int) -> tuple[np.ndarray, Any]:
    """The action as it is recorded (float64 [m]) and as the environment takes it.

    Raises `TransitionError` for an action that is not finite or of the wrong size: it never reaches the environment.
    """
    m = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
    if u.shape != (m,) or not np.isfinite(u).all():
        raise TransitionError(name, t, "action", u, f"must be {m} finite numbers, and came from the policy")
    if isinstance(space, spaces.Discrete):
        index = int(u.argmax())
        return np.eye(m)[index], int(space.start) + index
    assert isinstance(space, spaces.Box)
    u = u.reshape(space.shape)
    whole = space.dtype.kind in "iu"
    native = np.clip(np.rint(u) if whole else u.astype(space.dtype), space.low, space.high).astype(space.dtype)
    return native.astype(np.float64).reshape(-1), native


def find(id: str, others: Sequence[str] = ()) -> EnvSpec:
    """What Gymnasium has registered for an id or module:id; the module is imported for it.

    Raises `UserError` for what does not exist; the sentence names the nearest of Gymnasium's ids and of `others`.
    """
    module, _, name = id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise UserError(
                f"The module {module} of {id} cannot be imported ({_line(error)}); it must be a module on Python's "
                "path whose import registers the environment."
            ) from error
    try:
        return gymnasium.spec(name)
    except Exception as error:
        names = {str(known).lower(): str(known) for known in (*others, *gymnasium.registry)}
        near = [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3)]
        hint = f" The nearest names are {', '.join(near)}." if near else ""
        raise UserError(f"There is no task or environment {name} ({_line(error)}).{hint}") from error


def refuse_observation(space: spaces.Space, name: str) -> None:
    """Raise `UserError` unless the observation space is a Box, or a Dict or Tuple that flattens to one, no image."""
    flat = flatten_space(space) if isinstance(space, (spaces.Dict, spaces.Tuple)) else space
    if not isinstance(flat, spaces.Box) or flat.shape == (0,):
        raise UserError(
            f"{name} has observations in {space}; allowed are Box, and Dict and Tuple of boxes and finite sets."
        )
    parts: list[spaces.Space] = [space]
    while parts:
        part = parts.pop()
        if isinstance(part, spaces.Dict):
            parts.extend(part.spaces.values())
        elif isinstance(part, spaces.Tuple):
            parts.extend(part.spaces)
        elif isinstance(part, spaces.Box) and _image(part):
            raise UserError(
                f"{name} observes images (a box of shape {part.shape} and dtype {part.dtype}); allowed are vectors of "
                "numbers that describe the state."
            )


def _image(space: spaces.Box) -> bool:
    """Bytes in two or more dimensions, or any [rows, columns, channels] with at least 16 rows and columns."""
    shape = space.shape
    if space.dtype == np.uint8 and len(shape) >= 2:
        return True
    if len(shape) != 3:
        return False
    channels_last = shape[2] in (1, 3, 4) and min(shape[:2]) >= 16
    return channels_last or (shape[0] in (1, 3, 4) and min(shape[1:]) >= 16)


def _flat(space: spaces.Space) -> bool:
    """Whether the observations are vectors as they come."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def clock(env: gymnasium.Env) -> int | None:
    """The smallest time limit among the environment's wrappers, or what its specification says."""
    limits: list[int] = []
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TimeLimit):
            limits.append(int(layer._max_episode_steps))
        layer = layer.env
    if not limits and env.spec is not None and env.spec.max_episode_steps is not None:
        limits.append(int(env.spec.max_episode_steps))
    return min(limits, default=None)


def _blame(error: Exception) -> tuple[str, str]:
    """What was wrong with a step that raised: its result, if one of Gymnasium's wrappers could not unpack it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = "" if frame is None else frame.tb_frame.f_globals.get("__name__", "")
    if isinstance(error, (TypeError, ValueError)) and module.startswith("gymnasium.wrappers"):
        return "result", f"must be {FIVE}"
    return "step", "raised an exception"


def _line(error: BaseException) -> str:
    """An exception in one line, without a full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
