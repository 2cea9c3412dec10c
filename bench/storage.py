"""What it costs that nothing is lost: milliseconds of a checkpoint, microseconds of a row of the journal.

    python bench/storage.py            # writes results/reliability/storage.json

Trains the default v1.5 on Pendulum-v1 for 300 steps and then times, on its state and its files, warm, on one core:

- checkpoint: everything from the state in memory to files that are flushed to the disk and renamed, the oldest one
  dropped; the median must be at most 50 ms
- row: one transition on its way to the disk (not flushed: a kill does not lose it)
- end: the last transition of an episode with its mark, flushed to the disk
- opened: the file of a new episode with its header (not flushed)
- read: the newest checkpoint read back into a state, its SHA-256 compared
- verify: every file of the run read and compared with what was written
- flush: what the disk takes for a few bytes, beside which the others have to be seen

Files go to the folder for temporary files, or to the one given.  The status is 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.random as jr
import numpy as np
from runner import RESULTS, commit, machine

from forethought.algorithms.globally import V15
from forethought.core import AbstractAlgorithm
from forethought.runs import checkpoint
from forethought.runs.directory import existing
from forethought.runs.experiment import Experiment, open_run
from forethought.runs.journal import Journal
from forethought.runs.log import Quiet
from forethought.runs.verify import problems

TARGET = 0.05
"""Seconds of a checkpoint."""
EPISODE = 200
"""Rows of a journal."""


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile and worst."""
    p95 = float(np.percentile(seconds, 95))
    return {"median": statistics.median(seconds), "p95": p95, "max": max(seconds), "count": len(seconds)}


def timed(work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Seconds of each round; one more before them warms up."""
    taken, processor = [], []
    for _ in range(rounds + 1):
        began, before = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - began)
        processor.append(time.process_time() - before)
    return spread(taken[1:]) | {"processor_median": statistics.median(processor[1:])}


def flush(file: Path) -> None:
    """Write a few bytes to the disk."""
    with file.open("ab") as opened:
        opened.write(b"0" * 64)
        opened.flush()
        os.fsync(opened.fileno())


def flushes(work: Callable[[], object]) -> int:
    """How often it flushes."""
    with patch("os.fsync", wraps=os.fsync) as called:
        work()
    return called.call_count


def journalled(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds to open the journal of an episode, of each row, and of the row that ends it; Pendulum's sizes."""
    rng, numbers = np.random.default_rng(0), iter(range(rounds + 1))
    journal = Journal(folder=folder, run="bench", m=1, number=lambda: next(numbers), say=Quiet().say)
    taken: dict[str, list[float]] = {"opened": [], "row": [], "end": []}
    for _ in range(rounds + 1):
        x, u = rng.normal(size=(EPISODE + 1, 3)), rng.normal(size=(EPISODE, 1))
        began = time.perf_counter()
        journal.began(x[0], 0)
        clock = [began, time.perf_counter()]
        for i in range(EPISODE):
            journal.happened(u[i], x[i + 1], -1.0, False, i == EPISODE - 1)
            clock.append(time.perf_counter())
        opened, *rows, end = np.diff(clock).tolist()
        taken["opened"].append(opened)
        taken["row"].append(statistics.fmean(rows))
        taken["end"].append(end)
    journal.close()
    return {name: spread(seconds[1:]) for name, seconds in taken.items()}


def measure(algorithm: AbstractAlgorithm, task: str, steps: int, rounds: int, home: Path) -> dict[str, Any]:
    """Train, then time what is done with the run's state and files."""
    path = Experiment(task, algorithm, steps=steps, out=home / "run").run().run
    opened, run = open_run(path), existing(path)
    template = algorithm.init(opened.task, jr.key(0))
    saves = home / "saves"
    # As one in mid-run, of which the newest few are kept: the last one of a run is for evaluation only.
    about = opened.about._replace(resumable=True)
    save = lambda: checkpoint.save(saves, opened.state, about)
    found = {"checkpoint": timed(save, rounds) | {"flushes": flushes(save)}}
    found |= journalled(home / "journal", rounds)
    read = lambda: checkpoint.restore(checkpoint.newest(run.checkpoints, opened.name, Quiet().say), template)
    found["flush"] = timed(lambda: flush(home / "flush"), rounds)
    found["read"] = timed(read, rounds)
    if damage := list(problems(run)):
        raise RuntimeError(f"The run is damaged: {damage[0]}")
    found["verify"] = timed(lambda: list(problems(run)), rounds)
    last = checkpoint.numbered(saves)[-1]
    sizes = {file.name: file.stat().st_size for file in sorted(last.iterdir())}
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "seconds": found,
        "bytes": {"checkpoint": sizes, "run": sum(file.stat().st_size for file in files), "files": len(files)},
        "target": TARGET,
        "met": found["checkpoint"]["median"] <= TARGET,
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the files go; default: that for temporary files")
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "storage.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command line does
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    load, task, steps = os.getloadavg()[0], "Pendulum-v1", 300
    home = Path(tempfile.mkdtemp(prefix="storage-", dir=arguments.folder))
    try:
        measured = measure(V15(), task, steps, arguments.rounds, home)
        system = filesystem(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    result = {
        "figure": "storage",
        "settings": {"task": task, "algorithm": "V15()", "steps": steps, "rounds": arguments.rounds, "disk": system},
        **measured,
        "commit": commit(),
        "machine": machine(),
        "jax": jax.__version__,
        "load_before": load,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, case in measured["seconds"].items():
        print(f"{name:<10} {1e3 * case['median']:8.3f} ms (95th percentile {1e3 * case['p95']:.3f})")
    return 0 if measured["met"] else 1


def filesystem(folder: Path) -> str:
    """The kind of file system that the folder is on: to flush costs nothing on one in memory."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(where, kind) for where, kind in mounts if folder.resolve().is_relative_to(where)]
    return max(above, key=lambda mount: len(mount[0]))[1]


if __name__ == "__main__":
    sys.exit(main())
