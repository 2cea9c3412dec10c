"""Local models: the KL bound and what came of it, and the gains over time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from forethought.reporting.charts import (
    QUIET,
    TEXT,
    Figure,
    Panel,
    Trace,
    chosen,
    figure,
    number,
    panel,
    rounded,
    series,
)
from forethought.reporting.records import Records, newest_checkpoint
from forethought.runs.files import Damaged, read_bytes

LARGEST = 2**28
"""Bytes of a checkpoint that is read for its gains."""
CONDITIONS = 12
"""Conditions that are shown at most."""
ROWS = 64
"""Gains of a condition that are drawn at most, each over the steps."""
NUMBERS = 120_000
"""Numbers of all of them on a page, about seven bytes each."""
GAINS = "fitted.gains.K"
ITERATION = "improvement"


def local_panel(run: Records, gains: Callable[[Path], np.ndarray], share: float = 1.0) -> Panel | None:
    """The panel of a local run, or None for another.  `share` of a page's gains may be drawn."""
    if run.algorithm != "local":
        return None
    improved = [line for line in run.lines if isinstance(line.get("local_kl"), list) and line["local_kl"]]
    figures: list[Figure] = []
    missing: list[str] = []
    seeds = run.setting("algorithm", "conditions")
    seeds = seeds if isinstance(seeds, list) else []
    name = lambda i: f"condition {seeds[i] if i < len(seeds) else i}"
    if improved:
        count = max(len(line["local_kl"]) for line in improved)
        names = [name(i) for i in range(count)]
        figures += [_bound(improved, names), _multiplier(improved, names), _improvement(improved, names)]
        if count > CONDITIONS:
            missing.append(f"Of {count} conditions the first {CONDITIONS} are shown.")
    else:
        missing.append("No improvement has been made yet: the first rollouts are still being collected.")
    try:
        found = gains(run.path)
        drawn, left_out = _gains(found, [name(i) for i in range(len(found))], max(int(NUMBERS * share), 1))
        figures.append(drawn)
        missing += left_out
    except Damaged as error:
        missing.append(f"The gains cannot be shown: {error}")
    except OSError:
        missing.append("The gains cannot be shown: there is no checkpoint yet.")
    caption = (
        "Each improvement may change a controller by no more than its KL bound. Good: the KL is at or below the bound, "
        "and the improvement that followed is near what was predicted; where it falls short, the bound shrinks."
    )
    return panel("local", "Local controllers", caption, figures, missing)


def _each(lines: Sequence[dict[str, Any]], name: str, i: int) -> list[float]:
    """A quantity of one condition over the improvements."""
    lists = [line.get(name) for line in lines]
    return [number(v[i]) if isinstance(v, list) and i < len(v) else math.nan for v in lists]


def _count(lines: Sequence[dict[str, Any]]) -> list[float]:
    return [float(i) for i in range(1, len(lines) + 1)]


DOTS = {"mode": "lines+markers"}


def _bound(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    def one(i: int) -> Figure:
        traces = [
            series("KL of the step", _count(lines), _each(lines, "local_kl", i), "@1", **DOTS),
            series("its bound epsilon", _count(lines), _each(lines, "local_epsilon", i), TEXT, dash="dash"),
        ]
        layout = {"yaxis": {"rangemode": "tozero"}}
        return figure(f"kl-{i}", traces, ITERATION, "nats, whole trajectory", layout=layout)

    return chosen("kl", "condition", [(n, one(i)) for i, n in enumerate(names[:CONDITIONS])], "KL against epsilon")


def _multiplier(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    traces = [
        series(n, _count(lines), _each(lines, "local_multiplier", i), f"@{i % 6 + 1}", **DOTS)
        for i, n in enumerate(names[:CONDITIONS])
    ]
    return figure("multiplier", traces, ITERATION, "lambda", log=True, label="Multiplier lambda of the KL bound")


def _improvement(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    """What the next rollouts brought stands beside what was predicted, not one improvement later."""

    def one(i: int) -> Figure:
        actual = [*_each(lines, "local_actual", i)[1:], math.nan]
        traces = [
            series("predicted", _count(lines), _each(lines, "local_predicted", i), QUIET, dash="dash", **DOTS),
            series("actual, by the next rollouts", _count(lines), actual, "@1", **DOTS),
        ]
        return figure(f"improvement-{i}", traces, ITERATION, "cost that was saved")

    label = "Predicted and actual improvement"
    return chosen("improvement", "condition", [(n, one(i)) for i, n in enumerate(names[:CONDITIONS])], label)


def _gains(gains: np.ndarray, names: Sequence[str], most: int) -> tuple[Figure, list[str]]:
    """K_t as a heat map of at most so many numbers, one row per entry and one column per step; what is left out."""
    count, T, m, n = gains.shape
    rows = min(m * n, ROWS)
    stride = max(math.ceil(min(count, CONDITIONS) * rows * T / most), 1)
    pictures = [_heat_map(K, stride) for K in gains[:CONDITIONS]]
    missing = [f"Of {m * n} gains the {rows} that become largest are drawn."] if m * n > rows else []
    missing += [f"Of the gains one of {stride} steps is drawn."] if stride > 1 else []
    layout = {"yaxis": {"type": "category", "autorange": "reversed"} | ({"dtick": 1} if rows <= 24 else {})}
    at, height = "step of the episode", 120 + 22 * min(rows, 24)
    choices = [
        (name, figure(f"gains-{i}", [trace], at, "", layout=layout, height=height))
        for i, (name, trace) in enumerate(zip(names, pictures, strict=False))
    ]
    return chosen(
        "gains", "condition", choices, "Gains K_t of the newest checkpoint: action row, state column"
    ), missing


def _heat_map(K: np.ndarray, stride: int) -> Trace:
    """The rows [T m n] whose entries become largest, or are not finite."""
    T, m, n = K.shape
    entries = np.asarray(K, float).reshape(T, m * n).T
    largest = np.where(np.isfinite(entries), np.abs(entries), np.inf).max(axis=1, initial=0.0)
    kept = np.sort(np.argsort(-largest, kind="stable")[:ROWS])
    most = float(np.abs(entries[np.isfinite(entries)]).max(initial=0.0)) or 1.0
    return {
        "type": "heatmap",
        "x": list(range(0, T, stride)),
        "z": rounded(entries[kept, ::stride]),
        "y": [f"u{i // n}, x{i % n}" for i in kept.tolist()],
        "colorscale": "RdBu",
        "zmid": 0,
        "zmin": -most,
        "zmax": most,
        "colorbar": {"thickness": 10, "title": {"text": "K"}},
        "hovertemplate": "step %{x}, %{y}: %{z}<extra></extra>",
    }


def newest_gains(path: Path) -> np.ndarray:
    """K [c T m n] of the newest checkpoint, read without jax.  Raises `Damaged`."""
    newest, manifest = newest_checkpoint(path)
    files = manifest.get("files")
    listed = files.get("arrays.safetensors") if isinstance(files, dict) else None
    data = read_bytes(newest / "arrays.safetensors", LARGEST)
    if not isinstance(listed, dict) or hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise Damaged("the newest checkpoint is not what was written (its SHA-256 differs).")
    try:
        gains = load_safetensors(data)[GAINS]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the newest checkpoint has no gains ({type(error).__name__}).") from error
    if gains.ndim != 4 or not gains.size:
        raise Damaged(f"the gains have the shape {list(gains.shape)}; they must be [conditions, steps, m, n].")
    return gains
