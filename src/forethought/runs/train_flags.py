"""The command line of `train`: which classes, which settings, and the experiment that they make."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from forethought.algorithms.globally import V05, V10, V15
from forethought.core import AbstractAlgorithm
from forethought.models.ensemble import EnsembleLearner
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.mppi import MPPI
from forethought.planners.shooting import RandomShooting
from forethought.runs.experiment import Experiment
from forethought.runs.flags import Common, flags_of, parse, reach, read_file, split
from forethought.types import UserError

ALGORITHMS: dict[str, type] = {"v0.5": V05, "v1.0": V10, "v1.5": V15}
PLANNERS: dict[str, type] = {"shooting": RandomShooting, "cem": CEM, "icem": ICEM, "mppi": MPPI}
MODELS: dict[str, type] = {"ensemble": EnsembleLearner}
SHORT = {"--planner.": "--algorithm.planner.", "--model.": "--algorithm.learner."}
"""Shorter prefixes, after the flags that choose the classes."""


def switches() -> set[str]:
    """The flags without a value, over all shipped recipes."""
    found = {"-h", "--help"}
    for recipe in (Common(), Experiment(""), *(Experiment("", algorithm=cls()) for cls in ALGORITHMS.values())):
        found |= {name for name, flag in flags_of(recipe).items() if flag.switch}
    for cls in PLANNERS.values():
        found |= {name for name, flag in flags_of(cls(), "--algorithm.planner.").items() if flag.switch}
    shorts = {name.replace(long, short, 1) for name in found for short, long in SHORT.items()}
    return found | shorts


class Train(NamedTuple):
    """What `train` was asked for."""

    experiment: Experiment
    common: Common


def parse_train(argv: Sequence[str]) -> Train:
    """The experiment of a command line.  Raises `UserError`."""
    places, rest = split(argv, switches())
    asked_help = bool({"-h", "--help"} & set(rest))
    if len(places) != 1 and not (asked_help and not places):
        got = "none was given" if not places else f"{len(places)} were given: {' '.join(places)}"
        raise UserError(
            f"train takes one task, and {got}; for example: forethought train Pendulum-v1. See 'forethought tasks'."
        )
    task = places[0] if places else "TASK"
    reach(task)
    chosen, env, rest = take_chosen(rest)
    default = read_file(Path(task)) if task.endswith(".py") else Experiment(task)
    default = dataclasses.replace(default, algorithm=choose(default.algorithm, chosen))
    view = _view(default)
    found = parse(view, rest, "forethought train TASK", TRAIN)
    common = Common(**{f.name: getattr(found, f.name) for f in dataclasses.fields(Common)})
    own = getattr(default.algorithm, "base", None)
    algorithm = found.algorithm if own is None else dataclasses.replace(found.algorithm, base=own)
    settings = {f.name: getattr(found, f.name) for f in dataclasses.fields(Experiment) if f.name not in ("task", "env")}
    settings |= {"task": default.task, "env": default.env | env, "algorithm": algorithm}
    return Train(Experiment(**settings), common)


TRAIN = """Learn a controller. TASK is a Gymnasium id, module:id, the name of a classic task, or a file of your own that
defines experiment = Experiment(...).

--algorithm {v0.5,v1.0,v1.5}  --planner {shooting,cem,icem,mppi}  --model {ensemble} choose the classes; their settings
are flags below. --planner.X is short for --algorithm.planner.X, and --model.X for --algorithm.learner.X.
--env.NAME VALUE passes keyword arguments to gymnasium.make (JSON, or a text): --env.g 9.81"""


def take_chosen(argv: Sequence[str]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """(names of classes, keyword arguments of the environment, the other tokens with short prefixes written out)."""
    tables = {"--algorithm": ALGORITHMS, "--planner": PLANNERS, "--model": MODELS}
    chosen: dict[str, str] = {}
    env: dict[str, Any] = {}
    rest, tokens = [], list(argv)
    while tokens:
        name, equals, value = tokens.pop(0).partition("=")
        if name not in tables and not name.startswith("--env."):
            long = next((name.replace(s, full, 1) for s, full in SHORT.items() if name.startswith(s)), name)
            rest.append(long + equals + value)
            continue
        if not equals:
            if not tokens:
                raise UserError(f"{name} needs a value.")
            value = tokens.pop(0)
        if name in tables:
            chosen[name] = _known(name, value, tables[name])
        else:
            env[name.removeprefix("--env.")] = _json_or_text(value)
    return chosen, env, rest


def _known(flag: str, value: str, table: dict[str, type]) -> str:
    if value in table:
        return value
    near = difflib.get_close_matches(value, table, n=1)
    hint = f" The nearest is {near[0]}." if near else ""
    raise UserError(f"{flag} is {value!r}; it must be {' or '.join(table)}.{hint}")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def choose(algorithm: AbstractAlgorithm, chosen: dict[str, str]) -> Any:
    """The algorithm with the chosen classes; where a class stays, so do its settings."""
    swaps = (("planner", "--planner", PLANNERS), ("learner", "--model", MODELS))
    if "--algorithm" in chosen and type(algorithm) is not ALGORITHMS[chosen["--algorithm"]]:
        algorithm = ALGORITHMS[chosen["--algorithm"]]()
    for name, flag, table in swaps:
        if flag in chosen and type(getattr(algorithm, name, None)) is not table[chosen[flag]]:
            if not hasattr(algorithm, name):
                raise UserError(f"{flag} was given, but {type(algorithm).__name__} has no {name}.")
            algorithm = dataclasses.replace(algorithm, **{name: table[chosen[flag]]()})  # pyright: ignore
    return algorithm


def _view(default: Experiment) -> Any:
    """The fields of an experiment that are flags, and the common ones, as one dataclass for tyro."""
    algorithm = default.algorithm
    if getattr(algorithm, "base", None) is not None:
        algorithm = dataclasses.replace(algorithm, base=None)  # pyright: ignore[reportCallIssue]
    shown = dataclasses.replace(default, algorithm=algorithm)
    fields = []
    for source in (shown, Common()):
        hints, docs = typing.get_type_hints(type(source)), docstrings(type(source))
        for field in dataclasses.fields(source):
            if field.name in ("task", "env"):
                continue
            value = getattr(source, field.name)
            kind = type(value) if dataclasses.is_dataclass(value) else hints[field.name]
            if field.name in docs and not dataclasses.is_dataclass(value):
                kind = typing.Annotated[kind, tyro.conf.arg(help=docs[field.name])]
            fields.append((field.name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass("Train", fields, frozen=True)()


def docstrings(cls: type) -> dict[str, str]:
    """The text below each field of a class."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(text.value.value).split())  # pyright: ignore
    return found
