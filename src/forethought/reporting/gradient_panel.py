"""v2.0: the health of the gradient that a policy is improved by, and numbers that no other panel draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forethought.errors import printable
from forethought.reporting.charts import (
    Figure,
    Panel,
    Trace,
    chosen,
    figure,
    level,
    number,
    panel,
    plain,
    rounded,
    series,
)
from forethought.reporting.model_panels import line_or_dots
from forethought.reporting.records import Records, column
from forethought.reporting.returns import STEPS

MAPS = 60
"""Improvements whose adjoints are drawn at most."""
OTHERS = 100
"""Numbers that can be chosen from at most."""
NAMED = 10
"""Names that a sentence lists at most."""
ALREADY = {"turn", "env_steps", "episodes", "return", "plan_cost", "plan_spread", "step_seconds", "steps"}


def gradient_panel(run: Records) -> Panel | None:
    """The panel of a v2.0 run, or None for another."""
    if run.algorithm != "v2.0":
        return None
    improved = [line for line in run.lines if "improve_cost" in line]
    if not improved:
        return panel("gradient", "Gradient health", "", [], ["No policy was improved yet: there are no data to fit."])
    figures = [f for f in (_costs(run), _signal(run), _size(run), _adjoint(improved), _stability(run)) if f is not None]
    lost = sum(int(number(line.get("improve_lost"))) for line in improved if number(line.get("improve_lost")) > 0)
    caption = (
        "Backpropagation through imagined rollouts. Good: a signal-to-noise ratio above 1, adjoints that neither "
        "vanish nor explode along the rollout, a Lyapunov exponent near or below 0, few actions held by squashing. "
        f"Rollouts that exploded so far: {lost}."
    )
    missing = (
        []
        if any("improve_snr" in line for line in improved)
        else ["With moments there are no rollouts, and no signal-to-noise ratio, adjoints or exponents."]
    )
    return panel("gradient", "Gradient health", caption, figures, missing)


def _lines(run: Records, names: dict[str, str]) -> list[Trace]:
    traces = []
    for i, (name, label) in enumerate(names.items()):
        steps, values = column(run.lines, name)
        if not np.isnan(values).all():
            traces.append(series(label, steps, values, f"@{i + 1}", mode=line_or_dots(steps)))
    return traces


def _costs(run: Records) -> Figure | None:
    names = {"improve_cost": "after", "improve_began": "before", "improve_plan": "of the plan that was shown"}
    traces = _lines(run, names)
    label = "Imagined cost of the policy, before and after each improvement"
    return figure("improve-cost", traces, STEPS, "imagined cost", label=label) if traces else None


def _signal(run: Records) -> Figure | None:
    """Not on a logarithmic axis: the estimate may be negative."""
    traces = _lines(run, {"improve_snr": "signal-to-noise ratio"})
    if not traces:
        return None
    traces.append(level("1", 1.0, traces[0]["x"]))
    return figure("improve-snr", traces, STEPS, "", label="Signal-to-noise ratio of the gradient")


def _size(run: Records) -> Figure | None:
    names = {"improve_gradient": "norm of the gradient", "improve_growth": "growth of the adjoint along a rollout"}
    traces = _lines(run, names)
    label = "Norm of the gradient, and growth of its adjoints"
    return figure("improve-gradient", traces, STEPS, "", log=True, label=label) if traces else None


def _stability(run: Records) -> Figure | None:
    traces = _lines(
        run, {"improve_exponent": "Lyapunov exponent per step", "improve_saturated": "share held by squashing"}
    )
    if not traces:
        return None
    return figure("improve-exponent", traces, STEPS, "", label="Lyapunov exponent and saturation")


def _adjoint(improved: Sequence[dict[str, Any]]) -> Figure | None:
    """log10 of the adjoint's norm by step of the rollout, one column per improvement."""
    have = [line for line in improved if isinstance(line.get("improve_adjoint"), list) and line["improve_adjoint"]]
    if not have:
        return None
    have = have[:: max(-(-len(have) // MAPS), 1)]
    deepest = max(len(line["improve_adjoint"]) for line in have)
    grid = np.full((deepest, len(have)), np.nan)
    for i, line in enumerate(have):
        found = np.array([number(v) for v in line["improve_adjoint"]])
        with np.errstate(divide="ignore", invalid="ignore"):
            grid[: len(found), i] = np.log10(np.where(found > 0.0, found, np.nan))
    trace = {
        "type": "heatmap",
        "z": rounded(grid),
        "x": [str(line["env_steps"]) for line in have],
        "colorscale": "Viridis",
        "colorbar": {"thickness": 10, "title": {"text": "log10"}},
        "hovertemplate": "after %{x} steps, step %{y} of the rollout: 10^%{z}<extra></extra>",
    }
    layout = {"xaxis": {"type": "category", "nticks": 8}}
    label = "Norm of the adjoint along the rollout"
    return figure("adjoint", [trace], STEPS, "step of the rollout", label=label, layout=layout)


def other_panel(run: Records, most: int) -> Panel:
    """Any number of metrics.jsonl, by its name, each with at most so many points."""
    numbers: set[str] = set()
    empty: set[str] = set()
    for line in run.lines:
        for name, value in line.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.add(name)
            elif value is None or value in ("Infinity", "-Infinity"):
                empty.add(name)
    wanted, empty = sorted(numbers - ALREADY), empty - numbers - ALREADY
    choices = []
    for name in wanted[:OTHERS]:
        steps, values = column(run.lines, name)
        trace = series(name, steps, values, "@1", mode=line_or_dots(steps), most=most, hidden=True)
        choices.append((name, figure(f"other-{len(choices)}", [trace], STEPS, plain(name))))
    missing = [] if choices else ["metrics.jsonl has no numbers yet."]
    if len(wanted) > OTHERS:
        missing.append(f"Of {len(wanted)} names the first {OTHERS} can be chosen.")
    if empty:
        some = ", ".join(sorted(empty)[:NAMED]) + (f" and {len(empty) - NAMED} more" if len(empty) > NAMED else "")
        missing.append(f"Never a finite number: {printable(some)}.")
    caption = "What a name means is in docs/diagnose.md, or where the algorithm is described."
    found = [chosen("other", "number", choices)] if choices else []
    return panel("other", "Every other number of metrics.jsonl", caption, found, missing)
