"""Flags from dataclasses: every field of a recipe, and of the recipes in it, by its path (--planner.samples)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from forethought.runs.command_line import Common, flags_of, one_place, parse_plain, quoted, split
from forethought.runs.experiment import Experiment
from forethought.runs.rules import nameable
from forethought.runs.validate import check
from forethought.types import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OnRun(Common):
    """What commands on a run directory take."""

    task: str | None = None
    """The run's task, which must be named again if it is a module:id."""
    experiment: Path | None = None
    """The user's file that the run was made from, which must be named again if its recipe has classes of its own."""
    strict: bool = False
    """Refuse a run of which any file is damaged, instead of naming it and going on with what is whole."""


@dataclasses.dataclass(frozen=True)
class Resume(OnRun):
    """What `resume` takes."""

    steps: int | None = None
    """A new budget of environment steps, those already taken included."""
    base: str | None = None
    """The run whose controller collects the first data, which must be named again if they are not complete."""


@dataclasses.dataclass(frozen=True)
class Evaluate(OnRun):
    """What `evaluate` takes."""

    episodes: int | None = None
    """How many episodes; None: one from each of the task's fixed starts."""
    seed: int | None = None
    """Start from the reset seeds seed, seed + 1, ... instead of the fixed ones."""
    best: bool = False
    """The controller with the best training returns instead of the newest one."""


@dataclasses.dataclass(frozen=True)
class Demo(Common):
    """What `demo` takes."""

    out: Path | None = None
    """The run directory; None: a new one under runs/."""


def parse(default: T, argv: Sequence[str], prog: str, about: str) -> T:
    """`parse_plain`, and the rules of the recipes in it."""
    found = parse_plain(default, argv, prog, about)
    check(found)
    return found


D = TypeVar("D", bound=Common)


def take_env(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(keyword arguments of the environment, --env.NAME VALUE, the other tokens).  Raises `UserError`."""
    env: dict[str, Any] = {}
    rest, tokens = [], list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        if not name.startswith("--env."):
            rest.append(token)
            continue
        if not equals and not tokens:
            raise UserError(f"{name} needs a value.")
        env[name.removeprefix("--env.")] = _json_or_text(value if equals else tokens.pop(0))
    return env, rest


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)


def parse_on_run(argv: Sequence[str], default: D, command: str, about: str) -> tuple[Path, D, dict[str, Any]]:
    """The run directory, the flags of a command line, and the keyword arguments of the environment that are named
    again.  Raises `UserError`."""
    env, argv = take_env(argv)
    known = {name for name, flag in flags_of(default).items() if flag.switch} | {"-h", "--help"}
    places, rest = split(argv, known)
    place = "." if {"-h", "--help"} & set(rest) else one_place(places, command, "run directory")
    asked = parse(default, rest, f"forethought {command} DIR", about)
    reach(getattr(asked, "task", None))
    return Path(place), asked, env


def reach(task: str | None) -> None:
    """Let a module:id be found in the current folder too; last, so that nothing there can hide what is installed.

    Raises `UserError` for what cannot be a name at all.
    """
    if task is not None and not (task.isprintable() and nameable(task)):
        raise UserError(f"The task is {quoted(task)}; it must be a name: see 'forethought tasks'.")
    here = str(Path.cwd())
    if task is not None and ":" in task and here not in sys.path:
        sys.path.append(here)


def read_file(path: Path) -> Experiment:
    """The experiment of a user's own file, which is run: that is what the user asked for by naming it."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location("forethought_experiment", path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in annotations
    if str(path.absolute().parent) not in sys.path:
        sys.path.insert(0, str(path.absolute().parent))
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        place = f"line {lines[-1]}" if lines else f"line {getattr(error, 'lineno', '?')}"
        raise UserError(f"{path}, {place}: {type(error).__name__}: {error}") from error
    found = getattr(module, "experiment", None)
    if not isinstance(found, Experiment):
        raise UserError(f"{path} must define experiment = Experiment(...); it defines {type(found).__name__}.")
    return found
