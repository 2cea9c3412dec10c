"""A policy that is a network with a mean and a spread of its own in every state, squashed into the limits.

    a = mu(x) + exp(s(x)) e,  e ~ N(0, I),     z = tanh(a),     u = middle + z half range

Haarnoja et al., Soft actor-critic, ICML 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.math.layers import Layer, init_layers, through
from forethought.math.scaling import Scaler, feature_count, identity_scaler
from forethought.policies.neural import seen
from forethought.types import Action, Array, Box, RandomKey, Scalar, Spec, State, Time

LOWEST, HIGHEST = -5.0, 1.0
"""Limits of log std before squashing: within 0.7% of the half range, and all but uniform."""


class SquashedNetwork(NamedTuple):
    """What training changes, and the units in which it sees the state."""

    layers: tuple[Layer, ...]
    inputs: Scaler


class Head(NamedTuple):
    """N(mean, exp(log_std)^2) before the squashing."""

    mean: Float[Array, " m"]
    log_std: Float[Array, " m"]


def init_squashed(spec: Spec, width: int, depth: int, key: RandomKey) -> SquashedNetwork:
    """Before training, float32: every mean near 0, every std e^-2 or so, wherever it is asked."""
    size = feature_count(Spec(n=spec.n, m=0, angles=spec.angles))
    layers = init_layers([size, *[width] * depth, 2 * spec.m], key)
    last = layers[-1]
    return SquashedNetwork((*layers[:-1], Layer(0.1 * last.weight, last.bias)), identity_scaler(size))


def head(network: SquashedNetwork, spec: Spec, x: State) -> Head:
    """mu(x) and s(x), kept between `LOWEST` and `HIGHEST` smoothly, float32."""
    z = network.inputs.scale(seen(spec, jnp.asarray(x, jnp.float32)))
    mean, free = jnp.split(through(network.layers, z), 2)
    return Head(mean, LOWEST + 0.5 * (HIGHEST - LOWEST) * (1.0 + jnp.tanh(free)))


def squash(at: Head, noise: Float[Array, " m"]) -> tuple[Float[Array, " m"], Scalar]:
    """(z, log p(z)) for standard normal noise: z = tanh(a), and per coordinate

    log p(z) = -e^2/2 - s - log(2 pi)/2 - log(1 - z^2),   log(1 - tanh(a)^2) = 2 (log 2 - a - softplus(-2a)),

    which is finite however far a lies out.  The density is that of z, in units of half the range, so that an entropy
    means the same for every task.
    """
    a = at.mean + jnp.exp(at.log_std) * noise
    plain = -0.5 * noise**2 - at.log_std - 0.5 * jnp.log(2.0 * jnp.pi).astype(a.dtype)
    return jnp.tanh(a), jnp.sum(plain - _log_slope(a))


def log_prob(at: Head, z: Float[Array, " m"]) -> Scalar:
    """log p(z) of a given z; one at a limit is taken to be just inside it (1 - 1e-6, where float32 still resolves)."""
    a = jnp.arctanh(jnp.clip(z, -1.0 + 1e-6, 1.0 - 1e-6))
    noise = (a - at.mean) * jnp.exp(-at.log_std)
    plain = -0.5 * noise**2 - at.log_std - 0.5 * jnp.log(2.0 * jnp.pi).astype(a.dtype)
    return jnp.sum(plain - _log_slope(a))


def _log_slope(a: Float[Array, " m"]) -> Float[Array, " m"]:
    """log d tanh(a)/da."""
    return 2.0 * (jnp.log(2.0).astype(a.dtype) - a - jax.nn.softplus(-2.0 * a))


class SquashedPolicy(AbstractPolicy[RandomKey]):
    """u = middle + half range tanh(mu(x) + noise exp(s(x)) e): with `noise` = 1 what learning explores with, with 0
    the action that evaluation takes, tanh of the mean."""

    network: SquashedNetwork
    noise: Float[Array, ""]
    actions: Box
    spec: Spec

    def init(self, x: State, key: RandomKey) -> RandomKey:
        """The key of its noise."""
        del x
        return key

    def act(self, carry: RandomKey, x: State, t: Time) -> tuple[Action, RandomKey]:
        """The action at state x, float32."""
        del t
        key, now = jr.split(carry)
        x = wrap_components(jnp.asarray(x, jnp.float32), self.spec.angles)
        # What cannot be seen cannot be acted upon.
        at = head(self.network, self.spec, jnp.where(jnp.isfinite(x), x, 0.0))
        noise = self.noise.astype(jnp.float32) * jr.normal(now, at.mean.shape, jnp.float32)
        return self.actions.decode(squash(at, noise)[0]), key
