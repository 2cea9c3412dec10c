# %% [markdown]
# # The ladder on Pendulum
#
# The lecture climbs four rungs: v0.5 fits a model once and executes one plan, v1.0 learns from what it executes, v1.5
# plans again at every step, v2.0 improves a policy in the model.  Here they learn the same pendulum from about the same
# number of steps, and you look at what each rung adds.
#
# Run it cell by cell, or as a program: `python experiments/course/ladder_on_pendulum.py` (two to three minutes on one
# core).  With FORETHOUGHT_COURSE=quick everything is tiny, and no number means anything.

# %%
from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import jax.random as jr

from forethought import ICEM, V05, V10, V15, V20, EnsembleLearner, Experiment, GPLearner, Improve, evaluate, load, task

QUICK = os.environ.get("FORETHOUGHT_COURSE") == "quick"
TASK = "Pendulum-v1"
EPISODE = 10 if QUICK else 200
STEPS = 40 if QUICK else 400
STARTS = task(TASK).starts[:2] if QUICK else task(TASK).starts[:5]
TINY: dict[str, Any] = {"planner": ICEM(samples=8, elites=4, iterations=1)} if QUICK else {}
MPC: dict[str, Any] = {"base_steps": 10, "refit_every": 10, "horizon": 3, **TINY} if QUICK else {"base_steps": 50}
OUT = Path("runs") / f"ladder-{time.strftime('%Y%m%d-%H%M%S')}"
results: dict[str, float] = {}


def learn(name: str, algorithm: Any, steps: int) -> Path:
    """Train, then judge the controller from fixed starts, without exploration.  Returns the run's folder."""
    began = time.perf_counter()
    result = Experiment(TASK, algorithm, steps=steps, seed=0, limit=EPISODE, out=OUT / name).run()
    held = load(result.run)
    found = evaluate(held.task, held.policy, jr.key(0), STARTS)
    results[name] = found.mean_return
    seconds = time.perf_counter() - began
    print(f"{name}: {result.env_steps} steps, returns while learning {[round(r) for r in result.episodes]}")
    print(f"{name}: mean return {found.mean_return:.0f} of {len(STARTS)} starts (solved: -200), {seconds:.0f} s in all")
    return result.run


def turns(run: Path) -> list[dict[str, Any]]:
    """What the run wrote down, one dictionary per turn of the loop; docs/diagnose.md says what the names mean."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# %% [markdown]
# ## Before anything is learned
#
# The pendulum's return is minus a cost: the squared angle from upright, and a little for speed and torque.

# %%
env = gymnasium.make(TASK, max_episode_steps=EPISODE)
random_returns = []
for start in STARTS:
    env.reset(seed=start)
    env.action_space.seed(start)
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total, over = total + float(reward), terminated or truncated
    random_returns.append(total)
results["random actions"] = statistics.mean(random_returns)
print(f"random actions: mean return {results['random actions']:.0f}")

# Question 1: A return of -200 over 200 steps is one per step.  Which state costs about one per step?
# Question 2: The motor is too weak to lift the pole at once.  How far ahead must a plan see to swing it up?

# %% [markdown]
# ## v0.5: fit once, execute one plan
#
# Random actions first, then one fit, then one plan for a whole episode, executed blindly.

# %%
run = learn("v0.5", V05(base_steps=STEPS, **TINY), STEPS + EPISODE)
planned = [turn for turn in turns(run) if turn.get("planned")]
for turn in planned[:1]:
    print(f"the plan promised a cost of {turn['plan_cost']:.0f}; the episode cost {-turn['return']:.0f}")
    print(f"error of the model one step ahead {turn['model_error_1']:.1g}, in units of the states' spread")

# Question 3: The model is good one step ahead.  Why does the plan still not do what it promised?
# Question 4: Which states has the model never seen, and does the plan go there?  (The base policy is random.)

# %% [markdown]
# ## v1.0: learn from what was executed
#
# As before, but each executed plan is appended to the data, and the model is fitted again: three times, so that it
# gets twice the steps of the others.

# %%
run = learn("v1.0", V10(base_steps=STEPS // 2, **TINY), 2 * STEPS)
for turn in turns(run):
    if turn.get("planned") and "return" in turn:
        promised, got = turn["plan_cost"], -turn["return"]
        print(f"promised {promised:.0f}, got {got:.0f}, error one step ahead {turn['model_error_1']:.1g}")

# Question 5: Does the gap between promise and outcome close from episode to episode?  Does the return get better?  If
# the model is right, and the outcome still bad, what is left to blame?
# Question 6: Even with the true equations a plan that is executed blindly does not hold the pole up
# (docs/figures.md, "open-loop plans on the true dynamics").  Why not?

# %% [markdown]
# ## v1.5: plan again at every step
#
# Only the first action of each plan is executed.  Mistakes are seen one step later, and the model learns meanwhile.

# %%
run = learn("v1.5", V15(**MPC), STEPS // 2)
gaps = [turn["exploitation_gap"] for turn in turns(run) if turn.get("exploitation_gap") is not None]
print("promised minus real return over each piece, from first to last:", [round(gap, 1) for gap in gaps])

# Question 7: Is the model of v1.5 better than that of v1.0?  If not, what is?
# Question 8: After how many steps is the gap gone?  What do the returns do at that moment?

# %% [markdown]
# ### The same loop on a worse model
#
# An ensemble of networks, instead of the Gaussian process that is the default for so few rows.

# %%
learner = EnsembleLearner(members=2, width=8, gradient_steps=10) if QUICK else EnsembleLearner()
learn("v1.5, ensemble", V15(learner=learner, **MPC), STEPS // 2)

# Question 9: Try 50, 100 and 200 base steps with either model.  Which of them needs more data, and for what?

# %% [markdown]
# ## v2.0: improve a policy in the model
#
# The gradient of the cost goes back through every step of the model into a policy.  That is slow.  Acting is not.

# %%
if QUICK:
    algorithm = V20(GPLearner(), base_steps=10, planner=None, improve=Improve(gradient_steps=1, horizon=3, particles=4))
else:
    algorithm = V20(GPLearner(), base_steps=100, improve=Improve(gradient_steps=60, horizon=40))
run = learn("v2.0", algorithm, STEPS // 2)
for turn in turns(run):
    if "improve_growth" in turn:
        print(f"adjoints grow {turn['improve_growth']:.3g} times, signal to noise {turn['improve_snr']:.2g}")


def milliseconds_to_act(run: Path) -> float:
    """The median time of one action."""
    policy, times = load(run), []
    observation, _ = env.reset(seed=0)
    policy.reset()
    for _ in range(EPISODE):
        began = time.perf_counter()
        action = policy.act(observation)
        times.append(time.perf_counter() - began)
        observation, *_ = env.step(action)
    return 1e3 * statistics.median(times)


for name in ("v1.5", "v2.0"):
    print(f"{name}: {milliseconds_to_act(OUT / name):.2f} ms to act")

# Question 10: What does the growth of the adjoints say about the horizon that you may take?
# Question 11: The lecture calls v2.0 "computationally cheap".  When is that true?

# %% [markdown]
# ## The ladder
#
# One seed and a few starts: enough to see the large steps, too little to tell apart what lies close together.

# %%
for name, value in results.items():
    print(f"{name:>16}  {value:8.0f}")

# Question 12: Which differences here would you trust?  Run seeds 1 to 4, and compute the interval of the mean
# (`forethought compare` does it for runs on disk).
