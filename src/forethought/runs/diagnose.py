"""How wrong the model of a run is, on episodes that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.random as jr
import numpy as np

from forethought.core import AbstractDynamics, AbstractLearner
from forethought.math.dataset import append, empty, rows
from forethought.math.diagnosis import Model, data_scale
from forethought.math.finite import nan_appeared
from forethought.math.judgement import judge
from forethought.models.auto import AutoLearner
from forethought.planners.mpc import MPC, PlanOnce
from forethought.runs.diagnosis_text import sentences
from forethought.runs.directory import strict
from forethought.runs.evaluation import starts_for
from forethought.runs.experiment import OpenRun, algorithm_name
from forethought.runs.files import replace_durably, seal, storing
from forethought.runs.precision import in_64_bit
from forethought.types import Dataset, Spec, Trajectory, UserError

FILE = "diagnosis.json"
MOST_FITS = 5
"""How often a learner is fitted anew at most: most go on from their last fit, and a run has many."""
SEED = 0xD1A6


class HeldOut(NamedTuple):
    """What a model learns from, and what it is judged on."""

    data: Dataset
    episodes: list[Trajectory]
    whole: bool
    """Whether only whole episodes were held out, and not the last part of the only one."""


@in_64_bit
def diagnose_run(run: OpenRun, held_out: float = 0.2, fresh: int | None = None, horizon: int = 20) -> dict[str, Any]:
    """The diagnosis of a run's model as strict JSON, `sentences` last.

    The learner is fitted anew without the last episodes, at least `held_out` of all steps, and judged on them; or, with
    `fresh`, the saved model is judged on so many new episodes of the saved controller from the task's evaluation
    starts.  See math/judgement.py for the quantities.  Raises `UserError` where there is nothing to judge.
    """
    _check(held_out, fresh, horizon)
    key = jr.key(SEED)
    if fresh is None:
        model, data, episodes, about = _fitted_anew(run, held_out)
    else:
        if int(run.state.fits) == 0:
            raise UserError(f"{run.directory.path} has no fitted model yet: there is nothing to judge.")
        model, data = run.state.fitted.model, run.state.data
        policy, starts = run.algorithm.policy(run.task, run.state), starts_for(run.task, fresh, None)
        episodes = run.task.world.fresh().rollouts(policy, key, starts, run.task.limit)
        about = {"mode": "fresh", "starts_of_episodes": starts, "fits": int(run.state.fits)}
    seen = np.asarray(data.x)[: int(data.count)]
    judged = Model(model, run.task.cost, run.task.spec, data_scale(seen))
    found = judge(judged, episodes, horizon, _planned(run), [SEED, run.experiment.seed % 2**32])
    steps = sum(e.length for e in episodes)
    head = {
        "run": str(run.directory.path),
        "name": run.name,
        "env_steps": int(run.state.steps),
        "task": run.task.name,
        "algorithm": algorithm_name(run.algorithm),
        "model": type(model).__name__,
        **about,
        "training_steps": len(seen),
        "judged_steps": steps,
        "judged_episodes": len(episodes),
        "components": [f"x{i}" for i in range(run.task.spec.n)],
    }
    said = strict(head | found)
    return said | {"sentences": sentences(said)}


def write(run: OpenRun, found: dict[str, Any]) -> None:
    """Put the diagnosis into the run directory.  Raises `StorageError`."""
    file = run.directory.path / FILE
    with storing(str(file)):
        replace_durably(file, seal(found))


def _check(held_out: float, fresh: int | None, horizon: int) -> None:
    if not 0.0 < held_out < 1.0:
        raise UserError(f"held-out is {held_out}; it must be a share of the steps, larger than 0 and less than 1.")
    if fresh is not None and not 1 <= fresh <= 1000:
        raise UserError(f"fresh is {fresh}; it must be a whole number of episodes, at least 1 and at most 1000.")
    if not 1 <= horizon <= 1000:
        raise UserError(f"horizon is {horizon}; it must be a whole number of steps, at least 1 and at most 1000.")


def _planned(run: OpenRun) -> int:
    """How far the run's plans look ahead."""
    policy = run.algorithm.policy(run.task, run.state)
    return policy.planning.horizon if isinstance(policy, (MPC, PlanOnce)) else 20


def _fitted_anew(run: OpenRun, share: float) -> tuple[AbstractDynamics, Dataset, list[Trajectory], dict[str, Any]]:
    learner = getattr(run.algorithm, "learner", None)
    name = type(run.algorithm).__name__
    if not isinstance(learner, AbstractLearner):
        raise UserError(
            f"{name} has no field `learner` that could be fitted anew: give --fresh N to judge its model as it is."
        )
    if isinstance(learner, AutoLearner):  # with fewer rows it might choose otherwise
        learner = learner.chosen(run.state.fitted)
    parts = hold_out(run.state.data, share, str(run.directory.path))
    key = jr.fold_in(jr.key(run.experiment.seed), SEED)
    before = fitted = learner.init(run.task.spec, key)
    fits = min(max(int(run.state.fits), 1), MOST_FITS)
    for i in range(fits):
        fitted, metrics = learner.fit(fitted, parts.data, jr.fold_in(key, i))
        if bool(metrics.get("failed", False)) or nan_appeared(fitted, before):
            raise UserError(
                f"The model could not be fitted to the first {int(parts.data.count)} steps of {run.directory.path} "
                "alone: hold out less, or give --fresh N to judge the saved model."
            )
    about = {"mode": "held-out", "whole_episodes": parts.whole, "fits": fits}
    return fitted.model, parts.data, parts.episodes, about


def hold_out(data: Dataset, share: float, where: str) -> HeldOut:
    """The last episodes apart, as few as make up the share of all rows but at least one, and not all of them; of a
    single episode its last part."""
    count = int(data.count)
    if count < 2:
        had = "no finished step" if count == 0 else "1 finished step"
        raise UserError(
            f"{where} has {had}; at least 2 are needed, one to learn from and one to judge the model by. "
            "'forethought resume' with more --steps makes more."
        )
    ids = np.asarray(data.episode)[:count]
    order = list(dict.fromkeys(ids.tolist()))
    pieces = [rows(data, np.flatnonzero(ids == i)) for i in order]
    if len(pieces) == 1:
        kept = min(max(count - int(np.ceil(share * count)), 1), count - 1)
        first, last = (rows(data, np.arange(*span)) for span in ((0, kept), (kept, count)))
        return HeldOut(_dataset(data, order, [first]), [last], whole=False)
    cut, held = len(pieces) - 1, pieces[-1].length
    while cut > 1 and held < share * count:
        cut -= 1
        held += pieces[cut].length
    return HeldOut(_dataset(data, order, pieces[:cut]), pieces[cut:], whole=True)


def _dataset(like: Dataset, ids: Sequence[int], pieces: Sequence[Trajectory]) -> Dataset:
    """A dataset of these episodes alone."""
    out = empty(Spec(np.asarray(like.x).shape[1], np.asarray(like.u).shape[1]))
    for number, piece in zip(ids, pieces, strict=False):
        out = append(out, piece, number)
    return out
