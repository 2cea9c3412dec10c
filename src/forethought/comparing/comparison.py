"""Runs compared: what each configuration is worth, over its seeds, on each task.

    from forethought.comparing.comparison import compare

    print(compare(["runs/a", "runs/b"]).text())

A run counts with the controller that it ended with, never with the best that it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.comparing.as_json import as_dict
from forethought.comparing.overall import overall
from forethought.comparing.page import page
from forethought.comparing.records import NotCounted, Record, read_record
from forethought.comparing.results import Findings, LeftOut, Overall, Table
from forethought.comparing.tables import by_task, table
from forethought.comparing.text import text
from forethought.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Tables, what they come to together, and what was not counted."""

    findings: Findings

    @property
    def tables(self) -> tuple[Table, ...]:
        """One per task."""
        return self.findings.tables

    @property
    def overall(self) -> Overall | None:
        """Over all tasks, where the same configurations were run on several."""
        return self.findings.overall

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Runs that are not counted, and why."""
        return self.findings.left_out

    def text(self) -> str:
        """For a terminal."""
        return text(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For machines: everything, as JSON can hold it."""
        return as_dict(self.findings)

    def html(self) -> str:
        """One page that needs nothing else."""
        return page(self.findings)


def compare(
    paths: Iterable[Path | str],
    threshold: float | None = None,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """Compare the runs in these directories.

    `threshold` is the return that counts as solved (None: the task's own, as evaluations noted it).  `scales` says for
    each task, by name, which return is 0 and which is 1, so that tasks can be averaged.  Raises `UserError` for a
    directory that is not there; a run that cannot be counted is in `left_out`, with the reason.
    """
    records, left_out = _read_all([Path(path) for path in paths])
    tables: list[Table] = []
    for chosen in by_task(records):
        made, more = table(chosen, threshold)
        left_out += more
        tables += [] if made is None else [made]
    tables.sort(key=lambda each: each.title)
    return Comparison(Findings(tuple(tables), overall(tables, scales or {}), tuple(left_out)))


def _read_all(paths: Sequence[Path]) -> tuple[list[Record], list[LeftOut]]:
    """Every run that can be counted, once, and the others."""
    if not paths:
        raise UserError("compare takes one run directory or more, and none was given.")
    records: list[Record] = []
    left_out: list[LeftOut] = []
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no run directory: there is no such folder.")
        try:
            record = read_record(path)
            if record.name in seen:
                raise NotCounted(f"it is the same run as {seen[record.name]}.")
        except NotCounted as reason:
            left_out.append(LeftOut(path, str(reason)))
            continue
        seen[record.name] = path
        records.append(record)
    return records, left_out
