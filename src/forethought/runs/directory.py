"""A run directory: plain files, each of which can be read without this library.

- config.json: the recipe, and the name of the run
- run.json: versions, machine and the command of every start
- metrics.jsonl: one line per turn of the loop; metrics.crc: a CRC-32 of each line
- episodes/: one safetensors file per episode, and SHA256SUMS
- checkpoints/: the newest few and the best, each with its SHA-256
- journal/: the open episode, step by step
- evaluations/: what evaluations from the task's fixed starts found
- error.txt: where an unexpected error came from; for people, nothing reads it
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forethought.errors import UserError
from forethought.runs.files import Damaged, read_sealed, replace_durably, seal, storing
from forethought.runs.machine import machine, versions

CONFIG_FORMAT = 2
PARTS = ("checkpoints", "episodes", "journal", "evaluations")


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
    def journal(self) -> Path:
        """What happens in the open episodes."""
        return self.path / "journal"

    @property
    def metrics(self) -> Path:
        """One line per turn of the loop."""
        return self.path / "metrics.jsonl"

    def read_config(self) -> tuple[str, dict[str, Any]]:
        """Name of the run, and the recipe as JSON.  Raises `Damaged`, or `UserError` if it is of another format."""
        config = read_sealed(self.path / "config.json")
        if type(config.get("format")) is not int:
            raise Damaged("config.json is not as this version writes it.")
        if config["format"] != CONFIG_FORMAT:
            raise UserError(
                f"{self.path / 'config.json'} has the format {config.get('format')!r}; "
                f"this version of forethought reads {CONFIG_FORMAT}: use the version that wrote it (see run.json)."
            )
        if not isinstance(config.get("experiment"), dict) or not isinstance(config.get("run"), str):
            raise Damaged("config.json is not as this version writes it.")
        return config["run"], config["experiment"]

    def is_named(self, name: str) -> bool:
        """Whether run.json, too, says that the run has this name."""
        try:
            return read_sealed(self.path / "run.json").get("run") == name
        except Damaged:
            return False

    def write_config(self, run: str, experiment: dict[str, Any]) -> None:
        """Write the recipe."""
        config = {"format": CONFIG_FORMAT, "run": run, "experiment": experiment}
        with storing(str(self.path / "config.json")):
            replace_durably(self.path / "config.json", seal(config))

    def note_start(self, run: str, command: str | None) -> None:
        """Write down, or add, how and where the run was started or resumed.  A file that is damaged is put aside."""
        file = self.path / "run.json"
        starts: list[Any] = []
        if file.exists():
            try:
                found = read_sealed(file).get("starts")
                starts = found if isinstance(found, list) else []
            except Damaged:
                file.replace(self.path / "run.json.damaged")
        starts.append(
            {
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                # A file name of bytes that are no UTF-8 would make this a file that is no JSON.
                "command": (command or shlex.join(sys.orig_argv)).encode(errors="backslashreplace").decode(),
                "versions": versions(),
                "machine": machine(),
            }
        )
        with storing(str(file)):
            replace_durably(file, seal({"run": run, "starts": starts}))


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
    if not (path / "config.json").is_file() and not (path / "checkpoints").is_dir():
        raise UserError(f"{path} is no run directory: it has neither config.json nor checkpoints.")
    for part in (*PARTS, "config.json", "run.json", "metrics.jsonl"):
        if (path / part).is_symlink():
            raise UserError(f"{path / part} is a link; links in a run directory are not followed: put the file there.")
    return RunDirectory(path.absolute())


def may_be_file(name: str, value: Any) -> bool:
    """Whether a keyword argument of an environment may name a file: by its value, or by its own name."""
    if isinstance(value, str):
        return os.sep in value or Path(value).suffix != "" or re.search("file|path|dir|xml|model", name) is not None
    return isinstance(value, (list, dict))


def to_name_again(path: Path, *, resume: bool) -> str:
    """The flags that a command on this run needs, because its recipe has what no file may name: --task, --experiment,
    --env, and to `resume` it --base; or nothing."""
    try:
        _, config = existing(path).read_config()
    except (Damaged, UserError):
        return ""
    task, base, env = config.get("task"), config.get("base"), config.get("env")
    flags = [f"--task {shlex.quote(task)}"] if isinstance(task, str) and ":" in task else []
    if '{"kind": "own"' in json.dumps(config):
        flags = ["--experiment FILE"]
    items = env.get("items", {}) if isinstance(env, dict) else {}
    flags += [f"--env.{k} {shlex.quote(json.dumps(v))}" for k, v in items.items() if may_be_file(k, v)]
    if resume and base not in ("random", "coloured", None):
        flags.append(f"--base {shlex.quote(str(base))}")
    return "".join(f" {flag}" for flag in flags)


def strict(value: Any) -> Any:
    """The value with NaN as null and infinities as "Infinity" and "-Infinity": JSON knows neither."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
