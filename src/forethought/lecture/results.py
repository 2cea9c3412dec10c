"""What all measurements say together: the rows of the table, and results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from forethought.lecture.claim import TIMES, Claim, Judgement, judge
from forethought.runs.files import replace_durably, seal

FORMAT = 1
ONLY_FULL = "only with --full"
FAILED = "failed"
"""The verdict where no seed has a result."""


class Row(NamedTuple):
    """A claim with its measurement, if there is one, and the judgement."""

    claim: Claim
    found: dict[str, Any] | None
    """As `measuring.measure` gives it."""
    wrong: str | None
    """Why there is none, if it was asked for."""

    @property
    def effects(self) -> list[float | None]:
        """Of every seed; None where it failed."""
        return [] if self.found is None else [outcome["effect"] for outcome in self.found["outcomes"]]

    @property
    def judgement(self) -> Judgement:
        """Of the effects that there are."""
        return judge(self.effects, self.claim.margin)

    @property
    def failures(self) -> list[str]:
        """What went wrong, in sentences without a full stop."""
        outcomes = [] if self.found is None else self.found["outcomes"]
        each = [f"seed {outcome['seed']}: {outcome['error']}" for outcome in outcomes if outcome["effect"] is None]
        return [*([self.wrong] if self.wrong else []), *each]

    @property
    def verdict(self) -> str:
        """The verdict, or why there is none."""
        if self.found is None and self.wrong is None:
            return ONLY_FULL if not self.claim.seeds else "not measured"
        return self.judgement.verdict if self.judgement.count else FAILED

    @property
    def seconds(self) -> float | None:
        """That its process measured, by the clock."""
        return None if self.found is None else self.found["seconds"]

    @property
    def cpu_seconds(self) -> float | None:
        """That its process computed."""
        return None if self.found is None else self.found["cpu_seconds"]


def number(value: float, unit: str) -> str:
    """An effect as it is shown: of a logarithm, the ratio."""
    if unit == TIMES and abs(value) > 500.0:
        return f"e^{value:.0f}"
    return f"{math.exp(value) if unit == TIMES else value:#.3g}".rstrip(".")


def effect(row: Row) -> str:
    """The mean effect with its interval, in words."""
    found, unit = row.judgement, row.claim.unit
    if found.mean is None:
        return "-"
    low_high = "" if found.interval is None else " [{}, {}]".format(*(number(v, unit) for v in found.interval))
    return f"{number(found.mean, unit)}{low_high} {unit}"


def needs(claim: Claim) -> str:
    """What the whole interval has to be above."""
    return f"> {math.exp(claim.margin) if claim.unit == TIMES else claim.margin:.3g}"


def counts(row: Row) -> str:
    """How many seeds there are an effect of, and how many failed."""
    found = row.judgement
    return f"{found.count}" + (f" ({found.failed} failed)" if found.failed else "")


def tally(rows: list[Row]) -> str:
    """How many claims came to what."""
    words = [row.verdict for row in rows]
    order = [*dict.fromkeys(["holds", "does not hold", "undecided", *words])]
    said = [f"{word}: {words.count(word)}" for word in order if word in words or word in order[:3]]
    return f"{len(rows)} claims; {', '.join(said)}."


def as_dict(rows: list[Row], full: bool, command: str) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "format": FORMAT,
        "full": full,
        "command": command,
        "claims": [_row(row) for row in rows],
        "seconds": round(sum(row.seconds or 0.0 for row in rows), 3),
        "cpu_seconds": round(sum(row.cpu_seconds or 0.0 for row in rows), 3),
        "versions": distinct(rows, "versions"),
        "machines": distinct(rows, "machine"),
    }


def _row(row: Row) -> dict[str, Any]:
    claim, found = row.claim, row.judgement
    measured = row.found is not None or row.wrong is not None
    words = ("name", "section", "sentence", "prediction", "how", "unit", "margin", "note")
    return {word: getattr(claim, word) for word in words} | {
        "verdict": row.verdict if measured else None,
        "mean": found.mean,
        "interval": None if found.interval is None else list(found.interval),
        "count": found.count,
        "failed": found.failed,
        "failures": row.failures,
        "outcomes": [] if row.found is None else row.found["outcomes"],
        "seconds": row.seconds,
        "cpu_seconds": row.cpu_seconds,
        "ended": None if row.found is None else row.found["ended"],
    }


def distinct(rows: list[Row], name: str) -> list[Mapping[str, Any]]:
    """What the measurements say they were made with or on: one, unless they were made in several places."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        if row.found is not None and row.found[name] not in found:
            found.append(row.found[name])
    return found


def places(rows: list[Row]) -> list[str]:
    """Machine and versions in a line each."""
    machines = [f"{m['platform']}, {m['cpus']} cpus, {', '.join(m['devices'])}" for m in distinct(rows, "machine")]
    shown = ("forethought", "python", "jax", "numpy")
    versions = [", ".join(f"{name} {v[name]}" for name in shown if name in v) for v in distinct(rows, "versions")]
    return [*dict.fromkeys(machines), *dict.fromkeys(versions)]


def write(out: Path, found: dict[str, Any]) -> None:
    """results.json.  Raises `OSError`."""
    replace_durably(out / "results.json", seal(found))
