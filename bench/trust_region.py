"""Trust-region updates: how near the bound they come, whether they improve, and what a model buys on Pendulum-v1.

    python bench/trust_region.py bound                                  # realised KL, and the quadratic bandit
    python bench/trust_region.py learn --seeds 100-104                  # imagined against real, one process per seed
    python bench/trust_region.py learn --seeds 0-1 --out somewhere/else --steps 2000
    python bench/trust_region.py table                                  # means and intervals of what is there

A file that is there is not made again.  Both variants have the same policy, value function, bound and steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from runner import RESULTS, commit, machine, processes, seeds, write

VARIANTS = ("imagined", "real")
TASK = "Pendulum-v1"
EVERY = 200
"""Steps between two evaluations."""


def save(path: Path, found: dict[str, Any]) -> None:
    """With where it comes from."""
    write(path, {"commit": commit(), "machine": machine()} | found)


def bandit(epsilon: float = 1e-3, steps: int = 2000) -> dict[str, Any]:
    """Exact steps on J = 1/2 mu^T H mu with actions N(mu, S): does J fall at each, and is lambda the closed form?"""
    import equinox as eqx
    import jax.numpy as jnp

    from forethought.math.trust_region import StepHow, trust_region_step

    rng = np.random.default_rng(0)
    half = rng.normal(size=(2, 4, 4))
    H, S = half @ np.swapaxes(half, 1, 2) + 0.5 * np.eye(4)
    F = jnp.asarray(np.linalg.inv(S))

    @eqx.filter_jit
    def step(mu):
        measure = lambda v: (0.5 * v @ jnp.asarray(H) @ v, 0.5 * (v - mu) @ F @ (v - mu))
        return trust_region_step(mu, measure, jnp.asarray(epsilon), StepHow(conjugate=20, damping=0.0))

    mu, costs, kls, ratios = 3.0 * jnp.ones(4), [], [], []
    for _ in range(steps):
        g, found = H @ np.asarray(mu), step(mu)
        costs.append(float(0.5 * np.asarray(mu) @ H @ np.asarray(mu)))
        if int(found.status) == 0:
            kls.append(float(found.kl) / epsilon)
            ratios.append(float(found.multiplier) / np.sqrt(g @ S @ g / (2.0 * epsilon)))
        mu = found.theta
    return {
        "epsilon": epsilon,
        "steps": steps,
        "rises": int(np.sum(np.diff(costs) > 0.0)),
        "first_cost": costs[0],
        "last_cost": costs[-1],
        "kl_over_bound": [min(kls), max(kls)],
        "multiplier_over_closed_form": [min(ratios), max(ratios)],
    }


def realised(updates: int = 200) -> list[dict[str, Any]]:
    """KL of neural policies over many updates on rows with random advantages, for several bounds."""
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    from forethought.algorithms.trust_improve import Rows, Terms, acting, critic_of, init_actor, update
    from forethought.math.trust_region import StepHow
    from forethought.models.value import ValueLearner
    from forethought.types import Box, Spec

    spec, actions, B = Spec(3, 2), Box(np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)), 1000
    value, rows_of, found = ValueLearner(gradient_steps=10), [], []
    for bound in (1e-3, 1e-2, 1e-1):
        actor = init_actor(spec, actions, (64, 2), 0.5, jr.key(0))
        critic = critic_of(value.init(spec, jr.key(1)), np.array([0.0, 1.0]), 0.9)
        terms, rows_of = Terms(spec, bound, 0.9, 0.9, value, StepHow()), []
        for i in range(updates):
            rng = np.random.default_rng(i)
            x = rng.normal(size=(B, 3))
            policy = acting(actor, actions, spec, 1.0)
            act = lambda x, k, policy=policy: policy.act(policy.init(x, k), x, jnp.zeros((), jnp.int32))[0]
            u = np.asarray(jax.vmap(act)(jnp.asarray(x, jnp.float32), jr.split(jr.key(i), B)))
            cost, yes = np.sum((u - np.tanh(x[:, :2])) ** 2, axis=1) + rng.normal(size=B), np.ones(B, bool)
            actor, _, told = update(actor, critic, Rows(x, u, x, cost, yes, yes, yes), actions, terms, jr.key(i))
            rows_of.append({k: float(told[f"policy_{k}"]) for k in ("kl", "status", "evaluations")})
        share = np.array([r["kl"] / bound for r in rows_of])
        solved = np.array([r["status"] == 0 for r in rows_of])
        found.append(
            {
                "bound": bound,
                "updates": updates,
                "solved": int(solved.sum()),
                "within_a_tenth": int(np.sum((share >= 0.9) & (share <= 1.0))),
                "above": int(np.sum(share > 1.0)),
                "share_min_median_max": [float(np.quantile(share, q)) for q in (0.0, 0.5, 1.0)],
                "evaluations": float(np.mean([r["evaluations"] for r in rows_of])),
            }
        )
    return found


def learn(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """One run; the policy without noise is judged on the task's fixed starts, which is neither counted nor learned."""
    import jax.random as jr

    from forethought.algorithms.trust_region import TrustRegion
    from forethought.tasks import task

    target, method = task(TASK), dataclasses.replace(TrustRegion(), data=variant)
    state, rows, began = method.init(target, jr.key(seed)), [], time.perf_counter()
    while int(state.steps) < steps:
        # At most one evaluation's distance at a time, for either variant.
        state, metrics = method.step(target, state, min(EVERY, steps - int(state.steps)))
        if int(state.steps) % EVERY == 0:
            policy = method.policy(target, state)
            episodes = target.world.fresh().rollouts(policy, jr.key(0), target.starts, target.limit)
            kept = {k: v for k, v in metrics.items() if k.startswith("policy_")}
            score = float(np.mean([e.reward.sum() for e in episodes]))
            rows.append({"steps": int(state.steps), "return": score, "seconds": time.perf_counter() - began} | kept)
    settings = {"task": TASK, "steps": steps, "algorithm": repr(method)}
    return {"variant": variant, "seed": seed, "settings": settings, "rows": rows}


def table(out: Path) -> None:
    """Mean return and 95% interval at some steps, and the KL over all updates."""
    from forethought.math.stats import mean_interval

    for variant in VARIANTS:
        runs = [json.loads(p.read_text()) for p in sorted((out / variant).glob("*.json"))]
        for steps in (600, 1000, 1400, 2000, 3000, 5000, 10000):
            values = [r["return"] for run in runs for r in run["rows"] if r["steps"] == steps]
            if values:
                mean, interval = mean_interval(values)
                around = "" if interval is None else f" [{interval[0]:.0f}, {interval[1]:.0f}]"
                print(f"{variant:9} {steps:6d} steps  {mean:7.0f}{around}  ({len(values)} seeds)")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bound", "learn", "table"))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="100-104")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "trust-region")
    parser.add_argument("--only", action="store_true", help="in this process")
    given = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)
    if given.what == "table":
        table(given.out)
        return 0
    if given.what == "bound":
        found = {"bandit": bandit(steps=10 * given.updates), "neural": realised(given.updates)}
        save(given.out / "bound.json", found)
        print(json.dumps(found, indent=1))
        return 0
    jobs = [(v, s, given.out / v / f"{s}.json") for s in seeds(given.seeds) for v in given.variants.split(",")]
    if given.only:
        for variant, seed, path in jobs:
            save(path, learn(variant, seed, given.steps))
        return 0
    more = ("--steps", given.steps, "--out", given.out, "--only")
    words = lambda variant, seed: ("learn", "--variants", variant, "--seeds", seed, *more)
    return min(processes(__file__, {path: words(variant, seed) for variant, seed, path in jobs}, given.jobs), 1)


if __name__ == "__main__":
    sys.exit(main())
