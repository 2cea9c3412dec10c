"""Microseconds that the guard takes per transition, which is checked in every run: at most 30.

    python bench/guard.py

For the observations of Pendulum-v1 (3 numbers, limits) and of a box of 17 (no limits, float64): the median over rounds
of the time of `Checker.transition` alone, warm, on one core.  The box comes once more as float32 into a float64 space,
which is the slow way: a cast that loses nothing.  Written into results/guard.json; the status is 1 if the target is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from runner import RESULTS, commit, machine

from forethought.worlds.guard import Checker

TARGET = 30.0


def transitions(space: spaces.Box, dtype: Any, count: int) -> list[tuple[Any, ...]]:
    """As a step returns them, with numbers inside the space."""
    rng = np.random.default_rng(0)
    bound = np.minimum(np.minimum(np.abs(space.low), np.abs(space.high)), 3.0)
    drawn = (rng.uniform(-1.0, 1.0, (count, *space.shape)) * bound).astype(dtype)
    return [(x.copy(), float(r), False, False, {}) for x, r in zip(drawn, rng.normal(size=count), strict=True)]


def microseconds(space: spaces.Box, dtype: Any, rounds: int, count: int) -> dict[str, Any]:
    """Per transition, round by round."""
    rows = transitions(space, dtype, count)
    checker = Checker(space, "bench", say=lambda sentence: None)
    taken = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        for step, row in enumerate(rows):
            checker.transition(row, step)
        if number > 0:  # the first one warms up
            taken.append(1e6 * (time.perf_counter() - began) / count)
    return {"median": statistics.median(taken), "least": min(taken), "most": max(taken), "rounds": taken}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "guard.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=5000, help="transitions of a round")
    arguments = parser.parse_args()
    pendulum = gymnasium.make("Pendulum-v1").observation_space
    assert isinstance(pendulum, spaces.Box)
    wide = spaces.Box(-np.inf, np.inf, (17,), np.float64)
    load = os.getloadavg()[0]
    cases = {"Pendulum-v1": (pendulum, np.float32), "box-17": (wide, np.float64), "box-17-cast": (wide, np.float32)}
    found = {
        name: microseconds(space, dtype, arguments.rounds, arguments.count) for name, (space, dtype) in cases.items()
    }
    result = {
        "figure": "guard",
        "settings": {"rounds": arguments.rounds, "count": arguments.count},
        "microseconds": found,
        "target": TARGET,
        "met": all(case["median"] <= TARGET for case in found.values()),
        "commit": commit(),
        "machine": machine(),
        "numpy": np.__version__,
        "load_before": load,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, case in found.items():
        print(f"{name:<12} {case['median']:6.2f} us (from {case['least']:.2f} to {case['most']:.2f})")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
