"""What every command has in common: sentences on standard error, the one object on standard output, and paths as they
would be typed.  Nothing heavy is imported here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forethought.errors import printable

if TYPE_CHECKING:
    from forethought.runs.command_line import Common
    from forethought.runs.experiment import Experiment


def complain(sentence: str, status: int) -> int:
    """Say what went wrong, on standard error."""
    print(f"forethought: {printable(sentence)}", file=sys.stderr)
    return status


def shown(path: Path) -> str:
    """A path as the user would type it: relative where it is below the current folder, quoted where needed."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def addressed(run: Path, *, resume: bool = False) -> str:
    """A run directory as the argument of a command, with what has to be named again."""
    from forethought.runs.directory import to_name_again

    return shown(run) + to_name_again(run, resume=resume)


def spoken(argv: Sequence[str]) -> str:
    """The command that is running, to be written into the run."""
    return shlex.join(["forethought", *argv])


def begin(common: Common, plans: Experiment | Path | None = None) -> None:
    """Settings of jax, before anything is built: for what an experiment or a run plans with, if there is one."""
    from forethought.runs.machine import prepare_jax

    prepare_jax(common.cache, plans)


def print_json(value: dict[str, Any]) -> None:
    """The one object on standard output."""
    import json

    from forethought.runs.directory import strict

    print(json.dumps(strict(value), allow_nan=False))
