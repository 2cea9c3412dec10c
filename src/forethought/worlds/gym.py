"""Any Gymnasium environment with box or discrete actions and a box observation."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.utils import flatten_space
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeLimit

from forethought.core import AbstractPolicy, AbstractWorld
from forethought.math.act import act, start
from forethought.types import Actions, Box, Choices, Cursor, RandomKey, Spec, Trajectory, UserError
from forethought.worlds.guard import FIVE, TransitionError, check_reset, check_transition
from forethought.worlds.recorder import Recorder, joined


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

    def make(self) -> gymnasium.Env:
        """A new instance: checked, its actions repeated, its observations flat and stacked.

        The guard sits innermost, so that it sees what the environment itself returned.  Raises `UserError` where
        Gymnasium cannot make it, whatever the reason.
        """
        try:
            # Our guard says more than Gymnasium's checker, and is ten times faster.
            env = gymnasium.make(self.id, max_episode_steps=self.limit, disable_env_checker=True, **dict(self.kwargs))
        except Exception as error:
            given = f" with {dict(self.kwargs)}" if self.kwargs else ""
            raise UserError(f"Gymnasium cannot make {self.id}{given}: {_line(error)}.") from error
        refuse_observation(env.observation_space, self.id)
        env = Guarded(env, self.id, self.action_repeat)
        if not _flat(env.observation_space):
            env = FlattenObservation(env)
        if self.history > 1:
            env = FlattenObservation(FrameStackObservation(env, self.history))
        return env


class Guarded(gymnasium.Wrapper):
    """Checks every transition, and repeats each action `repeat` times with the rewards summed."""

    def __init__(self, env: gymnasium.Env, name: str, repeat: int):
        super().__init__(env)
        self.name = name
        self.repeat = repeat
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's reset; `TransitionError` if it fails or returns something else."""
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise TransitionError(self.name, None, "reset", error, "raised an exception") from error
        check_reset(result, self.env.observation_space, self.name)
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
            check_transition(result, self.env.observation_space, self.name, self.steps)
            self.steps += 1
            y, reward, terminated, truncated, info = result
            total += float(reward)
            if terminated or truncated:
                break
        return y, total, terminated, truncated, info


@dataclass(eq=False)
class Live:
    """The one mutable thing: an environment instance, made when it is needed, and where its episode stands."""

    env: gymnasium.Env | None = None
    x: np.ndarray = field(default_factory=lambda: np.zeros(0))
    t: int = 0
    condition: int = 0
    done: bool = True

    def cursor(self) -> Cursor:
        """Where the episode stands."""
        return Cursor(x=self.x, t=np.asarray(self.t, np.int64), done=np.asarray(self.done))


class GymWorld(AbstractWorld):
    """A Gymnasium environment.  Make one with `gym_world`.

    Its random numbers come from the reset seed alone (an environment owns its generator), so `collect` does not use
    its key.  The environment's state cannot be seen or set: an episode can only be continued where it stands.
    Actions of a box are clipped to it, in the dtype of the space, and recorded as executed; of one-hot actions the
    largest entry counts.  Transitions are float64.
    """

    spec: Spec
    actions: Actions
    limit: int = eqx.field(static=True)
    """Steps (decisions, where actions are repeated) after which an episode is truncated."""
    source: Source = eqx.field(static=True)
    live: Live = eqx.field(static=True)

    @property
    def env(self) -> gymnasium.Env:
        """The environment instance behind this world."""
        if self.live.env is None:
            self.live.env = self.source.make()
        return self.live.env

    def reset(self, key: RandomKey, condition: int | None = None) -> Cursor:
        """Start an episode with reset seed `condition` (>= 0), or with one drawn from the key in [0, 2^31).

        Raises `TransitionError` if the environment's reset fails or returns no proper observation.
        """
        if condition is None:
            condition = int(jr.bits(key, (), jnp.uint32)) >> 1
        if condition < 0:
            raise UserError(f"The reset seed of {self.source.id} was {condition}; it must be 0 or larger.")
        live = self.live
        live.done = True  # A reset that fails leaves no open episode.
        observation, _ = self.env.reset(seed=int(condition))
        live.x = np.array(observation, np.float64)
        live.t, live.condition, live.done = 0, int(condition), False
        return live.cursor()

    def collect(
        self, policy: AbstractPolicy, carry: Any, at: Cursor, key: RandomKey, steps: int
    ) -> tuple[Trajectory, Any, Cursor]:
        """Run the policy for at most `steps` steps from `at`, which must be where the environment stands.

        Raises `RuntimeError` for another cursor, and `TransitionError` for a transition that is none.  That, and an
        interrupt from the keyboard, carries the finished transitions as its attribute `trajectory`; the episode is
        closed then, and the next collection needs a reset.
        """
        del key
        live, env, name = self._standing(at), self.env, self.source.id
        space = env.action_space
        record = Recorder(live.x, self.spec.m, live.t, live.condition)
        try:
            while len(record.reward) < steps and not live.done:
                # NumPy goes into the compiled call directly: a device array first would double the overhead.
                u, carry = act(policy, carry, live.x.astype(np.float32), np.asarray(live.t, np.int32))
                vector, native = executed(space, np.asarray(u), name, live.t)
                observation, reward, terminated, truncated, _ = env.step(native)
                y = np.array(observation, np.float64)
                record.add(vector, y, float(reward), bool(terminated), bool(truncated))
                live.x, live.done = y, bool(terminated or truncated)
                live.t += 1
        except BaseException as error:
            live.done = True
            error.trajectory = record.trajectory()  # pyright: ignore[reportAttributeAccessIssue]
            raise
        return record.trajectory(), carry, live.cursor()

    def rollouts(
        self, policy: AbstractPolicy, key: RandomKey, conditions: Sequence[int], steps: int
    ) -> list[Trajectory]:
        """One fresh episode of at most `steps` steps per reset seed, one after another.

        Errors are those of `collect`; their `trajectory` then holds all transitions of all episodes so far.
        """
        done: list[Trajectory] = []
        try:
            for condition, k in zip(conditions, jr.split(key, max(len(conditions), 1)), strict=False):
                k_start, k_run = jr.split(k)
                at = self.reset(k_run, int(condition))
                carry = start(policy, np.asarray(at.x, np.float32), k_start)
                done.append(self.collect(policy, carry, at, k_run, steps)[0])
        except BaseException as error:
            part = getattr(error, "trajectory", None)
            error.trajectory = joined([*done, *([] if part is None else [part])])  # pyright: ignore
            raise
        return done

    def fresh(self) -> GymWorld:
        """A world with its own environment instance, made at its first reset."""
        return GymWorld(self.spec, self.actions, self.limit, self.source, Live())

    def _standing(self, at: Cursor) -> Live:
        """The live environment, if `at` is where it stands."""
        live = self.live
        if live.done or bool(at.done):
            raise RuntimeError(f"{self.source.id} has no open episode: call reset before collect.")
        if int(at.t) != live.t or not np.array_equal(np.asarray(at.x, np.float64), live.x):
            raise RuntimeError(
                f"{self.source.id} stands at step {live.t} of its episode, and collect was asked to go on from "
                f"another state (step {int(at.t)}): an environment's state cannot be set. Pass the cursor of the "
                "last reset or collect, or use fresh() for a second episode beside this one."
            )
        return live


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


def gym_world(
    id: str,
    kwargs: Mapping[str, Any] | None = None,
    action_repeat: int = 1,
    history: int = 1,
    limit: int | None = None,
) -> GymWorld:
    """The world of a Gymnasium id, or of module:id, where importing the module registers the environment.

    `kwargs` go to gymnasium.make.  Each action is executed `action_repeat` times, with the rewards summed.  The state
    is the last `history` observations, the oldest first, each flattened (Dict and Tuple by Gymnasium's own wrapper).
    `limit` counts the environment's own steps, as max_episode_steps of gymnasium.make does, and replaces what is
    registered.  Raises `UserError` with a sentence for everything that cannot be controlled from here: an unknown
    id, a missing time limit, image or discrete observations, unbounded, MultiDiscrete or MultiBinary actions.
    """
    for name, value in (("action_repeat", action_repeat), ("history", history), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{name} of {id} was {value}; it must be 1 or larger.")
    find(id)
    source = Source(id, dict(kwargs or {}), limit, action_repeat, history)
    env = source.make()
    actions = _actions(env.action_space, id)
    clock = _clock(env)
    if clock is None:
        raise UserError(
            f"{id} has no time limit, and an episode must end somewhere: say after how many steps, for example "
            "limit=1000."
        )
    shape = env.observation_space.shape
    assert shape is not None
    spec = Spec(n=shape[0], m=actions.m)
    return GymWorld(spec, actions, -(-clock // action_repeat), source, Live(env))


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


def _actions(space: spaces.Space, name: str) -> Actions:
    """The actions of a Box (flattened) or Discrete space; `UserError` for others and for infinite limits."""
    if isinstance(space, spaces.Discrete):
        return Choices(np.eye(int(space.n), dtype=np.float32))
    if not isinstance(space, spaces.Box):
        raise UserError(f"{name} has actions in {space}; allowed are Box with finite limits and Discrete.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"{name} has unbounded actions (from {space.low} to {space.high}); allowed are boxes with finite limits, "
            "for example through gymnasium.wrappers.RescaleAction."
        )
    return Box(space.low.reshape(-1).astype(np.float32), space.high.reshape(-1).astype(np.float32))


def _clock(env: gymnasium.Env) -> int | None:
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
