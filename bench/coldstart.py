"""How long from the start of a process to a trained Pendulum controller, import and compilation included.

    python bench/coldstart.py

`forethought train Pendulum-v1 --steps 300 --json`, with the default settings and no evaluation: in a fresh process
with an empty compilation cache, then in another one with the cache that the first one left; the median of three such
pairs.  Two more processes say where the time goes.  Everything happens in a temporary folder.  Writes
results/speed/coldstart.json; the status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner import RESULTS, commit, machine

TARGETS = {"cold": 25.0, "warm": 12.0}
TRAIN = ["train", "Pendulum-v1", "--steps", "300", "--seed", "0", "--json"]

PROBE = """
import contextlib, io, json, sys, time
began = time.perf_counter()
import jax
jax_seconds = time.perf_counter() - began
from jax import monitoring
import forethought.cli as cli
durations, events = {}, {}
def add(name, seconds, fun_name="", **_):
    durations.setdefault(name, []).append((seconds, fun_name))
def count(name, **_):
    events[name] = events.get(name, 0) + 1
monitoring.register_event_duration_secs_listener(add)
monitoring.register_event_listener(count)
import forethought.runs.train_flags, forethought.runs.experiment, forethought.tasks, forethought.runs.log
imports = time.perf_counter() - began
out = io.StringIO()
with contextlib.redirect_stdout(out):
    status = cli.main(sys.argv[1:])
whole = time.perf_counter() - began
print(json.dumps({"status": status, "jax": jax_seconds, "imports": imports, "whole": whole,
                  "durations": durations, "events": events, "train": json.loads(out.getvalue())}))
"""
"""The same command with jax's own clock switched on."""
STAGES = {
    "trace": "/jax/core/compile/jaxpr_trace_duration",
    "lower": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compile_or_load": "/jax/core/compile/backend_compile_duration",
}
"""Where jax counts what."""


def environment(home: Path) -> dict[str, str]:
    """The user's environment with a cache of its own, and nothing set that concerns jax."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return kept | {"XDG_CACHE_HOME": str(home / "cache")}


def train(home: Path, name: str) -> float:
    """Wall seconds of the command, from before the process starts until it has ended."""
    command = [sys.executable, "-m", "forethought.cli", *TRAIN, "--out", name]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"forethought {' '.join(TRAIN)} ended with {done.returncode}: {done.stderr}")
    assert json.loads(done.stdout)["env_steps"] == 300
    return seconds


def probe(home: Path, name: str) -> dict[str, Any]:
    """The parts of one such run: import, tracing, compilation, the rest (which is running, and reading and writing)."""
    command = [sys.executable, "-c", PROBE, *TRAIN, "--out", name]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=True)
    process = time.perf_counter() - began
    told = json.loads(done.stdout.splitlines()[-1])
    metrics = [json.loads(line) for line in (home / name / "metrics.jsonl").read_text().splitlines()]
    durations = {stage: told["durations"].get(key, []) for stage, key in STAGES.items()}
    stages = {stage: round(sum(seconds for seconds, _ in spent), 3) for stage, spent in durations.items()}
    longest = sorted(durations["compile_or_load"], reverse=True)
    fits = [line["fit_seconds"] for line in metrics if "fit_seconds" in line]
    plans = [(line["step_seconds"], line["steps"]) for line in metrics if line.get("planned")]
    return {
        "process": process,
        "interpreter_and_exit": process - told["whole"],
        "import_jax": told["jax"],
        "import_rest": told["imports"] - told["jax"],
        **stages,
        "run": told["whole"] - told["imports"] - sum(stages.values()),
        "programs": len(longest),
        "longest_compilations": [[name, round(seconds, 3)] for seconds, name in longest[:12]],
        "cache": {name.rsplit("/", 1)[-1]: n for name, n in told["events"].items() if "compilation_cache" in name},
        "fits": len(fits),
        "first_fit": fits[0],
        "later_fit_median": statistics.median(fits[1:]),
        "first_planned_steps": plans[0][0] * plans[0][1],
        "later_step_median": statistics.median(seconds for seconds, _ in plans[1:]),
        "learning_and_planning_if_warm": len(fits) * statistics.median(fits[1:])
        + sum(n for _, n in plans) * statistics.median(seconds for seconds, _ in plans[1:]),
    }


def main() -> int:
    """Measure, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="cores that the processes may use")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])  # inherited by every process
    load = os.getloadavg()[0]
    runs: dict[str, list[float]] = {"cold": [], "warm": []}
    parts: dict[str, Any] = {}
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            for name, seconds in runs.items():
                seconds.append(train(home, name))
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: probe(Path(folder), name) for name in runs}
    medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
    result = {
        "figure": "coldstart",
        "unit": "s",
        "median": medians,
        "runs": runs,
        "parts": parts,
        "target": TARGETS,
        "met": {name: medians[name] <= TARGETS[name] for name in TARGETS},
        "settings": {"command": "forethought " + " ".join(TRAIN), "cores": arguments.cores},
        "commit": commit(),
        "machine": machine() | {"python": platform.python_version()},
        "load_before": load,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "coldstart.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=1))
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
