"""A run directory: plain files, each of which can be read without this library.

- config.json: the recipe
- run.json: versions, machine and the command of every start
- metrics.jsonl: one line per turn of the loop
- episodes/: one safetensors file per episode
- checkpoints/: the newest few, each with its SHA-256
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forethought.runs.checkpoint import replace_durably
from forethought.runs.machine import machine, versions
from forethought.types import UserError

CONFIG_FORMAT = 1


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def episodes(self) -> Path:
        """Where the episode files are."""
        return self.path / "episodes"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One line per turn of the loop."""
        return self.path / "metrics.jsonl"

    def read_config(self) -> dict[str, Any]:
        """The recipe, as JSON.  Raises `UserError` if this is no run."""
        config = read_json(self.path / "config.json", f"{self.path} is no run directory")
        if config.get("format") != CONFIG_FORMAT or not isinstance(config.get("experiment"), dict):
            raise UserError(
                f"{self.path / 'config.json'} has the format {config.get('format')!r}; "
                f"this version of forethought reads {CONFIG_FORMAT}."
            )
        return config["experiment"]

    def write_config(self, experiment: dict[str, Any]) -> None:
        """Write the recipe."""
        write_json(self.path / "config.json", {"format": CONFIG_FORMAT, "experiment": experiment})

    def note_start(self, command: str | None) -> None:
        """Write down, or add, how and where the run was started or resumed."""
        file = self.path / "run.json"
        known = read_json(file, f"{self.path} is no run directory") if file.exists() else {"starts": []}
        if not isinstance(known.get("starts"), list):
            raise UserError(f"{file} is not as it was written: it has no list of starts.")
        known["starts"].append(
            {
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command or shlex.join(sys.orig_argv),
                "versions": versions(),
                "machine": machine(),
            }
        )
        write_json(file, known)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line of strict JSON."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(strict(line), allow_nan=False) + "\n")

    def keep_metrics(self, lines: int) -> None:
        """Drop what was written after the checkpoint that a resumed run goes on from."""
        if self.metrics.exists():
            kept = self.metrics.read_bytes().splitlines(keepends=True)[:lines]
            replace_durably(self.metrics, b"".join(kept))


def create(out: Path | None, name: str) -> RunDirectory:
    """A new run directory: `out`, or runs/NAME-TIMESTAMP.  Raises `UserError` if a run, or anything, is there."""
    if out is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
        out = Path("runs") / f"{plain}-{stamp}"
        for again in range(2, 100):
            if not out.exists():
                break
            out = out.with_name(f"{plain}-{stamp}-{again}")
    out = out.absolute()
    if (out / "config.json").exists():
        raise UserError(
            f"{out} already holds a run; go on with it by 'forethought resume {out}', or give another directory."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty directory; give another one.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run directory {out} cannot be made: {error.strerror}.") from error
    return RunDirectory(out)


def existing(path: Path) -> RunDirectory:
    """The directory of a run.  Raises `UserError` if there is none."""
    if not path.is_dir():
        raise UserError(f"{path} is no run directory: there is no such folder.")
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is no run directory: it has no config.json.")
    return RunDirectory(path.absolute())


def to_name_again(path: Path) -> str:
    """The flags that a command on this run needs, because its recipe has what no file may name: " --task ..." or
    " --experiment FILE", or nothing."""
    config = existing(path).read_config()
    task = config.get("task")
    named = f" --task {shlex.quote(task)}" if isinstance(task, str) and ":" in task else ""
    return " --experiment FILE" if '{"kind": "own"' in json.dumps(config) else named


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.  Raises `UserError` beginning with `what`."""
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"{what}: {path.name} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: {path.name} is no JSON ({error}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{what}: {path.name} holds no JSON object.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, all of it or nothing."""
    replace_durably(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def strict(value: Any) -> Any:
    """The value with NaN as null and infinities as "Infinity" and "-Infinity": JSON knows neither."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
