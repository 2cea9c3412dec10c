"""The page's data: every panel of every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from forethought._version import __version__
from forethought.reporting.charts import Panel, panel
from forethought.reporting.fan_panel import fan_panel
from forethought.reporting.film_panel import Film, film_panel
from forethought.reporting.gradient_panel import gradient_panel, other_panel
from forethought.reporting.local_panel import local_panel, newest_gains
from forethought.reporting.model_panels import calibration_panel, error_panel
from forethought.reporting.planner_panel import planner_panel
from forethought.reporting.record_panels import events_panel, provenance_panel
from forethought.reporting.records import Memory, Records
from forethought.reporting.returns import returns_panel
from forethought.reporting.summary import summary
from forethought.reporting.together import together

OTHER_POINTS = 300
"""Points of each further number of the metrics, over all runs of the page."""


class Beside(NamedTuple):
    """What a page shows beside a run's records, or why it does not."""

    fan: dict[str, Any] | None = None
    components: int = 0
    seen: dict[str, Any] | None = None
    no_fan: Sequence[str] = ()
    film: Film | None = None


def panels_of(run: Records, beside: Beside, memory: Memory | None = None, share: float = 1.0) -> list[Panel]:
    """The panels of one run."""
    memory = memory or Memory()
    newest = lambda path: memory.read(path / "checkpoints", lambda folder: newest_gains(folder.parent))
    makers: dict[str, Callable[[], Panel | None]] = {
        "Return": lambda: returns_panel(run),
        "Predicted fan": lambda: fan_panel(
            beside.fan, beside.components, sum(e.rows > 0 for e in run.episodes), beside.no_fan
        ),
        "Model error": lambda: error_panel(run, beside.seen),
        "Calibration": lambda: calibration_panel(run),
        "Planner": lambda: planner_panel(run),
        "Local controllers": lambda: local_panel(run, newest, share),
        "Gradient health": lambda: gradient_panel(run),
        "Video": lambda: film_panel(run, beside.film),
        "Events": lambda: events_panel(run),
        "Command, versions and seed": lambda: provenance_panel(run),
        "Every other number": lambda: other_panel(run, max(int(OTHER_POINTS * share), 20)),
    }
    return [p for title, make in makers.items() if (p := _made(title, make)) is not None]


def _made(title: str, make: Callable[[], Panel | None]) -> Panel | None:
    """The panel, or, where the files hold what no run writes, a sentence in its place: the others are worth seeing."""
    try:
        return make()
    except Exception as error:
        sentence = f"The files of the run do not fit this panel: unexpected {type(error).__name__}."
        return panel(title.split()[0].lower().strip(","), title, "", missing=[sentence])


def _summed_up(run: Records, panels: Sequence[Panel]) -> dict[str, Any]:
    """The beginning of the page, or a sentence in its place."""
    try:
        return summary(run, panels)
    except Exception as error:
        says = f"The files of the run do not fit the summary: unexpected {type(error).__name__}."
        missing = [{"panel": p["id"], "says": s} for p in panels for s in p["missing"]]
        about = {"title": run.label, "label": run.label, "verdict": "not known", "sentences": [says]}
        return about | {"missing": missing}


def _beside_each_other(runs: Sequence[Records]) -> list[Panel]:
    found = _made("All runs", lambda: together(runs)[0]) if len(runs) > 1 else None
    return [] if found is None else [found]


def contents(runs: Sequence[Records], beside: Sequence[Beside], memory: Memory | None = None) -> dict[str, Any]:
    """The data of a page."""
    shown = []
    for run, more in zip(runs, beside, strict=True):
        panels = panels_of(run, more, memory, 1.0 / len(runs))
        shown.append(_summed_up(run, panels) | {"panels": panels})
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "made": f"Written {now} by Forethought {__version__}; drawn by plotly.js (MIT licence).",
        "runs": shown,
        "together": _beside_each_other(runs),
    }
