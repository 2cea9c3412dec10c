"""Curvature of a cost, and of any scalar function of one point."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.math.moments import symmetric
from forethought.types import Action, Array, Scalar, State, Time


class Quadratisation(NamedTuple):
    """c(z + dz) = value + gradient^T dz + 1/2 dz^T hessian dz + O(|dz|^3)."""

    value: Scalar
    gradient: Float[Array, " d"]
    hessian: Float[Array, "d d"]
    """Exactly symmetric; not positive semidefinite where the cost is not convex (see `convex_part`)."""


def curvature(function: Callable[[Array], Scalar], z: Float[Array, " d"]) -> Quadratisation:
    """Value, gradient and Hessian at z: the gradient backward, its slopes forward."""

    def twice(z: Array) -> tuple[Array, tuple[Scalar, Array]]:
        value, gradient = jax.value_and_grad(function)(z)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jacfwd(twice, has_aux=True)(z)
    return Quadratisation(value, gradient, symmetric(hessian))


def quadratise(cost: AbstractCost, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Quadratisation:
    """A stage cost around z = [x; u; y], where y is what the step led to; in the dtype of x."""
    n, m = x.shape[0], u.shape[0]
    z = jnp.concatenate([x, jnp.asarray(u, x.dtype), jnp.asarray(y, x.dtype)])
    return curvature(lambda z: cost.stage(z[:n], z[n : n + m], z[n + m :], t), z)


def quadratise_terminal(cost: AbstractCost, x: State) -> Quadratisation:
    """A terminal cost around x."""
    return curvature(cost.terminal, x)


def gauss_newton(residuals: Callable[[Array], Array], z: Float[Array, " d"]) -> Quadratisation:
    """1/2 |r(z)|^2 with the Hessian J^T J of its linearised residuals, J = dr/dz: never indefinite.

    Nocedal and Wright, Numerical Optimization, 2006, section 10.3.
    """
    both = lambda z: (residuals(z),) * 2
    slope, r = jax.jacfwd(both, has_aux=True)(z)
    gram = jnp.sum(slope[:, :, None] * slope[:, None, :], axis=0)
    return Quadratisation(0.5 * jnp.sum(r**2), jnp.sum(slope * r[:, None], axis=0), symmetric(gram))


def convex_part(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The nearest positive semidefinite matrix to a symmetric one: negative eigenvalues become 0.

    All of z = [x; u] at once: projecting the blocks of x and of u one by one leaves what couples them, and with it the
    matrix, indefinite.  A matrix that is not finite comes back as it is.
    """
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, matrix, 0.0), symmetrize_input=False)
    kept = jnp.sum(vectors[:, None, :] * jnp.maximum(values, 0.0) * vectors[None, :, :], axis=-1)
    return jnp.where(finite, jnp.where(values[0] >= 0.0, matrix, symmetric(kept)), matrix)
