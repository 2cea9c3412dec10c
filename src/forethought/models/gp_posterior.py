"""From scaled rows and hyperparameters to a Gaussian process: what a fit does once it has chosen.

In NumPy, stacked over outputs and padded: nothing is compiled but what plans with the model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.features import Waves, draw_waves, heights, stretch
from forethought.math.gp import Hyper, Posterior, Rows
from forethought.math.gp_condition import condition
from forethought.math.kernels import Kind
from forethought.math.scaling import Scaler, feature_count
from forethought.math.sparse_gp import inducing_moments, sparse_condition
from forethought.models.gp import Frame, GaussianProcess, Path
from forethought.models.table import generator
from forethought.types import RandomKey, Spec

SMALLEST = 64
"""Rows there is room for at the least."""


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

    centres: Float[np.ndarray, "k c f"]
    v: Float[np.ndarray, "k s c"]
    """What the covariances with the centres are multiplied by."""
    mean: Float[np.ndarray, "k c"]
    """The same of the posterior's mean."""
    waves: Waves
    """Of functions [k s], for unit signal."""


def outputs_of(hyper: Hyper, rows: Rows) -> list[tuple[Hyper, Rows]]:
    """What belongs to each output."""
    each = range(len(hyper.log_signal))
    return [(Hyper(*(part[j] for part in hyper)), rows._replace(y=rows.y[j], within=rows.within[j])) for j in each]


def exact(kind: Kind, hyper: Hyper, rows: Rows) -> Posterior:
    """Given all rows, which are the centres."""
    return stacked([condition(kind, h, r) for h, r in outputs_of(hyper, rows)])


def sparse(kind: Kind, hyper: Hyper, inducing: Float[np.ndarray, "k c f"], rows: Rows) -> Posterior:
    """Given all rows, through inducing points, which are the centres."""
    each = zip(inducing, outputs_of(hyper, rows), strict=True)
    return stacked([sparse_condition(kind, h, z, r) for z, (h, r) in each])


def stacked(posteriors: list[Posterior]) -> Posterior:
    """Of all outputs."""
    return Posterior(*(np.stack(parts) for parts in zip(*posteriors, strict=True)))


def exact_functions(hyper: Hyper, rows: Rows, posterior: Posterior, chance: Chance) -> Functions:
    """Out of an exact posterior: v = K^-1 (y - h - e), what is left for the kernel to explain when the function of the
    prior, h at the rows, and noise e have said their part."""
    v = []
    for j, (h, r) in enumerate(outputs_of(hyper, rows)):
        noise = np.exp(h.log_noise) / np.sqrt(np.maximum(r.count, 1.0))
        wrong = _values(h, np.asarray(r.z), chance.waves, j) + noise * chance.e[j]
        v.append(posterior.weights[j] - (wrong @ posterior.root[j].T) @ posterior.root[j])
    centres = np.broadcast_to(rows.z, (len(v), *rows.z.shape))
    return Functions(centres, np.stack(v), np.asarray(posterior.weights), chance.waves)


def sparse_functions(
    kind: Kind, hyper: Hyper, inducing: Float[np.ndarray, "k c f"], rows: Rows, chance: Chance
) -> Functions:
    """Out of a sparse posterior: v = K_uu^-1 (u - h - e), with u one draw of the function at the inducing points, and e
    the jitter through which they see it."""
    v, mean = [], []
    for j, (z, (hyp, r)) in enumerate(zip(inducing, outputs_of(hyper, rows), strict=True)):
        q = inducing_moments(kind, hyp, z, r)
        h = _values(hyp, z, chance.waves, j) + np.sqrt(q.jitter) * chance.e[j]
        found = (q.mean + chance.value[j] @ q.spread.T - h @ q.inverse.T) @ q.inverse
        v.append(found if q.ok else np.full_like(found, np.nan))
        mean.append(q.mean @ q.inverse)
    return Functions(inducing, np.stack(v), np.stack(mean), chance.waves)


def assembled(
    setting: Setting,
    scalers: tuple[Scaler, Scaler],
    hyper: Hyper,
    centres: Float[np.ndarray, "k c f"],
    posterior: Posterior,
    functions: Functions,
) -> GaussianProcess:
    """The model: from scaled inputs and targets to those of the data, and functions as plans want them."""
    inputs, outputs = (Scaler(np.asarray(scaler.mean), np.asarray(scaler.std)) for scaler in scalers)
    lengths, signal, noise = np.exp(hyper.log_lengths), np.exp(hyper.log_signal), np.exp(hyper.log_noise)
    arranged = lambda z: np.swapaxes(z / lengths[:, None, :], 1, 2)
    height, width = signal * outputs.std, lengths * inputs.std
    # A planner takes whole functions: their axis comes before that of outputs.
    first = lambda leaf: np.swapaxes(leaf, 0, 1)
    frequencies, phases, amplitudes = (first(np.asarray(leaf)) for leaf in functions.waves)
    frequencies = np.swapaxes(frequencies, 2, 3) / width[:, :, None]
    waves = Waves(*(leaf.astype(np.float32) for leaf in (frequencies, phases, amplitudes * height[:, None])))
    in_data = lambda v: v * (signal * height)[:, None]
    path = Path(in_data(first(functions.v)), waves)
    factor = stretch(setting.kind)
    stretched = factor * arranged(functions.centres)
    frame = Frame(inputs.mean, factor / width, stretched, outputs.mean, noise * outputs.std)
    numbers = (lengths, signal, noise, arranged(centres), posterior.weights, posterior.root)
    expected = in_data(functions.mean)
    model = GaussianProcess(inputs, outputs, *numbers, frame, path, expected, setting.spec, setting.kind)
    return jax.tree.map(jnp.asarray, model)


def _values(hyper: Hyper, z: Float[np.ndarray, "c f"], waves: Waves, output: int) -> Float[np.ndarray, "s c"]:
    """Of functions of the prior for one output, at the centres."""
    z, each = z / np.exp(hyper.log_lengths), Waves(*(leaf[output] for leaf in waves))
    return np.exp(hyper.log_signal) * np.stack([heights(Waves(*one), z) for one in zip(*each, strict=True)])
