"""What went wrong, and how to do it again: the guard's events, and the command, versions and seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from forethought.errors import printable
from forethought.reporting.charts import Panel, number, panel, plural, shown
from forethought.reporting.records import Records

ROWS = 200
"""Events that are listed at most, the newest ones."""
WORDS = 300
"""Characters of what an event says."""
LONGEST, RECIPE = 20_000, 50_000
"""Characters of a command, or another text about a start, and of the recipe."""


def events_panel(run: Records) -> Panel:
    """Faults of the environment, fits that failed, plans that could not be trusted, and what could not be read."""
    faults, others, failed = [], [], 0
    for i, line in enumerate(run.lines):
        faults += [(i, row) for row in _faults(line)]
        others += [(i, row) for row in _events(line, failed)]
        if "return" in line:  # the count begins anew
            failed = 0
        elif "plan_failures" in line:
            failed = _failures(line)
    count = len(faults) + len(others)
    caption = (
        "What the guard refused, which fits and plans failed, and what the algorithm said. Good: an empty list."
        if count
        else "No transition was refused, no fit and no plan failed, as far as the metrics tell."
    )
    found = panel("events", "Events", caption, missing=run.trouble)
    if count > ROWS:  # a few faults must not be lost among many others
        faults = faults[-ROWS:]
        others = others[len(others) - (ROWS - len(faults)) :]
        found["missing"].append(
            f"Of {count} events the newest {ROWS} are listed, what the guard refused before others."
        )
    if count:
        rows = [row for _, row in sorted([*faults, *others], key=lambda event: event[0])]
        found["table"] = {"head": ["steps", "what", "in words"], "rows": rows}
    return found


def _failures(line: dict[str, Any]) -> int:
    """Plans that had failed in the episode by then."""
    value = number(line.get("plan_failures"))
    return int(value) if value > 0 and math.isfinite(value) else 0


def _words(line: dict[str, Any], name: str) -> str:
    return str(line.get(name) or "")[:WORDS]


def _faults(line: dict[str, Any]) -> Iterator[list[str]]:
    """What the guard refused in one turn."""
    if "fault" in line:
        step = line.get("fault_step")
        where = f", step {step} of the episode" if type(step) is int else ""
        what = f"guard: {_words(line, 'fault_field') or 'fault'}{where}"
        yield [str(line["env_steps"]), what, _words(line, "fault")]


def _events(line: dict[str, Any], failed: int) -> Iterator[list[str]]:
    """The other events of one turn.  `failed`: plans that had failed in the episode before it."""
    at = str(line["env_steps"])
    words = lambda name: _words(line, name)
    if line.get("fit_failed") is True:
        yield [at, "fit failed", words("fit_says") or "The model from before it was kept."]
    elif line.get("fit_says"):
        yield [at, "fit", words("fit_says")]
    if number(line.get("fit_dropped")) > 0:
        yield [at, "model", f"{plural(int(number(line['fit_dropped'])), 'member')} dropped: not finite, or far off."]
    if _failures(line) > failed or 0 < _failures(line) < failed:  # fewer: of another episode
        yield [at, "plans failed", f"{plural(_failures(line), 'time')} in this episode so far."]
    if number(line.get("plan_left_out")) > 0:
        yield [at, "particles", f"{shown(line['plan_left_out'])} at most were left out of a plan, as not finite."]
    if line.get("improve_says"):
        yield [at, "policy", words("improve_says")]
    status = line.get("local_status")
    if isinstance(status, list) and any(s in ("limited", "failed") for s in status):
        yield [at, "KL step", ", ".join(str(s)[:40] for s in status[:20])]


def provenance_panel(run: Records) -> Panel:
    """The exact command, versions, machine and recipe."""
    rows: list[list[str]] = []
    for i, start in enumerate(run.starts, start=1):
        rows += _start(start, "" if len(run.starts) == 1 else f" {i}")
    seed = "not recorded" if run.seed is None else str(run.seed)
    rows += [["seed", seed], ["run directory", printable(str(run.path))], ["name of the run", run.name or "unknown"]]
    missing = [] if run.starts else ["run.json is missing or damaged: neither command nor versions are known."]
    if any(len(text) > LONGEST for row in rows for text in row):
        missing.append(f"Texts are cut at {plural(LONGEST, 'character')}: run.json has all of them.")
    found = panel("provenance", "Command, versions and seed", "How to do it again.", missing=missing)
    found["table"] = {"rows": [[text[:LONGEST] for text in row] for row in rows]}
    if run.config:
        text = json.dumps(run.config, indent=1)
        found["text"] = {"title": "The whole recipe (config.json)", "body": printable(text[:RECIPE])}
        if len(text) > RECIPE:
            found["text"]["title"] = "The beginning of the recipe (config.json)"
            found["missing"].append(f"The recipe is cut at {plural(RECIPE, 'character')}: config.json has all of it.")
    else:
        found["missing"].append("config.json is missing or damaged: the recipe is not known.")
    return found


def _start(start: dict[str, Any], which: str) -> Iterator[list[str]]:
    """One start of the run."""
    said = lambda value: printable(str(value)[: LONGEST + 1])
    yield [f"command{which}", said(start.get("command", "not recorded"))]
    yield [f"began{which}", said(start.get("began", "not recorded"))]
    versions, machine = start.get("versions"), start.get("machine")
    if isinstance(versions, dict):
        yield [f"versions{which}", said(", ".join(f"{k} {v}" for k, v in versions.items()))]
    if isinstance(machine, dict):
        facts = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in machine.items()}
        yield [f"machine{which}", said("; ".join(f"{k}: {v}" for k, v in facts.items() if v not in ("", None)))]
