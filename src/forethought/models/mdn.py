"""The mixture density network: for systems that go one way or another, where a mean lies where nothing ever lands."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, PyTree

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner, AbstractPrediction
from forethought.math.gaussian import wrapped
from forethought.math.layers import Layer, init_layers, through
from forethought.math.mixture import MixtureOfGaussians, mixture
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, feature_count, identity_scaler
from forethought.models.network import bounded_variance, ends
from forethought.models.table import need_sizes
from forethought.models.training import (
    Trained,
    begin,
    decay,
    descend,
    draw_members,
    holdout_metrics,
    judged,
    mended,
    row_weights,
    scaled_rows,
    with_scalers,
)
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time

LOW = 2.0 * float(np.log(1e-3))
"""Logarithm of the smallest variance in scaled units: a component that closes in on one row must stop somewhere."""
HIGH = 0.5
"""And of the largest; the data have variance 1."""


class Heads(eqx.Module):
    """A mixture of K Gaussians in scaled targets, as the network gives it."""

    logits: Float[Array, " K"]
    means: Float[Array, "K k"]
    scales: Float[Array, "K k"]
    """Diagonals of the Cholesky factors L."""
    below: Float[Array, "K k k"] | None
    """L diag(1/scales) below its diagonal, 0 elsewhere; None for diagonal covariances."""

    @property
    def log_weights(self) -> Float[Array, " K"]:
        """Logarithms of the weights, without ever computing one."""
        return jax.nn.log_softmax(self.logits)

    @property
    def factors(self) -> Float[Array, "K k k"] | Float[Array, "K k"]:
        """The factors L, or the standard deviations."""
        if self.below is None:
            return self.scales
        return (self.below + jnp.eye(self.scales.shape[1], dtype=self.scales.dtype)) * self.scales[:, None, :]

    def whitened(self, y: Float[Array, " k"]) -> Float[Array, "K k"]:
        """L^-1 (y - means)."""
        away = y - self.means
        if self.below is None:
            return away / self.scales
        # Forward substitution, written out: a call of a solver would take longer than all the layers.
        for j in range(away.shape[1] - 1):
            away = away - self.below[:, :, j] * away[:, j : j + 1]
        return away / self.scales


class MixtureNetwork(AbstractDynamics):
    """p(y|x,u) = sum_k w_k N([x; 0] + unscale(mu_k), S_k) with (w, mu, S) from MLP(scale(features(x, u)))."""

    layers: tuple[Layer, ...]
    inputs: Scaler
    outputs: Scaler
    spec: Spec
    components: int = eqx.field(static=True)
    full: bool = eqx.field(static=True)

    def heads(self, z: Float[Array, " f"]) -> Heads:
        """The mixture in scaled targets at a scaled input."""
        k, count = self.spec.outputs, self.components
        ends_at = np.cumsum([count, count * k, count * k])
        logits, means, v, rest = jnp.split(through(self.layers, z), ends_at)
        scales = jnp.sqrt(bounded_variance(v.reshape(count, k), LOW, HIGH))
        below = None
        if self.full:
            row, column = np.tril_indices(k, -1)
            below = jnp.zeros((count, k, k), z.dtype).at[:, row, column].set(rest.reshape(count, -1))
        return Heads(logits, means.reshape(count, k), scales, below)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """The mixture over [next state; extras], float32."""
        del t  # the system is taken to be the same at all times
        return wrapped(self.said(x, u), self.spec.angles)

    def said(self, x: State, u: Action) -> MixtureOfGaussians:
        """The same with angles on the line, where members can be put together."""
        base, z = ends(self.spec, x, u)
        heads = self.heads(self.inputs.scale(z))
        std = self.outputs.std[:, None] if self.full else self.outputs.std
        means = base + jax.vmap(self.outputs.unscale)(heads.means)
        return mixture(heads.log_weights, means, std * heads.factors)

    def draw(self, key: RandomKey, particles: int) -> MixtureNetwork:
        """Copies: one network has no doubt about itself."""
        del key
        return copies(self, particles)


class MixtureEnsemble(AbstractDynamics):
    """E mixture networks, stacked: every array of `members` has a leading axis E, which is 1 unless asked for more."""

    members: MixtureNetwork
    healthy: Bool[Array, " E"]
    """Which members may speak.  If none may, every prediction is NaN, which no planner takes for a plan."""

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """The components of all healthy members in one mixture, members weighted equally."""
        del t
        each = jax.vmap(lambda member: member.said(x, u))(self.members)
        # What a member that may not speak says need not be finite, and 0 times that is not 0.
        quiet = lambda v, silent: jnp.where(self.healthy.reshape(-1, *[1] * (v.ndim - 1)), v, silent)
        share = jnp.log(jnp.sum(self.healthy, dtype=jnp.float32))
        log_weights = jnp.where(jnp.any(self.healthy), quiet(each.log_weights - share, -jnp.inf), jnp.nan)
        flat = lambda v: v.reshape(-1, *v.shape[2:])
        whole = mixture(flat(log_weights), flat(quiet(each.means, 1.0)), flat(quiet(each.factors, 1.0)))
        return wrapped(whole, self.members.spec.angles)

    def draw(self, key: RandomKey, particles: int) -> MixtureNetwork:
        """Healthy members, each as often as any other (give or take one): copies, if there is one."""
        return draw_members(self.members, self.healthy, key, particles)


class FittedMixture(AbstractFitted):
    """Mixture networks with their optimiser's state and the key of their hold-out, the same from fit to fit."""

    model: MixtureEnsemble
    optimiser: PyTree
    held: RandomKey


class MDNLearner(AbstractLearner[FittedMixture]):
    """Maximum likelihood of a mixture by Adam, warm-started, in one compiled call of fixed length (Bishop 1994).

    The loss is -2/k log sum_c exp(log w_c + log N_c) without its constant, a mean over batch and k outputs, so that one
    component has the loss of a member of the ensemble; plus weight decay, and a price on components that nobody uses.
    """

    components: int = 4
    """Gaussians in each mixture; one more than there are ways does no harm."""
    full: bool = False
    """Full covariances instead of diagonal ones: which noises come together, at some price in time."""
    members: int = 1
    """Networks that differ in their initial weights and batches: more than one doubts where there are no data."""
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
    usage: float = 0.002
    """Price of small mean weights: minus their mean logarithm over components.  It keeps components from dying out: one
    that has nothing to do has a weight of about usage k/(2 K), and its share of the samples."""
    holdout: float = 0.05
    """Fraction of rows that no member sees, for the hold-out metrics."""

    def init(self, spec: Spec, key: RandomKey) -> FittedMixture:
        """Random members, whose components lie apart from each other."""
        return _init(self, spec, key)

    def fit(self, fitted: FittedMixture, data: Dataset, key: RandomKey) -> tuple[FittedMixture, Metrics]:
        """Refit the scalers, then take `gradient_steps` steps from the parameters at hand.

        A member that is not healthy, or not finite, when the fit begins starts anew.  One that is not finite or absurd
        when it ends keeps (or gets back) finite parameters and is left out until the next fit; `dropped` counts them.
        If none is healthy, or there are no data, the fit has `failed`, and the model from before it is kept.
        `least_used` is the mean weight of the component that each member uses least.
        """
        spec = fitted.model.members.spec
        need_sizes(spec, data)
        anew = lambda: _parts(_init(self, spec, jr.fold_in(key, 1)))
        start, healthy = mended(_parts(fitted), fitted.model.healthy, anew)
        return _fit(
            self, FittedMixture(MixtureEnsemble(start.members, healthy), start.optimiser, fitted.held), data, key
        )


def init_mixture_network(learner: MDNLearner, spec: Spec, key: RandomKey) -> MixtureNetwork:
    """A network before training: in each output the components' means are spread over [-1, 1], in random order."""
    k_layers, k_spread, k_place = jr.split(key, 3)
    inputs, k, count = feature_count(spec), spec.outputs, learner.components
    below = count * k * (k - 1) // 2 if learner.full else 0
    layers = init_layers([inputs, *[learner.width] * learner.depth, count * (1 + 2 * k) + below], k_layers)
    # Even strata, but not their middles: two components at (-1, 1) and (1, -1) would be as near to a way at (1, 1) as
    # to one at (-1, -1), and neither would have a reason to take one.
    place = jr.uniform(k_place, (count, k), jnp.float32) if count > 1 else jnp.full((1, k), 0.5, jnp.float32)
    strata = jax.vmap(lambda key: jr.permutation(key, count), out_axes=1)(jr.split(k_spread, k))
    means = 2.0 * (strata + place) / count - 1.0
    bias = jnp.asarray(layers[-1].bias).at[count : count * (1 + k)].set(means.reshape(-1))
    layers = (*layers[:-1], Layer(layers[-1].weight, bias))
    return MixtureNetwork(layers, identity_scaler(inputs), identity_scaler(k), spec, count, learner.full)


def _parts(fitted: FittedMixture) -> Trained:
    return Trained(fitted.model.members, fitted.optimiser)


@eqx.filter_jit
def _init(learner: MDNLearner, spec: Spec, key: RandomKey) -> FittedMixture:
    k_members, k_held = jr.split(key)
    build = lambda k: init_mixture_network(learner, spec, k)
    start = begin(eqx.filter_vmap(build)(jr.split(k_members, learner.members)))
    return FittedMixture(MixtureEnsemble(start.members, jnp.ones((learner.members,), bool)), start.optimiser, k_held)


@eqx.filter_jit
def _fit(learner: MDNLearner, fitted: FittedMixture, data: Dataset, key: RandomKey) -> tuple[FittedMixture, Metrics]:
    before = _parts(fitted)
    rows = scaled_rows(before.members.spec, data)
    start = Trained(with_scalers(before.members, rows, learner.members), before.optimiser)
    weight = row_weights(fitted.held, rows.use, members=learner.members, holdout=learner.holdout)
    after, losses = descend(learner, lambda *a: _loss(learner, *a), start, rows, weight, key)
    heads = jax.vmap(lambda member: jax.vmap(member.heads)(rows.z))(after.members)
    weights = jnp.exp(jax.vmap(jax.vmap(lambda h: h.log_weights))(heads))
    square = jnp.mean((jnp.sum(weights[..., None] * heads.means, axis=2) - rows.y) ** 2, axis=-1)
    nll = jax.vmap(lambda h: jax.vmap(negative_log_likelihood)(h, rows.y))(heads) / rows.y.shape[1]
    kept, healthy, verdict = judged(after, before, fitted.model.healthy, square, rows.use)
    used = jnp.sum(jnp.where(rows.use[:, None], weights, 0.0), axis=1) / jnp.maximum(jnp.sum(rows.use), 1)
    metrics = {"loss": jnp.mean(losses[-50:]), **holdout_metrics(square, nll, rows, weight), **verdict}
    metrics["least_used"] = jnp.min(used, axis=1)
    return FittedMixture(MixtureEnsemble(kept.members, healthy), kept.optimiser, fitted.held), metrics


def negative_log_likelihood(heads: Heads, y: Float[Array, " k"], beta: float = 0.0) -> Float[Array, ""]:
    """-log sum_c exp(log w_c + log N(y; means_c, L_c L_c^T)), never through the logarithm of a plain sum.

    With beta > 0 its value is the same, and its gradient has the term of each component and output weighted by
    L_cii^(2 beta): what the beta-NLL does for one Gaussian (Seitzer et al. 2022).
    """
    each = 0.5 * heads.whitened(y) ** 2 + jnp.log(heads.scales) + 0.5 * jnp.log(2.0 * jnp.pi)
    if beta > 0.0:
        weight = jax.lax.stop_gradient(heads.scales) ** (2.0 * beta)
        each = weight * each + jax.lax.stop_gradient((1.0 - weight) * each)
    return -jax.scipy.special.logsumexp(heads.log_weights - jnp.sum(each, axis=-1))


def _loss(
    learner: MDNLearner, member: MixtureNetwork, z: Float[Array, "B f"], y: Float[Array, "B k"]
) -> Float[Array, ""]:
    heads = jax.vmap(member.heads)(z)
    nll = jnp.mean(jax.vmap(lambda h, v: negative_log_likelihood(h, v, learner.variance_weight))(heads, y))
    total = 2.0 / y.shape[1] * nll + 0.5 * learner.weight_decay * decay(member.layers)
    if learner.components > 1 and learner.usage > 0.0:
        log_used = jax.scipy.special.logsumexp(jax.vmap(lambda h: h.log_weights)(heads), axis=0) - np.log(z.shape[0])
        total = total - learner.usage * jnp.mean(log_used)
    return total
