"""The backward sweep of iterative LQR: a Riccati recursion with regularisation, limits on the controls, and defects.

Tassa, Erez and Todorov, Synthesis and stabilization of complex behaviors through online trajectory optimization, IROS
2012; with limits: Tassa, Mansard and Todorov, Control-limited differential dynamic programming, ICRA 2014.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.box_qp import box_qp, reduced
from forethought.math.control_problem import ControlProblem, Expansion, Trail, bent_dynamics
from forethought.math.moments import symmetric
from forethought.math.riccati import ROUNDING
from forethought.math.small_matrices import cholesky_solve, small_product, small_transposed_product
from forethought.types import Array, Flag, Scalar

Damping = Literal["control", "state"]
"""Where the regularisation goes: to Quu, so that controls change less, or to the Hessian of the value function inside
Quu and Qux alone, so that states do."""


class Limits(NamedTuple):
    """low <= u_t <= high."""

    low: Float[Array, "T m"]
    high: Float[Array, "T m"]


class Sweep(NamedTuple):
    """The step that a backward sweep proposes: u = us_t + alpha k_t + K_t (x - xs_t)."""

    K: Float[Array, "T m n"]
    k: Float[Array, "T m"]
    linear: Scalar
    """The predicted change of the cost for a share alpha of the step is alpha linear + alpha^2 quadratic."""
    quadratic: Scalar
    definite: Flag
    """Whether the (regularised) Quu of the free controls is positive definite at every step."""
    gradient: Float[Array, "T m"]
    """dJ/du_t at the trajectory itself: it goes back over the same matrices, whatever the regularisation."""


class Regularisation(NamedTuple):
    """What is added to Quu, or to the Hessian of the value function inside Quu and Qux, so that steps become shorter.

    Its units are the second derivatives of the cost that each control and each state sees, so that mu means the same in
    any units of cost, control and state (Marquardt 1963).
    """

    control: Float[Array, " m"] | None
    """mu times the unit of each control; None if states are held back instead."""
    state: Float[Array, " n"] | None

    def add(self, Quu: Array, right: Array, F: Array) -> tuple[Array, Array]:
        """Quu and [Qux qu] with it, where F is [B A d; 0 0 1]."""
        m = Quu.shape[0]
        if self.control is not None:
            return Quu + jnp.diag(self.control), right
        assert self.state is not None
        n = self.state.shape[0]
        extra = small_transposed_product(F[:n, :m], self.state[:, None] * F[:n, :-1])
        return Quu + extra[:, :m], right + jnp.pad(extra[:, m:], ((0, 0), (0, 1)))


def units(expansion: Expansion, damping: Damping) -> Regularisation:
    """The regularisation with mu = 1: the largest over time of |C_xx|, and of |C_uu| with what a control does to the
    next state, on the diagonals."""
    F, n = expansion.F, expansion.end.shape[0] - 1
    m = F.shape[2] - n - 1
    curves = jnp.abs(jnp.diagonal(expansion.C, axis1=1, axis2=2))[:, :-1]
    last = jnp.abs(jnp.diagonal(expansion.end))[:-1]
    state = jnp.maximum(jnp.max(curves[:, m:], axis=0, initial=0.0), last)
    if damping == "state":
        return Regularisation(None, _positive(state))
    seen = jnp.sum(F[:, :n, :m] ** 2 * state[:, None], axis=1)
    return Regularisation(_positive(jnp.max(curves[:, :m] + seen, axis=0, initial=0.0)), None)


def _positive(scale: Array) -> Array:
    """Zeros become the smallest of the others; 1 if all are zero."""
    least = jnp.min(jnp.where(scale > 0.0, scale, jnp.inf))
    return jnp.where(scale > 0.0, scale, jnp.where(jnp.isfinite(least), least, 1.0))


def sweep_back(
    expansion: Expansion,
    regularisation: Regularisation,
    trail: Trail,
    limits: Limits | None,
    bending: ControlProblem | None,
) -> Sweep:
    """One backward sweep.  `bending` is the problem whose dynamics' second derivatives count too (DDP), or None.

    Q = C + F^T P F, q = c + F^T (p + P d); k minimises 1/2 k^T Quu k + qu^T k within the limits, with the
    regularisation, and K = -Quu^-1 Qux where the control is free, 0 where a limit holds it.  P and p are those of this
    K and k, computed with the Quu that is not regularised: P = Qxx + K^T Quu K + K^T Qux + Qxu K, p = qx + K^T Quu k +
    K^T qu + Qxu k.

    All of that in the homogeneous coordinates of `Expansion`: V is the one matrix [P p; p^T 2v].
    """
    n, m = trail.xs.shape[1], trail.us.shape[1]
    tolerance = ROUNDING * (n + m) * float(jnp.finfo(trail.xs.dtype).eps)

    def step(now: tuple, at: tuple) -> tuple[tuple, tuple[Array, Array]]:
        V, later, linear, definite, adjoint = now
        F, C, box, point = at
        adjoint, gradient = _adjoint_step(adjoint, F, C)
        VF = small_product(V, F)
        Q = C + small_transposed_product(F, VF)
        if bending is not None:
            x, u, t, pull = point
            weight = VF[:n, -1] if pull is None else pull.at[:n].add(VF[:n, -1])
            Q = Q.at[:-1, :-1].add(bent_dynamics(bending, x, u, t, weight))
        gains, sound = _gains(*regularisation.add(Q[:m, :m], Q[:m, m:], F), box, later, tolerance)
        rest = small_product(Q[:m, :m], gains) + Q[:m, m:]
        V = Q[m:, m:] + small_transposed_product(gains, rest) + small_transposed_product(Q[:m, m:], gains)
        linear = linear + jnp.sum(gains[:, -1] * Q[:m, -1])
        return (symmetric(V), gains[:, -1], linear, definite & sound, adjoint), (gains, gradient)

    zero = jnp.zeros((), trail.xs.dtype)
    end = (expansion.end, jnp.zeros((m,), trail.us.dtype), zero, jnp.ones((), bool), expansion.end[:-1, -1])
    box = None if limits is None else (limits.low - trail.us, limits.high - trail.us)
    times = jnp.arange(trail.us.shape[0], dtype=jnp.int32)
    point = None if bending is None else (trail.xs[:-1], trail.us, times, expansion.pull)
    inputs = (expansion.F, expansion.C, box, point)
    (V, _, linear, definite, _), (gains, gradient) = jax.lax.scan(step, end, inputs, reverse=True)
    # The constant of V began at 0, and counts twice.
    return Sweep(gains[:, :, :n], gains[:, :, n], linear, 0.5 * V[n, n] - linear, definite, gradient)


def _adjoint_step(adjoint: Array, F: Array, C: Array) -> tuple[Array, Array]:
    """lambda_t = dc/dx + A^T lambda_{t+1} and dJ/du_t = dc/du + B^T lambda_{t+1}, from the homogeneous F and C."""
    q = C[:-1, -1] + jnp.sum(F[:-1, :-1] * adjoint[:, None], axis=0)
    m = q.shape[0] - adjoint.shape[0]
    return q[m:], q[:m]


def _gains(
    Quu: Array, right: Array, box: tuple[Array, Array] | None, later: Array, tolerance: float
) -> tuple[Array, Flag]:
    """[K k] of one step from [Qux qu], and whether Quu was positive definite where it had to be; `later` is the next
    step's k."""
    if box is None:
        solved = cholesky_solve(Quu, right, tolerance)
        return -solved.whole, solved.definite
    found = box_qp(Quu, right[:, -1], box, later, tolerance)
    free = jnp.where(found.free[:, None], right, 0.0)
    solved = cholesky_solve(reduced(Quu, found.free), free, tolerance)
    gains = jnp.concatenate([-solved.whole[:, :-1], found.x[:, None]], axis=1)
    return gains, found.definite & solved.definite


class Slope(NamedTuple):
    """The derivative of the cost by the controls, at the trajectory itself."""

    gradient: Float[Array, "T m"]
    """dJ/du_t.  At a limit only the part that points inside counts; the other is 0."""
    norm: Scalar
    """Its largest entry in magnitude."""
    largest: Float[Array, " m"]
    """The largest denominators of `relative` so far in a solve."""
    relative: Scalar
    """The largest over controls i of max_t |g_ti| / max_t (|dc/du_ti| + |(B^T lambda)_ti|): how much is left of the
    numbers that cancel at an optimum.  It has no units.  A denominator is at least `FAINT` times what it was: at an
    optimum where all of these numbers vanish there is rounding alone."""


FAINT = 1e-7
"""See `Slope.relative`."""


def gradient_of(expansion: Expansion) -> Float[Array, "T m"]:
    """dJ/du_t by the adjoint recursion, without any feedback."""
    step = lambda adjoint, at: _adjoint_step(adjoint, *at)
    return jax.lax.scan(step, expansion.end[:-1, -1], (expansion.F, expansion.C), reverse=True)[1]


def slope_of(
    gradient: Float[Array, "T m"],
    expansion: Expansion,
    us: Float[Array, "T m"],
    limits: Limits | None,
    before: Float[Array, " m"] | float = 0.0,
) -> Slope:
    """What of the gradient dJ/du counts within the limits, and its sizes; `before` is `largest` so far."""
    g, own = gradient, expansion.C[:, : us.shape[1], -1]
    size = jnp.max(jnp.abs(own) + jnp.abs(g - own), axis=0, initial=0.0)
    largest = jnp.maximum(jnp.where(jnp.isfinite(size), size, 0.0), before)
    size = jnp.maximum(size, FAINT * largest)
    if limits is not None:
        g = jnp.where(us <= limits.low, jnp.minimum(g, 0.0), g)
        g = jnp.where(us >= limits.high, jnp.maximum(g, 0.0), g)
    each = jnp.max(jnp.abs(g), axis=0, initial=0.0)
    relative = jnp.max(jnp.where(each > 0.0, each / jnp.where(size > 0.0, size, 1.0), 0.0))
    return Slope(g, jnp.max(each), largest, relative)
