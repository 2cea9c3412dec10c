"""Bayesian linear regression on given features: the baseline, and exact where the system is linear in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner, AbstractPrediction
from forethought.math.finite import need_x64
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, feature_count, features
from forethought.models.table import Table, identity, standard, table
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time, UserError

Basis = Literal["linear", "quadratic"] | Callable[[Array], Array]

LEAST_NOISE = 1e-6
"""The least standard deviation of the noise, in units of the targets' standard deviation."""
LEAST_FREEDOM = 1e-9
"""Degrees of freedom below which the residuals are rounding errors."""


class LinearBelief(AbstractDynamics):
    """One set of weights: y = W^T psi(x, u) + b + noise, in units where every column of psi and y is standard."""

    weights: Float[Array, "p k"]
    intercept: Float[Array, " k"]
    noise: Float[Array, " k"]
    """Standard deviation per output."""
    inputs: Scaler
    columns: Scaler
    """Of the basis functions' values."""
    outputs: Scaler
    spec: Spec
    basis: Basis = eqx.field(static=True)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """[x + change; extras] with the noise's standard deviation, float64."""
        del t  # the system is taken to be the same at all times
        x = jnp.asarray(x, jnp.float64)
        return self.said(x, self.psi(x, u), self.noise)

    def draw(self, key: RandomKey, particles: int) -> LinearBelief:
        """Copies: one set of weights has no doubt about itself."""
        del key
        return copies(self, particles)

    def psi(self, x: State, u: Action) -> Float[Array, " p"]:
        """The basis functions at a point, in standard units."""
        u = jnp.asarray(u, jnp.float64)
        z = self.inputs.scale(features(self.spec, jnp.asarray(x, jnp.float64), u))
        return self.columns.scale(expanded(self.basis, z))

    def said(self, x: State, psi: Float[Array, " p"], std: Float[Array, " k"]) -> AbstractPrediction:
        """The prediction with a standard deviation that is given in standard units."""
        base = jnp.concatenate([x, jnp.zeros((self.spec.extras,), jnp.float64)])
        mean = base + self.outputs.unscale(psi @ self.weights + self.intercept)
        return wrapped(DiagonalGaussian(mean, self.outputs.std * std), self.spec.angles)


class BayesianLinear(AbstractDynamics):
    """The posterior over weights: W_j | D ~ N(W_j, s_j^2 Lambda^-1) with Lambda = Psi^T Psi + precision I, and the
    intercept b_j ~ N(b_j, s_j^2 / rows)."""

    belief: LinearBelief
    """The posterior mean, and the noise s."""
    root: Float[Array, "p p"]
    """Lambda^-1 = root^T root."""
    per_row: Float[Array, ""]
    """1 / rows."""

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """The mean, with variance s^2 (1 + 1/rows + psi^T Lambda^-1 psi): wider where there were no data."""
        del t
        x = jnp.asarray(x, jnp.float64)
        psi = self.belief.psi(x, u)
        widening = 1.0 + self.per_row + jnp.sum((self.root @ psi) ** 2)
        return self.belief.said(x, psi, self.belief.noise * jnp.sqrt(widening))

    def draw(self, key: RandomKey, particles: int) -> LinearBelief:
        """Weights from the posterior."""
        k_weights, k_intercept = jr.split(key)
        it, (p, k) = self.belief, self.belief.weights.shape
        shift = jnp.einsum("qp,bqk->bpk", self.root, jr.normal(k_weights, (particles, p, k), jnp.float64))
        offset = jnp.sqrt(self.per_row) * jr.normal(k_intercept, (particles, k), jnp.float64)
        drawn = it.draw(key, particles)
        new = it.weights + it.noise * shift, it.intercept + it.noise * offset
        return eqx.tree_at(lambda b: (b.weights, b.intercept), drawn, new)


def expanded(basis: Basis, z: Float[Array, " f"]) -> Float[Array, " p"]:
    """The basis functions of scaled features: themselves, with all products of two, or whatever the user's function
    makes of them.  The constant is never among them: an intercept is always fitted."""
    if callable(basis):
        return jnp.asarray(basis(z), jnp.float64)
    if basis == "linear":
        return z
    first, second = np.triu_indices(z.shape[0])
    return jnp.concatenate([z, z[first] * z[second]])


class FittedLinear(AbstractFitted):
    """The posterior; each fit begins anew."""

    model: BayesianLinear


class LinearLearner(AbstractLearner[FittedLinear]):
    """The conjugate posterior of weights, one regression per output with the same prior.

    s^2 = |y - Psi W|^2 / (rows - 2 tr H + tr H^2) with the smoother H = 1 1^T / rows + Psi Lambda^-1 Psi^T: what the
    fit used up is not counted, so s^2 is right on average, with few rows too (Hastie & Tibshirani 1990, section 3.5).
    """

    basis: Basis = "linear"
    """linear, quadratic (all squares and products too), or a function of the scaled features [f] that gives [p]."""
    precision: float = 1e-3
    """Prior precision of the weights, in units of the noise's and of standard columns: how many rows that say "zero"
    the prior is worth."""

    def init(self, spec: Spec, key: RandomKey) -> FittedLinear:
        """No change, with standard deviation 1.  Raises `UserError` where jax has no 64-bit numbers, or if the basis
        gives no vector."""
        need_x64("Linear regression")
        del key
        p, k = _basis_size(self.basis, feature_count(spec)), spec.outputs
        zero = jnp.zeros((k,), jnp.float64)
        scalers = identity(feature_count(spec)), identity(p), identity(k)
        belief = LinearBelief(jnp.zeros((p, k), jnp.float64), zero, zero + 1.0, *scalers, spec, self.basis)
        return FittedLinear(BayesianLinear(belief, jnp.zeros((p, p), jnp.float64), jnp.zeros((), jnp.float64)))

    def fit(self, fitted: FittedLinear, data: Dataset, key: RandomKey) -> tuple[FittedLinear, Metrics]:
        """The posterior given the usable rows.

        With fewer than two, or if the basis gives a number that is not finite, the fit has `failed`, and the model from
        before is kept.
        """
        del key
        belief = fitted.model.belief
        found = table(belief.spec, data)
        failed = {"failed": True, "left_out": found.left_out}
        if len(found.z) < 2:
            return fitted, failed
        inputs = standard(found.z)
        phi = _columns(belief, inputs, found, data.capacity)
        if not np.isfinite(phi).all():
            return fitted, failed | {
                "says": "The basis functions of the linear model gave a number that is not finite."
            }
        model, metrics = _posterior(belief, inputs, phi, found, self.precision)
        return FittedLinear(model), {"failed": False, "left_out": found.left_out} | metrics


def _basis_size(basis: str | Callable[[Array], Array], f: int) -> int:
    """How many columns the basis has for f features."""
    if isinstance(basis, str) and basis not in ("linear", "quadratic"):
        raise UserError(f"the basis of the linear model is {basis!r}; it must be linear, quadratic or a function.")
    values = (lambda z: jnp.asarray(basis(z), jnp.float64)) if callable(basis) else (lambda z: expanded(basis, z))
    try:
        shape = jax.eval_shape(values, jax.ShapeDtypeStruct((f,), jnp.float64)).shape
    except Exception as error:
        raise UserError(
            f"the basis of the linear model failed for {f} scaled features: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    if len(shape) != 1 or shape[0] < 1:
        raise UserError(
            f"the basis of the linear model gave an array of shape {shape} for {f} scaled features; expected a vector."
        )
    return shape[0]


def _columns(belief: LinearBelief, inputs: Scaler, found: Table, capacity: int) -> Float[np.ndarray, "r p"]:
    """The basis functions of all rows; padded to the capacity, so that they compile once for each."""
    z = (found.z - np.asarray(inputs.mean)) / np.asarray(inputs.std)
    padded = np.concatenate([z, np.broadcast_to(z[0], (capacity - len(z), z.shape[1]))])
    return np.asarray(_expand_rows(belief.basis, padded))[: len(z)]


@eqx.filter_jit
def _expand_rows(basis: Basis, z: Float[Array, "C f"]) -> Float[Array, "C p"]:
    return jax.vmap(lambda row: expanded(basis, row))(jnp.asarray(z, jnp.float64))


def _posterior(
    belief: LinearBelief, inputs: Scaler, phi: Float[np.ndarray, "r p"], found: Table, precision: float
) -> tuple[BayesianLinear, Metrics]:
    """The posterior from the eigenvalues of Psi^T Psi; psi and y are centred, so the intercept stands by itself."""
    columns, outputs = standard(phi), standard(found.y, 1e-12)
    psi = (phi - np.asarray(columns.mean)) / np.asarray(columns.std)
    y = (found.y - np.asarray(outputs.mean)) / np.asarray(outputs.std)
    rows, p = psi.shape
    values, vectors = np.linalg.eigh(psi.T @ psi)
    values = np.maximum(values, 0.0)
    root = vectors.T / np.sqrt(values + precision)[:, None]
    weights = root.T @ (root @ (psi.T @ y))
    rank = min(p, rows - 1)  # the other eigenvalues are rounding errors
    freedom = (rows - 1 - rank) + np.sum((precision / (values[-rank:] + precision)) ** 2)
    square = np.sum((y - psi @ weights) ** 2, axis=0)
    # If the fit has used up everything, nothing is known about the noise: all that varies may be noise.
    variance = square / freedom if freedom > LEAST_FREEDOM else np.ones_like(square)
    noise = np.sqrt(np.maximum(variance, LEAST_NOISE**2))
    belief = LinearBelief(
        weights=jnp.asarray(weights),
        intercept=jnp.zeros((y.shape[1],), jnp.float64),
        noise=jnp.asarray(noise),
        inputs=inputs,
        columns=columns,
        outputs=outputs,
        spec=belief.spec,
        basis=belief.basis,
    )
    metrics = {"noise": float(np.sqrt(np.mean(noise**2))), "freedom": float(freedom)}
    return BayesianLinear(belief, jnp.asarray(root), jnp.asarray(np.asarray(1.0 / rows))), metrics
