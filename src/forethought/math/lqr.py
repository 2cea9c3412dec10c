"""Linear-quadratic control: the optimal policy for linear dynamics and a quadratic cost, both of which vary in time."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.arguments import can_be_wide, finite, real_numbers, wide
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost
from forethought.math.moments import symmetric
from forethought.math.riccati import LQRSolution, riccati
from forethought.math.riccati_parallel import riccati_parallel
from forethought.types import Array, Scalar, UserError

PASSES = ("auto", "sequential", "parallel")
"""How a backward pass may go through time."""

PARALLEL_FROM: dict[str, int] = {}
"""The horizon from which `auto` takes the parallel pass, by the name of jax's backend; a backend that is not here takes
the sequential one always.  On one core of a CPU the parallel pass loses at every horizon.  No figures of an
accelerator exist yet: whoever measures one enters it here."""


def lqr_backward(dynamics: LinearDynamics, cost: QuadraticCost, passes: str = "auto") -> LQRSolution:
    """The policy that minimises the expected cost, by dynamic programming backward in time.

    `passes` says how time is gone through: "sequential" (`riccati`), "parallel" (`riccati_parallel`, the same numbers
    to about ten digits), or "auto", which looks into `PARALLEL_FROM`.  Noise does not change the policy, only v.
    """
    chosen = _choose(passes, dynamics.F.shape[0])
    return riccati_parallel(dynamics, cost) if chosen == "parallel" else riccati(dynamics, cost)


def _choose(passes: str, T: int) -> str:
    if passes != "auto":
        return passes
    least = PARALLEL_FROM.get(jax.default_backend())
    return "sequential" if least is None or least > T else "parallel"


def optimal_policy(solution: LQRSolution) -> LinearGaussianPolicy:
    """u = K_t x + k_t, without noise."""
    return LinearGaussianPolicy(solution.K, solution.k, jnp.zeros_like(solution.Quu))


def max_entropy_policy(solution: LQRSolution, tau: Scalar | float) -> LinearGaussianPolicy:
    """The policy that minimises E[cost] - tau * entropy: N(K_t x + k_t, tau Quu^-1), for a temperature tau >= 0.

    Its expected cost is tau m T/2 above the optimum.  Levine and Koltun, Guided policy search, ICML 2013.  L is 0 at
    steps that are not `definite`.
    """

    def one(lower: Array, definite: Array) -> Array:
        eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
        root = jax.lax.linalg.triangular_solve(jnp.where(definite, lower, eye), eye, left_side=True, lower=True)
        inverse = symmetric(jnp.matmul(root.T, root, precision="highest"))
        return jnp.where(definite, jnp.linalg.cholesky(inverse, symmetrize_input=False), 0.0)

    L = jnp.sqrt(jnp.asarray(tau, solution.K.dtype)) * jax.vmap(one)(solution.cholesky, solution.definite)
    return LinearGaussianPolicy(solution.K, solution.k, L)


def max_entropy_constants(solution: LQRSolution, tau: Scalar | float) -> Float[Array, " _"]:
    """v_0 .. v_T of the value function that counts -tau * entropy as a cost; P and p are those of the solution.

    v_t - tau/2 sum_{s >= t} log|2 pi tau Quu_s^-1|, so that 1/2 x^T P_0 x + p_0^T x + v_0 is the least E[cost] - tau *
    entropy from x.  +inf at and before a step that is not `definite`: it has no best covariance.
    """
    m, tau = solution.k.shape[1], jnp.asarray(tau, solution.v.dtype)
    pivots = jnp.diagonal(solution.cholesky, axis1=1, axis2=2)
    safe = jnp.where(solution.definite[:, None], pivots, 1.0)
    each = tau * (jnp.sum(jnp.log(safe), axis=1) - 0.5 * m * jnp.log(2.0 * jnp.pi * tau))
    each = jnp.where(solution.definite, jnp.where(tau > 0.0, each, 0.0), jnp.inf)
    return solution.v + jnp.append(jnp.cumsum(each[::-1])[::-1], jnp.zeros((), each.dtype))


def lqr(F: Any, f: Any, C: Any, c: Any, C_T: Any, c_T: Any, *, W: Any = None, passes: str = "auto") -> LQRSolution:
    """Solve a linear-quadratic problem of T steps, n states and m controls: gains K, k and the value function P, p, v.

        minimise  E[ sum_t 1/2 z_t^T C_t z_t + c_t^T z_t  +  1/2 x_T^T C_T x_T + c_T^T x_T ],   z = [x; u]
        with      x_{t+1} = F_t z_t + f_t + w_t,   w_t ~ N(0, W_t)

    Shapes: F [T, n, n+m] (A and B side by side), f [T, n], C [T, n+m, n+m], c [T, n+m], C_T [n, n], c_T [n], and W
    [T, n, n] if there is noise: it changes v alone.  Everything has its time axis: repeat a matrix that does not vary,
    `np.broadcast_to(F, (T, *F.shape))`.  T may be 0.  C and C_T need not be symmetric: of a quadratic form only the
    symmetric part counts, so that part is taken.  They need not be positive definite either, as long as Quu is.

    `passes` is "auto", "sequential" or "parallel": the two give the same numbers (see `lqr_backward`).

    The best control is u_t = K_t x + k_t and costs 1/2 x^T P_t x + p_t^T x + v_t from there on.  Look at `status`: a
    problem without a unique optimum is no exception, since a batch may hold one beside others (see `LQRSolution`).

    Everything is float64, whether or not jax's 64-bit numbers are switched on; no setting is changed.  Inside `jit`,
    `vmap` and `grad` they have to be.  The function may be used there, and is compiled once per shape.

    Raises `UserError` for a shape that does not fit, what is not a number, and, outside `jit` and `vmap`, numbers that
    are not finite; inside, the status says NOT_FINITE.
    """
    given = {"F": F, "f": f, "C": C, "c": c, "C_T": C_T, "c_T": c_T}
    given |= {} if W is None else {"W": W}
    if passes not in PASSES:
        raise UserError(f"lqr got passes={passes!r}; it must be one of {', '.join(map(repr, PASSES))}.")
    can_be_wide("lqr", given.values())
    arrays = {name: real_numbers("lqr", name, value) for name, value in given.items()}
    sizes = _sizes(arrays)
    for name, array in arrays.items():
        _check(name, array, sizes)
    with jax.enable_x64(True):
        return _solve(_choose(passes, sizes.T), **{name: wide(given[name], arrays[name]) for name in given})


@functools.partial(jax.jit, static_argnums=0)
def _solve(
    passes: str, *, F: Array, f: Array, C: Array, c: Array, C_T: Array, c_T: Array, W: Array | None = None
) -> LQRSolution:
    nothing = jnp.zeros(F.shape[:1], F.dtype)
    cost = QuadraticCost(C, c, nothing, C_T, c_T, jnp.zeros((), F.dtype))
    return lqr_backward(LinearDynamics(F, f, W), cost, passes)


class _Sizes(NamedTuple):
    T: int
    n: int
    m: int


def _sizes(arrays: dict[str, Array]) -> _Sizes:
    """What F says T, n and m are."""
    shape = arrays["F"].shape
    if len(shape) != 3 or not 0 < shape[1] < shape[2]:
        raise UserError(
            f"F in lqr has shape {list(shape)}; it must be [T, n, n+m], the state's n columns first, with n and m at "
            "least 1. A matrix that does not vary is repeated: np.broadcast_to(F, (T, *F.shape))."
        )
    return _Sizes(shape[0], shape[1], shape[2] - shape[1])


def _check(name: str, array: Array, sizes: _Sizes) -> None:
    """Shape, and finite numbers where they are known."""
    T, n, m = sizes
    letters, shape = {
        "F": ("[T, n, n+m]", (T, n, n + m)),
        "f": ("[T, n]", (T, n)),
        "C": ("[T, n+m, n+m]", (T, n + m, n + m)),
        "c": ("[T, n+m]", (T, n + m)),
        "C_T": ("[n, n]", (n, n)),
        "c_T": ("[n]", (n,)),
        "W": ("[T, n, n]", (T, n, n)),
    }[name]
    if array.shape != shape:
        raise UserError(
            f"{name} in lqr has shape {list(array.shape)}; it must be {letters} = {list(shape)}, as F has T={T}, n={n} "
            f"and m={m}."
        )
    finite("lqr", name, array)
