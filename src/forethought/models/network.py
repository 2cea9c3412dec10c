"""One Gaussian network: the lecture's neural network model with the variance it is unsure by."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractDynamics
from forethought.math.gaussian import DiagonalGaussian
from forethought.models.scaling import Scaler, feature_count, features, identity_scaler
from forethought.types import Action, Array, RandomKey, Spec, State, Time


class Layer(eqx.Module):
    """v -> v W + b, with the draw or member axis, if any, in front."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]


class GaussianNetwork(AbstractDynamics):
    """p(y|x,u) = N([x; 0] + unscale(mu), diag((s_y sigma)^2)) with (mu, v) = MLP(scale(features(x, u))).

    The network works in scaled inputs and scaled targets (changes of state; extras as they are), so its variance
    bounds mean the same for every task: sigma^2 = e^low + e^high logistic(v - high), with learned low and high.  This
    is what the two softplus of PETS (Chua et al. 2018) say about the logarithm, v <- high - softplus(high - v) and
    v <- low + softplus(v - low), at a fifth of the cost.
    """

    layers: tuple[Layer, ...]
    low: Float[Array, " k"]
    high: Float[Array, " k"]
    inputs: Scaler
    outputs: Scaler
    spec: Spec

    def heads(self, z: Float[Array, " f"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Mean and bounded variance of the scaled target at a scaled input."""
        for layer in self.layers[:-1]:
            z = jax.nn.silu(z @ layer.weight + layer.bias)
        out = z @ self.layers[-1].weight + self.layers[-1].bias
        mean, v = jnp.split(out, 2)
        return mean, jnp.exp(self.low) + jnp.exp(self.high) * jax.nn.sigmoid(v - self.high)

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """N(mean, std^2) of [next state; extras], float32."""
        del t  # the system is taken to be the same at all times
        x, u = jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)
        mean, variance = self.heads(self.inputs.scale(features(self.spec, x, u)))
        base = jnp.concatenate([x, jnp.zeros((self.spec.extras,), jnp.float32)])
        return DiagonalGaussian(base + self.outputs.unscale(mean), self.outputs.std * jnp.sqrt(variance))

    def draw(self, key: RandomKey, particles: int) -> GaussianNetwork:
        """Copies: one network has no doubt about itself."""
        del key
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (particles, *leaf.shape)), self)


def init_network(spec: Spec, width: int, depth: int, key: RandomKey) -> GaussianNetwork:
    """A network before training: truncated normal weights of std 1/(2 sqrt(fan-in)), zero biases, float32."""
    sizes = [feature_count(spec), *[width] * depth, 2 * spec.outputs]
    layers = []
    for k, fan_in, fan_out in zip(jr.split(key, depth + 1), sizes[:-1], sizes[1:], strict=True):
        weight = jr.truncated_normal(k, -2.0, 2.0, (fan_in, fan_out), jnp.float32) / jnp.float32(2.0 * fan_in**0.5)
        layers.append(Layer(weight, jnp.zeros((fan_out,), jnp.float32)))
    return GaussianNetwork(
        layers=tuple(layers),
        low=jnp.full((spec.outputs,), -10.0, jnp.float32),
        high=jnp.full((spec.outputs,), 0.5, jnp.float32),
        inputs=identity_scaler(sizes[0]),
        outputs=identity_scaler(spec.outputs),
        spec=spec,
    )
