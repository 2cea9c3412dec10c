"""Data that no model likes, as episodes: every learner must end in a finite model, or say that it could not."""

from __future__ import annotations

import jax
import numpy as np

from fakes import as_trajectory
from forethought.types import Spec, Trajectory

SPEC = Spec(2, 1)


def _plain(rows: int, seed: int = 0):
    random = np.random.default_rng(seed)
    x, u = random.normal(size=(rows, 2)), random.uniform(-1, 1, (rows, 1))
    return x, u, x + 0.1 * np.stack([x[:, 1], u[:, 0] - np.sin(x[:, 0])], 1)


def _with(value: float, where: str):
    x, u, y = _plain(40)
    {"x": x, "u": u, "y": y}[where][7, 0] = value
    return x, u, y


def _conflicting():
    x, u, _ = _plain(1)
    return np.repeat(x, 30, 0), np.repeat(u, 30, 0), np.random.default_rng(1).normal(size=(30, 2))


def _constant(part: str):
    x, u, y = _plain(40)
    if part == "dimension":
        x[:, 1] = y[:, 1] = 3.0
    elif part == "action":
        u[:] = 0.7
    elif part == "target":
        y = x + np.array([0.1, 0.0])
    elif part == "everything":
        x, u, y = np.ones((40, 2)), np.ones((40, 1)), np.ones((40, 2))
    return x, u, y


def _scaled(by: float):
    return tuple(by * v for v in _plain(40))


def _mixed():
    x, u, y = _plain(40)
    scale = np.array([1e8, 1e-8])
    return x * scale, u, y * scale


CASES = {
    "no rows": lambda: _plain(0),
    "one row": lambda: _plain(1),
    "two rows": lambda: _plain(2),
    "three rows": lambda: _plain(3),
    "five rows": lambda: _plain(5),
    "one row forty times": lambda: tuple(np.repeat(v, 40, 0) for v in _plain(1)),
    "every row twice": lambda: tuple(np.repeat(v, 2, 0) for v in _plain(20)),
    "conflicting duplicates": _conflicting,
    "a constant state": lambda: _constant("dimension"),
    "a constant action": lambda: _constant("action"),
    "a constant target": lambda: _constant("target"),
    "nothing changes": lambda: _constant("everything"),
    "scale 1e-8": lambda: _scaled(1e-8),
    "scale 1e8": lambda: _scaled(1e8),
    "scales 1e8 and 1e-8": _mixed,
    "a NaN state": lambda: _with(np.nan, "x"),
    "a NaN action": lambda: _with(np.nan, "u"),
    "a NaN next state": lambda: _with(np.nan, "y"),
    "an infinite state": lambda: _with(np.inf, "x"),
    "an infinite next state": lambda: _with(-np.inf, "y"),
    "an outlier of 1e9": lambda: _with(1e9, "y"),
    "nothing but NaN": lambda: tuple(np.full_like(v, np.nan) for v in _plain(40)),
}
"""By name, what makes x, u and y."""


def episode(case: str) -> Trajectory:
    """The rows of a case as one episode."""
    return as_trajectory(*CASES[case]())


def all_finite(tree: object, but: str = "nothing") -> bool:
    """Whether every float array is finite, those whose path contains `but` excepted."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    floats = [(jax.tree_util.keystr(p), np.asarray(v)) for p, v in flat if hasattr(v, "dtype") and v.dtype.kind == "f"]
    return all(np.isfinite(v).all() for p, v in floats if but not in p)
