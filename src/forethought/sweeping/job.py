"""What is run, within which limits, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from forethought.errors import UserError
from forethought.runs.files import Damaged, read_sealed, replace_durably, seal, storing

FORMAT = 1
STATES, LOGS = "states", "logs"
MB = 10**6


@dataclass(frozen=True)
class Job:
    """A command, which runs as a process of its own."""

    name: str
    """A file name: the job's log and state are called so."""
    argv: tuple[str, ...]
    result: Path | None = None
    """What is there when the job is done: a job that ends well without it has failed."""
    resume: tuple[str, ...] | None = None
    """What is run in place of `argv` where `begun` is there."""
    begun: Path | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """What is run now."""
        again = self.resume is not None and self.begun is not None and self.begun.exists()
        return self.resume if again and self.resume is not None else self.argv


class Caps(NamedTuple):
    """What one try of a job may take; None: anything."""

    seconds: float | None = None
    """Wall clock."""
    megabytes: float | None = None
    """Memory that the process and its descendants hold at one time, in 10^6 bytes."""

    def check(self) -> None:
        """Raise `UserError` for a limit that is none."""
        for name, value in (("time-limit", self.seconds), ("memory-limit", self.megabytes)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"--{name} is {value:g}; it must be a finite number, larger than 0.")


class Outcome(NamedTuple):
    """How a job ended."""

    name: str
    status: Literal["done", "failed"]
    reason: str
    """Why it failed, in words; nothing if it did not."""
    seconds: float
    peak_mb: float
    """The most memory that was seen; 0 where it could not be measured."""
    earlier: bool = False
    """Whether it was done before this sweep began."""


class Place(NamedTuple):
    """Where a sweep keeps its files."""

    folder: Path

    @property
    def states(self) -> Path:
        """One small JSON file per job that has ended."""
        return self.folder / STATES

    @property
    def logs(self) -> Path:
        """What each job printed, all its tries in one file."""
        return self.folder / LOGS

    def write(self, outcome: Outcome) -> None:
        """Keep how a job ended: whole, or not at all.  Raises `StorageError`."""
        fields = {k: v for k, v in outcome._asdict().items() if k != "earlier"}
        file = self.states / f"{outcome.name}.json"
        with storing(str(file)):
            replace_durably(file, seal({"format": FORMAT, **fields}))

    def read(self, name: str) -> Outcome | None:
        """How a job ended; None if it has not, or if the file is not as it was written: then it is run again."""
        try:
            found = read_sealed(self.states / f"{name}.json")
        except Damaged:
            return None
        return _outcome(found) if found.get("name") == name and found.get("format") == FORMAT else None


def _outcome(found: Mapping[str, Any]) -> Outcome | None:
    """The outcome that a file tells of, if it does."""
    status, reason, seconds, peak = (found.get(key) for key in ("status", "reason", "seconds", "peak_mb"))
    if status not in ("done", "failed") or not isinstance(reason, str):
        return None
    if type(seconds) not in (int, float) or type(peak) not in (int, float):
        return None
    return Outcome(str(found["name"]), status, reason, float(seconds), float(peak))  # pyright: ignore
