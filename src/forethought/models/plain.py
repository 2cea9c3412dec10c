"""The plain network: the lecture's first model, which learns by the squared error alone."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PyTree

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner, AbstractPrediction
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.math.layers import Layer, init_layers, through
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, feature_count, identity_scaler
from forethought.models.network import ends
from forethought.models.table import need_sizes
from forethought.models.training import (
    Trained,
    begin,
    decay,
    descend,
    holdout_metrics,
    judged,
    mended,
    row_weights,
    scaled_rows,
    with_scalers,
)
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time

LEAST_NOISE = 1e-3
"""The smallest standard deviation that residuals may claim, in scaled units."""
ENOUGH_UNSEEN = 10
"""With fewer rows than this held out, the noise is estimated from all rows: a guess from a handful is worse."""


class PointNetwork(eqx.Module):
    """y - [x; 0] = unscale(MLP(scale(features(x, u))))."""

    layers: tuple[Layer, ...]
    inputs: Scaler
    outputs: Scaler
    spec: Spec


class PlainNetwork(AbstractDynamics):
    """p(y|x,u) = N([x; 0] + unscale(MLP(scale(features(x, u)))), diag(noise^2)), the same noise everywhere."""

    network: PointNetwork
    noise: Float[Array, " k"]
    """Standard deviation of the residuals in scaled units."""

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """N(mean, std^2) of [next state; extras], float32."""
        del t  # the system is taken to be the same at all times
        net = self.network
        base, z = ends(net.spec, x, u)
        change = net.outputs.unscale(through(net.layers, net.inputs.scale(z)))
        return wrapped(DiagonalGaussian(base + change, net.outputs.std * self.noise), net.spec.angles)

    def draw(self, key: RandomKey, particles: int) -> PlainNetwork:
        """Copies: one network has no doubt about itself."""
        del key
        return copies(self, particles)


class FittedNetwork(AbstractFitted):
    """A plain network with its optimiser's state and the key of its hold-out, which stays the same from fit to fit."""

    model: PlainNetwork
    optimiser: PyTree
    held: RandomKey


class NetworkLearner(AbstractLearner[FittedNetwork]):
    """Least squares by Adam, warm-started, in one compiled call of fixed length.

    The loss is mean (mu - y)^2 over batch and outputs plus weight decay, in scaled units.  The noise is the root mean
    square of the residuals per output, on rows that were held out if there are enough, otherwise on all.
    """

    width: int = 64
    depth: int = 2
    gradient_steps: int = 1000
    """Budget of one fit, whatever the size of the data."""
    batch: int = 32
    learning_rate: float = 3e-3
    final_rate: float = 1.0
    """Fraction of the learning rate at the end of a fit (cosine in between)."""
    weight_decay: float = 1e-3
    holdout: float = 0.05
    """Fraction of rows that the network does not learn from, for the noise and the hold-out metrics."""

    def init(self, spec: Spec, key: RandomKey) -> FittedNetwork:
        """A random network with noise as large as the data's spread."""
        return _init(self, spec, key)

    def fit(self, fitted: FittedNetwork, data: Dataset, key: RandomKey) -> tuple[FittedNetwork, Metrics]:
        """Refit the scalers, then take `gradient_steps` steps from the parameters at hand.

        A network that is not finite when the fit begins starts anew; if it is not when the fit ends, or if there are no
        data, the fit has `failed` and the model from before it is kept.
        """
        spec = fitted.model.network.spec
        need_sizes(spec, data)
        anew = lambda: _parts(_init(self, spec, jr.fold_in(key, 1)))
        start, _ = mended(_parts(fitted), jnp.ones((1,), bool), anew)
        return _fit(self, _whole(start, fitted.model.noise, fitted.held), data, key)


def _parts(fitted: FittedNetwork) -> Trained:
    """The one network as a member among E = 1."""
    return Trained(jax.tree.map(lambda v: v[None], fitted.model.network), fitted.optimiser)


def _whole(only: Trained, noise: Float[Array, " k"], held: RandomKey) -> FittedNetwork:
    return FittedNetwork(PlainNetwork(jax.tree.map(lambda v: v[0], only.members), noise), only.optimiser, held)


@eqx.filter_jit
def _init(learner: NetworkLearner, spec: Spec, key: RandomKey) -> FittedNetwork:
    k_layers, k_held = jr.split(key)
    inputs = feature_count(spec)
    layers = init_layers([inputs, *[learner.width] * learner.depth, spec.outputs], k_layers)
    network = PointNetwork(layers, identity_scaler(inputs), identity_scaler(spec.outputs), spec)
    start = begin(jax.tree.map(lambda v: v[None], network))
    return _whole(start, jnp.ones((spec.outputs,), jnp.float32), k_held)


@eqx.filter_jit
def _fit(
    learner: NetworkLearner, fitted: FittedNetwork, data: Dataset, key: RandomKey
) -> tuple[FittedNetwork, Metrics]:
    before = _parts(fitted)
    rows = scaled_rows(before.members.spec, data)
    start = Trained(with_scalers(before.members, rows, 1), before.optimiser)
    weight = row_weights(fitted.held, rows.use, members=1, holdout=learner.holdout)
    after, losses = descend(learner, lambda *a: _loss(learner, *a), start, rows, weight, key)
    layers = jax.tree.map(lambda v: v[0], after.members.layers)
    square = (jax.vmap(lambda z: through(layers, z))(rows.z) - rows.y) ** 2
    each = jnp.mean(square, axis=1)[None]
    kept, _, verdict = judged(after, before, jnp.ones((1,), bool), each, rows.use)
    unseen = rows.use & (weight[:, 0] == 0.0)
    among = jnp.where(jnp.sum(unseen) >= ENOUGH_UNSEEN, unseen, rows.use)[:, None]
    variance = jnp.sum(jnp.where(among, square, 0.0), axis=0) / jnp.maximum(jnp.sum(among), 1)
    noise = jnp.maximum(jnp.sqrt(variance), LEAST_NOISE).astype(jnp.float32)
    nll = 0.5 * jnp.mean(square / noise**2 + jnp.log(2.0 * jnp.pi * noise**2), axis=1)[None]
    old = jnp.where(jnp.isfinite(fitted.model.noise), fitted.model.noise, 1.0)
    noise = jnp.where(verdict["failed"], old, noise)
    metrics = {"loss": jnp.mean(losses[-50:]), **holdout_metrics(each, nll, rows, weight), **verdict}
    return _whole(kept, noise, fitted.held), metrics


def _loss(
    learner: NetworkLearner, member: PointNetwork, z: Float[Array, "B f"], y: Float[Array, "B k"]
) -> Float[Array, ""]:
    mean = jax.vmap(lambda v: through(member.layers, v))(z)
    return jnp.mean((mean - y) ** 2) + 0.5 * learner.weight_decay * decay(member.layers)
