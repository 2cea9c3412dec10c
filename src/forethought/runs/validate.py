"""Which values the fields of shipped recipes may have: one closed table, for the command line, Python and files alike.

A field of a user's own class is the user's business.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from forethought.algorithms.imitation import Guide
from forethought.algorithms.improve import Improve
from forethought.algorithms.local_start import InitialController
from forethought.core import AbstractAlgorithm, AbstractLearner, AbstractPlanner, AbstractPolicy, Task
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.value import ValueLearner
from forethought.planners.icem import ICEM
from forethought.runs.stopping import Until
from forethought.types import UserError
from forethought.worlds.guard import Guard


class Number(NamedTuple):
    """A whole or real number between bounds."""

    whole: bool = False
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    none: bool = False
    """None is allowed too."""

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        kind = "a whole number" if self.whole else "a finite number"
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'larger than' if self.open_low else 'at least'} {_short(self.low)}")
        if self.high < math.inf:
            parts.append(f"at most {_short(self.high)}")
        return f"{kind}{', ' if parts else ''}{' and '.join(parts)}{', or None' if self.none else ''}"

    def accepts(self, value: Any) -> bool:
        """Whether the value is one of them; booleans are not numbers, NaN and infinities not finite."""
        if value is None:
            return self.none
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        try:
            number = float(value)
        except OverflowError:  # a whole number that no float can hold
            return False
        above = number > self.low if self.open_low else number >= self.low
        return math.isfinite(number) and above and number <= self.high


class OneOf(NamedTuple):
    """One of a few values."""

    values: tuple[Any, ...]

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return " or ".join(map(str, self.values))

    def accepts(self, value: Any) -> bool:
        """Whether the value is one of them (True is not 1)."""
        # The types first: arrays have no equality that is true or false.
        return any(type(value) is type(v) and value == v for v in self.values)


class Instance(NamedTuple):
    """Anything of certain types."""

    types: tuple[type, ...]
    words: str

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return self.words

    def accepts(self, value: Any) -> bool:
        """Whether the value is of one of the types."""
        return isinstance(value, self.types)


class PathRule(NamedTuple):
    """What the system can take for a path."""

    words: str
    types: tuple[type, ...] = (str, Path)

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return self.words

    def accepts(self, value: Any) -> bool:
        """Whether the value is of one of the types, and if it is a path, one that can be."""
        return isinstance(value, self.types) and (value is None or nameable(str(value)))


class Several(NamedTuple):
    """A tuple of numbers."""

    each: Number

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return f"a tuple, each part of it {self.each.allowed()}"

    def accepts(self, value: Any) -> bool:
        """Whether it is a tuple of such numbers."""
        return isinstance(value, tuple) and all(map(self.each.accepts, value))


class ResetOptions(NamedTuple):
    """What may go to the reset of an environment: nothing that could name a file, since a run keeps it."""

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return "a tuple of dicts from names to numbers, words, and lists of them"

    def accepts(self, value: Any) -> bool:
        """Whether it is such a tuple."""
        proper = isinstance(value, tuple) and all(isinstance(each, dict) for each in value)
        return proper and all(isinstance(k, str) and _harmless(v) for each in value for k, v in each.items())


def _harmless(value: Any, depth: int = 4) -> bool:
    """Whether it is a finite number, a word or None, or a list of them that is not too deep."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_harmless(each, depth - 1) for each in value)
    if isinstance(value, str):
        return value.isidentifier()
    return value is None or isinstance(value, bool) or Number().accepts(value)


def nameable(path: str) -> bool:
    """Whether a file can be called this: at most 255 bytes between two slashes, and 4095 in all."""
    data = path.encode(errors="surrogateescape")
    return len(data) < 4096 and max(map(len, data.split(b"/"))) < 256 and b"\0" not in data


class Either(NamedTuple):
    """What one of two rules allows."""

    first: OneOf
    second: Instance

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return f"{self.first.allowed()} or {self.second.allowed()}"

    def accepts(self, value: Any) -> bool:
        """Whether one of them does."""
        return self.second.accepts(value) or self.first.accepts(value)


def _short(value: float | int) -> str:
    """A bound as one would write it."""
    return str(int(value)) if value == int(value) else str(value)


def _said(value: Any) -> str:
    """A value in a sentence: on one line, and not longer than a line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Python does not write whole numbers of more than 4300 digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 120 else text[:117] + "..."


INT32 = 2**31 - 1
COUNT = Number(whole=True, low=1, high=INT32)
SIZE = Number(whole=True, low=1, high=10**6)
"""What memory is needed for."""
NATURAL = Number(whole=True, low=0, high=INT32)
POSITIVE = Number(low=0, open_low=True)
NOT_NEGATIVE = Number(low=0)
SHARE = Number(low=0, high=1)
POSITIVE_SHARE = Number(low=0, high=1, open_low=True)
FLAG = OneOf((True, False))
Rules = dict[str, Number | Several | OneOf | Instance | Either | PathRule | ResetOptions]
SOME_PATH = PathRule("a path, or None", (str, Path, type(None)))

_IMAGINATION = Instance((Imagination,), "an Imagination")
_LOOP: Rules = {
    "planner": Instance((AbstractPlanner,), "a planner"),
    "learner": Instance((AbstractLearner,), "a learner"),
    "base": Instance((AbstractPolicy, type(None)), "a policy, or None"),
    "base_steps": NATURAL,
    "discount": POSITIVE_SHARE,
    "safe": Either(OneOf(("zero", "hold")), Instance((AbstractPolicy,), "a policy")),
}
_SEARCH: Rules = {"imagination": _IMAGINATION, "samples": SIZE, "iterations": SIZE, "scale": POSITIVE}
_ELITES: Rules = {"elites": SIZE, "momentum": Number(low=0, high=1)}

MEMBERS = Number(whole=True, low=1, high=1000)
_NETWORK: Rules = {
    "width": Number(whole=True, low=1, high=10**5),
    "depth": Number(whole=True, low=0, high=100),
    "gradient_steps": SIZE,
    "batch": SIZE,
    "learning_rate": POSITIVE,
    "final_rate": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "holdout": Number(low=0, high=0.9),
}

RULES: dict[str, Rules] = {
    "Experiment": {
        "task": Instance((str, Task), "a name or a Task"),
        "algorithm": Instance((AbstractAlgorithm,), "an algorithm"),
        "until": Instance((Until,), "an Until"),
        "steps": NATURAL,
        "seed": NATURAL,
        "limit": Number(whole=True, low=1, high=INT32, none=True),
        "action_repeat": COUNT,
        "history": Number(whole=True, low=1, high=1000),
        "angles": Several(NATURAL),
        "resets": ResetOptions(),
        "out": SOME_PATH,
        "data": SOME_PATH,
        "base": PathRule('a name: "random", "coloured", or a run directory', (str,)),
        "env": Instance((dict,), "a dict of keyword arguments for gymnasium.make"),
        "workers": Number(whole=True, low=1, high=256),
        "replayable": FLAG,
        "guard": Instance((Guard,), "a Guard"),
        "on_save_error": OneOf(("stop", "go-on")),
    },
    "Guard": {
        "reward_bound": POSITIVE,
        "observation_bound": POSITIVE,
        "deadline": POSITIVE,
        "on_fault": OneOf(("stop", "go-on")),
        "most_faults": NATURAL,
    },
    "Until": {
        "solved": FLAG,
        "plateau": FLAG,
        "window": COUNT,
        "patience": COUNT,
        "threshold": Number(none=True),
    },
    "V05": _LOOP,
    "V10": _LOOP,
    "V15": {**_LOOP, "refit_every": COUNT, "horizon": Number(whole=True, low=1, high=10**5)},
    "V20": {
        "learner": Instance((AbstractLearner,), "a learner"),
        "base": Instance((AbstractPolicy, type(None)), "a policy, or None"),
        "base_steps": COUNT,
        "every": COUNT,
        "form": OneOf(("network", "rbf", "linear")),
        "width": Number(whole=True, low=1, high=10**5),
        "depth": Number(whole=True, low=0, high=100),
        "imagine": OneOf(("particles", "moments")),
        "improve": Instance((Improve,), "an Improve"),
        "iterations": SIZE,
        "visited": SHARE,
        "noise": NOT_NEGATIVE,
        "discount": POSITIVE_SHARE,
    },
    "Improve": {
        "horizon": Number(whole=True, low=1, high=10**5),
        "particles": Number(whole=True, low=2, high=10**6),
        "gradient_steps": SIZE,
        "learning_rate": POSITIVE,
        "clip": POSITIVE,
        "estimator": OneOf(("pathwise", "total")),
        "stabilise": OneOf(("auto", "off")),
        "terminal": OneOf(("none", "value")),
        "value": Instance((ValueLearner,), "a ValueLearner"),
        "trace": SHARE,
    },
    "ValueLearner": {name: _NETWORK[name] for name in ("width", "depth", "gradient_steps", "batch", "learning_rate")},
    "Local": {
        "learner": Instance((AbstractLearner,), "a learner"),
        "conditions": Several(NATURAL),
        "rollouts": Number(whole=True, low=1, high=1000),
        "horizon": Number(whole=True, low=0, high=10**5),
        "fit": OneOf(("bayesian", "regression")),
        "strength": POSITIVE,
        "recent": NATURAL,
        "controller": OneOf(("gaussian", "feedback", "open-loop")),
        "bound": OneOf(("sum", "each", "none")),
        "kl": POSITIVE,
        "initial": Instance((InitialController,), "an InitialController"),
        "floor": POSITIVE_SHARE,
        "dynamics": OneOf(("local", "global")),
        "guide": Instance((Guide,), "a Guide"),
    },
    "InitialController": {
        "feedback": OneOf(("none", "pd", "hold")),
        "std": POSITIVE,
        "positions": Several(NATURAL),
        "velocities": Several(NATURAL),
        "stiffness": POSITIVE,
        "damping": NOT_NEGATIVE,
        "dt": POSITIVE,
        "acceleration": POSITIVE,
    },
    "Guide": {
        "on": FLAG,
        "width": Number(whole=True, low=1, high=10**5),
        "depth": Number(whole=True, low=0, high=100),
        "gradient_steps": SIZE,
    },
    "KnownLearner": {"step": Instance((Callable,), "a function step(x, u)")},  # pyright: ignore
    "ILQR": {
        "search": Instance((ICEM,), "an ICEM"),
        "window": COUNT,
        "drives": COUNT,
        "iterations": SIZE,
        "long_iterations": SIZE,
        "tolerance": POSITIVE,
        "cost_tolerance": POSITIVE,
        "damping": OneOf(("control", "state")),
    },
    "RandomShooting": {"imagination": _IMAGINATION, "samples": SIZE, "beta": NOT_NEGATIVE, "scale": POSITIVE},
    "CEM": {**_SEARCH, **_ELITES},
    "ICEM": {**_SEARCH, **_ELITES, "kept": NATURAL, "beta": NOT_NEGATIVE, "narrowest": POSITIVE_SHARE},
    "MPPI": {
        **_SEARCH,
        "beta": NOT_NEGATIVE,
        "shrink": POSITIVE_SHARE,
        "effective": POSITIVE_SHARE,
    },
    "Imagination": {
        "particles": SIZE,
        "propagation": OneOf(("auto", "mean", "ts-inf", "ts-1")),
        "noise": FLAG,
        "risk": Number(),
    },
    "AutoLearner": {
        "gp": Instance((GPLearner,), "a GPLearner"),
        "ensemble": Instance((EnsembleLearner,), "an EnsembleLearner"),
        "few": NATURAL,
        "many": NATURAL,
        "trial": COUNT,
    },
    "GPLearner": {
        "kernel": OneOf(("se", "matern32", "matern52")),
        "restarts": Number(whole=True, low=0, high=1000),
        "evaluations": SIZE,
        "refit_every": COUNT,
        "functions": Number(whole=True, low=1, high=10**4),
        "waves": Number(whole=True, low=1, high=10**5),
        "sparse_above": Number(whole=True, low=1, high=10**5),
        "inducing": Number(whole=True, low=1, high=10**4),
    },
    "EnsembleLearner": {**_NETWORK, "members": MEMBERS, "variance_weight": SHARE, "bootstrap": FLAG},
    "NetworkLearner": _NETWORK,
    "MDNLearner": {
        **_NETWORK,
        "members": MEMBERS,
        "variance_weight": SHARE,
        "components": Number(whole=True, low=1, high=1000),
        "full": FLAG,
        "usage": NOT_NEGATIVE,
    },
    "GMMLearner": {
        "components": Number(whole=True, low=1, high=1000),
        "starts": Number(whole=True, low=1, high=1000),
        "rounds": SIZE,
        "tolerance": POSITIVE,
        "floor": Number(low=1e-12),
    },
    "LinearLearner": {
        "basis": Either(OneOf(("linear", "quadratic")), Instance((Callable,), "a function")),  # pyright: ignore
        "precision": POSITIVE,
    },
    "PhysicsLearner": {
        "f": Instance((Callable,), "a function f(x, u, theta)"),  # pyright: ignore
        "horizon": Number(whole=True, low=1, high=1000),
        "residual": Instance((AbstractLearner, type(None)), "a learner, or None"),
        "doubt": POSITIVE,
        "rounds": SIZE,
    },
    "ColouredPolicy": {"steps": SIZE, "beta": NOT_NEGATIVE, "scale": POSITIVE},
}
"""Class to field to what is allowed."""

AT_MOST: tuple[tuple[str, str, str], ...] = (
    ("CEM", "elites", "samples"),
    ("ICEM", "elites", "samples"),
    ("ICEM", "kept", "elites"),
    ("AutoLearner", "few", "many"),
)
"""Fields of one class that must not exceed another field of it."""


def check(recipe: Any, path: str = "") -> None:
    """Raise `UserError` for the first field of the recipe, or of a recipe inside it, whose value is not allowed."""
    for problem in problems(recipe, path):
        raise UserError(problem)


def problems(recipe: Any, path: str = "") -> Iterator[str]:
    """A sentence for each value that is not allowed: its path, the value, and what is allowed."""
    cls = type(recipe)
    if not dataclasses.is_dataclass(recipe) or cls.__module__.split(".")[0] != "forethought":
        return
    rules = RULES.get(cls.__name__, {})
    wrong = set()
    for field in dataclasses.fields(recipe):
        here, value = f"{path}{field.name}", getattr(recipe, field.name, None)
        rule = rules.get(field.name)
        if rule is not None and not rule.accepts(value):
            wrong.add(field.name)
            yield f"{here} is {_said(value)}; it must be {rule.allowed()}."
        yield from problems(value, f"{here}.")
    for name, small, large in AT_MOST:
        if name == cls.__name__ and not wrong & {small, large} and getattr(recipe, small) > getattr(recipe, large):
            found, limit = getattr(recipe, small), getattr(recipe, large)
            yield f"{path}{small} is {found}; it must be at most {path}{large}, which is {limit}."
    if isinstance(recipe, Imagination) and not wrong and recipe.propagation == "mean" and recipe.risk != 0.0:
        yield f"{path}risk is {recipe.risk}; with {path}propagation mean, which has no spread, it must be 0."
