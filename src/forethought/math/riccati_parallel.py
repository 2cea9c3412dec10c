"""The backward pass of linear-quadratic control in O(log T) steps one after the other, for devices with many cores.

Särkkä and García-Fernández, Temporal parallelization of dynamic programming and linear quadratic control, IEEE
Transactions on Automatic Control 68(2), 2023; here with cross terms, linear terms and offsets.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from forethought.math.linear_quadratic import LinearDynamics, QuadraticCost
from forethought.math.moments import symmetric
from forethought.math.riccati import LQRSolution, LQRStatus, Term, Value, riccati, solution, step_back, terminal, terms
from forethought.math.small_matrices import cholesky_solve
from forethought.types import Array, Flag

AGREEMENT = 1e-10
"""How well V_t from the scan must agree with one Riccati step from V_{t+1}, relative to the largest entry."""


class Span(NamedTuple):
    """The least cost of getting from x at the start of some steps to y at their end, up to a constant, as its dual.

    V(x, y) = max_l 1/2 x^T J x - h^T x + l^T (A x + b - y) - 1/2 l^T C l
    """

    A: Float[Array, "n n"]
    b: Float[Array, " n"]
    C: Float[Array, "n n"]
    h: Float[Array, " n"]
    J: Float[Array, "n n"]


def one_step(at: Term) -> tuple[Span, Bool[Array, ""]]:
    """The span of one step, and whether Cuu is positive definite, without which there is none.

    Minimising over u leaves l as multiplier of the dynamics: u = -R^-1 (M^T x + r + B^T l), with Cuu = R, Cxu = M and
    cu = r, hence A - B R^-1 M^T, f - B R^-1 r, B R^-1 B^T, -(q - M R^-1 r) and Q - M R^-1 M^T.
    """
    n = at.F.shape[0]
    cost = symmetric(at.C)
    right = jnp.concatenate([cost[n:, :n], at.F[:, n:].T, at.c[n:, None]], axis=1)
    tolerance = at.F.shape[1] * float(jnp.finfo(at.F.dtype).eps)
    _, half, _, definite = cholesky_solve(cost[n:, n:], right, tolerance)
    M, B, r = half[:, :n], half[:, n : 2 * n], half[:, 2 * n]
    with jax.default_matmul_precision("highest"):
        span = Span(at.F[:, :n] - B.T @ M, at.f - B.T @ r, B.T @ B, M.T @ r - at.c[:n], cost[:n, :n] - M.T @ M)
    return span, definite


def join(first: Span, then: Span) -> Span:
    """Both spans, one after the other: associative, minimising over the state between them.

    y = (I + C1 J2)^-1 (A1 x + b1 + C1 h2 - C1 A2^T l) is that state; putting it in gives the rest.
    """
    n = first.b.shape[0]
    with jax.default_matmul_precision("highest"):
        between = jnp.eye(n, dtype=first.b.dtype) + first.C @ then.J
        moved = (first.b + first.C @ then.h)[:, None]
        solved = jnp.linalg.solve(between, jnp.concatenate([first.A, first.C, moved], axis=1))
        A, C, b = solved[:, :n], solved[:, n : 2 * n], solved[:, 2 * n]
        return Span(
            then.A @ A,
            then.A @ b + then.b,
            symmetric(then.A @ C @ then.A.T + then.C),
            first.A.T @ (then.h - then.J @ b) + first.h,
            symmetric(first.A.T @ then.J @ A + first.J),
        )


def riccati_parallel(dynamics: LinearDynamics, cost: QuadraticCost) -> LQRSolution:
    """What `riccati` returns, by an associative scan: about five to eight times its work.

    The scan needs Cuu to be positive definite at every step, cannot see where Quu is not, and loses digits where Cuu is
    ill-conditioned.  So each V_t is compared with one Riccati step from V_{t+1}, all t at once, and unless they agree
    to `AGREEMENT` and the status is SOLVED, the sequential pass runs and gives the result.  That is a `while_loop` of
    zero or one turns, which a `vmap` does not run where no problem needs it: derivatives are forward mode only.
    """
    at, last = terms(dynamics, cost), terminal(cost)
    spans, definite = jax.vmap(one_step)(at)
    zero = jnp.zeros_like(last.P)
    end = Span(zero, jnp.zeros_like(last.p), zero, -last.p, last.P)
    spans = Span(*(jnp.concatenate([a, b[None]]) for a, b in zip(spans, end, strict=True)))
    # Backward in time, the scan hands over the later part first.
    whole = jax.lax.associative_scan(lambda later, earlier: jax.vmap(join)(earlier, later), spans, reverse=True)
    found, trusted = _refined(whole, at, last)
    trusted &= jnp.all(definite) & (found.status == LQRStatus.SOLVED)
    again = lambda _: (jnp.ones((), bool), riccati(dynamics, cost))
    return jax.lax.while_loop(lambda now: ~now[0], again, (trusted, found))[1]


def _refined(whole: Span, at: Term, last: Value) -> tuple[LQRSolution, Flag]:
    """The solution after one Riccati step from each V_{t+1}, and whether the scan agreed with it."""
    P, p = whole.J, -whole.h
    after = Value(P[1:], p[1:], jnp.zeros_like(at.cc))  # the step then returns what it adds to v
    values, stages = jax.vmap(step_back)(after, at)
    v = jnp.append(jnp.cumsum(values.v[::-1])[::-1] + last.v, last.v)
    off = jnp.max(jnp.abs(values.P - P[:-1]), axis=(1, 2), initial=0.0)
    close = jnp.all(off <= AGREEMENT * jnp.max(jnp.abs(P[:-1]), axis=(1, 2), initial=0.0))
    close &= jnp.all(jnp.abs(values.p - p[:-1]) <= AGREEMENT * jnp.max(jnp.abs(p)))
    together = Value(jnp.concatenate([values.P, last.P[None]]), jnp.concatenate([values.p, last.p[None]]), v)
    return solution(together, stages), close
