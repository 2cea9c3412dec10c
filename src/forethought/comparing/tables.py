"""From the records of runs to a table: who counts with what, and what the seeds of each configuration come to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from forethought.comparing.configurations import configuration, full, key_of, short_names, task_settings
from forethought.comparing.notes import notes_of
from forethought.comparing.records import RECENT, Point, Record
from forethought.comparing.results import BandPoint, Entry, Group, LeftOut, Pair, Table
from forethought.comparing.statistics import (
    iqm,
    iqm_interval,
    paired_probability,
    probability_of_improvement,
    steps_to_threshold,
)

GRID = 40
"""Places at which the curves of a configuration are put together."""
MOST_PAIRED = 20
"""Configurations of which every pair is looked at."""
BAND_DRAWS = 2000
"""Bootstrap samples at each of them."""


def by_task(records: Sequence[Record]) -> list[list[Record]]:
    """Runs on the same task with the same threshold.

    A run without an evaluation does not know the threshold: it goes with the others where they agree on one.
    """
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(key_of(task_settings(record.recipe)), []).append(record)
    found = []
    for of_task in tasks.values():
        known = {threshold_of(record) for record in of_task if record.evaluations}
        parts: dict[float | None, list[Record]] = {}
        for record in of_task:
            parts.setdefault(None if len(known) < 2 else threshold_of(record), []).append(record)
        found += parts.values()
    return found


def threshold_of(record: Record) -> float | None:
    """The task's threshold, as the run's evaluations noted it."""
    return record.evaluations[-1].threshold if record.evaluations else None


def table(records: Sequence[Record], threshold: float | None) -> tuple[Table | None, list[LeftOut]]:
    """The table of one task, and what has to be left out of it.

    Runs count with their last evaluation if every one of them has it, and otherwise all with training returns: the two
    are never mixed, as a controller explores and learns while it trains.
    """
    counted, evaluated, left_out = _counted(records)
    known = [threshold_of(record) for record in counted if record.evaluations]
    goal = threshold if threshold is not None else next(iter(known), None)
    found = _by_configuration(counted, goal, evaluated)
    if not found:
        return None, left_out
    names = short_names([configuration(entries[0].record.recipe) for entries in found.values()])
    groups = [_group(name, key, entries, goal) for name, (key, entries) in zip(names, found.items(), strict=True)]
    groups.sort(key=lambda group: _natural(group.name))
    made = Table(
        task=next((r.evaluations[-1].task for r in counted if r.evaluations), _task_name(counted[0])),
        settings=task_settings(counted[0].recipe),
        threshold=goal,
        evaluated=evaluated,
        groups=tuple(groups),
        pairs=tuple(_pairs(groups)) if len(groups) <= MOST_PAIRED else (),
        notes=tuple(notes_of(groups, counted, goal, evaluated=evaluated)),
    )
    return made, left_out


def _counted(records: Sequence[Record]) -> tuple[list[Record], bool, list[LeftOut]]:
    """The runs that count, each seed of a configuration once; whether by their evaluations; and what is left out.

    What is left out decides nothing for the others.
    """
    left_out = [
        LeftOut(record.path, f"it has no evaluation at its end, and {record.training_fault}")
        for record in records
        if record.final is None and record.training_fault is not None
    ]
    once: dict[tuple[str, int], Record] = {}
    # Of two runs with one seed the one that was evaluated counts.
    for record in sorted(records, key=lambda record: record.final is None):
        if record.final is None and record.training_fault is not None:
            continue
        other = once.setdefault(_seed_of(record), record)
        if other is not record:
            reason = f"its configuration has a run with seed {record.seed}: {other.path}"
            left_out.append(LeftOut(record.path, reason))
    found = [record for record in records if once.get(_seed_of(record)) is record]
    evaluated = all(record.final is not None for record in found)
    faulty = [record for record in found if not evaluated and record.training_fault is not None]
    left_out += [LeftOut(r.path, f"training returns are compared, and {r.training_fault}") for r in faulty]
    return [record for record in found if record not in faulty], evaluated, left_out


def _seed_of(record: Record) -> tuple[str, int]:
    """The configuration and the seed: what may be there once."""
    return key_of(configuration(record.recipe)), record.seed


def _by_configuration(records: Sequence[Record], goal: float | None, evaluated: bool) -> dict[str, list[Entry]]:
    """Key of a configuration to its runs in the order of their seeds."""
    found: dict[str, list[Entry]] = {}
    for record in records:
        found.setdefault(key_of(configuration(record.recipe)), []).append(_entry(record, goal, evaluated))
    return {key: sorted(mine, key=lambda entry: entry.record.seed) for key, mine in found.items()}


def _entry(record: Record, goal: float | None, evaluated: bool) -> Entry:
    """What a run counts with."""
    evaluations = tuple(Point(each.steps, each.value) for each in record.evaluations)
    curve = evaluations if evaluated else record.training
    # A mean of fewer than five training episodes is too much luck to be called solved.
    judged = curve if evaluated or record.episodes >= RECENT else ()
    solved = next((point.steps for point in judged if goal is not None and point.value >= goal), None)
    return Entry(record, curve[-1].value, curve, solved)


def _group(name: str, key: str, entries: Sequence[Entry], goal: float | None) -> Group:
    """The runs of one configuration, put together."""
    scores = [entry.score for entry in entries]
    reached, seen = [e.solved_at for e in entries], [e.record.env_steps for e in entries]
    return Group(
        name=name,
        configuration=key,
        recipe=full(entries[0].record.recipe),
        entries=tuple(entries),
        iqm=iqm(scores),
        interval=iqm_interval(scores),
        to_threshold=None if goal is None else steps_to_threshold(reached, seen),
        band=tuple(_band([entry.curve for entry in entries])),
    )


def _band(curves: Sequence[Sequence[Point]]) -> list[BandPoint]:
    """IQM and interval over seeds where all of them have begun and none has ended; each counts with its newest value,
    not with its best."""
    first, last = max(curve[0].steps for curve in curves), min(curve[-1].steps for curve in curves)
    places = sorted({p.steps for curve in curves for p in curve if first <= p.steps <= last})
    if len(places) > GRID:
        places = [places[round(i * (len(places) - 1) / (GRID - 1))] for i in range(GRID)]
    found = []
    for steps in places:
        values = [[p.value for p in curve if p.steps <= steps][-1] for curve in curves]
        found.append(BandPoint(steps, iqm(values), iqm_interval(values, BAND_DRAWS)))
    return found


def _pairs(groups: Sequence[Group]) -> Iterator[Pair]:
    """Whether the first is better than the second, for every two."""
    for first, second in itertools.combinations(groups, 2):
        scores = [(first.scores, second.scores)]
        paired = paired_probability(scores) if first.seeds == second.seeds else None
        yield Pair(first.name, second.name, probability_of_improvement(scores), paired)


def _task_name(record: Record) -> str:
    """The task of a recipe: a name, or the class of a task of the user's own."""
    task = record.recipe.get("task")
    return str(task.get("class", "own")) if isinstance(task, dict) else str(task)


def _natural(text: str) -> list[tuple[int, float, str]]:
    """For sorting: numbers in a text by their size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts)]
