"""How fast trajectory optimisation is, beside diffilqrax, CasADi with IPOPT, and Crocoddyl, on one core.

    python bench/trajopt.py --diffilqrax PYTHON --casadi PYTHON --crocoddyl PYTHON     # interpreters that have them
    python bench/trajopt.py --rounds 3                                                 # ours alone

Each library answers from a process of its own, with the flags that suit it best, which are printed; rounds go through
all of them in turn (A B C A B C), on the same core, one solve that does not count and three that do, and medians are
compared.  A solve is warm, without compilation; its cost is computed again in NumPy from the controls, and has to be
the known one to 1e-4.  `inline` is the setting by which XLA compiles small loops whole (docs/control.md); ours is
measured with and without it, as casadi is with and without its C compiler (where there is one).

Results are written into results/trajopt.json; the status is 1 if a target is missed.
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from runner import HERE, RESULTS, commit, machine

PROBLEMS = ("pendulum", "cartpole", "quadrotor", "mlp", "lqr")
DIFFILQRAX = {"pendulum": 5.0, "cartpole": 4.0, "quadrotor": 10.0, "mlp": 1.2}
"""How many times as fast an iteration is to be as one of diffilqrax."""
CASADI = {"pendulum": 5.0, "cartpole": 5.0}
"""How many times as fast a whole solve is to be as one of CasADi with IPOPT."""
LQR_SECONDS, LANE_SECONDS, COLD_SECONDS, WARM_SECONDS = 1.1e-3, 110e-6, 2.5, 0.5
BATCHES = (64, 1024)
REPEATS = 3
"""Solves in a row that count, each time that a library's turn comes."""


class Process:
    """A library in a process of its own; it sleeps while others run."""

    def __init__(self, name: str, command: list[str]):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, problem: str, do: str = "solve", **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"problem": problem, "do": do} | more) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(arguments: argparse.Namespace) -> list[Process]:
    """Ours with and without the setting, and the peers whose interpreters were named."""
    own = [sys.executable, str(HERE / "trajopt_own.py")]
    found = [Process("forethought", [*own, "--inline"]), Process("forethought-plain", own)]
    peers = str(HERE / "trajopt_peers.py")
    kinds = [("diffilqrax", []), ("diffilqrax", ["--inline"]), ("casadi", []), ("casadi", ["--jit"]), ("crocoddyl", [])]
    for name, more in kinds if shutil.which("gcc") else [kind for kind in kinds if kind[1] != ["--jit"]]:
        python = getattr(arguments, name)
        if python is not None:
            label = name + "".join(more).replace("--", "-")
            found.append(Process(label, [python, peers, name, *more]))
    for process in found:
        print(f"{process.name}: {process.about}", flush=True)
    return [process for process in found if process.about["version"] is not None]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds of one library on one problem."""
    if "refused" in rows[-1]:
        return rows[-1]
    seconds, iterations = float(np.median([row["seconds"] for row in rows])), rows[-1]["iterations"]
    kept = {name: rows[-1][name] for name in ("cost", "status", "statuses") if name in rows[-1]}
    kept |= {"first_seconds": rows[0]["first_seconds"]} if "first_seconds" in rows[0] else {}
    if "backward_seconds" in rows[-1]:
        kept["backward_seconds"] = float(np.median([row["backward_seconds"] for row in rows]))
    spread = {"p10": float(np.percentile([row["seconds"] for row in rows], 10))}
    per = seconds / max(iterations, 1)
    return {"seconds": seconds, "iterations": iterations, "seconds_per_iteration": per} | spread | kept


def in_a_row(process: Process, problem: str) -> list[dict[str, Any]]:
    """What one turn gives.  The first solve compiles, or fills the core's cache again, and does not count."""
    first = process.ask(problem)
    if "refused" in first:
        return [first]
    kept = {"first_seconds": first["first_seconds"]} if "first_seconds" in first else {}
    return [process.ask(problem) | kept for _ in range(REPEATS if first["seconds"] < 1.0 else 1)]


def solves(processes: list[Process], rounds: int) -> dict[str, dict[str, Any]]:
    """Every problem by everyone, in turn."""
    found: dict[str, dict[str, Any]] = {}
    for problem in PROBLEMS:
        rows: dict[str, list[dict[str, Any]]] = {process.name: [] for process in processes}
        for _ in range(rounds):
            for process in processes:
                if not (rows[process.name] and "refused" in rows[process.name][-1]):
                    rows[process.name] += in_a_row(process, problem)
        found[problem] = {name: summary(each) for name, each in rows.items()}
        for name, row in found[problem].items():
            show(problem, name, row)
    return found


def show(problem: str, name: str, row: dict[str, Any]) -> None:
    """One line."""
    if "refused" in row:
        print(f"{problem:10s} {name:20s} refused: {row['refused']}", flush=True)
        return
    each = f"{1e3 * row['seconds']:9.3f} ms, {row['iterations']:6d} x {1e6 * row['seconds_per_iteration']:9.1f} us"
    print(f"{problem:10s} {name:20s} {each}  {row.get('cost', '')} {row.get('status', '')}", flush=True)


def batches(process: Process, rounds: int) -> dict[str, Any]:
    """Many cart-poles in one call."""
    found = {}
    for count in BATCHES:
        few = min(rounds, 3) if count < 500 else 1
        row = summary([process.ask("cartpole", "batch", count=count) for _ in range(few)])
        found[str(count)] = row
        show("batch", str(count), row)
    return found


def firsts() -> dict[str, Any]:
    """Seconds of the first call in a new process, with an empty compilation cache and with the one that this left."""
    found = {}
    for problem in PROBLEMS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "trajopt_own.py"), "--inline", "--first", problem]
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
            runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=environment) for _ in "12"]
            cold, warm = (json.loads(run.stdout)["first_seconds"] for run in runs)
        found[problem] = {"cold": cold, "warm": warm}
        print(f"first call of {problem:10s} {cold:.2f} s cold, {warm:.2f} s from the cache", flush=True)
    return found


def best(rows: dict[str, Any], peer: str, what: str) -> float | None:
    """The peer's better figure, with and without the setting; None if it has none."""
    figures = [row[what] for name, row in rows.items() if name.startswith(peer) and what in row]
    return min(figures) if figures else None


def judged(solved: dict[str, Any], many: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """Every target, what was reached, and whether that meets it."""
    found: dict[str, Any] = {}

    def at_least(name: str, reached: float | None, target: float) -> None:
        if reached is not None:
            found[name] = {"reached": reached, "at least": target, "met": reached >= target}

    def at_most(name: str, reached: float | None, target: float) -> None:
        if reached is not None:
            found[name] = {"reached": reached, "at most": target, "met": reached <= target}

    for peer, targets, what in (
        ("diffilqrax", DIFFILQRAX, "seconds_per_iteration"),
        ("casadi", CASADI, "seconds"),
    ):
        for problem, target in targets.items():
            theirs = best(solved[problem], peer, what)
            ours = solved[problem]["forethought"][what]
            at_least(f"{problem}: {what}, {peer} / ours", None if theirs is None else theirs / ours, target)
    lqr = best(solved["lqr"], "forethought", "seconds")
    at_most("lqr: seconds", lqr, LQR_SECONDS)
    theirs = best(solved["lqr"], "crocoddyl", "seconds")
    at_least("lqr: seconds, crocoddyl / ours", None if theirs is None or lqr is None else theirs / lqr, 1.0)
    for count, row in many.items():
        at_most(f"batch of {count}: seconds per iteration of a lane", row["seconds_per_iteration"], LANE_SECONDS)
    for problem, row in first.items():
        at_most(f"{problem}: first call, cold", row["cold"], COLD_SECONDS)
        at_most(f"{problem}: first call, from the cache", row["warm"], WARM_SECONDS)
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "trajopt.json")
    parser.add_argument("--rounds", type=int, default=11)
    for peer in ("diffilqrax", "casadi", "crocoddyl"):
        parser.add_argument(f"--{peer}", help="an interpreter that has it")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    processes = start(arguments)
    solved = solves(processes, arguments.rounds)
    many = batches(processes[0], arguments.rounds)
    for process in processes:
        process.close()
    first = firsts()
    targets = judged(solved, many, first)
    result = {
        "settings": {"rounds": arguments.rounds},
        "libraries": {process.name: process.about for process in processes},
        "solves": solved,
        "batches": many,
        "first_calls": first,
        "targets": targets,
        "met": all(row["met"] for row in targets.values()),
        "commit": commit(),
        "machine": machine(),
        "core": CORE,
        "threads": THREADS,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in targets.items():
        print(f"{'met   ' if row['met'] else 'MISSED'} {name}: {row}")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
