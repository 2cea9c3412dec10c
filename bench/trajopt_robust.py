"""What iterative LQR returns from anywhere: 1,000 random starts, and every status checked from outside.

    python bench/trajopt_robust.py            # writes results/trajopt-robust.json; the status is 1 for a miss

Starts are random states and random controls, some of them wild, on every classic system with its limits and on random
networks as a learned model would be.  A failure is an exception, a NaN, a control outside its limits, a cost that the
controls do not have, or a status that is not true: CONVERGED is checked by the gradient of an independent rollout, by
reverse-mode differentiation, but for what rounding of the controls does to that.  Beside it the box solver's KKT
residual on random programs, and linear problems with limits against a quadratic program solved by SciPy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from runner import RESULTS, commit, machine
from scipy.optimize import minimize

import forethought
from forethought.math.box_qp import box_qp
from forethought.worlds import classic

HORIZON, TOLERANCE = 40, 1e-6
SYSTEMS: dict[str, tuple[Callable[[Any, Any], Any], int, int, float]] = {
    "pendulum": (classic.Pendulum(), 3, 1, 2.0),
    "double-integrator": (classic.DoubleIntegrator(), 2, 1, 1.0),
    "quadrotor": (classic.Quadrotor(), 6, 2, 5.0),
    "acrobot": (classic.Acrobot(), 4, 1, 1.0),
    "cartpole-balance": (classic.CartPole(), 4, 1, 10.0),
    "cartpole-swingup": (classic.CartPoleSwingUp(), 4, 1, 10.0),
}
"""Dynamics, n, m, and the limit of each control."""


def network(key: Any, n: int, m: int) -> Callable[[Any, Any], Any]:
    """x + a small random network of [x, u], as of a model that has learned little."""
    k1, k2 = jr.split(key)
    first = 2.0 * jr.normal(k1, (n + m, 32), jnp.float64) / np.sqrt(n + m)
    second = 0.5 * jr.normal(k2, (32, n), jnp.float64) / np.sqrt(32)
    return lambda x, u: x + jnp.tanh(jnp.concatenate([x, u]) @ first) @ second


def starts(count: int, n: int, m: int, limit: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States and controls, of sizes from tame to wild."""
    random = np.random.default_rng(seed)
    wild = 10.0 ** random.uniform(-2.0, 1.0, (count, 1))
    us = random.uniform(-limit, limit, (count, HORIZON, m)) * random.choice([0.0, 0.3, 1.0], (count, 1, 1))
    return wild * random.standard_normal((count, n)), us


def study(name: str, dynamics: Callable[[Any, Any], Any], sizes: tuple[int, int, float], count: int) -> dict[str, Any]:
    """All starts of one system: how they ended, and what was wrong with that."""
    n, m, limit = sizes
    step = lambda x, u, t: dynamics(x, u)
    stage = lambda x, u, t: jnp.sum(1.0 - jnp.exp(-(x**2))) + 0.01 * jnp.sum(u**2) + 0.05 * jnp.sum(x**2)
    terminal = lambda x: jnp.sum(x**2)
    solve = lambda x0, us: forethought.ilqr(step, stage, terminal, x0, us, -limit, limit, tolerance=TOLERANCE)

    def cost(us: Any, x0: Any) -> Any:
        advance = lambda x, u: (step(x, u, 0), stage(x, u, 0))
        last, costs = jax.lax.scan(advance, x0, us)
        return jnp.sum(costs) + terminal(last)

    def judge(x0: Any, us: Any) -> Any:
        value, slope = jax.value_and_grad(cost)(us, x0)
        own = 0.02 * us  # d stage / du
        size = jnp.max(jnp.abs(own) + jnp.abs(slope - own), axis=0)
        free = jnp.where(us <= -limit, jnp.minimum(slope, 0.0), slope)
        free = jnp.where(us >= limit, jnp.maximum(free, 0.0), free)
        return value, jnp.max(jnp.abs(free) / jnp.where(size > 0.0, size, 1.0))

    x0, us = starts(count, n, m, limit, seed=len(name))
    began = time.perf_counter()
    found = jax.block_until_ready(jax.jit(jax.vmap(solve))(x0, us))
    seconds = time.perf_counter() - began
    judges = jax.jit(jax.vmap(judge))
    value, relative = judges(jnp.asarray(x0), found.us)
    # What rounding alone does to the gradient: random networks are chaotic.
    rounded = [1.0 + 4e-16 * np.random.default_rng(k).choice([-1, 0, 1], found.us.shape) for k in range(8)]
    others = [judges(jnp.asarray(x0), jnp.clip(found.us * each, -limit, limit))[1] for each in rounded]
    uncertain = np.max([np.abs(np.asarray(other - relative)) for other in others], axis=0)
    status = np.asarray(found.status)
    known = status != forethought.ILQRStatus.NOT_FINITE
    arrays = (found.xs, found.us, found.K)
    wrong = {
        "not finite": int(sum(np.sum(~np.isfinite(a).all(axis=tuple(range(1, a.ndim)))) for a in arrays)),
        "outside limits": int(np.sum(np.abs(found.us).max(axis=(1, 2)) > limit)),
        "other cost": int(np.sum(known & ~(np.abs(found.cost - value) <= 1e-9 * np.abs(value)))),
        "not converged": int(np.sum((status == 0) & ~(np.asarray(relative) - uncertain <= TOLERANCE))),
        "unfounded NOT_FINITE": int(np.sum(~known & np.isfinite(np.asarray(value)) & np.isfinite(relative))),
    }
    counts = {each.name: int(np.sum(status == each)) for each in forethought.ILQRStatus if np.any(status == each)}
    print(f"{name}: {count} starts, {counts}, wrong {wrong}, {seconds:.1f} s", flush=True)
    return {"starts": count, "statuses": counts, "wrong": wrong, "seconds": seconds}


def boxes(count: int) -> float:
    """The largest KKT residual, relative to the gradient's parts, over random convex programs of 1 to 6 variables."""
    worst = 0.0
    for m in range(1, 7):
        random = np.random.default_rng(m)
        root = random.standard_normal((count, m, m)) * 10.0 ** random.uniform(-2, 2, (count, 1, 1))
        H = root @ np.swapaxes(root, 1, 2) + 1e-3 * np.mean(root**2, axis=(1, 2), keepdims=True) * np.eye(m)
        g = random.standard_normal((count, m)) * 10.0 ** random.uniform(-2, 2, (count, 1))
        ends = np.sort(random.standard_normal((2, count, m)), axis=0)
        one = lambda H, g, low, high: box_qp(H, g, (low, high), jnp.zeros_like(g), 1e-14)
        x = np.asarray(jax.jit(jax.vmap(one))(H, g, ends[0], ends[1]).x)
        slope = g + np.einsum("bij,bj->bi", H, x)
        left = np.abs(x - np.clip(x - slope, ends[0], ends[1]))
        size = np.abs(g) + np.einsum("bij,bj->bi", np.abs(H), np.abs(x))
        worst = max(worst, float(np.max(np.minimum(left, np.abs(slope)) / size)))
    return worst


def programs(count: int) -> float:
    """The largest difference between controls of linear problems with limits and those of a quadratic program."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from lqr_cases import case, condensed

    worst = 0.0
    solve = jax.jit(lambda F, f, C, c, C_T, c_T, x0: _linear(F, f, C, c, C_T, c_T, x0))
    for seed in range(count):
        p = case(3, 2, 12, seed=seed)
        x0 = np.random.default_rng(seed).standard_normal(3)
        hessian, gradient = condensed(p, x0)
        objective = lambda u, H=hessian, g=gradient: (0.5 * u @ H @ u + g @ u, H @ u + g)
        options = {"ftol": 1e-16, "gtol": 1e-13, "maxiter": 20000, "maxfun": 100000}
        size = len(gradient)
        best = minimize(
            objective, np.zeros(size), jac=True, bounds=[(-0.5, 0.5)] * size, method="L-BFGS-B", options=options
        )
        exact = _active(hessian, gradient, best.x)
        worst = max(worst, float(np.max(np.abs(np.asarray(solve(*p, x0)).ravel() - exact))))
    return worst


def _active(H: np.ndarray, g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The minimiser with the limits that an approximate one is at, solved exactly."""
    free = np.abs(x) < 0.5 - 1e-9
    held = np.where(x > 0.0, 0.5, -0.5)
    exact = np.where(free, 0.0, held)
    exact[free] = np.linalg.solve(H[np.ix_(free, free)], -(g + H @ exact)[free])
    return exact


def _linear(F: Any, f: Any, C: Any, c: Any, C_T: Any, c_T: Any, x0: Any) -> Any:
    step = jax.tree_util.Partial(lambda F, f, x, u, t: F[t] @ jnp.concatenate([x, u]) + f[t], F, f)
    form = lambda C, c, x, u, t: (
        0.5 * jnp.concatenate([x, u]) @ C[t] @ jnp.concatenate([x, u]) + c[t] @ jnp.concatenate([x, u])
    )
    last = lambda C, c, x: 0.5 * x @ C @ x + c @ x
    partial = jax.tree_util.Partial
    us = jnp.zeros((F.shape[0], F.shape[2] - F.shape[1]))
    return forethought.ilqr(
        step, partial(form, C, c), partial(last, C_T, c_T), x0, us, -0.5, 0.5, tolerance=1e-10, cost_tolerance=0.0
    ).us


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "trajopt-robust.json")
    parser.add_argument("--starts", type=int, default=125, help="of each system and each network")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = {name: study(name, system, tuple(sizes), arguments.starts) for name, (system, *sizes) in SYSTEMS.items()}
    for seed in range(2):
        name = f"network-{seed}"
        found[name] = study(name, network(jr.key(seed), 4, 2), (4, 2, 1.0), arguments.starts)
    kkt, off = boxes(500), programs(40)
    wrong = sum(sum(row["wrong"].values()) for row in found.values())
    met = wrong == 0 and kkt <= 1e-8 and off <= 1e-6
    print(
        f"{sum(row['starts'] for row in found.values())} starts, {wrong} wrong; box solver's KKT residual {kkt:.1e}; "
        f"linear problems with limits: largest difference {off:.1e}"
    )
    result = {
        "settings": {"horizon": HORIZON, "tolerance": TOLERANCE, "starts": arguments.starts},
        "systems": found,
        "wrong": wrong,
        "kkt": kkt,
        "difference": off,
        "met": met,
        "commit": commit(),
        "machine": machine(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
