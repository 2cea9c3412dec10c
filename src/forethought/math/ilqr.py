"""Iterative LQR for people who only want control: `forethought.ilqr`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from forethought.math.arguments import can_be_wide, finite, real_numbers, wide
from forethought.math.constrained import Constraints, solve_constrained
from forethought.math.control_problem import ControlProblem, Curvature, expand, unroll
from forethought.math.dual import Ascent
from forethought.math.ilqr_solve import ILQRStatus, Limits, Options, Solved, solve
from forethought.math.ilqr_sweep import Damping, gradient_of, slope_of
from forethought.math.lanes import in_lanes
from forethought.types import Array, Scalar, UserError


class ILQRSolution(NamedTuple):
    """The best trajectory that was found, and the feedback around it: u = us_t + K_t (x - xs_t).

    Nothing here is ever NaN.  Look at `status` (an `ILQRStatus`) before you use it.
    """

    xs: Float[Array, "T+1 n"]
    """What the controls lead to.  Where the model stops being finite the last state that was is repeated."""
    us: Float[Array, "T m"]
    """Within the limits."""
    K: Float[Array, "T m n"]
    """-Quu^-1 Qux, with as little regularisation as makes Quu positive definite, which is none if the status says
    CONVERGED; 0 where a limit holds a control, and where there are no gains.  Where multiple shooting ended with jumps
    they are those of the trajectory with jumps."""
    cost: Scalar
    """+inf if not even the first trajectory has a finite one."""
    gradient_norm: Scalar
    """The largest |dJ/du_t| at this very trajectory.  At a limit only what points inside counts."""
    relative_gradient: Scalar
    """The largest over controls of max_t |dJ/du_t| / max_t (|dc/du_t| + |dJ/du_t - dc/du_t|): what `tolerance` bounds.
    It has no units."""
    iterations: Int[Array, ""]
    """Steps tried, each with a backward sweep."""
    status: Int[Array, ""]
    violation: Scalar
    """Of the constraints: max(|equal|, less, 0); 0 without any."""


class _Real(eqx.Module):
    """A user's function, whose numbers become float64.  Raises `UserError` where it returns none."""

    function: Callable
    name: str = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Array:
        value = self.function(*arguments)
        if not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
            raise UserError(f"{self.name} in ilqr returns {type(value).__name__}; it must return one array.")
        array = jnp.asarray(value)
        if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
            raise UserError(f"{self.name} in ilqr returns {array.dtype}; it must return real numbers.")
        return array.astype(jnp.float64)


class _Stage(eqx.Module):
    """A stage cost of (x, u, t) where the library has one of (x, u, y, t)."""

    stage: Callable

    def __call__(self, x: Array, u: Array, y: Array, t: Array) -> Array:
        del y
        return self.stage(x, u, t)


def ilqr(
    step: Callable[[Array, Array, Array], Array],
    stage: Callable[[Array, Array, Array], Array],
    terminal: Callable[[Array], Array],
    x0: Any,
    us: Any,
    lo: Any = None,
    hi: Any = None,
    *,
    xs: Any = None,
    constraints: Constraints | None = None,
    hessian: Curvature = "exact",
    second_order: bool = False,
    damping: Damping = "control",
    iterations: int = 500,
    tolerance: float = 1e-6,
    cost_tolerance: float = 1e-12,
    violation: float = 1e-6,
) -> ILQRSolution:
    """Improve the controls `us` [T, m] of a system with known equations, from the state x0 [n]: a local optimum of

        sum_t stage(x_t, u_t, t) + terminal(x_T)   with   x_{t+1} = step(x_t, u_t, t),   lo <= u_t <= hi.

    The three are functions in JAX of one state [n], one control [m] and the step t (an integer); they must have
    derivatives.  A plain function is part of the program: another one, a new lambda too, is compiled anew.  A
    `jax.tree_util.Partial` or an `equinox.Module` hands its arrays over as arguments: new parameters compile nothing.

    - `lo`, `hi`: numbers, or arrays [m] or [T, m]; they are kept exactly, by a small quadratic program at each step.
    - `xs` [T+1, n]: a guess of the states, too.  It may jump; the jumps are closed on the way (multiple shooting).
    - `constraints`: `Constraints` on states and controls, met to `violation` by an augmented Lagrangian.
    - `hessian`: of the cost. "exact", "projected" (its nearest positive semidefinite one), or "gauss-newton": then
      stage and terminal return vectors of residuals r, whose cost is 1/2 |r|^2.
    - `second_order`: use the second derivatives of `step` as well (differential dynamic programming).
    - `damping`: what the regularisation holds back, "control" or "state".
    - `tolerance`: the `relative_gradient` that counts as zero.  `cost_tolerance`: an accepted step that lowers the cost
      by less than this share of it is the last one.

    It descends, so a start decides which optimum is found: for a swing-up use the planner `ILQR`, which searches first,
    or many starts with `jax.vmap`.  On a CPU the problems of a batch are solved one after the other, each as long as it
    needs.  Derivatives of the solution are not available in reverse mode.

    Everything is float64, whether or not jax's 64-bit numbers are switched on; inside `jit` and `vmap` they have to be.
    Raises `UserError` for shapes that do not fit, settings that do not exist, and, outside `jit` and `vmap`, numbers
    that are not finite and limits with lo > hi; inside, the status says NOT_FINITE or INFEASIBLE.

    Li and Todorov, ICINCO 2004; Tassa, Erez and Todorov, IROS 2012; limits: Tassa, Mansard and Todorov, ICRA 2014.
    """
    _check_settings(hessian, damping, iterations, tolerance, cost_tolerance, violation)
    given = {"x0": x0, "us": us, "lo": lo, "hi": hi, "xs": xs}
    given = {name: value for name, value in given.items() if value is not None}
    can_be_wide("ilqr", [*given.values(), *jax.tree.leaves((step, stage, terminal, constraints))])
    arrays = _check_arrays({name: real_numbers("ilqr", name, value) for name, value in given.items()})
    if xs is not None and constraints is not None:
        raise UserError(
            "ilqr got xs and constraints: a trajectory that may jump cannot be constrained; give one of them."
        )
    options = Options(iterations, tolerance, cost_tolerance, bending=second_order, damping=damping)
    with jax.enable_x64(True):
        charged = _Stage(_Real(stage, "stage"))
        problem = ControlProblem(_Real(step, "step"), charged, _Real(terminal, "terminal"), curvature=hessian)
        return _solve(
            problem, {name: wide(given[name], arrays[name]) for name in given}, constraints, options, violation
        )


@eqx.filter_jit
def _solve(
    problem: ControlProblem,
    given: dict[str, Array],
    constraints: Constraints | None,
    options: Options,
    violation: float,
) -> ILQRSolution:
    _check_functions(problem, constraints, given["x0"], given["us"])
    arrays, rest = eqx.partition((problem, constraints), eqx.is_array)

    def lane(arrays: Any, given: dict[str, Array]) -> ILQRSolution:
        problem, constraints = eqx.combine(arrays, rest)
        return _one(problem, given, constraints, options, violation)

    return in_lanes(lane, arrays, given)


def _one(
    problem: ControlProblem,
    given: dict[str, Array],
    constraints: Constraints | None,
    options: Options,
    violation: float,
) -> ILQRSolution:
    """One problem, whose arguments may hold anything: what is not finite is made so, and the status tells."""
    x0, us = given["x0"], given["us"]
    limits, possible = _limits(given, us.shape)
    sound = jnp.all(jnp.isfinite(x0)) & jnp.all(jnp.isfinite(us)) & jnp.all(jnp.isfinite(given.get("xs", x0)))
    x0, us = jnp.where(jnp.isfinite(x0), x0, 0.0), jnp.where(jnp.isfinite(us), us, 0.0)
    xs = given.get("xs", jnp.broadcast_to(x0, (us.shape[0] + 1, x0.shape[0])))
    xs = jnp.where(jnp.isfinite(xs), xs, 0.0).at[0].set(x0)
    off = jnp.zeros((), x0.dtype)
    if constraints is not None:
        kept = solve_constrained(problem, constraints, xs, us, limits, options, ascent=Ascent(tolerance=violation))
        solved, off = kept.solved, kept.violation
    elif "xs" in given:
        solved = _closed(problem, solve(problem, xs, us, limits, options, shooting=True), limits)
    else:
        solved = solve(problem, xs, us, limits, options)
    status = jnp.where(sound, solved.status, ILQRStatus.NOT_FINITE)
    status = jnp.where(possible, status, ILQRStatus.INFEASIBLE).astype(jnp.int32)
    trail, slope, K = solved.trail, solved.slope, solved.K
    cost = jnp.where(sound, trail.cost, jnp.inf)
    known = jnp.isfinite(cost)
    states = _last_finite(jnp.where(known, trail.xs, unroll(problem, xs, trail.us).xs))
    norm, relative = (jnp.where(known & jnp.isfinite(v), v, jnp.inf) for v in (slope.norm, slope.relative))
    return ILQRSolution(states, trail.us, K, cost, norm, relative, solved.iterations, status, off)


def _closed(problem: ControlProblem, solved: Solved, limits: Limits | None) -> Solved:
    """The rollout of what multiple shooting found: where it ended with jumps, states are not where controls lead."""
    trail = unroll(problem, solved.trail.xs, solved.trail.us)
    status = jnp.where(jnp.isfinite(trail.cost), solved.status, ILQRStatus.NOT_FINITE)
    expansion = expand(problem, trail)
    slope = slope_of(gradient_of(expansion), expansion, trail.us, limits)
    return solved._replace(trail=trail, slope=slope, status=status)


def _last_finite(xs: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """States from the first one that is not finite on are the last one that was (0 if there is none)."""
    fine = jnp.cumprod(jnp.all(jnp.isfinite(xs), axis=1).astype(jnp.int32))
    last = jnp.maximum(jnp.sum(fine) - 1, 0)
    kept = xs[jnp.minimum(jnp.arange(xs.shape[0], dtype=jnp.int32), last)]
    return jnp.where(jnp.isfinite(kept), kept, 0.0)


def _limits(given: dict[str, Array], shape: tuple[int, ...]) -> tuple[Limits | None, Array]:
    """Limits at every step, and whether low <= high everywhere."""
    if "lo" not in given and "hi" not in given:
        return None, jnp.ones((), bool)
    low = jnp.broadcast_to(given.get("lo", -jnp.inf), shape)
    high = jnp.broadcast_to(given.get("hi", jnp.inf), shape)
    possible = jnp.all((low <= high) & (low < jnp.inf) & (high > -jnp.inf))  # NaN is not
    middle = jnp.zeros(shape, low.dtype)
    return Limits(jnp.where(possible, low, middle), jnp.where(possible, high, middle)), possible


def _check_settings(hessian: str, damping: str, iterations: int, *tolerances: float) -> None:
    for name, value, allowed in (("hessian", hessian, Curvature), ("damping", damping, Damping)):
        if value not in get_args(allowed):
            raise UserError(f"ilqr got {name}={value!r}; it must be one of {', '.join(map(repr, get_args(allowed)))}.")
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)) or iterations < 0:
        raise UserError(f"ilqr got iterations={iterations!r}; it must be a whole number, 0 or larger.")
    for name, value in zip(("tolerance", "cost_tolerance", "violation"), tolerances, strict=True):
        if not (isinstance(value, (int, float, np.floating)) and 0.0 <= value < np.inf):
            raise UserError(f"ilqr got {name}={value!r}; it must be a number, 0 or larger.")


def _check_arrays(arrays: dict[str, Array]) -> dict[str, Array]:
    """Shapes, and numbers where they are known."""
    x0, us = arrays["x0"], arrays["us"]
    if x0.ndim != 1 or x0.shape[0] == 0:
        raise UserError(f"x0 in ilqr has shape {list(x0.shape)}; it must be one state [n], with n at least 1.")
    if us.ndim != 2 or us.shape[1] == 0:
        raise UserError(f"us in ilqr has shape {list(us.shape)}; it must be [T, m], a control for each step.")
    (T, m), n = us.shape, x0.shape[0]
    for name in ("lo", "hi"):
        if name in arrays and arrays[name].shape not in ((), (m,), (T, m)):
            raise UserError(
                f"{name} in ilqr has shape {list(arrays[name].shape)}; it must be a number, or [m] = [{m}], or "
                f"[T, m] = [{T}, {m}], as us says."
            )
    if "xs" in arrays and arrays["xs"].shape != (T + 1, n):
        raise UserError(f"xs in ilqr has shape {list(arrays['xs'].shape)}; it must be [T+1, n] = [{T + 1}, {n}].")
    for name in ("x0", "us", "xs"):
        if name in arrays:
            finite("ilqr", name, arrays[name])
    _check_limits(arrays.get("lo"), arrays.get("hi"))
    return arrays


def _check_limits(lo: Array | None, hi: Array | None) -> None:
    """No NaN, and lo <= hi, where numbers are known."""
    for name, limit in (("lo", lo), ("hi", hi)):
        if isinstance(limit, np.ndarray) and np.isnan(limit).any():
            raise UserError(f"{name} in ilqr holds NaN; a limit is a number, or infinite.")
        if isinstance(limit, np.ndarray) and (limit == (np.inf if name == "lo" else -np.inf)).any():
            raise UserError("lo in ilqr is +inf or hi is -inf somewhere; then no control is allowed.")
    if lo is None or hi is None or isinstance(lo, Tracer) or isinstance(hi, Tracer):
        return
    low, high = np.broadcast_arrays(lo, hi)
    if (low > high).any():
        where = tuple(np.argwhere(low > high)[0])
        place = f" at {[int(i) for i in where]}" if where else ""
        raise UserError(f"lo in ilqr is {low[where]} and hi {high[where]}{place}; lo must not be larger.")


def _check_functions(problem: ControlProblem, constraints: Constraints | None, x0: Array, us: Array) -> None:
    """What the user's functions return, by their shapes."""
    x, t = jax.ShapeDtypeStruct(x0.shape, x0.dtype), jax.ShapeDtypeStruct((), jnp.int32)
    u = jax.ShapeDtypeStruct(us.shape[1:], us.dtype)
    y = _asked(problem.step, x, u, t)
    if y.shape != x.shape:
        raise UserError(
            f"step in ilqr returns shape {list(y.shape)} for a state of {x.shape[0]}; it must be the next state."
        )
    residuals = problem.curvature == "gauss-newton"
    for name, value in (
        ("stage", _asked(problem.stage, x, u, x, t)),
        ("terminal", _asked(problem.terminal, x)),
    ):
        wanted = "a vector of residuals [r], as hessian is 'gauss-newton'" if residuals else "one number"
        if value.ndim != (1 if residuals else 0):
            raise UserError(f"{name} in ilqr returns shape {list(value.shape)}; it must be {wanted}.")
    for name in ("equal", "less", "final_equal", "final_less"):
        function = getattr(constraints, name, None)
        if function is not None:
            arguments = (x,) if name.startswith("final") else (x, u, t)
            value = _asked(_Real(function, f"constraints.{name}"), *arguments)
            if value.ndim != 1:
                raise UserError(f"constraints.{name} in ilqr returns shape {list(value.shape)}; it must be a vector.")


def _asked(function: Callable, *arguments: Any) -> Any:
    """The shape of what a function returns."""
    # Not the function itself: jax compares those that it has seen, and a Partial compares its arrays.
    return jax.eval_shape(lambda *a: function(*a), *arguments)
