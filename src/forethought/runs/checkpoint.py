"""Checkpoints: a folder with the arrays (safetensors) and a manifest (JSON) that holds a SHA-256 of them and of itself.

The tree of a state is never read from a file.  It comes from `algorithm.init`; a file only fills in arrays by their
path in that tree, so loading runs no code, and an array that is missing, strange or of another shape is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from forethought.core import RunState
from forethought.types import Dataset, UserError

FORMAT = 1
KEEP = 3
ARRAYS = "arrays.safetensors"
MANIFEST = "manifest.json"


class Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


def save(folder: Path, state: RunState, notes: dict[str, Any], keep: int = KEEP) -> Path:
    """Write a new checkpoint into the folder and drop all but the newest `keep`.

    It is complete or it is not there: everything is written to a temporary name, flushed to the disk, and renamed.
    `notes` are the run's own counters, as JSON.
    """
    arrays, described = {}, {}
    for path, leaf in _leaves(state):
        value, kind = _to_numpy(leaf)
        arrays[path] = value
        described[path] = {"kind": kind, "dtype": str(value.dtype), "shape": list(value.shape)}
    data = save_safetensors(arrays)
    manifest = {
        "format": FORMAT,
        "counters": {name: int(getattr(state, name)) for name in ("steps", "episodes", "fits")},
        "notes": notes,
        "files": {ARRAYS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
        "arrays": described,
    }
    manifest["sha256"] = _own_hash(manifest)
    folder.mkdir(exist_ok=True)
    found = numbered(folder)
    name = f"{(int(found[-1].name) if found else 0) + 1:06d}"
    temporary = folder / f".{name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write_durably(temporary / ARRAYS, data)
    write_durably(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(temporary)
    temporary.rename(folder / name)
    sync_folder(folder)
    for old in found[: max(len(found) + 1 - keep, 0)]:
        shutil.rmtree(old, ignore_errors=True)
    return folder / name


def load_newest(folder: Path, template: RunState, say: Callable[[str], None]) -> tuple[RunState, dict[str, Any]]:
    """State and notes of the newest valid checkpoint; each damaged one on the way is named through `say`.

    The template (of `algorithm.init`) says which arrays there must be.  Raises `UserError` if none is valid.
    """
    found = numbered(folder)
    for path in reversed(found):
        try:
            return load(path, template)
        except Damaged as error:
            say(f"The checkpoint {path} is damaged and skipped: {error}")
    many = f"none of the {len(found)} checkpoints is valid" if found else "there is no checkpoint"
    raise UserError(f"{folder}: {many}, so there is nothing to go on from; train anew in another directory.")


def load(path: Path, template: RunState) -> tuple[RunState, dict[str, Any]]:
    """State and notes of one checkpoint.  Raises `Damaged` unless everything in it is as it was written, and
    `UserError` if it was written by a newer version."""
    manifest = _read_manifest(path / MANIFEST)
    listed = manifest["files"].get(ARRAYS, {})
    data = _read(path / ARRAYS)
    if len(data) != listed.get("bytes") or hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise Damaged(f"{ARRAYS} is not what was written (its SHA-256 differs).")
    try:
        arrays = load_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{ARRAYS} cannot be read ({error}).") from error
    wanted = _leaves(template)
    _compare_names({name for name, _ in wanted}, set(arrays))
    rows = {"data." + f.name for f in dataclasses.fields(Dataset) if f.name != "count"}
    capacity = arrays["data.x"].shape[:1]
    leaves = []
    for name, like in wanted:
        shape = capacity + np.shape(like)[1:] if name in rows else None
        leaves.append(_from_numpy(name, arrays[name], like, shape))
    return jax.tree.unflatten(jax.tree.structure(template), leaves), manifest["notes"]


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it, and put it in place of the old one, if any."""
    temporary = path.with_name(f".{path.name}.part")
    write_durably(temporary, data)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        what = "misses" if odd[0] in wanted else "has the unknown"
        raise Damaged(f"{ARRAYS} {what} {odd[0]}: the settings in config.json are not those of this checkpoint.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror}).") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, if it is what was written."""
    try:
        manifest = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is no JSON.") from error
    if not isinstance(manifest, dict) or manifest.get("sha256") != _own_hash(manifest):
        raise Damaged(f"{MANIFEST} is not what was written (its SHA-256 differs).")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path.parent} has the format {manifest.get('format')}, and this version of forethought reads {FORMAT}: "
            "use the version that wrote it (see run.json)."
        )
    return manifest


def _own_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest without its own hash, in a form that does not depend on spaces or order."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
