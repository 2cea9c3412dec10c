"""The beginning of the page, in plain language: what was tried, what it reached, and whether that is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from forethought.math.stats import mean_interval
from forethought.reporting.charts import Panel, digits_for, number, plural, shown
from forethought.reporting.records import Records, column
from forethought.reporting.returns import threshold, verdict, workers

PLANNERS = {
    "ICEM": "iCEM",
    "CEM": "CEM",
    "MPPI": "MPPI",
    "RandomShooting": "random shooting",
    "ILQR": "iLQR",
    "MCTS": "MCTS",
}
LEARNERS = {
    "AutoLearner": "a model that it chooses by itself",
    "GPLearner": "a Gaussian process",
    "EnsembleLearner": "an ensemble of networks",
    "NetworkLearner": "a network",
    "MDNLearner": "a mixture density network",
    "GMMLearner": "a mixture of Gaussians",
    "LinearLearner": "a linear model",
}


def summary(run: Records, panels: Sequence[Panel]) -> dict[str, Any]:
    """Title, verdict in a word, sentences, and what is missing, with the panel that says so."""
    sentences = [_tried(run), *_reached(run), *_trained(run), *_state(run)]
    missing = [{"panel": p["id"], "says": s} for p in panels for s in p["missing"]]
    seed = "" if run.seed is None else f", seed {run.seed}"
    return {
        "title": f"{run.task}: {run.algorithm}{seed}",
        "label": run.label,
        "verdict": _word(run),
        "sentences": sentences,
        "missing": missing,
    }


def _tried(run: Records) -> str:
    learner = str(run.setting("algorithm", "learner", "kind") or "")
    planner = str(run.setting("algorithm", "planner", "kind") or "")
    models = [str(line["fit_model"]) for line in run.lines if isinstance(line.get("fit_model"), str)]
    model = LEARNERS.get(learner, learner)
    model += f" (now: {models[-1]})" if learner == "AutoLearner" and models else ""
    parts = [p for p in (model, f"{PLANNERS.get(planner, planner)} as planner" if planner else "") if p]
    made = f", with {' and '.join(parts)}," if parts else ""
    seconds = max((number(line.get("seconds")) for line in run.lines), default=math.nan)
    time = f" in {_duration(seconds)}" if math.isfinite(seconds) else ""
    counted = [line["episodes"] for line in run.lines if type(line.get("episodes")) is int]
    episodes = max(counted, default=sum("return" in line for line in run.lines))
    return (
        f"The algorithm {run.algorithm}{made} was trained on {run.task} for {plural(run.steps, 'real step')} "
        f"({plural(episodes, 'whole training episode')}){time}."
    )


def _duration(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    if seconds < 7200.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h"


def _reached(run: Records) -> list[str]:
    if not run.evaluations:
        return ["Its controller was not evaluated, so whether the task is solved is not known."]
    newest = run.evaluations[-1]
    returns = [float(r) for r in newest["returns"]]
    mean, interval = mean_interval(returns)
    digits = digits_for(*interval) if interval else 3
    low, high = (shown(end, digits) for end in interval or (mean, mean))
    bars = f" (95% interval {low} to {high})" if interval else " (one start: no interval)"
    starts = plural(len(returns), "fixed start")
    said = [
        f"After {plural(newest['env_steps'], 'step')} its mean return over {starts} is {shown(mean, digits)}{bars}."
    ]
    solved = threshold(run)
    if solved is not None:
        said.append(verdict(mean, interval, solved))
    if newest.get("successes") is not None:
        said.append(f"It succeeded from {newest['successes']} of {len(returns)} starts.")
    if newest["env_steps"] < run.steps:
        said.append(f"That evaluation is older than the run, which has {plural(run.steps, 'step')} now.")
    return said


def _trained(run: Records) -> list[str]:
    _, returns = column(run.lines, "return")
    last = [r for r in returns[-5:] if not math.isnan(r)]
    if not last:
        return []
    many = workers(run)
    count = len(last)
    what = plural(count, "training episode") if many == 1 else f"{plural(count, 'round')} of {many} training episodes"
    return [f"The last {what} returned {shown(mean_interval(last)[0])} on average."]


def _state(run: Records) -> list[str]:
    """Whether it has ended, and what the guard saw."""
    said = []
    budget = run.setting("steps")
    if not run.lines:
        said.append("It has not made its first turn yet.")
    elif not run.finished:
        of = f" of {plural(budget, 'step')}" if type(budget) is int else ""
        said.append(f"It has not come to its end{of}: it still goes on, or was broken off.")
    faults = sum("fault" in line for line in run.lines)
    if faults:
        said.append(f"The guard refused {plural(faults, 'transition')}: see Events.")
    return said


def _word(run: Records) -> str:
    """solved or not solved, as `forethought evaluate` has it, or why neither can be said."""
    solved = threshold(run)
    if not run.evaluations:
        return "not evaluated"
    if solved is None:
        return "no threshold"
    mean, interval = mean_interval([float(r) for r in run.evaluations[-1]["returns"]])
    unsure = interval is not None and interval[0] <= solved <= interval[1]
    return ("solved" if mean >= solved else "not solved") + (", not certain" if unsure else "")
