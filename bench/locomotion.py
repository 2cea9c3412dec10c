"""Locomotion by an actor-critic with a model and without: return against environment steps, and the wall clock.

    python bench/locomotion.py HalfCheetah-v5 Hopper-v5 InvertedDoublePendulum-v5 --seeds 103-105
    python bench/locomotion.py Hopper-v5 --variants dyna,plain --seeds 0 --steps 5000 --out somewhere/else

One process per task, variant and seed.  A seed whose file is there is not run again.  A seed that was broken off goes
on where its run directory stands: it is an ordinary run, resumed to one mark after the other, and after each mark the
mean controller is run for a few episodes from the task's fixed starts, which are not counted and not learned from.
An episode that a mark cut off is done again on the way to the next, so the seconds hold some steps twice.
Peers' figures beside it are published ones; see the page of figures.  Seeds 100 to 102 were looked into while the
model's size was still being chosen, on 0 and 1, and are not reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from runner import HERE, RESULTS, commit, machine, processes, seeds, write

TASKS = ("HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5")
VARIANTS = ("dyna", "plain")
"""The default; and the same without a model, on equal terms: as many gradient steps, all on real transitions."""
EPISODES = 4


def algorithm(variant: str) -> Any:
    """The one default configuration for all tasks, or the same without its model."""
    from forethought.algorithms.dyna import Dyna

    return Dyna() if variant == "dyna" else dataclasses.replace(Dyna(), real_ratio=1.0)


def judged(run: Path) -> list[float]:
    """Returns of the controller as it stands, from the first fixed starts."""
    import jax.random as jr

    from forethought.runs.experiment import open_run

    found = open_run(run)
    task = found.task
    policy = found.algorithm.policy(task, found.state)
    world = task.world.fresh()
    episodes = world.rollouts(policy, jr.key(0), task.starts[:EPISODES], task.limit)
    world.close()
    return [float(np.sum(e.reward)) for e in episodes]


def learn(name: str, variant: str, seed: int, marks: list[int], run: Path) -> dict[str, Any]:
    """Train to each mark in turn, in one run directory; what was judged so far is beside it."""
    from forethought import Experiment, resume

    beside = run.with_name(run.name + ".rows.json")
    rows = json.loads(beside.read_text()) if beside.exists() else []
    for mark in marks[len(rows) :]:
        began, spent = time.perf_counter(), time.process_time()
        if run.exists():
            result = resume(run, steps=mark)
        else:
            result = Experiment(name, algorithm(variant), steps=mark, seed=seed, out=run).run()
        cpu = time.process_time() - spent
        row = {"steps": result.env_steps, "seconds": result.seconds, "cpu": cpu, "returns": judged(run)}
        row["wall_of_part"] = time.perf_counter() - began
        rows.append(row | {"training": result.episodes[-5:]})
        temporary = beside.with_name(f".{beside.name}.{os.getpid()}")
        temporary.write_text(json.dumps(rows))
        temporary.replace(beside)
        print(
            f"{name} {variant} {seed}: {mark} steps, {np.mean(row['returns']):.0f}, {row['seconds']:.0f} s", flush=True
        )
    return {"rows": rows}


def run_of(path: Path) -> Path:
    """Where the run of a result is: beside it, but for what is committed."""
    folder = HERE.parent / "runs" / "locomotion" if RESULTS in path.parents else path.parent
    run = folder / f"{path.parent.name}-{path.stem}"
    run.parent.mkdir(parents=True, exist_ok=True)
    return run


def run_one(job: tuple[str, str, int, Path], marks: list[int]) -> None:
    """One seed in this process; its file appears only when it is whole."""
    import jax
    import wadler_lindig

    jax.config.update("jax_enable_x64", True)
    name, variant, seed, path = job
    found = learn(name, variant, seed, marks, run_of(path))
    settings = " ".join(wadler_lindig.pformat(algorithm(variant), hide_defaults=False).split())
    about = {"task": name, "variant": variant, "seed": seed, "commit": commit(), "machine": machine()}
    about |= {"settings": settings, "marks": marks, "jax": jax.__version__, "episodes_per_mark": EPISODES}
    write(path, about | found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--variants", default="dyna,plain")
    parser.add_argument("--seeds", default="103-105")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--mark", type=int, default=2000, help="steps between two evaluations")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "locomotion")
    parser.add_argument("--only", action="store_true", help="in this process")
    arguments = parser.parse_args()
    marks = list(range(arguments.mark, arguments.steps + 1, arguments.mark))
    jobs = [
        (name, variant, seed, arguments.out / f"{name}-{variant}" / f"{seed}.json")
        for name in arguments.tasks
        for variant in arguments.variants.split(",")
        for seed in seeds(arguments.seeds)
    ]
    if arguments.only:
        for job in jobs:
            run_one(job, marks)
        return 0
    more = ("--out", arguments.out, "--steps", arguments.steps, "--mark", arguments.mark, "--only")
    words = lambda name, variant, seed: (name, "--variants", variant, "--seeds", seed, *more)
    return min(processes(__file__, {path: words(*about) for *about, path in jobs}, arguments.jobs), 1)


if __name__ == "__main__":
    sys.exit(main())
