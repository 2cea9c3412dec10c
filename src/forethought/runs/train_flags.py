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

from forethought.algorithms.dyna import Dyna
from forethought.algorithms.globally import V05, V10, V15, V20
from forethought.algorithms.locally import Local
from forethought.algorithms.trust_region import TrustRegion
from forethought.core import AbstractAlgorithm, AbstractPolicy
from forethought.models.auto import AutoLearner
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gmm import GMMLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.linear import LinearLearner
from forethought.models.mdn import MDNLearner
from forethought.models.plain import NetworkLearner
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.ilqr import ILQR
from forethought.planners.mcts import MCTS
from forethought.planners.mppi import MPPI
from forethought.planners.shooting import RandomShooting
from forethought.runs.command_line import Common, flags_of, one_place, quoted, split
from forethought.runs.experiment import Experiment
from forethought.runs.flags import parse, reach, read_file, take_env
from forethought.types import UserError

ALGORITHMS: dict[str, type] = {
    "v0.5": V05,
    "v1.0": V10,
    "v1.5": V15,
    "v2.0": V20,
    "local": Local,
    "dyna": Dyna,
    "trpo": TrustRegion,
}
PLANNERS: dict[str, type] = {
    "shooting": RandomShooting,
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "ilqr": ILQR,
    "mcts": MCTS,
}
MODELS: dict[str, type] = {
    "auto": AutoLearner,
    "gp": GPLearner,
    "ensemble": EnsembleLearner,
    "network": NetworkLearner,
    "mdn": MDNLearner,
    "gmm": GMMLearner,
    "linear": LinearLearner,
}
APART = ("task", "env", "resets")
"""Fields of an experiment that tyro does not read."""
SHORT = {"--planner.": "--algorithm.planner.", "--model.": "--algorithm.learner."}
"""Shorter prefixes, after the flags that choose the classes."""
SETTINGS = {"--proposal": "--algorithm.proposal", "--terminal": "--algorithm.terminal"}
"""Shorter names of settings that go with a planner."""


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
    example = "; for example: forethought train Pendulum-v1. See 'forethought tasks'."
    asked_help = bool({"-h", "--help"} & set(rest))
    task = "TASK" if asked_help and not places else one_place(places, "train", "task", example)
    reach(task)
    chosen, env, rest = take_chosen(rest)
    resets, rest = take_resets(rest)
    default = read_file(Path(task)) if task.endswith(".py") else Experiment(task)
    default = dataclasses.replace(default, algorithm=choose(default.algorithm, chosen))
    view = _view(default)
    found = parse(view, rest, "forethought train TASK", TRAIN)
    given = {token.partition("=")[0] for token in rest}
    common = Common(**{f.name: getattr(found, f.name) for f in dataclasses.fields(Common)})
    own = {name: value for name, value in _policies(default.algorithm).items() if f"--algorithm.{name}" not in given}
    algorithm = dataclasses.replace(found.algorithm, **own) if own else found.algorithm
    settings = {f.name: getattr(found, f.name) for f in dataclasses.fields(Experiment) if f.name not in APART}
    resets = default.resets if resets is None else resets
    settings |= {"task": default.task, "env": default.env | env, "resets": resets, "algorithm": algorithm}
    return Train(Experiment(**settings), common)


TRAIN = """Learn a controller. TASK is a Gymnasium id, module:id, the name of a classic task, or a file of your own that
defines experiment = Experiment(...).

--algorithm {v0.5,v1.0,v1.5,v2.0,local,dyna,trpo}  --planner {shooting,cem,icem,mppi,ilqr,mcts}
--model {auto,gp,ensemble,network,mdn,gmm,linear}
choose the classes; their settings are flags below. --planner.X is short for --algorithm.planner.X, and --model.X for
--algorithm.learner.X. --proposal policy and --terminal value train a policy beside the model of v1.5: it proposes to
the planner, and its value closes the horizon.
--env.NAME VALUE passes keyword arguments to gymnasium.make (JSON, or a text): --env.g 9.81
--resets JSON gives options for the environment's reset: a list, whose i-th part goes with reset seed i:
--resets '[{"start": [1.5, -1.6, -1.4]}, {"start": [1.6, -1.7, -1.5]}]'"""


def take_chosen(argv: Sequence[str]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """(names of classes, keyword arguments of the environment, the other tokens with short prefixes written out)."""
    tables = {"--algorithm": ALGORITHMS, "--planner": PLANNERS, "--model": MODELS}
    chosen: dict[str, str] = {}
    env, tokens = take_env(argv)
    rest = []
    while tokens:
        name, equals, value = tokens.pop(0).partition("=")
        if name not in tables:
            long = next((name.replace(s, full, 1) for s, full in SHORT.items() if name.startswith(s)), name)
            long = SETTINGS.get(long, long)
            rest.append(long + equals + value)
            continue
        if not equals:
            if not tokens:
                raise UserError(f"{name} needs a value.")
            value = tokens.pop(0)
        chosen[name] = _known(name, value, tables[name])
    return chosen, env, rest


def take_resets(argv: Sequence[str]) -> tuple[tuple[dict[str, Any], ...] | None, list[str]]:
    """(the reset options of --resets JSON, or None, the other tokens).  Raises `UserError`."""
    found, rest, tokens = None, [], list(argv)
    while tokens:
        name, equals, value = tokens.pop(0).partition("=")
        if name != "--resets":
            rest.append(name + equals + value)
            continue
        if not equals and not tokens:
            raise UserError("--resets needs a value.")
        text = value if equals else tokens.pop(0)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise UserError(f"--resets is {quoted(text)}; it must be a list of objects in JSON, one per reset seed.")
        found = tuple(found)
    return found, rest


def _known(flag: str, value: str, table: dict[str, type]) -> str:
    if value in table:
        return value
    near = difflib.get_close_matches(value, table, n=1)
    hint = f" The nearest is {near[0]}." if near else ""
    raise UserError(f"{flag} is {quoted(value)}; it must be {' or '.join(table)}.{hint}")


def choose(algorithm: AbstractAlgorithm, chosen: dict[str, str]) -> Any:
    """The algorithm with the chosen classes; where a class stays, so do its settings."""
    swaps = (("planner", "--planner", PLANNERS), ("learner", "--model", MODELS))
    if "--algorithm" in chosen and type(algorithm) is not ALGORITHMS[chosen["--algorithm"]]:
        algorithm = ALGORITHMS[chosen["--algorithm"]]()
    for name, flag, table in swaps:
        if flag in chosen and type(getattr(algorithm, name, None)) is not table[chosen[flag]]:
            if not hasattr(algorithm, name):
                raise UserError(f"{flag} was given, but {type(algorithm).__name__} has no {name}.")
            new = _taken(getattr(algorithm, name), table[chosen[flag]])
            algorithm = dataclasses.replace(algorithm, **{name: new})  # pyright: ignore[reportCallIssue]
    return algorithm


def _taken(before: Any, cls: type) -> Any:
    """The recipe of this class that the one before it chose among, with its settings; otherwise the default one."""
    parts = [getattr(before, field.name) for field in dataclasses.fields(before)]
    return next((part for part in parts if type(part) is cls), None) or cls()


PLAIN = {"base": None, "safe": "zero"}
"""Fields of an algorithm that may hold a policy, which no flag can name, and what the flags show in its place."""


def _policies(algorithm: Any) -> dict[str, AbstractPolicy]:
    """The policies of the user's own in these fields."""
    held = {name: getattr(algorithm, name, None) for name in PLAIN}
    return {name: value for name, value in held.items() if isinstance(value, AbstractPolicy)}


def _view(default: Experiment) -> Any:
    """The fields of an experiment that are flags, and the common ones, as one dataclass for tyro."""
    plain = {name: PLAIN[name] for name in _policies(default.algorithm)}
    algorithm = dataclasses.replace(default.algorithm, **plain)  # pyright: ignore[reportCallIssue]
    shown = dataclasses.replace(default, algorithm=algorithm)
    fields = []
    for source in (shown, Common()):
        hints, docs = typing.get_type_hints(type(source)), docstrings(type(source))
        for field in dataclasses.fields(source):
            if field.name in APART:
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
