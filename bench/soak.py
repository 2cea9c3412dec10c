"""Whether a long run grows: memory, open files and compilations of one training process.

    python bench/soak.py --minutes 30                          # writes results/reliability/soak.json
    python bench/soak.py --minutes 1 --every 2 --out elsewhere.json

One run of v1.5 on Pendulum-v1, in this process, on one core, at low priority, into a temporary folder: default planner
and networks, but episodes of 50 steps and fits of 100 gradient steps, so that there are many episodes, fits,
checkpoints and journals.  The first third warms up.  After it the slope of the resident memory (least squares) must be
below 1 MB per 10 minutes, and file descriptors and compilations must not change at all.

Data that are kept are no leak, and they would hide one.  So nothing that grows is kept here: at the end of each episode
the data are cut to their last rows, and the capacity of the dataset, with all that is compiled for it, stays what it
was.  Nothing is subtracted from what is measured.  Samples are taken when an episode has just been saved.  The status
is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import wadler_lindig
from jax import monitoring
from runner import RESULTS, commit, machine

from forethought.algorithms.globally import V15
from forethought.core import AbstractAlgorithm, AbstractPolicy, RunState, Task
from forethought.models.ensemble import EnsembleLearner
from forethought.runs.experiment import Experiment
from forethought.runs.log import Quiet, Turn
from forethought.types import Dataset, Metrics, RandomKey

TASK, LIMIT, ROWS = "Pendulum-v1", 50, 400
TARGET = 1.0
"""MB (10^6 bytes) per 10 minutes."""
FEWEST = 5
"""Samples that a slope is fitted to, at least."""
COMPILED = "/jax/core/compile/backend_compile_duration"


class Forgetful(AbstractAlgorithm):
    """An algorithm that keeps its newest `rows` transitions only: what it holds does not grow."""

    inner: V15
    rows: int

    def init(self, task: Task, key: RandomKey) -> RunState:
        return self.inner.init(task, key)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        after, metrics = self.inner.step(task, state, limit)
        if after.open is not None:
            return after, metrics
        return dataclasses.replace(after, data=newest(after.data, self.rows)), metrics

    def appends(self, state: RunState) -> bool:
        return self.inner.appends(state)

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        return self.inner.policy(task, state)


def newest(data: Dataset, rows: int) -> Dataset:
    """The last rows, with the capacity as it is."""
    count = int(data.count)
    if count <= rows:
        return data
    columns = {}
    for name in Dataset.__dataclass_fields__:
        if name != "count":
            old = np.asarray(getattr(data, name))
            columns[name] = np.zeros_like(old)
            columns[name][:rows] = old[count - rows : count]
    return Dataset(**columns, count=np.asarray(rows, np.int64))


class Enough(KeyboardInterrupt):
    """The time is over: ends a run as an interrupt does."""


class Sampler(Quiet):
    """Takes a sample every so many seconds, at the next end of an episode, and ends the run when the time is over."""

    def __init__(self, seconds: float, every: float, compilations: Callable[[], int]):
        self.seconds, self.every, self.compilations = seconds, every, compilations
        self.began = time.monotonic()
        self.samples: list[dict[str, Any]] = []
        self.episodes, self.turns = 0, 0

    def turn(self, turn: Turn) -> None:
        now = time.monotonic() - self.began
        self.turns += 1
        ended, self.episodes = len(turn.returns) > self.episodes, len(turn.returns)
        if not ended:
            return
        last = self.samples[-1]["seconds"] if self.samples else -self.every
        if now - last >= self.every:
            counts = {"steps": turn.env_steps, "episodes": self.episodes, "turns": self.turns}
            self.samples.append(
                {"seconds": round(now, 3), **resources(), "compilations": self.compilations(), **counts}
            )
        if now >= self.seconds:
            raise Enough


def resources() -> dict[str, Any]:
    """Resident memory in MB, and open file descriptors, of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "descriptors": len(os.listdir("/proc/self/fd"))}


def counter() -> Callable[[], int]:
    """How many programs jax has compiled, or loaded, since this call."""
    seen = [0]

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        seen[0] += event == COMPILED

    monitoring.register_event_duration_secs_listener(listen)
    return lambda: seen[0]


def judged(samples: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What the samples after the first third say."""
    steady = [sample for sample in samples if sample["seconds"] >= seconds / 3]
    if len(steady) < FEWEST:
        raise SystemExit(
            f"There are {len(steady)} samples after the warm-up; at least {FEWEST} are needed: run longer."
        )
    clock, memory = (np.array([sample[name] for sample in steady]) for name in ("seconds", "megabytes"))
    slope = float(np.polyfit(clock, memory, 1)[0]) * 600
    constant = {
        name: [min(values), max(values)]
        for name in ("descriptors", "compilations")
        for values in [[sample[name] for sample in steady]]
    }
    flat = {name: low == high for name, (low, high) in constant.items()}
    return {
        "warm_up_seconds": seconds / 3,
        "samples_after_warm_up": len(steady),
        "megabytes_per_10_minutes": slope,
        "megabytes": [float(memory.min()), float(memory.max())],
        **constant,
        "target": TARGET,
        "met": {"memory": slope < TARGET, **flat},
    }


def soak(seconds: float, every: float, home: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train for so long; the samples, and what the run was."""
    algorithm = V15(learner=EnsembleLearner(gradient_steps=100))
    experiment = Experiment(TASK, Forgetful(algorithm, ROWS), steps=10**9, limit=LIMIT, out=home / "run")
    sampler = Sampler(seconds, every, counter())
    with contextlib.suppress(Enough):
        experiment.run(show=sampler)
    text = " ".join(wadler_lindig.pformat(algorithm, hide_defaults=False).split())
    settings = {"task": TASK, "limit": LIMIT, "rows": ROWS, "algorithm": text}
    return sampler.samples, settings


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "soak.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command line does
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    os.nice(10)
    load, seconds = os.getloadavg()[0], 60 * arguments.minutes
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        samples, settings = soak(seconds, arguments.every, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    last = {name: samples[-1][name] for name in ("steps", "episodes", "turns")}
    result = {
        "figure": "soak",
        "settings": {"minutes": arguments.minutes, "every": arguments.every, **settings},
        **last,
        **judged(samples, seconds),
        "commit": commit(),
        "machine": machine(),
        "jax": jax.__version__,
        "load_before": load,
        "samples": samples,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key not in ("samples", "machine")}, indent=1))
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
