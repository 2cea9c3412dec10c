"""Return against real steps: of one run, and of several beside each other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forethought.math.stats import mean_interval
from forethought.reporting.charts import (
    Figure,
    Panel,
    Trace,
    figure,
    level,
    panel,
    plain,
    series,
    shown,
    with_interval,
)
from forethought.reporting.records import Records, column, to_type

STEPS, RETURN = "real environment steps", "return"
RECENT = 10
"""Training episodes that are averaged where there are many."""
MANY = 40
SEEDS = 3
"""Runs of one recipe that make an interval over seeds."""


class Measured(NamedTuple):
    """Evaluations in order of steps."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def measured(run: Records) -> Measured:
    """Means over the fixed starts, with Student's 95% interval over them; NaN for a single start."""
    return _summed_up({one["env_steps"]: [float(r) for r in one["returns"]] for one in run.evaluations})


def _summed_up(values: dict[int, list[float]]) -> Measured:
    """Means and intervals of what was seen at each number of steps."""
    rows = [(steps, *mean_interval(seen)) for steps, seen in values.items()]
    unknown = (math.nan, math.nan)
    ends = [interval or unknown for _, _, interval in rows]
    return Measured([r[0] for r in rows], [r[1] for r in rows], [e[0] for e in ends], [e[1] for e in ends])


def threshold(run: Records) -> float | None:
    """The return that solves the task, as the task or the newest evaluation says it."""
    if run.threshold is not None:
        return run.threshold
    known = [e["threshold"] for e in run.evaluations if isinstance(e.get("threshold"), (int, float))]
    return float(known[-1]) if known else None


def returns_panel(run: Records) -> Panel:
    """Training returns, evaluations, and the threshold."""
    steps, training = column(run.lines, "return")
    found = measured(run)
    traces = _training(steps, training)
    missing = []
    if found.steps:
        traces.append(_evaluated("evaluation, mean over its starts", found, "@2"))
    else:
        missing.append(f"No evaluation, so nothing says whether the task is solved: {to_type(run, 'evaluate')}")
    if not steps:
        missing.append("No training episode has ended yet.")
    if any(math.isnan(v) for v in training):
        missing.append(f"{sum(map(math.isnan, training))} training returns are not finite; they are gaps in the line.")
    everything = [*steps, *found.steps, run.steps]
    solved = threshold(run)
    if solved is not None:
        traces.append(level(f"solved: {solved:g}", solved, [0, *everything]))
    elif found.steps:
        missing.append("The task has no threshold for being solved.")
    workers = run.setting("workers")
    several = isinstance(workers, int) and workers > 1
    caption = (
        "Each dot is a training episode, exploration included"
        + (f" (the mean over {workers} workers)" if several else "")
        + "; evaluations run the controller without learning from the task's fixed starts, with a 95% interval over "
        "those starts. Good: the evaluations' whole interval lies above the threshold."
    )
    figures = [figure("returns", traces, STEPS, RETURN, height=320)] if steps or found.steps else []
    return panel("returns", "Return", caption, figures, missing)


def _training(steps: list[int], returns: list[float]) -> list[Trace]:
    """Dots, and a running mean where there are many of them."""
    if not steps:
        return []
    if len(steps) <= MANY:
        return [series("training episodes", steps, returns, "@1", mode="lines+markers", width=1)]
    means = [float(np.nanmean(w)) if not np.isnan(w).all() else math.nan for w in _windows(returns)]
    return [
        series("training episodes", steps, returns, "@1/40", mode="markers", size=4),
        series(f"their mean over {RECENT}", steps[RECENT - 1 :], means, "@1"),
    ]


def _windows(values: list[float]) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values), RECENT)


def _evaluated(name: str, found: Measured, color: str) -> Trace:
    trace = series(name, found.steps, found.mean, color, mode="lines+markers", size=8, most=10**9)
    return with_interval(trace, found.low, found.high)


def verdict(mean: float, interval: Sequence[float] | None, solved: float) -> str:
    """solved or not, and whether so few starts settle it."""
    said = f"That {'solves' if mean >= solved else 'does not solve'} the task: the threshold is {solved:g}"
    if interval is not None and interval[0] <= solved <= interval[1]:
        return f"{said}. It lies inside the interval, though: so few starts do not settle it."
    return f"{said}."


def same_recipe(run: Records) -> str:
    """What is the same for all seeds of a recipe."""
    rest = {k: v for k, v in run.config.items() if k not in ("seed", "out")}
    return json.dumps(rest, sort_keys=True)


def together(runs: Sequence[Records]) -> list[Panel]:
    """Several runs: their returns over each other, one figure per task, and a table."""
    tasks = dict.fromkeys(run.task for run in runs)
    figures = [_of_task(f"together-{i}", task, [r for r in runs if r.task == task]) for i, task in enumerate(tasks)]
    caption = (
        "Thin lines are training returns, thick ones evaluations. "
        f"Where {SEEDS} runs or more differ in nothing but the seed, and were evaluated at the same steps, the mean "
        "over these seeds is drawn with its 95% interval (Student's t over seeds); a single run's bars are over its "
        "starts."
    )
    missing = [f"{r.label} has no evaluation." for r in runs if not r.evaluations]
    found = panel("together", "All runs", caption, [f for f in figures if f["traces"]], missing)
    head = ["run", "task", "algorithm", "seed", "steps", "newest evaluation", "solved"]
    found["table"] = {"head": head, "rows": [_row(run) for run in runs]}
    return [found]


def _row(run: Records) -> list[str]:
    found, solved = measured(run), threshold(run)
    if not found.steps:
        said, yes = "none", "not known"
    else:
        mean, low, high = found.mean[-1], found.low[-1], found.high[-1]
        said = shown(mean) + ("" if math.isnan(low) else f" ({shown(low)} to {shown(high)})")
        yes = "no threshold" if solved is None else "yes" if mean >= solved else "no"
        if solved is not None and low <= solved <= high:
            yes += ", within the interval"
    seed = "-" if run.seed is None else str(run.seed)
    return [run.label, run.task, run.algorithm, seed, str(run.steps), said, yes]


def _of_task(ident: str, task: str, runs: Sequence[Records]) -> Figure:
    groups: dict[str, list[Records]] = {}
    for run in runs:
        groups.setdefault(same_recipe(run), []).append(run)
    traces: list[Trace] = []
    for i, group in enumerate(groups.values()):
        color = f"@{i % 6 + 1}"
        traces += _of_group(group, color) if len(group) >= SEEDS else _one_by_one(group, len(traces))
    steps = [r.steps for r in runs]
    solved = next((t for t in map(threshold, runs) if t is not None), None)
    if solved is not None and traces:
        traces.append(level(f"solved: {solved:g}", solved, [0, *steps]))
    return figure(ident, traces, STEPS, RETURN, height=360, label=task)


def _one_by_one(runs: Sequence[Records], first: int) -> list[Trace]:
    traces: list[Trace] = []
    for i, run in enumerate(runs):
        color, (steps, values) = f"@{(first + i) % 6 + 1}", column(run.lines, "return")
        name, found = plain(run.label), measured(run)
        if steps:
            traces.append(series(name, steps, values, color + "/50", width=1, most=400))
        if found.steps:
            traces.append(_evaluated(f"{name}, evaluated", found, color))
    return traces


def _of_group(runs: Sequence[Records], color: str) -> list[Trace]:
    """Seeds of one recipe: thin lines, and the mean over seeds where all were evaluated."""
    each = [dict(zip(m.steps, m.mean, strict=True)) for m in map(measured, runs)]
    shared = sorted(set.intersection(*(set(e) for e in each)))
    traces = []
    for run in runs:
        steps, values = column(run.lines, "return")
        hidden = bool(shared)
        if steps:
            traces.append(series(plain(run.label), steps, values, color + "/40", width=1, most=200, hidden=hidden))
    if not shared:
        return [
            *traces,
            *(_evaluated(f"{plain(r.label)}, evaluated", measured(r), color) for r in runs if r.evaluations),
        ]
    found = _summed_up({at: [e[at] for e in each] for at in shared})
    return [*traces, _evaluated(f"{runs[0].algorithm}, mean over {len(runs)} seeds", found, color)]
