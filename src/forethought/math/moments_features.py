"""A Gaussian through sines: features of angles, squashed actions; and through a saturating cost.  All exact."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.moments import Moments, after, exp_difference, linear, symmetric
from forethought.types import Array, Spec

Squash = Literal["sine", "flat"]
"""sine: sin v.  flat: (9 sin v + sin 3 v) / 8, whose second and third derivatives vanish at the limits."""


def sine_moments(
    frequency: Float[Array, "k d"], phase: Float[Array, " k"], mean: Float[Array, " d"], cov: Float[Array, "d d"]
) -> Moments:
    """f(x) = sin(frequency x + phase).

    With a = frequency m + phase and C = frequency S frequency^T:  E f_i = exp(-C_ii / 2) sin a_i and Cov[f_i, f_j] =
    1/2 exp(-(C_ii + C_jj) / 2) ((exp C_ij - 1) cos(a_i - a_j) - (exp -C_ij - 1) cos(a_i + a_j)).
    """
    angle = frequency @ mean + phase
    c = symmetric(frequency @ cov @ frequency.T)
    half = 0.5 * jnp.diagonal(c)
    damp = -half[:, None] - half[None, :]
    minus = exp_difference(damp + c, damp, c) * jnp.cos(angle[:, None] - angle[None, :])
    plus = exp_difference(damp - c, damp, -c) * jnp.cos(angle[:, None] + angle[None, :])
    shrunk = jnp.exp(-half)
    slope = (shrunk * jnp.cos(angle))[:, None] * frequency
    return Moments(shrunk * jnp.sin(angle), symmetric(0.5 * (minus - plus)), slope)


def feature_moments(spec: Spec, mean: Float[Array, " d"], cov: Float[Array, "d d"]) -> Moments:
    """f([x; u]) = [components of x that are not angles, sines, cosines, u]: what models regress on."""
    d, a = mean.shape[0], len(spec.angles)
    plain = [i for i in range(d) if i not in spec.angles]
    eye = np.eye(d)
    zeros = jnp.zeros(d - a, mean.dtype)
    direct = linear(jnp.asarray(eye[plain], mean.dtype), zeros, mean, cov)
    turns = np.concatenate([eye[list(spec.angles)]] * 2)
    quarter = np.repeat([0.0, 0.5 * np.pi], a)
    sines = sine_moments(jnp.asarray(turns, mean.dtype), jnp.asarray(quarter, mean.dtype), mean, cov)
    cross = direct.slope @ cov @ sines.slope.T
    joined = Moments(
        jnp.concatenate([direct.mean, sines.mean]),
        jnp.block([[direct.cov, cross], [cross.T, sines.cov]]),
        jnp.concatenate([direct.slope, sines.slope]),
    )
    # The sines go before the action.
    order = np.r_[: spec.n - a, d - a : d + a, spec.n - a : d - a]
    return Moments(joined.mean[order], joined.cov[np.ix_(order, order)], joined.slope[order])


def squash_moments(
    kind: Squash,
    low: Float[Array, " m"],
    high: Float[Array, " m"],
    mean: Float[Array, " m"],
    cov: Float[Array, "m m"],
) -> Moments:
    """f(v) = (low + high) / 2 + (high - low) / 2 s(v), with the s of `Squash`: actions inside their limits."""
    m = mean.shape[0]
    eye, zero = jnp.eye(m, dtype=mean.dtype), jnp.zeros(m, mean.dtype)
    middle, half = 0.5 * (low + high), jnp.diag(0.5 * (high - low))
    if kind == "sine":
        sines = sine_moments(eye, zero, mean, cov)
        return after(sines, linear(half, middle, sines.mean, sines.cov))
    both = jnp.concatenate([zero, zero])
    sines = sine_moments(jnp.concatenate([eye, 3.0 * eye]), both, mean, cov)
    gain = jnp.concatenate([1.125 * half, 0.125 * half], axis=1)
    return after(sines, linear(gain, middle, sines.mean, sines.cov))


def saturating_moments(
    goal: Float[Array, " d"],
    weight: Float[Array, " d"] | Float[Array, "d d"],
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
) -> Moments:
    """f(x) = 1 - exp(-(x - goal)^T W (x - goal)), one output; W is symmetric, or the vector of its diagonal.

    E exp(-(x - goal)^T W (x - goal)) = |I + 2 S W|^-1/2 exp(-(m - goal)^T W (I + 2 S W)^-1 (m - goal)).
    """
    w = jnp.diag(weight) if weight.ndim == 1 else weight
    off, eye = mean - goal, jnp.eye(mean.shape[0], dtype=mean.dtype)
    x = 2.0 * cov @ w
    near = jnp.linalg.solve(eye + x, off)
    pulled = w @ near
    once = -0.5 * jnp.linalg.slogdet(eye + x)[1] - off @ pulled
    # log E g^2 - 2 log E g of g = 1 - f, in terms that vanish with the covariance instead of their difference.
    double = jnp.linalg.solve(eye + 2.0 * x, jnp.concatenate([x @ x, (x @ near)[:, None]], axis=1))
    apart = 0.5 * jnp.linalg.slogdet(eye + double[:, :-1])[1] + 2.0 * off @ w @ double[:, -1]
    variance = exp_difference(2.0 * once + apart, 2.0 * once, apart)
    slope = 2.0 * jnp.exp(once) * pulled
    return Moments(-jnp.expm1(once)[None], variance[None, None], slope[None])
