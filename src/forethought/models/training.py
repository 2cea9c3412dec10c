"""What all network learners share: scaled rows, who sees which, descent by Adam, and the verdict on the result.

Everything is written for E members side by side: each array of `members` has a leading axis E, and a learner of one
network has E = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, PyTree

from forethought.math.scaling import Scaler, features, fit_scaler, targets
from forethought.models.table import usable
from forethought.types import Array, Dataset, Metrics, RandomKey, Spec

ABSURD = 2.0
"""Mean squared error in scaled units, where predicting the mean has 1, up to which a member may be the worst."""
TIMES_MEDIAN = 10.0
"""And how many times the median member's error it may have."""

T = TypeVar("T")
Loss = Callable[[Any, Any, Any], Any]


@runtime_checkable
class Schedule(Protocol):
    """How long and how fast a learner descends."""

    gradient_steps: int
    batch: int
    learning_rate: float
    final_rate: float


class Rows(NamedTuple):
    """The data as networks see them: padded rows in unit scale, float32."""

    z: Float[Array, "C f"]
    y: Float[Array, "C k"]
    use: Bool[Array, " C"]
    """Which rows are no padding and have nothing but credible numbers."""
    inputs: Scaler
    outputs: Scaler
    left_out: Int[Array, ""]
    """How many rows are not credible."""


class Trained(NamedTuple):
    """What descent changes: members, and their optimiser's state."""

    members: Any
    optimiser: PyTree


def scaled_rows(spec: Spec, data: Dataset) -> Rows:
    """Features and targets of all rows, in the units of scalers that are fitted to the rows in use."""
    use = usable(data, spec.extras, jnp)
    extras = jnp.stack([data.reward, data.terminated.astype(data.reward.dtype)], axis=1)[:, : spec.extras]
    raw_in = jax.vmap(lambda x, u: features(spec, x, u))(data.x, data.u)
    raw_out = jax.vmap(lambda x, y, e: targets(spec, x, y, e))(data.x, data.y, extras)
    # Whatever lies in the rest: even 0 times NaN is not 0.
    raw_in, raw_out = (jnp.where(use[:, None], v, 0.0) for v in (raw_in, raw_out))
    inputs, outputs = fit_scaler(raw_in, use), fit_scaler(raw_out, use)
    z = jax.vmap(inputs.scale)(raw_in).astype(jnp.float32)
    y = jax.vmap(outputs.scale)(raw_out).astype(jnp.float32)
    return Rows(z, y, use, inputs, outputs, jnp.asarray(data.count, jnp.int32) - jnp.sum(use, dtype=jnp.int32))


def with_scalers(members: T, rows: Rows, count: int) -> T:
    """The members with the scalers of these rows."""
    stacked = jax.tree.map(lambda v: jnp.broadcast_to(v, (count, *v.shape)), (rows.inputs, rows.outputs))
    return eqx.tree_at(lambda m: (m.inputs, m.outputs), members, stacked)


def split(members: Any) -> tuple[PyTree, PyTree]:
    """(what gradient descent changes, the rest): the scalers are computed, not learned."""
    trainable = jax.tree.map(eqx.is_array, members)
    frozen = jax.tree.map(lambda _: False, (members.inputs, members.outputs))
    trainable = eqx.tree_at(lambda m: (m.inputs, m.outputs), trainable, frozen)
    return eqx.partition(members, trainable)


def begin(members: Any) -> Trained:
    """Members before their first step."""
    return Trained(members, jax.vmap(optax.scale_by_adam().init)(split(members)[0]))


def row_weights(
    key: RandomKey, use: Bool[Array, " C"], *, members: int, holdout: float, bootstrap: bool = False
) -> Float[Array, "C E"]:
    """How often each member counts each row: Poisson(1) for a bootstrap, as a resample of the whole data would give."""
    k_boot, k_hold = jr.split(key)
    weight = jnp.ones((use.shape[0], members), jnp.float32)
    if bootstrap:
        # The quantile function of Poisson(1), by its first seven values of the distribution function.
        steps = jnp.asarray([0.36787944, 0.73575888, 0.91969860, 0.98101184, 0.99634015, 0.99940582], jnp.float32)
        uniform = jr.uniform(k_boot, weight.shape, jnp.float32)
        weight = jnp.sum(uniform[..., None] > steps, axis=-1).astype(jnp.float32)
    if holdout > 0.0:
        kept = jr.uniform(k_hold, use.shape, jnp.float32) >= holdout
        weight = weight * kept[:, None]
    weight = weight * use[:, None]
    # A member that drew nothing at all (very few rows) sees everything.
    return jnp.where(jnp.sum(weight, axis=0) > 0.0, weight, use[:, None].astype(jnp.float32))


def sample_rows(weight: Float[Array, "C E"], key: RandomKey, shape: tuple[int, int]) -> Int[Array, "S B E"]:
    """Row indices, drawn in proportion to the weights by inversion of their running sum."""
    steps, batch = shape
    running = jnp.cumsum(weight, axis=0)
    uniform = jr.uniform(key, (weight.shape[1], steps * batch), jnp.float32)
    pick = jax.vmap(lambda r, v: jnp.searchsorted(r, v * r[-1], side="right"))
    index = pick(running.T, uniform).astype(jnp.int32)
    index = jnp.minimum(index, weight.shape[0] - 1)
    return jnp.transpose(index.reshape(weight.shape[1], steps, batch), (1, 2, 0))


def descend(
    schedule: Schedule, loss: Loss, start: Trained, rows: Rows, weight: Float[Array, "C E"], key: RandomKey
) -> tuple[Trained, Float[Array, "S E"]]:
    """`gradient_steps` steps of Adam from where the last fit ended, each member on batches of its own.

    `loss(member, z [B f], y [B k])` is of one member.  The second result is the loss at each step.
    """
    index = sample_rows(weight, key, (schedule.gradient_steps, schedule.batch))
    trained, rest = split(start.members)
    optimiser = optax.scale_by_adam()
    of_parts = lambda trained, rest, z, y: loss(eqx.combine(trained, rest), z, y)
    gradient = jax.vmap(jax.value_and_grad(of_parts), in_axes=(0, 0, 1, 1))

    def step(carry, inputs):
        trained, state = carry
        index, now = inputs
        value, grads = gradient(trained, rest, rows.z[index], rows.y[index])
        updates, state = jax.vmap(optimiser.update)(grads, state)
        phase = 0.5 * (1.0 + jnp.cos(jnp.pi * now / schedule.gradient_steps))
        rate = schedule.learning_rate * (schedule.final_rate + (1.0 - schedule.final_rate) * phase)
        trained = jax.tree.map(lambda p, g: p - rate * g, trained, updates)
        return (trained, state), value

    times = jnp.arange(schedule.gradient_steps, dtype=jnp.float32)
    (trained, state), values = jax.lax.scan(step, (trained, start.optimiser), (index, times))
    return Trained(eqx.combine(trained, rest), state), values


def decay(layers: tuple[Any, ...]) -> Float[Array, ""]:
    """Sum of squares of the layers' weights; biases are free."""
    return cast(Array, sum(jnp.sum(layer.weight**2) for layer in layers))


def holdout_metrics(
    square: Float[Array, "E C"], nll: Float[Array, "E C"], rows: Rows, weight: Float[Array, "C E"]
) -> Metrics:
    """Squared error and negative log-likelihood per member on rows that it never saw, in scaled units; and how many
    rows nobody saw, as they are not credible."""
    unseen = rows.use[:, None] & (weight == 0.0)
    errors = {"holdout_mse": average(square, unseen), "holdout_nll": average(nll, unseen)}
    return errors | {"left_out": rows.left_out}


def average(value: Float[Array, "E C"], rows: Bool[Array, "C E"]) -> Float[Array, " E"]:
    """Per member, over these rows; NaN where there is none: no number is better than a flattering one."""
    count = jnp.sum(rows, axis=0)
    total = jnp.sum(jnp.where(rows.T, value, 0.0), axis=1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def mended(start: Trained, healthy: Bool[Array, " E"], anew: Callable[[], Trained]) -> tuple[Trained, Array]:
    """The start with every member anew that is not healthy or not finite, and which were in order.

    Outside the compiled fit, whose program would take twice as long to make for something that hardly ever happens;
    `anew` gives members that were never trained, by a program that `init` compiled, and the rest is NumPy's.
    """
    sound = np.asarray(healthy) & np.asarray(finite_members(np, start))
    if sound.all():
        return start, healthy
    # Who starts anew may not speak before the fit has judged it.
    return jax.tree.map(jnp.asarray, per_member(np, sound, start, anew())), jnp.asarray(sound)


def judged(
    after: Trained, before: Trained, healthy: Bool[Array, " E"], square: Float[Array, "E C"], use: Bool[Array, " C"]
) -> tuple[Trained, Bool[Array, " E"], Metrics]:
    """The result with finite parameters for every member, which of them may speak, and the verdict as metrics.

    `healthy` are those who spoke before, and `square` are squared errors on all rows in scaled units.  If no member is
    finite, or there was no row to learn from, the fit has failed and everything is as it was before.
    """
    mse = jnp.sum(jnp.where(use, square, 0.0), axis=1) / jnp.maximum(jnp.sum(use), 1)
    finite = finite_members(jnp, after) & jnp.isfinite(mse) & jnp.any(use)
    fit = finite & ((mse <= ABSURD) | (mse <= TIMES_MEDIAN * lower_median(mse, finite)))
    # Some finite member is always healthy, so that without one everything is as it was before.
    failed = ~jnp.any(finite)
    healthy = jnp.where(failed, healthy, fit)
    metrics = {"dropped": jnp.sum(~(finite & healthy), dtype=jnp.int32), "failed": failed}
    return per_member(jnp, finite, after, before), healthy, metrics


def lower_median(values: Float[Array, " E"], among: Bool[Array, " E"]) -> Float[Array, ""]:
    """The median of some values, of an even number the lower one: of two members the worse is not its own measure."""
    values = jnp.where(among, values, jnp.inf)
    # Without a sort, which would take longer to compile than all the rest of the verdict.
    not_above = jnp.sum(values[None, :] <= values[:, None], axis=1)
    return jnp.min(jnp.where(2 * not_above >= jnp.sum(among), values, jnp.inf))


def finite_members(xp: Any, tree: PyTree) -> Any:
    """Which members [E] have nothing but finite numbers, over arrays with a leading axis E; xp is numpy or jax's."""
    rows = [xp.isfinite(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    return xp.all(xp.concatenate(rows, axis=1), axis=1)


def per_member(xp: Any, flag: Any, new: T, old: T) -> T:
    """Rows of `new` where the flag [E] is true, of `old` where not."""
    choose = lambda a, b: xp.where(flag.reshape(-1, *[1] * (a.ndim - 1)), a, b) if eqx.is_array(a) else a
    return jax.tree.map(choose, new, old)


def draw_members(members: T, healthy: Bool[Array, " E"], key: RandomKey, particles: int) -> T:
    """Healthy members, each as often as any other (give or take one), in random order."""
    order = jr.permutation(key, healthy.shape[0])
    # The healthy ones first, otherwise in the same order.
    speaks, count = healthy[order], jnp.sum(healthy)
    order = order.at[jnp.where(speaks, jnp.cumsum(speaks) - 1, count + jnp.cumsum(~speaks) - 1)].set(order)
    index = order[jnp.arange(particles) % jnp.maximum(count, 1)]
    drawn = jax.tree.map(lambda leaf: leaf[index], members)
    silent = jnp.where(count > 0, drawn.outputs.mean, jnp.nan)
    return eqx.tree_at(lambda m: m.outputs.mean, drawn, silent)
