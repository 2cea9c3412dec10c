"""Functions drawn from a stationary Gaussian process prior, as sums of waves, and what evaluates them fast.

By Bochner's theorem exp(2 pi i w . z) with w drawn from the spectral density of rho has the covariance rho, so that

    f(z) = sum_j a_j cos(2 pi (w_j . z + b_j)),   b_j uniform,   a_j = sqrt(2 E_j / F),  E_j exponential with mean 1

has mean 0 and the covariance rho(|z - z'|^2) exactly, for any number F of waves, if every function has frequencies of
its own; what F decides is only how Gaussian its values at several points are together (at one point they are exactly).
A wave with the amplitude sqrt(2 E) and a uniform phase is a sine and a cosine with independent normal weights, at half
the price.  Rahimi & Recht (2007); Wilson et al. (2020).

A plan takes tens of millions of exponentials and cosines.  The compiler's own take two to seven times as long as
polynomials without branches that are as accurate as is needed here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.kernels import ROOT3, ROOT5, Kind
from forethought.types import Array

LN2 = float(np.log(2.0))
ROUNDING = 1.5 * 2.0**52
COSINE = (
    0.9999992251396179,
    -19.738977432250977,
    64.9285888671875,
    -85.27084350585938,
    58.78694152832031,
    -21.06542969,
)
"""cos(2 pi r) = polynomial of r^2 for |r| <= 1/2, with an error below 2e-6: interpolation at Chebyshev points."""
POWER = (
    1.0000000000000133,
    0.6931471805599418,
    0.24022650695639752,
    0.05550410866477537,
    0.009618129194116096,
    0.0013333558187465905,
    0.0001540343361513708,
    1.5252679058983774e-05,
    1.3259675766161839e-06,
    1.0204903651952689e-07,
)
"""2^r = polynomial of r for |r| <= 1/2, with a relative error below 2e-14: interpolation at Chebyshev points.

Where a process is a thousand times as large as its noise or more, weights are so large that seven coefficients, whose
error is 3e-9, would be seen in the sum."""


class Waves(NamedTuple):
    """One function drawn from the prior with unit signal, over inputs in units of the length-scales."""

    frequencies: Float[Array, "*batch F f"]
    """w, in turns per length-scale."""
    phases: Float[Array, "*batch F"]
    """b, in turns."""
    amplitudes: Float[Array, "*batch F"]


def draw_waves(kind: Kind, random: np.random.Generator, batch: tuple[int, ...], count: int, dimension: int) -> Waves:
    """Functions of `dimension` inputs, as many as the batch has, of `count` waves each; float64, in NumPy.

    The spectral density is normal for "se", and Student's t with 3 or 5 degrees of freedom for the Matern kinds.  On
    the host, because to compile jax's generators takes seconds.
    """
    frequencies = random.normal(size=(*batch, count, dimension))
    if kind != "se":
        freedom = 3.0 if kind == "matern32" else 5.0
        frequencies = frequencies * np.sqrt(freedom / random.chisquare(freedom, (*batch, count, 1)))
    phases = random.uniform(size=(*batch, count))
    amplitudes = np.sqrt(2.0 * random.exponential(size=(*batch, count)) / count)
    return Waves(frequencies / (2.0 * np.pi), phases, amplitudes)


def heights(waves: Waves, z: Float[np.ndarray, "c f"]) -> Float[np.ndarray, " c"]:
    """The function at each row of z, by the accurate cosine, in NumPy."""
    return np.cos(2.0 * np.pi * (z @ waves.frequencies.T + waves.phases)) @ waves.amplitudes


def cosine(turns: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(2 pi turns) in the dtype of `turns`, with an error below 2e-6 + 1e-6 |turns| in float32."""
    r = turns - jnp.round(turns)
    return _polynomial(COSINE, r * r)


@jax.custom_jvp
def power_of_two(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2^t in float64 for t <= 1000, with a relative error below 1e-13; below t = -1000 it stays where it is."""
    t = jnp.maximum(t, -1000.0)
    # Adding 1.5 * 2^52 rounds to a whole number and leaves it in the lowest bits, from where it is shifted to the
    # exponent: no conversion between floats and integers, which the compiler would guard lane by lane.  (The rest is
    # not t - (shifted - ROUNDING): the compiler makes that t - t.)
    whole = jax.lax.bitcast_convert_type(t + ROUNDING, jnp.int64) << 52
    mantissa = _polynomial(POWER, t - jnp.round(t))
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(mantissa, jnp.int64) + whole, jnp.float64)


@power_of_two.defjvp
def _power_of_two_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = power_of_two(primals[0])
    return value, LN2 * value * tangents[0]


def stretch(kind: Kind) -> float:
    """What inputs in units of the length-scales are multiplied by before `profile_of_stretched`."""
    return {"se": (0.5 / LN2) ** 0.5, "matern32": ROOT3 / LN2, "matern52": ROOT5 / LN2}[kind]


def profile_of_stretched(kind: Kind, t2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """rho in float64 at the squared distance t2 = (stretch r)^2, by powers of two: 2^-t2 for "se", 2^-t for others.

    Its relative error is below 1e-13; its derivative is 0 at t2 = 0.
    """
    if kind == "se":
        return power_of_two(-t2)
    t = jnp.sqrt(jnp.maximum(t2, 1e-30))  # the root of 0 has no derivative
    a = LN2 * t
    return (1.0 + a if kind == "matern32" else 1.0 + a + a * a / 3.0) * power_of_two(-t)


def _polynomial(coefficients: tuple[float, ...], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Horner's scheme, lowest coefficient first, in the dtype of x."""
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total
