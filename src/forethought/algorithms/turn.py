"""The verbs that every loop is made of: learn from the data, execute a policy, append what happened."""

from __future__ import annotations

import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractLearner, AbstractPolicy, RunState, Task
from forethought.math.act import start
from forethought.math.dataset import append
from forethought.math.model_error import model_error
from forethought.planners.mpc import MPC, MPCCarry, PlanOnce, PlanOnceCarry, planning_metrics
from forethought.policies.excitation import RandomPolicy
from forethought.types import Metrics, Trajectory


def base_policy(base: AbstractPolicy | None, task: Task) -> AbstractPolicy:
    """The policy that collects the first data: the given one, or uniform random actions."""
    return RandomPolicy(task.world.actions) if base is None else base


def learn(learner: AbstractLearner, state: RunState) -> tuple[RunState, Metrics]:
    """Fit the model to all data of the state."""
    key, k_fit = jr.split(state.key)
    began = time.perf_counter()
    fitted, metrics = learner.fit(state.fitted, state.data, k_fit)
    metrics = {f"fit_{name}": np.asarray(value).tolist() for name, value in metrics.items()}
    metrics["fit_seconds"] = time.perf_counter() - began
    keep = lambda s: (s.key, s.fits, s.fitted)
    return eqx.tree_at(keep, state, (key, state.fits + 1, fitted)), metrics


def execute(
    policy: AbstractPolicy, task: Task, state: RunState, steps: int, *, grow: bool
) -> tuple[RunState, Trajectory | None, Metrics]:
    """Run the policy for at most `steps` steps, in the open episode or in a fresh one, and append them if `grow`.

    A policy without a carry (the episode has just begun, or another policy was in charge) takes over afresh.
    """
    if steps == 0:
        return state, None, {}
    key, k_reset, k_start, k_run = jr.split(state.key, 4)
    at = task.world.reset(k_reset) if state.at is None else state.at
    plans = isinstance(policy, (MPC, PlanOnce))
    carry = start(policy, at.x, k_start) if state.carry is None or not plans else state.carry
    began = time.perf_counter()
    trajectory, carry, at = task.world.collect(policy, carry, at, k_run, steps)
    seconds = time.perf_counter() - began
    done, score = bool(at.done), float(state.so_far) + float(np.sum(trajectory.reward))
    data = append(state.data, trajectory, int(state.episodes)) if grow else state.data
    metrics: Metrics = {
        "planned": plans,
        "steps": trajectory.length,
        "step_seconds": seconds / trajectory.length,
        **_planning(task, policy, carry, state, trajectory),
    }
    if done:
        metrics |= {"return": score, "terminated": bool(trajectory.terminated[-1])}
    after = RunState(
        key=key,
        fits=state.fits,
        episodes=state.episodes + jnp.int32(done),
        steps=state.steps + jnp.int32(trajectory.length),
        data=data,
        fitted=state.fitted,
        at=None if done else at,
        carry=carry if plans and not done else None,
        so_far=0.0 if done else score,
    )
    return after, trajectory, metrics


def _planning(task: Task, policy: AbstractPolicy, carry: object, state: RunState, trajectory: Trajectory) -> Metrics:
    """Metrics that only a planned piece of an episode has: its plans, and how wrong the model was about it."""
    if not isinstance(policy, (MPC, PlanOnce)) or not isinstance(carry, (MPCCarry, PlanOnceCarry)):
        return {}
    rows = 1 << max(trajectory.length - 1, 31).bit_length()
    seen = np.asarray(state.data.x)[: int(state.data.count)]
    scale = np.maximum(seen.std(axis=0), 1e-6) if len(seen) else np.ones(task.spec.n)
    planned = {name: np.asarray(value).tolist() for name, value in planning_metrics(carry).items()}
    return planned | model_error(policy.planning.dynamics, trajectory, task.spec, rows, scale)
