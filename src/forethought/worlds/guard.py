"""What an environment returns is checked on every transition, before anything is learned from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import Space, spaces

if TYPE_CHECKING:
    from forethought.types import Trajectory

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Beyond this a number becomes infinite in a network's float32."""

FIVE = "a tuple (observation, reward, terminated, truncated, info)"
"""What a step returns."""


@dataclass(frozen=True)
class Guard:
    """What a transition may be, and what is done with one that is not."""

    reward_bound: float = 1e9
    """Largest absolute reward."""
    observation_bound: float = 1e9
    """Largest absolute entry of an observation, where the space itself has no limits."""
    deadline: float = 60.0
    """Seconds that a step or a reset may take in a worker process; no other process can be stopped."""
    on_fault: Literal["stop", "go-on"] = "stop"
    """Whether a fault ends the run, or only its episode.  What was finished is kept in both cases."""
    most_faults: int = 10
    """Faults after which a run stops that goes on otherwise."""


class TransitionError(Exception):
    """An environment, or the policy that acts in it, returned something that is no transition.

    `environment`, `step` (from 0 in the episode; None: in reset), `field` and `value` say what, and `trajectory` holds
    the transitions that were finished before (None where there was no episode).
    """

    def __init__(self, environment: str, step: int | None, field: str, value: Any, wrong: str):
        super().__init__(environment, step, field, value, wrong)
        self.environment = environment
        self.step = step
        self.field = field
        self.value = value
        self.wrong = wrong
        self.trajectory: Trajectory | None = None

    def __str__(self) -> str:
        when = "in reset" if self.step is None else f"at step {self.step}"
        return f"{self.environment}, {when}: {self.field} {self.wrong}; it was {_short(self.value)}."


def check_reset(result: Any, space: Space, environment: str) -> None:
    """Raise `TransitionError` unless `result` is (observation, info) as Gymnasium's reset returns it."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TransitionError(environment, None, "result", result, "must be a tuple (observation, info)")
    check_observation(result[0], space, environment, None)
    if not isinstance(result[1], dict):
        raise TransitionError(environment, None, "info", result[1], "must be a dict")


def check_transition(result: Any, space: Space, environment: str, step: int) -> None:
    """Raise `TransitionError` unless `result` is (observation, reward, terminated, truncated, info) with a finite
    observation in the shape and dtype of the space, a finite real scalar reward, boolean flags and a dict."""
    if not isinstance(result, tuple) or len(result) != 5:
        raise TransitionError(environment, step, "result", result, f"must be {FIVE}")
    observation, reward, terminated, truncated, info = result
    check_observation(observation, space, environment, step)
    _check_reward(reward, environment, step)
    if not isinstance(terminated, (bool, np.bool_)):
        raise TransitionError(environment, step, "terminated", terminated, "must be True or False")
    if not isinstance(truncated, (bool, np.bool_)):
        raise TransitionError(environment, step, "truncated", truncated, "must be True or False")
    if not isinstance(info, dict):
        raise TransitionError(environment, step, "info", info, "must be a dict")


def check_observation(
    observation: Any, space: Space, environment: str, step: int | None, field: str = "observation"
) -> None:
    """Raise `TransitionError` unless the observation is one of the space: Dict and Tuple part by part, boxes by shape,
    dtype (castable without changing its kind) and finiteness in float32, other spaces by their own `contains`.

    The bounds of a box are not checked: environments commonly leave them by a rounding error.
    """
    if isinstance(space, spaces.Box):
        _check_box(observation, space, environment, step, field)
    elif isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            wrong = f"must be a dict with the keys {sorted(map(str, space.spaces))}"
            raise TransitionError(environment, step, field, observation, wrong)
        for name, part in space.spaces.items():
            check_observation(observation[name], part, environment, step, f"{field}[{name!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, (tuple, list)) or len(observation) != len(space.spaces):
            wrong = f"must be a tuple of {len(space.spaces)} parts"
            raise TransitionError(environment, step, field, observation, wrong)
        for i, part in enumerate(space.spaces):
            check_observation(observation[i], part, environment, step, f"{field}[{i}]")
    elif not space.contains(observation):
        raise TransitionError(environment, step, field, observation, f"must be an element of {space}")


def _check_box(observation: Any, space: spaces.Box, environment: str, step: int | None, field: str) -> None:
    """Shape, dtype and finiteness of one array."""
    array = observation if isinstance(observation, np.ndarray) else _as_array(observation)
    if array is None or array.dtype.kind not in "fiu":
        raise TransitionError(environment, step, field, observation, "must be an array of real numbers")
    if array.shape != space.shape:
        wrong = f"must have shape {space.shape} and has shape {array.shape}"
        raise TransitionError(environment, step, field, observation, wrong)
    if array.dtype is not space.dtype and not np.can_cast(array.dtype, space.dtype, "same_kind"):
        wrong = f"must be of dtype {space.dtype} and is of dtype {array.dtype}"
        raise TransitionError(environment, step, field, observation, wrong)
    # One comparison finds NaN, infinities and what would become infinite in float32.
    if not (np.abs(array) <= FLOAT32_MAX).all():
        raise TransitionError(environment, step, field, observation, "must be finite (in float32)")


def _check_reward(reward: Any, environment: str, step: int) -> None:
    """A finite real number, as a Python or NumPy scalar or an array without dimensions; no bool."""
    if type(reward) is float and math.isfinite(reward):
        return
    array = None if isinstance(reward, bool) else _as_array(reward)
    if array is None or array.shape != () or array.dtype.kind not in "fiu":
        raise TransitionError(environment, step, "reward", reward, "must be one real number")
    if not abs(float(array)) <= FLOAT32_MAX:
        raise TransitionError(environment, step, "reward", reward, "must be finite (in float32)")


def _as_array(value: Any) -> np.ndarray | None:
    """The value as an array, or None where NumPy cannot make one."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _short(value: Any) -> str:
    """The value in at most 120 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."
