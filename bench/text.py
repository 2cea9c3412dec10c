"""How results become text: numbers, intervals, tables, and what they were made with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MISSING = "*Not measured yet.*"


def read(folder: Path) -> dict[str, Any]:
    """File stem to content, for the JSON files of a folder."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def number(value: float) -> str:
    """Short, with at least three digits of sense."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def interval(values: Sequence[float]) -> str:
    """Mean with a 95% bootstrap interval over seeds (percentiles of 10,000 resampled means, fixed random numbers)."""
    each = np.asarray(values, float)
    if len(each) < 2:
        return number(float(each.mean()))
    picks = np.random.default_rng(0).integers(len(each), size=(10_000, len(each)))
    low, high = np.percentile(each[picks].mean(axis=1), [2.5, 97.5])
    return f"{number(float(each.mean()))} [{number(float(low))}, {number(float(high))}]"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table: the first column to the left, the others to the right."""
    bar = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, bar, *rows)]


def distinct(values: Iterable[Any]) -> list[str]:
    """Each value once, in order of appearance."""
    return list(dict.fromkeys(v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values))


def provenance(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Settings, commit and machine; more than one of each where the results are of several."""
    settings = distinct(run["settings"] for run in runs)
    commits = distinct(run["commit"][:12] + run["commit"][40:] for run in runs)
    machines = distinct(describe(run["machine"]) for run in runs)
    lines = [f"- settings: `{text}`" for text in settings]
    lines += [f"- commit: {', '.join(commits)}", *(f"- machine: {text}" for text in machines)]
    if len(settings) > 1:
        lines.insert(0, "- **the seeds were run with different settings:**")
    return [*lines, ""]


def describe(machine: dict[str, Any]) -> str:
    """A machine in one line."""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"


def milliseconds(value: float) -> str:
    """Seconds as text in ms or s."""
    return f"{1e3 * value:.2f} ms" if value < 1 else f"{value:.2f} s"


def met(yes: bool) -> str:
    """Whether a target is met."""
    return "met" if yes else "**missed**"
