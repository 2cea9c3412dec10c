"""How long a round of Gaussian process policy search takes, and what acting costs: v2.0 beside v1.5.

    taskset -c 0 python bench/policy_speed.py

One round at the settings of a published port of PILCO, which takes 85 to 110 s of one core for it: 200 rows, three
outputs, 30 radial basis functions, 40 steps, two restarts, 50 iterations of L-BFGS.  Every restart is timed; compiling
is told apart.  Then the median time of an action of v2.0's policy and of v1.5's plan on the same model.
Results: results/policy_speed.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402
from runner import RESULTS, commit, machine  # noqa: E402

from forethought.algorithms.beginnings import where_episodes_were  # noqa: E402
from forethought.algorithms.globally import V15, V20  # noqa: E402
from forethought.algorithms.improve import Improvement  # noqa: E402
from forethought.algorithms.improve_moments import belief_problem, improve_moments, value_and_slope  # noqa: E402
from forethought.core import AbstractPolicy  # noqa: E402
from forethought.math.act import act, start  # noqa: E402
from forethought.math.closed_loop import Stretch  # noqa: E402
from forethought.models.gp_learner import GPLearner  # noqa: E402
from forethought.policies.actor import ActorPolicy, init_actor, placed  # noqa: E402
from forethought.tasks import task  # noqa: E402

ROWS, FUNCTIONS, STEPS, RESTARTS, ITERATIONS = 200, 30, 40, 2, 50


def one_round() -> dict[str, object]:
    """Seconds and costs of each restart, and of the first call, which compiles."""
    target = task("pendulum", limit=50)
    algorithm = V20(GPLearner(), base_steps=ROWS)
    state = algorithm.init(target, jr.key(0))
    while int(state.data.count) < ROWS:
        state, _ = algorithm.step(target, state, 50)
    model = algorithm.learner.fit(state.fitted.inner, state.data, jr.key(1))[0].model
    _, states = where_episodes_were(state.data)
    stretch = Stretch(jnp.asarray(STEPS, jnp.int32), jnp.ones((), jnp.float32), jnp.ones((3,), jnp.float32))
    # One start, hanging, as the port has it.
    problem = belief_problem(model, target.cost, np.array([[-1.0, 0.0, 0.0]]), stretch)
    rows = []
    for seed in range(RESTARTS):
        actor = init_actor(target.spec, target.world.actions, "rbf", (FUNCTIONS, 0), jr.key(seed))
        actor = placed(actor, states, jr.key(10 + seed))
        flat = ravel_pytree(jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), actor.body))[0]
        if seed == 0:
            clock = time.perf_counter()
            jax.block_until_ready(value_and_slope(flat, actor, problem, STEPS))
            compiling = time.perf_counter() - clock
        clock = time.perf_counter()
        _, told = improve_moments(Improvement(actor, None, stretch.length), problem, STEPS, ITERATIONS)
        seconds = time.perf_counter() - clock
        rows.append({"seconds": seconds} | {k: told[f"improve_{k}"] for k in ("began", "cost", "evaluations")})
        print(f"restart {seed}: {seconds:.1f} s, cost {rows[-1]['began']:.2f} -> {rows[-1]['cost']:.2f}", flush=True)
    total = sum(row["seconds"] for row in rows)
    print(f"one round: {total:.1f} s (and {compiling:.1f} s of compiling)", flush=True)
    return {"rows": ROWS, "centres": int(model.size), "restarts": rows, "seconds": total, "compiling": compiling}


def milliseconds(policy: AbstractPolicy, x: np.ndarray, calls: int = 220) -> float:
    """The median over calls of one compiled action, after twenty."""
    carry = start(policy, x, jr.key(1))
    times = []
    for t in range(calls):
        clock = time.perf_counter()
        u, carry = act(policy, carry, x, np.asarray(t, np.int32))
        np.asarray(u)
        times.append(1e3 * (time.perf_counter() - clock))
    return statistics.median(times[20:])


def acting() -> dict[str, float]:
    """Median milliseconds of an action, compiled: of v2.0's policy, and of v1.5's plan."""
    target = task("Pendulum-v1")
    found = {}
    for name, algorithm in (("v2.0", V20(base_steps=50)), ("v1.5", V15())):
        state = algorithm.init(target, jr.key(0))
        state, _ = algorithm.step(target, state, 50)
        if isinstance(algorithm, V20):
            policy = ActorPolicy(state.fitted.actor, jnp.zeros((), jnp.float32))
        else:
            state, _ = algorithm.step(target, state, 0)
            policy = algorithm.policy(target, state)
        found[name] = milliseconds(policy, np.asarray(state.data.x)[0])
    print(f"an action: v2.0 {found['v2.0']:.3f} ms, v1.5 {found['v1.5']:.2f} ms", flush=True)
    return found | {"ratio": found["v1.5"] / found["v2.0"]}


def main() -> int:
    """Measure and write."""
    result = {"commit": commit(), "machine": machine(), "round": one_round(), "act_ms": acting()}
    (RESULTS / "policy_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
