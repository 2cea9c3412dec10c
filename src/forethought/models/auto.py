"""The model that is chosen by the data: the Gaussian process while they are few, the ensemble when they are many.

An exact Gaussian process says more from fifty rows than networks do; networks say more from thousands, and what they
cost does not grow.  Where the change comes depends on the system, so it is found by a contest: every new row is
predicted by both before either has learned from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractDynamics, AbstractLearner, AbstractSized
from forethought.math.finite import need_x64
from forethought.models.ensemble import EnsembleLearner, FittedEnsemble
from forethought.models.gp_learner import FittedGP, GPLearner
from forethought.types import Array, Dataset, Metrics, RandomKey, Spec

NAMES = ("the Gaussian process", "the ensemble")
MOST = 10.0
"""Nats per output by which one row can speak for a model: one outlier must not decide."""


class FittedAuto(AbstractSized):
    """Both models, and how the contest stands."""

    gp: FittedGP
    ensemble: FittedEnsemble
    choice: Int[np.ndarray, ""]
    """0: the Gaussian process, 1: the ensemble."""
    seen: Int[np.ndarray, ""]
    """Rows of the data at the last fit."""
    both: Bool[np.ndarray, ""]
    """Whether the ensemble, too, was fitted then."""
    contested: Int[np.ndarray, ""]
    """Rows that both models have predicted before learning from them."""
    lead: Float[np.ndarray, ""]
    """Sum over those rows of log p(ensemble) - log p(Gaussian process), each at most `MOST` nats per output."""

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

    Once the ensemble has been chosen it stays.  Every choice is said aloud.
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
        gp, ensemble = self.gp.init(spec, k_gp), self.ensemble.init(spec, k_ensemble)
        return FittedAuto(gp, ensemble, zero, zero, np.zeros((), bool), zero, np.zeros(()))

    def fit(self, fitted: FittedAuto, data: Dataset, key: RandomKey) -> tuple[FittedAuto, Metrics]:
        """Score what both say about the new rows, decide, and fit whoever may be needed."""
        count, before, first = int(data.count), int(fitted.choice), int(fitted.seen) == 0
        if first and self.few < count < self.many:
            fitted = self._rehearsed(fitted, data, jr.fold_in(key, 1))
        k_gp, k_ensemble = jr.split(key)
        fitted = self._decided(_scored(fitted, data), count)
        found: dict[str, Metrics] = {}
        gp, ensemble = fitted.gp, fitted.ensemble
        if int(fitted.choice) == 0:
            gp, found["gp"] = self.gp.fit(gp, data, k_gp)
        if int(fitted.choice) == 1 or count > self.few:
            ensemble, found["ensemble"] = self.ensemble.fit(ensemble, data, k_ensemble)
        seen = np.asarray(count, np.int64)
        both = np.asarray("ensemble" in found)
        fitted = dataclasses.replace(fitted, gp=gp, ensemble=ensemble, seen=seen, both=both)
        metrics = found["ensemble" if int(fitted.choice) else "gp"] | {"model": ("gp", "ensemble")[int(fitted.choice)]}
        if int(fitted.contested):
            metrics["lead"] = float(fitted.lead) / int(fitted.contested)
        if first or int(fitted.choice) != before:
            metrics["says"] = self._sentence(fitted, count)
        return fitted, metrics

    def _rehearsed(self, fitted: FittedAuto, data: Dataset, key: RandomKey) -> FittedAuto:
        """After a fit of both to the first four fifths of the rows, where a run begins with many: the last fifth are
        then the new ones."""
        part = dataclasses.replace(data, count=np.asarray(4 * int(data.count) // 5, np.int64))
        k_gp, k_ensemble = jr.split(key)
        gp, _ = self.gp.fit(fitted.gp, part, k_gp)
        ensemble, _ = self.ensemble.fit(fitted.ensemble, part, k_ensemble)
        return dataclasses.replace(fitted, gp=gp, ensemble=ensemble, seen=part.count, both=np.ones((), bool))

    def _decided(self, fitted: FittedAuto, count: int) -> FittedAuto:
        """With the choice made; the ensemble stays."""
        won = int(fitted.contested) >= self.trial and float(fitted.lead) > 0.0
        choice = int(fitted.choice) == 1 or count >= self.many or won
        return dataclasses.replace(fitted, choice=np.asarray(int(choice), np.int64))

    def _sentence(self, fitted: FittedAuto, count: int) -> str:
        """Which model it is, and why."""
        if int(fitted.choice) == 0:
            return f"Model: {NAMES[0]}, as there are {count} rows of data; {NAMES[1]} competes from {self.few} on."
        if int(fitted.contested) < self.trial or float(fitted.lead) <= 0.0:
            return f"Model: {NAMES[1]}, as there are {count} rows of data, and its cost does not grow with them."
        ahead = float(fitted.lead) / int(fitted.contested)
        return (
            f"Model: {NAMES[1]} from now on ({count} rows of data): it predicted {int(fitted.contested)} new rows "
            f"better than {NAMES[0]}, by {ahead:.2f} nats a row."
        )


def _scored(fitted: FittedAuto, data: Dataset) -> FittedAuto:
    """With the new rows counted, if both models have learned from all the others."""
    first, count = int(fitted.seen), int(data.count)
    compete = int(fitted.choice) == 0 and bool(fitted.both)
    if not compete or count <= first:
        return fitted
    size = max(32, 1 << (count - first - 1).bit_length())
    take = lambda column: _padded(np.asarray(column)[first:count], size)
    spec = fitted.ensemble.model.members.spec
    extras = np.stack([np.asarray(data.reward), np.asarray(data.terminated, np.float64)], axis=1)[:, : spec.extras]
    rows = (take(data.x), take(data.u), np.concatenate([take(data.y), take(extras)], axis=1))
    gap = np.asarray(_gaps((fitted.gp.model, fitted.ensemble.model), *rows))[: count - first]
    # What neither can say anything finite about speaks for nobody.
    gap = np.where(np.isfinite(gap), np.clip(gap, -MOST * spec.outputs, MOST * spec.outputs), 0.0)
    contested = np.asarray(int(fitted.contested) + count - first, np.int64)
    return dataclasses.replace(fitted, contested=contested, lead=np.asarray(float(fitted.lead) + float(gap.sum())))


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows with zeros below."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


@eqx.filter_jit
def _gaps(
    models: tuple[AbstractDynamics, AbstractDynamics],
    x: Float[Array, "B n"],
    u: Float[Array, "B m"],
    y: Float[Array, "B k"],
) -> Float[Array, " B"]:
    """log p(y|x,u) of the second model minus that of the first, row by row."""

    def says(model: AbstractDynamics, x: Array, u: Array, y: Array) -> Array:
        found = model.predict(x, u, jnp.zeros((), jnp.int32))
        return found.log_prob(y.astype(found.mean.dtype)).astype(jnp.float64)

    first, second = (jax.vmap(lambda x, u, y, m=model: says(m, x, u, y))(x, u, y) for model in models)
    return second - first
