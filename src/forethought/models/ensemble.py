"""The probabilistic ensemble: Gaussian networks that agree where there are data and differ where there are none.

One member that goes wrong must not spoil the others: each is judged after every fit, and predictions and plans are made
of the healthy ones.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, PyTree

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner
from forethought.math.gaussian import DiagonalGaussian
from forethought.models.network import GaussianNetwork, init_network
from forethought.models.scaling import features, fit_scaler, targets
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time

ABSURD = 2.0
"""Mean squared error in scaled units, where predicting the mean has 1, up to which a member may be the worst."""
TIMES_MEDIAN = 10.0
"""And how many times the median member's error it may have."""


class Ensemble(AbstractDynamics):
    """E networks, stacked: every array of `members` has a leading axis E."""

    members: GaussianNetwork
    healthy: Bool[Array, " E"]
    """Which members may speak.  If none may, every prediction is NaN, which no planner takes for a plan."""

    @property
    def size(self) -> int:
        """Number of members E."""
        return self.members.low.shape[0]

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """Mean and variance of the equal mixture of healthy members: mean of variances + variance of means."""
        each = jax.vmap(lambda member: member.predict(x, u, t))(self.members)
        # Apart from each other: in one expression the compiler would round the usual case differently.
        return jax.lax.cond(jnp.all(self.healthy), _whole_mixture, _mixture, each, self.healthy)

    def draw(self, key: RandomKey, particles: int) -> GaussianNetwork:
        """Healthy members, each as often as any other (give or take one), in random order."""
        order = jr.permutation(key, self.size)
        # The healthy ones first, otherwise in the same order.
        speaks, count = self.healthy[order], jnp.sum(self.healthy)
        order = order.at[jnp.where(speaks, jnp.cumsum(speaks) - 1, count + jnp.cumsum(~speaks) - 1)].set(order)
        index = order[jnp.arange(particles) % jnp.maximum(count, 1)]
        drawn = jax.tree.map(lambda leaf: leaf[index], self.members)
        silent = jnp.where(count > 0, drawn.outputs.mean, jnp.nan)
        return eqx.tree_at(lambda m: m.outputs.mean, drawn, silent)


def _whole_mixture(each: DiagonalGaussian, healthy: Bool[Array, " E"]) -> DiagonalGaussian:
    """The equal mixture of all rows of `each` [E, k]."""
    del healthy
    variance = jnp.mean(each.std**2, axis=0) + jnp.var(each.mean, axis=0)
    return DiagonalGaussian(jnp.mean(each.mean, axis=0), jnp.sqrt(variance))


def _mixture(each: DiagonalGaussian, healthy: Bool[Array, " E"]) -> DiagonalGaussian:
    """The equal mixture of the healthy rows of `each` [E, k]."""
    mean_of = lambda v: jnp.sum(jnp.where(healthy[:, None], v, 0.0), axis=0) / jnp.sum(healthy, dtype=v.dtype)
    mean = mean_of(each.mean)
    return DiagonalGaussian(mean, jnp.sqrt(mean_of(each.std**2) + mean_of((each.mean - mean) ** 2)))


class FittedEnsemble(AbstractFitted):
    """An ensemble with its optimiser's state and the key of its bootstrap, which stays the same from fit to fit."""

    model: Ensemble
    optimiser: PyTree
    bootstrap: RandomKey


class EnsembleLearner(AbstractLearner[FittedEnsemble]):
    """Maximum likelihood by Adam, warm-started, in one compiled call of fixed length.

    The loss of a member is mean[w ((mu - y)^2/sigma^2 + log sigma^2)] over batch and outputs, with w = sigma^(2 beta)
    taken as a constant (Seitzer et al. 2022), plus weight decay on the weights and 0.01 (sum high - sum low) on the
    variance bounds, all in scaled units (Chua et al. 2018).
    """

    members: int = 5
    width: int = 64
    depth: int = 2
    gradient_steps: int = 1000
    """Budget of one fit, whatever the size of the data."""
    batch: int = 32
    learning_rate: float = 3e-3
    final_rate: float = 1.0
    """Fraction of the learning rate at the end of a fit (cosine in between)."""
    weight_decay: float = 1e-3
    variance_weight: float = 0.5
    """beta of the beta-NLL loss: 0 is maximum likelihood, 1 weighs squared errors equally."""
    bootstrap: bool = False
    """Whether each member sees its own resample of the rows, at the price of a third of them.  Off by default: members
    already differ by their initial weights and batches."""
    holdout: float = 0.05
    """Fraction of rows that no member sees, for the hold-out metrics (with a bootstrap each member has more)."""

    def init(self, spec: Spec, key: RandomKey) -> FittedEnsemble:
        """Random members."""
        return _init(self, spec, key)

    def fit(self, fitted: FittedEnsemble, data: Dataset, key: RandomKey) -> tuple[FittedEnsemble, Metrics]:
        """Refit the scalers, then take `gradient_steps` steps from the parameters at hand.

        A member that is not healthy, or not finite, when the fit begins starts anew.  One that is not finite or absurd
        when it ends keeps (or gets back) finite parameters and is left out until the next fit; `dropped` counts them.
        If none is healthy the fit has `failed`, and the model from before it is kept.
        """
        return _fit(self, _mended(self, fitted, key), data, key)


def _split(members: GaussianNetwork) -> tuple[PyTree, PyTree]:
    """(what gradient descent changes, the rest): the scalers are computed, not learned."""
    trainable = jax.tree.map(eqx.is_array, members)
    frozen = jax.tree.map(lambda _: False, (members.inputs, members.outputs))
    trainable = eqx.tree_at(lambda m: (m.inputs, m.outputs), trainable, frozen)
    return eqx.partition(members, trainable)


def _row_weights(learner: EnsembleLearner, key: RandomKey, use: Bool[Array, " C"]) -> Float[Array, "C E"]:
    """How often each member counts each row: Poisson(1) for a bootstrap, as a resample of the whole data would give."""
    k_boot, k_hold = jr.split(key)
    weight = jnp.ones((use.shape[0], learner.members), jnp.float32)
    if learner.bootstrap:
        # The quantile function of Poisson(1), by its first seven values of the distribution function.
        steps = jnp.asarray([0.36787944, 0.73575888, 0.91969860, 0.98101184, 0.99634015, 0.99940582], jnp.float32)
        uniform = jr.uniform(k_boot, weight.shape, jnp.float32)
        weight = jnp.sum(uniform[..., None] > steps, axis=-1).astype(jnp.float32)
    if learner.holdout > 0.0:
        kept = jr.uniform(k_hold, use.shape, jnp.float32) >= learner.holdout
        weight = weight * kept[:, None]
    weight = weight * use[:, None]
    # A member that drew nothing at all (very few rows) sees everything.
    return jnp.where(jnp.sum(weight, axis=0) > 0.0, weight, use[:, None].astype(jnp.float32))


def _sample_rows(weight: Float[Array, "C E"], key: RandomKey, shape: tuple[int, int]) -> Int[Array, "S B E"]:
    """Row indices, drawn in proportion to the weights by inversion of their running sum."""
    steps, batch = shape
    running = jnp.cumsum(weight, axis=0)
    uniform = jr.uniform(key, (weight.shape[1], steps * batch), jnp.float32)
    pick = jax.vmap(lambda r, v: jnp.searchsorted(r, v * r[-1], side="right"))
    index = pick(running.T, uniform).astype(jnp.int32)
    index = jnp.minimum(index, weight.shape[0] - 1)
    return jnp.transpose(index.reshape(weight.shape[1], steps, batch), (1, 2, 0))


def _member_loss(
    trained: PyTree, rest: PyTree, z: Float[Array, "B f"], y: Float[Array, "B k"], learner: EnsembleLearner
) -> Float[Array, ""]:
    member = eqx.combine(trained, rest)
    mean, variance = jax.vmap(member.heads)(z)
    # Plain likelihood divides each gradient by its variance: what is learned first is learned ever more, and the rest
    # is explained away as noise.  The weight sigma^(2 beta), not differentiated, undoes that.
    weight = jax.lax.stop_gradient(variance) ** learner.variance_weight
    fit = jnp.mean(weight * ((mean - y) ** 2 / variance + jnp.log(variance)))
    decay = sum(jnp.sum(layer.weight**2) for layer in member.layers)
    return fit + 0.5 * learner.weight_decay * decay + 0.01 * (jnp.sum(member.high) - jnp.sum(member.low))


@eqx.filter_jit
def _init(learner: EnsembleLearner, spec: Spec, key: RandomKey) -> FittedEnsemble:
    k_members, k_bootstrap = jr.split(key)
    build = lambda k: init_network(spec, learner.width, learner.depth, k)
    members = eqx.filter_vmap(build)(jr.split(k_members, learner.members))
    trained, _ = _split(members)
    healthy = jnp.ones((learner.members,), bool)
    return FittedEnsemble(Ensemble(members, healthy), jax.vmap(optax.scale_by_adam().init)(trained), k_bootstrap)


@eqx.filter_jit
def _fit(
    learner: EnsembleLearner, fitted: FittedEnsemble, data: Dataset, key: RandomKey
) -> tuple[FittedEnsemble, Metrics]:
    members, spec = fitted.model.members, fitted.model.members.spec
    use = jnp.arange(data.capacity) < data.count
    extras = jnp.stack([data.reward, data.terminated.astype(data.reward.dtype)], axis=1)[:, : spec.extras]
    raw_in = jax.vmap(lambda x, u: features(spec, x, u))(data.x, data.u)
    raw_out = jax.vmap(lambda x, y, e: targets(spec, x, y, e))(data.x, data.y, extras)
    inputs, outputs = fit_scaler(raw_in, use), fit_scaler(raw_out, use)
    z = jax.vmap(inputs.scale)(raw_in).astype(jnp.float32)
    y = jax.vmap(outputs.scale)(raw_out).astype(jnp.float32)
    stacked = jax.tree.map(lambda v: jnp.broadcast_to(v, (learner.members, *v.shape)), (inputs, outputs))
    members = eqx.tree_at(lambda m: (m.inputs, m.outputs), members, stacked)

    weight = _row_weights(learner, fitted.bootstrap, use)
    rows = _sample_rows(weight, key, (learner.gradient_steps, learner.batch))
    trained, rest = _split(members)
    optimiser = optax.scale_by_adam()
    gradient = jax.vmap(jax.value_and_grad(_member_loss), in_axes=(0, 0, 1, 1, None))

    def descend(carry, inputs):
        trained, state = carry
        index, step = inputs
        loss, grads = gradient(trained, rest, z[index], y[index], learner)
        updates, state = jax.vmap(optimiser.update)(grads, state)
        phase = 0.5 * (1.0 + jnp.cos(jnp.pi * step / learner.gradient_steps))
        rate = learner.learning_rate * (learner.final_rate + (1.0 - learner.final_rate) * phase)
        trained = jax.tree.map(lambda p, g: p - rate * g, trained, updates)
        return (trained, state), loss

    steps = jnp.arange(learner.gradient_steps, dtype=jnp.float32)
    (trained, state), losses = jax.lax.scan(descend, (trained, fitted.optimiser), (rows, steps))
    after = FittedEnsemble(Ensemble(eqx.combine(trained, rest), fitted.model.healthy), state, fitted.bootstrap)
    unseen = use[:, None] & (weight == 0.0)
    square, nll = _errors(after.model.members, z, y)
    after, verdict = _judged(after, fitted, jnp.where(use, square, 0.0), use)
    holdout = {"holdout_mse": _average(square, unseen), "holdout_nll": _average(nll, unseen)}
    return after, {"loss": jnp.mean(losses[-50:]), **holdout, **verdict}


def _mended(learner: EnsembleLearner, fitted: FittedEnsemble, key: RandomKey) -> FittedEnsemble:
    """The state with every member anew that is not healthy or not finite.

    Outside the compiled fit, whose program would take twice as long to make for something that hardly ever happens;
    `_init` was compiled before, and the rest is NumPy's.
    """
    sound = np.asarray(fitted.model.healthy) & np.asarray(_finite(np, (fitted.model.members, fitted.optimiser)))
    if sound.all():
        return fitted
    # A key of its own: the rows that a fit draws must not depend on whether somebody was sick.
    fresh = _init(learner, fitted.model.members.spec, jr.fold_in(key, 1))
    changed = lambda tree: (tree.model.members, tree.optimiser)
    rows = jax.tree.map(jnp.asarray, _per_member(np, sound, changed(fitted), changed(fresh)))
    # Who starts anew may not speak before the fit has judged it.
    return eqx.tree_at(lambda f: (*changed(f), f.model.healthy), fitted, (*rows, jnp.asarray(sound)))


def _judged(
    after: FittedEnsemble, before: FittedEnsemble, square: Float[Array, "E C"], use: Bool[Array, " C"]
) -> tuple[FittedEnsemble, Metrics]:
    """The fitted state with its verdict: who is healthy, and finite parameters for those who are not."""
    mse = jnp.sum(square, axis=1) / jnp.maximum(jnp.sum(use), 1)
    finite = _finite(jnp, (after.model.members, after.optimiser)) & jnp.isfinite(mse)
    healthy = finite & ((mse <= ABSURD) | (mse <= TIMES_MEDIAN * _lower_median(mse, finite)))
    # Some finite member is always healthy, so that without one everything is as it was before.
    failed = ~jnp.any(finite)
    healthy = jnp.where(failed, before.model.healthy, healthy)
    changed = lambda tree: (tree.model.members, tree.optimiser)
    members, optimiser = _per_member(jnp, finite, changed(after), changed(before))
    metrics = {"dropped": jnp.sum(~(finite & healthy), dtype=jnp.int32), "failed": failed}
    return FittedEnsemble(Ensemble(members, healthy), optimiser, after.bootstrap), metrics


def _lower_median(values: Float[Array, " E"], among: Bool[Array, " E"]) -> Float[Array, ""]:
    """The median of some values, of an even number the lower one: of two members the worse is not its own measure."""
    values = jnp.where(among, values, jnp.inf)
    # Without a sort, which would take longer to compile than all the rest of the verdict.
    not_above = jnp.sum(values[None, :] <= values[:, None], axis=1)
    return jnp.min(jnp.where(2 * not_above >= jnp.sum(among), values, jnp.inf))


def _finite(xp: Any, tree: PyTree) -> Any:
    """Which members [E] have nothing but finite numbers, over arrays with a leading axis E; xp is numpy or jax's."""
    rows = [xp.isfinite(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    return xp.all(xp.concatenate(rows, axis=1), axis=1)


def _per_member(xp: Any, flag: Any, new: PyTree, old: PyTree) -> PyTree:
    """Rows of `new` where the flag [E] is true, of `old` where not."""
    choose = lambda a, b: xp.where(flag.reshape(-1, *[1] * (a.ndim - 1)), a, b) if eqx.is_array(a) else a
    return jax.tree.map(choose, new, old)


def _errors(
    members: GaussianNetwork, z: Float[Array, "C f"], y: Float[Array, "C k"]
) -> tuple[Float[Array, "E C"], Float[Array, "E C"]]:
    """Squared error and negative log-likelihood of each member on each row, means over outputs, in scaled units."""
    mean, variance = jax.vmap(jax.vmap(GaussianNetwork.heads, in_axes=(None, 0)), in_axes=(0, None))(members, z)
    square = jnp.mean((mean - y) ** 2, axis=-1)
    return square, 0.5 * jnp.mean((mean - y) ** 2 / variance + jnp.log(2.0 * jnp.pi * variance), axis=-1)


def _average(value: Float[Array, "E C"], rows: Bool[Array, "C E"]) -> Float[Array, " E"]:
    """Per member, over these rows; NaN where there is none: no number is better than a flattering one."""
    count = jnp.sum(rows, axis=0)
    total = jnp.sum(jnp.where(rows.T, value, 0.0), axis=1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
