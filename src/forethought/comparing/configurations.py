"""Which runs are runs of one configuration, and short names for configurations by what differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

Recipe = dict[str, Any]
Flat = dict[str, Any]

TASK = ("task", "env", "limit", "action_repeat", "resets")
"""Fields of a recipe that say what is to be solved: returns of different tasks are not compared."""
APART = ("seed", "out", "evaluate_every", "on_save_error")
"""Fields that do not change what is learned."""
SHORTER = (("algorithm.learner", "model"), ("algorithm.", ""))
"""What names of settings begin with, and what they are called on the command line."""


def configuration(recipe: Recipe) -> Recipe:
    """The recipe without the task, the seed and what does not change what is learned."""
    return {key: value for key, value in recipe.items() if key not in (*TASK, *APART)}


def task_settings(recipe: Recipe) -> Recipe:
    """The fields that say what is to be solved."""
    return {key: recipe[key] for key in TASK if key in recipe}


def full(recipe: Recipe) -> Recipe:
    """The recipe of all runs of a configuration on a task."""
    return {key: value for key, value in recipe.items() if key not in APART}


def key_of(recipe: Recipe) -> str:
    """The same text for the same settings, whatever their order."""
    return json.dumps(recipe, sort_keys=True)


def flatten(value: Any, path: str = "") -> Flat:
    """Every single setting by its path: {"algorithm.planner.kind": "ICEM", "algorithm.planner.samples": 64, ...}."""
    if not isinstance(value, dict):
        return {path: value}
    if value.get("kind") == "dict" and isinstance(value.get("items"), dict):
        value = value["items"]
    found: Flat = {}
    for key, each in value.items():
        found |= flatten(each, f"{path}.{key}" if path else key)
    return found


def short_names(recipes: Sequence[Recipe]) -> list[str]:
    """A name for each of these different configurations, of the settings that tell it from the others.

    A setting is named where it differs among those that have the same classes on the way to it: beside
    planner=CEM and planner=ICEM nothing is said of settings that only one of the two has.
    """
    flats = [flatten(recipe) for recipe in recipes]
    if len(flats) == 1:
        return [_classes(flats[0])]
    return [" ".join(_telling(flat, flats)) for flat in flats]


def _telling(flat: Flat, flats: Sequence[Flat]) -> Iterable[str]:
    """The settings of one configuration that are named."""
    # A class comes before its settings.
    for path in sorted({path for each in flats for path in each}, key=lambda path: path.removesuffix(".kind")):
        kin = [each for each in flats if _same_classes(path, flat, each)]
        if len({json.dumps(each.get(path, "not said"), sort_keys=True) for each in kin}) > 1:
            yield f"{short_path(path)}={_said(flat, path)}"


def _same_classes(path: str, one: Flat, two: Flat) -> bool:
    """Whether both have the same classes on the way to a setting."""
    parts = path.split(".")
    above = [".".join([*parts[:i], "kind"]) for i in range(1, len(parts))]
    return all(one.get(kind) == two.get(kind) for kind in above if kind != path)


def short_path(path: str) -> str:
    """As the command line has it: planner.samples for algorithm.planner.samples, and model.width for that of its
    learner; a class goes by the name of its place."""
    path = path.removesuffix(".kind")
    for long, short in SHORTER:
        if path.startswith(long):
            return short + path.removeprefix(long)
    return path


def _said(flat: Flat, path: str) -> str:
    """A setting as one word: what an older version did not write down is not said."""
    if path not in flat:
        return "not-said"
    value = flat[path]
    if value == "own" and path.endswith(".kind"):  # a class of the user's, by its own name
        return str(flat.get(path.removesuffix("kind") + "class", "own")).rpartition(".")[2]
    return value if isinstance(value, str) else json.dumps(value)


def _classes(flat: Flat) -> str:
    """The classes of a configuration that is alone: algorithm, planner and model."""
    paths = [f"{place}.kind" for place in ("algorithm", "algorithm.planner", "algorithm.learner")]
    return " ".join(_said(flat, path) for path in paths if path in flat) or "all runs"
