"""The words everything else is written in.

Letters in shapes, fixed once: ``n`` state, ``m`` action, ``e`` extra outputs (learned reward and termination),
``T`` time, ``H`` horizon, ``N`` candidates, ``P`` particles, ``E`` ensemble members, ``A`` discrete choices,
``d`` search coordinates, ``B`` batch, ``R`` rollouts, ``C`` capacity of a dataset.

Angles are in radians, times in steps unless a name says seconds.  Costs are minimised everywhere; a reward is
turned into a cost where a world or a cost class meets the library, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, PyTree

from forethought.errors import UserError as UserError

Array = jax.Array | np.ndarray
State = Float[Array, " n"]
Action = Float[Array, " m"]
Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
Time = Int[Array, ""]
RandomKey = Key[jax.Array, ""]
Metrics = dict[str, Any]


class Spec(eqx.Module):
    """What a model is about: how many numbers go in and come out, and which of them are angles."""

    n: int = eqx.field(static=True)
    """Dimension of the state."""
    m: int = eqx.field(static=True)
    """Dimension of the action (one-hot for discrete actions)."""
    extras: int = eqx.field(static=True, default=0)
    """Further outputs after the next state: 2 when reward and termination are learned, otherwise 0."""
    angles: tuple[int, ...] = eqx.field(static=True, default=())
    """Indices of state components that are angles in rad: models see their sine and cosine."""

    @property
    def outputs(self) -> int:
        """Number of outputs of a model: the next state, then the extras."""
        return self.n + self.extras


class Box(eqx.Module):
    """Continuous actions: low <= u <= high.

    Planners search in coordinates z with one unit per half range, so that their noise scales mean the same
    for every task: u = (low + high)/2 + z (high - low)/2 with z clipped to [-1, 1].
    """

    low: Float[Array, " m"]
    high: Float[Array, " m"]

    @property
    def m(self) -> int:
        """Dimension of an action."""
        return self.low.shape[0]

    @property
    def d(self) -> int:
        """Number of search coordinates per step."""
        return self.m

    def clip(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """The nearest search points inside the limits."""
        return jnp.clip(z, -1.0, 1.0)

    def decode(self, z: Float[Array, " d"]) -> Action:
        """The action at a search point."""
        low, high = jnp.asarray(self.low, z.dtype), jnp.asarray(self.high, z.dtype)
        return 0.5 * (low + high) + 0.5 * (high - low) * self.clip(z)

    def encode(self, u: Action) -> Float[Array, " d"]:
        """The search point of an action; the inverse of `decode` inside the limits."""
        low, high = jnp.asarray(self.low, u.dtype), jnp.asarray(self.high, u.dtype)
        half = 0.5 * (high - low)
        return jnp.where(half > 0, (u - 0.5 * (low + high)) / jnp.where(half > 0, half, 1.0), 0.0)

    def sample(self, key: RandomKey) -> Action:
        """A uniform action, float32."""
        return self.decode(jax.random.uniform(key, (self.m,), jnp.float32, -1.0, 1.0))

    def safe(self) -> Action:
        """What to do when nothing better is known: the allowed action nearest to zero."""
        return jnp.clip(jnp.zeros((self.m,), jnp.float32), self.low, self.high).astype(jnp.float32)


class Choices(eqx.Module):
    """Discrete actions as candidate vectors, one row per choice (one-hot for a Gymnasium Discrete space).

    Planners search over one score per choice, z in R^A, and the choice with the largest score is taken.  A Gaussian
    over scores is therefore a distribution over choices that every sampling planner can shift and narrow.
    """

    values: Float[Array, "A m"]

    @property
    def m(self) -> int:
        """Dimension of an action."""
        return self.values.shape[1]

    @property
    def d(self) -> int:
        """Number of search coordinates per step: one score per choice."""
        return self.values.shape[0]

    def clip(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Scores have no limits: clipping them would create ties, which argmax breaks towards choice 0."""
        return z

    def decode(self, z: Float[Array, " d"]) -> Action:
        """The choice with the largest score."""
        return jnp.asarray(self.values, z.dtype)[jnp.argmax(z)]

    def encode(self, u: Action) -> Float[Array, " d"]:
        """Scores under which the nearest choice wins: 1 for it, -1 for the others."""
        distance = jnp.sum((jnp.asarray(self.values, u.dtype) - u) ** 2, axis=1)
        return 2.0 * jax.nn.one_hot(jnp.argmin(distance), self.d, dtype=u.dtype) - 1.0

    def sample(self, key: RandomKey) -> Action:
        """A uniform choice, float32."""
        return jnp.asarray(self.values, jnp.float32)[jax.random.randint(key, (), 0, self.d)]

    def safe(self) -> Action:
        """What to do when nothing better is known: the first choice (Gymnasium's "do nothing" where there is one)."""
        return jnp.asarray(self.values, jnp.float32)[0]


Actions = Box | Choices


class Cursor(eqx.Module):
    """Where an open episode stands: what was observed, how many steps were taken, and the world's own state."""

    x: State
    t: Time
    done: Flag
    """True before the first reset and after an episode has ended: the next step needs a reset."""
    inner: PyTree = None


class Trajectory(eqx.Module):
    """Transitions in order of time, as they were really executed.  ``terminated`` is the task's end, ``truncated`` the
    clock's: only the first says anything about the state."""

    x: Float[Array, "T n"]
    u: Float[Array, "T m"]
    y: Float[Array, "T n"]
    """The next state: y[t] is x[t+1] inside an episode."""
    reward: Float[Array, " T"]
    terminated: Bool[Array, " T"]
    truncated: Bool[Array, " T"]
    t: Int[Array, " T"]
    """Step within the episode, from 0."""
    log_prob: Float[Array, " T"]
    """log p(u|x) of a stochastic policy; 0 where the policy is deterministic or does not say."""
    condition: Int[Array, " T"]
    """The reset seed (or the index of the initial condition) of the episode."""

    @property
    def length(self) -> int:
        """Number of transitions."""
        return self.x.shape[0]


class Dataset(eqx.Module):
    """All transitions so far, in order, in arrays of a fixed capacity (a power of two) of which `count` rows are real.

    The arrays are NumPy's in float64 whatever jax is set to: what was paid for with real trials is kept exactly.  The
    capacity doubles when it is full, so shapes, and with them compiled programs, change once per doubling and memory
    is never more than twice the data, however uneven the episodes are.
    """

    x: Float[Array, "C n"]
    u: Float[Array, "C m"]
    y: Float[Array, "C n"]
    reward: Float[Array, " C"]
    terminated: Bool[Array, " C"]
    truncated: Bool[Array, " C"]
    t: Int[Array, " C"]
    log_prob: Float[Array, " C"]
    condition: Int[Array, " C"]
    episode: Int[Array, " C"]
    """Which episode a row belongs to, from 0."""
    count: Int[Array, ""]
    """Rows in use."""

    @property
    def capacity(self) -> int:
        """Rows there is room for without growing."""
        return self.x.shape[0]
