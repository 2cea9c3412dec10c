"""Run a learning study: one process per seed, resumable, one JSON file per seed.

    python bench/runner.py pendulum --seeds 100-109 --jobs 2
    python bench/runner.py swingup --seeds 0-9 --out somewhere/else      # development seeds stay out of the results

A seed whose file is there is not run again.  Killing the runner, or one seed, loses that seed only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def commit() -> str:
    """The commit of the working tree, with +changes where it is not clean (results aside)."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../src", "learning.py"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return head + ("+changes" if changed else "")


def run_one(name: str, seed: int, out: Path) -> None:
    """One seed in this process; the file appears only when it is whole."""
    import jax

    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, str(HERE))
    from learning import STUDIES, run, settings

    study = STUDIES[name]
    result = {
        "study": name,
        "seed": seed,
        "commit": commit(),
        "settings": settings(study),
        "machine": machine(),
        **run(study, seed),
    }
    write(out / f"{seed}.json", result)


def seeds(text: str) -> list[int]:
    """'0-4,7' as [0, 1, 2, 3, 4, 7]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def write(path: Path, found: Mapping[str, Any]) -> None:
    """A result as a file, which appears only when it is whole; NaN as null, as JSON has none."""
    from forethought.runs.directory import strict

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(strict(found), indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def processes(script: str, wanted: Mapping[Path, Sequence[str]], at_once: int) -> int:
    """A process of this script, with these arguments, for each result that is not there, `at_once` at a time, each with
    one thread; returns how many failed."""
    from forethought.sweeping.job import Job, Outcome
    from forethought.sweeping.sweep import sweep

    def tell(outcome: Outcome) -> None:
        if not outcome.earlier:
            print(f"{outcome.name} {'done' if outcome.status == 'done' else 'FAILED'}", flush=True)

    done = sum(path.exists() for path in wanted)
    print(f"{done} of {len(wanted)} are done", flush=True)
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
    command = lambda words: (sys.executable, script, *map(str, words))
    jobs = [Job(f"{path.parent.name}-{path.stem}", command(words), path) for path, words in wanted.items()]
    return sum(outcome.status == "failed" for outcome in sweep(jobs, at_once=at_once, tell=tell))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--seeds", default="100-109")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=int, help="run this seed in this process")
    arguments = parser.parse_args()
    out = arguments.out or RESULTS / arguments.study
    if arguments.only is not None:
        run_one(arguments.study, arguments.only, out)
        return 0
    words = lambda seed: (arguments.study, "--only", str(seed), "--out", str(out))
    wanted = {out / f"{seed}.json": words(seed) for seed in seeds(arguments.seeds)}
    return min(processes(__file__, wanted, arguments.jobs), 1)


if __name__ == "__main__":
    sys.exit(main())
