"""A run directory as the page sees it: read without jax, while the run may still be writing, and never written to.

What cannot be read is a sentence in `trouble`, and the rest is shown.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from forethought.console import addressed
from forethought.errors import printable
from forethought.reporting.charts import number
from forethought.reporting.episode_notes import EpisodeNote, Limits, episode_paths, note, seen_limits
from forethought.reporting.turns import FILE, Turns
from forethought.runs.directory import existing
from forethought.runs.evaluations import evaluation_files, read_evaluation
from forethought.runs.files import Damaged, read_sealed

T = TypeVar("T")

MOST_EPISODES = 2000
"""Episode files that are read at most, the newest ones."""
NAMES = {"V05": "v0.5", "V10": "v1.0", "V15": "v1.5", "V20": "v2.0", "Local": "local"} | {
    "Dyna": "dyna",
    "TrustRegion": "trpo",
}
"""Kind of an algorithm in config.json to its name on the command line."""


@dataclass
class Records:
    """What a run has written down."""

    path: Path
    label: str
    """The name of its folder."""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """The recipe."""
    starts: list[dict[str, Any]] = field(default_factory=list)
    """Of run.json: command, versions and machine of every start."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of metrics.jsonl."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    diagnosis: dict[str, Any] | None = None
    episodes: list[EpisodeNote] = field(default_factory=list)
    limits: Limits | None = None
    """Where actions end."""
    threshold: float | None = None
    """The return at which the task counts as solved, where the task itself was asked."""
    finished: bool = False
    """Whether it came to its end: it learned from everything once more, and saved that."""
    trouble: list[str] = field(default_factory=list)
    """What could not be read, and other things that should not be there."""

    @property
    def task(self) -> str:
        """The name of the task."""
        task = self.config.get("task")
        if isinstance(task, str):
            return printable(task)
        named = [e["task"] for e in self.evaluations if isinstance(e.get("task"), str)]
        return printable(named[-1]) if named else "a task of its own"

    @property
    def algorithm(self) -> str:
        """As the command line has it."""
        kind = str(self.setting("algorithm", "kind") or "")
        return NAMES.get(kind, printable(kind) or "an unknown algorithm")

    @property
    def seed(self) -> int | None:
        """The one seed of the run."""
        seed = self.config.get("seed")
        return seed if type(seed) is int else None

    @property
    def steps(self) -> int:
        """Real steps so far."""
        return max((line["env_steps"] for line in self.lines if type(line.get("env_steps")) is int), default=0)

    def setting(self, *keys: str) -> Any:
        """A part of the recipe, or None."""
        found: Any = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found


@dataclass
class Memory:
    """What was read before, so that only what has changed is read again."""

    kept: dict[Path, tuple[Any, Any]] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)

    def read(self, path: Path, how: Callable[[Path], T]) -> T:
        """What a file holds, by its name, size and time."""
        about = path.lstat()
        mark = (about.st_mtime_ns, about.st_size, about.st_ino)
        known = self.kept.get(path)
        if known is None or known[0] != mark:
            known = self.kept[path] = (mark, how(path))
        return known[1]


def read_records(path: Path, memory: Memory | None = None) -> Records:
    """Everything that a run has written down.  Raises `UserError` if there is no run."""
    run = existing(path).path
    found = Records(run, printable(run.name))
    _read_config(found)
    _read_metrics(found, memory)
    memory = memory or Memory()
    for file in evaluation_files(run).values():
        read = lambda path: read_evaluation(path, found.name or None)
        _try(found, lambda file=file, read=read: found.evaluations.append(memory.read(file, read)))
    if (run / "diagnosis.json").exists():
        _try(found, lambda: _read_diagnosis(found, memory))
    _read_episodes(found, memory)
    found.limits = seen_limits(found.episodes)
    _try(found, lambda: setattr(found, "finished", _finished(newest_checkpoint(run)[1])))
    if (run / "error.txt").is_file():
        found.trouble.append(
            "An unexpected error has broken the run off before: error.txt in the run says where it came from."
        )
    return found


def _try(found: Records, read: Callable[[], Any]) -> None:
    """Read something; what is wrong with it is trouble, and what has just gone is nothing."""
    try:
        read()
    except FileNotFoundError:
        pass
    except Damaged as error:
        found.trouble.append(printable(str(error)))
    except OSError as error:
        found.trouble.append(f"A file could not be read: {error.strerror}.")


def newest_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run, and its manifest.  Raises `FileNotFoundError` if there is none, and `Damaged`."""
    folder = path / "checkpoints"
    names = [p for p in folder.iterdir() if re.fullmatch(r"[0-9]{6,9}", p.name) and not p.is_symlink()]
    if folder.is_symlink() or not names:
        raise FileNotFoundError(errno.ENOENT, "there is no checkpoint yet", str(folder))
    newest = max(names, key=lambda p: int(p.name))
    return newest, read_sealed(newest / "manifest.json")


def _finished(manifest: dict[str, Any]) -> bool:
    notes = manifest.get("notes")
    return isinstance(notes, dict) and notes.get("finished") is True


def _read_config(found: Records) -> None:
    """config.json and run.json."""

    def config() -> None:
        sealed = read_sealed(found.path / "config.json")
        recipe, name = sealed.get("experiment"), sealed.get("run")
        found.config = recipe if isinstance(recipe, dict) else {}
        found.name = name if isinstance(name, str) else ""

    def starts() -> None:
        said = read_sealed(found.path / "run.json").get("starts")
        found.starts = [s for s in said if isinstance(s, dict)] if isinstance(said, list) else []

    _try(found, config)
    _try(found, starts)


def _read_diagnosis(found: Records, memory: Memory) -> None:
    """diagnosis.json, if it is of this run; an older version did not write down which run it is of."""
    read = memory.read(found.path / "diagnosis.json", _diagnosis)
    name = read.get("name")
    if found.name and name is not None and name != found.name:
        raise Damaged(f"diagnosis.json belongs to another run ({name!r}, and this one is {found.name!r}).")
    found.diagnosis = read


def _diagnosis(path: Path) -> dict[str, Any]:
    """diagnosis.json, if it is as this version writes it.  Raises `Damaged`."""
    found = read_sealed(path)
    ahead = found.get("ahead")
    right = (
        isinstance(ahead, list)
        and all(isinstance(a, dict) and type(a.get("steps")) is int for a in ahead)
        and isinstance(found.get("components"), list)
        and isinstance(found.get("sentences"), list)
    )
    if not right:
        raise Damaged(f"{path.name} is not as this version writes it.")
    return found


def _read_episodes(found: Records, memory: Memory) -> None:
    """The newest episode files."""
    paths = list(episode_paths(found.path).values())
    if len(paths) > MOST_EPISODES:
        found.trouble.append(f"Of {len(paths)} episode files the newest {MOST_EPISODES} are read.")
    for path in paths[-MOST_EPISODES:]:
        _try(found, lambda path=path: found.episodes.append(memory.read(path, note)))


def _read_metrics(found: Records, memory: Memory | None) -> None:
    """metrics.jsonl: all of it, or, where it is looked at again and again, a part each time."""
    turns = Turns() if memory is None else memory.turns
    _try(found, lambda: turns.read_on(found.path / FILE, whole=memory is None))
    found.lines = turns.lines
    found.trouble += turns.left_out()


def column(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(real steps, values) of the turns that have a number of this name; what is not finite is NaN."""
    rows = [(line["env_steps"], number(line[name])) for line in lines if name in line]
    values = [v if np.isfinite(v) else np.nan for _, v in rows]
    return [s for s, _ in rows], values


def to_type(run: Records, name: str) -> str:
    """What to type to do something with the run."""
    return f"forethought {name} {addressed(run.path)}"
