"""A network that says what is still to be paid from a state on: the value function, in costs."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Bool, Float, PyTree

from forethought.math.finite import LARGEST, where_all
from forethought.math.layers import Layer, init_layers, through, with_inputs, with_outputs
from forethought.math.scaling import Scaler, feature_count, features, fit_scaler, identity_scaler
from forethought.types import Array, Flag, Metrics, RandomKey, Scalar, Spec, State


class Value(eqx.Module):
    """V(x): the expected discounted cost-to-go from x, float32, in units of the stage cost (lower is better).

    It sees angles as sines and cosines, and it is what `costs.terminal.TerminalValue` takes.
    """

    layers: tuple[Layer, ...]
    inputs: Scaler
    outputs: Scaler
    spec: Spec

    def __call__(self, x: State) -> Scalar:
        """V at one state [n]."""
        z = self.inputs.scale(_seen(self.spec, jnp.asarray(x, jnp.float32)))
        return self.outputs.unscale(through(self.layers, z))[0]


class FittedValue(NamedTuple):
    """A value function and what fitting it remembers; the tree, its shapes and dtypes never change."""

    value: Value
    optimiser: PyTree


class ValueLearner(eqx.Module):
    """How a value function is fitted: least squares by Adam, warm-started, a fixed number of steps per fit."""

    width: int = 64
    depth: int = 2
    gradient_steps: int = 300
    """Per fit, whatever the number of rows."""
    batch: int = 128
    learning_rate: float = 1e-3

    def init(self, spec: Spec, key: RandomKey) -> FittedValue:
        """Before any data: a random network around 0."""
        k = feature_count(_state_only(spec))
        layers = init_layers([k, *[self.width] * self.depth, 1], key)
        value = Value(layers, identity_scaler(k), identity_scaler(1), _state_only(spec))
        return FittedValue(value, _descent().init(layers))  # pyright: ignore[reportArgumentType]

    def fit(
        self,
        fitted: FittedValue,
        x: Float[Array, "B n"],
        target: Float[Array, " B"],
        use: Bool[Array, " B"],
        key: RandomKey,
    ) -> tuple[FittedValue, Metrics]:
        """minimise mean_i (V(x_i) - target_i)^2 over the rows in use, starting from the function at hand.

        Rows with a number that is not finite, or beyond what any sensor says, do not count.  The scalers are refitted
        to the rows, and the network is changed so that V stays what it was.  If there is no row, or the result is not
        finite, nothing changes and `failed` is true.  `loss` is in the units of the scaled target, where predicting
        the mean has 1; `explained` is 1 - var(target - V) / var(target) after the fit.

        Compiled once per shape; may be called inside a compiled function too.
        """
        return _fit(self, fitted, x, target, use, key)


def _state_only(spec: Spec) -> Spec:
    return Spec(n=spec.n, m=0, angles=spec.angles)


def _seen(spec: Spec, x: State) -> Float[Array, " f"]:
    return features(spec, x, jnp.zeros((0,), x.dtype))


def _descent() -> optax.GradientTransformation:
    return optax.scale_by_adam()


def rescaled(value: Value, inputs: Scaler, outputs: Scaler) -> Value:
    """The same function with other scalers, so that a fit begins where the last one ended, though the data moved."""
    layers = with_outputs(with_inputs(value.layers, value.inputs, inputs), value.outputs, outputs)
    return Value(layers, inputs, outputs, value.spec)


@eqx.filter_jit
def _fit(
    how: ValueLearner,
    fitted: FittedValue,
    x: Float[Array, "B n"],
    target: Float[Array, " B"],
    use: Bool[Array, " B"],
    key: RandomKey,
) -> tuple[FittedValue, Metrics]:
    sound = use & jnp.all(jnp.abs(x) <= LARGEST, axis=1) & (jnp.abs(target) <= LARGEST)
    x32 = jnp.where(sound[:, None], x, 0.0).astype(jnp.float32)
    target = jnp.where(sound, target, 0.0).astype(jnp.float32)
    before = fitted.value
    seen = jax.vmap(lambda v: _seen(before.spec, v))(x32)
    start = rescaled(before, fit_scaler(seen, sound), fit_scaler(target[:, None], sound))
    z = jax.vmap(start.inputs.scale)(seen)
    wanted = jax.vmap(start.outputs.scale)(target[:, None])
    below = jnp.cumsum(sound.astype(jnp.float32))

    def loss(layers: tuple, rows: Array) -> Array:
        said = jax.vmap(lambda v: through(layers, v))(z[rows])
        return jnp.mean((said - wanted[rows]) ** 2)

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        layers, memory = carry
        drawn = jr.uniform(key, (how.batch,), jnp.float32) * below[-1]
        rows = jnp.minimum(jnp.searchsorted(below, drawn, side="right"), x.shape[0] - 1)
        error, slope = jax.value_and_grad(loss)(layers, rows)
        change, memory = _descent().update(slope, memory)
        layers = jax.tree.map(lambda p, g: p - jnp.float32(how.learning_rate) * g, layers, change)
        return (layers, memory), error

    start_at = (start.layers, fitted.optimiser)
    (layers, memory), losses = jax.lax.scan(step, start_at, jr.split(key, how.gradient_steps))
    after = FittedValue(Value(layers, start.inputs, start.outputs, before.spec), memory)
    off = target - jax.vmap(after.value)(x32)
    good = _finite(after) & jnp.any(sound) & jnp.isfinite(_variance(off, sound))
    told = {"loss": jnp.mean(losses[-50:]), "failed": ~good, "explained": _explained(off, target, sound)}
    return where_all(good, after, fitted), told


def _finite(tree: PyTree) -> Flag:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]
    return jnp.all(jnp.stack(leaves))


def _variance(v: Float[Array, " B"], use: Bool[Array, " B"]) -> Scalar:
    count = jnp.maximum(jnp.sum(use), 1).astype(v.dtype)
    mean = jnp.sum(jnp.where(use, v, 0.0)) / count
    return jnp.sum(jnp.where(use, (v - mean) ** 2, 0.0)) / count


def _explained(off: Float[Array, " B"], target: Float[Array, " B"], use: Bool[Array, " B"]) -> Scalar:
    """Share of the target's variance that is not left; 0 where the target does not vary."""
    whole = _variance(target, use)
    return jnp.where(whole > 0.0, 1.0 - _variance(off, use) / jnp.where(whole > 0.0, whole, 1.0), 0.0)
