"""Which values the fields of shipped recipes may have: one closed table, for the command line, Python and files alike.

A field of a user's own class is the user's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from forethought.algorithms.imitation import Guide
from forethought.algorithms.improve import Improve
from forethought.algorithms.local_start import InitialController
from forethought.algorithms.soft_actor_critic import SoftActorCritic
from forethought.core import AbstractAlgorithm, AbstractLearner, AbstractPlanner, AbstractPolicy, Task
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.value import ValueLearner
from forethought.planners.icem import ICEM
from forethought.runs.rules import (
    COUNT,
    FLAG,
    INT32,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    SIZE,
    SOME_PATH,
    Either,
    Instance,
    Number,
    OneOf,
    PathRule,
    ResetOptions,
    Rules,
    Several,
)
from forethought.runs.stopping import Until
from forethought.types import UserError
from forethought.worlds.guard import Guard


def _said(value: Any) -> str:
    """A value in a sentence: on one line, and not longer than a line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Python does not write whole numbers of more than 4300 digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 120 else text[:117] + "..."


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
        "evaluate_every": NATURAL,
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
    "V15": {
        **_LOOP,
        "refit_every": COUNT,
        "horizon": Number(whole=True, low=1, high=10**5),
        "proposal": OneOf(("none", "policy")),
        "terminal": OneOf(("none", "value")),
        "agent": Instance((SoftActorCritic,), "a SoftActorCritic"),
    },
    "V20": {
        "learner": Instance((AbstractLearner,), "a learner"),
        "base": Instance((AbstractPolicy, type(None)), "a policy, or None"),
        "base_steps": COUNT,
        "every": COUNT,
        "form": OneOf(("network", "rbf", "linear")),
        "width": Number(whole=True, low=1, high=10**5),
        "depth": Number(whole=True, low=0, high=100),
        "planner": Instance((AbstractPlanner, type(None)), "a planner, or None"),
        "plans": Number(whole=True, low=1, high=10**4),
        "imagine": OneOf(("auto", "mean", "particles", "moments")),
        "improve": Instance((Improve,), "an Improve"),
        "iterations": SIZE,
        "beginnings": OneOf(("auto", "asked", "seen")),
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
    "Dyna": {
        "learner": _LOOP["learner"],
        "agent": Instance((SoftActorCritic,), "a SoftActorCritic"),
        "base": _LOOP["base"],
        "base_steps": COUNT,
        "every": Number(whole=True, low=1, high=10**5),
        "updates": Number(whole=True, low=1, high=1000),
        "real_ratio": SHARE,
        "refit_every": COUNT,
        "rollouts": Number(whole=True, low=1, high=10**5),
        "horizon": Number(whole=True, low=1, high=1000),
        "beliefs": MEMBERS,
        "places": Number(whole=True, low=1, high=10**7),
    },
    "SoftActorCritic": {
        "width": Number(whole=True, low=1, high=10**5),
        "depth": Number(whole=True, low=0, high=100),
        "critics": Number(whole=True, low=1, high=100),
        "learning_rate": POSITIVE,
        "discount": SHARE,
        "target_rate": POSITIVE_SHARE,
        "batch": Number(whole=True, low=2, high=10**6),
        "entropy": Number(high=0.69),
        "temperature": POSITIVE,
        "actor_every": Number(whole=True, low=1, high=1000),
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
    "TrustRegion": {
        "data": OneOf(("imagined", "real")),
        "learner": Instance((AbstractLearner,), "a learner"),
        "fresh": NATURAL,
        "kl": POSITIVE,
        "discount": POSITIVE_SHARE,
        "trace": SHARE,
        "width": Number(whole=True, low=1, high=10**5),
        "depth": Number(whole=True, low=0, high=100),
        "std": POSITIVE,
        "damping": NOT_NEGATIVE,
        "value": Instance((ValueLearner,), "a ValueLearner"),
        "updates": SIZE,
        "check_every": SIZE,
        "agree": SHARE,
        "models": MEMBERS,
        "rollouts": SIZE,
        "horizon": Number(whole=True, low=1, high=10**5),
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
    "MCTS": {
        "imagination": _IMAGINATION,
        "search": OneOf(("puct", "gumbel")),
        "simulations": Number(whole=True, low=1, high=10**5),
        "exploration": POSITIVE,
        "hold": Number(whole=True, low=1, high=10**4),
        "candidates": Number(whole=True, low=1, high=1000),
        "widening": POSITIVE,
        "widening_power": SHARE,
        "draws": Number(whole=True, low=1, high=1000),
        "draws_power": SHARE,
        "rollouts": Number(whole=True, low=1, high=10**4),
        "rollout_steps": NATURAL,
        "sequences": Number(whole=True, low=2, high=10**5),
        "beta": NOT_NEGATIVE,
        "narrowest": POSITIVE_SHARE,
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
    ("MCTS", "rollouts", "sequences"),
    ("MCTS", "candidates", "sequences"),
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
