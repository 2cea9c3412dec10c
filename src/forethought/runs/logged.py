"""Logged data: what a run learns from before it has done anything itself.

An episode file of ours (.safetensors), a CSV with a header line, or an NPZ with named arrays.  The names are:

    x         state          CSV: x0 x1 ...; NPZ: x [T, n], or x0 x1 ... [T]
    u         action         CSV: u0 u1 ...; NPZ: u [T, m], or u0 u1 ... [T]; a discrete action may be one number
    y         next state     like x; where it is missing, the next row of the same episode is meant
    reward                   needed where reward and termination are learned (missing: 0)
    terminated truncated     0 or 1 (missing: 0)
    episode                  any number that changes from episode to episode (missing: one episode)
    t                        step within the episode; the rows of an episode are put in its order

Without y the last row of each episode has no next state and serves as one only.  A file may hold at most a gigabyte,
unpacked; it is refused before that much is allocated.
"""

from __future__ import annotations

import csv
import lzma
import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from forethought.core import Task
from forethought.math.dataset import append, empty
from forethought.runs.episodes import read_episode
from forethought.types import Choices, Dataset, Trajectory, UserError

Columns = dict[str, np.ndarray]
MOST = 2**30
"""Bytes that logged data may have, unpacked."""
REAL = {b"b1", *(f"{kind}{size}".encode() for kind in "iu" for size in (1, 2, 4, 8)), b"f2", b"f4", b"f8"}
"""NumPy's names of real numbers, without their byte order."""
VECTORS = ("x", "u", "y")
SCALARS = ("reward", "terminated", "truncated", "episode", "t", "log_prob", "condition")


def read_logged(path: Path, task: Task) -> Dataset:
    """The file as a dataset whose episodes are numbered -K..-1, so that the run's own begin at 0.

    Raises `UserError` with one sentence for a file that is not as above, or not of this task's size.
    """
    if not path.is_file():
        raise UserError(f"data is {path}; there is no such file.")
    if path.suffix == ".safetensors":
        trajectory, _ = read_episode(path)
        columns = {name: np.asarray(getattr(trajectory, name)) for name in (*VECTORS, *SCALARS) if name != "episode"}
    elif path.suffix == ".csv":
        columns = _read_csv(path)
    elif path.suffix == ".npz":
        columns = _read_npz(path)
    else:
        raise UserError(f"data is {path}; it must be an episode file (.safetensors), a .csv or an .npz.")
    return _dataset(path, _complete(path, columns, task), task)


def _read_csv(path: Path) -> Columns:
    try:
        if path.stat().st_size > MOST:
            raise ValueError(f"it has {path.stat().st_size} bytes, and at most {MOST} are read")
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.") from error
    if len(lines) < 2:
        raise UserError(f"{path} holds no rows; it must have a header line (x0,x1,...,u0,...) and rows of numbers.")
    names = [name.strip() for name in lines[0]]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"{path} has two columns {twice[0]!r}.")
    for i, line in enumerate(lines[1:], start=2):
        if len(line) != len(names):
            raise UserError(
                f"{path}, row {i}: there are {len(line)} values, and the header names {len(names)} columns."
            )
    return {name: _numbers(path, name, [line[j] for line in lines[1:]]) for j, name in enumerate(names)}


def _numbers(path: Path, name: str, texts: list[str]) -> np.ndarray:
    """One column of a CSV."""
    words = {"true": 1.0, "false": 0.0}
    values = []
    for i, text in enumerate(texts, start=2):
        try:
            if "_" in text:  # Python's own way of writing numbers
                raise ValueError
            values.append(words[text.strip().lower()] if text.strip().lower() in words else float(text))
        except ValueError:
            raise UserError(f"{path}, row {i}, column {name}: {text!r} is no number.") from None
    return np.asarray(values, np.float64)


def _read_npz(path: Path) -> Columns:
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            names = [m.filename.removesuffix(".npy") for m in members]
            if len(set(names)) < len(names):
                raise ValueError("it holds two arrays of the same name")
            if sum(m.file_size for m in members) > MOST:
                raise ValueError(f"its arrays have more than {MOST} bytes, unpacked")
            return {name: _read_array(file, member) for name, member in zip(names, members, strict=True)}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read as an NPZ of plain arrays: {str(error)[:300].rstrip('.')}.") from error


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array.  Its header is read here: NumPy's reader parses it as Python, and allocates what it says."""
    name, data = member.filename.removesuffix(".npy"), file.read(member)
    start = re.match(rb"\x93NUMPY(?:\x01[\x00-\xff](..)|[\x02\x03][\x00-\xff](....))", data, re.DOTALL)
    if start is None:
        raise ValueError(f"the array {name} is of an unknown format")
    begins = start.end() + int.from_bytes(start[1] or start[2], "little")
    words = data[start.end() : begins]
    order = re.search(rb"'fortran_order': *(True|False)", words)
    shape = re.search(rb"'shape': *\(([0-9, ]{0,100})\)", words)
    if order is None or shape is None or len(words) > 10_000:
        raise ValueError(f"the array {name} has a header that is not understood")
    described = re.search(rb"'descr': *'[<>|=]?([a-zA-Z][0-9]*)'", words)
    if described is not None and described[1] == b"O":
        raise ValueError(f"the array {name} holds objects, which are pickles")
    if described is None or described[1] not in REAL:
        kind = "several fields" if described is None else f"dtype {described[0].decode().split(chr(39))[-2]}"
        raise UserError(f"the array {name} is of {kind}; it must hold real numbers.")
    dtype = np.dtype(described[0].decode().split("'")[-2])
    sizes = [int(size) for size in shape[1].split(b",") if size.strip()]
    if math.prod(sizes) * dtype.itemsize != len(data) - begins:
        raise ValueError(f"the header of the array {name} tells another size than it has")
    return np.frombuffer(data, dtype, offset=begins).reshape(sizes, order="F" if order[1] == b"True" else "C")


def _complete(path: Path, columns: Columns, task: Task) -> Columns:
    """Vectors as [T, k] and every scalar column, checked against the task."""
    known: Columns = {}
    for name in VECTORS:
        value = _vector(path, columns, name)
        if value is not None:
            known[name] = value
    known |= {name: np.asarray(columns[name], np.float64) for name in SCALARS if name in columns}
    stranger = [n for n in columns if n not in (*VECTORS, *SCALARS) and not re.fullmatch(r"[xuy]\d+", n)]
    if stranger:
        raise UserError(
            f"{path} has a column {stranger[0]!r}; known are x0 x1 ... (or x), u, y, reward, terminated, truncated, "
            "episode and t."
        )
    for name in ("x", "u"):
        if name not in known:
            raise UserError(f"{path} has no column {name}0 (or array {name}); states x and actions u are needed.")
    known["u"] = _one_hot(path, known["u"], task)
    count = len(known["x"])
    sizes = {"x": (count, task.spec.n), "u": (count, task.spec.m), "y": (count, task.spec.n)}
    for name, value in known.items():
        shape = sizes.get(name, (count,))
        if value.shape != shape:
            raise UserError(f"{path}: {name} has the shape {value.shape}, and for {task.name} it must be {shape}.")
        if not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise UserError(f"{path}: {name} is not finite in row {row} (counted from 0).")
    for name in ("terminated", "truncated"):
        if name in known and not np.isin(known[name], (0.0, 1.0)).all():
            row = int(np.flatnonzero(~np.isin(known[name], (0.0, 1.0)))[0])
            raise UserError(f"{path}: {name} is {known[name][row]:g} in row {row} (counted from 0); it must be 0 or 1.")
    for name in ("t", "condition"):
        if name in known and not ((known[name] == np.floor(known[name])) & (np.abs(known[name]) < 2**53)).all():
            raise UserError(f"{path}: {name} holds something else than whole numbers.")
    if task.spec.extras and "reward" not in known:
        raise UserError(f"{path} has no column reward, and for {task.name} the reward has to be learned from the data.")
    return known


def _vector(path: Path, columns: Columns, name: str) -> np.ndarray | None:
    """The columns name0, name1, ... side by side, or the array called `name`."""
    if name in columns:
        value = np.asarray(columns[name], np.float64)
        return value[:, None] if value.ndim == 1 else value
    found = sorted(int(key[1:]) for key in columns if re.fullmatch(rf"{name}\d+", key))
    if not found:
        return None
    if found != list(range(len(found))):
        missing = next(i for i in range(len(found) + 1) if i not in found)
        raise UserError(f"{path} has {name}{found[-1]}, but no column {name}{missing}.")
    parts = [np.asarray(columns[f"{name}{i}"], np.float64) for i in found]
    if any(p.shape != parts[0].shape or p.ndim != 1 for p in parts):
        raise UserError(f"{path}: the arrays {name}0 ... {name}{found[-1]} must be vectors of one length.")
    return np.stack(parts, axis=1)


def _one_hot(path: Path, u: np.ndarray, task: Task) -> np.ndarray:
    """Discrete actions that are given as one whole number each, as rows of the candidates."""
    actions = task.world.actions
    if not isinstance(actions, Choices) or u.ndim != 2 or u.shape[1] != 1 or actions.m == 1:
        return u
    index = u[:, 0]
    allowed = (index == np.floor(index)) & (index >= 0) & (index < actions.d)
    if not allowed.all():
        wrong = index[np.flatnonzero(~allowed)[0]]
        raise UserError(f"{path}: the action {wrong:g} is none of {task.name}, which has 0 to {actions.d - 1}.")
    return np.asarray(actions.values, np.float64)[index.astype(int)]


def _dataset(path: Path, columns: Columns, task: Task) -> Dataset:
    """Rows grouped by episode, in order of time, with next states."""
    count = len(columns["x"])
    _, first, ids = np.unique(columns.get("episode", np.zeros(count)), return_index=True, return_inverse=True)
    data = empty(task.spec, max(count, 1))
    for number, group in enumerate(np.argsort(first)):  # in the order in which they appear
        index = np.flatnonzero(ids == group)
        if "t" in columns:
            index = index[np.argsort(columns["t"][index], kind="stable")]
        data = append(data, _episode(columns, index), number - len(first))
    if int(data.count) == 0:
        raise UserError(f"{path} holds no transition: without y an episode needs at least two rows.")
    return data


def _episode(columns: Columns, index: np.ndarray) -> Trajectory:
    """The transitions of one episode."""
    take = index if "y" in columns else index[:-1]
    y = columns["y"][index] if "y" in columns else columns["x"][index[1:]]
    count = len(take)
    number = lambda name: columns[name][take] if name in columns else np.zeros(count)
    return Trajectory(
        x=columns["x"][take],
        u=columns["u"][take],
        y=y,
        reward=number("reward"),
        terminated=number("terminated") != 0.0,
        truncated=number("truncated") != 0.0,
        t=(columns["t"][take] if "t" in columns else np.arange(count)).astype(np.int64),
        log_prob=number("log_prob"),
        condition=number("condition").astype(np.int64),
    )
