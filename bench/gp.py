"""How fast a Gaussian process is fitted, beside GPyTorch and scikit-learn, and how its cost grows with the data.

    python bench/gp.py --peer PYTHON       # an interpreter with gpytorch and scikit-learn; without it, ours alone
    python bench/gp.py --only growth

One core, one thread, float64.  The peers run in a process of their own between our own calls (A B C A B C), on the same
data from the same start; ratios are of the medians.  Results are written into results/gp-fit.json; the status is 1 if
a target is missed.

`evaluate`: a likelihood with its gradient for 4 outputs.  `fit`: L-BFGS of all until the likelihood stops growing, no
restarts, no curb, and the likelihood reached.  `default`: our own fit with its restarts and curb.  `growth`: seconds
for exact and sparse (256 inducing points) against n.
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from runner import HERE, RESULTS, commit, machine

from forethought.math import gp, gp_condition, gp_host, sparse_gp
from forethought.math.gp import Hyper, Rows
from forethought.math.gp_host import Table
from forethought.math.gp_map import Search, fit_hyper, minimise

OUTPUTS, FEATURES, INDUCING = 4, 6, 256
SIZES = (256, 1000)
START = np.append(np.zeros(FEATURES + 1), np.log(0.1))
TARGETS = {"256": 5.0, "1000": 1.5}
"""How many times as fast an evaluation is to be as the faster of the peers."""


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scaled inputs [n f] and targets [4 n] of smooth functions, as of a mechanical system, with noise of a tenth."""
    random = np.random.default_rng(0)
    z = random.normal(size=(n, FEATURES))
    w = random.normal(size=(2, OUTPUTS, FEATURES)) / np.sqrt(FEATURES)
    y = np.sin(2.0 * w[0] @ z.T) * np.cos(w[1] @ z.T) + 0.05 * random.normal(size=(OUTPUTS, n))
    return z, (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, keepdims=True)


def once(call: Callable[[], Any]) -> dict[str, Any]:
    """Wall and processor seconds of one call, and what it returned."""
    began, worked = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked, "got": result}


def median(call: Callable[[], Any], rounds: int) -> float:
    """Median wall seconds of a call, after one that is not counted."""
    call()
    return float(np.median([once(call)["seconds"] for _ in range(rounds)]))


class Peers:
    """The other process; it sleeps while we run."""

    def __init__(self, python: str, path: str):
        command = [python, str(HERE / "gp_torch.py"), path]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about: dict[str, Any] = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the peers ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, who: str, n: int, do: str, outputs: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"who": who, "n": n, "do": do, "outputs": outputs}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def names(self) -> list[str]:
        found = ["gpytorch"] if self.about["gpytorch"] else []
        return found + (["sklearn"] if self.about["scikit-learn"] else [])


def start_peers(python: str | None) -> Peers | None:
    """The peers, if there is an interpreter that has one."""
    if python is None:
        print("no --peer: our own figures alone")
        return None
    path = Path(tempfile.mkdtemp()) / "data.npz"
    arrays = {name: part for n in SIZES for name, part in zip((f"z{n}", f"y{n}"), data(n), strict=True)}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    peers = Peers(python, str(path))
    for package, version in peers.about.items():
        print(f"peer: {package} {version or 'is not there'}")
    return peers


def ours(n: int) -> list[gp_host.Objective]:
    """Our objectives, one for each output."""
    z, ys = data(n)
    return [gp_host.exact("se", Table(z, y, np.ones(n), 0.0)) for y in ys]


def compare(rows: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians of everyone, and how many times as fast we are, by wall and by processor seconds."""
    result: dict[str, Any] = {"rounds": len(rows)}
    for what in ("seconds", "processor_seconds"):
        result[what] = {who: float(np.median([row[who][what] for row in rows])) for who in rows[0]}
        mine = result[what]["forethought"]
        result[f"ratio_{what}"] = {who: taken / mine for who, taken in result[what].items() if who != "forethought"}
    for what in ("value", "evaluations"):
        result[what] = {who: row[what] for who, row in rows[-1].items()}
    return result


def evaluate(n: int, peers: Peers | None, rounds: int) -> dict[str, Any]:
    """One likelihood with its gradient for each output."""
    objectives, rows = ours(n), []
    jitted = eqx.filter_jit(gp.negative_log_likelihood)
    z, ys = data(n)
    many = [Rows(*(jnp.asarray(v) for v in (z, y, np.ones(n), np.zeros(())))) for y in ys]
    hyper = jax.tree.map(jnp.asarray, gp_host.unpack(START))
    calls: dict[str, Callable[[], list[float]]] = {
        "forethought": lambda: [found[0] for found in (o(START) for o in objectives) if found is not None],
        "forethought-xla": lambda: [float(jitted("se", hyper, one)[0]) for one in many],
    }
    names = peers.names() if peers else []
    names += ["gpytorch-default"] if "gpytorch" in names and n > 800 else []
    for call in calls.values():
        call()
    for _ in range(rounds):
        row = {who: once(call) for who, call in calls.items()}
        row = {who: taken | {"value": sum(taken.pop("got")), "evaluations": OUTPUTS} for who, taken in row.items()}
        rows.append(row | {who: peers.ask(who, n, "evaluate", OUTPUTS) for who in names if peers})
    return {"outputs": OUTPUTS} | compare(rows)


def fit(n: int, peers: Peers | None, rounds: int, outputs: int) -> dict[str, Any]:
    """L-BFGS from the same start for everyone."""
    objectives, rows = ours(n)[:outputs], []
    names = peers.names() if peers else []
    for _ in range(rounds):
        taken = once(lambda: [minimise(o, START, 400, curbed=False) for o in objectives])
        found = taken.pop("got")
        mine = {"value": sum(f.value for f in found), "evaluations": sum(f.evaluations for f in found)}
        rows.append({"forethought": taken | mine} | {who: peers.ask(who, n, "fit", outputs) for who in names if peers})
    return {"outputs": outputs} | compare(rows)


def default(n: int, rounds: int) -> dict[str, Any]:
    """Our own fit of all outputs, with restarts and curb."""
    z, ys = data(n)
    many = [Rows(z, y, np.ones(n), np.zeros(())) for y in ys]

    def call() -> int:
        return sum(fit_hyper("se", rows, None, Search(), jax.random.key(0)).evaluations for rows in many)

    return {"outputs": OUTPUTS, "evaluations": call(), "seconds": median(call, rounds)}


def growth(largest_exact: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of one output against n: an evaluation, conditioning, one prediction (mean and variance) of a batch."""
    condition, sparse_condition = gp_condition.condition, sparse_gp.sparse_condition
    lengths, table = np.log(np.full(FEATURES, 3.0)), []
    hyper = jax.tree.map(jnp.asarray, Hyper(lengths, np.zeros(()), np.log(np.asarray(0.1))))
    theta, queries = gp_host.pack(hyper), jnp.asarray(data(100)[0])

    @eqx.filter_jit
    def predict(points: Any, centres: Any, weights: Any, root: Any) -> tuple[Any, Any]:
        k = gp.covariance("se", hyper, points, centres)
        return k @ weights, 1.0 - jnp.sum((k @ root.T) ** 2, axis=1)

    for n in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384):
        z, ys = data(n)
        rows = Rows(*(jnp.asarray(v) for v in (z, ys[0], np.ones(n), np.zeros(()))))
        used, few = gp_host.in_use(rows), max(2, rounds if n <= 1024 else 2)
        line: dict[str, Any] = {"n": n}
        if n <= largest_exact:
            objective = gp_host.exact("se", used)
            found = condition("se", hyper, rows)
            line["exact"] = {
                "evaluate": median(lambda o=objective: o(theta), few),
                "condition": median(lambda r=rows: condition("se", hyper, r), few),
                "predict_100": median(lambda r=rows, p=found: predict(queries, r.z, p.weights, p.root), rounds),
            }
        if n > INDUCING:
            chosen = sparse_gp.choose_inducing("se", hyper, rows, INDUCING)
            centres = jnp.asarray(z[chosen])
            objective, found = gp_host.sparse("se", used, z[chosen]), sparse_condition("se", hyper, centres, rows)
            line["sparse"] = {
                "evaluate": median(lambda o=objective: o(theta), few),
                "choose": median(lambda r=rows: sparse_gp.choose_inducing("se", hyper, r, INDUCING), 2),
                "condition": median(lambda c=centres, r=rows: sparse_condition("se", hyper, c, r), few),
                "predict_100": median(lambda c=centres, p=found: predict(queries, c, p.weights, p.root), rounds),
            }
        print(json.dumps(line), flush=True)
        table.append(line)
    return table


def crossover(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest n at which sparse takes less time, and the power of n with which exact grows in the end."""
    both = [line for line in table if "exact" in line and "sparse" in line]
    exact = [line for line in table if "exact" in line][-2:]
    result: dict[str, Any] = {}
    for what in ("evaluate", "condition", "predict_100"):
        cheaper = [line["n"] for line in both if line["sparse"][what] < line["exact"][what]]
        result[what] = {"sparse_cheaper_from": min(cheaper, default=None)}
        if len(exact) == 2:
            result[what]["exact_exponent"] = float(np.log2(exact[1]["exact"][what] / exact[0]["exact"][what]))
    return result


def targets(result: dict[str, Any]) -> dict[str, bool]:
    """Which targets are met, of those that were measured."""
    met = {}
    for n, least in TARGETS.items():
        for who, ratio in result.get("evaluate", {}).get(n, {}).get("ratio_seconds", {}).items():
            if who in ("gpytorch", "sklearn"):
                met[f"evaluate {n} {who} {least}x"] = ratio >= least
    for n, found in result.get("fit", {}).items():
        for who, value in found["value"].items():
            met[f"fit {n}: likelihood not below that of {who}"] = found["value"]["forethought"] <= value + 0.1
    if "default" in result:
        met["default fit at 256 in 1 s"] = result["default"]["256"]["seconds"] <= 1.0
    return met


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="an interpreter that has gpytorch and scikit-learn")
    parser.add_argument("--only", choices=["evaluate", "fit", "default", "growth"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "gp-fit.json")
    parser.add_argument("--largest-exact", type=int, default=2048)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    wanted = [arguments.only] if arguments.only else ["evaluate", "fit", "default", "growth"]
    load, rounds = os.getloadavg()[0], arguments.rounds
    peers = start_peers(arguments.peer) if {"evaluate", "fit"} & set(wanted) else None
    # what is not measured now stays as it is in the file
    kept = json.loads(arguments.out.read_text()) if arguments.only and arguments.out.exists() else {}
    result: dict[str, Any] = kept | {"kernel": "se", "features": FEATURES, "inducing": INDUCING}
    if {"evaluate", "fit"} & set(wanted):
        result["peers"] = peers.about if peers else None
    if "evaluate" in wanted:
        result["evaluate"] = {str(n): evaluate(n, peers, rounds if n < 500 else max(3, rounds // 2)) for n in SIZES}
    if "fit" in wanted:
        result["fit"] = {"256": fit(256, peers, 3, OUTPUTS), "1000": fit(1000, peers, 1, 1)}
    if "default" in wanted:
        result["default"] = {"256": default(256, min(5, rounds)), "1000": default(1000, 1)}
    if "growth" in wanted:
        result["growth"] = growth(arguments.largest_exact, rounds)
        result["crossover"] = crossover(result["growth"])
    result["met"] = targets(result)
    about = {"commit": commit(), "machine": machine(), "jax": jax.__version__, "core": CORE, "threads": THREADS}
    loads = {what: [load, os.getloadavg()[0]] for what in wanted}
    result |= about | {"load_before_and_after": kept.get("load_before_and_after", {}) | loads}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("machine", "threads", "growth")}, indent=1))
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
