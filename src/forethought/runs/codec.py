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

from forethought.algorithms.dyna import Dyna
from forethought.algorithms.globally import V05, V10, V15, V20
from forethought.algorithms.imitation import Guide
from forethought.algorithms.improve import Improve
from forethought.algorithms.local_start import InitialController
from forethought.algorithms.locally import Local
from forethought.algorithms.soft_actor_critic import SoftActorCritic
from forethought.algorithms.trust_region import TrustRegion
from forethought.math.rollout import Imagination
from forethought.models.auto import AutoLearner
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gmm import GMMLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.known import KnownLearner
from forethought.models.linear import LinearLearner
from forethought.models.mdn import MDNLearner
from forethought.models.physics import PhysicsLearner
from forethought.models.plain import NetworkLearner
from forethought.models.value import ValueLearner
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.ilqr import ILQR
from forethought.planners.mcts import MCTS
from forethought.planners.mppi import MPPI
from forethought.planners.shooting import RandomShooting
from forethought.policies.excitation import ColouredPolicy, RandomPolicy
from forethought.runs.files import INTEGERS
from forethought.runs.stopping import Until
from forethought.types import Box, Choices, UserError
from forethought.worlds.guard import Guard

KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        V05,
        V10,
        V15,
        V20,
        Improve,
        ValueLearner,
        Local,
        Dyna,
        SoftActorCritic,
        TrustRegion,
        InitialController,
        Guide,
        ICEM,
        ILQR,
        CEM,
        MPPI,
        MCTS,
        RandomShooting,
        Imagination,
        AutoLearner,
        EnsembleLearner,
        GMMLearner,
        GPLearner,
        KnownLearner,
        LinearLearner,
        MDNLearner,
        NetworkLearner,
        PhysicsLearner,
        ValueLearner,
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


DEPTH = 16
"""Lists and dicts within each other that a setting may have: a file may not be deeper either."""


def encode(value: Any, where: str = "A setting") -> Any:
    """The value as JSON that can be read again; `where` names the place in sentences.

    Raises `UserError` for what JSON, or a file of ours, cannot hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str, Path)):
        return _encode_plain(value, where)
    if isinstance(value, (list, tuple)):
        return [encode(v, _inside(where, f"[{i}]")) for i, v in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where} has the key {key!r}; keys must be texts to be saved.")
            _encode_plain(key, where)
        return {"kind": "dict", "items": {k: encode(v, _inside(where, f".{k}")) for k, v in value.items()}}
    if isinstance(value, (np.ndarray, jax.Array)) and str(value.dtype) in DTYPES:
        array = np.asarray(value)
        if not np.isfinite(array).all():
            raise UserError(f"{where} is an array with {array[~np.isfinite(array)][0]}; its numbers must be finite.")
        return {"kind": "array", "dtype": str(array.dtype), "values": array.tolist()}
    if KINDS.get(type(value).__name__) is type(value):
        return {"kind": type(value).__name__, **encode_fields(value, where)}
    return {"kind": "own", "class": _class(value), "settings": _settings(value)}


def encode_fields(recipe: Any, where: str = "") -> dict[str, Any]:
    """The fields of a dataclass as JSON."""
    place = f"{where}." if where else ""
    return {f.name: encode(getattr(recipe, f.name), place + f.name) for f in dataclasses.fields(recipe) if f.init}


def _class(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _settings(value: Any) -> dict[str, Any]:
    """The single values among the fields of a user's own class: a flag may have set them."""
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else ()
    found = {f.name: getattr(value, f.name, None) for f in fields if f.init}
    return {
        name: each
        for name, each in found.items()
        if isinstance(each, (bool, str))
        or (isinstance(each, (int, float)) and math.isfinite(each) and abs(each) < 2**63)
    }


def _encode_plain(value: Any, where: str) -> Any:
    """A single value; what files of ours refuse to read is not written either."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}; it must be a finite number to be saved.")
    if isinstance(value, int) and value not in INTEGERS:
        raise UserError(
            f"{where} is a whole number of {value.bit_length()} bits; it must have less than 64 to be saved."
        )
    if isinstance(value, (str, Path)):
        text = str(value)
        if not text.isascii() and text.encode(errors="replace").decode() != text:
            raise UserError(f"{where} is {text[:80]!r}; it must be readable text (UTF-8) to be saved.")
        return text
    return value


def _inside(where: str, part: str) -> str:
    """The place one level deeper.  Raises `UserError` where that is too deep."""
    if where.count("[") + where.count(".") >= DEPTH:
        raise UserError(
            f"{where[:80]} ... holds lists or dicts within each other; at most {DEPTH} levels can be saved."
        )
    return where + part


def decode(value: Any, where: str, own: Any = None) -> Any:
    """The inverse of `encode`; `where` names the place in sentences.  Raises `UserError` for anything unknown.

    `own` is what the user named again, for this place: where the file has a class of the user's own, that is taken,
    with the settings of the file.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        parts = own if isinstance(own, (list, tuple)) and len(own) == len(value) else [None] * len(value)
        return tuple(decode(v, f"{where}[{i}]", part) for i, (v, part) in enumerate(zip(value, parts, strict=True)))
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "dict" and isinstance(value.get("items"), dict):
        return {k: _plain(decode(v, f"{where}.{k}")) for k, v in value["items"].items()}
    if kind == "array" and value.get("dtype") in DTYPES:
        return _array(value.get("values"), value["dtype"], where)
    if (
        kind == "own"
        and own is not None
        and _class(own).rpartition(".")[2] == str(value.get("class")).rpartition(".")[2]
    ):
        return _with_settings(own, value.get("settings"), where)
    if kind == "own":
        raise UserError(
            f"{where} is of a class of your own ({value.get('class')!r}); nothing that a file names is ever imported: "
            "name it again, with --experiment FILE on the command line or experiment=... in Python."
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where} names the class {kind!r}; known are {', '.join(KINDS)}.")
    fields = {k: v for k, v in value.items() if k != "kind"}
    return decode_fields(KINDS[kind], fields, where, own)


def _with_settings(own: Any, settings: Any, where: str) -> Any:
    """The user's own object with the settings that the run began with."""
    known = {f.name for f in dataclasses.fields(own) if f.init} if dataclasses.is_dataclass(own) else set()
    plain = isinstance(settings, dict) and all(isinstance(v, (bool, int, float, str)) for v in settings.values())
    if not plain or not set(settings) <= known:
        raise UserError(f"{where} was a {_class(own)} with other fields than the one that was named again has.")
    return dataclasses.replace(own, **settings) if settings else own  # pyright: ignore[reportArgumentType]


def decode_fields(cls: type, values: dict[str, Any], where: str, own: Any = None) -> Any:
    """An instance of the dataclass `cls` from JSON fields; a missing field has its default.  `own` as for `decode`."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UserError(f"{where} has a field {name!r}, which {cls.__name__} does not know{hint}.")
    decoded = {}
    for name, value in values.items():
        found = decode(value, f"{where}.{name}", getattr(own, name, None))
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
