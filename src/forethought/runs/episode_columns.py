"""The bytes of an episode file, as plain arrays.  Nothing here imports jax."""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from forethought.runs.files import WORDS, Damaged, parse_json

COLUMNS = ("x", "u", "y", "reward", "terminated", "truncated", "t", "log_prob", "condition")
"""The fields of a `Trajectory`."""
FORMAT = "forethought episode 1"


def parse_columns(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns of a `Trajectory`, and what the episode says about itself.  Raises `Damaged`."""
    words = _metadata(data, name)
    if words.get("format") != FORMAT:
        raise Damaged(f"{name} is a safetensors file, but no episode of forethought.")
    try:
        arrays = load_safetensors(data)
        columns = {column: arrays[column] for column in COLUMNS}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} cannot be read ({type(error).__name__}: {str(error)[:200]}).") from error
    about = parse_json(str(words.get("about", "{}")).encode(errors="replace"), name)
    if not isinstance(about, dict):
        raise Damaged(f"{name} does not say what it is.")
    _check_columns(columns, name)
    return columns, about


def _check_columns(columns: dict[str, np.ndarray], name: str) -> None:
    """Raise `Damaged` unless they are the columns of one trajectory."""
    count, n = (*columns["x"].shape, 0, 0)[:2]
    m = (*columns["u"].shape, 0, 0)[1]
    shapes = {"x": (count, n), "u": (count, m), "y": (count, n)}
    kinds = {"terminated": "bool", "truncated": "bool", "t": "int64", "condition": "int64"}
    for column, value in columns.items():
        shape, kind = shapes.get(column, (count,)), kinds.get(column, "float64")
        if value.shape != shape or value.dtype != kind:
            raise Damaged(
                f"{name} holds {column} as {value.dtype}{list(value.shape)}; it must be {kind}{list(shape)}, "
                "and all columns must be of one length."
            )


def _metadata(data: bytes, name: str) -> dict[str, Any]:
    """The words in the header of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, WORDS):
        raise Damaged(f"{name} is no safetensors file: its header would have {length} bytes.")
    header = parse_json(data[8 : 8 + length], name)
    words = header.get("__metadata__") if isinstance(header, dict) else None
    return words if isinstance(words, dict) else {}
