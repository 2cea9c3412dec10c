"""What a comparison is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from forethought.comparing.configurations import Recipe, flatten
from forethought.comparing.records import Point, Record
from forethought.comparing.statistics import Interval, Probability, StepsToThreshold


class LeftOut(NamedTuple):
    """A run that is not counted, and why."""

    path: Path
    reason: str


class Entry(NamedTuple):
    """One run in a table."""

    record: Record
    score: float
    """What the controller that it ended with is worth."""
    curve: tuple[Point, ...]
    solved_at: int | None
    """The first steps of the curve at which the threshold was reached."""


class BandPoint(NamedTuple):
    """Where the seeds of a configuration were after so many steps."""

    steps: int
    iqm: float
    interval: Interval | None


@dataclass(frozen=True)
class Group:
    """The runs of one configuration on one task."""

    name: str
    configuration: str
    """The same text for the same configuration on every task."""
    recipe: Recipe
    entries: tuple[Entry, ...]
    """In the order of their seeds."""
    iqm: float
    interval: Interval | None
    to_threshold: StepsToThreshold | None
    """None where no threshold is known."""
    band: tuple[BandPoint, ...]

    @property
    def seeds(self) -> list[int]:
        """One per run."""
        return [entry.record.seed for entry in self.entries]

    @property
    def scores(self) -> list[float]:
        """One per run."""
        return [entry.score for entry in self.entries]


class Pair(NamedTuple):
    """Two configurations: how probable it is that the first is better."""

    first: str
    second: str
    all_pairs: Probability
    paired: Probability | None
    """By seed, where both have the same seeds."""


@dataclass(frozen=True)
class Table:
    """All that was run on one task."""

    task: str
    settings: Recipe
    """The fields of the recipe that make the task."""
    threshold: float | None
    evaluated: bool
    """Whether runs count with evaluations from fixed starts; else with their training returns."""
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The task, and how it differs from the plain one."""
        plain = {"limit": None, "action_repeat": 1, "resets": [], "env": {}}
        flat = flatten({key: value for key, value in self.settings.items() if key != "task"})
        others = [f"{key}={json.dumps(value)}" for key, value in flat.items() if plain.get(key, ...) != value]
        return f"{self.task} ({', '.join(others)})" if others else self.task


@dataclass(frozen=True)
class Overall:
    """Configurations that were run on every task, each task a stratum."""

    names: tuple[str, ...]
    iqms: tuple[tuple[float, Interval | None], ...]
    """Of scaled returns; empty where not every task was given a scale."""
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """Tables, what they come to together, and what was not counted."""

    tables: tuple[Table, ...]
    overall: Overall | None
    left_out: tuple[LeftOut, ...]
