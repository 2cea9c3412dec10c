"""The peers' side of `trajopt.py`: diffilqrax, casadi with IPOPT, and crocoddyl, each in a process of its own.

    PYTHON bench/trajopt_peers.py diffilqrax --inline      # PYTHON has the peer; it needs numpy besides, but not us

Each line on standard input is a request in JSON, {"problem": "pendulum", "do": "solve"}; each line on standard output
answers with the wall and processor seconds of one warm solve, its iterations, and the cost of its controls in NumPy.
The first answer about a problem also has `first_seconds`: building, compiling and the first solve, not counted
elsewhere.  What a peer cannot do or is not made for is answered by {"refused": "why"}.  The first line says which
versions answer; version null, and the end, where the peer is not there.

Settings are each peer's fastest that reach the known cost to 1e-4; where one misses that, its status says so.
`--inline` lets XLA compile small loops whole; `--jit` has casadi compile its functions by the C compiler.
"""

from __future__ import annotations

from pinned import THREADS  # isort: split

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from trajopt_problems import DT, PROBLEMS, Problem, cost_of, states_of, step

INLINE = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
CLOSE = 1e-4
"""By how much, relatively, a cost may exceed the known one."""
DIFFILQRAX = {"pendulum": (1.0, 1e-2), "cartpole": (2.0, 1e-3), "quadrotor": (2.0, 1e-1), "mlp": (2.0, 1e-1)}
"""Its `alpha_init`, of which it tries half first, and the loosest `kkt_tol` that reaches the known cost."""
IPOPT = {"print_level": 0, "sb": "yes", "tol": 1e-8, "max_iter": 1000}


class Refused(Exception):
    """The peer is not asked to do this."""


@dataclass(frozen=True)
class Found:
    """Controls [T m], how many iterations they took, how it ended, and what else the peer can tell."""

    us: Any
    iterations: int
    status: str
    more: dict[str, float]


@dataclass(frozen=True)
class Solver:
    """What is timed, and what reads its result afterwards."""

    run: Callable[[], Any]
    read: Callable[[Any], Found]


def diffilqrax_lqr(problem: Problem) -> Solver:
    """Its backward and forward pass; the adjoints, which nobody asks for, are left to the compiler to leave out."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    from diffilqrax.lqr import solve_lqr  # pyright: ignore[reportMissingImports]
    from diffilqrax.typs import LQR, LQRParams  # pyright: ignore[reportMissingImports]

    n, m, horizon = problem.n, problem.m, problem.horizon
    always = lambda value: jnp.asarray(np.tile(value, (horizon, *[1] * value.ndim)))
    a, b = problem.arrays
    lqr = LQR(
        A=always(a),
        B=always(b),
        a=always(np.zeros(n)),
        Q=always(problem.q),
        q=always(np.zeros(n)),
        R=always(problem.r),
        r=always(np.zeros(m)),
        S=always(np.zeros((n, m))),
        Qf=jnp.asarray(problem.qf),
        qf=jnp.zeros(n),
    )
    arguments = LQRParams(jnp.asarray(problem.x0), lqr)
    solve = jax.jit(lambda params: solve_lqr(params)[1])
    return Solver(lambda: jax.block_until_ready(solve(arguments)), lambda us: Found(us, 1, "one pass", {}))


def diffilqrax(problem: Problem, jit: bool) -> Solver:
    """Its sequential iLQR in one compiled call, with the derivatives of the cost written out."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    from diffilqrax.ilqr import ilqr_solver  # pyright: ignore[reportMissingImports]
    from diffilqrax.typs import ModelDims, System, iLQRParams  # pyright: ignore[reportMissingImports]

    if problem.name == "lqr":
        return diffilqrax_lqr(problem)
    q, r, qf, goal = (jnp.asarray(v) for v in (problem.q, problem.r, problem.qf, problem.goal))
    cross = jnp.zeros((problem.n, problem.m))
    system = System(
        cost=lambda t, x, u, theta: 0.5 * (x - goal) @ q @ (x - goal) + 0.5 * u @ r @ u,
        costf=lambda x, theta: 0.5 * (x - goal) @ qf @ (x - goal),
        dynamics=lambda t, x, u, theta: step(problem, jnp, x, u, theta),
        dims=ModelDims(problem.n, problem.m, problem.horizon, DT),
        lin_cost=lambda t, x, u, theta: (q @ (x - goal), r @ u),
        quad_cost=lambda t, x, u, theta: ((q, cross), (cross.T, r)),
    )
    alpha, tolerance = DIFFILQRAX[problem.name]
    most = 1000

    @jax.jit
    def solve(x0: Any, us: Any, theta: Any) -> tuple[Any, Any]:
        settings = {"max_iter": most, "alpha_init": alpha, "kkt_tol": tolerance}
        paths, _, _, _, count = ilqr_solver(system, iLQRParams(x0, theta), us, return_info=True, **settings)
        return paths[1], count

    arguments = jax.tree.map(jnp.asarray, (problem.x0, problem.u0, problem.arrays))

    def read(result: tuple[Any, Any]) -> Found:
        count = int(result[1])
        return Found(result[0], count, f"kkt_tol {tolerance}" if count < most else "most iterations", {})

    return Solver(lambda: jax.block_until_ready(solve(*arguments)), read)


def casadi_stage(problem: Problem) -> tuple[Any, Any]:
    """Functions of (x, u) for the next state and the cost of a step, and of x for the cost of the end."""
    import casadi  # pyright: ignore[reportMissingImports]

    kind = casadi.MX if problem.name == "mlp" else casadi.SX  # a network is not for scalars
    x, u = kind.sym("x", problem.n), kind.sym("u", problem.m)
    matrices = [casadi.DM(v) for v in problem.arrays]
    if problem.motion is not None:
        ahead = casadi.vertcat(*problem.motion(casadi, casadi.vertsplit(x), casadi.vertsplit(u)))
    elif problem.name == "lqr":
        ahead = matrices[0] @ x + matrices[1] @ u
    else:
        swish = lambda z: z / (1.0 + casadi.exp(-z))
        w1, b1, w2, b2, w3, b3 = matrices
        ahead = x + w3.T @ swish(w2.T @ swish(w1.T @ casadi.vertcat(x, u) + b1) + b2) + b3
    square = lambda error, weight: 0.5 * casadi.dot(error, casadi.DM(weight) @ error)
    error = x - casadi.DM(problem.goal)
    stage = casadi.Function("stage", [x, u], [ahead, square(error, problem.q) + square(u, problem.r)])
    return stage, casadi.Function("last", [x], [square(error, problem.qf)])


def casadi_options(problem: Problem, jit: bool) -> dict[str, Any]:
    """Expanded into scalars, or compiled."""
    if jit:
        compiled = {"flags": ["-O3", "-march=native"], "verbose": False}
        how = {"jit": True, "compiler": "shell", "jit_options": compiled}
    else:
        how = {"expand": problem.name != "mlp"}
    return {"print_time": False, "ipopt": IPOPT} | how


def casadi(problem: Problem, jit: bool) -> Solver:
    """Multiple shooting with exact Hessians, from the states that the first controls lead through."""
    import casadi as ca  # pyright: ignore[reportMissingImports]

    if jit and problem.motion is None:
        raise Refused("the C compiler would take minutes over it, and gain nothing")
    stage, last = casadi_stage(problem)
    n, m, horizon = problem.n, problem.m, problem.horizon
    table = ca.MX.sym("table", m + n, horizon)  # column t is u_t and x_{t+1}, so that the matrices are banded
    us, xs = table[:m, :], ca.horzcat(ca.DM(problem.x0), table[m:, :])
    ahead, costs = stage.map(horizon, "serial")(xs[:, :horizon], us)
    program = {
        "x": ca.vec(table),
        "f": ca.sum2(costs) + last(xs[:, horizon]),
        "g": ca.vec(ahead - xs[:, 1:]),
    }
    solver = ca.nlpsol("solver", "ipopt", program, casadi_options(problem, jit))
    start = ca.DM(np.concatenate([problem.u0, states_of(problem, problem.u0)[1:]], axis=1).ravel())

    def read(result: dict[str, Any]) -> Found:
        statistics = solver.stats()
        path = np.asarray(result["x"]).reshape(horizon, m + n)
        more = {key: statistics[f"t_wall_nlp_{key}"] for key in ("f", "g", "grad_f", "jac_g", "hess_l")}
        inside = {"functions_seconds": float(sum(more.values()))}
        return Found(path[:, :m], int(statistics["iter_count"]), str(statistics["return_status"]), inside)

    return Solver(lambda: solver(x0=start, lbg=0.0, ubg=0.0), read)


def crocoddyl(problem: Problem, jit: bool) -> Solver:
    """One backward and one forward pass of its DDP, given the states of the first controls; no second pass to check."""
    import crocoddyl  # pyright: ignore[reportMissingImports]

    if problem.name != "lqr":
        raise Refused("in crocoddyl the equations of motion would have to be written in C++, or run in Python")
    n, m = problem.n, problem.m
    a, b = (v.copy() for v in problem.arrays)
    zeros = (np.zeros((n, m)), np.zeros(n), np.zeros(n), np.zeros(m))
    running = crocoddyl.ActionModelLQR(a, b, problem.q, problem.r, *zeros)
    ending = crocoddyl.ActionModelLQR(a, b, problem.qf, problem.r, *zeros)
    shooting = crocoddyl.ShootingProblem(problem.x0, [running] * problem.horizon, ending)
    shooting.nthreads = 1
    solver = crocoddyl.SolverDDP(shooting)
    xs = shooting.rollout(list(problem.u0))
    us = type(xs)()
    us.extend(list(problem.u0))

    def read(result: Any) -> Found:
        found = np.array(solver.us)
        began = time.perf_counter()
        solver.backwardPass()
        return Found(found, 1, "one pass", {"backward_seconds": time.perf_counter() - began})

    return Solver(lambda: solver.solve(xs, us, 1, True, 0.0), read)


PEERS: dict[str, Callable[[Problem, bool], Solver]] = {
    "diffilqrax": diffilqrax,
    "casadi": casadi,
    "crocoddyl": crocoddyl,
}


def answer(request: dict[str, Any], make: Callable[[Problem], Solver], kept: dict[str, Solver]) -> dict[str, Any]:
    """Do what one line asks for."""
    problem, first = PROBLEMS[request["problem"]], {}
    if request["do"] != "solve":
        return {"refused": f"{request['do']} is not known"}
    if problem.name not in kept:
        began = time.perf_counter()
        try:
            solver = make(problem)
        except Refused as why:
            return {"refused": str(why)}
        solver.run()
        first = {"first_seconds": time.perf_counter() - began}
        kept[problem.name] = solver
    solver = kept[problem.name]
    began, worked = time.perf_counter(), time.process_time()
    result = solver.run()
    took = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked}
    found = solver.read(result)
    cost = cost_of(problem, found.us)
    beyond = cost / problem.optimum - 1.0
    status = found.status if beyond <= CLOSE else f"{found.status}, but the cost is {beyond:.1e} above the known one"
    return took | {"iterations": found.iterations, "cost": cost, "status": status} | found.more | first


def version(package: str) -> str | None:
    """Which version is installed, if one is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--inline", action="store_true", help="XLA compiles small loops whole")
    parser.add_argument("--jit", action="store_true", help="casadi compiles by the C compiler")
    arguments = parser.parse_args()
    about: dict[str, Any] = {"name": arguments.name, "version": version(arguments.name)}
    if about["version"] is None:
        print(json.dumps(about), flush=True)
        return 0
    if arguments.jit and shutil.which("gcc") is None:
        parser.error("--jit needs gcc")
    if arguments.inline:
        os.environ["XLA_FLAGS"] = f"{THREADS['XLA_FLAGS']} {INLINE}"
    print(json.dumps(about | {"jax": version("jax"), "flags": os.environ["XLA_FLAGS"]}), flush=True)
    kept: dict[str, Solver] = {}
    make = lambda problem: PEERS[arguments.name](problem, arguments.jit)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the C compiler leaves files
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line), make, kept)), flush=True)
        kept.clear()  # it removes them itself, but for the few that it forgets
    return 0


if __name__ == "__main__":
    sys.exit(main())
