"""What XLA's setting that compiles small loops whole is worth to a control step of each planner, on one core.

    python bench/inlining.py            # writes results/inlining.json

The table `INLINED` in src/forethought/runs/machine.py is made from these figures: for what the command line runs the
setting is on where it makes a step at least 1.3 times as fast on every model, since smaller ratios are undecided here,
and off elsewhere.  Two processes, one with the setting and one without, answer in turn; medians of 20 steps a round.
`first` is what the first step took, compilation included.
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from runner import RESULTS, commit, machine
from trajopt_peers import INLINE

PLANNERS, MODELS = ("ilqr", "icem", "mppi"), ("truth", "gp", "ensemble")
STEPS = 20


class Steps:
    """MPC on Pendulum-v1, one control step after the other, and what has been made for it."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.kept: dict[tuple[str, str], Any] = {}

    def start(self, name: str, model: str) -> Any:
        """A policy with its carry."""
        import jax.random as jr

        from forethought.algorithms.globally import V15
        from forethought.math.act import start
        from forethought.math.rollout import Imagination, needed
        from forethought.models.ensemble import EnsembleLearner
        from forethought.models.gp_learner import GPLearner
        from forethought.models.known import KnownDynamics
        from forethought.planners.mpc import MPC, Planning
        from forethought.runs.train_flags import PLANNERS as CLASSES
        from forethought.tasks import task
        from forethought.worlds.classic import Pendulum

        target, dynamics = task("Pendulum-v1"), KnownDynamics(Pendulum())
        if model != "truth":
            algorithm = V15(learner=GPLearner() if model == "gp" else EnsembleLearner())
            state, _ = algorithm.step(target, algorithm.init(target, jr.key(0)), algorithm.base_steps)
            fitted, _ = algorithm.learner.fit(state.fitted, state.data, jr.key(1))
            dynamics = needed(Imagination(), fitted.model)
        policy = MPC(Planning(CLASSES[name](), dynamics, target.cost, target.world.actions, 20))
        return [policy, start(policy, np.asarray([-1.0, 0.05, 0.1], np.float32), jr.key(2))]

    def answer(self, name: str, model: str) -> dict[str, Any]:
        """Seconds of `STEPS` steps, the median."""
        import jax

        from forethought.math.act import act

        new = (name, model) not in self.kept
        began = time.perf_counter()
        if new:
            self.kept[name, model] = self.start(name, model)
        policy, carry = self.kept[name, model]
        x, taken = np.asarray([-1.0, 0.05, 0.1], np.float32), []
        for _ in range(1 if new else STEPS):
            began = time.perf_counter()
            _, carry = jax.block_until_ready(act(policy, carry, x, np.zeros((), np.int32)))
            taken.append(time.perf_counter() - began)
        self.kept[name, model][1] = carry
        return {"first" if new else "seconds": float(np.median(taken))}


def ask(process: subprocess.Popen[str], line: list[str]) -> dict[str, Any]:
    """One answer of a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def compare(rounds: int) -> dict[str, Any]:
    """Both processes in turn, on every planner and model."""
    flags = {"plain": THREADS["XLA_FLAGS"], "inlined": f"{THREADS['XLA_FLAGS']} {INLINE}"}
    command = [sys.executable, __file__, "--answer"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {k: subprocess.Popen(command, env=os.environ | {"BENCH_FLAGS": v}, **pipes) for k, v in flags.items()}
    found: dict[str, Any] = {}
    for name in PLANNERS:
        for model in MODELS:
            first = {kind: ask(process, [name, model])["first"] for kind, process in processes.items()}
            rows: dict[str, list[float]] = {kind: [] for kind in processes}
            for _ in range(rounds):
                for kind, process in processes.items():
                    rows[kind].append(ask(process, [name, model])["seconds"])
            medians = {kind: float(np.median(each)) for kind, each in rows.items()}
            ratio = medians["plain"] / medians["inlined"]
            found[f"{name}, {model}"] = {"seconds": medians, "first": first, "ratio": ratio}
            print(f"{name}, {model}: {ratio:.2f} times as fast; {medians}; first {first}", flush=True)
    for process in processes.values():
        process.communicate()
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "inlining.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answer", action="store_true", help="answer on standard output, with BENCH_FLAGS")
    arguments = parser.parse_args()
    if arguments.answer:
        os.environ["XLA_FLAGS"] = os.environ["BENCH_FLAGS"]
        steps = Steps()
        for line in sys.stdin:
            print(json.dumps(steps.answer(*json.loads(line))), flush=True)
        return 0
    import jax

    load = os.getloadavg()[0]
    cases = compare(arguments.rounds)
    table = {name: all(cases[f"{name}, {model}"]["ratio"] >= 1.3 for model in MODELS) for name in PLANNERS}
    result = {
        "settings": {"task": "Pendulum-v1", "horizon": 20, "rounds": arguments.rounds, "steps": STEPS},
        "jax": jax.__version__,
        "cases": cases,
        "worth it": table,
        "commit": commit(),
        "machine": machine(),
        "core": CORE,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
