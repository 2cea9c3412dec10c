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
    """L^-1 G, row by row: all of a batch at once, and exactly the identity if G is L."""
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
    A = solve_lower(old.L, new.L)
    shift = jnp.concatenate([new.K - old.K, (new.k - old.k)[:, :, None]], axis=2)
    moved = solve_lower(old.L, shift)
    D, offset = moved[:, :, :n], moved[:, :, n]
    pivots = jnp.abs(jnp.diagonal(A, axis1=1, axis2=2))
    below = 0.5 * jnp.sum(jnp.tril(A, -1) ** 2, axis=(1, 2))
    # (a^2 - 1)/2 - log a with a = 1 + d is d + d^2/2 - log(1 + d): near a = 1 nothing cancels but second orders.
    d = pivots - 1.0
    spread = jnp.sum(0.5 * d**2 + (d - jnp.log1p(d)), axis=1)
    e = jnp.sum(D * mean[:, None, :], axis=2) + offset
    scatter = jnp.sum(jnp.matmul(D, cov, precision="highest") * D, axis=(1, 2))
    found = below + spread + 0.5 * jnp.sum(e**2, axis=1) + 0.5 * scatter
    sound = jnp.all(jnp.diagonal(old.L, axis1=1, axis2=2) != 0.0, axis=1)
    return jnp.where(sound & ~jnp.isnan(found), found, jnp.inf)


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
