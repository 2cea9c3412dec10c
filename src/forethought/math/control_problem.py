"""A problem of optimal control with any dynamics and any cost, unrolled and expanded around a trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from forethought.math.linearise import holds_products, slopes
from forethought.math.moments import symmetric
from forethought.math.quadratise import Quadratisation, convex_part, curvature, gauss_newton
from forethought.math.small_matrices import small_product, small_transposed_product
from forethought.types import Action, Array, Flag, Scalar, State, Time

Curvature = Literal["exact", "projected", "gauss-newton"]
"""Which Hessian of the cost is used: its own; the nearest positive semidefinite one; or that of linearised residuals,
and then `stage` and `terminal` give residuals r, whose cost is 1/2 |r|^2."""


class ControlProblem(eqx.Module):
    """minimise  sum_t stage(x_t, u_t, y_t, t) + terminal(x_T)  with  y_t = step(x_t, u_t, t),  x_{t+1} = y_t[:n].

    y may have more entries than the state: a reward that was learned, for one.  The functions may be modules, whose
    arrays are then arguments of the compiled program.
    """

    step: Callable[[State, Action, Time], Float[Array, " k"]]
    stage: Callable[[State, Action, Array, Time], Array]
    terminal: Callable[[State], Array]
    alive: Callable[[Array], Flag] | None = None
    """False once y has ended the episode: nothing is charged after that.  None: episodes do not end."""
    looks_ahead: bool = eqx.field(static=True, default=False)
    """Whether `stage` reads y."""
    curvature: Curvature = eqx.field(static=True, default="exact")


class Trail(NamedTuple):
    """A trajectory and what it costs."""

    xs: Float[Array, "T+1 n"]
    us: Float[Array, "T m"]
    cost: Scalar
    """+inf where anything on the way is not finite."""
    size: Scalar
    """The sum of the magnitudes of all costs: what rounding errors are measured by."""
    alive: Bool[Array, " T+1"]
    """Whether the episode goes on at each state."""


class Expansion(NamedTuple):
    """Dynamics and cost around a trajectory, in deviations from it.

    In homogeneous coordinates, w = [u; x; 1] before a step and [x; 1] after it, dynamics are one matrix and a quadratic
    cost with its linear term is one symmetric matrix: half as many operations on small matrices, and it is their number
    that takes the time.
    """

    F: Float[Array, "T n+1 z+1"]
    """[B A d; 0 0 1].  d is the defect of the dynamics, y[:n] - x_{t+1}: 0 along a rollout."""
    C: Float[Array, "T z+1 z+1"]
    """[Cuu Cux cu; Cxu Cxx cx; cu^T cx^T 0]: the stage cost is 1/2 w^T C w, up to a constant."""
    end: Float[Array, "n+1 n+1"]
    """[C_T c_T; c_T^T 0]."""
    pull: Float[Array, "T k"] | None
    """d stage / dy, where the stage looks ahead: with it the dynamics' own curvature counts in the cost."""


class Feedback(NamedTuple):
    """u = clip(us_t + alpha k_t + K_t (x - xs_t))."""

    K: Float[Array, "T m n"]
    k: Float[Array, "T m"]
    alpha: Scalar
    low: Float[Array, "T m"]
    high: Float[Array, "T m"]


def unroll(
    problem: ControlProblem,
    xs: Float[Array, "_ n"],
    us: Float[Array, "T m"],
    feedback: Feedback | None = None,
    defects: Float[Array, "T n"] | None = None,
) -> Trail:
    """From xs[0], by the controls us, or by the feedback around (xs, us).

    With `defects` d of the given trajectory x_{t+1} = y[:n] - (1 - alpha) d_t: what the trajectory jumps by is closed
    by the same share as the step that is made.
    """
    T, n = us.shape[0], xs.shape[1]
    zero, yes = jnp.zeros((), xs.dtype), jnp.ones((), bool)
    close = 4.0 * float(jnp.finfo(us.dtype).eps)

    def step(now: tuple, at: tuple) -> tuple[tuple, tuple]:
        x, alive, total, size = now
        t, reference, u, gains, jump = at
        if gains is not None:
            K, k, low, high = gains
            assert feedback is not None
            moved = jnp.clip(u + feedback.alpha * k + jnp.sum(K * (x - reference), axis=1), low, high)
            u = _snapped(moved, low, high, close * (jnp.abs(u) + jnp.abs(moved)))
        y = problem.step(x, u, t)
        cost = _charge(problem, problem.stage(x, u, y, t))
        lives = alive
        if problem.alive is not None:
            cost = jnp.where(alive, cost, 0.0)
            lives = alive & problem.alive(y)
        following = y[:n] if jump is None else y[:n] - jump
        return (following, lives, total + cost, size + jnp.abs(cost)), (x, u, alive)

    times = jnp.arange(T, dtype=jnp.int32)
    gains = None if feedback is None else (feedback.K, feedback.k, feedback.low, feedback.high)
    jumps = None
    if defects is not None:
        jumps = defects if feedback is None else (1.0 - feedback.alpha) * defects
    (last, alive, total, size), (before, taken, lived) = jax.lax.scan(
        step, (xs[0], yes, zero, zero), (times, xs[:-1], us, gains, jumps)
    )
    closing = jnp.where(alive, _charge(problem, problem.terminal(last)), 0.0)
    found = jnp.concatenate([before, last[None]])
    cost, size = total + closing, size + jnp.abs(closing)
    sound = jnp.all(jnp.isfinite(found)) & jnp.isfinite(size)
    return Trail(found, taken, jnp.where(sound, cost, jnp.inf), size, jnp.append(lived, alive))


def _snapped(u: Action, low: Array, high: Array, close: Array) -> Action:
    """A control that is at a limit but for rounding is equal to it: what is at a limit is found by comparison."""
    return jnp.where(u - low <= close, low, jnp.where(high - u <= close, high, u))


def defects_of(problem: ControlProblem, xs: Float[Array, "_ n"], us: Float[Array, "T m"]) -> Float[Array, "T n"]:
    """y_t[:n] - x_{t+1}: by how much a guessed trajectory jumps."""
    times = jnp.arange(us.shape[0], dtype=jnp.int32)
    return jax.vmap(problem.step)(xs[:-1], us, times)[:, : xs.shape[1]] - xs[1:]


def _charge(problem: ControlProblem, value: Array) -> Scalar:
    """What the problem's functions say, as a cost."""
    return 0.5 * jnp.sum(value**2) if problem.curvature == "gauss-newton" else value


def expand(problem: ControlProblem, trail: Trail) -> Expansion:
    """Slopes of the dynamics and curvature of the cost along a trajectory.

    All steps at once where the dynamics hold matrix products, or on an accelerator; on a CPU, of scalar equations, one
    step after the other: that is no slower, compiled as one function, and takes a third of the time to compile.
    """
    T, n = trail.us.shape[0], trail.xs.shape[1]
    times = jnp.arange(T, dtype=jnp.int32)

    def one(at: tuple) -> tuple[Array, Array, Quadratisation, Array | None]:
        x, u, t, lives = at
        y, J, stage, pull = _expand_step(problem, x, u, t)
        if problem.alive is not None:
            stage = _counted(stage, lives)
            pull = None if pull is None else jnp.where(lives, pull, 0.0)
        return y, J, stage, pull

    points = (trail.xs[:-1], trail.us, times, trail.alive[:-1])
    u, t = jnp.zeros(trail.us.shape[1:], trail.us.dtype), jnp.zeros((), jnp.int32)  # T may be 0
    together = jax.default_backend() != "cpu" or holds_products(problem.step, trail.xs[0], u, t)
    y, J, stage, pull = jax.vmap(one)(points) if together else jax.lax.map(one, points)
    # Put together here: inside the loop XLA computes much of the slopes again for it (cart-pole: 1.5 times as long).
    defects = y[:, :n, None] - trail.xs[1:, :, None]
    row = jnp.zeros((T, 1, J.shape[2] + 1), J.dtype).at[:, 0, -1].set(1.0)
    F = jnp.concatenate([jnp.concatenate([J[:, :n], defects], axis=2), row], axis=1)
    last = _counted(_bend(problem, problem.terminal, trail.xs[-1]), trail.alive[-1])
    return Expansion(F, jax.vmap(homogeneous)(stage), homogeneous(last), pull)


def homogeneous(form: Quadratisation) -> Float[Array, "_ _"]:
    """[H g; g^T 0]."""
    column = form.gradient[:, None]
    above = jnp.concatenate([form.hessian, column], axis=1)
    return jnp.concatenate([above, jnp.pad(form.gradient, (0, 1))[None]])


def _counted(form: Quadratisation, alive: Flag) -> Quadratisation:
    """Nothing is charged after the end of an episode."""
    return Quadratisation(*(jnp.where(alive, part, 0.0) for part in form))


def _bend(problem: ControlProblem, function: Callable[[Array], Array], z: Array) -> Quadratisation:
    """The curvature of a cost, as the problem wants it."""
    if problem.curvature == "gauss-newton":
        return gauss_newton(function, z)
    found = curvature(function, z)
    return found._replace(hessian=convex_part(found.hessian)) if problem.curvature == "projected" else found


def _expand_step(
    problem: ControlProblem, x: State, u: Action, t: Time
) -> tuple[Array, Array, Quadratisation, Array | None]:
    """y, its slopes, and the stage cost as a function of [u; x], with d stage / dy if it looks ahead.

    A stage that looks ahead has the Hessian J^T H J, where H is that in (u, x, y) and J = [I; dy/d[u; x]]: what the
    curvature of y itself adds is added where that of the dynamics is.
    """
    m, w = u.shape[0], jnp.concatenate([u, x])
    d = w.shape[0]
    y, J = slopes(lambda w: problem.step(w[m:], w[:m], t), w)
    if not problem.looks_ahead:
        return y, J, _bend(problem, lambda w: problem.stage(w[m:], w[:m], y, t), w), None
    ahead = lambda v: problem.stage(v[m:d], v[:m], v[d:], t)
    value, g, H = _bend(problem, ahead, jnp.concatenate([w, y]))
    to = jnp.concatenate([jnp.eye(d, dtype=w.dtype), J])
    hessian = symmetric(small_transposed_product(to, small_product(H, to)))
    return y, J, Quadratisation(value, jnp.sum(to * g[:, None], axis=0), hessian), g[d:]


def bent_dynamics(
    problem: ControlProblem, x: State, u: Action, t: Time, weight: Float[Array, " k"]
) -> Float[Array, "d d"]:
    """sum_i weight_i d^2 y_i / d[u; x]^2: what differential dynamic programming adds to Q (Mayne, 1966)."""
    m = u.shape[0]
    scalar = lambda w: jnp.sum(weight * problem.step(w[m:], w[:m], t)[: weight.shape[0]])
    return curvature(scalar, jnp.concatenate([u, x])).hessian
