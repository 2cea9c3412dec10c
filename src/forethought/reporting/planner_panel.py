"""The planner's view: how certain it was of its plans, what they cost, how long they took, and where they saturate."""

from __future__ import annotations

import numpy as np

from forethought.reporting.charts import TEXT, Figure, Panel, figure, level, panel, plural, series, shown
from forethought.reporting.episode_notes import share_at
from forethought.reporting.model_panels import line_or_dots
from forethought.reporting.records import Records, column
from forethought.reporting.returns import STEPS

ONCE = {"v0.5", "v1.0"}
"""Algorithms that plan once per episode."""
PLANS = {*ONCE, "v1.5"}
SPREAD = "plan_spread"


def planner_panel(run: Records) -> Panel:
    """Cost, spread, time and saturation."""
    figures: list[Figure] = []
    missing: list[str] = []
    planned = any(line.get("planned") is True for line in run.lines)
    if planned:
        _add(figures, missing, _cost(run), "The cost of the plans is not in the metrics.")
        _add(figures, missing, _spread(run), "The spread of the elites is not in the metrics of this run or planner.")
    elif run.algorithm in PLANS:
        missing.append("Nothing was planned yet.")
    _add(figures, missing, _time(run), "The time of a step is not in the metrics." if run.lines else "")
    _add(figures, missing, *_saturation(run))
    caption = (
        "Good: the expected cost of a plan falls, the spread of the elites shrinks without vanishing, plans take less "
        f"time than a step of the real system, and few actions are at their limits. {_failures(run)}"
        if planned or run.algorithm in PLANS
        else f"The algorithm {run.algorithm} does not plan while it acts: here is how long its steps take, and how "
        "often its actions are at their limits. Good: seldom."
    )
    return panel("planner", "Planner", caption, figures, missing)


def _add(figures: list[Figure], missing: list[str], found: Figure | None, otherwise: str) -> None:
    """A figure, or why there is none."""
    if found is not None:
        figures.append(found)
    elif otherwise:
        missing.append(otherwise)


def _cost(run: Records) -> Figure | None:
    steps, values = column(run.lines, "plan_cost")
    if np.isnan(values).all():
        return None
    trace = series(
        "expected cost of the last plan of a turn", steps, values, "@1", mode=line_or_dots(steps), hidden=True
    )
    return figure(
        "plan-cost", [trace], STEPS, "expected cost", label="Cost of the last plan of each turn, in the model"
    )


def _spread(run: Records) -> Figure | None:
    steps, values = column(run.lines, SPREAD)
    if np.isnan(values).all():
        return None
    trace = series("spread", steps, values, "@1", mode=line_or_dots(steps), hidden=True)
    label = "Spread of the last elites: mean standard deviation, in half ranges of the actions"
    return figure("plan-spread", [trace], STEPS, "half ranges", label=label, layout={"yaxis": {"rangemode": "tozero"}})


def _time(run: Records) -> Figure | None:
    """Milliseconds per action with their tail; per step, a mean per turn, where pieces are computed as a whole."""
    return _single(run) or _whole(run)


def _single(run: Records) -> Figure | None:
    """Where each choice of an action was timed: the middle, the tail and the slowest of each turn."""
    lines = [line for line in run.lines if _three(line.get("act_seconds"))]
    lines = [line for line in lines if line.get("planned") is True] or lines
    if not lines:
        return None
    steps, _ = column(lines, "env_steps")
    times = 1e3 * np.asarray([line["act_seconds"] for line in lines], float)
    names = ("median of a turn", "95% of a turn", "slowest of a turn")
    traces = [
        series(name, steps, times[:, i].tolist(), f"@{i + 1}", mode=line_or_dots(steps)) for i, name in enumerate(names)
    ]
    what = "action" if run.algorithm not in PLANS or run.algorithm in ONCE else "plan"
    label = f"Milliseconds per {what}; the slowest of a turn is often one that was compiled first"
    return figure("plan-time", traces, STEPS, "ms", label=label, log=True)


def _three(value: object) -> bool:
    """Whether this is a median, a tail and a largest."""
    return isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)


def _whole(run: Records) -> Figure | None:
    """Where pieces of episodes are computed as a whole: single plans are not timed."""
    lines = [line for line in run.lines if line.get("planned") is True] or run.lines
    steps, seconds = column(lines, "step_seconds")
    times = [1e3 * s for s in seconds]
    known = np.asarray(times)[~np.isnan(times)]
    if len(known) == 0:
        return None
    half, tail = np.percentile(known, [50, 95])
    traces = [
        series("mean of a turn", steps, times, "@1", mode=line_or_dots(steps)),
        level(f"median of the turns {shown(half)}", half, steps, TEXT, "dash"),
        level(f"95% of the turns {shown(tail)}", tail, steps, "@2", "dot"),
    ]
    whole = "plan and environment" if run.algorithm in PLANS else "policy and environment"
    per = "step (one plan per episode)" if run.algorithm in ONCE else f"step: {whole}"
    label = f"Milliseconds per {per}; means of turns, so the tail of single plans is not in it"
    return figure("plan-time", traces, STEPS, "ms", label=label, log=True)


def _saturation(run: Records) -> tuple[Figure | None, str]:
    """The share of actions at a limit, per episode; or why it is not known."""
    if not run.episodes:
        return None, "No episode is written yet, so nothing is known about actions at their limits."
    if all(e.hot for e in run.episodes):
        return None, "Actions are choices here: they have no limits to be at."
    limits = run.limits
    if limits is None or np.isnan([*limits.low, *limits.high]).all():
        return None, "The limits of the actions are not recorded, and no action was at one often enough to guess them."
    shares = [100 * share_at(e, limits) for e in run.episodes]
    numbers = [e.number for e in run.episodes]  # some may be missing, so their steps are not known
    trace = series("episodes", numbers, shares, "@1", mode="lines+markers", width=1, hidden=True)
    origin = "" if limits.named else " (limits guessed from the actions)"
    label = f"Share of actions at a limit, per episode{origin}"
    layout = {"yaxis": {"range": [-3, 103]}}
    return figure("plan-limit", [trace], "number of the episode", "%", label=label, layout=layout), ""


def _failures(run: Records) -> str:
    """How often there was no plan to trust, and nothing to choose between."""
    failed, tied = (_total(run, name) for name in ("plan_failures", "plan_ties"))
    if not any("plan_failures" in line for line in run.lines):
        return ""
    ties = f", and {plural(tied, 'plan')} had nothing to choose between" if tied else ""
    return f"Without a plan to trust: {plural(failed, 'time')}{ties}."


def _total(run: Records, name: str) -> int:
    """The sum over episodes of a count that goes on within each and starts anew in the next."""
    total = last = 0
    for line in run.lines:
        value = line.get(name)
        now = value if type(value) is int else 0
        total += last if now < last else 0
        last = now
        if "return" in line:
            total, last = total + last, 0
    return total + last
