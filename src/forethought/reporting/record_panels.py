"""What went wrong, and how to do it again: the guard's events, and the command, versions and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from forethought.errors import printable
from forethought.reporting.charts import Panel, number, panel, plural, shown
from forethought.reporting.records import Records

ROWS = 200
"""Events that are listed at most, the newest ones."""
WORDS = 300


def events_panel(run: Records) -> Panel:
    """Faults of the environment, fits that failed, plans that could not be trusted, and what could not be read."""
    rows = [row for line in run.lines for row in _events(line)]
    caption = (
        "What the guard refused, which fits and plans failed, and what the algorithm said. Good: an empty list."
        if rows
        else "No transition was refused, no fit and no plan failed, as far as the metrics tell."
    )
    found = panel("events", "Events", caption, missing=run.trouble)
    if rows:
        found["table"] = {"head": ["steps", "what", "in words"], "rows": rows[-ROWS:]}
    if len(rows) > ROWS:
        found["missing"] = [*run.trouble, f"Of {len(rows)} events the newest {ROWS} are listed."]
    return found


def _events(line: dict[str, Any]) -> Iterator[list[str]]:
    """The events of one turn."""
    at = str(line["env_steps"])
    words = lambda name: str(line.get(name) or "")[:WORDS]
    if "fault" in line:
        step = line.get("fault_step")
        where = f", step {step} of the episode" if type(step) is int else ""
        yield [at, f"guard: {words('fault_field') or 'fault'}{where}", words("fault")]
    if line.get("fit_failed") is True:
        yield [at, "fit failed", words("fit_says") or "The model from before it was kept."]
    elif line.get("fit_says"):
        yield [at, "fit", words("fit_says")]
    if number(line.get("fit_dropped")) > 0:
        yield [at, "model", f"{plural(int(number(line['fit_dropped'])), 'member')} dropped: not finite, or far off."]
    if number(line.get("plan_failures")) > 0:
        yield [at, "plans failed", f"{plural(int(line['plan_failures']), 'time')} in this episode so far."]
    if number(line.get("plan_left_out")) > 0:
        yield [at, "particles", f"{shown(line['plan_left_out'])} at most were left out of a plan, as not finite."]
    if line.get("improve_says"):
        yield [at, "policy", words("improve_says")]
    status = line.get("local_status")
    if isinstance(status, list) and any(s != "solved" for s in status):
        yield [at, "KL step", ", ".join(str(s)[:40] for s in status[:20])]


def provenance_panel(run: Records) -> Panel:
    """The exact command, versions, machine and recipe."""
    rows: list[list[str]] = []
    for i, start in enumerate(run.starts, start=1):
        rows += _start(start, "" if len(run.starts) == 1 else f" {i}")
    seed = "not recorded" if run.seed is None else str(run.seed)
    rows += [["seed", seed], ["run directory", printable(str(run.path))], ["name of the run", run.name or "unknown"]]
    missing = [] if run.starts else ["run.json is missing or damaged: neither command nor versions are known."]
    found = panel("provenance", "Command, versions and seed", "How to do it again.", missing=missing)
    found["table"] = {"rows": rows}
    if run.config:
        text = json.dumps(run.config, indent=1)
        found["text"] = {"title": "The whole recipe (config.json)", "body": printable(text[:50_000])}
    else:
        found["missing"].append("config.json is missing or damaged: the recipe is not known.")
    return found


def _start(start: dict[str, Any], which: str) -> Iterator[list[str]]:
    """One start of the run."""
    said = lambda value: printable(str(value))[:2000]
    yield [f"command{which}", said(start.get("command", "not recorded"))]
    yield [f"began{which}", said(start.get("began", "not recorded"))]
    versions, machine = start.get("versions"), start.get("machine")
    if isinstance(versions, dict):
        yield [f"versions{which}", said(", ".join(f"{k} {v}" for k, v in versions.items()))]
    if isinstance(machine, dict):
        facts = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in machine.items()}
        yield [f"machine{which}", said("; ".join(f"{k}: {v}" for k, v in facts.items() if v not in ("", None)))]
