"""Any Gymnasium environment with box or discrete actions and a box observation, as a world."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from gymnasium import spaces

from forethought.core import AbstractPolicy, AbstractTimed, AbstractWitness
from forethought.math.act import act, start
from forethought.math.angles import checked_angles, wrap_observation
from forethought.types import Actions, Box, Choices, Cursor, RandomKey, Spec, Trajectory, UserError
from forethought.worlds.recorder import Recorder, joined
from forethought.worlds.remote import RemoteEnv
from forethought.worlds.source import Source, clock, executed, find


@dataclass(eq=False)
class Live:
    """The one mutable thing: an environment instance, made when it is needed, and where its episode stands."""

    env: gymnasium.Env | None = None
    x: np.ndarray = field(default_factory=lambda: np.zeros(0))
    t: int = 0
    condition: int = 0
    done: bool = True
    acted: list[float] = field(default_factory=list)
    """Seconds of each choice of an action in the last collection."""

    def cursor(self) -> Cursor:
        """Where the episode stands."""
        return Cursor(x=self.x, t=np.asarray(self.t, np.int64), done=np.asarray(self.done))


class GymWorld(AbstractTimed):
    """A Gymnasium environment.  Make one with `gym_world`.

    Its random numbers come from the reset seed alone (an environment owns its generator), so `collect` does not use
    its key.  The environment's state cannot be seen or set: an episode can only be continued where it stands.
    Actions of a box are clipped to it, in the dtype of the space, and recorded as executed; of one-hot actions the
    largest entry counts.  Transitions are float64, with the components at spec.angles wrapped to [-pi, pi) as they
    come in, after the guard has seen them.
    """

    spec: Spec
    actions: Actions
    limit: int = eqx.field(static=True)
    """Steps (decisions, where actions are repeated) after which an episode is truncated."""
    source: Source = eqx.field(static=True)
    live: Live = eqx.field(static=True)
    replayable: bool = eqx.field(static=True, default=True)
    deadline: float | None = eqx.field(static=True, default=None)
    """Seconds that a step may take in a worker process, in which the environment then lives; None: it lives here."""
    witness: AbstractWitness | None = eqx.field(static=True, default=None)

    @property
    def env(self) -> gymnasium.Env:
        """The environment instance behind this world."""
        if self.live.env is None:
            late = self.deadline
            self.live.env = self.source.make() if late is None else RemoteEnv(self.source, late)
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
        observation, _ = self.env.reset(seed=int(condition), options=self.source.options(int(condition)))
        live.x = self._seen(observation)
        live.t, live.condition, live.done = 0, int(condition), False
        if self.witness is not None:
            self.witness.began(live.x, live.condition)
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
        live.acted = []
        try:
            while len(record.reward) < steps and not live.done:
                # NumPy goes into the compiled call directly: a device array first would double the overhead.
                began = time.perf_counter()
                u, carry = act(policy, carry, live.x.astype(np.float32), np.asarray(live.t, np.int32))
                u = np.asarray(u)
                live.acted.append(time.perf_counter() - began)
                vector, native = executed(space, u, name, live.t)
                observation, reward, terminated, truncated, _ = env.step(native)
                y = self._seen(observation)
                record.add(vector, y, float(reward), bool(terminated), bool(truncated))
                live.x, live.done = y, bool(terminated or truncated)
                live.t += 1
                if self.witness is not None:
                    self.witness.happened(vector, y, float(reward), bool(terminated), bool(truncated))
        except BaseException as error:
            live.done = True
            error.trajectory = record.trajectory()  # pyright: ignore[reportAttributeAccessIssue]
            raise
        return record.trajectory(), carry, live.cursor()

    def act_seconds(self) -> Sequence[float]:
        """One per action of the last collection."""
        return tuple(self.live.acted)

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
        return dataclasses.replace(self, live=Live(), witness=None)

    def watched(self, witness: AbstractWitness) -> GymWorld:
        """The same environment instance; the witness sees each step as it is taken."""
        return dataclasses.replace(self, witness=witness)

    def close(self) -> None:
        """Close the environment instance, if there is one."""
        live = self.live
        env, live.env, live.done = live.env, None, True
        if env is not None:
            env.close()

    def _seen(self, observation: Any) -> np.ndarray:
        """The observation as a state."""
        return wrap_observation(np.array(observation, np.float64), self.spec.angles)

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


def gym_world(
    id: str,
    kwargs: Mapping[str, Any] | None = None,
    action_repeat: int = 1,
    history: int = 1,
    limit: int | None = None,
    angles: Sequence[int] = (),
    *,
    resets: Sequence[Mapping[str, Any]] = (),
) -> GymWorld:
    """The world of a Gymnasium id, or of module:id, where importing the module registers the environment.

    `kwargs` go to gymnasium.make.  Each action is executed `action_repeat` times, with the rewards summed.  The state
    is the last `history` observations, the oldest first, each flattened (Dict and Tuple by Gymnasium's own wrapper).
    `limit` counts the environment's own steps, as max_episode_steps of gymnasium.make does, and replaces what is
    registered.  `angles` are the indices of those components of one observation, flattened, that are angles in rad:
    they are wrapped, and models see their sine and cosine, in each observation of a history.  `resets` are options for
    the environment's reset: reset seed i comes with resets[i], and seeds beyond them without.

    Raises `UserError` with a sentence for everything that cannot be controlled from here: an unknown id, a missing
    time limit, image or discrete observations, unbounded, MultiDiscrete or MultiBinary actions; and for angles that
    are not there.
    """
    for name, value in (("action_repeat", action_repeat), ("history", history), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{name} of {id} was {value}; it must be 1 or larger.")
    find(id)
    source = Source(id, dict(kwargs or {}), limit, action_repeat, history, resets=tuple(resets))
    env = source.make()
    actions = _actions(env.action_space, id)
    steps = clock(env)
    if steps is None:
        raise UserError(
            f"{id} has no time limit, and an episode must end somewhere: say after how many steps, for example "
            "limit=1000."
        )
    shape = env.observation_space.shape
    assert shape is not None
    size = shape[0] // history
    each = checked_angles(angles, size, id)
    spec = Spec(n=shape[0], m=actions.m, angles=tuple(k * size + i for k in range(history) for i in each))
    return GymWorld(spec=spec, actions=actions, limit=-(-steps // action_repeat), source=source, live=Live(env))


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
