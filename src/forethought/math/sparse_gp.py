"""Gaussian process regression through m inducing points, for more rows than an exact process can take.

u = f(Z) at m points Z stands in for the data; q(u) is the Gaussian that is nearest to the posterior in KL divergence.
With D = diag(sigma^2 / count), K_uu = L L^T, A = L^-1 K_uf D^-1/2, B = I + A A^T and Sigma = L B L^T, the mean of f(z)
is k_u(z) . Sigma^-1 K_uf D^-1 y and its variance s^2 - k_u(z)^T (K_uu^-1 - Sigma^-1) k_u(z): the same form as that of
an exact process.  An evaluation of the bound costs O(n m^2), a prediction O(m^2).

K_uu always has 1e-10 s^2 on its diagonal, more where it has no Cholesky factor: u is then f(Z) seen through that little
noise, and the bound remains one.

Titsias, "Variational learning of inducing variables in sparse Gaussian processes", AISTATS 2009.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from forethought.math import gp_host
from forethought.math.gp import (
    Hyper,
    Posterior,
    Rows,
    blank,
    covariance,
    lower_factor,
    sturdy_factor,
    triangular,
)
from forethought.math.kernels import Kind
from forethought.types import Array, Flag, Scalar


class Inducing(NamedTuple):
    """q(u), whitened: u = L v with v ~ N(mean, spread spread^T)."""

    mean: Float[Array, " m"]
    spread: Float[Array, "m m"]
    inverse: Float[Array, "m m"]
    """L^-1.  A function of the prior g becomes one of the posterior by adding
    k_u(z) . L^-T (v - L^-1 (g(Z) + sqrt(jitter) e)) with e ~ N(0, I)."""
    jitter: Scalar
    """On the diagonal of K_uu."""
    ok: Flag
    """False: a factorisation failed, and this is the prior."""


@jax.default_matmul_precision("highest")
def inducing_moments(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows) -> Inducing:
    """The q(u) that makes the bound largest."""
    lower, jitter, ok = _prior_factor(kind, hyper, inducing)
    a, y = _whitened(kind, hyper, inducing, rows, lower)
    eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
    factor, fine = lower_factor(eye + a @ a.T)
    factor = jnp.where(fine, factor, eye)
    mean = triangular(factor, triangular(factor, (a @ y)[:, None]), transposed=True)[:, 0]
    spread = triangular(factor, eye, transposed=True)
    inverse = triangular(lower, eye)
    ok = ok & fine & jnp.all(jnp.isfinite(mean)) & jnp.all(jnp.isfinite(spread)) & jnp.all(jnp.isfinite(inverse))
    return Inducing(jnp.where(ok, mean, 0.0), jnp.where(ok, spread, eye), jnp.where(ok, inverse, 0.0), jitter, ok)


@jax.default_matmul_precision("highest")
def sparse_condition(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows) -> Posterior:
    """The posterior given the rows, with the inducing points for centres: root^T root = K_uu^-1 - Sigma^-1.

    The root is S L^-1 with S^T S = I - B^-1, and S comes from the eigenvectors of A A^T: I - B^-1 has no Cholesky
    factor where the data say nothing.
    """
    lower, jitter, ok = _prior_factor(kind, hyper, inducing)
    a, y = _whitened(kind, hyper, inducing, rows, lower)
    gram = a @ a.T
    fine = ok & jnp.all(jnp.isfinite(gram))
    eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
    values, vectors = jnp.linalg.eigh(jnp.where(fine, gram, eye))
    values = jnp.maximum(values, 0.0)
    half = jnp.sqrt(values / (1.0 + values))[:, None] * vectors.T
    root = triangular(lower, half.T, transposed=True).T
    mean = vectors @ ((vectors.T @ (a @ y)) / (1.0 + values))
    weights = triangular(lower, mean[:, None], transposed=True)[:, 0]
    fine = fine & jnp.all(jnp.isfinite(root)) & jnp.all(jnp.isfinite(weights))
    return Posterior(jnp.where(fine, weights, 0.0), jnp.where(fine, root, 0.0), jitter, fine)


def _prior_factor(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"]) -> tuple[Float[Array, "m m"], Scalar, Flag]:
    """L, its jitter, and whether there is one (if not, the identity)."""
    k = covariance(kind, hyper, inducing, inducing)
    k = jnp.where(jnp.eye(k.shape[0], dtype=bool), jnp.exp(2.0 * hyper.log_signal), k)
    return sturdy_factor(k, jnp.ones(k.shape[0], bool), 1)


def _whitened(
    kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows, lower: Float[Array, "m m"]
) -> tuple[Float[Array, "m c"], Float[Array, " c"]]:
    """A, and D^-1/2 y; 0 for padding."""
    rows = blank(rows)
    weight = jnp.sqrt(rows.count) * jnp.exp(-hyper.log_noise)
    return triangular(lower, covariance(kind, hyper, inducing, rows.z) * weight), rows.y * weight


def choose_inducing(kind: Kind, hyper: Hyper, rows: Rows, count: int) -> Int[np.ndarray, " m"]:
    """Indices of `count` rows, chosen one by one: the one whose f the rows chosen so far tell least about.

    On the host: a Cholesky factorisation of K, without noise, with pivots, stopped after `count` columns.  With fewer
    than `count` rows some are chosen again.  ([Burt et al. 2020] shows that this choice is good enough for the bound.)
    """
    real = np.flatnonzero(np.asarray(rows.count) > 0.0)
    theta = gp_host.pack(hyper)
    u = (np.asarray(rows.z, np.float64)[real] - np.mean(np.asarray(rows.z)[real], axis=0)) * np.exp(-theta[:-2])
    left, chosen = np.ones(len(real)), np.empty(min(count, len(real)), np.int64)
    columns = np.empty((len(chosen), len(real)))
    half, rate = np.empty((2, len(real)))
    for j in range(len(chosen)):
        p = chosen[j] = int(np.argmax(left))
        np.multiply(np.sum((u - u[p]) ** 2, axis=1), -0.5, out=half)
        gp_host.profile_and_slope(kind, half, columns[j], rate)
        columns[j] -= columns[:j, p] @ columns[:j]
        columns[j] /= np.sqrt(max(left[p], 1e-12))
        left -= columns[j] ** 2
        left[chosen[: j + 1]] = -np.inf
    return np.resize(real[chosen], count)
