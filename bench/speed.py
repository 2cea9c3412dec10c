"""How fast: one control step, one fit, and the same step as the peers', on one core.

    python bench/speed.py control
    python bench/speed.py fit
    python bench/speed.py peer --peer-python PEER/bin/python      # an environment with torch, and mbrl-lib if it can be
    python bench/speed.py all

Each figure is taken in a process pinned to one core, warm, without compilation, and is written into
results/speed/FIGURE.json; the status is 1 if a target is missed.  Wall seconds are the figures and need a quiet
machine; processor seconds stand beside them and tell how quiet it was.

`control` and `fit` use exactly the default V15 on Pendulum-v1, after 400 random steps.  `peer` uses the settings of
mbrl-lib's PETS cart-pole example, and runs the peers in a process of their own between the steps of ours (A B C A B C,
ratios row by row).  The environment of the peers: pip install torch hydra-core omegaconf gymnasium numpy tqdm
termcolor matplotlib imageio, then pip install --no-deps mbrl (its pins are older than Python 3.11 can install).
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import wadler_lindig
from runner import HERE, RESULTS, commit, machine

from forethought.algorithms.globally import V15
from forethought.core import RunState, Task
from forethought.math.act import act, start
from forethought.math.rollout import Imagination, score
from forethought.models.ensemble import EnsembleLearner
from forethought.planners.cem import CEM
from forethought.planners.mpc import MPC, Planning
from forethought.tasks import task

PEER = {
    "members": 7,
    "width": 200,
    "depth": 4,
    "particles": 20,
    "samples": 350,
    "elites": 35,
    "iterations": 5,
    "horizon": 15,
    "n": 4,
    "m": 1,
}
"""mbrl-lib 0.2's pets_cartpole: 7 nets of 4x200 with SiLU, CEM with 5 iterations of 350 plans of 15 steps."""


def timed(call: Callable[[], Any], runs: int) -> dict[str, list[float]]:
    """Wall and processor seconds of each of `runs` calls, after one that is not counted."""
    jax.block_until_ready(call())
    wall, processor = [], []
    for _ in range(runs):
        began, worked = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    return {"seconds": wall, "processor_seconds": processor}


def summary(taken: dict[str, list[float]]) -> dict[str, float]:
    """Median, 95th percentile and worst wall seconds, and the median of the processor's."""
    wall = np.asarray(taken["seconds"])
    return {
        "median": float(np.median(wall)),
        "p95": float(np.percentile(wall, 95)),
        "max": float(wall.max()),
        "processor_median": float(np.median(taken["processor_seconds"])),
    }


def written(module: eqx.Module) -> str:
    """A recipe with every setting, those that were left at their defaults too."""
    return " ".join(wadler_lindig.pformat(module, hide_defaults=False).split())


def learned(algorithm: V15, target: Task, rows: int) -> RunState:
    """The state after `rows` random steps, fitted once."""
    state = dataclasses.replace(algorithm, base_steps=rows).init(target, jr.key(0))
    collecting = dataclasses.replace(algorithm, base_steps=rows)
    while int(state.data.count) < rows:
        state, _ = collecting.step(target, state, rows - int(state.data.count))
    return algorithm.step(target, state, 0)[0]


def control(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one control step: `act` of MPC, in the loop with the environment, its time not included."""
    import gymnasium

    algorithm, target = V15(), task("Pendulum-v1")
    policy = algorithm.policy(target, learned(algorithm, target, 400))
    env = gymnasium.make("Pendulum-v1")
    taken: dict[str, list[float]] = {"seconds": [], "processor_seconds": []}
    for episode in range(3):
        x, _ = env.reset(seed=1000 + episode)
        carry = start(policy, np.asarray(x, np.float32), jr.key(episode))
        for t in range(target.limit):
            now, worked = time.perf_counter(), time.process_time()
            u, carry = act(policy, carry, np.asarray(x, np.float32), np.asarray(t, np.int32))
            u = np.asarray(u)
            jax.block_until_ready(carry)
            spent, processor = time.perf_counter() - now, time.process_time() - worked
            if episode > 0:  # the first one warms up
                taken["seconds"].append(spent)
                taken["processor_seconds"].append(processor)
            x = env.step(u)[0]
    found = summary(taken)
    return {
        "settings": {"algorithm": written(algorithm), "task": "Pendulum-v1"},
        "steps": len(taken["seconds"]),
        **found,
        "target": 0.01,
        "met": found["median"] <= 0.01,
    }


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of 500 gradient steps of the default ensemble on 400 rows."""
    learner, target = EnsembleLearner(gradient_steps=500), task("Pendulum-v1")
    state = learned(V15(learner=learner), target, 400)
    taken = timed(lambda: learner.fit(state.fitted, state.data, jr.key(1)), 15)
    found = summary(taken)
    return {
        "settings": {"learner": written(learner), "task": "Pendulum-v1", "rows": int(state.data.count)},
        "runs": len(taken["seconds"]),
        **found,
        "target": 0.25,
        "met": found["median"] <= 0.25,
    }


def peak() -> dict[str, Any]:
    """Gigaflops in float32 of this core: the best of a few products of two 2000 x 2000 matrices; then of others."""
    a = np.random.default_rng(0).normal(size=(2000, 2000)).astype(np.float32)
    product = jax.jit(jnp.matmul)
    shapes = {"2000x2000x2000": (1, 2000, 2000), "1000x200x200": (7, 1000, 200), "350x200x200": (20, 350, 200)}
    by_shape, by_processor = {}, {}
    for name, (batch, rows, inner) in shapes.items():
        left, right = jnp.ones((batch, rows, inner), jnp.float32), jnp.ones((batch, inner, inner), jnp.float32)
        if batch == 1:
            left, right = jnp.asarray(a), jnp.asarray(a)
        taken = timed(functools.partial(product, left, right), 12)
        work = 2e-9 * batch * rows * inner * inner
        by_shape[name] = work / min(taken["seconds"])
        by_processor[name] = work / min(taken["processor_seconds"])
    large, numpys = "2000x2000x2000", timed(lambda: a @ a, 12)
    return {
        "jax": by_shape[large],
        "numpy": 2e-9 * 2000**3 / min(numpys["seconds"]),
        "jax_by_processor_seconds": by_processor[large],
        "jax_by_shape": by_shape,
    }


def products(s: dict[str, int], plans: int) -> float:
    """Floating point operations in the matrix products of a rollout of `plans` plans."""
    sizes = [s["n"] + s["m"], *[s["width"]] * s["depth"], 2 * s["n"]]
    per_row = 2 * sum(i * o for i, o in itertools.pairwise(sizes))
    return float(per_row * s["particles"] * s["horizon"] * plans)


def parts(s: dict[str, int], planning: Planning) -> dict[str, Any]:
    """Where the time of one iteration of CEM goes: gigaflops of the products alone, with SiLU, and of the rollout."""
    plans, work = s["samples"] + 1, products(s, s["samples"] + 1)
    sizes = [s["n"] + s["m"], *[s["width"]] * s["depth"], 2 * s["n"]]
    keys = jr.split(jr.key(0), len(sizes))
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=False)
    weights = [jr.normal(k, (s["particles"], i, o), jnp.float32) / (2 * i**0.5) for k, i, o in shapes]
    x = jr.normal(keys[-1], (s["particles"], plans, sizes[0]), jnp.float32)

    def chain(x: jax.Array, weights: list[jax.Array], bend: Callable[[jax.Array], jax.Array]) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            z = x
            for w in weights[:-1]:
                z = bend(z @ w)
            return x + (z @ weights[-1])[..., : x.shape[-1]], None

        return jax.lax.scan(step, x, None, length=s["horizon"])[0]

    problem = planning.problem(jnp.zeros(s["n"], jnp.float32), jnp.zeros((), jnp.int32))
    z = jnp.zeros((plans, s["horizon"], s["m"]), jnp.float32)
    alone = jax.jit(lambda x, w: chain(x, w, lambda z: z))
    bent = jax.jit(lambda x, w: chain(x, w, jax.nn.silu))
    quiet = eqx.filter_jit(lambda p, z, k: score(Imagination(s["particles"], noise=False), p, z, k))
    whole = eqx.filter_jit(lambda p, z, k: score(Imagination(s["particles"]), p, z, k))
    calls = {
        "products": lambda: alone(x, weights),
        "products_and_silu": lambda: bent(x, weights),
        "rollout_without_noise": lambda: quiet(problem, z, jr.key(1)),
        "rollout": lambda: whole(problem, z, jr.key(1)),
    }
    found = {}
    for name, call in calls.items():
        taken = timed(call, 5)
        found[name] = {
            "median": float(np.median(taken["seconds"])),
            "gigaflops": 1e-9 * work / float(np.median(taken["seconds"])),
            "gigaflops_by_processor_seconds": 1e-9 * work / float(np.median(taken["processor_seconds"])),
        }
    return found


class Peers:
    """The other process: one line asks for a step, one line answers.  It sleeps while we run."""

    def __init__(self, python: str, with_mbrl: bool):
        command = [python, str(HERE / "speed_torch.py"), json.dumps(PEER | {"mbrl": with_mbrl})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about: dict[str, Any] = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the peers ended with status {self.process.wait()}")
        return json.loads(line)

    def step(self, who: str) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(who + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start_peers(arguments: argparse.Namespace) -> tuple[dict[str, Peers], dict[str, Any]]:
    """Who can be compared with, each with the process that runs it, and a sentence for who cannot."""
    found: dict[str, Peers] = {}
    about: dict[str, Any] = {}
    mbrl_python, torch_python = arguments.peer_python, arguments.torch_python or arguments.peer_python
    if torch_python is None:
        about["eager"] = "not measured: no --torch-python was given."
    else:
        peers = Peers(torch_python, with_mbrl=mbrl_python == torch_python)
        found["eager"], about["eager"] = peers, peers.about
    if mbrl_python is None:
        about["mbrl"] = "not measured: no --peer-python was given."
        return found, about
    peers = found["eager"] if mbrl_python == torch_python else Peers(mbrl_python, with_mbrl=True)
    if "mbrl" in peers.about:
        found["mbrl"], about["mbrl"] = peers, peers.about
    else:
        about["mbrl"] = f"not measured: mbrl-lib did not run ({peers.about['mbrl_missing']})."
    return found, about


def peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one control step at a peer's settings; ratios to the peer and to PyTorch; fraction of the peak."""
    s, target = PEER, task("cartpole-balance")
    learner = EnsembleLearner(members=s["members"], width=s["width"], depth=s["depth"])
    imagination = Imagination(particles=s["particles"])
    planner = CEM(imagination, samples=s["samples"], elites=s["elites"], iterations=s["iterations"])
    model = learner.init(target.spec, jr.key(0)).model
    planning = Planning(planner, model, target.cost, target.world.actions, s["horizon"])
    policy, x = MPC(planning), np.zeros(s["n"], np.float32)
    carry, t = start(policy, x, jr.key(1)), np.zeros((), np.int32)

    found, about = start_peers(arguments)
    for who, peers in found.items():
        peers.step(who)  # warm
    jax.block_until_ready(act(policy, carry, x, t))
    rows = []
    for _ in range(arguments.rounds):
        began, worked = time.perf_counter(), time.process_time()
        _, carry = jax.block_until_ready(act(policy, carry, x, t))
        ours = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked}
        rows.append({"forethought": ours} | {who: peers.step(who) for who, peers in found.items()})
    for peers in set(found.values()):
        peers.close()

    def median_of(who: str, what: str) -> float:
        return float(np.median([row[who][what] for row in rows]))

    def ratios(who: str, what: str) -> list[float]:
        return [row[who][what] / row["forethought"][what] for row in rows]

    best = peak()
    work = 1e-9 * products(s, s["iterations"] * (s["samples"] + 1) + 2)
    speed = work / median_of("forethought", "seconds")
    by_processor = work / median_of("forethought", "processor_seconds")
    result: dict[str, Any] = {
        "settings": {"peer": s, "planner": written(planner), "learner": written(learner), "cost": repr(target.cost)},
        "seconds": {who: median_of(who, "seconds") for who in rows[0]},
        "processor_seconds": {who: median_of(who, "processor_seconds") for who in rows[0]},
        "rows": rows,
        "peers": about,
        "ratio": {},
        "gigaflops": speed,
        "peak_gigaflops": best,
        "fraction_of_peak": speed / max(best["jax"], best["numpy"]),
        "fraction_of_peak_by_processor_seconds": by_processor / best["jax_by_processor_seconds"],
        "parts": parts(s, planning),
        "target": {"mbrl": 2.0, "fraction_of_peak": 0.65},
    }
    for who in found:
        result["ratio"][who] = {
            "median": float(np.median(ratios(who, "seconds"))),
            "least": min(ratios(who, "seconds")),
            "most": max(ratios(who, "seconds")),
            "processor_median": float(np.median(ratios(who, "processor_seconds"))),
        }
    result["met"] = {"fraction_of_peak": result["fraction_of_peak"] >= 0.65}
    if "mbrl" in found:
        result["met"]["mbrl"] = result["ratio"]["mbrl"]["median"] >= 2.0
    return result


FIGURES = {"control": control, "fit": fit, "peer": peer}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=[*FIGURES, "all"])
    parser.add_argument("--out", type=Path, default=RESULTS / "speed")
    parser.add_argument("--peer-python", help="an interpreter that can import mbrl-lib")
    parser.add_argument("--torch-python", help="an interpreter that can import torch (default: --peer-python)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of `peer`")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command line sets it
    arguments.out.mkdir(parents=True, exist_ok=True)
    met = True
    for name in FIGURES if arguments.figure == "all" else [arguments.figure]:
        load = os.getloadavg()[0]
        found = FIGURES[name](arguments)
        about = {"commit": commit(), "machine": machine(), "jax": jax.__version__, "core": CORE, "threads": THREADS}
        result = {"figure": name, **found, **about, "load_before": load}
        (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k not in ("rows", "machine", "threads")}, indent=1))
        met &= all(found["met"].values()) if isinstance(found["met"], dict) else bool(found["met"])
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
