"""The probabilistic ensemble: Gaussian networks that agree where there are data and differ where there are none.

One member that goes wrong must not spoil the others: each is judged after every fit, and predictions and plans are made
of the healthy ones.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, PyTree

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner, AbstractPrediction
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.models.network import GaussianNetwork, init_network
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


class Ensemble(AbstractDynamics):
    """E networks, stacked: every array of `members` has a leading axis E."""

    members: GaussianNetwork
    healthy: Bool[Array, " E"]
    """Which members may speak.  If none may, every prediction is NaN, which no planner takes for a plan."""

    @property
    def size(self) -> int:
        """Number of members E."""
        return self.members.low.shape[0]

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """Mean and variance of the equal mixture of healthy members: mean of variances + variance of means."""
        del t
        each = jax.vmap(lambda member: member.said(x, u))(self.members)
        # Apart from each other: in one expression the compiler would round the usual case differently.
        mixed = jax.lax.cond(jnp.all(self.healthy), _whole_mixture, _mixture, each, self.healthy)
        return wrapped(mixed, self.members.spec.angles)

    def draw(self, key: RandomKey, particles: int) -> GaussianNetwork:
        """Healthy members, each as often as any other (give or take one), in random order."""
        return draw_members(self.members, self.healthy, key, particles)


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
        spec = fitted.model.members.spec
        need_sizes(spec, data)
        # A key of its own: the rows that a fit draws must not depend on whether somebody was sick.
        anew = lambda: _parts(_init(self, spec, jr.fold_in(key, 1)))
        start, healthy = mended(_parts(fitted), fitted.model.healthy, anew)
        return _fit(
            self, FittedEnsemble(Ensemble(start.members, healthy), start.optimiser, fitted.bootstrap), data, key
        )


def _parts(fitted: FittedEnsemble) -> Trained:
    return Trained(fitted.model.members, fitted.optimiser)


@eqx.filter_jit
def _init(learner: EnsembleLearner, spec: Spec, key: RandomKey) -> FittedEnsemble:
    k_members, k_bootstrap = jr.split(key)
    build = lambda k: init_network(spec, learner.width, learner.depth, k)
    start = begin(eqx.filter_vmap(build)(jr.split(k_members, learner.members)))
    healthy = jnp.ones((learner.members,), bool)
    return FittedEnsemble(Ensemble(start.members, healthy), start.optimiser, k_bootstrap)


@eqx.filter_jit
def _fit(
    learner: EnsembleLearner, fitted: FittedEnsemble, data: Dataset, key: RandomKey
) -> tuple[FittedEnsemble, Metrics]:
    before = _parts(fitted)
    rows = scaled_rows(before.members.spec, data)
    start = Trained(with_scalers(before.members, rows, learner.members), before.optimiser)
    who = {"members": learner.members, "holdout": learner.holdout, "bootstrap": learner.bootstrap}
    weight = row_weights(fitted.bootstrap, rows.use, **who)
    after, losses = descend(learner, lambda *a: _loss(learner, *a), start, rows, weight, key)
    square, nll = _errors(after.members, rows.z, rows.y)
    kept, healthy, verdict = judged(after, before, fitted.model.healthy, square, rows.use)
    metrics = {"loss": jnp.mean(losses[-50:]), **holdout_metrics(square, nll, rows, weight), **verdict}
    return FittedEnsemble(Ensemble(kept.members, healthy), kept.optimiser, fitted.bootstrap), metrics


def _loss(
    learner: EnsembleLearner, member: GaussianNetwork, z: Float[Array, "B f"], y: Float[Array, "B k"]
) -> Float[Array, ""]:
    mean, variance = jax.vmap(member.heads)(z)
    # Plain likelihood divides each gradient by its variance: what is learned first is learned ever more, and the rest
    # is explained away as noise.  The weight sigma^(2 beta), not differentiated, undoes that.
    weight = jax.lax.stop_gradient(variance) ** learner.variance_weight
    fit = jnp.mean(weight * ((mean - y) ** 2 / variance + jnp.log(variance)))
    bounds = 0.01 * (jnp.sum(member.high) - jnp.sum(member.low))
    return fit + 0.5 * learner.weight_decay * decay(member.layers) + bounds


def _errors(
    members: GaussianNetwork, z: Float[Array, "C f"], y: Float[Array, "C k"]
) -> tuple[Float[Array, "E C"], Float[Array, "E C"]]:
    """Squared error and negative log-likelihood of each member on each row, means over outputs, in scaled units."""
    mean, variance = jax.vmap(jax.vmap(GaussianNetwork.heads, in_axes=(None, 0)), in_axes=(0, None))(members, z)
    square = jnp.mean((mean - y) ** 2, axis=-1)
    return square, 0.5 * jnp.mean((mean - y) ** 2 / variance + jnp.log(2.0 * jnp.pi * variance), axis=-1)
