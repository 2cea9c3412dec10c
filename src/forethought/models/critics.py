"""Several networks that say what is still to be paid: Q(x, z), the cost-to-go of an action and then of a policy."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.math.layers import Layer, init_layers
from forethought.types import Array, RandomKey

SMALLEST = 1e-5
"""Added to the variance of a layer before it is divided by."""


class Critics(eqx.Module):
    """K networks with normalised layers; every array has a leading axis K.

    v -> max(0, norm(v W + b)) with norm(v) = (v - mean v)/sqrt(var v + 1e-5) over the units of one layer.  The
    normalisation keeps Q from running away where there are no data, so that many steps may be taken on few of them
    (Hiraoka et al., Dropout Q-functions for doubly efficient reinforcement learning, ICLR 2022, who also drop units;
    Ball et al., Efficient online reinforcement learning with offline data, ICML 2023).
    """

    layers: tuple[Layer, ...]

    def __call__(self, v: Float[Array, "B f"]) -> Float[Array, "K B"]:
        """Q of each network at each input."""
        return jax.vmap(lambda layers: jax.vmap(lambda one: _through(layers, one))(v))(self.layers)


def init_critics(inputs: int, width: int, depth: int, count: int, key: RandomKey) -> Critics:
    """Networks before training, float32."""
    build = lambda k: init_layers([inputs, *[width] * depth, 1], k)
    return Critics(jax.vmap(build)(jr.split(key, count)))


def _through(layers: tuple[Layer, ...], v: Float[Array, " f"]) -> Float[Array, ""]:
    for layer in layers[:-1]:
        v = jax.nn.relu(_normalised(v @ layer.weight + layer.bias))
    return (v @ layers[-1].weight + layers[-1].bias)[0]


def _normalised(v: Float[Array, " h"]) -> Float[Array, " h"]:
    off = v - jnp.mean(v)
    return off * jax.lax.rsqrt(jnp.mean(off**2) + SMALLEST)
