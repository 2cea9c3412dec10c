"""The probabilistic ensemble: Gaussian networks that agree where there are data and differ where there are none."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Bool, Float, Int, PyTree

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner
from forethought.math.gaussian import DiagonalGaussian
from forethought.models.network import GaussianNetwork, init_network
from forethought.models.scaling import features, fit_scaler, targets
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time


class Ensemble(AbstractDynamics):
    """E networks, stacked: every array of `members` has a leading axis E."""

    members: GaussianNetwork

    @property
    def size(self) -> int:
        """Number of members E."""
        return self.members.low.shape[0]

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """Mean and variance of the equal mixture: var = mean of variances + variance of means."""
        each = jax.vmap(lambda member: member.predict(x, u, t))(self.members)
        variance = jnp.mean(each.std**2, axis=0) + jnp.var(each.mean, axis=0)
        return DiagonalGaussian(jnp.mean(each.mean, axis=0), jnp.sqrt(variance))

    def draw(self, key: RandomKey, particles: int) -> GaussianNetwork:
        """Members, each as often as any other (give or take one), in random order."""
        index = jr.permutation(key, self.size)[jnp.arange(particles) % self.size]
        return jax.tree.map(lambda leaf: leaf[index], self.members)


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
        """Refit the scalers, then take `gradient_steps` steps from the parameters at hand."""
        return _fit(self, fitted, data, key)


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
    return FittedEnsemble(Ensemble(members), jax.vmap(optax.scale_by_adam().init)(trained), k_bootstrap)


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
    members = eqx.combine(trained, rest)
    metrics = {"loss": jnp.mean(losses[-50:]), **_holdout_metrics(members, z, y, use[:, None] & (weight == 0.0))}
    return FittedEnsemble(Ensemble(members), state, fitted.bootstrap), metrics


def _holdout_metrics(
    members: GaussianNetwork, z: Float[Array, "C f"], y: Float[Array, "C k"], unseen: Bool[Array, "C E"]
) -> Metrics:
    """Per member, on rows it has not seen: mean squared error and negative log-likelihood per output, scaled units.

    NaN where a member has seen every row: no number is better than a flattering one.
    """
    mean, variance = jax.vmap(jax.vmap(GaussianNetwork.heads, in_axes=(None, 0)), in_axes=(0, None))(members, z)
    square = jnp.mean((mean - y) ** 2, axis=-1)
    nll = 0.5 * jnp.mean((mean - y) ** 2 / variance + jnp.log(2.0 * jnp.pi * variance), axis=-1)
    count = jnp.sum(unseen, axis=0)
    average = lambda value: jnp.where(
        count > 0, jnp.sum(jnp.where(unseen.T, value, 0.0), axis=1) / jnp.maximum(count, 1), jnp.nan
    )
    return {"holdout_mse": average(square), "holdout_nll": average(nll)}
