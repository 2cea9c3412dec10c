"""How long a plan over a Gaussian process takes, and how that grows with the data, on one core.

    python bench/gp_plan.py                # writes results/gp-plan.json; the status is 1 if the target is missed
    python bench/gp_plan.py --rounds 3 --rows 200

A plan is one control step of MPC on Pendulum-v1 by iCEM with 100 samples and 3 iterations, 20 steps ahead, over the
model fitted to so many random steps: wall seconds, warm, without compilation, in a process pinned to one core.  Rounds
go through all cases in turn (A B C A B C), so that a busy moment of the machine hits all of them; processor seconds
stand beside the wall seconds and tell how quiet it was.  `mean`: plans go through the mean prediction, which is the
default and is to meet the target; `functions-N`: through N functions drawn from the posterior.  `growth` is the
mean for more rows, exact and sparse, with the seconds of the fits; `ensemble` is the default ensemble in the same
rounds.
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import wadler_lindig
from runner import RESULTS, commit, machine

from forethought.algorithms.globally import V15
from forethought.core import AbstractLearner, Task
from forethought.math.act import act, start
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gp_learner import GPLearner
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning
from forethought.tasks import task
from forethought.types import Dataset

TARGET = 0.012
GROWTH = (50, 100, 200, 400, 800, 1600)
EXACT = 10**9


def collected(target: Task, rows: int) -> Dataset:
    """So many random steps."""
    algorithm = V15(base_steps=rows)
    state = algorithm.init(target, jr.key(0))
    while int(state.data.count) < rows:
        state, _ = algorithm.step(target, state, rows - int(state.data.count))
    return state.data


def first(data: Dataset, rows: int) -> Dataset:
    """Only the first rows, in arrays of the same size."""
    return dataclasses.replace(data, count=np.asarray(rows, np.asarray(data.count).dtype))


class Case:
    """One model to plan with."""

    def __init__(self, target: Task, learner: AbstractLearner, data: Dataset, particles: int | None = None):
        fitted = learner.init(target.spec, jr.key(0))
        fitted, _ = learner.fit(fitted, data, jr.key(1))  # compiles
        fresh = learner.init(target.spec, jr.key(0))
        began = time.perf_counter()
        fitted, _ = jax.block_until_ready(learner.fit(fresh, data, jr.key(1)))
        self.fit_seconds = time.perf_counter() - began
        began = time.perf_counter()
        jax.block_until_ready(learner.fit(fitted, data, jr.key(2)))
        self.refit_seconds = time.perf_counter() - began
        # no particles: through the mean, as a plan goes by default
        how = Imagination() if particles is None else Imagination(particles=particles, propagation="ts-inf")
        planner = ICEM(how, samples=100, iterations=3)
        planning = Planning(planner, fitted.model, target.cost, target.world.actions, 20)
        self.policy, self.x = MPC(planning), np.asarray([-1.0, 0.05, 0.1], np.float32)
        self.carry = start(self.policy, self.x, jr.key(3))
        self.taken: dict[str, list[float]] = {"seconds": [], "processor_seconds": []}
        self.plan()

    def plan(self) -> tuple[float, float]:
        """Wall and processor seconds of one control step."""
        began, worked = time.perf_counter(), time.process_time()
        u, self.carry = act(self.policy, self.carry, self.x, np.zeros((), np.int32))
        jax.block_until_ready((u, self.carry))
        return time.perf_counter() - began, time.process_time() - worked

    def round(self, plans: int) -> None:
        """A few control steps."""
        for _ in range(plans):
            wall, processor = self.plan()
            self.taken["seconds"].append(wall)
            self.taken["processor_seconds"].append(processor)

    def summary(self) -> dict[str, float]:
        """Medians and spread, and what the fits took."""
        wall = np.asarray(self.taken["seconds"])
        return {
            "median": float(np.median(wall)),
            "p10": float(np.percentile(wall, 10)),
            "p95": float(np.percentile(wall, 95)),
            "processor_median": float(np.median(self.taken["processor_seconds"])),
            "first_fit_seconds": self.fit_seconds,
            "refit_without_search_seconds": self.refit_seconds,
        }


def cases(target: Task, arguments: argparse.Namespace) -> dict[str, Case]:
    """All that are measured, by name."""
    data = collected(target, max(arguments.rows, *arguments.growth))
    at = first(data, arguments.rows)
    found = {"mean": Case(target, GPLearner(), at)}
    found |= {f"functions-{p}": Case(target, GPLearner(), at, p) for p in (1, 3, 5)}
    found |= {f"functions-5-{k}": Case(target, GPLearner(kernel=k), at, 5) for k in ("matern32", "matern52")}
    found |= {
        "ensemble-mean": Case(target, EnsembleLearner(), at),
        "ensemble-5": Case(target, EnsembleLearner(), at, 5),
    }
    for rows in arguments.growth:
        part = first(data, rows)
        found[f"growth-sparse-{rows}"] = Case(target, GPLearner(sparse_above=0), part)
        if rows <= arguments.exact_to:
            found[f"growth-exact-{rows}"] = Case(target, GPLearner(sparse_above=EXACT, inducing=EXACT), part)
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gp-plan.json")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plans", type=int, default=10, help="control steps of each case in a round")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--growth", type=int, nargs="*", default=list(GROWTH))
    parser.add_argument("--exact-to", type=int, default=800, help="most rows of an exact process")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command line sets it
    load = os.getloadavg()[0]
    target = task("Pendulum-v1")
    measured = cases(target, arguments)
    for _ in range(arguments.rounds):
        for case in measured.values():
            case.round(arguments.plans)
    found = {name: case.summary() for name, case in measured.items()}
    wall = found["mean"]["median"]
    result: dict[str, Any] = {
        "settings": {
            "task": "Pendulum-v1",
            "rows": arguments.rows,
            "learner": " ".join(wadler_lindig.pformat(GPLearner(), hide_defaults=False).split()),
            "planner": "ICEM(samples=100, iterations=3), 20 steps ahead, else defaults",
            "rounds": arguments.rounds,
            "plans": arguments.plans,
        },
        "cases": found,
        "target": TARGET,
        "met": wall <= TARGET,
        "commit": commit(),
        "machine": machine(),
        "jax": jax.__version__,
        "core": CORE,
        "threads": THREADS,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in found.items():
        fits = f"fit {row['first_fit_seconds']:.2f} s, refit {row['refit_without_search_seconds']:.2f} s"
        print(f"{name:26s} {1e3 * row['median']:7.2f} ms, processor {1e3 * row['processor_median']:7.2f} ms; {fits}")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
