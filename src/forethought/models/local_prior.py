"""Priors of local dynamics from a global model: what all data say about a step at which there are only a few rollouts.

A mixture is asked for its joint of [state, action, next state] around the rows of a step; any other model for its slope
there, with what it leaves open as the noise.  Both give the mean and covariance of [z; y], z = [x; u], worth as many
rows as the caller chooses.

Levine and Abbeel, NIPS 2014, for the mixture; Fu, Levine and Abbeel, IROS 2016, for the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractDynamics, AbstractPrediction
from forethought.math.finite import need_x64
from forethought.math.gaussian import Wrapped
from forethought.math.linearise import linearise
from forethought.math.local_fit import NIWPrior
from forethought.math.local_rows import LocalRows, Weight, local_rows, same_turn
from forethought.math.mixture import MixtureOfGaussians
from forethought.math.moments import symmetric
from forethought.math.scaling import features
from forethought.models.gmm import GaussianMixture
from forethought.types import Array, Spec, UserError

WIDTH = 0.5
"""Part of the inputs' spread at all steps in that of one step (see `prior_from_model`)."""
LEAST_WIDTH = 1e-3
"""The least spread of an input, in units of its usual spread."""


def prior_from(
    model: AbstractDynamics,
    z: Float[Array, "T N d"],
    y: Float[Array, "T N n"],
    weight: Weight,
    *,
    strength_mean: float = 1.0,
    strength_cov: float = 1.0,
    angles: Sequence[int] = (),
) -> NIWPrior:
    """The prior of `fit_bayesian` that a model gives at the rows: of a mixture its joint, of any other its slope.

    `strength_mean` and `strength_cov` are kappa0 and n0, in rows.  `angles` are the components of the state that are
    angles.  A fitted state's model is `fitted.model`.
    """
    strengths = {"strength_mean": strength_mean, "strength_cov": strength_cov}
    if isinstance(model, GaussianMixture):
        return prior_from_mixture(model, z, y, weight, **strengths, angles=angles)
    return prior_from_model(model, z, y, weight, **strengths, angles=angles)


def prior_from_mixture(
    model: GaussianMixture,
    z: Float[Array, "T N d"],
    y: Float[Array, "T N n"],
    weight: Weight,
    *,
    strength_mean: float = 1.0,
    strength_cov: float = 1.0,
    angles: Sequence[int] = (),
) -> NIWPrior:
    """From the joint of the mixture, with its components weighted by their average responsibility for the step's rows:

        w = mean_i r(z_i, y_i),   mu0 = sum_k w_k mu_k,   cov0 = sum_k w_k (S_k + (mu_k - mu0)(mu_k - mu0)^T)

    At a step without rows those of all steps are asked.  What a component says counts as n0 rows that spread as it does
    itself: one that is much wider than the rows of a step leaves them little to say about slopes, so fit the mixture to
    what is near (the last twenty rollouts or so), or choose a smaller n0.  The mixture is over features and changes;
    the features' sines and cosines are taken back to angles by their tangent at the mean of the rows.
    """
    need_x64("A prior of local dynamics")
    n = y.shape[2]
    _need_sizes(model.spec, n, z.shape[2] - n, angles)
    rows = local_rows(z, y, weight, angles)
    each = jax.vmap(jax.vmap(lambda xi: _seen(model, xi, n)))(rows.xi)
    shares = _step_means(_responsibilities(model, each), rows)
    means, covs = model.means[:, : each.shape[2]], model.covs[:, : each.shape[2], : each.shape[2]]
    mean = jnp.matmul(shares, means, precision="highest")
    apart = means - mean[:, None, :]
    within = jnp.einsum("tk,kij->tij", shares, covs, precision="highest")
    cov = within + jnp.einsum("tk,tki,tkj->tij", shares, apart, apart, precision="highest")
    centre = _step_means(rows.xi, rows)[:, : z.shape[2]]
    mean, cov = jax.vmap(lambda m, c, at: _taken_back(model, m, c, at))(mean, cov, centre)
    return _prior(mean, cov, strength_mean, strength_cov)


def prior_from_model(
    model: AbstractDynamics,
    z: Float[Array, "T N d"],
    y: Float[Array, "T N n"],
    weight: Weight,
    *,
    strength_mean: float = 1.0,
    strength_cov: float = 1.0,
    angles: Sequence[int] = (),
) -> NIWPrior:
    """From the slope of the model's mean, averaged over the rows of the step (one row's may be a kink of a network):

        mu0 = mean_i [z_i; f(z_i)],   cov0 = [[S, S J^T], [J S, J S J^T + V]],   J = mean_i df/dz(z_i)

    V is the variance that the model predicts, averaged over the rows (with the disagreement of an ensemble's members,
    or what a Gaussian process does not know, in it), and what the tangent leaves of the model's own values.

    S says how far inputs usually are from the mean.  The covariance of the few rows alone would count what they do not
    excite as known to the same few parts as what they do; so half of S is the average over all steps.  At a step
    without rows everything is asked of the mean of all rows.
    """
    need_x64("A prior of local dynamics")
    n, d = y.shape[2], z.shape[2]
    rows = local_rows(z, y, weight, angles)
    centre = _step_means(rows.xi, rows)[:, :d]
    # What does not count is asked about like the centre, so that nothing a model may say elsewhere is not finite.
    at = jnp.where(rows.weight[:, :, None] > 0.0, rows.xi[:, :, :d], centre[:, None, :])
    steps = jnp.broadcast_to(jnp.arange(at.shape[0], dtype=jnp.int32)[:, None], at.shape[:2])
    said, slopes, variances = jax.vmap(jax.vmap(lambda z, t: tangent(model, z, n, t, angles)))(at, steps)
    mean, slope, variance = (_step_means(each, rows) for each in (said, slopes, variances))
    spread, apart = _spread(rows, d)
    straight = jnp.matmul(apart, jnp.swapaxes(slope, 1, 2), precision="highest")
    bent = (said - mean[:, None, :] - straight) * jnp.sqrt(rows.weight)[:, :, None]
    bent = jnp.einsum("tri,trj->tij", bent, bent, precision="highest") / jnp.maximum(rows.count, 1.0)[:, None, None]
    cross = jnp.matmul(slope, spread, precision="highest")
    output = jnp.matmul(cross, jnp.swapaxes(slope, 1, 2), precision="highest") + variance + bent
    cov = jnp.concatenate(
        [
            jnp.concatenate([spread, jnp.swapaxes(cross, 1, 2)], axis=2),
            jnp.concatenate([cross, output], axis=2),
        ],
        axis=1,
    )
    return _prior(jnp.concatenate([centre, mean], axis=1), cov, strength_mean, strength_cov)


def _prior(mean: Float[Array, "T D"], cov: Float[Array, "T D D"], kappa0: float, n0: float) -> NIWPrior:
    steps = mean.shape[:1]
    return NIWPrior(mean, symmetric(cov), jnp.full(steps, kappa0, jnp.float64), jnp.full(steps, n0, jnp.float64))


def _step_means(each: Float[Array, "T N *rest"], rows: LocalRows) -> Float[Array, "T *rest"]:
    """Of the rows that count at each step; where there are none, of all; if none counts, of the zeros that stand for
    them."""
    some = jnp.where(jnp.sum(rows.count) > 0.0, rows.weight, 1.0)
    weight = some.reshape(*some.shape, *[1] * (each.ndim - 2))
    total = jnp.sum(jnp.where(weight > 0.0, weight * each, 0.0), axis=1)
    count = jnp.sum(weight, axis=1)
    whole = jnp.sum(total, axis=0) / jnp.maximum(jnp.sum(count), 1.0)
    return jnp.where(count > 0.0, total / jnp.maximum(count, 1.0), whole)


def _need_sizes(spec: Spec, n: int, m: int, angles: Sequence[int]) -> None:
    """Raise `UserError` if the rows are not of the system that the model was made for."""
    if (spec.n, spec.m, tuple(spec.angles)) != (n, m, tuple(sorted(angles))):
        raise UserError(
            f"the rows are of states of size {n}, actions of size {m} and angles {tuple(angles)}, and the model was "
            f"made for states of size {spec.n}, actions of size {spec.m} and angles {tuple(spec.angles)}."
        )


def _seen(model: GaussianMixture, xi: Float[Array, " D"], n: int) -> Float[Array, " s"]:
    """Features and change of one row in the mixture's units."""
    x, u, y = xi[:n], xi[n : n + model.spec.m], xi[n + model.spec.m :]
    change = (y - x - model.outputs.mean[:n]) / model.outputs.std[:n]
    return jnp.concatenate([model.inputs.scale(features(model.spec, x, u)), change])


def _responsibilities(model: GaussianMixture, each: Float[Array, "T N s"]) -> Float[Array, "T N K"]:
    """Of the components for whole rows: softmax_k(log pi_k + log N(row; mu_k, S_k)), extras left out."""
    s = each.shape[2]
    lower = jnp.linalg.cholesky(model.covs[:, :s, :s], symmetrize_input=False)
    eye = jnp.broadcast_to(jnp.eye(s, dtype=jnp.float64), lower.shape)
    whiten = jax.lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)
    offset = jnp.einsum("kij,kj->ki", whiten, model.means[:, :s], precision="highest")
    white = jnp.einsum("kij,tnj->tnki", whiten, each, precision="highest") - offset
    log_det = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
    return jax.nn.softmax(model.log_weights - log_det - 0.5 * jnp.sum(white**2, axis=3), axis=2)


def _taken_back(
    model: GaussianMixture, mean: Float[Array, " s"], cov: Float[Array, "s s"], centre: Float[Array, " d"]
) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Moments of features and change as moments of [x; u; y], by a linear map that is exact where there are no angles.

    The features' derivative J has orthonormal columns (an angle's are its cosine and minus its sine), so that J^T takes
    a small change of the features back to one of [x; u].
    """
    n, f, d = model.spec.n, mean.shape[0] - model.spec.n, centre.shape[0]
    of = lambda z: features(model.spec, z[:n], z[n:])
    back = jax.jacfwd(of)(centre).T * model.inputs.std
    z_map = jnp.concatenate([back, jnp.zeros((d, n), jnp.float64)], axis=1)
    change = jnp.zeros((n, f + n), jnp.float64).at[:, f:].set(jnp.diag(model.outputs.std[:n]))
    whole = jnp.concatenate([z_map, z_map[:n] + change])
    mean_z = centre + back @ (mean[:f] - model.inputs.scale(of(centre)))
    mean_y = mean_z[:n] + model.outputs.mean[:n] + model.outputs.std[:n] * mean[f:]
    spread = jnp.matmul(whole, jnp.matmul(cov, whole.T, precision="highest"), precision="highest")
    return jnp.concatenate([mean_z, mean_y]), spread


def tangent(
    model: AbstractDynamics, z: Float[Array, " d"], n: int, t: Array, angles: Sequence[int]
) -> tuple[Float[Array, " n"], Float[Array, "n d"], Float[Array, "n n"]]:
    """Mean, slope and covariance of the next state that a model predicts, angles in the turn of x, float64."""
    x, u = z[:n], z[n:]
    at = linearise(model, x, u, t)
    variance = _covariance(model.predict(x, u, t))[:n, :n]
    wide = lambda v: v[:n].astype(jnp.float64)
    slope = jnp.concatenate([wide(at.a), wide(at.b)], axis=1)
    return same_turn(wide(at.mean), x, angles), slope, variance.astype(jnp.float64)


def _covariance(prediction: AbstractPrediction) -> Float[Array, "k k"]:
    """Of a prediction, however it says how sure it is."""
    inner = prediction.unwrapped if isinstance(prediction, Wrapped) else prediction
    if isinstance(inner, MixtureOfGaussians):
        return inner.covariance
    std = getattr(inner, "std", None)
    if std is None:
        raise UserError(
            f"a prior of local dynamics needs to know how sure a model is, and its {type(inner).__name__} has no std."
        )
    return jnp.diag(std**2)


def _spread(rows: LocalRows, d: int) -> tuple[Float[Array, "T d d"], Float[Array, "T N d"]]:
    """S of `prior_from_model`, and the inputs less the mean of their step (0 for those that do not count)."""
    apart = rows.away(rows.mean)[:, :, :d]
    scatter = jnp.einsum("tri,trj->tij", apart, apart, precision="highest")
    freedom = jnp.maximum(rows.count - 1.0, 0.0)
    pooled = jnp.sum(scatter, axis=0) / jnp.maximum(jnp.sum(freedom), 1.0)
    own = scatter / jnp.maximum(freedom, 1.0)[:, None, None]
    own = jnp.where((freedom > 0.0)[:, None, None], own, pooled)
    usual = jnp.diagonal(pooled)
    size = rows.size[:d]
    # Of what never varies at all: its magnitude, or 1.
    usual = jnp.where(usual > (1e-12 * size) ** 2, usual, jnp.where(size > 0.0, size, 1.0) ** 2)
    return (1.0 - WIDTH) * own + WIDTH * pooled + LEAST_WIDTH**2 * jnp.diag(usual), apart
