"""Whether the planner ilqr finds the best swing-up of Pendulum-v1, against dynamic programming (swingup_grid.py).

    python bench/trajopt_optimum.py                  # seeds 100-109; writes results/trajopt-optimum.json
    python bench/trajopt_optimum.py --seeds 0-9 --out somewhere.json

One cold plan of 100 steps on the true equations from hanging still: a search, then the descent.  Beside it, from the
same number of random starts, the descent alone.  What a plan costs is computed again in NumPy from its controls.  The
status is 1 unless 9 of 10 seeds end within 2% of the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import wadler_lindig
from runner import RESULTS, commit, machine, seeds
from swingup_grid import best_cost, best_switched, cost_and_slope

import forethought
from forethought.core import AbstractPlanner, Problem
from forethought.costs.quadratic import Quadratic
from forethought.models.known import KnownDynamics
from forethought.planners.ilqr import ILQR
from forethought.types import Box

HORIZON, WITHIN = 100, 0.02
PLANNERS = (ILQR(), ILQR(window=HORIZON))
"""The default, which first drives such a horizon through the model in shorter plans, and one search over all of it."""
COST = Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.001]), angles=(0,))


class Swing(eqx.Module):
    """Pendulum-v1 as [th, w]."""

    def __call__(self, x: Any, u: Any) -> Any:
        w = jnp.clip(x[1] + 0.05 * (15.0 * jnp.sin(x[0]) + 3.0 * u[0]), -8.0, 8.0)
        return jnp.stack([x[0] + 0.05 * w, w])


@eqx.filter_jit
def planned(planner: AbstractPlanner, problem: Problem, key: Any) -> Any:
    """A cold plan."""
    return planner.plan(problem, planner.init(problem), key)[0]


def descents(count: int) -> dict[str, Any]:
    """The descent alone, from random controls."""
    starts = np.random.default_rng(0).uniform(-2.0, 2.0, (count, HORIZON, 1))
    stage = lambda x, u, t: COST.stage(x, u, x, t)
    swing = lambda x, u, t: Swing()(x, u)
    solve = jax.jit(
        jax.vmap(lambda us: forethought.ilqr(swing, stage, COST.terminal, jnp.array([np.pi, 0.0]), us, -2, 2))
    )
    found = solve(jnp.asarray(starts))
    return {"costs": sorted(np.asarray(found.cost).tolist()), "statuses": np.bincount(found.status).tolist()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "trajopt-optimum.json")
    parser.add_argument("--seeds", default="100-109")
    parser.add_argument("--resolution", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    grid, switched = best_cost(arguments.resolution), best_switched()
    reference = min(grid.cost, switched.cost)
    print(f"reference {reference:.5f}: grid {grid.cost:.5f} (rolled {grid.rolled:.3f}), switched {switched.cost:.5f}")
    box = Box(np.full(1, -2.0, np.float32), np.full(1, 2.0, np.float32))
    x0 = jnp.asarray([np.pi, 0.0])
    problem = Problem(KnownDynamics(Swing()), COST, box, x0, jnp.zeros((), jnp.int32), HORIZON)
    rows = []
    for planner in PLANNERS:
        costs, taken = [], []
        for seed in seeds(arguments.seeds):
            began = time.perf_counter()
            plan = jax.block_until_ready(planned(planner, problem, jr.key(seed)))
            taken.append(time.perf_counter() - began)
            costs.append(float(cost_and_slope(np.asarray(plan.policy.us)[:, 0])[0]))
        near = int(np.sum(np.asarray(costs) <= (1.0 + WITHIN) * reference))
        text = " ".join(wadler_lindig.pformat(planner, hide_defaults=False).split())
        rows.append({"planner": text, "costs": costs, "near": near, "seconds": float(np.median(taken))})
        print(f"{near} of {len(costs)} within {WITHIN:.0%}, {np.median(taken):.3f} s: {np.round(costs, 2).tolist()}")
    alone = descents(50)
    print(f"the descent alone: {np.round(alone['costs'], 1).tolist()}")
    met = rows[0]["near"] >= 0.9 * len(rows[0]["costs"])
    result = {
        "settings": {"horizon": HORIZON, "seeds": arguments.seeds, "resolution": arguments.resolution},
        "reference": {"cost": reference, "grid": grid.cost, "rolled": grid.rolled, "switched": switched.cost},
        "plans": rows,
        "descent alone": alone,
        "met": met,
        "commit": commit(),
        "machine": machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
