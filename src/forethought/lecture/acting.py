"""Section 2, versions 1.5 and 2.0: what acting and learning by them cost."""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax.random as jr
import numpy as np

from forethought.algorithms.globally import V15, V20
from forethought.core import AbstractPolicy, RunState, Task
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.act import act, start
from forethought.models.gp_learner import GPLearner
from forethought.tasks import task

BASE, TIMED, SKIPPED = 50, 200, 20
"""Random steps that the model is fitted to; actions that are timed; and those before that are not."""


def _fitted(algorithm: V15 | V20, target: Task, seed: int) -> RunState:
    """After the random steps and, in v1.5, a fit; v2.0's policy takes as long before it is improved as after."""
    state = algorithm.init(target, jr.key(seed))
    while int(state.data.count) < BASE:
        state, _ = algorithm.step(target, state, BASE)
    return algorithm.step(target, state, 0)[0] if isinstance(algorithm, V15) else state


def _milliseconds(policy: AbstractPolicy, x: np.ndarray, seed: int) -> float:
    """Median processor time of an action, compiled."""
    carry, times = start(policy, x, jr.key(seed)), []
    for t in range(SKIPPED + TIMED):
        clock = time.process_time()
        u, carry = act(policy, carry, x, np.asarray(t, np.int32))
        np.asarray(u)
        times.append(1e3 * (time.process_time() - clock))
    return statistics.median(times[SKIPPED:])


def acting(seed: int, full: bool) -> Outcome:
    """How many times as long an action of v1.5 takes."""
    del full
    target, found = task("pendulum", limit=BASE), {}
    for name, algorithm in (("v1.5", V15(learner=GPLearner())), ("v2.0", V20(learner=GPLearner()))):
        state = _fitted(algorithm, target, seed)
        policy = algorithm.policy(target, state)
        found[f"ms per action, {name}"] = _milliseconds(policy, np.asarray(state.data.x)[0], seed)
    return Outcome(log_ratio(*found.values()), found)


def learning(seed: int, full: bool) -> Outcome:
    """How many times as much computing v1.5 takes for an episode, its fits or its improvement included."""
    del full
    target, found = task("pendulum", limit=BASE), {}
    for name, algorithm in (("v1.5", V15(learner=GPLearner())), ("v2.0", V20(learner=GPLearner()))):
        for _ in range(2):  # the first time it compiles
            state = algorithm.init(target, jr.key(seed))
            while int(state.data.count) < BASE:
                state, _ = algorithm.step(target, state, BASE)
            clock = time.process_time()
            while int(state.data.count) < 2 * BASE:
                state, _ = algorithm.step(target, state, 2 * BASE - int(state.data.count))
            found[f"seconds, {name}"] = time.process_time() - clock
    return Outcome(log_ratio(*found.values()), found)


PENDULUM = f"The classic pendulum, a Gaussian process of {BASE} random steps, the library's defaults."

ACTING = Claim(
    name="act-cost",
    section="2, versions 1.5 and 2.0",
    sentence="MPC is computationally expensive; a policy is computationally cheap.",
    prediction="An action of v1.5 takes more than ten times as long as one of v2.0.",
    how=f"{PENDULUM} Ratio of median processor times of {TIMED} compiled actions, v1.5 over v2.0.",
    measure=acting,
    unit=TIMES,
    margin=float(np.log(10.0)),
    seeds=tuple(range(100, 105)),
    full_seeds=tuple(range(100, 110)),
)
LEARNING = dataclasses.replace(
    ACTING,
    name="learning-cost",
    section="2, version 2.0",
    sentence="Version 2.0 is computationally cheap.",
    prediction="The second episode takes v1.5 more computing than v2.0, fits and improvement included.",
    how=f"{PENDULUM} Ratio of processor times of {BASE} further steps, v1.5 over v2.0, when everything is compiled.",
    measure=learning,
    note="What is cheap is acting: after each episode v2.0 takes hundreds of gradient steps through imagined rollouts.",
    margin=0.0,
    seeds=(),
    full_seeds=(100, 101, 102),
)
CLAIMS = (ACTING, LEARNING)
