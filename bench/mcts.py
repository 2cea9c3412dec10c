"""Tree search: what the wrapper costs beside mctx's own policies, and what it picks on small stochastic trees.

    python bench/mcts.py            # both, into results/mcts.json
    python bench/mcts.py --quick    # a smoke test, printed only

The learning runs are studies of `runner.py`: mcts-cartpole, mcts-acrobot, mcts-mountain-car, mcts-pendulum.

Speed: a table of 64 states and 4 actions, whose dynamics, cost and leaf value (no rollouts) cost next to nothing, is
searched by `MCTS.plan` and by mctx's policy called directly with the same recurrent function.  Rounds alternate, and
the median ratio of simulations per second over rounds is the figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

jax.config.update("jax_enable_x64", True)
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from runner import commit, machine  # noqa: E402

from forethought.core import Problem  # noqa: E402
from forethought.math.rollout import Imagination, beliefs  # noqa: E402
from forethought.planners.mcts import MCTS, expand  # noqa: E402
from forethought.planners.tree import World, need_mctx, root  # noqa: E402
from planners.test_mcts import DICE, flat, q_values, solve, stacked, table_problem, tree_problem  # noqa: E402

SIMULATIONS = (32, 128)


def table() -> Problem:
    """64 states, 4 actions, random ends and rewards."""
    rng = np.random.default_rng(0)
    return table_problem(rng.integers(64, size=(64, 4)), rng.normal(size=(64, 4)), horizon=20)


@eqx.filter_jit
def ours(planner: MCTS, problem: Problem, key: Any) -> Any:
    """The whole planner: pool, tree, choice of a plan."""
    plan, _ = planner.plan(problem, planner.init(problem), key)
    return plan.policy.us[0], plan.cost


@eqx.filter_jit
def theirs(planner: MCTS, problem: Problem, key: Any, pool: jax.Array) -> Any:
    """mctx's policy, with the same recurrent function and nothing around it.

    `pool` is what its rollouts choose from, as in `ours`: an argument, as the compiler would drop the plans of nodes
    that can only be zeros.
    """
    mctx = need_mctx()
    how, dynamics = beliefs(planner.imagination, problem, key)
    world = World(problem, how, dynamics, pool, planner._shape(problem, how))
    first = root(world, key)
    value, node = -first.value[None], jax.tree.map(lambda leaf: leaf[None], first)
    start = mctx.RootFnOutput(prior_logits=jnp.zeros((1, problem.actions.d), jnp.float32), value=value, embedding=node)
    # The same horizon: beyond it a tree would only be deeper, not wiser.
    same: Any = {"num_simulations": planner.simulations, "max_depth": problem.horizon}
    if planner.search == "puct":
        noise = {"dirichlet_fraction": 0.0, "pb_c_init": planner.exploration}
        found = mctx.muzero_policy(world, key, start, expand, **same, **noise)
    else:
        found = mctx.gumbel_muzero_policy(world, key, start, expand, **same)
    return found.action, found.action_weights


def speed(rounds: int, plans: int) -> list[dict[str, Any]]:
    """Simulations per second of both, in turns."""
    rows, problem = [], table()
    for search, simulations in itertools.product(("puct", "gumbel"), SIMULATIONS):
        how = Imagination(propagation="mean")
        planner = MCTS(how, search, simulations=simulations, rollouts=1, rollout_steps=0, sequences=2)
        taken: dict[str, list[float]] = {"ours": [], "mctx": []}
        pool = jr.normal(jr.key(1), (planner.sequences, problem.horizon, problem.actions.d), jnp.float32)
        sides: dict[str, Any] = {"ours": ours, "mctx": lambda p, q, k, pool=pool: theirs(p, q, k, pool)}
        for call in sides.values():
            jax.block_until_ready(call(planner, problem, jr.key(0)))
        for number in range(rounds):
            for name, call in sides.items():
                began = time.perf_counter()
                for k in jr.split(jr.key(number), plans):
                    jax.block_until_ready(call(planner, problem, k))
                taken[name].append(simulations * plans / (time.perf_counter() - began))
        medians = {name: float(np.median(each)) for name, each in taken.items()}
        ratio = float(np.median(np.asarray(taken["ours"]) / np.asarray(taken["mctx"])))
        rows.append({"search": search, "simulations": simulations, "per_second": medians, "ratio": ratio})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def calls(planner: MCTS, horizon: int) -> int:
    """At most so many model calls: one per node, and its rollout to the end."""
    return horizon + planner.simulations * horizon


def choices(count: int) -> list[dict[str, Any]]:
    """How often the best action of a stochastic tree (2 actions, 2 ends each, depth 3) is picked."""
    rng, rows = np.random.default_rng(2), []
    problems = [tree_problem(rng, 3, dice=True) for _ in range(count)]
    best, keys = np.stack([q_values(p) for p in problems]).argmax(1), jr.split(jr.key(0), count)
    for budget in (192, 600, 1800):
        sampler = eqx.filter_jit(eqx.filter_vmap(lambda p, k, n=budget: flat(p, n, k), in_axes=(eqx.if_array(0), 0)))
        row = {"calls": budget, "flat": int(np.sum(np.asarray(sampler(stacked(problems), keys)).argmax(1) == best))}
        for search in ("puct", "gumbel"):
            planner = MCTS(DICE, search, simulations=budget // 3 - 1, rollouts=1, beta=0.0)
            assert calls(planner, 3) <= budget
            plan, _ = solve(planner, stacked(problems), keys)
            row[search] = int(np.sum(np.asarray(plan.policy.us)[:, 0].argmax(1) == best))
        rows.append(row | {"trees": count})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("speed", "choices"))
    arguments = parser.parse_args()
    parts: dict[str, Any] = {}
    if arguments.only != "choices":
        parts["speed"] = speed(2, 10) if arguments.quick else speed(15, 100)
    if arguments.only != "speed":
        parts["choices"] = choices(20 if arguments.quick else 500)
    if not arguments.quick:
        where = HERE / "results" / "mcts.json"
        known = json.loads(where.read_text()) if where.exists() else {}
        stamp = {"commit": commit(), "machine": machine(), "settings": {"jax": jax.__version__}}
        where.write_text(json.dumps(known | parts | stamp, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
