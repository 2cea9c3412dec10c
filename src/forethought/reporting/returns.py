"""Return against real steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forethought.math.stats import mean_interval
from forethought.reporting.charts import (
    Panel,
    Trace,
    figure,
    level,
    panel,
    series,
    with_interval,
)
from forethought.reporting.records import Records, column, to_type

STEPS, RETURN = "real environment steps", "return"
RECENT = 10
"""Training episodes that are averaged where there are many."""
MANY = 40


class Measured(NamedTuple):
    """Evaluations in order of steps."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def measured(run: Records) -> Measured:
    """Means over the fixed starts, with Student's 95% interval over them; NaN for a single start."""
    return summed_up({one["env_steps"]: [float(r) for r in one["returns"]] for one in run.evaluations})


def summed_up(values: dict[int, list[float]]) -> Measured:
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
    traces = _training(steps, training, workers(run))
    missing = []
    if found.steps:
        traces.append(drawn("evaluation, mean over its starts", found, "@2"))
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
    many = workers(run)
    each = f"the mean over a round of {many} training episodes" if many > 1 else "a training episode"
    caption = (
        f"Each dot is {each}, exploration included; evaluations run the controller without learning from the task's "
        "fixed starts, with a 95% interval over those starts. Good: the evaluations' whole interval lies above the "
        "threshold."
    )
    figures = [figure("returns", traces, STEPS, RETURN, height=320)] if steps or found.steps else []
    return panel("returns", "Return", caption, figures, missing)


def workers(run: Records) -> int:
    """Episodes that run at once, whose mean return is one line of the metrics."""
    found = run.setting("workers")
    return found if type(found) is int and found > 1 else 1


def _training(steps: list[int], returns: list[float], many: int) -> list[Trace]:
    """Dots, and a running mean where there are many of them."""
    if not steps:
        return []
    name = "training episodes" if many == 1 else f"rounds of {many} training episodes"
    if len(steps) <= MANY:
        return [series(name, steps, returns, "@1", mode="lines+markers", width=1)]
    means = [float(np.nanmean(w)) if not np.isnan(w).all() else math.nan for w in _windows(returns)]
    return [
        series(name, steps, returns, "@1/40", mode="markers", size=4),
        series(f"their mean over {RECENT}", steps[RECENT - 1 :], means, "@1"),
    ]


def _windows(values: list[float]) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values), RECENT)


def drawn(name: str, found: Measured, color: str) -> Trace:
    """Evaluations with their intervals."""
    trace = series(name, found.steps, found.mean, color, mode="lines+markers", size=8, most=10**9)
    return with_interval(trace, found.low, found.high)


def verdict(mean: float, interval: Sequence[float] | None, solved: float) -> str:
    """solved or not, and whether so few starts settle it."""
    said = f"That {'solves' if mean >= solved else 'does not solve'} the task: the threshold is {solved:g}"
    if interval is not None and interval[0] <= solved <= interval[1]:
        return f"{said}. It lies inside the interval, though: so few starts do not settle it."
    return f"{said}."
