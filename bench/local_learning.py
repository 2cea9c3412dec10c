"""How many rollouts the local method takes, beside the loop without its bound and random search.

    python bench/local_learning.py drag-cart arm-reach Reacher-v5 forethought/PegInsertion-v0 --seeds 100-104
    python bench/local_learning.py drag-cart --variants local,no-bound,random --seeds 0-4 --out somewhere/else

One process per task, variant and seed; a seed whose file is there is not run again.  After each iteration the means of
the controllers are run once from each of the conditions that they were made for: how far from the target they end (in
m) and how often the task's own test of success is met.  Those rollouts are not counted and not learned from.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from runner import RESULTS, commit, machine, processes, seeds, write

CONDITIONS = (0, 1, 2, 3)
BUDGET = {"drag-cart": 60, "arm-reach": 100, "Reacher-v5": 80, "forethought/PegInsertion-v0": 200}
"""Rollouts."""
VARIANTS = ("local", "no-bound", "random", "regression", "open-loop", "feedback", "each", "quiet", "loud", "guided")


def algorithm(variant: str, task: str) -> Any:
    """The one default configuration, or what a variant changes of it."""
    from forethought.algorithms.imitation import Guide
    from forethought.algorithms.local_start import InitialController
    from forethought.algorithms.locally import Local

    settings: dict[str, Any] = {
        "no-bound": {"bound": "none"},
        "each": {"bound": "each"},
        "regression": {"fit": "regression"},
        "open-loop": {"controller": "open-loop"},
        "feedback": {"controller": "feedback"},
        "quiet": {"initial": InitialController(std=0.03)},
        "loud": {"initial": InitialController(std=0.3)},
        "guided": {"guide": Guide(on=True)},
    }.get(variant, {})
    # Peg insertion is one start; the others are four.
    conditions = CONDITIONS[:1] if "Peg" in task else CONDITIONS
    return dataclasses.replace(Local(), conditions=conditions, **settings)


def target(name: str) -> Any:
    """The task.  Reacher's own cost has a kink at the target, where a quadratic says nothing: it gets a smooth one."""
    from forethought.costs.reaching import Components, Reaching
    from forethought.tasks import task

    made = task(name)
    return dataclasses.replace(made, cost=Reaching(Components((8, 9)))) if name == "Reacher-v5" else made


def judged(task: Any, policy: Any, conditions: tuple[int, ...], name: str) -> dict[str, Any]:
    """One episode of the mean controller from each condition."""
    import jax.random as jr

    from forethought.tasks import MISSES

    episodes = task.world.fresh().rollouts(policy, jr.key(0), conditions, task.limit)
    return {
        "distance": [MISSES[name](e) for e in episodes],
        "success": [bool(task.success(e)) if task.success else None for e in episodes],
        "return": [float(np.sum(e.reward)) for e in episodes],
    }


def learn(name: str, variant: str, seed: int) -> dict[str, Any]:
    """The local method, iteration after iteration."""
    import jax.random as jr

    task, method = target(name), algorithm(variant, name)
    state, rows, began = method.init(task, jr.key(seed)), [], time.perf_counter()
    while int(state.episodes) < BUDGET[name] + 1:
        state, metrics = method.step(task, state, 10**9)
        if "local_status" in metrics:
            row = {"rollouts": int(state.episodes) - 1, "seconds": time.perf_counter() - began}
            policy = method.policy(task, state)
            unseen = {"unseen": judged(task, policy, task.starts[:4], name)["distance"]}
            rows.append(row | judged(task, policy, method.conditions, name) | unseen | metrics)
    return {"rows": rows}


def search(name: str, seed: int) -> dict[str, Any]:
    """Random search: smooth changes of the best controls so far, one rollout each, kept where the return is higher."""
    import jax.numpy as jnp
    import jax.random as jr

    from forethought.math.noise import coloured
    from forethought.policies.open_loop import OpenLoop

    task, conditions = target(name), algorithm("local", name).conditions
    world, T, box = task.world, task.limit, task.world.actions
    half, middle = 0.5 * (np.asarray(box.high) - box.low), 0.5 * (np.asarray(box.high) + box.low)
    held = lambda us: OpenLoop(jnp.asarray(us, jnp.float32), jnp.zeros((), jnp.int32))
    best = {c: (np.tile(middle, (T, 1)), -np.inf) for c in conditions}
    rows, began, key = [], time.perf_counter(), jr.key(seed)
    for count in range(BUDGET[name]):
        condition = conditions[count % len(conditions)]
        key, k_noise, k_run = jr.split(key, 3)
        us, score = best[condition]
        tried = us + 0.3 * half * np.asarray(coloured(k_noise, (T, half.shape[0]), 1.0)) if np.isfinite(score) else us
        tried = np.clip(tried, box.low, box.high).astype(np.float32)
        episode = world.rollouts(held(tried), k_run, [condition], T)[0]
        total = float(np.sum(episode.reward))
        best[condition] = (tried, total) if total > score else best[condition]
        if (count + 1) % (5 * len(conditions)) == 0:
            found = [judged(task, held(best[c][0]), (c,), name) for c in conditions]
            row = {key: [each[key][0] for each in found] for key in found[0]}
            rows.append({"rollouts": count + 1, "seconds": time.perf_counter() - began} | row)
    return {"rows": rows}


def run_one(name: str, variant: str, seed: int, path: Path) -> None:
    """One seed in this process; the file appears only when it is whole."""
    import jax

    jax.config.update("jax_enable_x64", True)
    found = search(name, seed) if variant == "random" else learn(name, variant, seed)
    about = {"task": name, "variant": variant, "seed": seed, "commit": commit(), "machine": machine()}
    about["settings"] = {"conditions": list(CONDITIONS), "budget": BUDGET[name]}
    write(path, about | found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=tuple(BUDGET))
    parser.add_argument("--variants", default="local")
    parser.add_argument("--seeds", default="100-104")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "local")
    parser.add_argument("--only", action="store_true", help="in this process")
    arguments = parser.parse_args()
    jobs = [
        (name, variant, seed, arguments.out / f"{name.rpartition('/')[2]}-{variant}" / f"{seed}.json")
        for name in arguments.tasks
        for variant in arguments.variants.split(",")
        for seed in seeds(arguments.seeds)
    ]
    if arguments.only:
        for job in jobs:
            run_one(*job)
        return 0
    more = ("--out", arguments.out, "--only")
    words = lambda name, variant, seed: (name, "--variants", variant, "--seeds", seed, *more)
    return min(processes(__file__, {path: words(*about) for *about, path in jobs}, arguments.jobs), 1)


if __name__ == "__main__":
    sys.exit(main())
