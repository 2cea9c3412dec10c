"""From scaled rows and hyperparameters to a Gaussian process: the compiled part of a fit.

Everything is stacked over outputs, and padded: one program per size of the arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.features import Waves, draw_waves, heights, stretch
from forethought.math.gp import Hyper, Posterior, Rows, condition
from forethought.math.kernels import Kind
from forethought.math.sparse_gp import inducing_moments, sparse_condition
from forethought.models.gp import Frame, GaussianProcess, Path
from forethought.models.scaling import Scaler, feature_count
from forethought.models.table import generator
from forethought.types import Array, RandomKey, Spec

SMALLEST = 64
"""Rows there is room for at the least."""
EACH_OUTPUT = cast(Any, Rows(None, 0, None, 0))  # pyright: ignore[reportArgumentType]
"""Which arrays of stacked rows have an axis of outputs, for vmap."""


def bucket(rows: int) -> int:
    """The size of the arrays that hold so many rows: a power of two, so that growing data seldom recompile."""
    return max(SMALLEST, 1 << max(rows - 1, 0).bit_length())


class Setting(NamedTuple):
    """What is known before any data."""

    spec: Spec
    kind: Kind
    functions: int
    """S: how many functions are drawn."""
    waves: int
    """F: of how many waves each."""


def blank(setting: Setting, c: int, points: int) -> GaussianProcess:
    """The model before any data: unit scales, and functions that are all 0.  In NumPy: nothing is compiled.

    It has room for c centres, and its functions for `points`.
    """
    spec, kind, s, waves = setting
    f, k = feature_count(spec), spec.outputs
    single = lambda *sizes: np.zeros(sizes, np.float32)
    path = Path(np.zeros((s, k, points)), Waves(single(s, k, f, waves), single(s, k, waves), single(s, k, waves)))
    frame = Frame(np.zeros(f), np.zeros((k, f)), np.zeros((k, f, points)), np.zeros(k), np.ones(k))
    scalers = Scaler(np.zeros(f), np.ones(f)), Scaler(np.zeros(k), np.ones(k))
    numbers = np.ones((k, f)), np.ones(k), np.ones(k), np.zeros((k, f, c)), np.zeros((k, c)), np.zeros((k, c, c))
    expected = np.zeros((k, points))
    return jax.tree.map(jnp.asarray, GaussianProcess(*scalers, *numbers, frame, path, expected, spec, kind))


class Chance(NamedTuple):
    """What is random in S functions of k outputs."""

    waves: Waves
    """Functions of the prior with unit signal [k s]."""
    e: Float[np.ndarray, "k s c"]
    """Standard normal: noise of the rows, or jitter of the inducing points."""
    value: Float[np.ndarray, "k s c"]
    """Standard normal: values at the inducing points."""


def chances(setting: Setting, c: int, key: RandomKey) -> Chance:
    """On the host: to compile jax's generators would take longer than all the rest of a fit."""
    random, batch = generator(key), (setting.spec.outputs, setting.functions)
    waves = draw_waves(setting.kind, random, batch, setting.waves, feature_count(setting.spec))
    return Chance(waves, random.normal(size=(*batch, c)), random.normal(size=(*batch, c)))


class Functions(NamedTuple):
    """Functions drawn from the posteriors of all outputs, in scaled units."""

    centres: Float[Array, "k c f"]
    v: Float[Array, "k s c"]
    """What the covariances with the centres are multiplied by."""
    mean: Float[Array, "k c"]
    """The same of the posterior's mean."""
    waves: Waves
    """Of functions [k s], for unit signal."""


@eqx.filter_jit
def exact(kind: Kind, hyper: Hyper, rows: Rows) -> Posterior:
    """Given all rows, which are the centres."""
    return jax.vmap(lambda h, r: condition(kind, h, r), in_axes=(0, EACH_OUTPUT))(hyper, rows)


@eqx.filter_jit
def sparse(kind: Kind, hyper: Hyper, inducing: Float[Array, "k c f"], rows: Rows) -> Posterior:
    """Given all rows, through inducing points, which are the centres."""
    return jax.vmap(lambda h, z, r: sparse_condition(kind, h, z, r), in_axes=(0, 0, EACH_OUTPUT))(hyper, inducing, rows)


@eqx.filter_jit
@jax.default_matmul_precision("highest")
def exact_functions(hyper: Hyper, rows: Rows, posterior: Posterior, chance: Chance) -> Functions:
    """Out of an exact posterior: v = K^-1 (y - h - e), what is left for the kernel to explain when the function of the
    prior, h at the rows, and noise e have said their part."""

    def one(hyper: Hyper, rows: Rows, posterior: Posterior, chance: Chance) -> Functions:
        noise = jnp.exp(hyper.log_noise) / jnp.sqrt(jnp.maximum(rows.count, 1.0))
        wrong = _values(hyper, rows.z, chance.waves) + noise * chance.e
        v = posterior.weights - (wrong @ posterior.root.T) @ posterior.root
        return Functions(rows.z, v, posterior.weights, chance.waves)

    return jax.vmap(one, in_axes=(0, EACH_OUTPUT, 0, 0))(hyper, rows, posterior, chance)


@eqx.filter_jit
@jax.default_matmul_precision("highest")
def sparse_functions(
    kind: Kind, hyper: Hyper, inducing: Float[Array, "k c f"], rows: Rows, chance: Chance
) -> Functions:
    """Out of a sparse posterior: v = K_uu^-1 (u - h - e), with u one draw of the function at the inducing points, and e
    the jitter through which they see it."""

    def one(hyper: Hyper, z: Float[Array, "c f"], rows: Rows, chance: Chance) -> Functions:
        q = inducing_moments(kind, hyper, z, rows)
        h = _values(hyper, z, chance.waves) + jnp.sqrt(q.jitter) * chance.e
        v = (q.mean + chance.value @ q.spread.T - h @ q.inverse.T) @ q.inverse
        return Functions(z, jnp.where(q.ok, v, jnp.nan), q.mean @ q.inverse, chance.waves)

    return jax.vmap(one, in_axes=(0, 0, EACH_OUTPUT, 0))(hyper, inducing, rows, chance)


@eqx.filter_jit
def assembled(
    setting: Setting,
    scalers: tuple[Scaler, Scaler],
    hyper: Hyper,
    centres: Float[Array, "k c f"],
    posterior: Posterior,
    functions: Functions,
) -> GaussianProcess:
    """The model: from scaled inputs and targets to those of the data, and functions as plans want them."""
    inputs, outputs = scalers
    lengths, signal, noise = jnp.exp(hyper.log_lengths), jnp.exp(hyper.log_signal), jnp.exp(hyper.log_noise)
    arranged = lambda z: jnp.swapaxes(z / lengths[:, None, :], 1, 2)
    height, width = signal * outputs.std, lengths * inputs.std
    # A planner takes whole functions: their axis comes before that of outputs.
    first = lambda leaf: jnp.swapaxes(leaf, 0, 1)
    frequencies, phases, amplitudes = jax.tree.map(first, tuple(functions.waves))
    frequencies = jnp.swapaxes(frequencies, 2, 3) / width[:, :, None]
    waves = Waves(frequencies, phases, amplitudes * height[:, None])
    waves = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), waves)
    in_data = lambda v: v * (signal * height)[:, None]
    path = Path(in_data(first(functions.v)), waves)
    factor = stretch(setting.kind)
    stretched = factor * arranged(functions.centres)
    frame = Frame(inputs.mean, factor / width, stretched, outputs.mean, noise * outputs.std)
    numbers = (lengths, signal, noise, arranged(centres), posterior.weights, posterior.root)
    expected = in_data(functions.mean)
    return GaussianProcess(inputs, outputs, *numbers, frame, path, expected, setting.spec, setting.kind)


def _values(hyper: Hyper, z: Float[Array, "c f"], waves: Waves) -> Float[Array, "s c"]:
    """Of functions of the prior, at the centres."""
    z = z / jnp.exp(hyper.log_lengths)
    return jnp.exp(hyper.log_signal) * jax.lax.map(lambda w: heights(w, z), waves)
