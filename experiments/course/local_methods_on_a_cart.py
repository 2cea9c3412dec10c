# %% [markdown]
# # Local methods on a cart
#
# A cart with drag is to drive to the origin and stop there.  Nobody fits a model of the whole system: around what the
# controller does now a linear model is fitted at every step, the controller is improved in it, but only a little, and
# the next rollouts tell whether that was right (section 3 of the lecture).
#
# Run it cell by cell, or as a program: `python experiments/course/local_methods_on_a_cart.py` (about a minute on
# one core).  With FORETHOUGHT_COURSE=quick everything is tiny, and no number means anything.

# %%
from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from forethought import Experiment, KLStatus, LinearGaussian, Local, kl_lqr

QUICK = os.environ.get("FORETHOUGHT_COURSE") == "quick"
EPISODE = 10 if QUICK else 50
ITERATIONS = 2 if QUICK else 5
OUT = Path("runs") / f"cart-{time.strftime('%Y%m%d-%H%M%S')}"

# %% [markdown]
# ## One step, by itself
#
# A double integrator, a quadratic cost, and an old controller that does nothing but noise.  What is the best controller
# whose KL divergence from the old one is at most epsilon?

# %%
T, n, m = 20, 2, 1
F = np.tile([[1.0, 0.1, 0.005], [0.0, 1.0, 0.1]], (T, 1, 1))
C = np.tile(np.diag([1.0, 1.0, 0.1]), (T, 1, 1))
W = np.tile(1e-4 * np.eye(n), (T, 1, 1))
old = LinearGaussian(np.zeros((T, m, n)), np.zeros((T, m)), np.ones((T, m, m)))
print("epsilon  multiplier      cost  KL in all  first gain         variance of the first action")
for epsilon in (0.2, 2.0, 20.0, 200.0):
    found = kl_lqr(
        F,
        np.zeros((T, n)),
        W,
        C,
        np.zeros((T, n + m)),
        10 * np.eye(n),
        np.zeros(n),
        m0=[1.0, 0.0],
        P0=0.01 * np.eye(n),
        old_policy=old,
        epsilon=epsilon,
    )
    assert found.status == KLStatus.SOLVED
    gain = np.round(np.asarray(found.policy.K[0, 0]), 2)
    print(
        f"{epsilon:7}  {float(found.lam):10.4g}  {float(found.cost):8.3f}  {np.asarray(found.kl).sum():9.3f}  "
        f"{gain!s:16}  {float(found.policy.cov[0, 0, 0]):.4f}"
    )

# Question 1: The multiplier falls as the bound grows.  What is it in the limits of no bound, and of a bound of 0?
# Question 2: What happens to the noise as the bound grows?  Which term of the cost would keep it alive?
# Question 3: The lecture climbs the dual with a fixed step, lambda <- lambda + alpha (KL - epsilon).  Take alpha = 0.1
# and start at 1: about how many steps would the first row take?


# %% [markdown]
# ## The loop
#
# Run the controller five times, fit, improve, repeat: one initial condition, so that there is one controller.


# %%
def learn(name: str, algorithm: Local, iterations: int = ITERATIONS) -> list[dict[str, Any]]:
    """Train, and print a line for every improvement; returns what was written down about them."""
    began = time.perf_counter()
    steps = (iterations + 1) * algorithm.rollouts * len(algorithm.conditions) * EPISODE
    result = Experiment("drag-cart", algorithm, steps=steps, seed=0, limit=EPISODE, out=OUT / name).run()
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "local_cost" in line]
    print(f"\n{name} ({time.perf_counter() - began:.0f} s)")
    print("     cost      KL   bound  multiplier  predicted   actual  status")
    for line in found:
        row = [line[f"local_{key}"][0] for key in ("cost", "kl", "epsilon", "multiplier", "predicted", "actual")]
        said = ["    -   " if value is None else f"{value:8.3g}" for value in row]
        print(" ".join(said), "", line["local_status"][0])
    size = algorithm.rollouts * len(algorithm.conditions)
    returns = np.array(result.episodes[: len(result.episodes) // size * size]).reshape(-1, size)
    print("mean cost of the rollouts of each iteration:", np.round(-returns.mean(axis=1), 1))
    return found


base = Local(conditions=(0,), rollouts=3 if QUICK else 5)
learn("bayesian, bound 0.5", base)

# Question 4: Predicted is what the step was to gain in its own linear model, actual is what it did gain.  In which
# iteration does the linear model promise too much?  What does the bound do next?
# Question 5: The cost is not quadratic, and drag is not linear.  Why does the method get to the origin all the same?

# %% [markdown]
# ## How to fit: regression, or with a prior
#
# A state of four numbers and two forces: regression at one step has six slopes and an offset to find.  With five
# rollouts that is too little; the Bayesian fit takes what is missing from a mixture that was fitted to all steps.

# %%
learn("regression, few rollouts", dataclasses.replace(base, fit="regression"))
learn("regression, 10 rollouts", dataclasses.replace(base, fit="regression", rollouts=3 if QUICK else 10))

# Question 6: How many rollouts does regression need at least for n = 4, m = 2?  (docs/algorithms/local-linear.md)
# Question 7: At equal *rollouts*, not equal iterations: is the prior worth it here?  Where would it not be?

# %% [markdown]
# ## What is executed: a plan, feedback, or feedback and noise
#
# The lecture's three versions of the controller: 0.5, 1.0 and 2.0.  The first rollouts are noise in all of them.

# %%
for controller in ("open-loop", "feedback", "gaussian"):
    learn(controller, dataclasses.replace(base, controller=controller), 2)

# Question 8: All three do well once, and two of them get worse after that.  From which rollouts is the second fit made,
# and what can be told apart in them?  (The notes say that version 1.0 is "too good"; docs/errata.md, number 22.)
# Question 9: Compare predicted and actual of the second step.  Whose linear model was wrong, and in which direction?

# %% [markdown]
# ## How far: the bound
#
# Without a bound the step goes to the optimum of the linear model, wherever that is.

# %%
learn("bound 0.05", dataclasses.replace(base, kl=0.05))
learn("no bound", dataclasses.replace(base, bound="none"))

# Question 10: Without a bound the first step gains most.  What do the next ones gain?  Why so little, though the
# bounded run shows that less than half of that cost can be had?
# Question 11: On the peg in a slot no seed gets in without the bound (docs/figures.md, "PegInsertion-v0").  What is
# different there?
# Question 12: The KL counts nats of the *trajectory*.  Twice as many steps per second: what happens to the bound of a
# step?
