"""The tables of local methods on the page of figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tables_speed import bare_provenance
from text import markdown, met, provenance

WITHIN = {"Reacher-v5": 60, "PegInsertion-v0": 200}
"""Rollouts within which a task is to be solved."""


def local_lines(results: Path) -> list[str]:
    """What `dual`, `local_speed`, `local_claims` and `local_learning` found."""
    lines = [*_learning(results / "local")]
    for name, write in (("local_claims", _claims), ("dual", _dual), ("local_speed", _speed)):
        if (path := results / f"{name}.json").exists():
            found = json.loads(path.read_text())
            lines += [*write(found), "", f"Command: `python bench/{name}.py`", "", *bare_provenance(found), ""]
    return ["## Local methods", "", *lines] if lines else []


def _curve(runs: list[dict[str, Any]], task: str) -> Iterator[tuple[str, ...]]:
    """Rows of mean final distances: first, at the task's number of rollouts, and last."""
    last = WITHIN.get(task, 10**9)
    shown = [[row for row in run["rows"] if row["rollouts"] <= last] for run in runs]
    for label, at in (("first iteration", 0), ("half way", None), ("last", -1)):
        rows = [each[len(each) // 2 if at is None else at] for each in shown]
        distances = [100.0 * float(np.mean(row["distance"])) for row in rows]
        wins = [all(row["success"]) if None not in row["success"] else np.mean(row["distance"]) < 0.01 for row in rows]
        rollouts = sorted({row["rollouts"] for row in rows})
        seconds = float(np.median([row["seconds"] for row in rows]))
        yield (
            label,
            ", ".join(map(str, rollouts)),
            f"{np.mean(distances):.2f} ({', '.join(f'{d:.2f}' for d in distances)})",
            f"{sum(map(bool, wins))} of {len(wins)}",
            f"{seconds:.0f}",
        )


def _learning(folder: Path) -> list[str]:
    """One table per task and variant."""
    lines: list[str] = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        runs = [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]
        if not runs:
            continue
        task, _, variant = place.name.rpartition("-")
        for known in ("no-bound", "open-loop"):
            if place.name.endswith(known):
                task, variant = place.name.removesuffix(f"-{known}"), known
        head = ("", "rollouts", "final distance in cm: mean (each seed)", "solved", "seconds")
        lines += [f"### {task}: {variant}", "", *markdown(head, _curve(runs, task)), ""]
        name = runs[0]["task"]
        asked = f"{runs[0]['seed']}-{runs[-1]['seed']}"
        lines += [f"Command: `python bench/local_learning.py {name} --variants {variant} --seeds {asked}`", ""]
        lines += [*provenance(runs), ""]
    return lines


def _claims(found: dict[str, Any]) -> list[str]:
    """Every claim with its interval and verdict."""
    rows = []
    for row in found["claims"]:
        if "verdict" in row:
            low, high = row["interval"]
            rows.append((row["claim"], f"{row['mean']:.3g} [{low:.3g}, {high:.3g}]", row["verdict"]))
        else:
            rows.append((row["claim"], f"{row['count']:g}", ""))
    return ["### The lecture's claims about local methods", "", *markdown(("claim", "difference", "verdict"), rows)]


def _dual(found: dict[str, Any]) -> list[str]:
    """Solves of each way."""
    rows = [
        (
            name,
            *("never" if v is None else f"{v:g}" for v in (row["median"], row["p90"])),
            str(row["worst"]),
            f"{row['not_reached']} of {row['of']}",
        )
        for name, row in found["table"].items()
    ]
    head = ("problems, way", "median LQR solves", "90%", "worst", "bound not reached")
    lines = ["### The dual of the KL bound", "", *markdown(head, rows), ""]
    return [
        *lines,
        f"{found['count']} random problems; beyond the bound {found['beyond_the_bound']}, without a feasible "
        f"controller {found['failed']}, worse than the old one {found['worse_than_the_old']}: {met(found['met'])}.",
    ]


def _speed(found: dict[str, Any]) -> list[str]:
    """Ours beside NumPy."""
    ms, each = found["ms"], found["settings"]
    size = f"{each['n']} states, {each['m']} controls, {each['T']} steps, "
    size += f"{each['conditions']} conditions with {each['rollouts']} rollouts each"
    return [
        "### One iteration of the local method",
        "",
        *markdown(("", "median ms"), [("ours", f"{ms['ours']:.0f}"), ("NumPy, loops", f"{ms['numpy']:.0f}")]),
        "",
        f"{size}. {found['ratio']:.1f} times as fast (20: {met(found['ratio'] >= 20.0)}), at most 150 ms: "
        f"{met(ms['ours'] <= 150.0)}. The first call takes {found['first_call_s']:.1f} s.",
    ]
