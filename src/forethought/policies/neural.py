"""Policies that are networks: Gaussian around the output, or a choice by scores."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.math.layers import Layer, init_layers, through
from forethought.math.scaling import Scaler, feature_count, features, identity_scaler
from forethought.math.stochastic import Said, sample
from forethought.types import Action, Array, Box, Choices, RandomKey, Spec, State, Time


class Network(NamedTuple):
    """What training changes: pi(x) = scale(layers(inputs(features of x))), and its covariance."""

    layers: tuple[Layer, ...]
    inputs: Scaler
    outputs: Scaler
    """From the layers' unit scale to controls."""
    L: Float[Array, "m m"]
    """Lower factor of the covariance of the controls."""


def init_policy(spec: Spec, width: int, depth: int, key: RandomKey, outputs: int | None = None) -> Network:
    """Before training: float32, no noise; with as many outputs as actions have components, or so many."""
    k = spec.m if outputs is None else outputs
    sizes = [feature_count(_state_only(spec)), *[width] * depth, k]
    layers = init_layers(sizes, key)
    return Network(layers, identity_scaler(sizes[0]), identity_scaler(k), jnp.zeros((k, k), jnp.float32))


def seen(spec: Spec, x: State) -> Float[Array, " f"]:
    """What the network sees of a state: angles as sines and cosines."""
    return features(_state_only(spec), x, jnp.zeros((0,), x.dtype))


def mean_action(network: Network, spec: Spec, x: State) -> Action:
    """pi(x), without limits, float32; of a network with other outputs those."""
    z = network.inputs.scale(seen(spec, jnp.asarray(x, jnp.float32)))
    return network.outputs.unscale(through(network.layers, z))


def believed(network: Network, spec: Spec, x: State) -> Action:
    """pi(x) of a state as it was observed: any turn of an angle, and 0 for what cannot be seen."""
    x = wrap_components(jnp.asarray(x, jnp.float32), spec.angles)
    # What cannot be seen cannot be acted upon.
    return mean_action(network, spec, jnp.where(jnp.isfinite(x), x, 0.0))


class NeuralPolicy(AbstractPolicy[RandomKey]):
    """u = clip(pi(x) + noise L e), e ~ N(0, I): Gaussian with covariance L L^T, and then kept within the limits; with
    `noise` = 0 its mean."""

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
        mean = believed(self.network, self.spec, x)
        low, high = jnp.asarray(self.actions.low, jnp.float32), jnp.asarray(self.actions.high, jnp.float32)
        L = self.network.L
        noise = self.noise.astype(jnp.float32) * jnp.sum(L * jr.normal(now, mean.shape, jnp.float32), axis=1)
        return jnp.clip(mean + noise, low, high), key


class ChoosingPolicy(AbstractPolicy[RandomKey]):
    """P(choice a) = softmax(pi(x))_a, with one output of the network per choice; with `noise` = 0 the likeliest one."""

    network: Network
    noise: Float[Array, ""]
    actions: Choices
    spec: Spec

    def init(self, x: State, key: RandomKey) -> RandomKey:
        """The key of its draws."""
        del x
        return key

    def act(self, carry: RandomKey, x: State, t: Time) -> tuple[Action, RandomKey]:
        """The choice at state x, float32."""
        del t
        key, now = jr.split(carry)
        said = Said(believed(self.network, self.spec, x), jnp.zeros((0,), jnp.float32))
        return sample(self.actions, said, now, self.noise.astype(jnp.float32)), key


def _state_only(spec: Spec) -> Spec:
    return Spec(n=spec.n, m=0, angles=spec.angles)
