"""Worlds that are written in JAX: an episode is one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from forethought.core import AbstractCost, AbstractPolicy, AbstractWitness, AbstractWorld
from forethought.math.angles import checked_angles, wrap_components
from forethought.types import (
    Action,
    Actions,
    Array,
    Box,
    Cursor,
    RandomKey,
    Spec,
    State,
    Time,
    Trajectory,
    UserError,
)
from forethought.worlds.guard import TransitionError
from forethought.worlds.watched import Watched, watch

MAX_SEED = 2**31


class Truth(eqx.Module):
    """What the observation does not show: the true state, and which episode this is."""

    x: State
    condition: Int[Array, ""]


class GaussianStart(eqx.Module):
    """x0 ~ N(mean, diag(std^2)), in the dtype asked for."""

    mean: Float[Array, " n"]
    std: Float[Array, " n"]

    def __call__(self, key: RandomKey, dtype: str) -> State:
        """One draw."""
        noise = jr.normal(key, self.mean.shape, dtype)
        return jnp.asarray(self.mean, dtype) + jnp.asarray(self.std, dtype) * noise


class SimulatedWorld(AbstractWorld):
    """x' = wrap(step(x, u) + process_std eps), seen as wrap(x' + noise_std eps'), eps and eps' ~ N(0, I).

    Components named in spec.angles are wrapped to [-pi, pi) in state and observation.  The reward is minus the stage
    cost of the true states; the cost's `alive` on the true state ends the episode, the limit truncates it.  Actions
    of a box are clipped to it; of choices the nearest one is taken.  The world is pure: the same cursor, carry and key
    give the same episode, and a condition fixes the start.  Policies see observations in float32, whatever `dtype`.
    """

    spec: Spec
    actions: Actions
    name: str = eqx.field(static=True)
    step: Callable[[State, Action], State]
    """The true dynamics, a pytree: next state [n] in the dtype of x."""
    cost: AbstractCost
    start: Callable[[RandomKey, str], State]
    """Draws the first true state, in the given dtype."""
    noise_std: Float[Array, " n"]
    """Standard deviation of the observation noise."""
    process_std: Float[Array, " n"]
    """Standard deviation of the process noise per step."""
    limit: int = eqx.field(static=True)
    """Steps after which an episode is truncated."""
    dtype: str = eqx.field(static=True, default="float32")
    """Of the simulation: float32, or float64 where jax has 64-bit on."""
    replayable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        """Angles that are no components of the state would otherwise be passed over in silence."""
        checked_angles(self.spec.angles, self.spec.n, self.name)

    def reset(self, key: RandomKey, condition: int | None = None) -> Cursor:
        """Start an episode; start and first observation depend on the condition alone.

        Without a condition one is drawn from the key, in [0, 2^31).
        """
        self._require_dtype()
        if condition is None:
            condition = int(jr.bits(key, (), jnp.uint32)) >> 1
        if not 0 <= condition < MAX_SEED:
            raise UserError(f"The reset seed of {self.name} was {condition}; it must be in [0, 2^31).")
        x, seen = _begin(self, jr.key(int(condition)))
        truth = Truth(np.asarray(x), np.asarray(condition, np.int64))
        return Cursor(np.asarray(seen, np.float64), np.asarray(0, np.int64), np.asarray(False), truth)

    def collect(
        self, policy: AbstractPolicy, carry: Any, at: Cursor, key: RandomKey, steps: int
    ) -> tuple[Trajectory, Any, Cursor]:
        """Run the policy for at most `steps` steps; fewer if the episode ends.

        One program for every `steps`.  Raises `RuntimeError` for a cursor whose episode is over, and `TransitionError`
        (with the transitions before it as `trajectory`) where an action, state or reward is not finite.
        """
        self._require_dtype()
        if bool(at.done):
            raise RuntimeError(f"{self.name} has no open episode: call reset before collect.")
        count = jnp.asarray(min(steps, self.limit), jnp.int32)
        seen = np.asarray(at.x).astype(self.dtype)
        first = (np.asarray(at.inner.x).astype(self.dtype), seen, np.asarray(at.t, np.int32), np.asarray(True))
        (x, seen, t, alive), carry, rows = _collect(self, policy, carry, first, key, count)
        trajectory = self._trim(rows, int(at.inner.condition))
        truth = Truth(np.asarray(x), np.asarray(at.inner.condition, np.int64))
        done = np.asarray(not bool(alive))
        return trajectory, carry, Cursor(np.asarray(seen, np.float64), np.asarray(t, np.int64), done, truth)

    def rollouts(
        self, policy: AbstractPolicy, key: RandomKey, conditions: Sequence[int], steps: int
    ) -> list[Trajectory]:
        """One fresh episode of at most `steps` steps per condition, all at once in one vmapped scan."""
        self._require_dtype()
        if not conditions:
            return []
        starts = [self.reset(key, int(c)) for c in conditions]
        x = np.stack([at.inner.x for at in starts])
        seen = np.stack([at.x for at in starts]).astype(self.dtype)
        rows = _rollouts(self, policy, x, seen, key, min(steps, self.limit))
        rows = jax.tree.map(np.asarray, rows)
        return [self._trim(jax.tree.map(lambda leaf, i=i: leaf[i], rows), int(c)) for i, c in enumerate(conditions)]

    def fresh(self) -> SimulatedWorld:
        """Itself: nothing here can be disturbed."""
        return self

    def watched(self, witness: AbstractWitness) -> Watched:
        """The witness sees whole pieces, after the scan: nothing real can be lost between two steps of it."""
        return watch(self, witness)

    def close(self) -> None:
        """Nothing is held."""

    def _trim(self, rows: Any, condition: int) -> Trajectory:
        """The transitions that were really made, in float64, checked."""
        x, u, y, reward, terminated, truncated, t, real = jax.tree.map(np.asarray, rows)
        count = int(real.sum())
        trajectory = Trajectory(
            x=x[:count].astype(np.float64),
            u=u[:count].astype(np.float64),
            y=y[:count].astype(np.float64),
            reward=reward[:count].astype(np.float64),
            terminated=terminated[:count],
            truncated=truncated[:count],
            t=t[:count].astype(np.int64),
            log_prob=np.zeros(count),
            condition=np.full(count, condition, np.int64),
        )
        _require_finite(trajectory, self.name)
        return trajectory

    def _require_dtype(self) -> None:
        """`UserError` where the simulation's dtype needs what jax has switched off."""
        if self.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise UserError(
                f"{self.name} simulates in float64, which jax does only with jax_enable_x64; "
                "switch that on first, or use dtype='float32'."
            )


Standing = tuple[Any, Any, Any, Any]
"""(true state, observation, step of the episode, alive)."""


@eqx.filter_jit
def _begin(world: SimulatedWorld, key: RandomKey) -> tuple[State, State]:
    """The first true state and what is seen of it."""
    k_start, k_noise = jr.split(key)
    x = wrap_components(world.start(k_start, world.dtype), world.spec.angles)
    return x, _observe(world, x, jr.normal(k_noise, x.shape, x.dtype))


def _observe(world: SimulatedWorld, x: State, noise: State) -> State:
    """x with observation noise, angles wrapped; the noise comes as standard normal numbers."""
    return wrap_components(x + jnp.asarray(world.noise_std, x.dtype) * noise, world.spec.angles)


def _noise(world: SimulatedWorld, key: RandomKey, steps: int) -> Float[Array, "T 2 n"]:
    """Standard normal numbers for an episode: process and observation noise of each step.

    All at once: a generator inside the scan would take longer to compile than everything else in it.
    """
    return jr.normal(key, (steps, 2, world.spec.n), world.dtype)


def _executed(actions: Actions, u: Action) -> Action:
    """The allowed action that is nearest to u; NaN stays NaN."""
    if isinstance(actions, Box):
        return jnp.clip(u, jnp.asarray(actions.low, u.dtype), jnp.asarray(actions.high, u.dtype))
    values = jnp.asarray(actions.values, u.dtype)
    nearest = values[jnp.argmin(jnp.sum((values - u) ** 2, axis=1))]
    return jnp.where(jnp.all(jnp.isfinite(u)), nearest, jnp.nan)


def _transition(world: SimulatedWorld, x: State, u: Action, t: Time, noise: Float[Array, "2 n"]) -> tuple[Any, ...]:
    """One real step: next true state, its observation, reward, terminated, truncated."""
    process, seeing = noise
    y = world.step(x, u).astype(x.dtype) + jnp.asarray(world.process_std, x.dtype) * process
    y = wrap_components(y, world.spec.angles)
    reward = -world.cost.stage(x, u, y, t).astype(x.dtype)
    return y, _observe(world, y, seeing), reward, ~world.cost.alive(y), t + 1 >= world.limit


def _run(
    world: SimulatedWorld, policy: AbstractPolicy, carry: Any, first: Standing, noise: Any, count: Time
) -> tuple[Standing, Any, tuple[Any, ...]]:
    """Scan over `noise`, one row per step, of which the first `count` are taken while the episode is open."""
    moving, fixed = eqx.partition(carry, eqx.is_array)

    def go(state):
        (x, seen, t, _), moving, eps = state
        u, after = policy.act(eqx.combine(moving, fixed), seen.astype(jnp.float32), t)
        u = _executed(world.actions, u.astype(world.dtype))
        y, then, reward, terminated, truncated = _transition(world, x, u, t, eps)
        row = (seen, u, then, reward, terminated, truncated, t, jnp.ones((), bool))
        return ((y, then, t + 1, ~(terminated | truncated)), eqx.filter(after, eqx.is_array)), row

    def stay(state):
        now, moving, _ = state
        shapes = jax.eval_shape(go, state)[1]
        return (now, moving), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def advance(state, inputs):
        (now, moving), (i, eps) = state, inputs
        return jax.lax.cond((i < count) & now[3], go, stay, (now, moving, eps))

    steps = jnp.arange(noise.shape[0], dtype=jnp.int32)
    first = jax.tree.map(jnp.asarray, first)
    (last, moving), rows = jax.lax.scan(advance, (first, moving), (steps, noise))
    return last, eqx.combine(moving, fixed), rows


@eqx.filter_jit
def _collect(
    world: SimulatedWorld, policy: AbstractPolicy, carry: Any, first: Standing, key: RandomKey, count: Time
) -> tuple[Standing, Any, tuple[Any, ...]]:
    """`_run` over the longest possible episode: steps beyond `count` cost next to nothing."""
    return _run(world, policy, carry, first, _noise(world, key, world.limit), count)


@eqx.filter_jit
def _rollouts(
    world: SimulatedWorld,
    policy: AbstractPolicy,
    x: Float[Array, "R n"],
    seen: Float[Array, "R n"],
    key: RandomKey,
    steps: int,
) -> tuple[Any, ...]:
    """One episode from each true state."""

    def one(x, seen, key, noise):
        carry = policy.init(seen.astype(jnp.float32), key)
        first = (x, seen, jnp.zeros((), jnp.int32), jnp.ones((), bool))
        return _run(world, policy, carry, first, noise, jnp.asarray(steps, jnp.int32))[2]

    k_policy, k_noise = jr.split(key)
    x, seen = jnp.asarray(x), jnp.asarray(seen)
    noise = jax.vmap(lambda k: _noise(world, k, steps))(jr.split(k_noise, x.shape[0]))
    return jax.vmap(one)(x, seen, jr.split(k_policy, x.shape[0]), noise)


def _require_finite(trajectory: Trajectory, name: str) -> None:
    """Raise `TransitionError` at the first number that is not finite."""
    fields = {"action": trajectory.u, "observation": trajectory.y, "reward": trajectory.reward}
    bad = {f: _bad_rows(np.asarray(v)) for f, v in fields.items()}
    if not any(rows.any() for rows in bad.values()):
        return
    i = min(int(np.argmax(rows)) for rows in bad.values() if rows.any())
    which = next(f for f, rows in bad.items() if rows[i])
    error = TransitionError(name, int(trajectory.t[i]), which, np.asarray(fields[which][i]), "must be finite")
    error.trajectory = jax.tree.map(lambda leaf: leaf[:i], trajectory)
    raise error


def _bad_rows(values: np.ndarray) -> np.ndarray:
    """Which rows hold a number that is not finite."""
    return np.asarray(~np.isfinite(values).reshape(values.shape[0], -1).all(axis=1))
