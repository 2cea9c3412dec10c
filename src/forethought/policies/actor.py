"""Policies that v2.0 improves: linear, radial basis functions, or a network, squashed into the limits of actions."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.math.belief import Belief
from forethought.math.layers import Layer, init_layers, through
from forethought.math.moments import Moments, after, linear
from forethought.math.moments_features import feature_moments, squash_moments
from forethought.math.moments_gp import SEPosterior, se_moments
from forethought.math.scaling import Scaler, feature_count, features, identity_scaler
from forethought.types import Action, Array, Box, RandomKey, Spec, State, Time, UserError

Form = Literal["network", "rbf", "linear"]


class LinearMap(eqx.Module):
    """v = gain z + offset."""

    gain: Float[Array, "m f"]
    offset: Float[Array, " m"]

    def __call__(self, z: Float[Array, " f"]) -> Float[Array, " m"]:
        """The map at one point."""
        return jnp.sum(self.gain * z, axis=1) + self.offset


class RadialBasis(eqx.Module):
    """v_j = sum_i w_ji exp(-1/2 sum_d ((z_d - c_id) / l_d)^2): the mean of a Gaussian process with targets of its own.

    After Deisenroth and Rasmussen, PILCO, ICML 2011.
    """

    weights: Float[Array, "m b"]
    centres: Float[Array, "b f"]
    log_lengths: Float[Array, " f"]

    def __call__(self, z: Float[Array, " f"]) -> Float[Array, " m"]:
        """The function at one point."""
        off = (z - self.centres) * jnp.exp(-self.log_lengths)
        return jnp.sum(self.weights * jnp.exp(-0.5 * jnp.sum(off**2, axis=1)), axis=1)


class Layers(eqx.Module):
    """A network with x logistic(x) between its layers."""

    layers: tuple[Layer, ...]

    def __call__(self, z: Float[Array, " f"]) -> Float[Array, " m"]:
        """The network at one point."""
        return through(self.layers, z)


class Actor(eqx.Module):
    """u = (low + high) / 2 + (high - low) / 2 s(v(inputs(features of x))), with v what training changes.

    s is tanh for a network, and for the others (9 sin v + sin 3 v) / 8, whose moments are known for a Gaussian v.
    """

    body: LinearMap | RadialBasis | Layers
    inputs: Scaler
    """Of the features: fitted once, to the first data."""
    actions: Box
    spec: Spec

    def raw(self, x: State) -> Float[Array, " m"]:
        """v, before it is squashed, in the dtype of what is trained."""
        dtype = jax.tree.leaves(self.body)[0].dtype
        return self.body(self.inputs.scale(seen(self.spec, jnp.asarray(x, dtype))).astype(dtype))

    def squashed(self, raw: Float[Array, " m"]) -> Action:
        """The action."""
        low, high = jnp.asarray(self.actions.low, raw.dtype), jnp.asarray(self.actions.high, raw.dtype)
        unit = jnp.tanh(raw) if isinstance(self.body, Layers) else (9.0 * jnp.sin(raw) + jnp.sin(3.0 * raw)) / 8.0
        return 0.5 * (low + high) + 0.5 * (high - low) * unit

    def __call__(self, x: State) -> Action:
        """The action at a state."""
        return self.squashed(self.raw(x))

    def saturation(self, raw: Float[Array, " m"]) -> Float[Array, " m"]:
        """1 where the squashing passes less than a twentieth of a change on, else 0."""
        slope = (
            1.0 - jnp.tanh(raw) ** 2 if isinstance(self.body, Layers) else 0.375 * (3 * jnp.cos(raw) + jnp.cos(3 * raw))
        )
        return (jnp.abs(slope) < 0.05).astype(raw.dtype)

    def moments(self, belief: Belief, t: Time) -> Moments:
        """Of the action for a Gaussian state, float64: what `belief.advance` asks a controller for."""
        del t
        z = feature_moments(_state_only(self.spec), belief.mean, belief.cov)
        wide = lambda v: jnp.asarray(v, jnp.float64)
        scale = 1.0 / wide(self.inputs.std)
        scaled = after(z, linear(jnp.diag(scale), -scale * wide(self.inputs.mean), z.mean, z.cov))
        raw = after(scaled, _body_moments(self.body, scaled))
        return after(raw, squash_moments("flat", wide(self.actions.low), wide(self.actions.high), raw.mean, raw.cov))


def seen(spec: Spec, x: State) -> Float[Array, " f"]:
    """What the policy sees of a state: angles as sines and cosines."""
    return features(_state_only(spec), x, jnp.zeros((0,), x.dtype))


def init_actor(spec: Spec, actions: Box, form: Form, size: tuple[int, int], key: RandomKey) -> Actor:
    """Before training, float32.  `size` is (width, depth) of a network, (number of functions, any) of the others."""
    (width, depth), f, m = size, feature_count(_state_only(spec)), actions.m
    zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
    if form == "network":
        body = Layers(init_layers([f, *[width] * depth, m], key))
    elif form == "linear":
        body = LinearMap(jnp.float32(0.1) * jr.normal(key, (m, f), jnp.float32), zeros(m))
    else:
        k_centres, k_weights = jr.split(key)
        centres = jr.normal(k_centres, (width, f), jnp.float32)
        body = RadialBasis(jnp.float32(0.1) * jr.normal(k_weights, (m, width), jnp.float32), centres, zeros(f))
    return Actor(body, identity_scaler(f), actions, spec)


def need_moments(actor: Actor) -> None:
    """Raise `UserError` for a policy whose moments have no closed form."""
    if isinstance(actor.body, Layers):
        raise UserError(
            "imagine is moments and the policy is a network, whose moments have no closed form: use "
            "--algorithm.form rbf or linear, or --algorithm.imagine particles."
        )


def _body_moments(body: LinearMap | RadialBasis | Layers, z: Moments) -> Moments:
    """Of v for Gaussian features."""
    wide = lambda v: jnp.asarray(v, jnp.float64)
    if isinstance(body, LinearMap):
        return linear(wide(body.gain), wide(body.offset), z.mean, z.cov)
    assert isinstance(body, RadialBasis)
    m, lengths = body.weights.shape[0], jnp.exp(wide(body.log_lengths))
    centres = (wide(body.centres) / lengths).T
    posterior = SEPosterior(
        centres=jnp.broadcast_to(centres, (m, *centres.shape)),
        lengths=jnp.broadcast_to(lengths, (m, *lengths.shape)),
        signal=jnp.ones((m,), jnp.float64),
        weights=wide(body.weights),
        root=None,
        inverse=None,
        origin=jnp.zeros(lengths.shape, jnp.float64),
        offset=jnp.zeros((m,), jnp.float64),
    )
    return se_moments(posterior, z.mean, z.cov)


class ActorPolicy(AbstractPolicy[RandomKey]):
    """An actor at work: u = actor(x), with noise of so many half ranges while it explores."""

    actor: Actor
    noise: Float[Array, ""]

    def init(self, x: State, key: RandomKey) -> RandomKey:
        """The key of its noise."""
        del x
        return key

    def act(self, carry: RandomKey, x: State, t: Time) -> tuple[Action, RandomKey]:
        """The action at state x, float32."""
        del t
        key, now = jr.split(carry)
        actor = self.actor
        x = wrap_components(jnp.asarray(x, jnp.float32), actor.spec.angles)
        # What cannot be seen cannot be acted upon.
        z = actor.actions.encode(actor(jnp.where(jnp.isfinite(x), x, 0.0)))
        z = z + self.noise.astype(z.dtype) * jr.normal(now, z.shape, z.dtype)
        return actor.actions.decode(z).astype(jnp.float32), key


def _state_only(spec: Spec) -> Spec:
    return Spec(n=spec.n, m=0, angles=spec.angles)


def placed(actor: Actor, states: Float[np.ndarray, "r n"], key: RandomKey) -> Actor:
    """With its scaler fitted to states that were visited, and the centres of radial basis functions at some of them."""
    z = np.asarray(jax.vmap(lambda x: seen(actor.spec, x))(jnp.asarray(states, jnp.float32)), np.float64)
    mean, std = z.mean(axis=0), z.std(axis=0)
    std = np.where(std > 1e-6 * np.abs(z).max(axis=0, initial=0.0), std, 1.0)
    scaler = Scaler(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
    actor = eqx.tree_at(lambda a: a.inputs, actor, scaler)
    if not isinstance(actor.body, RadialBasis):
        return actor
    rows = np.asarray(jr.randint(key, (actor.body.centres.shape[0],), 0, len(z)))
    return eqx.tree_at(lambda a: a.body.centres, actor, jnp.asarray((z[rows] - mean) / std, jnp.float32))
