"""Episode files as far as the page needs them: how long, what return, how often the actions were at their limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forethought.runs.episode_columns import parse_columns
from forethought.runs.files import largest, read_bytes

TIMES = 3
"""How often an action must have taken its largest value before that counts as a limit which nobody has named."""


class EpisodeNote(NamedTuple):
    """One episode."""

    number: int
    rows: int
    complete: bool
    score: float
    """Return; NaN where it is not finite."""
    low: np.ndarray
    """The least value [m] of each action, and the largest one, with how often each was taken."""
    high: np.ndarray
    at_low: np.ndarray
    at_high: np.ndarray
    hot: bool
    """Whether every action is a choice (one-hot)."""


def episode_paths(run: Path) -> dict[int, Path]:
    """Number to file, of every episode of a run."""
    folder = run / "episodes"
    if not folder.is_dir() or folder.is_symlink():
        return {}
    found = {int(p.stem): p for p in folder.iterdir() if re.fullmatch(r"[0-9]{6,9}\.safetensors", p.name)}
    return dict(sorted(found.items()))


def read_columns(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns of an episode, and what it says about itself.  Raises `Damaged`."""
    return parse_columns(read_bytes(path, largest()), path.name)


def note(path: Path) -> EpisodeNote:
    """An episode file.  Raises `Damaged`."""
    columns, about = read_columns(path)
    u = columns["u"]
    score = about.get("return")
    m = u.shape[1]
    low = u.min(axis=0) if len(u) else np.full(m, np.inf)
    high = u.max(axis=0) if len(u) else np.full(m, -np.inf)
    hot = m > 1 and len(u) > 0 and bool(np.all((u == 0.0) | (u == 1.0)) and np.all(u.sum(axis=1) == 1.0))
    return EpisodeNote(
        number=int(path.stem),
        rows=len(u),
        complete=about.get("complete") is True,
        score=float(score) if isinstance(score, (int, float)) else math.nan,
        low=low,
        high=high,
        at_low=(u == low).sum(axis=0),
        at_high=(u == high).sum(axis=0),
        hot=hot,
    )


class Limits(NamedTuple):
    """Where actions end."""

    low: np.ndarray
    high: np.ndarray
    named: bool
    """Whether the task says so; otherwise they are the extremes that were executed `TIMES` times at least."""


def seen_limits(notes: Sequence[EpisodeNote]) -> Limits | None:
    """The limits that the executed actions suggest; NaN where there is none."""
    if not notes or any(n.hot for n in notes) or len({n.low.shape for n in notes}) > 1:
        return None
    low, high = (np.array([getattr(n, k) for n in notes]) for k in ("low", "high"))
    least, most = low.min(axis=0), high.max(axis=0)
    times_low = (np.array([n.at_low for n in notes]) * (low == least)).sum(axis=0)
    times_high = (np.array([n.at_high for n in notes]) * (high == most)).sum(axis=0)
    known = least < most
    return Limits(
        np.where(known & (times_low >= TIMES), least, np.nan),
        np.where(known & (times_high >= TIMES), most, np.nan),
        named=False,
    )


def share_at(one: EpisodeNote, limits: Limits) -> float:
    """The share of an episode's actions, over steps and components, that were at a limit."""
    if one.rows == 0 or limits.low.shape != one.low.shape:
        return math.nan
    with np.errstate(invalid="ignore", over="ignore"):
        width = limits.high - limits.low
        near = np.where(np.isfinite(width), 1e-6 * width, 0.0)  # an action that ends on one side only has no width
        low = np.where(one.low <= limits.low + near, one.at_low, 0)
        high = np.where(one.high >= limits.high - near, one.at_high, 0)
    return float((low + high).sum() / (one.rows * len(one.low)))
