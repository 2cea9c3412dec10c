"""The public face of the KL-bounded step: `forethought.kl_lqr`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from forethought.math.arguments import can_be_wide, finite, real_numbers, wide
from forethought.math.kl_dual import Bracket
from forethought.math.kl_step import KLStep, Start, kl_step, kl_step_each
from forethought.math.lanes import in_lanes
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost
from forethought.math.moments import symmetric
from forethought.types import Array, Flag, Scalar, UserError

ROUNDING = 1e-10
"""An eigenvalue of a covariance may be below 0 by that share of the largest."""


class LinearGaussian(NamedTuple):
    """u_t ~ N(K_t x_t + k_t, cov_t)."""

    K: Float[Array, "T m n"]
    k: Float[Array, "T m"]
    cov: Float[Array, "T m m"]


class KLSolution(NamedTuple):
    """A controller within the KL bound, whatever the status says."""

    policy: LinearGaussian
    lam: Float[Array, "..."]
    """The multiplier, or [T] of them where every step has its bound; +inf if the old controller is returned."""
    kl: Float[Array, " T"]
    """E[KL(new || old)] at each step, in nats, in the states that the new controller visits."""
    cost: Scalar
    """Expected cost under the given dynamics."""
    status: Int[Array, ""]
    """A `KLStatus`."""
    solves: Int[Array, ""]
    """LQR problems that were solved."""


SHAPES = {
    "F": "T n z",
    "f": "T n",
    "W": "T n n",
    "C": "T z z",
    "c": "T z",
    "C_T": "n n",
    "c_T": "n",
    "m0": "n",
    "P0": "n n",
    "old_policy.K": "T m n",
    "old_policy.k": "T m",
    "old_policy.cov": "T m m",
}
"""What every argument has to be like, with z = n + m."""


def kl_lqr(
    F: Any,
    f: Any,
    W: Any,
    C: Any,
    c: Any,
    C_T: Any,
    c_T: Any,
    m0: Any,
    P0: Any,
    old_policy: LinearGaussian,
    epsilon: Any,
    *,
    entropy: float = 0.0,
    tolerance: float = 0.1,
    evaluations: int = 50,
    lam: Any = None,
) -> KLSolution:
    """The controller that minimises the expected cost while its KL divergence from an old one stays below epsilon.

        minimise  E[ sum_t 1/2 z_t^T C_t z_t + c_t^T z_t + 1/2 x_T^T C_T x_T + c_T^T x_T ],   z = [x; u]
        with      x_{t+1} = F_t z_t + f_t + w_t,   w_t ~ N(0, W_t),   x_0 ~ N(m0, P0)
        and       sum_t E[ KL(new(.|x_t) || old(.|x_t)) ] <= epsilon

    Shapes as in `lqr`: F [T, n, n+m], f [T, n], W [T, n, n] (or None), C [T, n+m, n+m], c [T, n+m], C_T [n, n], c_T
    [n], m0 [n], P0 [n, n]; `old_policy` is a `LinearGaussian(K [T, m, n], k [T, m], cov [T, m, m])`, whose covariances
    have to be positive definite: nothing else is within a finite KL of a controller without noise.  `epsilon` is one
    number, or [T]: then every step has a bound of its own, which has to be positive.  0 (everywhere) leaves the old
    controller as it is.

    C need not be positive definite: where Quu is not, the multiplier grows until it is.  The result is never further
    than (1 + tolerance) epsilon from the old controller; if nothing better is found it is the old one, and `status`
    (a `KLStatus`) says FAILED.  `lam` is the multiplier that is tried first, the last one for instance; `entropy` a > 0
    minimises E[cost] - a H.

    Everything is float64, whether or not jax's 64-bit numbers are switched on; inside `jit` and `vmap` they have to be.
    Raises `UserError` for shapes that do not fit and settings that make no sense, and, outside `jit` and `vmap`, for
    numbers that are not finite, covariances that are not positive (semi)definite, and a negative epsilon; inside, the
    status is FAILED, but for `lam`: what cannot be tried is passed over.

    Levine and Abbeel, Learning neural network policies with guided policy search under unknown dynamics, NIPS 2014.
    """
    _check_settings(entropy, tolerance, evaluations)
    given = {"F": F, "f": f, "W": W, "C": C, "c": c, "C_T": C_T, "c_T": c_T, "m0": m0, "P0": P0}
    given |= _parts(old_policy) | {"epsilon": epsilon, "lam": lam}
    given = {name: value for name, value in given.items() if not (value is None and name in ("W", "lam"))}
    can_be_wide("kl_lqr", given.values())
    arrays = {name: real_numbers("kl_lqr", name, value) for name, value in given.items()}
    _check_shapes(arrays)
    _check_numbers(arrays)
    how = Bracket(tolerance=float(tolerance), evaluations=int(evaluations))
    with jax.enable_x64(True):
        return _solve(how, float(entropy), {name: wide(given[name], arrays[name]) for name in given})


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve(how: Bracket, entropy: float, given: dict[str, Array]) -> KLSolution:
    given = dict(given)
    epsilon, guess = given.pop("epsilon"), given.pop("lam", None)

    def lane(given: dict[str, Array], epsilon: Array, guess: Array | None) -> KLSolution:
        K, k, cov = (given[f"old_policy.{name}"] for name in ("K", "k", "cov"))
        # NaN where the covariance is not positive definite: then nothing has a finite KL.
        L = jnp.linalg.cholesky(symmetric(cov), symmetrize_input=False)
        W = given.get("W")
        dynamics = LinearDynamics(given["F"], given["f"], None if W is None else symmetric(W))
        nothing = jnp.zeros((), K.dtype)
        constants = jnp.zeros(k.shape[:1], k.dtype)
        C, C_T = symmetric(given["C"]), symmetric(given["C_T"])
        cost = QuadraticCost(C, given["c"], constants, C_T, given["c_T"], nothing)
        start, old = Start(given["m0"], symmetric(given["P0"])), LinearGaussianPolicy(K, k, L)
        solve = kl_step if epsilon.ndim == 0 else kl_step_each
        sound = _semidefinite(start.P0) & (True if dynamics.W is None else _semidefinite(dynamics.W))
        bound = jnp.where(sound, epsilon, jnp.nan)
        found = solve(dynamics, cost, start, old, bound, guess=guess, entropy=entropy, how=how)
        return _returned(found, LinearGaussian(K, k, cov))

    return in_lanes(lane, given, epsilon, guess)


def _semidefinite(cov: Float[Array, "*T n n"]) -> Flag:
    """Whether all are symmetric matrices without an eigenvalue below 0, but for rounding: as `_check_covariance` has
    it, for where numbers are not known."""
    size = jnp.max(jnp.sum(jnp.abs(cov), axis=-1), axis=-1)[..., None, None]
    eye = jnp.eye(cov.shape[-1], dtype=cov.dtype)
    raised = cov / jnp.where(size > 0.0, size, 1.0) + ROUNDING * eye
    return jnp.all(jnp.isfinite(jnp.linalg.cholesky(raised, symmetrize_input=False)))


def _returned(found: KLStep, old: LinearGaussian) -> KLSolution:
    """With covariances; the old controller exactly as it was given."""
    kept = jnp.all(jnp.isinf(found.multiplier))
    L = found.policy.L
    mine = LinearGaussian(found.policy.K, found.policy.k, jnp.matmul(L, jnp.swapaxes(L, 1, 2), precision="highest"))
    policy = jax.tree.map(lambda a, b: jnp.where(kept, a, b), old, mine)
    return KLSolution(LinearGaussian(*policy), found.multiplier, found.kl, found.cost, found.status, found.solves)


def _parts(policy: Any) -> dict[str, Any]:
    """K, k and cov of a controller."""
    if not (hasattr(policy, "K") and hasattr(policy, "k") and hasattr(policy, "cov")):
        raise UserError(
            f"old_policy in kl_lqr is {type(policy).__name__}; it must be a forethought.LinearGaussian(K, k, cov)."
        )
    return {f"old_policy.{name}": getattr(policy, name) for name in ("K", "k", "cov")}


def _check_settings(entropy: Any, tolerance: Any, evaluations: Any) -> None:
    kinds = (int, float, np.floating, np.integer)
    number = lambda value: isinstance(value, kinds) and not isinstance(value, bool) and np.isfinite(value)
    if not (number(entropy) and entropy >= 0.0):
        raise UserError(f"entropy in kl_lqr is {entropy!r}; it must be a number of at least 0.")
    if not (number(tolerance) and 0.0 < tolerance < 1.0):
        raise UserError(f"tolerance in kl_lqr is {tolerance!r}; it must be between 0 and 1.")
    if not (number(evaluations) and isinstance(evaluations, (int, np.integer)) and evaluations >= 1):
        raise UserError(f"evaluations in kl_lqr is {evaluations!r}; it must be a whole number of at least 1.")


def _check_shapes(arrays: dict[str, Array]) -> None:
    """All of them against T, n and m, which F and the old policy say."""
    shape = arrays["F"].shape
    if len(shape) != 3 or not 0 < shape[1] < shape[2]:
        raise UserError(f"F in kl_lqr has shape {list(shape)}; it must be [T, n, n+m], with n and m at least 1.")
    sizes = {"T": shape[0], "n": shape[1], "z": shape[2], "m": shape[2] - shape[1]}
    if sizes["T"] == 0:
        raise UserError("F in kl_lqr has no steps; T must be at least 1.")
    for name, letters in SHAPES.items():
        wanted = tuple(sizes[letter] for letter in letters.split())
        if name in arrays and arrays[name].shape != wanted:
            form = f"[{', '.join(letters.split()).replace('z', 'n+m')}]"
            raise UserError(
                f"{name} in kl_lqr has shape {list(arrays[name].shape)}; it must be {form} = {list(wanted)}, as F has "
                f"T={sizes['T']}, n={sizes['n']} and m={sizes['m']}."
            )
    bounds = arrays["epsilon"].shape
    for name in {"epsilon", "lam"} & arrays.keys():
        if arrays[name].shape not in ((), (sizes["T"],)) or (name == "lam" and arrays[name].shape != bounds):
            same = "" if name == "epsilon" else ", like epsilon"
            given = list(arrays[name].shape)
            raise UserError(f"{name} in kl_lqr has shape {given}; it must be one number, or [T]{same}.")


def _check_numbers(arrays: dict[str, Array]) -> None:
    """Finite, and covariances that are some, where numbers are known."""
    for name, array in arrays.items():
        finite("kl_lqr", name, array)
    for name in {"W", "P0", "old_policy.cov"} & arrays.keys():
        if isinstance(arrays[name], np.ndarray):
            _check_covariance(name, np.asarray(arrays[name]), strictly=name == "old_policy.cov")
    for name, least, strictly in (("epsilon", "at least 0", False), ("lam", "positive", True)):
        array = arrays.get(name)
        if isinstance(array, np.ndarray) and np.any(array <= 0.0 if strictly else array < 0.0):
            raise UserError(f"{name} in kl_lqr is {np.min(array):.3g}; it must be {least}.")


def _check_covariance(name: str, array: np.ndarray, *, strictly: bool) -> None:
    """Eigenvalues of at least 0 but for rounding, or, `strictly`, above 0."""
    values = np.linalg.eigvalsh(0.5 * (array + np.swapaxes(array, -1, -2)))
    least = values[..., 0]
    size = np.max(np.abs(values), axis=-1)
    bad = np.argwhere(least <= 0.0 if strictly else least < -ROUNDING * size)
    if len(bad):  # a single matrix has the place ()
        place = f" at step {bad[0][0]}" if array.ndim == 3 else ""
        kind = "semidefinite, as a covariance is."
        if strictly:
            kind = "definite: nothing else is within a finite KL of a controller without noise."
        raise UserError(
            f"{name} in kl_lqr has an eigenvalue of {least[tuple(bad[0])]:.3g}{place}; it must be positive {kind}"
        )
