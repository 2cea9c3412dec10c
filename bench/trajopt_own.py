"""Our side of `trajopt.py`, in a process of its own that answers as those of the peers do (see `trajopt_peers.py`).

    python bench/trajopt_own.py --inline            # XLA compiles small loops whole
    python bench/trajopt_own.py --first pendulum    # seconds from nothing compiled to the first solution, then it ends

Besides {"problem": ..., "do": "solve"} it answers {"problem": "cartpole", "do": "batch", "count": 64}: wall seconds and
the sum of the iterations of all lanes.
"""

from __future__ import annotations

from pinned import THREADS  # isort: split

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from trajopt_peers import CLOSE, INLINE
from trajopt_problems import PROBLEMS, Problem, batch_x0, cost_of, step

COST_TOLERANCE = 1e-7
"""Loose enough to stop when the peers do; every final cost is checked against the known one."""


def solver(problem: Problem) -> Callable[..., Any]:
    """A compiled call of `forethought.ilqr`, or of `lqr` for the linear one, of the start and the first controls."""
    import jax
    import jax.numpy as jnp

    import forethought
    from forethought.math.linear_quadratic import LinearDynamics, linear_rollout

    if problem.name == "lqr":
        A, B = problem.arrays
        T, n, m = problem.horizon, problem.n, problem.m
        F = jnp.asarray(np.broadcast_to(np.hstack([A, B]), (T, n, n + m)))
        C = np.zeros((n + m, n + m))
        C[:n, :n], C[n:, n:] = problem.q, problem.r
        C, none = jnp.asarray(np.broadcast_to(C, (T, n + m, n + m))), jnp.zeros((T, n))
        end, last = jnp.asarray(problem.qf), jnp.zeros(n)

        @jax.jit
        def linear(x0: Any, us: Any, F: Any, C: Any) -> Any:
            found = forethought.lqr(F, none, C, jnp.zeros((T, n + m)), end, last)
            xs, controls = linear_rollout(LinearDynamics(F, none), found.K, found.k, x0)
            return {"xs": xs, "us": controls, "iterations": jnp.ones((), int), "status": found.status}

        return lambda x0, us: linear(x0, us, F, C)

    q, r, qf, goal = (jnp.asarray(v) for v in (problem.q, problem.r, problem.qf, problem.goal))
    form = lambda e, weight: 0.5 * jnp.sum(e * jnp.sum(weight * e, axis=1))
    motion = lambda arrays, x, u, t: step(problem, jnp, x, u, arrays)
    stage = lambda x, u, t: form(x - goal, q) + form(u, r)
    terminal = lambda x: form(x - goal, qf)

    @jax.jit
    def solve(x0: Any, us: Any, arrays: Any) -> Any:
        partial = jax.tree_util.Partial(motion, arrays)
        found = forethought.ilqr(partial, stage, terminal, x0, us, cost_tolerance=COST_TOLERANCE)
        return found._asdict()

    arrays = tuple(jnp.asarray(v) for v in problem.arrays)
    return lambda x0, us: solve(x0, us, arrays)


class Own:
    """What was compiled so far."""

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks for."""
        import jax
        import jax.numpy as jnp

        problem, count = PROBLEMS[request["problem"]], request.get("count")
        name = (problem.name, request["do"], count)
        x0, us = jnp.asarray(problem.x0), jnp.asarray(problem.u0)
        if request["do"] == "batch":
            x0 = jnp.asarray(batch_x0(count))
        first = {}
        if name not in self.kept:
            one = solver(problem)
            self.kept[name] = jax.jit(jax.vmap(one, in_axes=(0, None))) if request["do"] == "batch" else one
            began = time.perf_counter()
            jax.block_until_ready(self.kept[name](x0, us))
            first = {"first_seconds": time.perf_counter() - began}
        began, worked = time.perf_counter(), time.process_time()
        found = jax.block_until_ready(self.kept[name](x0, us))
        took = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked} | first
        if request["do"] == "batch":
            statuses = np.bincount(np.asarray(found["status"])).tolist()
            return took | {"iterations": int(np.sum(found["iterations"])), "statuses": statuses}
        cost = cost_of(problem, found["us"])
        beyond = cost / problem.optimum - 1.0
        status = "" if beyond <= CLOSE else f"the cost is {beyond:.1e} above the known one; "
        status += str(int(found["status"]))
        return took | {"iterations": int(found["iterations"]), "cost": cost, "status": status}


def main() -> int:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--first", choices=PROBLEMS)
    arguments = parser.parse_args()
    if arguments.inline:
        os.environ["XLA_FLAGS"] = f"{THREADS['XLA_FLAGS']} {INLINE}"
    import jax

    import forethought

    jax.config.update("jax_enable_x64", True)
    if arguments.first:
        jax.block_until_ready(jax.numpy.zeros(3) + 1.0)  # the device is started; what follows is ours
        if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        print(json.dumps(Own().answer({"problem": arguments.first, "do": "solve"})))
        return 0
    about = {"name": "forethought", "version": forethought.__version__, "jax": jax.__version__}
    print(json.dumps(about | {"flags": os.environ["XLA_FLAGS"]}), flush=True)
    own = Own()
    for line in sys.stdin:
        print(json.dumps(own.answer(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
