"""Linear dynamics, quadratic costs and linear-Gaussian policies that vary in time, and what follows from them.

    x_{t+1} = F_t z_t + f_t + w_t,   w_t ~ N(0, W_t),   z = [x; u],   t = 0 .. T-1
    cost_t(z) = 1/2 z^T C_t z + c_t^T z + cc_t,   terminal 1/2 x^T C_T x + c_T^T x + cc_T
    u_t = K_t x_t + k_t + L_t e,   e ~ N(0, I)

Costs are minimised; the dtype is that of the arrays, which should be float64.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.moments import symmetric
from forethought.math.small_matrices import product
from forethought.types import Array, Scalar


class LinearDynamics(NamedTuple):
    """x+ = F_t z + f_t + w_t with w_t ~ N(0, W_t)."""

    F: Float[Array, "T n n+m"]
    """[A_t B_t]."""
    f: Float[Array, "T n"]
    W: Float[Array, "T n n"] | None = None
    """Covariance of the noise; None is no noise, and costs nothing."""


class QuadraticCost(NamedTuple):
    """1/2 z^T C_t z + c_t^T z + cc_t at each step, 1/2 x^T C_T x + c_T^T x + cc_T at the end."""

    C: Float[Array, "T n+m n+m"]
    """Only its symmetric part matters, as in the equation."""
    c: Float[Array, "T n+m"]
    cc: Float[Array, " T"]
    C_T: Float[Array, "n n"]
    c_T: Float[Array, " n"]
    cc_T: Scalar


class LinearGaussianPolicy(NamedTuple):
    """u ~ N(K_t x + k_t, L_t L_t^T)."""

    K: Float[Array, "T m n"]
    k: Float[Array, "T m"]
    L: Float[Array, "T m m"]
    """Lower triangular; zeros for a policy without noise."""


class LinearMarginals(NamedTuple):
    """The Gaussians of z_t = [x_t; u_t] and of the last state.  Covariances may be singular."""

    mean: Float[Array, "T n+m"]
    cov: Float[Array, "T n+m n+m"]
    last_mean: Float[Array, " n"]
    last_cov: Float[Array, "n n"]


def linear_rollout(
    dynamics: LinearDynamics,
    K: Float[Array, "T m n"],
    k: Float[Array, "T m"],
    x0: Float[Array, " n"],
    disturbance: Float[Array, "T n"] | None = None,
) -> tuple[Float[Array, "T+1 n"], Float[Array, "T m"]]:
    """States x_0 .. x_T and actions u_0 .. u_{T-1} under u = K_t x + k_t.

    `disturbance` is added to the next states, as w_t is; W itself is not looked at.
    """
    offset = dynamics.f if disturbance is None else dynamics.f + disturbance

    def step(x: Array, at: tuple[Array, Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        F, f, K, k = at
        u = jnp.sum(K * x, axis=1) + k
        return jnp.sum(F * jnp.concatenate([x, u]), axis=1) + f, (x, u)

    last, (xs, us) = jax.lax.scan(step, jnp.asarray(x0, dynamics.F.dtype), (dynamics.F, offset, K, k))
    return jnp.concatenate([xs, last[None]]), us


def quadratic_cost(cost: QuadraticCost, xs: Float[Array, "_ n"], us: Float[Array, "T m"]) -> Scalar:
    """The cost of states x_0 .. x_T and actions u_0 .. u_{T-1}, summed over time."""
    z = jnp.concatenate([xs[:-1], us], axis=1)
    stage = 0.5 * jnp.sum(z[:, :, None] * cost.C * z[:, None, :]) + jnp.sum(cost.c * z) + jnp.sum(cost.cc)
    x = xs[-1]
    return stage + 0.5 * jnp.sum(x[:, None] * cost.C_T * x) + jnp.sum(cost.c_T * x) + cost.cc_T


def linear_marginals(
    dynamics: LinearDynamics, policy: LinearGaussianPolicy, m0: Float[Array, " n"], P0: Float[Array, "n n"]
) -> LinearMarginals:
    """Of every z_t, with x_0 ~ N(m0, P0).  Exact.

    mean_z = [m; K m + k], cov_z = [I; K] S [I; K]^T + blockdiag(0, L L^T), and the next state has mean F mean_z + f and
    covariance F cov_z F^T + W.
    """
    n, dtype = dynamics.F.shape[1], dynamics.F.dtype
    noise = jnp.zeros((*dynamics.f.shape, n), dtype) if dynamics.W is None else dynamics.W

    def step(now: tuple[Array, Array], at: tuple[Array, ...]) -> tuple:
        (mean, cov), (F, f, W, K, k, L) = now, at
        both = jnp.concatenate([jnp.eye(n, dtype=dtype), K])
        mean_z = jnp.concatenate([mean, jnp.sum(K * mean, axis=1) + k])
        own = jnp.pad(product(L, L.T), ((n, 0), (n, 0)))
        cov_z = symmetric(product(product(both, cov), both.T) + own)
        following = symmetric(product(product(F, cov_z), F.T) + W)
        return (jnp.sum(F * mean_z, axis=1) + f, following), (mean_z, cov_z)

    start = (jnp.asarray(m0, dtype), symmetric(jnp.asarray(P0, dtype)))
    last, (mean, cov) = jax.lax.scan(step, start, (dynamics.F, dynamics.f, noise, *policy))
    return LinearMarginals(mean, cov, *last)


def expected_cost(cost: QuadraticCost, marginals: LinearMarginals) -> Scalar:
    """E[sum_t cost_t(z_t) + terminal], in closed form: the cost of the means plus 1/2 tr(C S) at each step."""
    n = marginals.last_mean.shape[0]
    xs = jnp.concatenate([marginals.mean[:, :n], marginals.last_mean[None]])
    spread = jnp.sum(cost.C * marginals.cov) + jnp.sum(cost.C_T * marginals.last_cov)
    return quadratic_cost(cost, xs, marginals.mean[:, n:]) + 0.5 * spread


def policy_entropy(policy: LinearGaussianPolicy) -> Float[Array, " T"]:
    """H_t = 1/2 log|L L^T| + m/2 (1 + log 2 pi) in nats, the same in every state; -inf without noise."""
    m = policy.k.shape[1]
    pivots = jnp.diagonal(policy.L, axis1=1, axis2=2)
    return jnp.sum(jnp.log(jnp.abs(pivots)), axis=1) + 0.5 * m * (1.0 + jnp.log(2.0 * jnp.pi))
