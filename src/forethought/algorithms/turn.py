"""The verbs that every loop is made of: learn from the data, execute a policy, append what happened."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import (
    AbstractFitted,
    AbstractLearner,
    AbstractPolicy,
    AbstractSized,
    AbstractTimed,
    AbstractWorld,
    Open,
    RunState,
    Task,
)
from forethought.math.act import start
from forethought.math.dataset import append
from forethought.math.diagnosis import Model, data_scale, while_training
from forethought.math.finite import nan_appeared
from forethought.planners.mpc import MPC, MPCCarry, PlanOnce, PlanOnceCarry, planning_metrics
from forethought.policies.excitation import RandomPolicy
from forethought.types import Dataset, Metrics, RandomKey, Trajectory

R = TypeVar("R")
COUNTED = ("plan_failures", "plan_ties")
"""Metrics of planning that are summed over episodes; of the others the first world's is shown."""
ACT_QUANTILES = (0.5, 0.95, 1.0)
"""Of the seconds that actions take to be chosen: of a planner that replans, the seconds of a plan."""


def base_policy(base: AbstractPolicy | None, task: Task) -> AbstractPolicy:
    """The policy that collects the first data: the given one, or uniform random actions."""
    return RandomPolicy(task.world.actions) if base is None else base


def learn(learner: AbstractLearner, state: RunState) -> tuple[RunState, Metrics]:
    """Fit the model to all data of the state.

    A fit that brings NaN into the state has failed: the old model is kept, the count of fits stays, and `fit_failed`
    says so, whatever the learner.
    """
    key, k_fit = jr.split(state.key)
    began = time.perf_counter()
    fitted, found = learner.fit(state.fitted, state.data, k_fit)
    metrics = {f"fit_{name}": np.asarray(value).tolist() for name, value in found.items()}
    spoiled = nan_appeared(fitted, state.fitted)
    metrics["fit_failed"] = spoiled or bool(metrics.get("fit_failed", False))
    metrics["fit_seconds"] = time.perf_counter() - began
    fits, fitted = (state.fits, state.fitted) if spoiled else (state.fits + 1, fitted)
    return eqx.tree_at(lambda s: (s.key, s.fits, s.fitted), state, (key, fits, fitted)), metrics


def learn_inside(
    learner: AbstractLearner, state: RunState, part: str, data: Dataset | None = None
) -> tuple[RunState, Metrics]:
    """`learn` where the learner's fitted state is but a part of the algorithm's, of that name; from other data than the
    state's, if some are given."""
    inner = dataclasses.replace(state, fitted=getattr(state.fitted, part), data=state.data if data is None else data)
    inner, metrics = learn(learner, inner)
    fitted = dataclasses.replace(state.fitted, **{part: inner.fitted})
    return dataclasses.replace(inner, fitted=fitted, data=state.data), metrics


def resized_part(fitted: AbstractFitted, part: str, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """`AbstractSized.resized` where what has arrays of a growing size is but a part of a state."""
    inner = getattr(fitted, part)
    if not isinstance(inner, AbstractSized):
        return fitted
    own = {name.removeprefix(f"{part}."): shape for name, shape in shapes.items() if name.startswith(f"{part}.")}
    return dataclasses.replace(fitted, **{part: inner.resized(own)})


def execute(
    policy: AbstractPolicy,
    task: Task,
    state: RunState,
    steps: int,
    *,
    grow: bool,
    conditions: Sequence[int] | None = None,
) -> tuple[RunState, Metrics]:
    """Run the policy for at most `steps` steps, in the open episodes or in fresh ones, and append them if `grow`.

    `conditions` are the reset seeds of fresh episodes, one per world; without them they are drawn.

    With several worlds the steps are shared out among the open episodes; one that has ended waits for the others.  What
    is appended, and in which order, does not depend on which world was faster.
    """
    if steps == 0:
        return state, {}
    key, k_reset, k_start, k_run = jr.split(state.key, 4)
    before = state.open or (None,) * len(task.worlds)
    shares = share(steps, [lane is None or not bool(lane.at.done) for lane in before])
    plans = isinstance(policy, (MPC, PlanOnce))

    seeds = conditions or (None,) * len(before)

    def one(lane: int) -> tuple[Trajectory | None, Open | None]:
        # The first world's keys are those of a run with one world.
        own = tuple(k if lane == 0 else jr.fold_in(k, lane) for k in (k_reset, k_start, k_run))
        return _piece(policy, task.worlds[lane], before[lane], own, shares[lane], seeds[lane])

    began = time.perf_counter()
    results = together(one, task.worlds)
    seconds = time.perf_counter() - began
    data, taken = state.data, 0
    for lane, (trajectory, _) in enumerate(results):
        if trajectory is not None:
            taken += trajectory.length
            data = append(data, trajectory, int(state.episodes) + lane) if grow else data
    lanes = tuple(lane for _, lane in results)
    ended = all(lane is not None and bool(lane.at.done) for lane in lanes)
    metrics: Metrics = {"planned": plans, "steps": taken, "step_seconds": seconds / max(taken, 1)}
    timed = [w for w, part in zip(task.worlds, shares, strict=True) if part and isinstance(w, AbstractTimed)]
    if acted := [seconds for world in timed for seconds in world.act_seconds()]:
        metrics["act_seconds"] = np.quantile(acted, ACT_QUANTILES).tolist()
    metrics |= _planning(task, policy, state, results)
    if ended:
        metrics["return"] = float(np.mean([lane.so_far for lane in lanes if lane is not None]))
    episodes = state.episodes + jnp.int32(len(lanes) if ended else 0)
    total = state.steps + jnp.int32(taken)
    after = RunState(key, state.fits, episodes, total, data, state.fitted, None if ended else lanes)
    return after, metrics


def share(steps: int, open_: Sequence[bool]) -> list[int]:
    """So many steps shared out among the open episodes, the first ones getting the rest."""
    count = sum(open_)
    parts = iter([steps // count + (i < steps % count) for i in range(count)]) if count else iter(())
    return [next(parts) if each else 0 for each in open_]


def _piece(
    policy: AbstractPolicy,
    world: AbstractWorld,
    lane: Open | None,
    keys: tuple[RandomKey, ...],
    steps: int,
    condition: int | None,
) -> tuple[Trajectory | None, Open | None]:
    """At most so many steps in one world, and where its episode stands then.

    A policy without a carry (the episode has just begun, or another policy was in charge) takes over afresh.
    """
    if steps == 0:
        return None, lane
    k_reset, k_start, k_run = keys
    plans = isinstance(policy, (MPC, PlanOnce))
    lane = Open(world.reset(k_reset, condition)) if lane is None else lane
    carry = start(policy, lane.at.x, k_start) if lane.carry is None or not plans else lane.carry
    trajectory, carry, at = world.collect(policy, carry, lane.at, k_run, steps)
    score = lane.so_far + float(np.sum(trajectory.reward))
    return trajectory, Open(at, carry if plans else None, score)


def together(one: Callable[[int], R], worlds: Sequence[AbstractWorld]) -> list[R]:
    """`one` of every world's number, at the same time where there are several worlds (threads: the work is theirs).

    All are waited for before the first error, in the order of the worlds, is raised.  What is not an error of a world
    (Ctrl-C) closes the worlds, so that no thread is left waiting for one.
    """
    if len(worlds) == 1:
        return [one(0)]
    wide = bool(jax.config.read("jax_enable_x64"))  # it may hold for the calling thread only

    def alike(lane: int) -> R:
        with jax.enable_x64(wide):
            return one(lane)

    with ThreadPoolExecutor(len(worlds)) as pool:
        futures: list[Future[R]] = []
        try:
            futures += [pool.submit(alike, lane) for lane in range(len(worlds))]
            wait(futures)
        except BaseException:
            while not all(future.done() for future in futures):
                # However often somebody presses Ctrl-C: no thread may be at work when what it did is written down.
                with suppress(KeyboardInterrupt):
                    for world in worlds:
                        world.close()
                    wait(futures, timeout=0.1)
            raise
    return [future.result() for future in futures]


def _planning(
    task: Task, policy: AbstractPolicy, state: RunState, results: Sequence[tuple[Trajectory | None, Open | None]]
) -> Metrics:
    """Metrics that only planned pieces of episodes have: their plans, and how wrong the model was about the first."""
    planned = [
        (trajectory, lane.carry)
        for trajectory, lane in results
        if trajectory is not None and lane is not None and isinstance(lane.carry, (MPCCarry, PlanOnceCarry))
    ]
    if not planned or not isinstance(policy, (MPC, PlanOnce)):
        return {}
    each = [planning_metrics(carry) for _, carry in planned]
    first = {name: np.asarray(value).tolist() for name, value in each[0].items()}
    counts = {name: sum(int(one[name]) for one in each) for name in first if name in COUNTED}
    it, seen = policy.planning, np.asarray(state.data.x)[: int(state.data.count)]
    model = Model(state.fitted.model, task.cost, task.spec, data_scale(seen))
    # Random numbers of its own: what is learned must not depend on what is measured.
    seed = np.asarray(jr.key_data(state.key)).tolist()
    return first | counts | while_training(model, planned[0][0], it.horizon, seed)
