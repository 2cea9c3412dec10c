"""Which runs are runs of one configuration, and short names for configurations by what differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from forethought.runs.recipe_fields import APART, TASK

Recipe = dict[str, Any]
Flat = dict[str, Any]

SHORTER = (("algorithm.learner", "model"), ("algorithm.", ""))
"""What names of settings begin with, and what they are called on the command line."""


def configuration(recipe: Recipe) -> Recipe:
    """The recipe without the task, the seed and what does not change what is learned."""
    return {key: _one_way(value) for key, value in recipe.items() if key not in (*TASK, *APART)}


def _one_way(value: Any) -> Any:
    """Numbers written in one way: 20 for 20.0, which is the same setting."""
    if isinstance(value, dict):
        return {key: _one_way(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_one_way(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_own(recipe: Recipe) -> bool:
    """Whether it has a class of the user's own, of which only plain settings are written down."""
    return any(value == "own" and path.split(".")[-1] == "kind" for path, value in flatten(recipe).items())


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
    if isinstance(value, dict) and value.get("kind") == "dict" and isinstance(value.get("items"), dict):
        value = value["items"]
    if not isinstance(value, dict) or not value:
        return {path: value}
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
            return _word(short + path.removeprefix(long))
    return _word(path)


def _word(text: str) -> str:
    """A text that stays on its line."""
    return text if text.isprintable() else json.dumps(text)


def _said(flat: Flat, path: str) -> str:
    """A setting as one word: what an older version did not write down is not said."""
    if path not in flat:
        return "not-said"
    value = flat[path]
    if value == "own" and path.endswith(".kind"):  # a class of the user's, by its own name
        return _word(str(flat.get(path.removesuffix("kind") + "class", "own")).rpartition(".")[2])
    return _word(value) if isinstance(value, str) else json.dumps(value)


def _classes(flat: Flat) -> str:
    """The classes of a configuration that is alone: algorithm, planner and model."""
    paths = [f"{place}.kind" for place in ("algorithm", "algorithm.planner", "algorithm.learner")]
    return " ".join(_said(flat, path) for path in paths if path in flat) or "all runs"
