"""Covariance functions of distance alone, as functions of the squared distance in units of the length-scales.

k(z, z') = s^2 rho(r^2), r^2 = sum_d ((z_d - z'_d) / l_d)^2, with rho(0) = 1:

    se         exp(-r^2 / 2)                                 infinitely smooth
    matern52   (1 + sqrt5 r + 5 r^2 / 3) exp(-sqrt5 r)       twice differentiable
    matern32   (1 + sqrt3 r) exp(-sqrt3 r)                   once differentiable

Rasmussen & Williams (2006), chapter 4.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.types import Array

Kind = Literal["se", "matern32", "matern52"]
"""Which covariance function; the smoother it is, the more it takes for granted."""

ROOT3, ROOT5 = 3.0**0.5, 5.0**0.5


def _distance(r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """r, whose derivative at 0 is 0 instead of infinite: the root is never taken of 0."""
    apart = r2 > 0.0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, r2, 1.0)), 0.0)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def profile(kind: Kind, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """rho(r^2) in the dtype of r2.  Its derivative is `slope`, also at 0, where autodiff would divide by r."""
    if kind == "se":
        return jnp.exp(-0.5 * r2)
    r = _distance(r2)
    if kind == "matern32":
        return (1.0 + ROOT3 * r) * jnp.exp(-ROOT3 * r)
    return (1.0 + ROOT5 * r + (5.0 / 3.0) * r2) * jnp.exp(-ROOT5 * r)


def slope(kind: Kind, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """d rho / d(r^2) in the dtype of r2: finite at 0 for every kind."""
    if kind == "se":
        return -0.5 * jnp.exp(-0.5 * r2)
    r = _distance(r2)
    if kind == "matern32":
        return -1.5 * jnp.exp(-ROOT3 * r)
    return -(5.0 / 6.0) * (1.0 + ROOT5 * r) * jnp.exp(-ROOT5 * r)


@profile.defjvp
def _profile_jvp(kind: Kind, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (r2,), (change,) = primals, tangents
    return profile(kind, r2), slope(kind, r2) * change


def square_distances(
    a: Float[Array, "i f"], b: Float[Array, "j f"], log_lengths: Float[Array, " f"]
) -> Float[Array, "i j"]:
    """r^2 between the rows of a and of b.

    By one matrix product, about the mean of b: without that, data far from the origin would lose their digits.
    """
    centre = jnp.mean(b, axis=0)
    u, v = (a - centre) * jnp.exp(-log_lengths), (b - centre) * jnp.exp(-log_lengths)
    product = jnp.matmul(u, v.T, precision="highest")
    r2 = jnp.sum(u**2, axis=1)[:, None] + jnp.sum(v**2, axis=1)[None, :] - 2.0 * product
    return jnp.maximum(r2, 0.0)
