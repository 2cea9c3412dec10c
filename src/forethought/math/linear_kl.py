"""Divergence between time-varying linear-Gaussian policies, and the old policy as a quadratic cost."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.linear_quadratic import LinearGaussianPolicy, LinearMarginals
from forethought.types import Array


def lower_inverse(lower: Float[Array, "*batch m m"]) -> Float[Array, "*batch m m"]:
    """L^-1 by forward substitution; infinite where a pivot is 0."""
    eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return solve_lower(lower, eye)


def solve_lower(lower: Float[Array, "*batch m m"], right: Float[Array, "*batch m j"]) -> Float[Array, "*batch m j"]:
    """L^-1 G, row by row: all of a batch at once."""
    rows: list[Array] = []
    for i in range(lower.shape[-1]):
        known = sum((lower[..., i, k, None] * rows[k] for k in range(i)), jnp.zeros_like(right[..., i, :]))
        rows.append((right[..., i, :] - known) / lower[..., i, i, None])
    return jnp.stack(rows, axis=-2)


def policy_kl(new: LinearGaussianPolicy, old: LinearGaussianPolicy, marginals: LinearMarginals) -> Float[Array, " T"]:
    """E_x[KL(new(.|x_t) || old(.|x_t))] at every step, in nats, for the x_t that `marginals` says.

    With A = L'^-1 L, D = L'^-1 (K - K'), e = D mean + L'^-1 (k - k'), where ' is the old one:

        KL = 1/2 sum_{i>j} A_ij^2 + sum_i [(A_ii^2 - 1)/2 - log A_ii] + 1/2 |e|^2 + 1/2 tr(D S D^T)

    Every term is at least 0, so nothing cancels and nothing is clamped.  Under the new policy's own marginals the sum
    over time is the KL of the trajectories, since both have the same dynamics and initial states.  +inf where either
    policy has no noise in some direction.
    """
    n = old.K.shape[2]
    mean, cov = marginals.mean[:, :n], marginals.cov[:, :n, :n]
    # In terms of A - I = L'^-1 (L - L'), which is exactly 0 where the two are the same.
    change = jnp.concatenate([new.L - old.L, new.K - old.K, (new.k - old.k)[:, :, None]], axis=2)
    moved = solve_lower(old.L, change)
    m = old.k.shape[1]
    A, D, offset = moved[:, :, :m], moved[:, :, m:-1], moved[:, :, -1]
    below = 0.5 * jnp.sum(jnp.tril(A, -1) ** 2, axis=(1, 2))
    pivots, change = (jnp.diagonal(L, axis1=1, axis2=2) for L in (new.L, A))
    spread = jnp.sum(_stretch(jnp.abs(pivots / jnp.diagonal(old.L, axis1=1, axis2=2)), change), axis=1)
    e = jnp.sum(D * mean[:, None, :], axis=2) + offset
    scatter = jnp.sum(jnp.matmul(D, cov, precision="highest") * D, axis=(1, 2))
    found = below + spread + 0.5 * jnp.sum(e**2, axis=1) + 0.5 * scatter
    sound = jnp.all(jnp.diagonal(old.L, axis1=1, axis2=2) != 0.0, axis=1)
    return jnp.where(sound & ~jnp.isnan(found), found, jnp.inf)


def _stretch(a: Float[Array, "*shape"], change: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(a^2 - 1)/2 - log a, with `change` = a - 1 to full precision where a is near 1.

    It is d^2/2 + (d - log(1 + d)) with d = a - 1, and what is in brackets has a series where it cancels.
    """
    small = jnp.abs(change) < 1e-2
    d = jnp.where(small, change, a - 1.0)
    x = jnp.where(small, d, 0.0)
    series = jnp.zeros_like(x)
    for power in range(9, 1, -1):
        series = (-1.0) ** power / power + x * series
    log = jnp.where(a < 0.5, jnp.log(a), jnp.log1p(d))
    return 0.5 * d**2 + jnp.where(small, x**2 * series, d - log)


class Surprise(NamedTuple):
    """-log old(u|x) as a cost: 1/2 z^T M z + m^T z, up to a constant."""

    M: Float[Array, "T n+m n+m"]
    m: Float[Array, "T n+m"]


def surprise(old: LinearGaussianPolicy) -> Surprise:
    """M = G^T Sigma^-1 G and m = -G^T Sigma^-1 k with G = [-K I]: positive semidefinite by construction."""
    m, dtype = old.k.shape[1], old.K.dtype
    eye = jnp.broadcast_to(jnp.eye(m, dtype=dtype), (*old.k.shape, m))
    R = solve_lower(old.L, jnp.concatenate([-old.K, eye, old.k[:, :, None]], axis=2))
    root, offset = R[:, :, :-1], R[:, :, -1]
    M = jnp.sum(root[:, :, :, None] * root[:, :, None, :], axis=1)
    return Surprise(M, -jnp.sum(root * offset[:, :, None], axis=1))


def precision_root(Quu: Float[Array, "T m m"]) -> Float[Array, "T m m"]:
    """The lower Cholesky factor of Quu^-1, without forming the inverse.

    With the order of rows and columns reversed, Quu = U U^T for an upper triangular U; then Quu^-1 = U^-T U^-1, and
    U^-T is lower triangular.
    """
    flipped = jnp.linalg.cholesky(Quu[:, ::-1, ::-1], symmetrize_input=False)
    return jnp.swapaxes(lower_inverse(flipped)[:, ::-1, ::-1], 1, 2)
