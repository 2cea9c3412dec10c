"""How many LQR problems a KL bound takes, and whether it is always kept: 1,000 random problems, a third not convex.

    python bench/dual.py

Beside the log-log secant: the lecture's fixed step on the multiplier (l <- l + rate (KL - epsilon), the best of three
rates), and a bracket on a geometric scale as the published implementation has it.  All three judge "reached" by |KL /
epsilon - 1| <= 0.1.  Results are written into results/dual.json; the status is 1 if a target is missed.
"""

from __future__ import annotations

from pinned import CORE  # isort: split

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from kl_problems import T, problem  # noqa: E402
from runner import RESULTS, commit, machine  # noqa: E402

from forethought.math.kl_dual import KLStatus, Trial  # noqa: E402
from forethought.math.kl_step import _known, _trial, kl_step, kl_step_each  # noqa: E402
from forethought.math.linear_kl import surprise  # noqa: E402

CONVEX_SOLVES, INDEFINITE_SOLVES = 6, 12
RATES = (1e-3, 0.1, 10.0)
MOST_STEPS = 2000


@jax.jit
def secant(dynamics: Any, cost: Any, start: Any, old: Any, epsilon: Any) -> Any:
    """Ours."""
    found = kl_step(dynamics, cost, start, old, epsilon)
    return found, _known(dynamics, cost, start, old).cost


@jax.jit
def each(dynamics: Any, cost: Any, start: Any, old: Any, epsilon: Any) -> Any:
    """Ours, with the bound shared out equally over the steps."""
    return kl_step_each(dynamics, cost, start, old, jnp.full((T,), epsilon / T))


@jax.jit
def attempt(dynamics: Any, cost: Any, start: Any, old: Any, multiplier: Any) -> Trial:
    """One LQR problem."""
    trial = _trial(dynamics, cost, start, old, surprise(old), multiplier)
    return trial._replace(result=None)


def kl_of(args: tuple[Any, ...], multiplier: float) -> float:
    """+inf without a controller."""
    trial = attempt(*args, multiplier)
    return float(trial.kl) if bool(trial.ok) and np.isfinite(float(trial.kl)) else np.inf


def fixed_step(args: tuple[Any, ...], epsilon: float, rate: float) -> int | None:
    """Steps of the lecture's dual ascent from 1, or None if it takes more than `MOST_STEPS`."""
    multiplier = 1.0
    for count in range(1, MOST_STEPS + 1):
        kl = kl_of(args, multiplier)
        if abs(kl / epsilon - 1.0) <= 0.1:
            return count
        multiplier = max(multiplier + rate * (min(kl, 1e6) - epsilon), 1e-8)
    return None


def geometric(args: tuple[Any, ...], epsilon: float) -> int | None:
    """The published bracket [1e-8, 1e16] from 1; without a controller the multiplier grows by 1e-4, doubling."""
    low, high, multiplier, bump = 1e-8, 1e16, 1.0, 1e-4
    for count in range(1, 201):
        kl = kl_of(args, multiplier)
        if np.isinf(kl):
            multiplier, bump = multiplier + bump, 2.0 * bump
            continue
        if abs(kl / epsilon - 1.0) <= 0.1:
            return count
        if kl < epsilon:
            high = multiplier
            multiplier = max(np.sqrt(low * high), 0.1 * high)
        else:
            low = multiplier
            multiplier = min(np.sqrt(low * high), 10.0 * low)
    return None


def peers(seed: int, indefinite: bool) -> dict[str, Any]:
    """What the other two ways take on one problem."""
    *args, epsilon = problem(seed, indefinite)
    best: Callable[[list[int | None]], int | None] = lambda counts: min(
        (c for c in counts if c is not None), default=None
    )
    fixed = best([fixed_step(tuple(args), float(epsilon), rate) for rate in RATES])
    return {"fixed": fixed, "geometric": geometric(tuple(args), float(epsilon))}


def told(counts: list[int | None]) -> dict[str, Any]:
    """Median, nine in ten, worst, and how many did not get there; None where a quantile is one of those."""
    ended = [count for count in counts if count is not None]
    every = [np.inf if count is None else count for count in counts]
    with np.errstate(invalid="ignore"):  # between two of those
        median, p90 = np.quantile(every, (0.5, 0.9)).tolist()
    return {
        "median": median if np.isfinite(median) else None,
        "p90": p90 if np.isfinite(p90) else None,
        "worst": max(ended, default=None),
        "not_reached": len(counts) - len(ended),
        "of": len(counts),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--peers", type=int, default=60, help="problems that the two other ways solve, too")
    parser.add_argument("--out", type=Path, default=RESULTS / "dual.json")
    arguments = parser.parse_args()
    solves: dict[str, list[int | None]] = {"convex": [], "indefinite": [], "convex, each": [], "indefinite, each": []}
    statuses: dict[str, dict[str, int]] = {name: {} for name in solves}
    beyond = worse = failed = 0
    for seed in range(arguments.count):
        indefinite = seed % 3 == 2
        args = problem(seed, indefinite)
        found, before = secant(*args)
        single = each(*args)
        for name, step, limit in (("", found, args[-1]), (", each", single, args[-1] / T)):
            kind = ("indefinite" if indefinite else "convex") + name
            status = KLStatus(int(step.status))
            used = step.kl if name else jnp.sum(step.kl)
            solves[kind].append(int(step.solves) if status is KLStatus.SOLVED else None)
            statuses[kind][status.name] = statuses[kind].get(status.name, 0) + 1
            beyond += not bool(jnp.all(used <= 1.1 * limit + 1e-12))
            worse += not float(step.cost) <= float(before) + 1e-6 * abs(float(before))
            failed += status is KLStatus.FAILED
    table = {name: told(counts) | {"statuses": statuses[name]} for name, counts in solves.items()}
    rows = {
        kind: [peers(seed, kind == "indefinite") for seed in range(arguments.peers)]
        for kind in ("convex", "indefinite")
    }
    for kind, own in rows.items():
        for way in ("fixed", "geometric"):
            table[f"{kind}, {way}"] = told([row[way] for row in own])
    result = {
        "table": table,
        "beyond_the_bound": beyond,
        "failed": failed,
        "worse_than_the_old": worse,
        "count": arguments.count,
    }
    within = lambda name, most: table[name]["median"] is not None and table[name]["median"] <= most
    met = beyond == failed == 0 and within("convex", CONVEX_SOLVES)
    result["met"] = met = met and within("indefinite", INDEFINITE_SOLVES)
    for name, row in table.items():
        print(name, row)
    print({k: v for k, v in result.items() if k != "table"})
    arguments.out.write_text(
        json.dumps(result | {"commit": commit(), "machine": machine(), "core": CORE}, indent=1, allow_nan=False) + "\n"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
