"""Several runs beside each other: one figure per task, means over seeds, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from forethought.reporting.charts import Figure, Panel, Trace, digits_for, figure, level, panel, series, short, shown
from forethought.reporting.records import Records, column
from forethought.reporting.returns import RETURN, STEPS, drawn, measured, summed_up, threshold
from forethought.runs.recipe_fields import APART, TASK

SEEDS = 3
"""Runs of one recipe that make an interval over seeds."""
MOST = 10
"""Numbers that a sentence names at most."""


class Group(NamedTuple):
    """Runs that are drawn as one: seeds of a recipe, or a single run."""

    runs: Sequence[Records]
    name: str

    @property
    def evaluations(self) -> list[dict[int, float]]:
        """Per run, mean returns by steps."""
        return [dict(zip(m.steps, m.mean, strict=True)) for m in map(measured, self.runs)]


def together(runs: Sequence[Records]) -> list[Panel]:
    """Several runs: their returns over each other, one figure per task, and a table."""
    tasks: dict[str, list[Records]] = {}
    for run in runs:
        tasks.setdefault(same_task(run), []).append(run)
    figures, missing = [], [f"{r.label} has no evaluation." for r in runs if not r.evaluations]
    for i, members in enumerate(tasks.values()):
        groups, why = grouped(members)
        figures.append(_of_task(f"together-{i}", _title(members, list(tasks.values())), groups))
        missing += [*why, *(sentence for group in groups for sentence in _not_shared(group))]
    caption = (
        "Thin lines are training returns, thick ones evaluations. "
        f"Where {SEEDS} runs or more differ in nothing but the seed, and were evaluated at the same steps, the mean "
        "over these seeds is drawn with its 95% interval (Student's t over seeds); a single run's bars are over its "
        "starts."
    )
    found = panel("together", "All runs", caption, [f for f in figures if f["traces"]], missing)
    head = ["run", "task", "algorithm", "seed", "steps", "newest evaluation", "solved"]
    found["table"] = {"head": head, "rows": [_row(run) for run in runs]}
    return [found]


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def same_task(run: Records) -> str:
    """What is the same for all runs of a task.  One of the user's own goes also by its name in the evaluations: the
    recipe does not say all of it."""
    named = run.config.get("task")
    own = None if isinstance(named, str) else sorted({str(e.get("task")) for e in run.evaluations})
    return _key(
        named if run.config else run.task, own if run.config else None, [run.config.get(k) for k in TASK if k != "task"]
    )


def same_recipe(run: Records) -> str:
    """What is the same for all seeds of a recipe."""
    return _key({k: v for k, v in run.config.items() if k not in APART})


def _title(members: Sequence[Records], tasks: Sequence[Sequence[Records]]) -> str:
    """The task's name, and, where it is that of another one too, whose it is."""
    name = members[0].task
    if sum(other[0].task == name for other in tasks) == 1:
        return name
    return f"{name} of {_some([short(r.label) for r in members])}"


def _some(names: Sequence[str], most: int = MOST) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def grouped(runs: Sequence[Records]) -> tuple[list[Group], list[str]]:
    """What is drawn as one, and why some runs of one recipe are not."""
    recipes: dict[str, list[Records]] = {}
    for i, run in enumerate(runs):
        recipes.setdefault(same_recipe(run) if run.config else str(i), []).append(run)
    why = [f"{r.label} is drawn by itself: its recipe cannot be read." for r in runs if not r.config]
    found: list[Group] = []
    for members in recipes.values():
        seeds = {r.seed for r in members}
        if len(members) >= SEEDS and None not in seeds and len(seeds) == len(members):
            found.append(Group(members, members[0].algorithm))
            continue
        if len(members) >= SEEDS:
            labels = _some([r.label for r in members])
            why.append(f"{labels} have one recipe, but not all another seed: each is drawn by itself.")
        found += [Group([run], short(run.label)) for run in members]
    means = [group.name for group in found if len(group.runs) > 1]
    return [_told_apart(g) if len(g.runs) > 1 and means.count(g.name) > 1 else g for g in found], why


def _told_apart(group: Group) -> Group:
    """With the runs in its name, beside other recipes of the same algorithm."""
    return group._replace(name=f"{group.name} ({_some([short(r.label, 12) for r in group.runs], 3)})")


def _not_shared(group: Group) -> Iterator[str]:
    """Evaluations that are in no mean, as not all seeds have them."""
    each = group.evaluations
    every = sorted({at for one in each for at in one})
    alone = [at for at in every if not all(at in one for one in each)]
    if alone and len(alone) < len(every):
        said = _some([f"{at} ({sum(at in one for one in each)})" for at in alone])
        yield (
            f"Evaluations of {group.name} that not all of {len(each)} seeds have are not drawn; at steps "
            f"(of how many seeds): {said}."
        )


def _of_task(ident: str, task: str, groups: Sequence[Group]) -> Figure:
    traces: list[Trace] = []
    for i, group in enumerate(groups):
        color = f"@{i % 6 + 1}"
        traces += _of_group(group, color) if len(group.runs) > 1 else _of_run(group, color)
    runs = [run for group in groups for run in group.runs]
    if traces:
        for solved in dict.fromkeys(t for t in map(threshold, runs) if t is not None):
            traces.append(level(f"solved: {solved:g}", solved, [0, *(r.steps for r in runs)]))
    return figure(ident, traces, STEPS, RETURN, height=360, label=task)


def _of_run(group: Group, color: str) -> list[Trace]:
    (run,), traces = group.runs, []
    (steps, values), found = column(run.lines, "return"), measured(run)
    if steps:
        traces.append(series(group.name, steps, values, color + "/50", width=1, most=400))
    if found.steps:
        traces.append(drawn(f"{group.name}, evaluated", found, color))
    return traces


def _of_group(group: Group, color: str) -> list[Trace]:
    """Seeds of one recipe: thin lines, and the mean over seeds where all were evaluated."""
    each = group.evaluations
    shared = sorted(set.intersection(*(set(e) for e in each)))
    traces = []
    for run in group.runs:
        steps, values = column(run.lines, "return")
        if steps:
            thin = {"width": 1, "most": 200, "hidden": bool(shared)}
            traces.append(series(short(run.label), steps, values, color + "/40", **thin))
    if not shared:
        seen = [(short(r.label), measured(r)) for r in group.runs if r.evaluations]
        return [*traces, *(drawn(f"{name}, evaluated", found, color) for name, found in seen)]
    found = summed_up({at: [e[at] for e in each] for at in shared})
    return [*traces, drawn(f"{group.name}, mean over {len(group.runs)} seeds", found, color)]


def _row(run: Records) -> list[str]:
    found, solved = measured(run), threshold(run)
    if not found.steps:
        said, yes = "none", "not known"
    else:
        mean, low, high = found.mean[-1], found.low[-1], found.high[-1]
        digits = digits_for(low, high)
        ends = "" if math.isnan(low) else f" ({shown(low, digits)} to {shown(high, digits)})"
        said = shown(mean, digits) + ends
        yes = "no threshold" if solved is None else "yes" if mean >= solved else "no"
        if solved is not None and low <= solved <= high:
            yes += ", within the interval"
    seed = "-" if run.seed is None else str(run.seed)
    return [run.label, run.task, run.algorithm, seed, str(run.steps), said, yes]
