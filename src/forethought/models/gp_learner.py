"""How a Gaussian process is fitted: on the host what is done once, compiled what is padded to a size bucket."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from forethought.core import AbstractLearner, AbstractSized
from forethought.math.finite import need_x64
from forethought.math.gp import Hyper, Posterior, Rows
from forethought.math.gp_condition import append_rows
from forethought.math.gp_host import one_thread
from forethought.math.gp_map import Found, Search, fit_hyper, fit_sparse
from forethought.math.kernels import Kind
from forethought.math.scaling import Scaler
from forethought.math.sparse_gp import choose_inducing
from forethought.models.gp import GaussianProcess
from forethought.models.gp_posterior import (
    SMALLEST,
    Setting,
    assembled,
    blank,
    bucket,
    chances,
    exact,
    exact_functions,
    sparse,
    sparse_functions,
)
from forethought.models.table import Table, standard, table
from forethought.types import Array, Dataset, Metrics, RandomKey, Spec

STATUSES = ("converged", "stalled", "iteration limit", "failed")
"""Of a search for hyperparameters, from good to bad."""
Scalers = tuple[Scaler, Scaler]
"""Of inputs and targets."""
REASONS = {
    "no rows": "there is no row of credible numbers",
    "no likelihood": "no hyperparameters have a finite likelihood",
    "no positive definite matrix": "no amount of jitter makes the matrix of its rows positive definite",
    "numbers beyond all bounds": "its numbers are beyond all bounds",
}
"""Why a fit has failed."""
APPEND_FROM = 256
"""Room for rows from which on new ones are appended to an exact posterior: in less, to condition afresh is as fast."""


class FittedGP(AbstractSized):
    """A Gaussian process, and when its hyperparameters were chosen."""

    model: GaussianProcess
    chosen: Int[Array, ""]
    """Rows of data when the hyperparameters were chosen; 0: never."""
    conditioned: Int[Array, ""]
    """Distinct rows that more can be appended to; 0: none, as the posterior is sparse or has jitter."""
    checksum: Int[Array, ""]
    """CRC-32 of the data that those stand for: more are appended to these very rows only."""

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> FittedGP:
        """With room for as many centres as a file has."""
        model = self.model
        sizes = [(0, *shapes[f"model.{name}"])[-1] for name in ("centres", "frame.centres")]
        if any(size != bucket(size) for size in sizes) or sizes[1] > sizes[0]:
            raise ValueError(
                f"a Gaussian process has {sizes[0]} centres, and {sizes[1]} for its functions; expected powers of two "
                f"from {SMALLEST} on, the second not larger than the first"
            )
        functions, _, waves = model.paths.waves.phases.shape
        return dataclasses.replace(self, model=blank(Setting(model.spec, model.kind, functions, waves), *sizes))


class Distinct(NamedTuple):
    """Distinct scaled rows, in the order in which they were first seen: `Rows` of every output, without padding."""

    z: Float[np.ndarray, "r f"]
    y: Float[np.ndarray, "k r"]
    """Means over duplicates."""
    count: Float[np.ndarray, " r"]
    within: Float[np.ndarray, " k"]
    """Sums of squares of duplicates around their means."""

    def rows(self, output: int) -> Rows:
        """Those of one output."""
        return Rows(self.z, self.y[output], self.count, self.within[output])

    def padded(self, size: int) -> Rows:
        """Stacked over outputs, with empty rows up to `size`."""
        more = size - len(self.z)
        z, y = np.pad(self.z, ((0, more), (0, 0))), np.pad(self.y, ((0, 0), (0, more)))
        return Rows(z, y, np.pad(self.count, (0, more)), self.within)


class GPLearner(AbstractLearner[FittedGP]):
    """The most probable hyperparameters, then the exact posterior; a sparse one when there are many rows."""

    kernel: Kind = "se"
    """se: infinitely smooth; matern52, matern32: two derivatives and one, for motions with kinks."""
    restarts: int = 2
    """Random starts of the first search for hyperparameters, beside a default one.  Later ones start from the last."""
    evaluations: int = 200
    """Budget of one start: how often it may look at the likelihood."""
    refit_every: int = 50
    """New rows after which the hyperparameters are chosen again; fewer are only taken into the posterior."""
    functions: int = 32
    """Functions drawn from the posterior with each fit, out of which planners are given theirs."""
    waves: int = 64
    """Of how many waves each is made; fewer make its values at several points less Gaussian together."""
    inducing: int = 128
    """Functions are drawn through at most so many inducing points (rounded up to 64, 128, 256, ...), greedily chosen
    rows: what a plan costs stops growing there.  While there are fewer distinct rows they are all taken."""
    sparse_above: int = 512
    """Distinct rows above which predictions and hyperparameters, too, are made through the inducing points."""

    def init(self, spec: Spec, key: RandomKey) -> FittedGP:
        """No data.  Raises `UserError` where jax has no 64-bit numbers."""
        del key
        need_x64("The Gaussian process")
        setting = Setting(spec, self.kernel, self.functions, self.waves)
        zero = jnp.zeros((), jnp.int64)
        return FittedGP(blank(setting, SMALLEST, SMALLEST), zero, zero, zero)

    def fit(self, fitted: FittedGP, data: Dataset, key: RandomKey) -> tuple[FittedGP, Metrics]:
        """Choose hyperparameters if it is time to, then condition on all rows and draw functions.

        Fits in between keep the scalers and hyperparameters, and append new rows to the posterior of the old ones: with
        3 outputs and 20 new rows a fit then takes 31 ms instead of 36 at 200 rows, and 41 instead of 77 at 500.  Rows
        with numbers that are not credible are left out.  A fit that cannot be done (no rows, a matrix that no jitter
        makes positive definite, numbers beyond all bounds) has `failed`: the model stays, `status` tells why, and
        `says` in a sentence.
        """
        need_x64("The Gaussian process")
        with one_thread():
            fitted, metrics = self._fit(fitted, data, key)
        if metrics["failed"]:
            metrics["says"] = f"The Gaussian process could not be fitted: {REASONS[metrics['status']]}."
        return fitted, metrics

    def _fit(self, fitted: FittedGP, data: Dataset, key: RandomKey) -> tuple[FittedGP, Metrics]:
        before, chosen = fitted.model, int(fitted.chosen)
        raw = table(before.spec, data)
        count = len(raw.z)
        metrics: Metrics = {"failed": True, "status": "no rows", "rows": count, "left_out": raw.left_out}
        if count == 0:
            return fitted, metrics
        k_search, k_draw = jr.split(key)
        due = chosen == 0 or not 0 <= count - chosen < self.refit_every
        scalers = (standard(raw.z), standard(raw.y, 1e-12)) if due else (before.inputs, before.outputs)
        rows = distinct(_scaled(scalers[0], raw.z), _scaled(scalers[1], raw.y))
        hyper = _hyper(before)
        if due:
            hyper, found = self._search(rows, hyper if chosen else None, k_search)
            metrics |= found
        grown = None if due or not self._exact(len(rows.z)) else _appended(self.kernel, fitted, hyper, rows, raw)
        model, posterior = self._condition(Choice(before.spec, scalers, hyper), rows, grown, k_draw)
        new = 0 if grown is None else len(rows.z) - int(fitted.conditioned)
        metrics |= {"distinct": len(rows.z), "appended": new, **_summary(model, posterior)}
        if metrics["status"] == "failed":
            return fitted, metrics | {"status": "no likelihood"}
        if not np.all(posterior.ok):
            return fitted, metrics | {"status": "no positive definite matrix"}
        if not _finite(model):
            return fitted, metrics | {"status": "numbers beyond all bounds"}
        metrics |= {"failed": False, "status": metrics["status"] if due else "hyperparameters kept"}
        plain = self._exact(len(rows.z)) and not np.any(posterior.jitter)
        conditioned = len(rows.z) if plain else 0
        numbers = (count if due else chosen, conditioned, _checksum(raw, count) if plain else 0)
        return FittedGP(model, *(jnp.asarray(number, jnp.int64) for number in numbers)), metrics

    def _exact(self, rows: int) -> bool:
        """Whether the posterior of so many distinct rows is."""
        return rows <= max(self.sparse_above, bucket(self.inducing))

    def _search(self, rows: Distinct, warm: Hyper | None, key: RandomKey) -> tuple[Hyper, Metrics]:
        """Stacked hyperparameters, and how the searches went."""
        how = Search(self.restarts if warm is None else 0, self.evaluations)
        outputs = len(rows.y)
        starts = [None] * outputs if warm is None else _unstacked(warm)
        found = [self._search_one(rows.rows(j), starts[j], how, k) for j, k in enumerate(jr.split(key, outputs))]
        hyper = Hyper(*(np.stack(parts) for parts in zip(*(one.hyper for one in found), strict=True)))
        total = max(float(rows.count.sum()), 1.0)
        return hyper, {
            "status": max((one.status for one in found), key=STATUSES.index),
            "evaluations": sum(one.evaluations for one in found),
            "log_likelihood": -sum(one.value for one in found) / total,
        }

    def _search_one(self, rows: Rows, warm: Hyper | None, how: Search, key: RandomKey) -> Found:
        if self._exact(len(rows.z)):
            return fit_hyper(self.kernel, rows, warm, how, key)
        return fit_sparse(self.kernel, rows, warm, how, key, bucket(self.inducing))[0]

    def _condition(
        self, choice: Choice, table: Distinct, grown: Posterior | None, key: RandomKey
    ) -> tuple[GaussianProcess, Posterior]:
        """The model given the rows.  `grown`: their exact posterior, if it is known already."""
        spec, scalers, hyper = choice
        setting, points = Setting(spec, self.kernel, self.functions, self.waves), bucket(self.inducing)
        rows = table.padded(bucket(len(table.z)))
        centres = np.broadcast_to(rows.z, (len(table.y), *rows.z.shape))
        if len(table.z) <= points:
            posterior = grown or exact(self.kernel, hyper, rows)
            chance = chances(setting, rows.z.shape[0], key)
            functions = exact_functions(hyper, rows, posterior, chance)
            return assembled(setting, scalers, hyper, centres, posterior, functions), posterior
        chosen = [choose_inducing(self.kernel, h, table.rows(j), points) for j, h in enumerate(_unstacked(hyper))]
        inducing = table.z[np.stack(chosen)]
        functions = sparse_functions(self.kernel, hyper, inducing, rows, chances(setting, points, key))
        if self._exact(len(table.z)):
            posterior = grown or exact(self.kernel, hyper, rows)
        else:
            centres, posterior = inducing, sparse(self.kernel, hyper, inducing, rows)
        return assembled(setting, scalers, hyper, centres, posterior, functions), posterior


class Choice(NamedTuple):
    """What a fit keeps until hyperparameters are chosen again."""

    spec: Spec
    scalers: Scalers
    hyper: Hyper
    """Stacked over outputs."""


def _appended(kind: Kind, fitted: FittedGP, hyper: Hyper, rows: Distinct, raw: Table) -> Posterior | None:
    """The stacked posterior of all rows, made from that of the model by appending the new ones; None where it has to be
    conditioned on all of them."""
    model, first = fitted.model, int(fitted.conditioned)
    if not 0 < first <= len(rows.z) or model.size != bucket(len(rows.z)) or model.size < APPEND_FROM:
        return None
    # A new row that repeats an old one counts there: then the old ones stand for more rows than they did.
    if _checksum(raw, int(rows.count[:first].sum())) != int(fitted.checksum):
        return None
    weights, roots, zero, true = np.asarray(model.weights), np.asarray(model.root), np.zeros(()), np.ones((), bool)
    grown = []
    for j, h in enumerate(_unstacked(hyper)):
        one = append_rows(kind, h, rows.rows(j), Posterior(weights[j], roots[j], zero, true), first)
        if one is None:
            return None
        grown.append(one)
    return Posterior(*(np.stack(parts) for parts in zip(*grown, strict=True)))


def _checksum(raw: Table, count: int) -> int:
    """CRC-32 of the first rows."""
    return zlib.crc32(raw.y[:count].tobytes(), zlib.crc32(raw.z[:count].tobytes()))


def distinct(z: Float[np.ndarray, "r f"], y: Float[np.ndarray, "r k"]) -> Distinct:
    """Rows of exactly the same inputs as one, which are what makes K singular otherwise."""
    _, first, group = np.unique(z + 0.0, axis=0, return_index=True, return_inverse=True)  # + 0.0: there is one zero
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group = rank[group.reshape(-1)]
    count = np.bincount(group).astype(np.float64)
    mean = np.stack([np.bincount(group, column) for column in y.T]) / count
    # A row that stands alone keeps exactly what it said.
    mean = np.where(count == 1.0, y[first[order]].T, mean)
    return Distinct(z[first[order]], mean, count, np.sum((y.T - mean[:, group]) ** 2, axis=1))


def _scaled(scaler: Scaler, values: np.ndarray) -> np.ndarray:
    """All rows in standard deviations."""
    return (values - np.asarray(scaler.mean)) / np.asarray(scaler.std)


def _hyper(model: GaussianProcess) -> Hyper:
    """That of the model, stacked, in NumPy."""
    return Hyper(*(np.log(np.asarray(part)) for part in (model.lengths, model.signal, model.noise)))


def _unstacked(hyper: Hyper) -> list[Hyper]:
    """One for each output."""
    return [Hyper(*(np.asarray(part[j]) for part in hyper)) for j in range(len(hyper.log_signal))]


def _finite(model: GaussianProcess) -> bool:
    """Whether every number of the model is."""
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def _summary(model: GaussianProcess, posterior: Posterior) -> Metrics:
    """What there is to see of a posterior: its size, its jitter, and length-scales in standard deviations."""
    lengths = np.asarray(model.lengths)
    return {
        "bucket": model.size,
        "jitter": float(np.max(posterior.jitter)),
        "shortest_length": float(lengths.min()),
        "longest_length": float(lengths.max()),
        "noise": np.asarray(model.noise * model.outputs.std).tolist(),
        "signal_to_noise": (np.asarray(model.signal) / np.asarray(model.noise)).tolist(),
    }
