"""What the lecture says about v2.0, measured beside v1.5, and what each of its stabilisers buys.

    python bench/policy_claims.py --seeds 100-104         # one process per seed; a file that is there is not made again
    python bench/policy_claims.py table                   # the verdicts, into results/policy_claims.json

On the cart-pole swing-up with the Gaussian process, 240 steps (four episodes, the first one random), judged on the
task's ten fixed starts:

- v2.0 acts at a tenth of the cost of v1.5, or less;
- it loses more than v1.5 does where the world is random: process noise of 0.1 m/s and 0.3 rad/s per step;
- the data of v2.0's first three episodes are learned from once more, with one stabiliser off at a time.

Every claim is a difference, paired by seed, with Student's 95% interval of its mean.  It holds if the interval is on
its side of 0, does not hold if it is on the other, and is undecided in between.
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

TASK = "cartpole-swingup"
STEPS, FIRST = 240, 180
PROCESS_NOISE = (0.0, 0.1, 0.0, 0.3)
"""Of position, velocity, angle and angular velocity, per step."""
OUT = RESULTS / "policy-claims"


def learned(algorithm: Any, target: Any, seed: int, steps: int) -> Any:
    """The state after so many steps, having learned from all of them."""
    import jax.random as jr

    state = algorithm.init(target, jr.key(seed))
    while int(state.steps) < steps:
        state, _ = algorithm.step(target, state, steps - int(state.steps))
    return algorithm.step(target, state, 0)[0]


def score(algorithm: Any, target: Any, state: Any) -> float:
    """Mean return from the fixed starts."""
    import jax.random as jr

    from forethought.runs.evaluation import evaluate

    return evaluate(target, algorithm.policy(target, state), jr.key(0), target.starts).mean_return


def without(v20: Any) -> dict[str, Any]:
    """v2.0 with one stabiliser off, each."""
    how = lambda **changes: dataclasses.replace(v20, improve=dataclasses.replace(v20.improve, **changes))
    return {
        "all": v20,
        "no plans shown": dataclasses.replace(v20, planner=None),
        "no clipping": how(clip=1e9),
        "no remedies": how(stabilise="off"),
        "drawn models": dataclasses.replace(v20, imagine="particles"),
        "total propagation": how(estimator="total"),
    }


def measure(seed: int) -> dict[str, Any]:
    """Everything of one seed."""
    import jax
    import jax.numpy as jnp
    from policy_speed import milliseconds

    from forethought.algorithms.globally import V15, V20
    from forethought.models.gp_learner import GPLearner
    from forethought.tasks import task

    jax.config.update("jax_enable_x64", True)
    quiet, began = task(TASK), time.perf_counter()
    random = dataclasses.replace(quiet, world=dataclasses.replace(quiet.world, process_std=np.asarray(PROCESS_NOISE)))
    sides = {"v1.5": V15(learner=GPLearner(), base_steps=60), "v2.0": V20(GPLearner(), base_steps=60)}
    returns: dict[str, dict[str, float]] = {name: {} for name in sides}
    act_ms, states = {}, {}
    for name, algorithm in sides.items():
        for world, target in (("quiet", quiet), ("random", random)):
            state = learned(algorithm, target, seed, STEPS)
            returns[name][world] = score(algorithm, target, state)
            if world == "quiet":
                act_ms[name] = milliseconds(algorithm.policy(target, state), np.asarray(state.data.x)[0])
            print(f"seed {seed}, {name}, {world}: {returns[name][world]:.1f}", flush=True)
    states = learned(sides["v2.0"], quiet, seed, FIRST)
    # The same rows and the same model; the policy is a fresh one, improved once.
    rows = dataclasses.replace(states, fitted=dataclasses.replace(states.fitted, improved=jnp.zeros((), jnp.int32)))
    once = {}
    for name, algorithm in without(sides["v2.0"]).items():
        state, told = algorithm.step(quiet, rows, 0)
        kept = {k: told.get(f"improve_{k}") for k in ("cost", "snr", "growth", "lost", "length", "estimator", "says")}
        once[name] = {"return": score(algorithm, quiet, state), "seconds": told["improve_seconds"]} | kept
        print(f"seed {seed}, {name}: {once[name]['return']:.1f}", flush=True)
    return {"returns": returns, "act_ms": act_ms, "once": once, "seconds": time.perf_counter() - began}


def judged(claim: str, differences: list[float]) -> dict[str, Any]:
    """The mean difference with its interval; positive is what the claim says."""
    from forethought.math.stats import mean_interval

    mean, interval = mean_interval(differences)
    if interval is None or not np.isfinite(differences).all():
        verdict = "undecided"
    else:
        verdict = "holds" if interval[0] > 0.0 else "does not hold" if interval[1] < 0.0 else "undecided"
    print(f"{verdict:14s} {claim}: {mean:.3g} {np.round(interval or (), 3).tolist()}, n = {len(differences)}")
    return {"claim": claim, "verdict": verdict, "mean": mean, "interval": interval, "each": differences}


def table() -> int:
    """Verdicts from what is there."""
    found = [json.loads(p.read_text()) for p in sorted(OUT.glob("*.json"))]
    ratios = [float(np.log(f["act_ms"]["v1.5"] / f["act_ms"]["v2.0"] / 10.0)) for f in found]
    lost = lambda f, name: f["returns"][name]["quiet"] - f["returns"][name]["random"]
    rows = [
        judged("v2.0 acts at a tenth of v1.5's cost or less (log of the ratio over 10)", ratios),
        judged("noise costs v2.0 something (return)", [lost(f, "v2.0") for f in found]),
        judged("noise costs v1.5 something (return)", [lost(f, "v1.5") for f in found]),
        judged("noise costs v2.0 more than v1.5 (return)", [lost(f, "v2.0") - lost(f, "v1.5") for f in found]),
    ]
    for name in found[0]["once"] if found else ():
        if name != "all":
            gains = [f["once"]["all"]["return"] - f["once"][name]["return"] for f in found]
            rows.append(judged(f"better than with {name} (return after one improvement)", gains))
    result = {"commits": sorted({f["commit"] for f in found}), "seeds": [f["seed"] for f in found], "claims": rows}
    write(RESULTS / "policy_claims.json", result)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="measure", choices=("measure", "table"))
    parser.add_argument("--seeds", default="100-104")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", type=int, help="this seed, in this process")
    arguments = parser.parse_args()
    if arguments.what == "table":
        return table()
    if arguments.only is not None:
        found = {"seed": arguments.only, "commit": commit(), "machine": machine(), **measure(arguments.only)}
        write(arguments.out / f"{arguments.only}.json", found)
        return 0
    words = lambda seed: ("--only", seed, "--out", arguments.out)
    wanted = {arguments.out / f"{seed}.json": words(seed) for seed in seeds(arguments.seeds)}
    return min(processes(__file__, wanted, 1), 1)  # one at a time: actions are timed


if __name__ == "__main__":
    sys.exit(main())
