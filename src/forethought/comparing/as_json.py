"""A comparison as plain values that JSON can hold."""

from __future__ import annotations

from typing import Any

from forethought.comparing.results import Entry, Findings, Group, Pair, Table
from forethought.comparing.statistics import DRAWS, LEVEL, Interval, Probability

FORMAT = 1


def as_dict(found: Findings) -> dict[str, Any]:
    """Everything that was found."""
    overall = found.overall
    return {
        "format": FORMAT,
        "interval": {"kind": "expanded percentile of a stratified bootstrap", "level": LEVEL, "draws": DRAWS},
        "tables": [_table(table) for table in found.tables],
        "overall": None
        if overall is None
        else {
            "groups": list(overall.names),
            "scaled_iqm": [{"iqm": value, "interval": _interval(each)} for value, each in overall.iqms] or None,
            "pairs": [_pair(pair) for pair in overall.pairs],
            "notes": list(overall.notes),
        },
        "left_out": [{"path": str(each.path), "reason": each.reason} for each in found.left_out],
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "task": table.task,
        "settings": table.settings,
        "threshold": table.threshold,
        "by": "evaluations" if table.evaluated else "training returns",
        "groups": [_group(group) for group in table.groups],
        "pairs": [_pair(pair) for pair in table.pairs],
        "notes": list(table.notes),
    }


def _group(group: Group) -> dict[str, Any]:
    reached = group.to_threshold
    return {
        "name": group.name,
        "recipe": group.recipe,
        "iqm": group.iqm,
        "interval": _interval(group.interval),
        "steps_to_threshold": None if reached is None else reached._asdict(),
        "runs": [_run(entry) for entry in group.entries],
        "band": [{"steps": p.steps, "iqm": p.iqm, "interval": _interval(p.interval)} for p in group.band],
    }


def _run(entry: Entry) -> dict[str, Any]:
    record = entry.record
    final = record.final
    return {
        "path": str(record.path),
        "run": record.name,
        "seed": record.seed,
        "score": entry.score,
        "env_steps": record.env_steps,
        "training_episodes": record.episodes,
        "seconds": record.seconds,
        "solved_at": entry.solved_at,
        "successes": None if final is None else final.successes,
        "starts": None if final is None else len(final.starts),
        "curve": [list(point) for point in entry.curve],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    paired = None if pair.paired is None else _probability(pair.paired)
    return {"first": pair.first, "second": pair.second, "all_pairs": _probability(pair.all_pairs), "paired": paired}


def _probability(found: Probability) -> dict[str, Any]:
    return {"probability": found.value, "interval": _interval(found.interval)}


def _interval(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict()
