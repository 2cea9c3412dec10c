"""The likelihoods that a fit of hyperparameters looks at hundreds of times, in NumPy and LAPACK.

They are `gp.negative_log_likelihood` and Titsias' bound of `sparse_gp`, with their gradients, for an optimiser that
runs on the host anyway.  XLA's CPU backend needs about twice as long for the same (`bench/gp.py`): it has no symmetric
inverse from a Cholesky factor (potri), its batched factorisations are slower than one after the other, and it asks for
fresh memory for every intermediate array.

theta [f + 2] is `Hyper` in one vector: logarithms of the length-scales, of the signal and of the noise.  An objective
answers with the value in nats and the gradient, or with None where a matrix has no Cholesky factor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from threadpoolctl import ThreadpoolController

from forethought.math.gp import JITTER, TRIES, Hyper, Rows
from forethought.math.kernels import Kind

_lauum, _potrf, _potri, _potrs, _trtri = get_lapack_funcs(
    ("lauum", "potrf", "potri", "potrs", "trtri"), dtype=np.float64
)
_symm, _syr, _syrk, _trmm, _trsm = get_blas_funcs(("symm", "syr", "syrk", "trmm", "trsm"), dtype=np.float64)

LEAF = 64
LARGE = 512
"""Triangles of a size between the two are inverted by halves, whose products go to BLAS; the others by LAPACK."""

Objective = Callable[[np.ndarray], tuple[float, np.ndarray] | None]


@functools.cache
def _libraries() -> Any:
    """The linear algebra libraries of this process; to find them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra in one thread, while this lasts.

    Matrices of a few hundred rows gain nothing from more, and on a machine that is busy they lose all: OpenBLAS's
    threads wait for each other by spinning.  With n = 256, two threads on two cores that others used as well, an
    evaluation took 270 ms instead of 6 ms.
    """
    with _libraries().limit(limits=1):
        yield


def pack(hyper: Hyper) -> np.ndarray:
    """theta of a `Hyper`, a copy."""
    parts = [np.asarray(part, np.float64).reshape(-1) for part in hyper]
    return np.concatenate(parts)


def unpack(theta: np.ndarray) -> Hyper:
    """The `Hyper` of theta, a copy."""
    copy = np.array(theta, np.float64)
    return Hyper(copy[:-2], np.asarray(copy[-2]), np.asarray(copy[-1]))


class Table(NamedTuple):
    """`Rows` without padding, in NumPy."""

    z: Float[np.ndarray, "n f"]
    y: Float[np.ndarray, " n"]
    count: Float[np.ndarray, " n"]
    within: float


def in_use(rows: Rows) -> Table:
    """The rows without padding, float64."""
    z, y, count = (np.asarray(part, np.float64) for part in rows[:3])
    real = count > 0.0
    return Table(z[real], y[real], count[real], float(rows.within))


def profile_and_slope(kind: Kind, half: np.ndarray, rho: np.ndarray, rate: np.ndarray) -> None:
    """Fill `rho` with rho(r^2) and `rate` with d rho / d(r^2), given `half` = -r^2 / 2, which is overwritten."""
    if kind == "se":
        np.exp(half, out=rho)
        np.multiply(rho, -0.5, out=rate)
        return
    half *= -2.0 * (3.0 if kind == "matern32" else 5.0)
    scaled = np.sqrt(half, out=half)  # ROOT3 r or ROOT5 r
    np.negative(scaled, out=rate)
    np.exp(rate, out=rate)
    np.add(scaled, 1.0, out=rho)
    if kind == "matern32":
        rho *= rate
        rate *= -1.5
        return
    rho *= rate
    scaled *= scaled
    scaled *= rate
    np.multiply(rho, -5.0 / 6.0, out=rate)
    scaled /= 3.0
    rho += scaled


def _half_distances(u: np.ndarray, v: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with -r^2 / 2 between the rows of u and of v by one matrix product."""
    left = np.column_stack([u, -0.5 * np.sum(u * u, axis=1), np.ones(len(u))])
    right = np.column_stack([v, np.ones(len(v)), -0.5 * np.sum(v * v, axis=1)])
    np.matmul(left, right.T, out=out)
    np.minimum(out, 0.0, out=out)


def _merged(rows: Table, log_noise: float) -> tuple[float, float]:
    """What merging took out of the negative log likelihood, with constants, and its derivative by log_noise."""
    repeats = float(np.sum(rows.count - 1.0))
    spread = rows.within * np.exp(-2.0 * log_noise)
    constant = 0.5 * float(np.sum(np.log(rows.count))) + 0.5 * float(np.sum(rows.count)) * np.log(2.0 * np.pi)
    return repeats * log_noise + 0.5 * spread + constant, repeats - spread


def _inverse(lower: np.ndarray) -> np.ndarray:
    """The lower half of (L L^T)^-1 in place of that of L.

    OpenBLAS's own (potri, which begins with trtri) reaches a third of the speed of its matrix products at n = 256, and
    halving gives nearly all the work to those: an evaluation takes 1.03 ms instead of 1.23 ms.
    """
    return _square(_invert(lower)) if LEAF < len(lower) <= LARGE else _potri(lower, lower=1, overwrite_c=1)[0]


def _invert(lower: np.ndarray) -> np.ndarray:
    """L^-1 in place of the lower half of `lower`."""
    n = len(lower)
    if n <= LEAF:
        lower[...] = _trtri(lower, lower=1)[0]
        return lower
    h = n // 2
    first, last = _invert(lower[:h, :h]), _invert(lower[h:, h:])
    below = _trmm(-1.0, first, lower[h:, :h], side=1, lower=1)
    lower[h:, :h] = _trmm(1.0, last, below, lower=1, overwrite_b=1)
    return lower


def _square(lower: np.ndarray) -> np.ndarray:
    """The lower half of L^T L in place of that of L."""
    n = len(lower)
    if n <= 2 * LEAF:
        lower[...] = _lauum(lower, lower=1)[0]
        return lower
    h = n // 2
    more = _syrk(1.0, lower[h:, :h], trans=1, lower=1)
    lower[h:, :h] = _trmm(1.0, lower[h:, h:], lower[h:, :h], trans_a=1, lower=1)
    first = _square(lower[:h, :h])
    first += more
    _square(lower[h:, h:])
    return lower


def exact(kind: Kind, rows: Table) -> Objective:
    """The objective -log p(y) of an exact process; it keeps its work arrays from call to call."""
    n, f = rows.z.shape
    z = rows.z - rows.z.mean(axis=0)
    # few and reused, so that they stay in the cache; of "se" the slope is rho times a number
    half, rho = np.empty((n, n)), np.empty((n, n))
    rate, factor = (rho, -0.5) if kind == "se" else (np.empty((n, n)), 1.0)
    diagonal = slice(None, None, n + 1)
    weighted = np.ones((n, f + 1), order="F")

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray] | None:
        u = z * np.exp(-theta[:f])
        signal, noise = np.exp(2.0 * theta[f]), np.exp(2.0 * theta[f + 1]) / rows.count
        _half_distances(u, u, half)
        half.reshape(-1)[diagonal] = 0.0
        if kind == "se":
            np.exp(half, out=rho)
        else:
            profile_and_slope(kind, half, rho, rate)
        full = np.multiply(rho, signal, out=half)
        full.reshape(-1)[diagonal] += noise
        # LAPACK sees the transposed array, which is the same matrix, and overwrites its lower half
        lower, failed = _potrf(full.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            return None
        logs = float(np.sum(np.log(np.diagonal(lower))))
        a = _potrs(lower, rows.y, lower=1)[0]
        inverse = _inverse(lower)
        fit, spent = float(rows.y @ a), float(noise @ (np.diagonal(inverse) - a * a))
        w = _syr(-1.0, a, a=inverse, lower=1, overwrite_a=1)
        w *= rate.T
        weighted[:, :f] = u
        products = _symm(1.0, w, weighted, lower=1)
        pairs = 2.0 * (products[:, f] @ (u * u) - np.sum(u * products[:, :f], axis=0))
        rest, rest_rate = _merged(rows, float(theta[f + 1]))
        gradient = np.append(-signal * factor * pairs, [n - fit - spent, spent + rest_rate])
        return 0.5 * fit + logs + rest, gradient

    return evaluate


def sparse(kind: Kind, rows: Table, inducing: np.ndarray) -> Objective:
    """The objective of a sparse process: minus Titsias' bound, with the inducing points [m f] held fixed.

    The gradient is sum W_uf dK_uf + sum W_uu dK_uu + (what noise and prior variance do directly); in the terms of
    `sparse_gp` and with b = Sigma^-1 K_uf D^-1 y, a = D^-1 (y - K_fu b), T = L^-T (I - B^-1):

        W_uf = -(T A D^-1/2 + b a^T),   W_uu = (L^-T (B - 2 I + B^-1) L^-1 + b b^T) / 2

    Of the signal and the noise it needs traces only.
    """
    (n, f), m = rows.z.shape, len(inducing)
    centre = rows.z.mean(axis=0)
    z, points = rows.z - centre, np.asarray(inducing, np.float64) - centre
    across, along = [np.empty((n, m)) for _ in range(3)], [np.empty((m, m)) for _ in range(3)]
    eye = np.eye(m)

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray] | None:
        stretch, signal = np.exp(-theta[:f]), float(np.exp(2.0 * theta[f]))
        u, v = points * stretch, z * stretch
        k_fu, rate_fu = _covariances(kind, v, u, across, signal)
        k_uu, rate_uu = _covariances(kind, u, u, along, signal)
        lower = _factor(k_uu, signal)
        weight = np.sqrt(rows.count) * np.exp(-theta[f + 1])
        k_fu *= weight[:, None]
        if lower is None:
            return None
        a_t = _trsm(1.0, lower, k_fu.T, lower=1, overwrite_b=1).T  # LAPACK's columns are NumPy's rows
        gram = _mirrored(_syrk(1.0, a_t.T, lower=1))
        factor, failed = _potrf(gram + eye, lower=1)
        if failed:
            return None
        inverse = _mirrored(_inverse(factor.copy(order="F")))
        y = rows.y * weight
        mean = _potrs(factor, y @ a_t, lower=1)[0]
        left = y - a_t @ mean
        unexplained = signal * float(weight @ weight) - float(np.trace(gram))
        known = m - float(np.trace(inverse))
        rest, rest_rate = _merged(rows, float(theta[f + 1]))
        logs = float(np.sum(np.log(np.diagonal(factor)))) - 0.5 * float(np.sum(np.log(rows.count)))
        value = 0.5 * float(y @ left) + logs + 0.5 * unexplained + rest + n * float(theta[f + 1])

        beta = _left(lower, mean[:, None])[:, 0]
        w_fu = np.matmul(a_t, _left(lower, eye - inverse).T, out=across[2])
        w_fu += left[:, None] * beta
        w_fu *= -weight[:, None]
        w_uu = 0.5 * (_left(lower, _left(lower, gram - eye + inverse).T) + np.outer(beta, beta))
        pairs = _pairs(w_fu * rate_fu, v, u) + _pairs(w_uu * rate_uu, u, u)
        by_signal = unexplained + known - float(mean @ mean)
        by_noise = n - known - float(left @ left) - unexplained + rest_rate
        return value, np.append(-2.0 * pairs, [by_signal, by_noise])

    return evaluate


def _covariances(
    kind: Kind, u: np.ndarray, v: np.ndarray, work: list[np.ndarray], signal: float
) -> tuple[np.ndarray, np.ndarray]:
    """s^2 rho and s^2 d rho / d(r^2) between the rows of u and of v, in the last two work arrays."""
    _half_distances(u, v, work[2])
    if u is v:
        np.fill_diagonal(work[2], 0.0)
    profile_and_slope(kind, work[2], work[0], work[1])
    work[0] *= signal
    work[1] *= signal
    return work[0], work[1]


def _factor(k_uu: np.ndarray, signal: float) -> np.ndarray | None:
    """The lower Cholesky factor of K_uu with as much jitter as it needs, 1e-10 s^2 at least."""
    for tried in range(TRIES):
        jitter = JITTER * signal * 10.0**tried
        lower, failed = _potrf(k_uu + jitter * np.eye(len(k_uu)), lower=1)
        if not failed:
            return lower
    return None


def _left(lower: np.ndarray, b: np.ndarray) -> np.ndarray:
    """L^-T b."""
    return _trsm(1.0, lower, b, lower=1, trans_a=1)


def _mirrored(lower: np.ndarray) -> np.ndarray:
    """The symmetric matrix of which the lower half is given."""
    half = np.tril(lower)
    return half + np.tril(half, -1).T


def _pairs(w: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """sum_ij w_ij (u_i - v_j)^2 for each component, without an array of pairs for each."""
    return w.sum(axis=1) @ (u * u) + w.sum(axis=0) @ (v * v) - 2.0 * np.sum(u * (w @ v), axis=0)
