"""A policy that is a network, Gaussian around its output."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.math.layers import Layer, init_layers, through
from forethought.math.scaling import Scaler, feature_count, features, identity_scaler
from forethought.types import Action, Array, Box, RandomKey, Spec, State, Time


class Network(NamedTuple):
    """What training changes: pi(x) = scale(layers(inputs(features of x))), and its covariance."""

    layers: tuple[Layer, ...]
    inputs: Scaler
    outputs: Scaler
    """From the layers' unit scale to controls."""
    L: Float[Array, "m m"]
    """Lower factor of the covariance of the controls."""


def init_policy(spec: Spec, width: int, depth: int, key: RandomKey) -> Network:
    """Before training: float32, no noise."""
    sizes = [feature_count(_state_only(spec)), *[width] * depth, spec.m]
    layers = init_layers(sizes, key)
    return Network(layers, identity_scaler(sizes[0]), identity_scaler(spec.m), jnp.zeros((spec.m, spec.m), jnp.float32))


def seen(spec: Spec, x: State) -> Float[Array, " f"]:
    """What the network sees of a state: angles as sines and cosines."""
    return features(_state_only(spec), x, jnp.zeros((0,), x.dtype))


def mean_action(network: Network, spec: Spec, x: State) -> Action:
    """pi(x), without limits, float32."""
    z = network.inputs.scale(seen(spec, jnp.asarray(x, jnp.float32)))
    return network.outputs.unscale(through(network.layers, z))


class NeuralPolicy(AbstractPolicy[RandomKey]):
    """u ~ N(pi(x), L L^T), kept within the limits; with `noise` = 0 its mean."""

    network: Network
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
        mean = mean_action(self.network, self.spec, jnp.where(jnp.isfinite(x), x, 0.0))
        low, high = jnp.asarray(self.actions.low, jnp.float32), jnp.asarray(self.actions.high, jnp.float32)
        L = self.network.L
        noise = self.noise.astype(jnp.float32) * jnp.sum(L * jr.normal(now, mean.shape, jnp.float32), axis=1)
        return jnp.clip(jnp.clip(mean, low, high) + noise, low, high), key


def _state_only(spec: Spec) -> Spec:
    return Spec(n=spec.n, m=0, angles=spec.angles)
