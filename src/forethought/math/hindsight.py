"""What a model would have said about what then really happened: the compiled part of every judgement of a model.

Everything here asks a model through `predict` and `draw` alone, one point at a time, as planners do: states go in as
float32.  What does not depend on the model is counted in NumPy (math/diagnosis.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from forethought.core import AbstractAveraged, AbstractCost, AbstractDynamics
from forethought.math.angles import wrap_components
from forethought.math.gaussian import Wrapped
from forethought.math.rollout import predict_ahead
from forethought.types import Action, Array, RandomKey, Spec, State, Time, Trajectory


class Stretches(NamedTuple):
    """S pieces of at most W real steps.  A rollout in the model begins wherever `fresh` is set, at the real state, and
    goes on under the real actions until the next such place.  Rows that are not `real` are padding."""

    x: Float[np.ndarray, "S W n"]
    u: Float[np.ndarray, "S W m"]
    y: Float[np.ndarray, "S W k"]
    """The real next state, followed by reward and termination (0 or 1) if the model has those outputs."""
    t: Int[np.ndarray, "S W"]
    fresh: Bool[np.ndarray, "S W"]
    real: Bool[np.ndarray, "S W"]


class Beliefs(NamedTuple):
    """What P beliefs said, for each step of S stretches.  A quantity is NaN where a belief gave a number that is not
    finite.  Of `mean`, `epistemic` and `aleatoric` only the entries of fresh rows mean one step from a known state."""

    mean: Float[np.ndarray, "S W k"]
    """Mean over beliefs of what they expect, angles near the real ones."""
    depth: Float[np.ndarray, "S W n"]
    """How deep the real value lies in the P imagined ones: the smaller one of the number at or below it and the number
    at or above it.  0: outside all of them."""
    log_prob: Float[np.ndarray, "S W"]
    """log of the predictive density of the real outputs (extras included) in nats.  Half of it is
    (1/P) sum_p p_p(y | x_p, u), x_p being where the rollout in belief p has come to; half of it a Gaussian with the
    mean and variances of the P imagined values.  The first knows modes; but where doubt is much larger than noise it is
    P needles, and y lies between them.  The whole is worse than the better half by log 2 at most."""
    epistemic: Float[np.ndarray, "S W n"]
    """Variance over beliefs of their means."""
    aleatoric: Float[np.ndarray, "S W n"]
    """Mean over beliefs of their variances, each from samples: E (sample - mean)^2."""
    spread: Float[np.ndarray, "S W n"]
    """Variance of the imagined values."""
    shared: Float[np.ndarray, "S W n"]
    """Covariance of two rollouts through the same belief with different noise, which is the variance over beliefs of
    where each leads on average; zeros if there is one rollout per belief."""
    imagined: Float[np.ndarray, "S W"]
    """Mean over rollouts of the cost of the step, 0 in those that have ended."""
    cost: Float[np.ndarray, "S W"]
    """The task's cost of the real step."""


def outcomes(trajectory: Trajectory, spec: Spec) -> np.ndarray:
    """[T n+e] what a model is to predict: the next state, then reward and termination if it learns them."""
    extras = np.stack([trajectory.reward, np.asarray(trajectory.terminated, float)], axis=1)[:, : spec.extras]
    return np.concatenate([np.asarray(trajectory.y), extras], axis=1)


def stretches(episode: Trajectory, spec: Spec, starts: np.ndarray, length: int) -> Stretches:
    """One stretch of at most `length` steps from each of the starts [S], each a single rollout."""
    index = np.asarray(starts)[:, None] + np.arange(length)
    real = index < episode.length
    index = np.minimum(index, episode.length - 1)
    fresh = np.zeros(index.shape, bool)
    fresh[:, 0] = True
    rows = lambda v: np.asarray(v, np.float32)[index]
    t = np.asarray(episode.t, np.int32)[index]
    return Stretches(rows(episode.x), rows(episode.u), rows(outcomes(episode, spec)), t, fresh, real)


def side_by_side(episode: Trajectory, spec: Spec, periods: tuple[int, ...], length: int) -> Stretches:
    """The first `length` steps of an episode once for each period: with rollouts of that many steps, end to end."""
    one = stretches(episode, spec, np.zeros(1, int), length)
    repeat = lambda v: np.repeat(v, len(periods), axis=0)
    fresh = np.arange(length)[None] % np.asarray(periods)[:, None] == 0
    return Stretches(*map(repeat, one))._replace(fresh=fresh)


def mean_ahead(model: AbstractDynamics, x: Float[Array, "S n"], us: Float[Array, "S W m"]) -> Float[Array, "S W n"]:
    """The states that the mean predictions pass through from each start."""
    return _means(model.average() if isinstance(model, AbstractAveraged) else model, x, us)


@eqx.filter_jit
def _means(model: AbstractDynamics, x: Float[Array, "S n"], us: Float[Array, "S W m"]) -> Float[Array, "S W n"]:
    zero = jnp.zeros((), jnp.int32)
    return jax.vmap(lambda x0, u: predict_ahead(model, x0, u, zero))(x, us)


class _Now(NamedTuple):
    """Where a rollout stands, and whether the imagined episode goes on."""

    x: Any
    alive: Any


class _Step(NamedTuple):
    """What one belief said about one step."""

    sample: Any
    mean: Any
    log_prob: Any
    cost: Any


def _step(
    belief: AbstractDynamics, cost: AbstractCost, spec: Spec, where: tuple[_Now, Stretches, RandomKey]
) -> tuple[_Now, _Step]:
    """One imagined step from where a rollout stands, or from the real state."""
    now, at, key = where
    x, alive = jnp.where(at.fresh, at.x, now.x), at.fresh | now.alive
    prediction = belief.predict(x, at.u, at.t)
    sample, mean = prediction.sample(key).astype(x.dtype), prediction.mean.astype(x.dtype)
    seen = at.y.astype(prediction.mean.dtype)
    if not isinstance(prediction, Wrapped):  # which would compare an angle with the turn that it is on itself
        seen = prediction.mean + wrap_components(seen - prediction.mean, spec.angles)
    charged = jnp.where(alive, _charge(cost, x, at.u, sample, at.t), 0.0)
    after = _Now(sample[: spec.n], alive & cost.alive(sample))
    return after, _Step(sample, mean, prediction.log_prob(seen).astype(jnp.float32), charged)


def _charge(cost: AbstractCost, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Float[Array, ""]:
    """The cost of an imagined step; NaN where it leads nowhere."""
    return jnp.where(jnp.all(jnp.isfinite(y)), cost.stage(x, u, y, t), jnp.nan).astype(jnp.float32)


@eqx.filter_jit
def draw_beliefs(model: AbstractDynamics, key: Array, particles: int) -> AbstractDynamics:
    """So many beliefs.  Apart from the rollouts, whose program is large: beliefs may keep their size while the model
    grows with its data."""
    return model.draw(jr.wrap_key_data(jnp.asarray(key)), particles)


@eqx.filter_jit
def roll_out(
    drawn: AbstractDynamics, cost: AbstractCost, spec: Spec, seen: Stretches, key: Array
) -> tuple[_Step, Float[Array, "S W"]]:
    """What each belief said, [W R S P ...], and the task's cost of the real steps.

    `key` is the data of random keys, uint32[W R S P 4].
    """
    # Noise by the device's own generator, which compiles in a quarter of the time; of several keys at once it uses one.
    noise = jr.wrap_key_data(jnp.asarray(key), impl="rbg")
    _, replicas, count, particles = noise.shape
    beliefs, rest = eqx.partition(drawn, eqx.is_array)
    along = jax.tree.map(lambda v: jnp.swapaxes(jnp.asarray(v), 0, 1), seen)

    def one(belief: PyTree, now: _Now, at: Stretches, key: RandomKey) -> tuple[_Now, _Step]:
        return _step(eqx.combine(belief, rest), cost, spec, (now, at, key))

    each = jax.vmap(one, in_axes=(0, 0, None, 0))  # beliefs
    each = jax.vmap(each, in_axes=(None, 0, 0, 0))  # stretches
    each = jax.vmap(each, in_axes=(None, 0, None, 0))  # rollouts of one belief
    every = (replicas, count, particles)
    began = _Now(jnp.zeros((*every, spec.n), jnp.float32), jnp.ones(every, bool))
    said = jax.lax.scan(lambda now, inputs: each(beliefs, now, *inputs), began, (along, noise))[1]
    return said, jax.vmap(jax.vmap(cost.stage))(seen.x, seen.u, seen.y, seen.t)


def believe(
    model: AbstractDynamics,
    cost: AbstractCost,
    spec: Spec,
    seen: Stretches,
    random: tuple[int, np.random.Generator],
    how_many: tuple[int, int],
) -> Beliefs:
    """Roll out P drawn beliefs (one belief for a whole rollout, noise at each step) along each stretch.

    `random` is the seed of the beliefs, and where the noise comes from; `how_many` is P and the rollouts per belief
    (1, or 2 for `shared`).  The keys are made here, in NumPy: that, and the sums, would take longer to compile than the
    rollouts.
    """
    particles, replicas = how_many
    count, length = seen.fresh.shape
    drawing = np.random.default_rng(random[0]).integers(2**32, size=jr.key_data(jr.key(0)).shape, dtype=np.uint32)
    noise = random[1].integers(2**32, size=(length, replicas, count, particles, 4), dtype=np.uint32)
    said, real = roll_out(draw_beliefs(model, jnp.asarray(drawing), particles), cost, spec, seen, jnp.asarray(noise))
    # [W R S P ...] -> [R P S W ...]
    said = _Step(*(np.moveaxis(np.asarray(v, np.float64), (0, 1, 2, 3), (3, 0, 2, 1)) for v in said))
    with np.errstate(all="ignore"):
        return _summed_up(said, seen, spec, np.asarray(real, np.float64))


def _summed_up(said: _Step, seen: Stretches, spec: Spec, real: Float[np.ndarray, "S W"]) -> Beliefs:
    """Over beliefs and rollouts; the leading axes of what was said are [R P S W]."""
    n, angles = spec.n, spec.angles
    y = np.asarray(seen.y, np.float64)[..., :n]
    states, means = said.sample[..., :n], said.mean[0, ..., :n]
    centre, around = _centre(states[0], angles), _centre(means, angles)
    away, truth = short_way(states - centre, angles), short_way(y - centre, angles)
    depth = np.minimum((away[0] <= truth).sum(axis=0), (away[0] >= truth).sum(axis=0))
    both = lambda v: v.mean(axis=(0, 1))
    extras = said.mean[0, ..., n:].mean(axis=0)
    return Beliefs(
        mean=np.concatenate([y + short_way(means - y, angles).mean(axis=0), extras], axis=-1),
        depth=np.where(np.isfinite(states[0]).all(axis=0), depth, np.nan),
        log_prob=_density(said.log_prob[0], said.sample[0], seen.y, angles),
        epistemic=short_way(means - around, angles).var(axis=0),
        aleatoric=both(short_way(states - said.mean[..., :n], angles) ** 2),
        spread=away.var(axis=1).mean(axis=0),
        shared=_covariance(away[0], away[-1]) if len(away) > 1 else np.zeros(truth.shape),
        imagined=both(said.cost),
        cost=real,
    )


def _density(
    each: Float[np.ndarray, "P S W"],
    values: Float[np.ndarray, "P S W k"],
    seen: Float[np.ndarray, "S W k"],
    angles: Sequence[int],
) -> Float[np.ndarray, "S W"]:
    """`Beliefs.log_prob`, from what each belief said and the values that it imagined."""
    highest = each.max(axis=0)
    needles = np.log(np.exp(each - highest).mean(axis=0)) + highest
    centre = _centre(values, angles)
    variance = (short_way(values - centre, angles) ** 2).mean(axis=0)
    off = short_way(np.asarray(seen, np.float64) - centre, angles)
    smooth = -0.5 * np.sum(off**2 / variance + np.log(2.0 * np.pi * variance), axis=-1)
    # A value about which there is no doubt at all has no such density.
    smooth = np.where(np.isfinite(smooth), smooth, -np.inf)
    return np.logaddexp(needles, smooth) - np.log(2.0)


def short_way(difference: np.ndarray, angles: Sequence[int]) -> np.ndarray:
    """Differences [... n] with those of angles in [-pi, pi)."""
    if not angles:
        return difference
    out, index = np.array(difference), list(angles)
    out[..., index] = (out[..., index] + np.pi) % (2.0 * np.pi) - np.pi
    return out


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)


def _centre(values: np.ndarray, angles: Sequence[int]) -> np.ndarray:
    """Mean over the first axis; of angles the direction of the mean of their unit vectors."""
    mean = values.mean(axis=0)
    if angles:
        turned = values[..., list(angles)]
        mean[..., list(angles)] = np.arctan2(np.sin(turned).mean(axis=0), np.cos(turned).mean(axis=0))
    return mean
