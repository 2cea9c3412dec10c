"""New rows for a conditioned Gaussian process, in NumPy and LAPACK.

It is `gp.extend`, all new rows at once and with nothing to compile: XLA needs most of a second for its program, anew
for every size of the arrays, which the few fits of a run in that size never earn back.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import get_lapack_funcs

from forethought.math.gp import Hyper, Posterior, Rows
from forethought.math.gp_host import profile_and_slope
from forethought.math.kernels import Kind

_potrf, _trtri = get_lapack_funcs(("potrf", "trtri"), dtype=np.float64)


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
    z = np.asarray(rows.z) * np.exp(-np.asarray(hyper.log_lengths))
    k = np.exp(2.0 * hyper.log_signal) * _correlation(kind, z[first:], z)
    own = np.exp(2.0 * hyper.log_signal) + np.exp(2.0 * hyper.log_noise) / rows.count[first:]
    a = known @ k[:, :first].T
    left = k[:, first:]
    np.fill_diagonal(left, own)
    lower, failed = _potrf(left - a.T @ a, lower=1)
    # a pivot that is nothing but rounding: as `gp.sturdy_factor` sees it
    if failed or not np.all(np.diagonal(lower) ** 2 > np.finfo(np.float64).eps * room * own):
        return None
    inverse = np.tril(_trtri(lower, lower=1)[0])
    below = -(inverse @ a.T) @ known
    news = inverse @ (rows.y[first:] - k[:, :first] @ weights[:first])
    weights[:first] += news @ below
    weights[first:last] = news @ inverse
    root[first:last, :first] = below
    root[first:last, first:last] = inverse
    if not (np.isfinite(weights).all() and np.isfinite(root[first:last]).all()):
        return None
    return Posterior(weights, root, np.zeros(()), np.ones((), bool))


def _correlation(kind: Kind, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """rho(r^2) between the rows of a and of b.  From differences, which keep the digits of near ones."""
    half = np.zeros((len(a), len(b)))
    for i in range(a.shape[1]):
        half -= 0.5 * (a[:, i, None] - b[:, i]) ** 2
    rho = np.empty_like(half)
    profile_and_slope(kind, half, rho, np.empty_like(half))
    return rho
