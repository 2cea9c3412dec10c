"""One finished run, as its files tell it: what its controller is worth, and how it came there.

Read without jax: config.json, the newest manifest, metrics.jsonl and the evaluations.  Each is checked by its own seal,
and what is not as it was written is a reason not to count the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from forethought.errors import UserError
from forethought.runs.directory import RunDirectory, existing
from forethought.runs.evaluations import evaluation_files, read_evaluation
from forethought.runs.files import Damaged, parse_json, read_sealed
from forethought.runs.metrics import check_lines, intact

RECENT = 5
"""Training episodes whose mean return stands in for an evaluation."""
LARGEST = 1e100
"""The largest return, or the smallest with a minus, that is compared."""


class NotCounted(Exception):
    """Why a run is left out, in words."""


class Point(NamedTuple):
    """What the controller was worth after so many environment steps."""

    steps: int
    value: float


class Evaluated(NamedTuple):
    """An evaluation from the task's fixed starts."""

    steps: int
    value: float
    starts: tuple[str, ...]
    successes: int | None
    threshold: float | None
    task: str


@dataclass(frozen=True)
class Record:
    """One finished run."""

    path: Path
    name: str
    recipe: dict[str, Any]
    """The experiment of config.json."""
    seed: int
    env_steps: int
    seconds: float
    """Wall clock of the run, evaluations while it went on included."""
    evaluations: tuple[Evaluated, ...]
    """In the order of their steps; those of `evaluate --best` are none, as the controller was chosen by its returns."""
    episodes: int
    """Finished training episodes."""
    training: tuple[Point, ...]
    """Mean return of the last five training episodes, from the fifth on; of a run with fewer, one mean of them all."""
    training_fault: str | None
    """Why there is no such curve, if there is none."""
    machine: str
    version: str

    @property
    def final(self) -> Evaluated | None:
        """The evaluation of the controller that the run ended with, if one was made."""
        last = self.evaluations[-1] if self.evaluations else None
        return last if last is not None and last.steps == self.env_steps else None


def read_record(path: Path) -> Record:
    """The run in a directory.  Raises `NotCounted`."""
    try:
        return _read(existing(path))
    except UserError as error:
        raise NotCounted(str(error)) from error
    except Damaged as error:
        raise NotCounted(f"damaged: {error} 'forethought check {path}' lists all that is.") from error


def _read(run: RunDirectory) -> Record:
    name, recipe = run.read_config()
    notes = _newest_notes(run, name)
    steps, budget, returns = notes.get("env_steps"), recipe.get("steps"), notes.get("returns")
    if type(steps) is not int or not isinstance(returns, list) or type(notes.get("seconds")) not in (int, float):
        raise Damaged("the newest checkpoint's manifest.json is not as this version writes it.")
    if notes.get("finished") is not True:
        raise NotCounted(f"unfinished: {steps} of {budget} steps; go on by: forethought resume {run.path}")
    if not all(type(r) in (int, float) and math.isfinite(r) for r in returns):
        raise NotCounted("it has a training return that is not a finite number.")
    seed = recipe.get("seed")
    if type(seed) is not int:
        raise Damaged("config.json does not say the seed.")
    training, fault = _training(run, notes, returns)
    machine, version = _where(run)
    return Record(
        path=run.path,
        name=name,
        recipe=recipe,
        seed=seed,
        env_steps=steps,
        seconds=float(notes["seconds"]),
        evaluations=_evaluations(run, name, steps),
        episodes=len(returns),
        training=training,
        training_fault=fault,
        machine=machine,
        version=version,
    )


def _newest_notes(run: RunDirectory, name: str) -> dict[str, Any]:
    """What the newest checkpoint says of the run."""
    folder = run.checkpoints
    found = [p for p in folder.iterdir() if re.fullmatch("[0-9]{6,9}", p.name)] if folder.is_dir() else []
    if not found:
        raise NotCounted(f"unfinished: it has no checkpoint yet; go on by: forethought resume {run.path}")
    newest = max(found, key=lambda p: int(p.name))
    try:
        manifest = read_sealed(newest / "manifest.json")
    except Damaged as error:
        raise Damaged(f"checkpoints/{newest.name}: {error}") from error
    if manifest.get("run") != name or not isinstance(manifest.get("notes"), dict):
        raise Damaged(f"checkpoints/{newest.name} belongs to another run ({manifest.get('run')!r}).")
    return manifest["notes"]


def _evaluations(run: RunDirectory, name: str, last: int) -> tuple[Evaluated, ...]:
    """Those of the newest controller of each time; raises `Damaged`."""
    found = []
    for steps, path in evaluation_files(run.path).items():
        try:
            each = read_evaluation(path, name)
        except Damaged as error:
            raise Damaged(f"evaluations/{error}") from error
        if each["which"] == "newest" and steps <= last:
            mean, starts = _mean(each["returns"]), tuple(map(str, each["starts"]))
            goal = None if each["threshold"] is None else float(each["threshold"])
            found.append(Evaluated(steps, mean, starts, each["successes"], goal, str(each["task"])))
    return tuple(found)


def _training(
    run: RunDirectory, notes: dict[str, Any], returns: Sequence[float | int]
) -> tuple[tuple[Point, ...], str | None]:
    """The curve of training returns, or why there is none."""
    if not returns:
        return (), "it has no finished training episode."
    seal = notes.get("metrics")
    data = intact(run.metrics, seal if isinstance(seal, dict) else {})
    check_lines(run.metrics)
    lines = [parse_json(line, "metrics.jsonl") for line in data.split(b"\n")[:-1]]
    if len(lines) != notes.get("turns"):
        return (), f"metrics.jsonl has {len(lines)} of its {notes.get('turns')} lines, so no curve can be drawn."
    ends: list[int] = []
    for line in lines:
        count, steps = (line.get("episodes"), line.get("env_steps")) if isinstance(line, dict) else (None, None)
        if type(count) is not int or type(steps) is not int or not len(ends) <= count <= len(returns):
            return (), "metrics.jsonl does not tell when each training episode ended."
        ends += [steps] * (count - len(ends))
    if len(ends) != len(returns):
        return (), f"metrics.jsonl tells of {len(ends)} finished episodes, and the checkpoint of {len(returns)}."
    if len(returns) < RECENT:
        return (Point(ends[-1], _mean(returns)),), None
    means = [_mean(returns[i - RECENT : i]) for i in range(RECENT, len(returns) + 1)]
    # Episodes that ended in one turn, in several workers, are one point: the newest mean.
    return tuple(Point(*each) for each in dict(zip(ends[RECENT - 1 :], means, strict=True)).items()), None


def _mean(values: Sequence[float | int]) -> float:
    """The mean of a few returns.  Raises `NotCounted` for numbers so large that nothing can be computed with them."""
    if max(map(abs, values)) > LARGEST:
        raise NotCounted(f"it has a return of {max(values, key=abs):g}; returns up to {LARGEST:g} are compared.")
    return math.fsum(values) / len(values)


def _where(run: RunDirectory) -> tuple[str, str]:
    """The machine and the version that the run was last started with; run.json is told about, and not relied on."""
    try:
        start = read_sealed(run.path / "run.json")["starts"][-1]
        machine = ", ".join(str(start["machine"][key]) for key in ("platform", "cpus", "devices"))
        return machine, str(start["versions"]["forethought"])
    except (Damaged, KeyError, IndexError, TypeError):
        return "unknown", "unknown"
