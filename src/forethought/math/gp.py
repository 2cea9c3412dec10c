"""Gaussian process regression with one output, exact, in float64.

y_i = f(z_i) + noise, f ~ GP(0, s^2 rho(r^2)), noise ~ N(0, sigma^2).  Rows that stand for several observations of the
same point have the noise sigma^2 / count.  Arrays may end in padding, rows with count 0, which change nothing: their
row and column of K are those of the identity, so one compiled program serves growing data.

Rasmussen & Williams (2006), algorithm 2.1 and equation 5.9.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.kernels import Kind, profile, slope, square_distances
from forethought.types import Array, Flag, Scalar

JITTER = 1e-10
"""The first amount added to the diagonal of a matrix that has no Cholesky factor, relative to its mean."""
TRIES = 6
"""How many amounts are tried, each ten times the one before, until the matrix is given up."""


class Hyper(NamedTuple):
    """What a fit chooses: logarithms of the length-scales and of the standard deviations of signal and noise."""

    log_lengths: Float[Array, " f"]
    log_signal: Scalar
    log_noise: Scalar


class Rows(NamedTuple):
    """Observations, in any order."""

    z: Float[Array, "c f"]
    y: Float[Array, " c"]
    """Targets; of merged duplicates, their mean."""
    count: Float[Array, " c"]
    """How often the row was seen: 0 is padding, more than 1 are merged duplicates."""
    within: Scalar
    """Total sum of squares of merged duplicates around their means."""


class Posterior(NamedTuple):
    """A conditioned process.  With k(z) [c] = s^2 rho(r^2(z, rows)):  mean(z) = k(z) . weights and the variance of f(z)
    is s^2 - |root k(z)|^2, so predicting takes matrix products only."""

    weights: Float[Array, " c"]
    root: Float[Array, "c c"]
    """The inverse of the lower Cholesky factor of K; rows and columns of padding are 0."""
    jitter: Scalar
    """What had to be added to the diagonal of K."""
    ok: Flag
    """False: K has no Cholesky factor even with the largest jitter, and this is the prior."""


def covariance(kind: Kind, hyper: Hyper, a: Float[Array, "i f"], b: Float[Array, "j f"]) -> Float[Array, "i j"]:
    """s^2 rho(r^2) between the rows of a and of b."""
    return jnp.exp(2.0 * hyper.log_signal) * profile(kind, square_distances(a, b, hyper.log_lengths))


def _gram(kind: Kind, hyper: Hyper, rows: Rows) -> tuple[Float[Array, "c c"], Float[Array, "c c"], Float[Array, " c"]]:
    """r^2 with an exact diagonal, K without noise (0 for padding), and the noise of each row (1 for padding)."""
    real = rows.count > 0.0
    r2 = square_distances(rows.z, rows.z, hyper.log_lengths)
    r2 = jnp.where(jnp.eye(r2.shape[0], dtype=bool), 0.0, r2)
    k = jnp.where(real[:, None] & real[None, :], jnp.exp(2.0 * hyper.log_signal) * profile(kind, r2), 0.0)
    noise = jnp.where(real, jnp.exp(2.0 * hyper.log_noise) / jnp.where(real, rows.count, 1.0), 1.0)
    return r2, k, noise


def blank(rows: Rows) -> Rows:
    """The same rows with padding at the origin, whatever it held."""
    real = rows.count > 0.0
    return rows._replace(z=jnp.where(real[:, None], rows.z, 0.0), y=jnp.where(real, rows.y, 0.0))


def lower_factor(a: Float[Array, "c c"]) -> tuple[Float[Array, "c c"], Flag]:
    """Lower Cholesky factor, and whether there is one (if not, it holds NaN)."""
    lower = jax.lax.linalg.cholesky(jnp.asarray(a), symmetrize_input=False)
    return lower, jnp.all(jnp.isfinite(jnp.diagonal(lower)))


def triangular(lower: Float[Array, "c c"], b: Float[Array, "c k"], *, transposed: bool = False) -> Float[Array, "c k"]:
    """L^-1 b, or L^-T b."""
    return jax.lax.linalg.triangular_solve(lower, b, left_side=True, lower=True, transpose_a=transposed)


@jax.default_matmul_precision("highest")
def negative_log_likelihood(kind: Kind, hyper: Hyper, rows: Rows) -> tuple[Scalar, Hyper, Flag]:
    """-log p(y) in nats, its gradient, and whether there is one; if not, the value is infinite and the gradient 0.

    It is the likelihood of the data before duplicates were merged.  With a = K^-1 y and P = K^-1 - a a^T the gradient
    is tr(P dK) / 2; for the length-scales that is sum_ij W_ij (z_i - z_j)^2 = 2 (z^2 . W 1 - diag(z^T W z)), which is
    one matrix product instead of an array of pairs for each of them.
    """
    rows = blank(rows)
    r2, k, noise = _gram(kind, hyper, rows)
    lower, ok = lower_factor(k + jnp.diag(noise))
    lower = jnp.where(ok, lower, jnp.eye(lower.shape[0], dtype=lower.dtype))
    inverse_root = triangular(lower, jnp.eye(lower.shape[0], dtype=lower.dtype))
    inverse = inverse_root.T @ inverse_root
    a = triangular(lower, triangular(lower, rows.y[:, None]), transposed=True)[:, 0]
    real = rows.count > 0.0
    number, repeats = jnp.sum(real), jnp.sum(jnp.where(real, rows.count - 1.0, 0.0))
    variance = jnp.exp(2.0 * hyper.log_noise)
    fit = rows.y @ a
    spread = jnp.where(rows.within > 0.0, rows.within / variance, 0.0)
    merged = 0.5 * jnp.sum(jnp.log(jnp.where(real, rows.count, 1.0))) + 0.5 * spread
    value = 0.5 * fit + jnp.sum(jnp.log(jnp.diagonal(lower))) + repeats * hyper.log_noise + merged
    value = value + 0.5 * (number + repeats) * jnp.log(2.0 * jnp.pi)

    noise = jnp.where(real, noise, 0.0)
    spent = jnp.sum(noise * (jnp.diagonal(inverse) - a**2))
    w = jnp.where(real[:, None] & real[None, :], (inverse - a[:, None] * a[None, :]) * slope(kind, r2), 0.0)
    z = (rows.z - jnp.sum(rows.z, axis=0) / jnp.maximum(number, 1)) * jnp.exp(-hyper.log_lengths)
    pairs = 2.0 * (jnp.sum(w, axis=1) @ z**2 - jnp.sum(z * (w @ z), axis=0))
    gradient = Hyper(
        log_lengths=-jnp.exp(2.0 * hyper.log_signal) * pairs,
        log_signal=number - fit - spent,
        log_noise=spent + repeats - spread,
    )
    finite = jax.tree.map(lambda g: jnp.all(jnp.isfinite(g)), (value, gradient))
    ok = ok & jnp.all(jnp.asarray(jax.tree.leaves(finite)))
    return jnp.where(ok, value, jnp.inf), jax.tree.map(lambda g: jnp.where(ok, g, 0.0), gradient), ok
