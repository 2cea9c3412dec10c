"""Checkpoints: a folder with the arrays (safetensors) and a manifest (JSON) that holds a SHA-256 of them and of itself.

The tree of a state is never read from a file.  It comes from `algorithm.init`; a file only fills in arrays by their
path in that tree, so loading runs no code, and an array that is missing, strange or of another shape is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from forethought.core import AbstractSized, RunState
from forethought.runs.files import (
    Damaged,
    largest,
    read_bytes,
    read_sealed,
    remove,
    seal,
    sync_folder,
    write_durably,
)
from forethought.types import Dataset, UserError

FORMAT = 2
KEEP = 3
ARRAYS = "arrays.safetensors"
MANIFEST = "manifest.json"


class About(NamedTuple):
    """What a checkpoint says about itself."""

    run: str
    """Which run it belongs to."""
    notes: dict[str, Any]
    """The run's own counters."""
    experiment: dict[str, Any]
    """The recipe, as in config.json."""
    resumable: bool = True
    """Whether a run goes on from here.  A look at an open episode, or at the end, is for evaluation only."""
    score: float | None = None
    """Mean of the last training returns: the best one is kept."""


class Stored(NamedTuple):
    """A checkpoint as it was read: what it says, and its arrays by their path in the state's tree."""

    path: Path
    about: About
    arrays: dict[str, np.ndarray]


def save(folder: Path, state: RunState, about: About, keep: int = KEEP) -> Path:
    """Write a new checkpoint into the folder; of the others the newest few to go on from stay, and the best one.

    It is complete or it is not there: everything is written to a temporary name, flushed to the disk, and renamed.
    """
    arrays, described = {}, {}
    for path, leaf in _leaves(state):
        value, kind = _to_numpy(leaf)
        arrays[path] = value
        described[path] = {"kind": kind, "dtype": str(value.dtype), "shape": list(value.shape)}
    data = save_safetensors(arrays)
    folder.mkdir(exist_ok=True)
    found = numbered(folder)
    number = (int(found[-1].name) if found else 0) + 1
    manifest = {
        "format": FORMAT,
        "number": number,
        **about._asdict(),
        "counters": {name: int(getattr(state, name)) for name in ("steps", "episodes", "fits")},
        "files": {ARRAYS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
        "arrays": described,
    }
    name = f"{number:06d}"
    temporary = folder / f".{name}.part"
    remove(temporary)
    temporary.mkdir()
    write_durably(temporary / ARRAYS, data)
    write_durably(temporary / MANIFEST, seal(manifest))
    sync_folder(temporary)
    temporary.rename(folder / name)
    sync_folder(folder)
    _prune(folder, keep)
    return folder / name


def _prune(folder: Path, keep: int) -> None:
    """Drop what is not the newest, nor of the newest `keep` to go on from, nor the best of those."""
    found = numbered(folder)
    rows = [(path, about) for path in found if (about := _glance(path)) is not None and about.resumable]
    kept = {found[-1], *(path for path, _ in rows[-keep:])}
    scored = [(about.score, path) for path, about in rows if about.score is not None]
    if scored:
        kept.add(max(scored)[1])
    for path in found:
        if path not in kept:
            remove(path)


def _glance(path: Path) -> About | None:
    """What a checkpoint says about itself, if it can be read."""
    try:
        return read_about(path)
    except (Damaged, UserError):
        return None


def newest(
    folder: Path, run: str | None, say: Callable[[str], None], wanted: Callable[[About], bool] = lambda about: True
) -> Stored:
    """The newest valid checkpoint that is wanted; each damaged one on the way is named through `say`.

    `run` says which run it must belong to; None: any.  Raises `UserError` if there is none.
    """
    found = numbered(folder)
    for path in reversed(found):
        try:
            about = read_about(path)
            if wanted(about):
                return read(path, run)
        except Damaged as error:
            say(f"The checkpoint {path} is damaged and skipped: {error}")
    many = f"none of the {len(found)} checkpoints is valid" if found else "there is no checkpoint"
    raise UserError(f"{folder}: {many}, so there is nothing to go on from; train anew in another directory.")


def best(folder: Path, run: str | None, say: Callable[[str], None]) -> Stored:
    """The valid checkpoint with the best training returns, the newest of equals; without returns the newest one."""
    rows = []
    for path in numbered(folder):
        try:
            about = read_about(path)
            if about.score is not None:
                rows.append((about.score, path))
        except Damaged as error:
            say(f"The checkpoint {path} is damaged and skipped: {error}")
    for _, path in sorted(rows, key=lambda row: (row[0], int(row[1].name)), reverse=True):
        try:
            return read(path, run)
        except Damaged as error:
            say(f"The checkpoint {path} is damaged and skipped: {error}")
    return newest(folder, run, say)


def read_about(path: Path) -> About:
    """What a checkpoint says about itself.  Raises as `read` does."""
    return _about(_manifest(path))


def read(path: Path, run: str | None = None) -> Stored:
    """One checkpoint.  Raises `Damaged` unless everything in it is as it was written by this run, and `UserError` if
    a newer version wrote it."""
    manifest = _manifest(path)
    about = _about(manifest)
    if run is not None and about.run != run:
        raise Damaged(f"{MANIFEST} belongs to another run ({about.run}, and this one is {run}).")
    listed = manifest["files"].get(ARRAYS) if isinstance(manifest.get("files"), dict) else None
    if not isinstance(listed, dict) or type(listed.get("bytes")) is not int:
        raise Damaged(f"{MANIFEST} is not as this version writes it.")
    data = read_bytes(path / ARRAYS, largest(), exactly=listed["bytes"])
    if hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise Damaged(f"{ARRAYS} is not what was written (its SHA-256 differs).")
    try:
        return Stored(path, about, load_safetensors(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{ARRAYS} cannot be read ({error}).") from error


def check_size(stored: Stored, outline: Any) -> None:
    """Raise `UserError` if the shapes of a state (of `jax.eval_shape`) need much more memory than the arrays have."""
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(outline))
    held = sum(array.nbytes for array in stored.arrays.values())
    if needed > 2 * held + 2**20:
        raise UserError(
            f"The checkpoint {stored.path} does not fit this run's settings: they need {needed} bytes, "
            f"and it has {held}."
        )


def restore(stored: Stored, template: RunState) -> RunState:
    """The state of a checkpoint.  The template (of `algorithm.init`) says which arrays there must be.

    Raises `UserError` if there are others: then the settings are not those of the run.
    """
    arrays = stored.arrays
    try:
        template = _resized(template, arrays)
        wanted = _leaves(template)
        _compare_names({name for name, _ in wanted}, set(arrays))
        rows = {"data." + f.name for f in dataclasses.fields(Dataset) if f.name != "count"}
        capacity = arrays["data.x"].shape[:1]
        leaves = []
        for name, like in wanted:
            shape = capacity + np.shape(like)[1:] if name in rows else None
            leaves.append(_from_numpy(name, arrays[name], like, shape))
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        if not 0 <= int(state.data.count) <= state.data.capacity:
            raise Damaged(f"data.count is {int(state.data.count)}, and there are {state.data.capacity} rows.")
    except Damaged as error:
        raise UserError(
            f"The checkpoint {stored.path} does not fit this run's settings (those of config.json, or of the "
            f"experiment that was named again): {error}"
        ) from error
    return state


def _resized(template: RunState, arrays: dict[str, np.ndarray]) -> RunState:
    """The template with room for what the model had learned from, if it keeps its data."""
    if not isinstance(template.fitted, AbstractSized):
        return template
    shapes = {name.removeprefix("fitted."): a.shape for name, a in arrays.items() if name.startswith("fitted.")}
    try:
        return dataclasses.replace(template, fitted=template.fitted.resized(shapes))
    except (ValueError, KeyError) as error:
        raise Damaged(str(error)) from error


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first; links are none."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"[0-9]{6,9}", p.name) and p.is_dir() and not p.is_symlink()]
    return sorted(found, key=lambda p: int(p.name))


def _leaves(state: RunState) -> list[tuple[str, Any]]:
    """Path and value of every leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in flat]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> tuple[np.ndarray, str]:
    """The leaf as an array, and what it was: an array, a random key (and of which kind), or a Python number."""
    if _is_key(leaf):
        return np.asarray(jr.key_data(leaf)), f"key:{jr.key_impl(leaf)}"
    kind = "array" if isinstance(leaf, (np.ndarray, np.generic, jax.Array)) else "number"
    return np.array(leaf, order="C"), kind


def _from_numpy(name: str, value: np.ndarray, like: Any, shape: tuple[int, ...] | None) -> Any:
    """The array as a leaf of the template's kind.  `shape` replaces the template's, for rows of a dataset."""
    pattern, _ = _to_numpy(like)
    shape = pattern.shape if shape is None else shape
    if value.dtype != pattern.dtype or value.shape != shape:
        raise Damaged(f"{name} is {value.dtype}{list(value.shape)} and must be {pattern.dtype}{list(shape)}.")
    if _is_key(like):
        return jr.wrap_key_data(jnp.asarray(value), impl=jr.key_impl(like))
    if isinstance(like, jax.Array):
        return jnp.asarray(value)
    return value.copy() if isinstance(like, np.ndarray) else type(like)(value)


def _compare_names(wanted: set[str], found: set[str]) -> None:
    """Raise `Damaged` unless the file holds exactly the arrays that the state has."""
    odd = sorted(wanted ^ found)
    if odd:
        raise Damaged(f"it {'misses' if odd[0] in wanted else 'has the unknown'} {odd[0]}.")


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest, if it is what was written, by a version that this one can read."""
    manifest = read_sealed(path / MANIFEST)
    if type(manifest.get("format")) is not int:
        raise Damaged(f"{MANIFEST} is not as this version writes it.")
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{path} has the format {manifest.get('format')}, and this version of forethought reads {FORMAT}: "
            "use the version that wrote it (see run.json)."
        )
    if manifest.get("number") != int(path.name):
        raise Damaged(f"{MANIFEST} is of the checkpoint {manifest.get('number')!r}, not of this one.")
    return manifest


def _about(manifest: dict[str, Any]) -> About:
    kinds = {"run": str, "notes": dict, "experiment": dict, "resumable": bool, "score": (float, int, type(None))}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise Damaged(f"{MANIFEST} is not as this version writes it.")
    return About(**{name: manifest[name] for name in kinds})
