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

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from forethought.math import gp_host
from forethought.math.gp import Hyper, Posterior, Rows
from forethought.math.gp_condition import correlation, inverted, sturdy_factor
from forethought.math.kernels import Kind
from forethought.types import Array


class Inducing(NamedTuple):
    """q(u), whitened: u = L v with v ~ N(mean, spread spread^T)."""

    mean: Float[np.ndarray, " m"]
    spread: Float[np.ndarray, "m m"]
    inverse: Float[np.ndarray, "m m"]
    """L^-1.  A function of the prior g becomes one of the posterior by adding
    k_u(z) . L^-T (v - L^-1 (g(Z) + sqrt(jitter) e)) with e ~ N(0, I)."""
    jitter: float
    """On the diagonal of K_uu."""
    ok: bool
    """False: a factorisation failed, and this is the prior."""


class _Whitened(NamedTuple):
    """L and its jitter, A, and A D^-1/2 y."""

    lower: Float[np.ndarray, "m m"]
    jitter: float
    a: Float[np.ndarray, "m c"]
    ay: Float[np.ndarray, " m"]


def inducing_moments(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows) -> Inducing:
    """The q(u) that makes the bound largest."""
    m, it = len(inducing), _whitened(kind, hyper, inducing, rows)
    if it is not None:
        factor, _ = sturdy_factor(np.eye(m) + it.a @ it.a.T, 0)
        if factor is not None:
            mean = solve_triangular(factor, solve_triangular(factor, it.ay, lower=True), lower=True, trans=1)
            found = (mean, inverted(factor).T, inverted(it.lower))
            if all(np.isfinite(part).all() for part in found):
                return Inducing(*found, it.jitter, True)
    return Inducing(np.zeros(m), np.eye(m), np.zeros((m, m)), 0.0, False)


def sparse_condition(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows) -> Posterior:
    """The posterior given the rows, with the inducing points for centres: root^T root = K_uu^-1 - Sigma^-1.

    The root is S L^-1 with S^T S = I - B^-1, and S comes from the eigenvectors of A A^T: I - B^-1 has no Cholesky
    factor where the data say nothing.
    """
    m, it = len(inducing), _whitened(kind, hyper, inducing, rows)
    if it is not None:
        values, vectors = np.linalg.eigh(it.a @ it.a.T)
        values = np.maximum(values, 0.0)
        half = np.sqrt(values / (1.0 + values))[:, None] * vectors.T
        root = solve_triangular(it.lower, half.T, lower=True, trans=1).T
        mean = vectors @ ((vectors.T @ it.ay) / (1.0 + values))
        weights = solve_triangular(it.lower, mean, lower=True, trans=1)
        if np.isfinite(root).all() and np.isfinite(weights).all():
            return Posterior(weights, root, np.asarray(it.jitter), np.ones((), bool))
    return Posterior(np.zeros(m), np.zeros((m, m)), np.zeros(()), np.zeros((), bool))


def _whitened(kind: Kind, hyper: Hyper, inducing: Float[Array, "m f"], rows: Rows) -> _Whitened | None:
    """None where K_uu has no factor, or something is not finite."""
    inducing = np.asarray(inducing)
    k = correlation(kind, hyper, inducing, inducing)
    np.fill_diagonal(k, np.exp(2.0 * hyper.log_signal))
    lower, jitter = sturdy_factor(k, 1)
    if lower is None:
        return None
    real = np.flatnonzero(np.asarray(rows.count) > 0.0)
    weight = np.sqrt(np.asarray(rows.count)[real]) * np.exp(-hyper.log_noise)
    across = correlation(kind, hyper, inducing, np.asarray(rows.z)[real]) * weight
    if not np.isfinite(across).all():
        return None
    a = solve_triangular(lower, across, lower=True)
    ay = a @ (np.asarray(rows.y)[real] * weight)
    return _Whitened(lower, jitter, a, ay) if np.isfinite(a @ a.T).all() and np.isfinite(ay).all() else None


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
