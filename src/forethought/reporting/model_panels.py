"""How wrong the model is, and whether it is as sure as it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from forethought.errors import printable
from forethought.reporting.charts import (
    QUIET,
    TEXT,
    Figure,
    Panel,
    Trace,
    chosen,
    figure,
    level,
    number,
    panel,
    plural,
    series,
    with_interval,
)
from forethought.reporting.records import Records, column, to_type
from forethought.reporting.returns import STEPS

AHEAD, ERROR = "steps ahead", "error, in standard deviations of the data"
LEVELS = (50, 80, 95)
SENTENCES = 200
"""Sentences of a diagnosis that are shown at most."""
WORDS = 500
"""Characters of each."""
WHILE = "while training, each piece before it was learned from"


def error_panel(run: Records, seen: dict[str, Any] | None) -> Panel:
    """Error against horizon, with what would be nothing and what would be best; and the error while training.

    `seen` is the same of episodes that the model has learned from: `steps`, `error`, `persistence`, `noise_floor`.
    """
    figures, missing = [], []
    judged = run.diagnosis
    if judged is None:
        missing.append("No diagnosis of the model on episodes that it has not seen: " + to_type(run, "diagnose"))
    else:
        missing += [*_stale(run, judged), *_no_errors(judged)]
    if judged is not None or seen is not None:
        figures.append(_against_horizon(judged, seen))
    training = _while_training(run)
    if training is not None:
        figures.append(training)
    else:
        missing.append("The metrics have no model error: the model is measured only where plans are executed.")
    caption = (
        "How far mean predictions are off when they are fed back. Good: far below persistence (predicting that nothing "
        "changes), and close to the noise that the model itself states, below which no model can get."
    )
    if judged is None and seen is not None:
        caption += " Drawn here is the error on episodes that the model has learned from, which flatters it."
    found = panel("error", "Model error", caption, figures, missing)
    return found if judged is None else _with_sentences(found, judged["sentences"])


def _with_sentences(found: Panel, sentences: Sequence[Any]) -> Panel:
    """The panel with what the diagnosis says.  Its worst news comes last, so the last sentences are kept."""
    said = [printable(str(s)[:WORDS]) for s in sentences[-SENTENCES:]]
    if said:
        found["list"] = {"title": "The diagnosis says", "items": said}
    if len(sentences) > SENTENCES:
        found["missing"].append(f"Of {len(sentences)} sentences of the diagnosis the last {SENTENCES} are shown.")
    return found


def _stale(run: Records, judged: dict[str, Any]) -> Iterator[str]:
    """Whether the run has other steps than the diagnosis knew of."""
    used, again = judged.get("env_steps"), to_type(run, "diagnose")
    if type(used) is not int:
        yield f"The diagnosis does not say after how many steps of the run it was made; a new one does: {again}"
    elif run.lines and used != run.steps:
        yield f"The diagnosis used {plural(used, 'step')}; the run has {plural(run.steps, 'step')} now: {again}"


def _no_errors(judged: dict[str, Any]) -> Iterator[str]:
    """What a gap in the line means."""
    ahead = [a for a in judged["ahead"] if a.get("count")]
    lost = sum(not math.isfinite(number(a.get("error"))) for a in ahead)
    if lost:
        yield f"{lost} of {plural(len(ahead), 'horizon')} have an error that is not finite; they are gaps in the line."


def _not_counted(judged: dict[str, Any]) -> Iterator[str]:
    """Over how many starting points the bands are counted, where it is least."""
    shares = [(number(a.get("finite")), a["steps"]) for a in judged["ahead"] if a.get("count")]
    share, steps = min(((s, h) for s, h in shares if math.isfinite(s)), default=(1.0, 0))
    if share < 1.0:
        far = plural(steps, "step")
        yield (
            f"The bands are counted over {100 * share:.3g}% of the starts {far} ahead: from the others a rollout is "
            "not finite."
        )


def _against_horizon(judged: dict[str, Any] | None, seen: dict[str, Any] | None) -> Figure:
    traces: list[Trace] = []
    if judged is not None:
        ahead = [a for a in judged["ahead"] if a.get("count")]
        steps = [a["steps"] for a in ahead]
        each = lambda name: [number(a.get(name)) for a in ahead]
        mode = judged_on(judged)
        traces.append(series(f"model, {mode}", steps, each("error"), "@1", mode="lines+markers"))
        traces.append(series("nothing changes (persistence)", steps, each("persistence"), QUIET, dash="dash"))
        floor = number(judged.get("noise_floor"))
        if math.isfinite(floor) and steps:
            traces.append(level("noise that the model states, one step", floor, steps, "@3", "dot"))
    if seen is not None:
        name = "model, on episodes it has learned from"
        traces.append(series(name, seen["steps"], seen["error"], "@2", dash="dot" if judged else "solid"))
        if judged is None:
            still = series("nothing changes (persistence)", seen["steps"], seen["persistence"], QUIET, dash="dash")
            traces.append(still)
            if math.isfinite(seen["noise_floor"]):
                traces.append(
                    level("noise that the model states, one step", seen["noise_floor"], seen["steps"], "@3", "dot")
                )
    return figure("error-ahead", traces, AHEAD, ERROR, log=True, label="Against the horizon", height=320)


def judged_on(judged: dict[str, Any]) -> str:
    """What a diagnosis judged."""
    count = judged.get("judged_episodes")
    many = plural(count, "episode") if isinstance(count, int) else "episodes"
    return (
        f"on {many} of its controller, new to it" if judged.get("mode") == "fresh" else f"refitted, on {many} held out"
    )


def _while_training(run: Records) -> Figure | None:
    traces = []
    names = {"model_error_1": ("1 step ahead", "@1"), "model_error_20": ("20 steps ahead", "@2")}
    stated = {"aleatoric_std": ("noise it states", "@3"), "epistemic_std": ("its doubt", "@4")}
    for name, (label, color) in (names | stated).items():
        steps, values = column(run.lines, name)
        if not np.isnan(values).all():
            dash = "solid" if name in names else "dot"
            traces.append(series(label, steps, values, color, dash=dash, mode=line_or_dots(steps)))
    label = f"Against real steps, {WHILE}"
    return figure("error-training", traces, STEPS, ERROR, log=True, label=label, height=320) if traces else None


def line_or_dots(steps: list[int]) -> str:
    """A single point needs a dot to be seen."""
    return "lines+markers" if len(steps) < 3 else "lines"


def calibration_panel(run: Records) -> Panel:
    """Coverage of the bands, and the same over the run."""
    figures, missing = [], []
    if run.diagnosis is not None:
        figures.append(_reliability(run.diagnosis))
        missing += [*_stale(run, run.diagnosis), *_not_counted(run.diagnosis)]
    pooled = _pooled(run)
    if pooled is not None and run.diagnosis is None:
        figures.append(pooled)
    over = _over_time(run)
    if over is not None:
        figures.append(over)
    if run.diagnosis is None and over is None:
        missing.append("There is no diagnosis, and the metrics have coverage only where plans are executed.")
    elif run.diagnosis is None:
        missing.append("Without a diagnosis these shares have no bounds.")
    caption = (
        "The share of real values inside the model's central 50%, 80% and 95% bands. Good: on the diagonal. Below it "
        "the model is over-confident, above it less sure than it could be."
    )
    return panel("calibration", "Calibration", caption, figures, missing)


def _diagonal() -> Trace:
    return series("as it should be", [0, 100], [0, 100], QUIET, dash="dash", width=1)


SQUARE = {"xaxis": {"range": [40, 102], "tickvals": [50, 80, 95]}, "yaxis": {"range": [-3, 103]}}


def _reliability(judged: dict[str, Any]) -> Figure:
    """Of all components, or of one with its Wilson bounds."""
    ahead = [a for a in judged["ahead"] if a.get("count") and isinstance(a.get("coverage"), dict)]
    last = ahead[-1]["steps"] if ahead else 1
    looked = [a for a in ahead if a["steps"] in {1, 5, last}]
    label = "Of the model " + judged_on(judged)

    def one(component: int | None) -> Figure:
        traces = [_diagonal()]
        for i, at in enumerate(looked):
            traces.append(_shares(at, component, f"@{i + 1}"))
        name = "reliability" if component is None else f"reliability-{component}"
        return figure(name, traces, "band, %", "real values inside, %", layout=SQUARE, height=320)

    names = [str(n)[:40] for n in judged["components"][:64]]
    return chosen("reliability", "component", [("all", one(None)), *((n, one(i)) for i, n in enumerate(names))], label)


def _shares(at: dict[str, Any], component: int | None, color: str) -> Trace:
    steps = plural(at["steps"], "step") + " ahead"
    covers = [at["coverage"].get(str(k), {}) for k in LEVELS]
    if component is None:
        return series(
            steps, LEVELS, [100 * number(c.get("share")) for c in covers], color, mode="lines+markers", size=7
        )

    def each(name: str) -> list[float]:
        lists = [c.get(name) for c in covers]
        return [100 * number(v[component]) if isinstance(v, list) and component < len(v) else math.nan for v in lists]

    trace = series(steps, LEVELS, each("by_component"), color, mode="lines+markers", size=7)
    return with_interval(trace, each("low"), each("high"))


def _pooled(run: Records) -> Figure | None:
    """Means over the later half of the turns."""
    traces = [_diagonal()]
    for i, far in enumerate((1, 5)):
        shares = []
        for k in LEVELS:
            _, values = column(run.lines, f"coverage_{k}_{far}")
            late = np.asarray(values[len(values) // 2 :], float)
            shares.append(100 * float(np.nanmean(late)) if np.isfinite(late).any() else math.nan)
        if np.isfinite(shares).any():
            name = plural(far, "step") + " ahead"
            traces.append(series(name, LEVELS, shares, f"@{i + 1}", mode="lines+markers", size=7))
    if len(traces) == 1:
        return None
    label = f"Mean over the later half of the turns, {WHILE}"
    return figure("reliability", traces, "band, %", "real values inside, %", layout=SQUARE, label=label, height=320)


def _over_time(run: Records) -> Figure | None:
    traces, steps = [], []
    for i, (far, k) in enumerate(((1, 95), (5, 95), (1, 50))):
        steps, values = column(run.lines, f"coverage_{k}_{far}")
        if not np.isnan(values).all():
            name = f"{k}% band, {plural(far, 'step')} ahead"
            shares = [100 * v for v in values]
            traces.append(series(name, steps, shares, f"@{i + 1}", mode=line_or_dots(steps), most=600))
    if not traces:
        return None
    traces += [level(f"{k}%", k, steps, TEXT if k == 95 else QUIET, "dot") for k in (95, 50)]
    layout = {"yaxis": {"range": [-3, 103]}}
    label = f"Against real steps, {WHILE}"
    return figure("coverage", traces, STEPS, "real values inside, %", layout=layout, label=label, height=320)
