"""Episode files: one safetensors file per episode, with the arrays of a `Trajectory` and a few words about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_safetensors

from forethought.runs.checkpoint import replace_durably
from forethought.types import Trajectory, UserError

COLUMNS = tuple(Trajectory.__dataclass_fields__)


def joined(pieces: list[Trajectory]) -> Trajectory:
    """The pieces of one episode as one trajectory."""
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *pieces)


def write_episode(folder: Path, number: int, trajectory: Trajectory, about: dict[str, Any]) -> Path:
    """Write an episode; `about` says what it is (whether it is complete, for one)."""
    arrays = {name: np.array(getattr(trajectory, name), order="C") for name in COLUMNS}
    words = {"format": "forethought episode 1", "about": json.dumps({"episode": number, **about})}
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:06d}.safetensors"
    replace_durably(path, save_safetensors(arrays, metadata=words))
    return path


def read_episode(path: Path) -> tuple[Trajectory, dict[str, Any]]:
    """An episode file and what it says about itself.  Raises `UserError` for any other file."""
    try:
        with safe_open(path, framework="numpy") as file:
            words = file.metadata() or {}
            if words.get("format") != "forethought episode 1":
                raise UserError(f"{path} is a safetensors file, but no episode of forethought.")
            arrays = {name: file.get_tensor(name) for name in COLUMNS}
            about = json.loads(words.get("about", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an episode of forethought: {error}.") from error
    return Trajectory(**arrays), about
