"""Episode files: one safetensors file per episode, with the arrays of a `Trajectory` and a few words about it.

Beside them lies SHA256SUMS, in the form that `sha256sum --check` reads: each number once, and half a line at its end,
which a power cut may leave, is no line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save as save_safetensors

from forethought.runs.episode_columns import COLUMNS, FORMAT, parse_columns
from forethought.runs.files import (
    Damaged,
    append_line,
    largest,
    read_bytes,
    remove,
    replace_durably,
)
from forethought.types import Trajectory, UserError

SUMS = "SHA256SUMS"


def joined(pieces: list[Trajectory]) -> Trajectory:
    """The pieces of one episode as one trajectory."""
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *pieces)


def episode_file(folder: Path, number: int) -> Path:
    """Where an episode is, or would be."""
    return folder / f"{number:06d}.safetensors"


def write_episode(folder: Path, number: int, trajectory: Trajectory, about: dict[str, Any]) -> Path:
    """Write an episode and its sum; `about` says what it is (whether it is complete, for one)."""
    arrays = {name: np.array(getattr(trajectory, name), order="C") for name in COLUMNS}
    words = {"format": FORMAT, "about": json.dumps({"episode": number, **about}, allow_nan=False)}
    folder.mkdir(exist_ok=True)
    path = episode_file(folder, number)
    data = save_safetensors(arrays, metadata=words)
    if path.exists():
        _drop_sums(folder, lambda n: n == number)
    replace_durably(path, data)
    append_line(folder / SUMS, _sum_line(number, hashlib.sha256(data).hexdigest()))
    return path


def _sum_line(number: int, digest: str) -> bytes:
    return f"{digest}  {number:06d}.safetensors\n".encode()


def read_episode(path: Path) -> tuple[Trajectory, dict[str, Any]]:
    """An episode file, from wherever, and what it says about itself.  Raises `UserError` for any other file."""
    try:
        return parse_episode(read_bytes(path, largest()), path.name)
    except Damaged as error:
        raise UserError(f"{path} cannot be read as an episode of forethought: {error}") from error


def parse_episode(data: bytes, name: str) -> tuple[Trajectory, dict[str, Any]]:
    """The bytes of an episode file.  Raises `Damaged`."""
    columns, about = parse_columns(data, name)
    return Trajectory(**columns), about


def episode_files(folder: Path) -> dict[int, Path]:
    """Number to file, of every episode file in the folder."""
    if not folder.is_dir() or folder.is_symlink():
        return {}
    found = {int(p.stem): p for p in folder.iterdir() if re.fullmatch(r"[0-9]{6,9}\.safetensors", p.name)}
    return dict(sorted(found.items()))


def read_sums(folder: Path) -> dict[int, str]:
    """Number to SHA-256.  Raises `Damaged`."""
    path = folder / SUMS
    if not path.exists() and not path.is_symlink():
        return {}
    found: dict[int, str] = {}
    for i, line in enumerate(read_bytes(path, largest()).split(b"\n")[:-1], start=1):
        match = re.fullmatch(rb"([0-9a-f]{64})  ([0-9]{6,9})\.safetensors", line)
        if match is None or int(match[2]) in found:
            raise Damaged(f"{SUMS}, line {i}, is not as it was written.")
        found[int(match[2])] = match[1].decode()
    return found


def checked_episode(folder: Path, number: int, run: str, sums: dict[int, str]) -> tuple[Trajectory, dict[str, Any]]:
    """An episode of this run, if it is what was written.  Raises `Damaged`."""
    path = episode_file(folder, number)
    data = read_bytes(path, largest())
    if hashlib.sha256(data).hexdigest() != sums.get(number):
        raise Damaged(f"{path.name} is not what was written (its SHA-256 is not the one in {SUMS}).")
    trajectory, about = parse_episode(data, path.name)
    if about.get("run") != run or about.get("episode") != number:
        which = f"episode {about.get('episode')!r} of run {about.get('run')!r}"
        raise Damaged(f"{path.name} is {which}, not of this one.")
    return trajectory, about


def keep_episodes(folder: Path, below: int) -> None:
    """Drop episodes from this number on, which a resumed run does again, and their sums."""
    if not folder.is_dir():
        return
    for number, path in episode_files(folder).items():
        if number >= below:
            remove(path)
    _drop_sums(folder, lambda number: number >= below)


def _drop_sums(folder: Path, dropped: Callable[[int], bool]) -> None:
    """Leave lines out of the sums; where one of them is damaged, all stay as they are, and are named when read."""
    try:
        sums = read_sums(folder)
    except Damaged:
        return
    lines = [_sum_line(number, digest) for number, digest in sorted(sums.items()) if not dropped(number)]
    replace_durably(folder / SUMS, b"".join(lines))
