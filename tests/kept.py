"""What a run left behind: read, and compared with another run bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.random as jr
import numpy as np

from forethought.runs.directory import RunDirectory
from forethought.runs.episodes import read_episode
from forethought.runs.experiment import open_run
from forethought.runs.files import read_sealed
from forethought.runs.verify import problems


def lines(run: Path) -> list[dict]:
    """The metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def episodes(run: Path) -> list[tuple]:
    """The episode files in order."""
    return [read_episode(p) for p in sorted((run / "episodes").glob("*.safetensors"))]


CLOCKS = {"seconds", "act_seconds", "step_seconds", "fit_seconds", "improve_seconds"}


def without_clocks(run: Path) -> list[dict]:
    """The metrics, but for what a clock said."""
    return [{k: v for k, v in m.items() if k not in CLOCKS} for m in lines(run)]


def start(run: Path) -> dict:
    """How the run was last started."""
    return read_sealed(run / "run.json")["starts"][-1]


def require_same_run(one: Path, two: Path) -> None:
    """Everything but the clocks and the name of the run, bit for bit; and nothing of either is damaged."""
    for which in ("newest", "resumable", "best"):
        a, b = open_run(one, which=which), open_run(two, which=which)
        assert equal_states(a.state, b.state), which
        assert a.about.resumable == b.about.resumable
        assert a.about.score == b.about.score
        # An old checkpoint that is the best one still has the budget of its day.
        budget = {} if which == "newest" else {"steps": 0}
        assert a.about.experiment | budget == b.about.experiment | budget
        left = [{k: v for k, v in run.about.notes.items() if k not in ("seconds", "metrics")} for run in (a, b)]
        assert left[0] == left[1]
    assert without_clocks(one) == without_clocks(two)
    first, second = episodes(one), episodes(two)
    assert len(first) == len(second)
    for (p, said), (q, told) in zip(first, second, strict=True):
        assert said | {"run": ""} == told | {"run": ""}
        for column in ("x", "u", "y", "reward", "terminated", "truncated", "t", "log_prob", "condition"):
            assert np.array_equal(getattr(p, column), getattr(q, column)), column
    for run in (one, two):
        assert list(problems(RunDirectory(run))) == []
        assert list((run / "journal").iterdir()) == []


def equal_states(a, b) -> bool:
    """Bit for bit."""
    plain = lambda v: jr.key_data(v) if _is_key(v) else v
    one, two = ([np.asarray(plain(v)) for v in jax.tree.leaves(s)] for s in (a, b))
    return len(one) == len(two) and all(map(np.array_equal, one, two))


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
