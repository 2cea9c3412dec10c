"""Configurations over several tasks.

Returns of different tasks have no common unit.  The probability of improvement needs none: it is averaged over tasks.
An IQM over tasks is made of scaled returns, where whoever compares says for each task which return is 0 and which is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forethought.comparing.configurations import configuration, short_names
from forethought.comparing.results import Group, Overall, Pair, Table
from forethought.comparing.statistics import (
    iqm,
    paired_probability,
    probability_of_improvement,
    stratified_iqm_interval,
)
from forethought.errors import UserError


def overall(tables: Sequence[Table], scales: Mapping[str, tuple[float, float]]) -> Overall | None:
    """What the tables come to together; None for fewer than two tables, or without a configuration on each.

    Raises `UserError` for a scale of a task that is not there, or that has no length.
    """
    tasks = {table.task for table in tables}
    for task, (low, high) in scales.items():
        if task not in tasks:
            raise UserError(f"A scale is given for {task}; it must be for one of {', '.join(sorted(tasks)) or 'none'}.")
        if not low < high:
            raise UserError(f"The scale of {task} is {low:g}:{high:g}; the second must be larger than the first.")
    if len(tables) < 2:
        return None
    rows = [{group.configuration: group for group in table.groups} for table in tables]
    shared = [key for key in rows[0] if all(key in row for row in rows)]
    if not shared:
        return None
    names = short_names([configuration(rows[0][key].recipe) for key in shared])
    pairs = [
        _pair((names[i], names[k]), [(row[shared[i]], row[shared[k]]) for row in rows])
        for i in range(len(shared))
        for k in range(i + 1, len(shared))
    ]
    why = _why_no_iqm(tables, scales)
    iqms = []
    for key in shared if why is None else []:
        strata = [_scaled(row[key], scales[table.task]) for row, table in zip(rows, tables, strict=True)]
        iqms.append((iqm([value for part in strata for value in part]), stratified_iqm_interval(strata)))
    notes = [] if why is None else [why]
    left = {key for row in rows for key in row} - set(shared)
    if left:
        notes.append(f"{len(left)} configurations were not run on every task, and are not here.")
    return Overall(tuple(names), tuple(iqms), tuple(pairs), tuple(notes))


def _why_no_iqm(tables: Sequence[Table], scales: Mapping[str, tuple[float, float]]) -> str | None:
    """What stands in the way of an IQM over tasks, if anything does."""
    if len({table.evaluated for table in tables}) > 1:
        return "There is no IQM over tasks: some count with evaluations, and others with training returns."
    if len({table.task for table in tables}) < len(tables):
        return "There is no IQM over tasks: two tables are of one task, and --scale could not tell them apart."
    if not all(table.task in scales for table in tables):
        return (
            "Returns of different tasks have no common unit, so there is no IQM over tasks; give each task its scale: "
            "--scale TASK=LOW:HIGH,TASK=LOW:HIGH (the returns that are 0 and 1)."
        )
    return None


def _scaled(group: Group, scale: tuple[float, float]) -> list[float]:
    low, high = scale
    return [(score - low) / (high - low) for score in group.scores]


def _pair(names: tuple[str, str], on_each: Sequence[tuple[Group, Group]]) -> Pair:
    """The first against the second, averaged over tasks."""
    strata = [(first.scores, second.scores) for first, second in on_each]
    same = all(first.seeds == second.seeds for first, second in on_each)
    return Pair(*names, probability_of_improvement(strata), paired_probability(strata) if same else None)
