"""What the lecture says about local methods, measured: each claim with an interval, and whether it holds.

    python bench/local_claims.py

Ten seeds (100-109), five (100-104) where whole runs are compared, paired; the interval is Student's, 95%, of the mean
difference (of logarithms, for a ratio).
A claim holds if the interval is on its side of 0, does not hold if it is on the other, and is undecided in between.
Results: results/local_claims.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import numpy as np  # noqa: E402
from kl_problems import problem  # noqa: E402
from runner import RESULTS, commit, machine  # noqa: E402

from forethought.algorithms.local_batch import batch_of  # noqa: E402
from forethought.algorithms.local_improve import RIDGE  # noqa: E402
from forethought.algorithms.locally import Local  # noqa: E402
from forethought.core import Task  # noqa: E402
from forethought.math.kl_step import kl_step  # noqa: E402
from forethought.math.local_fit import fit_bayesian, fit_regression  # noqa: E402
from forethought.math.stats import mean_interval  # noqa: E402
from forethought.models.local_prior import prior_from  # noqa: E402
from forethought.tasks import task  # noqa: E402

SEEDS, RUNS = range(100, 110), range(100, 105)
TEST = 20
"""Rollouts that are held out."""
ITERATIONS = 6


def noisy(std: float) -> Task:
    """The two-link arm with process noise on its velocities, in rad/s per step."""
    made = task("arm-reach")
    spread = np.asarray([0.0, 0.0, std, std])
    return dataclasses.replace(made, world=dataclasses.replace(made.world, process_std=spread))


def first_rollouts(target: Task, method: Local, seed: int) -> Any:
    """The state after one iteration's rollouts, before any improvement."""
    state = method.init(target, jr.key(seed))
    for _ in range(method.rollouts * len(method.conditions)):
        state, _ = method.step(target, state, 10**9)
    return state


@jax.jit
def _errors(z: Any, y: Any, test_z: Any, test_y: Any, F: Any, f: Any) -> Any:
    """Root mean square of the one-step error on held-out rollouts, in units of the change."""
    n = y.shape[2]
    off = jnp.einsum("tij,tnj->tni", F, test_z) + f[:, None] - test_y
    change = jnp.sqrt(jnp.mean((test_y - test_z[:, :, :n]) ** 2, axis=(0, 1)))
    return jnp.sqrt(jnp.mean((off / change) ** 2))


def fits(seed: int, count: int) -> tuple[float, float]:
    """Errors of v1.0 and v2.0 from so many rollouts of the noisy arm."""
    target, method = noisy(0.02), Local(conditions=(seed,), rollouts=count + TEST)
    state = first_rollouts(target, method, seed)
    batch = batch_of(state.data, 0, (seed,), count + TEST, target.limit, target.spec.angles)
    z = jnp.swapaxes(jnp.concatenate([batch.x[0, :, :-1], batch.u[0]], axis=2), 0, 1)
    y, w = jnp.swapaxes(jnp.asarray(batch.x[0, :, 1:]), 0, 1), jnp.ones((z.shape[0], count))
    used = np.asarray(state.data.episode)[: int(state.data.count)] < count
    rows = dataclasses.replace(state.data, count=np.asarray(int(used.sum()), np.asarray(state.data.count).dtype))
    model = method.learner.fit(method.learner.init(target.spec, jr.key(seed)), rows, jr.key(seed))[0].model
    plain = fit_regression(z[:, :count], y[:, :count], w)
    prior = prior_from(model, z[:, :count], y[:, :count], w, angles=target.spec.angles)
    informed = fit_bayesian(z[:, :count], y[:, :count], w, prior, ridge=RIDGE)
    judge = lambda fit: float(_errors(z[:, :count], y[:, :count], z[:, count:], y[:, count:], *fit.dynamics[:2]))
    return judge(plain), judge(informed)


def improved(target: Task, method: Local, seed: int, iterations: int = ITERATIONS) -> list[dict[str, Any]]:
    """The metrics of each iteration."""
    state, found = method.init(target, jr.key(seed)), []
    while len(found) < iterations:
        state, metrics = method.step(target, state, 10**9)
        if "local_status" in metrics:
            found.append(metrics)
    return found


def last_cost(controller: str, seed: int) -> float:
    """Mean cost of the rollouts after some iterations, with strong process noise."""
    method = Local(conditions=(seed,), controller=controller)  # pyright: ignore[reportArgumentType]
    return float(improved(noisy(0.1), method, seed)[-1]["local_cost"][0])


def information(controller: str, seed: int) -> float:
    """How well the second iteration's own rollouts excite the system (1 / VIF, at the median step), 20 of them, in a
    world without noise of its own."""
    target = task("arm-reach")
    method = Local(conditions=(seed,), controller=controller, fit="regression", rollouts=20)  # pyright: ignore
    state = method.init(target, jr.key(seed))
    for _ in range(2 * method.rollouts):
        state, _ = method.step(target, state, 10**9)
    first = int(state.fitted.first)
    batch = batch_of(state.data, first, (seed,), method.rollouts, target.limit, target.spec.angles)
    z = jnp.swapaxes(jnp.concatenate([batch.x[0, :, :-1], batch.u[0]], axis=2), 0, 1)
    y, w = jnp.swapaxes(jnp.asarray(batch.x[0, :, 1:]), 0, 1), jnp.ones((z.shape[0], method.rollouts))
    return float(jnp.median(fit_regression(z, y, w, angles=target.spec.angles).information))


def costs(bound: str, seed: int) -> list[float]:
    """Mean cost of the rollouts of each iteration."""
    method = Local(conditions=(seed,), bound=bound)  # pyright: ignore[reportArgumentType]
    return [float(metrics["local_cost"][0]) for metrics in improved(noisy(0.02), method, seed, 10)]


def multipliers(seed: int) -> tuple[float, float]:
    """Of a bound, and of a tenth of it."""
    *given, epsilon = problem(seed, indefinite=False)
    step = jax.jit(kl_step)
    return tuple(float(step(*given, jnp.asarray(share * epsilon)).multiplier) for share in (1.0, 0.1))  # pyright: ignore


def judged(claim: str, differences: list[float], **more: Any) -> dict[str, Any]:
    """The mean difference with its interval; positive is what the claim says."""
    mean, interval = mean_interval(differences)
    assert interval is not None
    verdict = "holds" if interval[0] > 0.0 else "does not hold" if interval[1] < 0.0 else "undecided"
    print(f"{verdict:14s} {claim}: {mean:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]", flush=True)
    return {"claim": claim, "verdict": verdict, "mean": mean, "interval": interval, "each": differences} | more


def main() -> int:
    """Measure all claims."""
    began, rows = time.perf_counter(), []
    log = lambda pairs: [float(np.log(a / b)) for a, b in pairs]
    each: Callable[[Any], list[Any]] = lambda ask: [ask(seed) for seed in SEEDS]
    runs: Callable[[Any], list[Any]] = lambda ask: [ask(seed) for seed in RUNS]
    few, many = each(lambda s: fits(s, 5)), each(lambda s: fits(s, 50))
    rows.append(judged("with 5 rollouts v2.0 fits better than v1.0 (log ratio of errors)", log(few), pairs=few))
    # They meet if the ratio at 50 is within 5 percent of 1.
    gap = [0.05 - abs(value) for value in log(many)]
    rows.append(judged("with 50 rollouts they are within 5% of each other", gap, pairs=many))
    pairs = runs(lambda s: (last_cost("open-loop", s), last_cost("feedback", s)))
    rows.append(judged("under process noise open loop costs more than feedback (log ratio)", log(pairs), pairs=pairs))
    pairs = runs(lambda s: (information("gaussian", s), information("feedback", s)))
    floor = [(max(a, 1e-12), max(b, 1e-12)) for a, b in pairs]
    rows.append(judged("v2.0's samples excite more than v1.0's (log ratio of 1/VIF)", log(floor), pairs=pairs))
    deficient = [0.0 if b < 1e-6 else -1.0 for _, b in pairs]
    rows.append(
        {"claim": "v1.0's samples are rank deficient (1/VIF below 1e-6), of 5", "count": len(RUNS) + sum(deficient)}
    )
    bounded, free = runs(lambda s: costs("sum", s)), runs(lambda s: costs("none", s))
    worse = [float(np.log(max(f) / f[0])) - float(np.log(max(b) / b[0])) for f, b in zip(free, bounded, strict=True)]
    rows.append(judged("without the bound the cost rises, with it not", worse, with_=bounded, free=free))
    falls = [all(b <= a * 1.02 for a, b in itertools.pairwise(run)) for run in bounded]
    rows.append({"claim": "with the bound the cost falls monotonically (to 2%), of 5", "count": sum(falls)})
    pairs = each(multipliers)
    rows.append(judged("a tenth of the bound: a larger multiplier (log ratio)", [-v for v in log(pairs)], pairs=pairs))
    result = {"commit": commit(), "machine": machine(), "seeds": list(SEEDS), "runs": list(RUNS), "claims": rows}
    result["seconds"] = time.perf_counter() - began
    (RESULTS / "local_claims.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
