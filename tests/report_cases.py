"""Run directories that no run has made: written by hand, so that a page about any run can be tried in no time."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from forethought.reporting.episode_notes import episode_paths, read_columns
from forethought.reporting.fan_panel import PARTICLES, Fan, choose_episodes, choose_starts, packed
from forethought.reporting.records import Records
from forethought.runs.evaluations import write_evaluation
from forethought.runs.files import seal

NAME = "0123456789abcdef"
LEARNER = {"kind": "EnsembleLearner"}


def data_of(path: Path) -> dict[str, Any]:
    """The data in a page."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def config(**given: Any) -> dict[str, Any]:
    """A recipe as it is written down."""
    algorithm = {"kind": given.pop("kind", "V15"), "planner": {"kind": "ICEM"}, "learner": LEARNER}
    return {"task": "Pendulum-v1", "algorithm": algorithm, "steps": 1000, "seed": 0, "workers": 1} | given


def write_run(path: Path, episodes: int = 3, rows: int = 20, n: int = 3, m: int = 1, **given: Any) -> Path:
    """A run of so many whole episodes.  `broken`: some numbers are not finite; `lines`: further fields of each line of
    metrics; `evaluated`: steps at which it was evaluated; the rest is for its recipe."""
    broken, more = given.pop("broken", False), given.pop("lines", {})
    evaluated = given.pop("evaluated", [episodes * rows] if episodes else [])
    threshold = given.pop("threshold", -200.0)
    random = np.random.default_rng(given.get("seed", 0))
    path.mkdir(parents=True)
    recipe = config(**given)
    (path / "config.json").write_bytes(seal({"format": 2, "run": NAME, "experiment": recipe}))
    start = {
        "began": "2026-11-29T06:36:57+00:00",
        "command": f"forethought train {recipe['task']} --seed {recipe['seed']}",
        "versions": {"forethought": "0.1.0", "jax": "0.10.2"},
        "machine": {"platform": "Linux", "cpus": 2, "devices": ["cpu:0 cpu"]},
    }
    (path / "run.json").write_bytes(seal({"run": NAME, "starts": [start]}))
    text = "".join(json.dumps(_line(i, rows, random, broken) | more) + "\n" for i in range(episodes))
    (path / "metrics.jsonl").write_text(text)
    for number in range(episodes):
        write_episode(path, number, random, rows, n, m, broken=broken and number % 3 == 0)
    for steps in evaluated:
        returns = random.normal(-180.0, 40.0, 10).tolist()
        about = {"run": NAME, "env_steps": steps, "which": "newest", "seconds": 1.0, "successes": None}
        facts = {"returns": returns, "starts": list(range(1000, 1010)), "task": recipe["task"], "threshold": threshold}
        write_evaluation(path, about | facts)
    return path


def _line(i: int, rows: int, random: np.random.Generator, broken: bool) -> dict[str, Any]:
    """A turn of v1.5 that is a whole episode."""
    bad = broken and i % 3 == 0
    error = None if bad else 0.5 * math.exp(-0.1 * i) + 0.01 * random.random()
    line = {"turn": i + 1, "env_steps": (i + 1) * rows, "episodes": i + 1, "seconds": 2.0 * (i + 1)}
    line |= {"planned": i > 0, "steps": rows, "step_seconds": 0.02 + 0.01 * random.random(), "plan_failures": int(bad)}
    line |= {"plan_cost": "Infinity" if bad else 100.0 / (i + 1), "plan_spread": 0.3 + 0.1 * random.random()}
    line |= {"model_error_1": error, "model_error_20": None if error is None else 8 * error, "break_even": 20}
    line |= {f"coverage_{k}_{h}": None if bad else min(1.0, k / 100 + 0.03) for k in (50, 80, 95) for h in (1, 5)}
    line |= {
        "epistemic_std": 0.1,
        "aleatoric_std": 0.05,
        "exploitation_gap": 0.2,
        "return": None if bad else -900.0 + 5 * i,
    }
    return line


def write_episode(
    path: Path, number: int, random: np.random.Generator, rows: int, n: int, m: int, *, broken: bool = False
) -> None:
    """An episode file, as a run writes it."""
    walk = np.cumsum(random.normal(size=(rows + 1, n)), axis=0) * 0.1
    u = np.clip(random.normal(scale=1.5, size=(rows, m)), -2.0, 2.0)
    if broken:
        walk[-1, 0] = np.nan
    last = np.arange(rows) == rows - 1
    arrays = {
        "x": walk[:-1].copy(),
        "u": u,
        "y": walk[1:].copy(),
        "reward": -np.abs(random.normal(size=rows)),
        "terminated": np.zeros(rows, bool),
        "truncated": last,
        "t": np.arange(rows, dtype=np.int64),
        "log_prob": np.zeros(rows),
        "condition": np.full(rows, number, np.int64),
    }
    about = {"episode": number, "run": NAME, "complete": True, "return": float(arrays["reward"].sum())}
    words = {"format": "forethought episode 1", "about": json.dumps(about)}
    (path / "episodes").mkdir(exist_ok=True)
    (path / "episodes" / f"{number:06d}.safetensors").write_bytes(save_safetensors(arrays, metadata=words))


def invented_fan(run: Records, horizon: int = 20, seed: int = 0) -> dict[str, Any]:
    """Fans around what happened, which no model has imagined."""
    random, fans = np.random.default_rng(seed), []
    paths = episode_paths(run.path)
    for number, label in choose_episodes(run.episodes).items():
        columns, _ = read_columns(paths[number])
        real = np.concatenate([columns["x"], columns["y"][-1:]])
        starts = choose_starts(len(columns["x"]), 20)
        at = starts[:, None] + 1 + np.arange(horizon)
        truth = real[np.minimum(at, len(real) - 1)][:, :, None]
        spread = 0.1 * np.sqrt(1 + np.arange(horizon))[None, :, None, None]
        values = truth + spread * random.normal(size=(len(starts), horizon, PARTICLES, real.shape[1]))
        fans.append(Fan(number, label, real, starts, np.where((at < len(real))[..., None, None], values, np.nan)))
    return packed(fans, [f"x{i}" for i in range(fans[0].real.shape[1])])


def diagnosis(n: int, horizon: int = 20) -> dict[str, Any]:
    """What `forethought diagnose` writes, after 60 steps of a run of `write_run`, as far as the page reads it."""

    def at(h: int) -> dict[str, Any]:
        share = {str(k): max(k / 100 - 0.01 * h, 0.0) for k in (50, 80, 95)}
        covers = {
            k: {"share": v, "by_component": [v] * n, "low": [max(v - 0.1, 0.0)] * n, "high": [min(v + 0.1, 1.0)] * n}
            for k, v in share.items()
        }
        return {"steps": h, "count": 30, "finite": 1.0, "error": 0.01 * h, "persistence": 0.2 * h, "coverage": covers}

    return {
        "name": NAME,
        "env_steps": 60,
        "mode": "held-out",
        "judged_episodes": 2,
        "components": [f"x{i}" for i in range(n)],
        "noise_floor": 0.008,
        "ahead": [at(h) for h in range(1, horizon + 1)],
        "sentences": [f"The model beats 'nothing changes' up to {horizon} steps, as far as was looked."],
    }
