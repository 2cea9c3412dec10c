"""Recipes as JSON and back: a closed table of names, and fields by name.  Nothing that a file names is imported or run.

A recipe becomes {"kind": "ICEM", "samples": 64, ...}; an array becomes {"kind": "array", "dtype": ..., "values": ...}.
What is not in the table (a user's own class) becomes {"kind": "own", "class": "..."}: it can be read by people, and has
to be named again to go on with the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from forethought.algorithms.globally import V05, V10, V15
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.mppi import MPPI
from forethought.planners.shooting import RandomShooting
from forethought.policies.excitation import ColouredPolicy, RandomPolicy
from forethought.runs.stopping import Until
from forethought.types import Box, Choices, UserError
from forethought.worlds.guard import Guard

KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        V05,
        V10,
        V15,
        ICEM,
        CEM,
        MPPI,
        RandomShooting,
        Imagination,
        EnsembleLearner,
        ColouredPolicy,
        RandomPolicy,
        Box,
        Choices,
        Until,
        Guard,
    )
}
"""Every class that a file may name."""

DTYPES = ("float32", "float64", "int32", "int64", "bool")


def encode(value: Any) -> Any:
    """The value as JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"A setting is {value}; only finite numbers can be saved.")
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {"kind": "dict", "items": {str(k): encode(v) for k, v in value.items()}}
    if isinstance(value, (np.ndarray, jax.Array)) and str(value.dtype) in DTYPES:
        return {"kind": "array", "dtype": str(value.dtype), "values": np.asarray(value).tolist()}
    if isinstance(value, np.generic):
        return encode(value.item())
    if KINDS.get(type(value).__name__) is type(value):
        return {"kind": type(value).__name__, **encode_fields(value)}
    return {"kind": "own", "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def encode_fields(recipe: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON."""
    return {f.name: encode(getattr(recipe, f.name)) for f in dataclasses.fields(recipe) if f.init}


def decode(value: Any, where: str) -> Any:
    """The inverse of `encode`; `where` names the place in sentences.  Raises `UserError` for anything unknown."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return tuple(decode(v, f"{where}[{i}]") for i, v in enumerate(value))
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "dict" and isinstance(value.get("items"), dict):
        return {k: _plain(decode(v, f"{where}.{k}")) for k, v in value["items"].items()}
    if kind == "array" and value.get("dtype") in DTYPES:
        return _array(value.get("values"), value["dtype"], where)
    if kind == "own":
        raise UserError(
            f"{where} is of a class of your own ({value.get('class')!r}); nothing that a file names is ever imported: "
            "name it again, with --experiment FILE on the command line or experiment=... in Python."
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where} names the class {kind!r}; known are {', '.join(KINDS)}.")
    fields = {k: v for k, v in value.items() if k != "kind"}
    return decode_fields(KINDS[kind], fields, where)


def decode_fields(cls: type, values: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls` from JSON fields; a missing field has its default."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UserError(f"{where} has a field {name!r}, which {cls.__name__} does not know{hint}.")
    decoded = {}
    for name, value in values.items():
        found = decode(value, f"{where}.{name}")
        decoded[name] = Path(found) if isinstance(found, str) and "Path" in str(known[name].type) else found
    try:
        return cls(**decoded)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, UserError) as error:
        raise UserError(f"{where} is no complete {cls.__name__}: {str(error).rstrip('.')[:300]}.") from error


def _array(values: Any, dtype: str, where: str) -> np.ndarray:
    """An array of finite numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "fiub" or not np.isfinite(found).all():
            raise ValueError("it holds something else than finite numbers")
        return found.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where} is no array of {dtype}: {str(error).rstrip('.')[:300]}.") from error


def _plain(value: Any) -> Any:
    """Tuples back to lists: what goes to gymnasium.make is what JSON had."""
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
