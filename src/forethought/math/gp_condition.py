"""Conditioning a Gaussian process on its data, in NumPy and LAPACK.

It happens a few times for each size of the arrays: XLA needs seconds to compile for every one of them what takes
milliseconds here, and the runs of a user who waits for the first plan never earn that back.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs

from forethought.math.gp import JITTER, TRIES, Hyper, Posterior, Rows
from forethought.math.gp_host import profile_and_slope
from forethought.math.kernels import Kind
from forethought.types import Array

_potrf, _trtri = get_lapack_funcs(("potrf", "trtri"), dtype=np.float64)


def condition(kind: Kind, hyper: Hyper, rows: Rows) -> Posterior:
    """The posterior given the rows; if no jitter makes K positive definite (`sturdy_factor`), the prior, not `ok`."""
    count = np.asarray(rows.count)
    real = np.flatnonzero(count > 0.0)
    weights, root = np.zeros(len(count)), np.zeros((len(count), len(count)))
    z, y = np.asarray(rows.z)[real], np.asarray(rows.y)[real]
    k = correlation(kind, hyper, z, z)
    np.fill_diagonal(k, np.exp(2.0 * hyper.log_signal) + np.exp(2.0 * hyper.log_noise) / count[real])
    # A row at infinity would be far from all others, and nothing else.
    lower, jitter = sturdy_factor(k, 0) if np.isfinite(k).all() and np.isfinite(z).all() else (None, 0.0)
    if lower is not None:
        inverse = inverted(lower)
        known = inverse.T @ (inverse @ y)
        if np.isfinite(inverse).all() and np.isfinite(known).all():
            weights[real], root[np.ix_(real, real)] = known, inverse
            return Posterior(weights, root, np.asarray(jitter), np.ones((), bool))
    return Posterior(weights, root, np.zeros(()), np.zeros((), bool))


def sturdy_factor(a: Float[np.ndarray, "c c"], first: int) -> tuple[Float[np.ndarray, "c c"] | None, float]:
    """Lower Cholesky factor, or None if there is none, and the jitter on the diagonal.

    The ladder is 0, and 1e-10 to 1e-5 of the mean diagonal; it is climbed from step `first` until there is a factor
    that is made of more than rounding.
    """
    diagonal = np.diagonal(a).copy()
    if not len(a):
        return a, 0.0
    for tried in range(first, TRIES + 1):
        jitter = float(JITTER * diagonal.mean() * 10.0 ** (tried - 1)) if tried else 0.0
        lower, failed = _potrf(a + jitter * np.eye(len(a)), lower=1, clean=1)
        # A pivot below this part of its diagonal element is nothing but rounding: the row is known already.
        if not failed and np.all(np.diagonal(lower) ** 2 > np.finfo(np.float64).eps * len(a) * diagonal):
            return lower, jitter
    return None, 0.0


def inverted(lower: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    """L^-1."""
    return np.tril(_trtri(lower, lower=1)[0]) if len(lower) else lower


def correlation(kind: Kind, hyper: Hyper, a: Float[Array, "i f"], b: Float[Array, "j f"]) -> Float[np.ndarray, "i j"]:
    """s^2 rho(r^2) between the rows of a and of b.  From differences, which keep the digits of near ones."""
    short = np.exp(-np.asarray(hyper.log_lengths))
    a, b = np.asarray(a) * short, np.asarray(b) * short
    half = np.zeros((len(a), len(b)))
    for i in range(a.shape[1]):
        half -= 0.5 * (a[:, i, None] - b[:, i]) ** 2
    rho = np.empty_like(half)
    profile_and_slope(kind, half, rho, np.empty_like(half))
    return np.exp(2.0 * hyper.log_signal) * rho


def append_rows(kind: Kind, hyper: Hyper, rows: Rows, posterior: Posterior, first: int) -> Posterior | None:
    """The posterior given all `rows` (no padding), from that of those before `first`, whose arrays have the room.

    With R the inverse root so far, A = R K_old,new and L L^T = K_new + noise - A^T A, the inverse root goes on with the
    rows [-L^-1 A^T R, L^-1].  O(c^2) for each new row.  None where a new row is so certain already that the matrix
    would need jitter, or where that posterior had some: then all rows have to be conditioned on.
    """
    if not bool(posterior.ok) or float(posterior.jitter) != 0.0:
        return None
    if first == len(rows.z):
        return posterior
    last, room = len(rows.z), np.shape(posterior.weights)[0]
    weights, root = np.array(posterior.weights), np.array(posterior.root)
    known = root[:first, :first]
    z = np.asarray(rows.z)
    k = correlation(kind, hyper, z[first:], z)
    own = np.exp(2.0 * hyper.log_signal) + np.exp(2.0 * hyper.log_noise) / rows.count[first:]
    a = known @ k[:, :first].T
    left = k[:, first:]
    np.fill_diagonal(left, own)
    lower, failed = _potrf(left - a.T @ a, lower=1)
    # a pivot that is nothing but rounding: as `sturdy_factor` sees it
    if failed or not np.all(np.diagonal(lower) ** 2 > np.finfo(np.float64).eps * room * own):
        return None
    inverse = inverted(lower)
    below = -(inverse @ a.T) @ known
    news = inverse @ (rows.y[first:] - k[:, :first] @ weights[:first])
    weights[:first] += news @ below
    weights[first:last] = news @ inverse
    root[first:last, :first] = below
    root[first:last, first:last] = inverse
    if not (np.isfinite(weights).all() and np.isfinite(root[first:last]).all()):
        return None
    return Posterior(weights, root, np.zeros(()), np.ones((), bool))
