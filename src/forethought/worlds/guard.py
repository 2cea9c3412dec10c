"""What an environment returns is checked on every transition, before anything is learned from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
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

FIELD = "observation"
"""What an observation is called in a sentence; its parts are observation['a'] and observation[0]."""

Say = Callable[[str], None]
"""Where a sentence goes that is no error."""

Where = tuple[str, int | None]
"""Environment, and step of the episode; None: in reset."""


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
        return f"{self.environment}, {_when(self.step)}: {self.field} {self.wrong}; it was {_short(self.value)}."


class Checker:
    """Checks everything that one environment instance returns, in order: what an episode leaves behind is compared
    with what comes next.

    An observation must have the shape of its space, be finite, be not far outside its box, and be of its dtype or fit
    into it without loss; the latter is said once, through `say`.  An array that was returned may not change after.
    A slight excess over the limits of a box is common (rounding) and passes: allowed are values outside by at most
    the width of the box, or, beyond a limit that has no counterpart, by 10 max(1, |limit|).
    """

    def __init__(self, space: Space, environment: str, guard: Guard | None = None, say: Say | None = None):
        self.space = space
        self.environment = environment
        self.guard = Guard() if guard is None else guard
        self.say = _warn if say is None else say
        self._most = min(self.guard.reward_bound, FLOAT32_MAX)
        self._boxes = {field: _Limits(box, self.guard.observation_bound) for field, box in _boxes(space, FIELD)}
        self._only = self._boxes.get(FIELD)
        self._returned: list[tuple[str, np.ndarray, bytes]] = []
        self._said = False

    def reset(self, result: Any) -> None:
        """Raise `TransitionError` unless `result` is (observation, info) as Gymnasium's reset returns it."""
        self._unchanged(None)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TransitionError(self.environment, None, "result", result, "must be a tuple (observation, info)")
        self._observation(result[0], None)
        if not isinstance(result[1], dict):
            raise TransitionError(self.environment, None, "info", result[1], "must be a dict")

    def transition(self, result: Any, step: int) -> None:
        """Raise `TransitionError` unless `result` is (observation, reward, terminated, truncated, info): a proper
        observation, one real number within the bound, two truth values and a dict."""
        self._unchanged(step)
        if not isinstance(result, tuple) or len(result) != 5:
            raise TransitionError(self.environment, step, "result", result, f"must be {FIVE}")
        observation, reward, terminated, truncated, info = result
        self._observation(observation, step)
        if not (isinstance(reward, float) and -self._most <= reward <= self._most):
            self._reward(reward, step)
        if not isinstance(terminated, (bool, np.bool_)):
            raise TransitionError(self.environment, step, "terminated", terminated, "must be True or False")
        if not isinstance(truncated, (bool, np.bool_)):
            raise TransitionError(self.environment, step, "truncated", truncated, "must be True or False")
        if not isinstance(info, dict):
            raise TransitionError(self.environment, step, "info", info, "must be a dict")

    def _observation(self, observation: Any, step: int | None) -> None:
        """Check an observation, and remember its arrays."""
        if self._only is not None and self._only.fit(observation):
            self._returned = [(FIELD, observation, observation.tobytes())]
            return
        parts = []
        for field, part, space in _parts(observation, self.space, (self.environment, step), FIELD):
            if isinstance(space, spaces.Box) and not self._boxes[field].fit(part):
                self._cast(field, part, self._boxes[field], step)
            if isinstance(part, np.ndarray):
                parts.append((field, part, part.tobytes()))
        self._returned = parts

    def _cast(self, field: str, observation: Any, limits: _Limits, step: int | None) -> None:
        """What is no array of the right dtype: pass what can be cast without loss, and say so once."""
        array = limits.require(observation, (self.environment, step), field)
        wanted = limits.space.dtype
        if array.dtype == wanted:
            return
        # The numbers of a list have no dtype that anybody chose.
        chosen = hasattr(observation, "dtype") or wanted.kind != "f"
        if chosen and not _lossless(array, wanted):
            wrong = f"must be of dtype {wanted} and is of dtype {array.dtype}, with values that {wanted} cannot hold"
            mend = f": return it as .astype(np.{wanted}), or declare {array.dtype} in observation_space"
            raise TransitionError(self.environment, step, field, observation, wrong + mend)
        if self._said:
            return
        self._said = True
        given = f"of dtype {array.dtype}" if hasattr(observation, "dtype") else f"a {type(observation).__name__}"
        self.say(
            f"{self.environment}, {_when(step)}: {field} is {given}, and its space says {wanted}. Its values can be "
            f"kept, so this is said once. Return it as np.{wanted}, or declare another dtype in observation_space."
        )

    def _unchanged(self, step: int | None) -> None:
        """Raise `TransitionError` if an array that was returned before holds other numbers now."""
        for field, array, was in self._returned:
            if array.tobytes() != was:
                self._returned = []
                wrong = "was changed in place after it had been returned: return a copy of it, .copy()"
                raise TransitionError(self.environment, step, field, array, wrong)

    def _reward(self, reward: Any, step: int) -> None:
        """A finite real number within the bound, as a scalar or an array without dimensions; no bool."""
        array = None if isinstance(reward, bool) else _as_array(reward)
        if array is None or array.shape != () or array.dtype.kind not in "fiu":
            wrong = "must be one real number: return float(reward)"
            raise TransitionError(self.environment, step, "reward", reward, wrong)
        size = abs(float(array))
        if not size <= FLOAT32_MAX:
            raise TransitionError(self.environment, step, "reward", reward, "must be finite (in float32)")
        if size > self._most:
            wrong = f"must be within {self._most:g} of zero (--guard.reward-bound changes that bound)"
            raise TransitionError(self.environment, step, "reward", reward, wrong)


class _Limits:
    """One box: how far an observation may be out of it, worked out once."""

    def __init__(self, space: spaces.Box, bound: float):
        self.space = space
        self.low, self.high = _outermost(space, min(bound, FLOAT32_MAX))

    def fit(self, value: Any) -> bool:
        """Whether it is an array of the right dtype and shape with every number inside; the usual case, fast.

        NaN is inside nothing.
        """
        return (
            type(value) is np.ndarray
            and value.dtype == self.space.dtype
            and value.shape == self.space.shape
            and bool(((value >= self.low) & (value <= self.high)).all())
        )

    def require(self, value: Any, where: Where, field: str) -> np.ndarray:
        """The value as an array of some dtype.  Raises `TransitionError` with what is wrong with it."""
        array = _as_array(value)
        if array is None or array.dtype.kind not in "fiu":
            raise TransitionError(*where, field, value, "must be an array of real numbers")
        if array.shape != self.space.shape:
            wrong = f"must have shape {self.space.shape}, as observation_space says, and has shape {array.shape}"
            raise TransitionError(*where, field, value, wrong)
        # One comparison finds NaN, infinities and what would become infinite in float32.
        if not (np.abs(array.astype(np.float64)) <= FLOAT32_MAX).all():
            raise TransitionError(*where, field, value, "must be finite (in float32)")
        outside = (array < self.low) | (array > self.high)
        if outside.any():
            i = tuple(int(k) for k in np.argwhere(outside)[0])
            low, high = float(self.space.low[i]), float(self.space.high[i])
            place, number = ", ".join(map(str, i)), float(array[i])
            wrong = f"is far out of bounds: component {place} is {number:g}, and its limits are {low:g} and {high:g}"
            if _limitless(low) and _limitless(high):
                wrong = f"must be within {self.high[i]:g} of zero (--guard.observation-bound changes that bound)"
                wrong += f": component {place} is {number:g}"
            raise TransitionError(*where, field, value, wrong)
        return array


def check_observation(observation: Any, space: Space, environment: str, step: int | None, field: str = FIELD) -> None:
    """Raise `TransitionError` unless the observation can be taken for one of the space: Dict and Tuple part by part,
    boxes by shape, finiteness in float32 and distance from their limits, other spaces by their own `contains`.

    For observations that come from elsewhere than an environment of ours: any real dtype will do, except floats for
    whole numbers.
    """
    where, bound = (environment, step), Guard().observation_bound
    for name, part, inner in _parts(observation, space, where, field):
        if isinstance(inner, spaces.Box):
            array = _Limits(inner, bound).require(part, where, name)
            if not np.can_cast(array.dtype, inner.dtype, "same_kind"):
                wrong = f"must be of dtype {inner.dtype} and is of dtype {array.dtype}"
                raise TransitionError(*where, name, part, wrong)


def _parts(observation: Any, space: Space, where: Where, field: str) -> Iterator[tuple[str, Any, Space]]:
    """(field, part, its space) of every box and other simple space; raises where the structure is not the space's."""
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            wrong = f"must be a dict with the keys {sorted(map(str, space.spaces))}"
            raise TransitionError(*where, field, observation, wrong)
        for name, part in space.spaces.items():
            yield from _parts(observation[name], part, where, f"{field}[{name!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, (tuple, list)) or len(observation) != len(space.spaces):
            raise TransitionError(*where, field, observation, f"must be a tuple of {len(space.spaces)} parts")
        for i, part in enumerate(space.spaces):
            yield from _parts(observation[i], part, where, f"{field}[{i}]")
    elif isinstance(space, spaces.Box) or space.contains(observation):
        yield field, observation, space
    else:
        raise TransitionError(*where, field, observation, f"must be an element of {space}")


def _boxes(space: Space, field: str) -> Iterator[tuple[str, spaces.Box]]:
    """Every box of a space, by the names that `_parts` gives."""
    if isinstance(space, spaces.Box):
        yield field, space
    elif isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from _boxes(part, f"{field}[{name!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _boxes(part, f"{field}[{i}]")


def _outermost(space: spaces.Box, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value that is not far out of bounds, per component.  Finite: infinity is outside."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    no_low, no_high = _limitless(low), _limitless(high)
    low, high = np.where(no_low, 0.0, low), np.where(no_high, 0.0, high)
    width = high - low
    boxed = ~no_low & ~no_high & (width > 0.0)
    below = np.where(boxed, width, 10.0 * np.maximum(1.0, np.abs(low)))
    above = np.where(boxed, width, 10.0 * np.maximum(1.0, np.abs(high)))
    # On the side without a limit the bound counts, from the limit on the other side if there is one.
    least = np.where(no_low, high - bound, low - below)
    most = np.where(no_high, low + bound, high + above)
    least, most = np.clip(least, -FLOAT32_MAX, FLOAT32_MAX), np.clip(most, -FLOAT32_MAX, FLOAT32_MAX)
    kind = space.dtype if space.dtype in (np.float32, np.float64) else np.float64  # the same dtype compares faster
    return np.asarray(least, kind), np.asarray(most, kind)


def _limitless(limit: Any) -> Any:
    """Whether a limit is none: infinite, or the largest float, which is commonly written for it."""
    return ~(np.abs(limit) < FLOAT32_MAX)


def _lossless(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether every number is the same after a cast there and back."""
    with np.errstate(all="ignore"):
        return bool((array.astype(dtype).astype(array.dtype) == array).all())


def _as_array(value: Any) -> np.ndarray | None:
    """The value as an array, or None where NumPy cannot make one, for whatever reason."""
    try:
        return np.asarray(value)
    except Exception:
        return None


def _when(step: int | None) -> str:
    return "in reset" if step is None else f"at step {step}"


def _short(value: Any) -> str:
    """The value in at most 120 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"an object of {type(value).__name__} that cannot be shown"
    return text if len(text) <= 120 else text[:117] + "..."


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)
