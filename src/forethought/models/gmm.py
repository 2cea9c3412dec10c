"""The Gaussian mixture over what is seen of a transition, conditioned on state and action.

The joint is over [features of (x, u); targets] in standard units: targets are changes of state, because a floor on
variances that is harmless for a change would drown it if the next state itself were the column.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner, AbstractPrediction
from forethought.math.em import Chosen, Joint, Settings, choose
from forethought.math.finite import need_x64
from forethought.math.gaussian import wrapped
from forethought.math.mixture import MixtureOfGaussians
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, feature_count, features
from forethought.models.table import generator, standard, table
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Scalar, Spec, State, Time


class GaussianMixture(AbstractDynamics):
    """p(y|z) = sum_k w_k(z) N(mu^y_k + B_k (z - mu^z_k), V_k), w_k ~ pi_k N(z; mu^z_k, S^zz_k), float64.

    z are the scaled features of (x, u) and y the scaled targets; the prediction is in the units of the data.  There are
    always K components; those that are not needed have the log weight -inf, and zeros.
    """

    log_weights: Float[Array, " K"]
    """log pi_k."""
    means: Float[Array, "K D"]
    """Of [z; y], in standard units."""
    covs: Float[Array, "K D D"]
    """Of [z; y], in standard units: the joint itself, for whoever wants a prior for local models."""
    log_peaks: Float[Array, " K"]
    """log N(mu^z_k; mu^z_k, S^zz_k)."""
    whiten: Float[Array, "K f f"]
    """Inverses of the lower Cholesky factors of S^zz_k."""
    slopes: Float[Array, "K k f"]
    """B_k = S^yz_k (S^zz_k)^-1."""
    factors: Float[Array, "K k k"]
    """Lower Cholesky factors of V_k, in the units of the data."""
    typical: Float[Array, " 3"]
    """1%, 5% and 50% quantiles of `familiarity` over the rows of the fit: far below the first is far from all data."""
    inputs: Scaler
    outputs: Scaler
    spec: Spec

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """The mixture of the components' linear predictions of [next state; extras]."""
        del t  # the system is taken to be the same at all times
        x = jnp.asarray(x, jnp.float64)
        away, log_weights, means = self._parts(self._scaled(x, u))
        del away
        base = jnp.concatenate([x, jnp.zeros((self.spec.extras,), jnp.float64)])
        means = base + self.outputs.mean + self.outputs.std * means
        said = MixtureOfGaussians(log_weights, means, self.factors)  # pyright: ignore[reportCallIssue]
        return wrapped(said, self.spec.angles)

    def draw(self, key: RandomKey, particles: int) -> GaussianMixture:
        """Copies: what the mixture is unsure about is in its components, and it has no doubt about those."""
        del key
        return copies(self, particles)

    def _scaled(self, x: State, u: Action) -> Float[Array, " f"]:
        u = jnp.asarray(u, jnp.float64)
        return self.inputs.scale(features(self.spec, jnp.asarray(x, jnp.float64), u))

    def _log_densities(self, z: Float[Array, " f"]) -> tuple[Float[Array, "K f"], Float[Array, " K"]]:
        """z - mu^z_k, and log N(z; mu^z_k, S^zz_k)."""
        away = z - self.means[:, : z.shape[0]]
        white = jnp.einsum("kij,kj->ki", self.whiten, away)
        return away, self.log_peaks - 0.5 * jnp.sum(white**2, axis=1)

    def _parts(self, z: Float[Array, " f"]) -> tuple[Float[Array, "K f"], Float[Array, " K"], Float[Array, "K k"]]:
        """z - mu^z_k, log w_k(z) and the components' means in standard units.

        Weights are compared as logarithms: far from all data every density underflows; the nearest component speaks.
        """
        away, log_density = self._log_densities(z)
        means = self.means[:, z.shape[0] :] + jnp.einsum("kij,kj->ki", self.slopes, away)
        return away, jax.nn.log_softmax(self.log_weights + log_density), means


def familiarity(model: GaussianMixture, x: State, u: Action) -> Scalar:
    """max_k log N(z; mu^z_k, S^zz_k): how near (x, u) is to any data, to be judged against `model.typical`."""
    _, log_density = model._log_densities(model._scaled(x, u))
    return jnp.max(jnp.where(jnp.isfinite(model.log_weights), log_density, -jnp.inf))


def jacobian(
    model: GaussianMixture, x: State, u: Action, *, expected: bool = False
) -> tuple[Float[Array, "k n"], Float[Array, "k m"]]:
    """d mean / dx and d mean / du in closed form.

    In standard units d mean / dz = sum_k w_k B_k + sum_k w_k (m_k - mean) g_k^T with g_k = -(S^zz_k)^-1 (z - mu^z_k).
    The second term is the change of the weights; it explodes on the ridges between modes.  With `expected` it is left
    out: the expected slope, which trajectory optimisation can trust.
    """
    x, u = jnp.asarray(x, jnp.float64), jnp.asarray(u, jnp.float64)
    away, log_weights, means = model._parts(model._scaled(x, u))
    weights = jnp.exp(log_weights)
    slope = jnp.einsum("k,kij->ij", weights, model.slopes)
    if not expected:
        white = jnp.einsum("kij,kj->ki", model.whiten, away)
        pull = -jnp.einsum("kji,kj->ki", model.whiten, white)
        slope += jnp.einsum("k,ki,kj->ij", weights, means - weights @ means, pull)
    slope = model.outputs.std[:, None] * slope / model.inputs.std
    by_x, by_u = jax.jacfwd(lambda x, u: features(model.spec, x, u), argnums=(0, 1))(x, u)
    return jnp.eye(model.spec.outputs, model.spec.n, dtype=jnp.float64) + slope @ by_x, slope @ by_u


class FittedGMM(AbstractFitted):
    """The mixture; each fit begins anew."""

    model: GaussianMixture


class GMMLearner(AbstractLearner[FittedGMM]):
    """EM with the number of components chosen by BIC over 1, 2, 4, ..., `components`.

    The covariances V_k of the prediction are those of the conditional times N_k / (N_k - f - 1): the slopes have used
    up as many of the N_k rows of a component as there are features, and one more.
    """

    components: int = 16
    """The most components; the number that is used is chosen by the data."""
    starts: int = 5
    """Runs of k-means++ per number of components; the best goes on."""
    rounds: int = 200
    """The most rounds of EM."""
    tolerance: float = 1e-5
    """EM stops when the log-likelihood changes by less than this part of its absolute value."""
    floor: float = 1e-6
    """Added to the variances of every component, in standard units."""

    def init(self, spec: Spec, key: RandomKey) -> FittedGMM:
        """No change, with standard deviation 1.  Raises `UserError` where jax has no 64-bit numbers."""
        need_x64("The Gaussian mixture")
        del key
        d = feature_count(spec) + spec.outputs
        joint = Joint(np.zeros(1), np.zeros((1, d)), np.eye(d)[None])
        # Of NumPy: what is traced to learn shapes must not meet the arithmetic below.
        plain = lambda size: Scaler(np.zeros(size), np.ones(size))
        scalers = plain(feature_count(spec)), plain(spec.outputs)
        blank = conditioned(joint, spec, scalers, self.components)
        return FittedGMM(jax.tree.map(jnp.asarray, blank))

    def fit(self, fitted: FittedGMM, data: Dataset, key: RandomKey) -> tuple[FittedGMM, Metrics]:
        """Fit to the usable rows.

        With fewer rows than features + 2 noise cannot be told from slope: the fit has `failed`, and the model from
        before is kept.
        """
        spec = fitted.model.spec
        found = table(spec, data)
        count = len(found.z)
        if count < (least := found.z.shape[1] + 2):
            says = f"A Gaussian mixture of {least - 2} features needs {least} rows of data, and there are {count}."
            return fitted, {"failed": True, "left_out": found.left_out, "says": says}
        inputs, outputs = standard(found.z), standard(found.y, 1e-12)
        scale = lambda values, by: (values - np.asarray(by.mean)) / np.asarray(by.std)
        points = np.concatenate([scale(found.z, inputs), scale(found.y, outputs)], axis=1)
        settings = Settings(self.floor, self.tolerance, self.rounds, self.starts)
        chosen = choose(points, self.components, settings, generator(key))
        model = conditioned(chosen.run.joint, spec, (inputs, outputs), self.components, rows=count)
        model = eqx.tree_at(lambda m: m.typical, model, _typical(model, found.z))
        metrics = {"failed": False, "left_out": found.left_out} | _metrics(chosen)
        return FittedGMM(model), metrics


def _metrics(chosen: Chosen) -> Metrics:
    """What EM came to."""
    run = chosen.run
    return {
        "components": len(run.joint.means),
        "log_likelihood": run.history[-1],
        "bic": min(chosen.bic.values()),
        "rounds": len(run.history) - 1,
        "reseeded": run.reseeded,
        "converged": run.converged,
    }


def _typical(model: GaussianMixture, z: Float[np.ndarray, "r f"]) -> Float[Array, " 3"]:
    """Quantiles of `familiarity` over raw features, in NumPy: the number of rows must not cost a compilation."""
    here = np.isfinite(np.asarray(model.log_weights))
    scaled = (z - np.asarray(model.inputs.mean)) / np.asarray(model.inputs.std)
    means, whiten = np.asarray(model.means)[here, : z.shape[1]], np.asarray(model.whiten)[here]
    best = np.full(len(z), -np.inf)
    for mean, white, peak in zip(means, whiten, np.asarray(model.log_peaks)[here], strict=True):
        best = np.maximum(best, peak - 0.5 * (((scaled - mean) @ white.T) ** 2).sum(axis=1))
    return jnp.asarray(np.quantile(best, [0.01, 0.05, 0.5]))


def conditioned(
    joint: Joint, spec: Spec, scalers: tuple[Scaler, Scaler], components: int, rows: int | None = None
) -> GaussianMixture:
    """The model of a joint, with everything that a prediction needs computed in advance.

    With `rows`, how many rows the joint was fitted to, the covariances make up for the rows that the slopes used up.
    """
    order = np.argsort(-joint.log_weights, kind="stable")
    log_weights, means, covs = (part[order] for part in joint)
    f = feature_count(spec)
    s_zz, s_zy, s_yy = covs[:, :f, :f], covs[:, :f, f:], covs[:, f:, f:]
    lower = np.linalg.cholesky(s_zz)
    slopes = np.linalg.solve(s_zz, s_zy).transpose(0, 2, 1)
    rest = s_yy - slopes @ s_zy
    rest = 0.5 * (rest + rest.transpose(0, 2, 1))
    if rows is not None:
        each = rows * np.exp(log_weights)
        rest *= (each / np.maximum(each - f - 1.0, 1.0))[:, None, None]
    log_det = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    units = np.asarray(scalers[1].std)[:, None]
    return GaussianMixture(
        log_weights=_filled(log_weights, components, -np.inf),
        means=_filled(means, components),
        covs=_filled(covs, components, np.eye(covs.shape[1])),
        log_peaks=_filled(-log_det - 0.5 * f * np.log(2.0 * np.pi), components),
        whiten=_filled(np.linalg.inv(lower), components),
        slopes=_filled(slopes, components),
        factors=_filled(units * np.linalg.cholesky(rest), components, units * np.eye(spec.outputs)),
        typical=jnp.zeros((3,), jnp.float64),
        inputs=scalers[0],
        outputs=scalers[1],
        spec=spec,
    )


def _filled(values: np.ndarray, components: int, blank: float | np.ndarray = 0.0) -> Array:
    """The values with blanks for the components that are not there, as a float64 array of jax."""
    empty = np.broadcast_to(blank, (components - len(values), *values.shape[1:]))
    return jnp.asarray(np.concatenate([values, empty]), jnp.float64)
