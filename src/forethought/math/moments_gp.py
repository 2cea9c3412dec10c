"""A Gaussian through a Gaussian process with squared exponential covariance: exact mean and covariance.

Deisenroth, Efficient Reinforcement Learning using Gaussian Processes, 2010, section 2.3.2; Quinonero-Candela et al.,
Propagation of uncertainty in Bayesian kernel models, ICASSP 2003.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.moments import Moments, exp_difference, positive_solve, symmetric
from forethought.types import Array, Scalar


class SEPosterior(NamedTuple):
    """k independent processes f_a(v) = offset_a + g_a(v) on the same inputs v [f], each given its data, float64.

    E g_a(v) = sum_i weights_ai k_a(v, v_i) and Var g_a(v) = s_a^2 - |root_a k_a(v)|^2, with
    k_a(v, v') = s_a^2 exp(-1/2 sum_d ((v_d - v'_d) / l_ad)^2).  Padding has zeros in weights and root.
    """

    centres: Float[Array, "k f c"]
    """(v_i - origin) / l_a, the data one per column."""
    lengths: Float[Array, "k f"]
    signal: Float[Array, " k"]
    """s_a."""
    weights: Float[Array, "k c"]
    root: Float[Array, "k c c"] | None
    """None, as `inverse`: the functions are known."""
    inverse: Float[Array, "k c c"] | None
    """root^T root, the inverse of the data's covariance with noise; it is here so that it is computed once."""
    origin: Float[Array, " f"]
    offset: Float[Array, " k"]


class _Seen(NamedTuple):
    """One process as the input distribution sees it."""

    away: Float[Array, "f c"]
    """(v_i - m) / l^2."""
    plain: Float[Array, " c"]
    """log E k(v, v_i)."""
    shrink: Float[Array, "f f"]
    """(S^-1 + L^-1)^-1, with L = diag l^2."""
    logdet: Scalar
    """log |I + S L^-1|."""
    precision: Float[Array, " f"]
    """1 / l^2."""


def se_moments(posterior: SEPosterior, mean: Float[Array, " f"], cov: Float[Array, "f f"]) -> Moments:
    """Mean and covariance of the k functions at v ~ N(mean, cov).  Observation noise is not included.

    The covariance is that of the mean functions, and on its diagonal the processes' own uncertainty.  It is summed from
    differences E[k k'] - E[k] E[k'] that vanish with the input's covariance, so nothing cancels there: with cov = 0 the
    result is the prediction at a point.  It takes O(k^2 c^2).
    """
    posterior = jax.tree.map(jnp.asarray, posterior)
    q, slope, seen = jax.vmap(_first, in_axes=(0, 0, 0, 0, None, None))(
        posterior.centres,
        posterior.lengths,
        posterior.signal,
        posterior.weights,
        mean - posterior.origin,
        cov,
    )
    value = posterior.offset + jnp.sum(posterior.weights * q, axis=1)
    return Moments(value, symmetric(_covariance(posterior, q, seen, cov)), slope)


def _first(centres: Array, lengths: Array, signal: Array, weights: Array, mean: Array, cov: Array) -> tuple:
    """E k(v, v_i) for all i, the expected slope of the mean function, and what the second moments need."""
    nu = centres - (mean / lengths)[:, None]
    scaled = symmetric(cov / (lengths[:, None] * lengths[None, :]))
    eye = jnp.eye(mean.shape[0], dtype=mean.dtype)
    solved, logdet = positive_solve(eye + scaled, jnp.concatenate([nu, scaled], axis=1))
    inside, ratio = solved[:, : nu.shape[1]], symmetric(solved[:, nu.shape[1] :])
    plain = 2.0 * jnp.log(signal) - 0.5 * logdet - 0.5 * jnp.sum(nu * inside, axis=0)
    q = jnp.exp(plain)
    slope = (inside @ (weights * q)) / lengths
    shrink = ratio * (lengths[:, None] * lengths[None, :])
    return q, slope, _Seen(nu / lengths[:, None], plain, shrink, logdet, lengths**-2)


def _covariance(posterior: SEPosterior, q: Float[Array, "k c"], seen: _Seen, cov: Float[Array, "f f"]) -> Array:
    """Cov[f_a, f_b] for all pairs."""
    k = q.shape[0]
    first, second = np.triu_indices(k)
    pick = lambda tree, index: jax.tree.map(lambda leaf: leaf[index], tree)

    # Recomputed in the backward pass: what it would keep is larger than the caches.
    @jax.checkpoint
    def pair(index: tuple[Array, Array]) -> Array:
        a, b = index
        spread = _spread(pick(seen, a), pick(seen, b), cov)
        both = posterior.weights[a] @ spread @ posterior.weights[b]
        if posterior.root is None or posterior.inverse is None:
            return both
        root, inverse = posterior.root[a], posterior.inverse[a]
        own = lambda: posterior.signal[a] ** 2 - jnp.sum((root @ q[a]) ** 2) - jnp.sum(inverse * spread)
        return both + jax.lax.cond(a == b, own, lambda: jnp.zeros((), q.dtype))

    each = jax.lax.map(pair, (jnp.asarray(first), jnp.asarray(second)))
    upper = jnp.zeros((k, k), q.dtype).at[first, second].set(each)
    return upper + jnp.triu(upper, 1).T


def _spread(a: _Seen, b: _Seen, cov: Float[Array, "f f"]) -> Float[Array, "c c"]:
    """E[k_a(v, v_i) k_b(v, v_j)] - E k_a(v, v_i) E k_b(v, v_j)."""
    width = jnp.sqrt(a.precision + b.precision)
    scaled = symmetric(cov * (width[:, None] * width[None, :]))
    solved, logdet = positive_solve(jnp.eye(width.shape[0], dtype=width.dtype) + scaled, scaled)
    both = symmetric(solved) / (width[:, None] * width[None, :])
    own = lambda s: 0.5 * jnp.sum(s.away * ((both - s.shrink) @ s.away), axis=0) + 0.5 * s.logdet
    apart = own(a)[:, None] + own(b)[None, :] - 0.5 * logdet + a.away.T @ (both @ b.away)
    product = a.plain[:, None] + b.plain[None, :]
    return exp_difference(product + apart, product, apart)
