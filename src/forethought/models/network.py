"""Networks from state and action to what one step leads to: the Gaussian one, and what all share."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractDynamics, AbstractPrediction
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.math.layers import Layer, init_layers, through
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, feature_count, features, identity_scaler
from forethought.types import Action, Array, RandomKey, Spec, State, Time, UserError

T = TypeVar("T")


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
        mean, v = jnp.split(through(self.layers, z), 2)
        return mean, bounded_variance(v, self.low, self.high)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """N(mean, std^2) of [next state; extras], float32."""
        del t  # the system is taken to be the same at all times
        return wrapped(self.said(x, u), self.spec.angles)

    def said(self, x: State, u: Action) -> DiagonalGaussian:
        """The same with angles on the line, where members can be averaged."""
        base, z = ends(self.spec, x, u)
        mean, variance = self.heads(self.inputs.scale(z))
        return DiagonalGaussian(base + self.outputs.unscale(mean), self.outputs.std * jnp.sqrt(variance))

    def draw(self, key: RandomKey, particles: int) -> GaussianNetwork:
        """Copies: one network has no doubt about itself."""
        del key
        return copies(self, particles)


def bounded_variance(
    v: Float[Array, "*K k"], low: Float[Array, "*K k"] | float, high: Float[Array, "*K k"] | float
) -> Float[Array, "*K k"]:
    """e^low + e^high logistic(v - high): any number v as a variance between e^low and about e^high."""
    return jnp.exp(low) + jnp.exp(high) * jax.nn.sigmoid(v - high)


def ends(spec: Spec, x: State, u: Action) -> tuple[Float[Array, " k"], Float[Array, " f"]]:
    """What targets are added to, [x; 0], and the features (unscaled), float32.

    Raises `UserError` for a state or action that is not of the system that the model is of.
    """
    if x.shape != (spec.n,) or u.shape != (spec.m,):
        raise UserError(
            f"a model of states of size {spec.n} and actions of size {spec.m} was asked about a state of shape "
            f"{tuple(x.shape)} and an action of shape {tuple(u.shape)}."
        )
    x, u = jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)
    return jnp.concatenate([x, jnp.zeros((spec.extras,), jnp.float32)]), features(spec, x, u)


def init_network(spec: Spec, width: int, depth: int, key: RandomKey) -> GaussianNetwork:
    """A network before training, float32."""
    inputs = feature_count(spec)
    return GaussianNetwork(
        layers=init_layers([inputs, *[width] * depth, 2 * spec.outputs], key),
        low=jnp.full((spec.outputs,), -10.0, jnp.float32),
        high=jnp.full((spec.outputs,), 0.5, jnp.float32),
        inputs=identity_scaler(inputs),
        outputs=identity_scaler(spec.outputs),
        spec=spec,
    )
