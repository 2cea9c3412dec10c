"""The Riccati recursion: the optimal linear policy and its value function, one step at a time from the end.

Equations of Anderson and Moore, Optimal Control: Linear Quadratic Methods, 1990, chapter 2, with cross terms, linear
terms and offsets.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from forethought.math.linear_quadratic import LinearDynamics, QuadraticCost
from forethought.math.moments import symmetric
from forethought.math.small_matrices import cholesky_solve, gram, product, transposed_product
from forethought.types import Array, Scalar

ROUNDING = 16.0
"""A squared pivot of Quu counts as zero below this many units of rounding per row of z (see `cholesky_solve`)."""


class LQRStatus(enum.IntEnum):
    """How a backward pass ended."""

    SOLVED = 0
    """The policy is the unique optimum."""
    NOT_POSITIVE_DEFINITE = 1
    """At step `failed_at` the cost is unbounded below in u, or its minimum is not unique."""
    NOT_FINITE = 2
    """At step `failed_at` (T: in the terminal cost) a number is NaN, infinite, or overflowed."""


class LQRSolution(NamedTuple):
    """The policy u_t = K_t x + k_t and its value function V_t(x) = 1/2 x^T P_t x + p_t^T x + v_t.

    V_t is always the expected cost from x_t on of the policy that is returned.  If every `definite` is true that is the
    optimum.  A step where Quu is not positive definite has no unique best action: there K_t = 0, k_t = 0 and `cholesky`
    is 0, so that u = 0 is taken, V_t is the cost of that, and earlier steps are the optimal answer to it.  Where
    numbers stop being finite (status NOT_FINITE) V_t is NaN or infinite from `failed_at` back to t = 0, and the
    gains there are 0; nothing else is ever NaN.
    """

    K: Float[Array, "T m n"]
    k: Float[Array, "T m"]
    P: Float[Array, "T+1 n n"]
    """Exactly symmetric."""
    p: Float[Array, "T+1 n"]
    v: Float[Array, " T+1"]
    """With the noise's share, 1/2 tr(W_t P_{t+1}) per step."""
    Quu: Float[Array, "T m m"]
    """Second derivative of cost_t + V_{t+1} in u; the gains are K = -Quu^-1 Qux, k = -Quu^-1 qu."""
    cholesky: Float[Array, "T m m"]
    """L with Quu = L L^T, lower triangular."""
    definite: Bool[Array, " T"]
    """Whether Quu was positive definite, beyond rounding."""
    status: Int[Array, ""]
    """An `LQRStatus`."""
    failed_at: Int[Array, ""]
    """The step that the status is about, the first that was met going backward from T; -1 if none."""


class Value(NamedTuple):
    """V(x) = 1/2 x^T P x + p^T x + v."""

    P: Float[Array, "n n"]
    p: Float[Array, " n"]
    v: Scalar


class Stage(NamedTuple):
    """What a backward step finds beside the value function."""

    K: Float[Array, "m n"]
    k: Float[Array, " m"]
    Quu: Float[Array, "m m"]
    cholesky: Float[Array, "m m"]
    definite: Bool[Array, ""]


class Term(NamedTuple):
    """One step of dynamics and cost."""

    F: Float[Array, "n n+m"]
    f: Float[Array, " n"]
    W: Float[Array, "n n"] | None
    C: Float[Array, "n+m n+m"]
    c: Float[Array, " n+m"]
    cc: Scalar


def terms(dynamics: LinearDynamics, cost: QuadraticCost) -> Term:
    """All T steps, stacked."""
    return Term(dynamics.F, dynamics.f, dynamics.W, cost.C, cost.c, cost.cc)


def terminal(cost: QuadraticCost) -> Value:
    """V_T, the terminal cost."""
    return Value(symmetric(cost.C_T), cost.c_T, cost.cc_T)


def step_back(after: Value, at: Term) -> tuple[Value, Stage]:
    """V_t and the gains of step t from V_{t+1}.

    Q = C + F^T P F, q = c + F^T (p + P f), L = cholesky(Quu), [Y y] = L^-1 [Qux qu]; then K = -L^-T Y, k = -L^-T y,
    P_t = Qxx - Y^T Y, p_t = qx - Y^T y, v_t = cc + v + f^T (P f/2 + p) + tr(W P)/2 - y^T y/2.
    """
    (P, p, v), (F, f, W, C, c, cc) = after, at
    n, dtype = F.shape[0], F.dtype
    moved = jnp.sum(P * f, axis=1)
    # Once here, and everything that is cut out of it below is symmetric exactly.
    Q = symmetric(C + transposed_product(F, product(P, F)))
    q = c + jnp.sum(F * (p + moved)[:, None], axis=0)
    right = jnp.concatenate([Q[n:, :n], q[n:, None]], axis=1)
    tolerance = ROUNDING * F.shape[1] * float(jnp.finfo(dtype).eps)
    lower, half, whole, definite = cholesky_solve(Q[n:, n:], right, tolerance)
    half, gains = jnp.where(definite, half, 0.0), jnp.where(definite, -whole, 0.0)
    Y, y = half[:, :n], half[:, n]
    here = cc + jnp.sum(f * (0.5 * moved + p)) - 0.5 * jnp.sum(y**2)
    here = here if W is None else here + 0.5 * jnp.sum(W * P)
    value = Value(Q[:n, :n] - gram(Y), q[:n] - jnp.sum(Y * y[:, None], axis=0), v + here)
    return value, Stage(gains[:, :n], gains[:, n], Q[n:, n:], jnp.where(definite, lower, 0.0), definite)


def riccati(dynamics: LinearDynamics, cost: QuadraticCost) -> LQRSolution:
    """The whole backward pass as one `lax.scan`: O(T (n+m)^3) work, T steps one after the other."""
    last = terminal(cost)

    def step(after: Value, at: Term) -> tuple[Value, tuple[Value, Stage]]:
        value, stage = step_back(after, at)
        return value, (value, stage)

    _, (values, stages) = jax.lax.scan(step, last, terms(dynamics, cost), reverse=True)
    return solution(Value(*(jnp.concatenate([a, b[None]]) for a, b in zip(values, last, strict=True))), stages)


def solution(values: Value, stages: Stage) -> LQRSolution:
    """All steps' values (T+1 of them) and stages (T), with the status that they amount to."""
    finite = jnp.isfinite(values.v) & jnp.all(jnp.isfinite(values.p), axis=1)
    finite &= jnp.all(jnp.isfinite(values.P), axis=(1, 2))
    gains = jnp.concatenate([stages.K, stages.k[:, :, None]], axis=2)
    fine = finite[:-1] & jnp.all(jnp.isfinite(gains), axis=(1, 2))
    K, k = jnp.where(fine[:, None, None], stages.K, 0.0), jnp.where(fine[:, None], stages.k, 0.0)
    failed = ~jnp.append(fine & stages.definite, finite[-1])
    steps = jnp.arange(failed.shape[0], dtype=jnp.int32)
    failed_at = jnp.max(jnp.where(failed, steps, -1))
    numbers = ~jnp.append(fine, finite[-1])[failed_at]
    kind = jnp.where(numbers, LQRStatus.NOT_FINITE, LQRStatus.NOT_POSITIVE_DEFINITE)
    status = jnp.where(failed_at < 0, LQRStatus.SOLVED, kind).astype(jnp.int32)
    return LQRSolution(K, k, *values, stages.Quu, stages.cholesky, stages.definite, status, failed_at)
