"""The model that is chosen by the data: the Gaussian process while they are few, the ensemble when they are many.

An exact Gaussian process says more from fifty rows than networks do; networks say more from thousands, and what they
cost does not grow.  Where the change comes depends on the system, so it is found by a contest: every new row is
predicted by both before either has learned from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractDynamics, AbstractLearner, AbstractSized
from forethought.math.angles import wrap_components
from forethought.math.finite import need_x64
from forethought.models.ensemble import Ensemble, EnsembleLearner, FittedEnsemble
from forethought.models.gp import GaussianProcess
from forethought.models.gp_learner import FittedGP, GPLearner
from forethought.models.table import table, usable
from forethought.types import Array, Dataset, Metrics, RandomKey, Spec

NAMES = ("the Gaussian process", "the ensemble")
MOST = 10.0
"""Nats by which one output of one row can speak for a model: an outlier must not decide."""


class FittedAuto(AbstractSized):
    """Both models, and how the contest stands."""

    gp: FittedGP
    ensemble: FittedEnsemble
    choice: Int[np.ndarray, ""]
    """0: the Gaussian process, 1: the ensemble."""
    seen: Int[np.ndarray, ""]
    """Rows of the data at the last fit."""
    both: Bool[np.ndarray, ""]
    """Whether both models have learned from all of them."""
    contested: Int[np.ndarray, ""]
    """Rows that both models have predicted before learning from them."""
    lead: Float[np.ndarray, ""]
    """Sum over those rows of log p(ensemble) - log p(Gaussian process), each at most `MOST` nats per output.  Outputs
    that have never varied have no say: how small a noise a model dares to give them is no merit."""

    @property
    def model(self) -> AbstractDynamics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The one that was chosen."""
        return self.ensemble.model if int(self.choice) else self.gp.model

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> FittedAuto:
        """With room for the rows that the Gaussian process had."""
        own = {name.removeprefix("gp."): shape for name, shape in shapes.items() if name.startswith("gp.")}
        return dataclasses.replace(self, gp=self.gp.resized(own))


class AutoLearner(AbstractLearner[FittedAuto]):
    """The Gaussian process up to `few` rows; then both, until the ensemble predicts new rows better; from `many` rows
    on the ensemble in any case.

    A Gaussian process that cannot be fitted to the rows gives way to the ensemble at once, if that can be; an ensemble
    that cannot be is not chosen.  Once the ensemble has been chosen it stays.  Every choice is said aloud.
    """

    gp: GPLearner = GPLearner()
    ensemble: EnsembleLearner = EnsembleLearner()
    few: int = 300
    """Rows up to which the Gaussian process is not contested."""
    many: int = 3000
    """Rows from which on the ensemble is taken without a contest: what it costs does not grow."""
    trial: int = 100
    """New rows that both must have predicted before the contest is decided."""

    def init(self, spec: Spec, key: RandomKey) -> FittedAuto:
        """Both unfitted, the Gaussian process chosen.  Raises `UserError` where jax has no 64-bit numbers."""
        need_x64("The model auto")
        k_gp, k_ensemble = jr.split(key)
        zero = np.zeros((), np.int64)
        gp, ensemble = self.gp.init(spec, k_gp), _not_yet(self.ensemble, spec, k_ensemble)
        none = np.zeros((), bool)
        return FittedAuto(gp, ensemble, zero, zero, none, zero, np.zeros(()))  # pyright: ignore[reportCallIssue]

    def fit(self, fitted: FittedAuto, data: Dataset, key: RandomKey) -> tuple[FittedAuto, Metrics]:
        """Score what both say about the new rows, decide, and fit whoever may be needed.

        The metrics are those of the model that was chosen; `model` names it, `lead` is that of the ensemble in nats a
        row, and `says` a sentence where a choice was made.
        """
        need_x64("The model auto")
        count, before, first = int(data.count), bool(fitted.choice), int(fitted.seen) == 0
        k_gp, k_ensemble, k_rehearsal = jr.split(key, 3)
        if first and self.few < count < self.many:
            fitted = self._rehearsed(fitted, data, k_rehearsal)
        fitted = _scored(fitted, data)
        choice = before or count >= self.many or self._won(fitted)
        gp, ensemble = fitted.gp, fitted.ensemble
        found: dict[str, Metrics] = {}
        if choice or count > self.few:
            ensemble, found["ensemble"] = self.ensemble.fit(ensemble, data, k_ensemble)
        # perhaps it never was fitted, and then it is random numbers
        refused = choice and not before and _failed(found["ensemble"])
        if not choice or refused:
            gp, found["gp"] = self.gp.fit(gp, data, k_gp)
        gave_way = not choice and _failed(found["gp"]) and found["gp"]["rows"] > 0
        if gave_way and "ensemble" not in found:
            ensemble, found["ensemble"] = self.ensemble.fit(ensemble, data, k_ensemble)
        choice = not _failed(found["ensemble"]) if gave_way else choice and not refused
        metrics = found[_NAMES[choice]] | {"model": _NAMES[choice]}
        both = np.asarray(len(found) == 2 and not any(_failed(each) for each in found.values()))
        numbers = {"seen": np.asarray(count, np.int64), "both": both, "choice": np.asarray(int(choice), np.int64)}
        fitted = dataclasses.replace(fitted, gp=gp, ensemble=ensemble, **numbers)
        if int(fitted.contested):
            metrics["lead"] = float(fitted.lead) / int(fitted.contested)
        if first or choice != before or refused:
            metrics["says"] = self._sentence(fitted, count, gave_way=gave_way and choice, refused=refused)
        return fitted, metrics

    def chosen(self, fitted: FittedAuto) -> AbstractLearner:
        """Whoever made the model of that state."""
        return self.ensemble if bool(fitted.choice) else self.gp

    def _rehearsed(self, fitted: FittedAuto, data: Dataset, key: RandomKey) -> FittedAuto:
        """After a fit of both to the first four fifths of the rows, where a run begins with many: the last fifth are
        then the new ones."""
        part = dataclasses.replace(data, count=np.asarray(4 * int(data.count) // 5, np.int64))
        k_gp, k_ensemble = jr.split(key)
        gp, by_gp = self.gp.fit(fitted.gp, part, k_gp)
        ensemble, by_ensemble = self.ensemble.fit(fitted.ensemble, part, k_ensemble)
        both = np.asarray(not _failed(by_gp) and not _failed(by_ensemble))
        return dataclasses.replace(fitted, gp=gp, ensemble=ensemble, seen=part.count, both=both)

    def _won(self, fitted: FittedAuto) -> bool:
        """Whether the ensemble has predicted enough rows, and those better."""
        return int(fitted.contested) >= self.trial and float(fitted.lead) > 0.0

    def _sentence(self, fitted: FittedAuto, count: int, *, gave_way: bool, refused: bool) -> str:
        """Which model it is, and why."""
        gp, ensemble = NAMES
        if refused:
            return f"Model: {gp}, though there are {count} rows of data: {ensemble} cannot be fitted to them."
        if not bool(fitted.choice):
            return f"Model: {gp}, as there are {count} rows of data; {ensemble} competes from {self.few} on."
        if gave_way:
            return f"Model: {ensemble} from now on, as {gp} cannot be fitted to the {count} rows of data."
        if not self._won(fitted):
            return f"Model: {ensemble}, as there are {count} rows of data, and its cost does not grow with them."
        ahead = float(fitted.lead) / int(fitted.contested)
        return (
            f"Model: {ensemble} from now on ({count} rows of data): it predicted {int(fitted.contested)} new rows "
            f"better than {gp}, by {ahead:.2f} nats a row."
        )


_NAMES = ("gp", "ensemble")
"""In metrics."""


def _not_yet(learner: EnsembleLearner, spec: Spec, key: RandomKey) -> FittedEnsemble:
    """Members that are not healthy, all zeros: the first fit makes them anew.

    To compile what makes random members takes seconds, and most runs never need them.
    """
    outline = eqx.filter_eval_shape(learner.init, spec, key)
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: key if is_key(leaf) else jnp.zeros(leaf.shape, leaf.dtype), outline)


def _failed(metrics: Metrics) -> bool:
    return bool(np.asarray(metrics.get("failed", False)))


def _scored(fitted: FittedAuto, data: Dataset) -> FittedAuto:
    """With the new rows counted, if both models have learned from all the others."""
    first, count = int(fitted.seen), int(data.count)
    if bool(fitted.choice) or not bool(fitted.both) or count <= first:
        return fitted
    spec = fitted.ensemble.model.members.spec
    changes = table(spec, data).y
    if len(changes) == 0:
        return fitted
    varies = np.ptp(changes, axis=0) > 1e-12 * np.abs(changes).max(axis=0)
    size = max(32, 1 << (count - first - 1).bit_length())
    take = lambda column: _padded(np.asarray(column)[first:count], size)
    extras = np.stack([np.asarray(data.reward), np.asarray(data.terminated, np.float64)], axis=1)[:, : spec.extras]
    rows = (take(data.x), take(data.u), np.concatenate([take(data.y), take(extras)], axis=1))
    gaps = np.asarray(_gaps((fitted.gp.model, fitted.ensemble.model), *rows))[: count - first, varies]
    # What one of them has no number for speaks for nobody, nor does a row that nobody learns from.
    heard = usable(data, spec.extras)[first:count] & ~np.isnan(gaps).any(axis=1)
    lead = float(fitted.lead) + float(np.clip(gaps[heard], -MOST, MOST).sum())
    contested = np.asarray(int(fitted.contested) + int(heard.sum()), np.int64)
    return dataclasses.replace(fitted, contested=contested, lead=np.asarray(lead))


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows with zeros below."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


@eqx.filter_jit
def _gaps(
    models: tuple[GaussianProcess, Ensemble],
    x: Float[Array, "B n"],
    u: Float[Array, "B m"],
    y: Float[Array, "B k"],
) -> Float[Array, "B k"]:
    """log p(y|x,u) of the second model minus that of the first, row by row and output by output, float64."""
    spec = models[1].members.spec

    def says(model: AbstractDynamics, x: Array, u: Array, y: Array) -> Array:
        found: Any = model.predict(x, u, jnp.zeros((), jnp.int32))
        off = wrap_components(y - found.mean.astype(jnp.float64), spec.angles)
        std = found.std.astype(jnp.float64)
        return -0.5 * (off / std) ** 2 - jnp.log(std)

    first, second = (jax.vmap(lambda x, u, y, m=model: says(m, x, u, y))(x, u, y) for model in models)
    return second - first
