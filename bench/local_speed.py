"""One whole iteration of the local method (fit, expansion of the cost, dual), beside the same algorithm in NumPy.

    python bench/local_speed.py

14 states, 7 controls, 100 steps, 5 conditions with 5 rollouts each; both on one core, in turn, to the same policies.
The prior is a mixture that was fitted beforehand.  Results: results/local_speed.json.
"""

from __future__ import annotations

from pinned import CORE  # isort: split

import json
import sys
import time
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import numpy as np  # noqa: E402
from local_reference import Mixture, improve_one  # noqa: E402
from local_reference import Reaching as ReferenceCost  # noqa: E402
from runner import RESULTS, commit, machine  # noqa: E402

from forethought.algorithms.local_improve import Carried, How, Rollouts, Setting, improve  # noqa: E402
from forethought.costs.reaching import Components, Reaching  # noqa: E402
from forethought.math.dataset import append, empty  # noqa: E402
from forethought.math.linear_quadratic import LinearGaussianPolicy  # noqa: E402
from forethought.models.gmm import GMMLearner  # noqa: E402
from forethought.types import Spec, Trajectory  # noqa: E402

n, m, T, CONDITIONS, ROLLOUTS, KL, STD = 14, 7, 100, 5, 5, 0.5, 0.3
TURNS = 7
MOST_MS, LEAST_RATIO = 150.0, 20.0


def simulate() -> tuple[np.ndarray, np.ndarray]:
    """Seven coupled joints, a little nonlinear, with noise: x [c, N, T+1, n], u [c, N, T, m]."""
    random, dt = np.random.default_rng(0), 0.05
    coupling, gain = random.standard_normal((m, m)) / 3.0, np.eye(m) + 0.3 * random.standard_normal((m, m))
    x, u = np.zeros((CONDITIONS, ROLLOUTS, T + 1, n)), STD * random.standard_normal((CONDITIONS, ROLLOUTS, T, m))
    x[:, :, 0, :m] = random.standard_normal((CONDITIONS, 1, m)) + 0.01 * random.standard_normal(
        (CONDITIONS, ROLLOUTS, m)
    )
    for t in range(T):
        q, v = x[:, :, t, :m], x[:, :, t, m:]
        force = u[:, :, t] @ gain.T - 0.5 * v - np.sin(q) @ coupling.T
        x[:, :, t + 1, m:] = v + dt * force + 1e-3 * random.standard_normal(v.shape)
        x[:, :, t + 1, :m] = q + dt * x[:, :, t + 1, m:] + 1e-4 * random.standard_normal(v.shape)
    return x, u


def mixture_of(x: np.ndarray, u: np.ndarray) -> Any:
    """The global model, fitted to all rollouts."""
    spec, learner = Spec(n=n, m=m), GMMLearner()
    data, flags = empty(spec), np.zeros(T, bool)
    for number, (states, controls) in enumerate(zip(x.reshape(-1, T + 1, n), u.reshape(-1, T, m), strict=True)):
        zeros = np.zeros(T)
        rows = Trajectory(states[:-1], controls, states[1:], zeros, flags, flags, np.arange(T), zeros, zeros)
        data = append(data, rows, number)
    return learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))[0].model


def plain(model: Any) -> Mixture:
    """The mixture for the reference."""
    centre = np.concatenate([model.inputs.mean, model.outputs.mean[:n]])
    unit = np.concatenate([model.inputs.std, model.outputs.std[:n]])
    s = len(centre)
    parts = (np.exp(model.log_weights), model.means[:, :s], model.covs[:, :s, :s])
    return Mixture(*map(np.asarray, parts), np.asarray(centre, np.float64), np.asarray(unit, np.float64))


def main() -> int:
    """Measure and write down."""
    x, u = simulate()
    model = mixture_of(x, u)
    cost = Reaching(Components((0, 1, 2)), alpha=1e-2)
    K, k = np.zeros((CONDITIONS, T, m, n)), np.zeros((CONDITIONS, T, m))
    L = np.tile(STD * np.eye(m), (CONDITIONS, T, 1, 1))
    old = LinearGaussianPolicy(*map(jnp.asarray, (K, k, L)))
    unknown = jnp.full((CONDITIONS,), jnp.nan)
    carried = Carried(jnp.ones((CONDITIONS,)), unknown, unknown, unknown)
    how = How("bayesian", "sum", KL, 1.0, (), "local", 1e-6)
    rollouts = Rollouts(*map(jnp.asarray, (x, u, np.ones(u.shape[:3]), np.zeros(u.shape[:2]))))
    setting = Setting(model, cost, jnp.ones((m,)))
    ours = lambda: jax.block_until_ready(improve(rollouts, old, carried, setting, how))
    theirs_cost = ReferenceCost(3, cost.distance_weight, cost.log_weight, cost.alpha, cost.control_weight)
    mixture, cov = plain(model), L @ np.swapaxes(L, 2, 3)
    theirs = lambda: [
        improve_one(x[i], u[i], (K[i], k[i], cov[i]), mixture, theirs_cost, KL) for i in range(CONDITIONS)
    ]
    began = time.perf_counter()
    found = ours()
    first = time.perf_counter() - began
    seconds: dict[str, list[float]] = {"ours": [], "numpy": []}
    for _ in range(TURNS):
        began = time.perf_counter()
        found = ours()
        seconds["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        known = theirs()
        seconds["numpy"].append(time.perf_counter() - began)
    cost_gap = [abs(float(found.step.cost[i]) / known[i]["cost"] - 1.0) for i in range(CONDITIONS)]
    ms = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    result = {
        "commit": commit(),
        "machine": machine(),
        "core": CORE,
        "settings": {"n": n, "m": m, "T": T, "conditions": CONDITIONS, "rollouts": ROLLOUTS, "kl": KL, "turns": TURNS},
        "ms": ms,
        "ms_least": {name: 1e3 * min(values) for name, values in seconds.items()},
        "ratio": ms["numpy"] / ms["ours"],
        "first_call_s": first,
        "solves": {"ours": np.asarray(found.step.solves).tolist(), "numpy": [each["solves"] for each in known]},
        "kl": {"ours": np.asarray(found.step.kl).sum(axis=1).tolist(), "numpy": [each["kl"] for each in known]},
        "cost_gap": cost_gap,
        "status": np.asarray(found.step.status).tolist(),
    }
    (RESULTS / "local_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    met = ms["ours"] <= MOST_MS and result["ratio"] >= LEAST_RATIO
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
