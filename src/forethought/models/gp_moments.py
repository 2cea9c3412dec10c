"""A Gaussian through a `GaussianProcess` model: what its belief about one state makes of the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.errors import UserError
from forethought.math.finite import need_x64
from forethought.math.moments import Moments
from forethought.math.moments_gp import SEPosterior, se_moments
from forethought.models.gp import GaussianProcess
from forethought.types import Array


def se_posterior(model: GaussianProcess, outputs: int | None = None) -> SEPosterior:
    """The first `outputs` processes of the model (None: all) in units of features and targets.

    Make it once and use it for all steps: the inverse in it takes O(k c^3).  Raises `UserError` for a covariance
    function other than the squared exponential, and where jax has 64-bit off.
    """
    need_x64("Moment matching")
    if model.kind != "se":
        raise UserError(
            f"The Gaussian process has the covariance function {model.kind}; moments of a Gaussian input have a closed "
            "form for se, the squared exponential: fit it with that one."
        )
    few = jax.tree.map(lambda leaf: leaf[:outputs], (model.lengths, model.signal, model.centres, model.weights))
    lengths, signal, centres, weights = few
    std = model.outputs.std[:outputs]
    root = model.root[:outputs] / std[:, None, None]
    return SEPosterior(
        centres=centres,
        lengths=lengths * model.inputs.std,
        signal=signal * std,
        weights=weights / std[:, None],
        root=root,
        inverse=jnp.einsum("kji,kjl->kil", root, root, precision="highest"),
        origin=model.inputs.mean,
        offset=model.outputs.mean[:outputs],
    )


def noise_variance(model: GaussianProcess) -> Float[Array, " k"]:
    """Variance of the observations around the functions, in units of the targets."""
    return (model.noise * model.outputs.std) ** 2


def moments(model: GaussianProcess, mean: Float[Array, " f"], cov: Float[Array, "f f"]) -> Moments:
    """Of the model's outputs (change of state, then extras) for features ~ N(mean, cov), noise left out.

    `Moments.slope` is E[d outputs / d features]; errors are those of `se_posterior`.
    """
    return se_moments(se_posterior(model), mean, cov)
