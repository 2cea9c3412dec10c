"""The layers of every network of the library, models and policies alike."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.math.scaling import Scaler
from forethought.types import Array, RandomKey


class Layer(eqx.Module):
    """v -> v W + b, with the draw or member axis, if any, in front."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]


def through(layers: tuple[Layer, ...], z: Float[Array, " f"]) -> Float[Array, " o"]:
    """The last layer's output, with x logistic(x) between the layers."""
    for layer in layers[:-1]:
        z = jax.nn.silu(z @ layer.weight + layer.bias)
    return z @ layers[-1].weight + layers[-1].bias


def init_layers(sizes: Sequence[int], key: RandomKey) -> tuple[Layer, ...]:
    """Layers before training: truncated normal weights of std 1/(2 sqrt(fan-in)), zero biases, float32."""
    layers = []
    for k, fan_in, fan_out in zip(jr.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True):
        weight = jr.truncated_normal(k, -2.0, 2.0, (fan_in, fan_out), jnp.float32) / jnp.float32(2.0 * fan_in**0.5)
        layers.append(Layer(weight, jnp.zeros((fan_out,), jnp.float32)))
    return tuple(layers)


def with_inputs(layers: tuple[Layer, ...], old: Scaler, new: Scaler) -> tuple[Layer, ...]:
    """Layers that make of v scaled by `new` what the given ones make of v scaled by `old`."""
    first, moved = layers[0], (new.mean - old.mean) / old.std
    begun = Layer(first.weight * (new.std / old.std)[:, None], first.bias + moved @ first.weight)
    return (begun, *layers[1:])


def with_outputs(layers: tuple[Layer, ...], old: Scaler, new: Scaler) -> tuple[Layer, ...]:
    """Layers whose output unscaled by `new` is that of the given ones unscaled by `old`: the last makes up for it.

    So that targets of another size do not undo what was learned (van Hasselt et al., Learning values across many orders
    of magnitude, NIPS 2016).
    """
    last, shrunk = layers[-1], old.std / new.std
    ended = Layer(last.weight * shrunk[None, :], shrunk * last.bias + (old.mean - new.mean) / new.std)
    return (*layers[:-1], ended)
