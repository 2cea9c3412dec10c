"""Section 2, versions 0.5 and 1.0: the model is wrong where the planner goes, and the planner's own data mend that."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.random as jr

from forethought.algorithms.globally import V05, V10
from forethought.core import AbstractLearner, RunState, Task
from forethought.lecture.apparatus import cost_of, error, joined, rows_in, spread, stepped
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.models.linear import LinearLearner
from forethought.models.plain import NetworkLearner
from forethought.policies.excitation import RandomPolicy
from forethought.tasks import task
from forethought.types import Trajectory

LIMIT, BASE, MORE = 50, 200, 6
"""Steps of an episode, of the base policy, and episodes that v1.0 adds."""
EPISODES = 5
"""On which errors and costs are judged; their starts are the task's fixed ones, which nothing is learned from."""


def _world() -> Task:
    return task("pendulum", limit=LIMIT)


def _begun(algorithm: V05 | V10, target: Task, seed: int, rows: int) -> RunState:
    """After so many rows, and a fit."""
    state = algorithm.init(target, jr.key(seed))
    state = stepped(algorithm, target, state, lambda s: int(s.data.count) >= rows)
    return algorithm.step(target, state, 0)[0]


def _planned(algorithm: V05 | V10, target: Task, state: RunState, seed: int) -> list[Trajectory]:
    """Episodes of the planner."""
    policy = algorithm.policy(target, state)
    return target.world.rollouts(policy, jr.key(1000 + seed), target.starts[:EPISODES], LIMIT)


def _errors(learner: AbstractLearner, seed: int) -> tuple[float, float]:
    """Of the model of v0.5: on new episodes of the base policy, and on its planner's."""
    target, algorithm = _world(), V05(learner=learner, base_steps=BASE)
    state = _begun(algorithm, target, seed, BASE)
    unit, model = spread(rows_in(state.data)), state.fitted.model
    base = RandomPolicy(target.world.actions)
    fresh = target.world.rollouts(base, jr.key(2000 + seed), target.starts[:EPISODES], LIMIT)
    return error(model, joined(fresh), unit), error(model, joined(_planned(algorithm, target, state, seed)), unit)


def mismatch(seed: int, full: bool) -> Outcome:
    """How much larger the network's error is where the planner goes."""
    del full
    there, here = _errors(NetworkLearner(), seed)
    return Outcome(log_ratio(here, there), {"on the base policy's states": there, "on the planner's": here})


def expressive(seed: int, full: bool) -> Outcome:
    """How much more a network's error grows on the way there than that of a linear model."""
    del full
    network, linear = _errors(NetworkLearner(), seed), _errors(LinearLearner(), seed)
    effect = log_ratio(network[1], network[0]) - log_ratio(linear[1], linear[0])
    return Outcome(effect, {"network, base and planner": list(network), "linear, base and planner": list(linear)})


def mended(seed: int, full: bool) -> Outcome:
    """How much smaller the error on the planner's own states is after six episodes of it."""
    del full
    target, algorithm = _world(), V10(learner=NetworkLearner(), base_steps=BASE)
    state = _begun(algorithm, target, seed, BASE)
    unit = spread(rows_in(state.data))
    judge = lambda state: error(state.fitted.model, joined(_planned(algorithm, target, state, seed)), unit)
    before = judge(state)
    after = judge(_begun_again(algorithm, target, state))
    return Outcome(log_ratio(before, after), {"before": before, "after": after})


def _begun_again(algorithm: V10, target: Task, state: RunState) -> RunState:
    """After MORE episodes of the planner, and a fit."""
    rows = BASE + MORE * LIMIT
    state = stepped(algorithm, target, state, lambda s: int(s.data.count) >= rows)
    return algorithm.step(target, state, 0)[0]


def returns(seed: int, full: bool) -> Outcome:
    """How much more v0.5 costs than v1.0, from as many rows."""
    del full
    target, rows = _world(), BASE + MORE * LIMIT
    own: dict[str, Any] = {"learner": NetworkLearner()}
    once, again = V05(**own, base_steps=rows), V10(**own, base_steps=BASE)
    alone = _begun(once, target, seed, rows)
    grown = _begun_again(again, target, _begun(again, target, seed, BASE))
    costs = [cost_of(_planned(a, target, s, seed)) for a, s in ((once, alone), (again, grown))]
    return Outcome(log_ratio(*costs), {"v0.5 costs": costs[0], "v1.0 costs": costs[1]})


WHERE = (
    f"The classic pendulum in episodes of {LIMIT} steps, {BASE} steps of random actions, a network with squared error, "
    f"whole episodes planned by iCEM and executed open loop from {EPISODES} fixed starts."
)

MISMATCH = Claim(
    name="mismatch",
    section="2, version 0.5",
    sentence="A model that was fitted once to a base policy's data meets other states when it is planned with "
    "(distribution mismatch).",
    prediction="The model's error is larger on the states of its planner than on those of the base policy.",
    how=f"{WHERE} Ratio of root mean square one-step errors: the planner's episodes over new ones of the base policy.",
    measure=mismatch,
    unit=TIMES,
)
EXPRESSIVE = dataclasses.replace(
    MISMATCH,
    name="mismatch-expressive",
    sentence="The mismatch becomes worse with more expressive models.",
    prediction="From the base policy's states to the planner's a network's error grows by a larger factor than a "
    "linear model's.",
    how=f"{WHERE} The same with linear regression, which plans for itself; ratio of the two ratios of errors.",
    measure=expressive,
)
MENDED = dataclasses.replace(
    MISMATCH,
    name="mismatch-mended",
    section="2, version 1.0",
    sentence="Collecting data with the planner's own actions (DAgger) mends the mismatch.",
    prediction="After v1.0 has appended its own episodes, the error on its planner's states is smaller than before.",
    how=f"{WHERE} Ratio of errors on the planner's episodes: before over after {MORE} more episodes.",
    measure=mended,
)
RETURNS = dataclasses.replace(
    MISMATCH,
    name="v10-beats-v05",
    section="2, version 1.0",
    sentence="Version 1.0 improves on version 0.5.",
    prediction="From as many steps v0.5, all of whose data are random, costs more than v1.0.",
    how=f"{WHERE} Ratio of the mean costs of episodes, v0.5 over v1.0, after {BASE + MORE * LIMIT} steps each.",
    measure=returns,
    note="There is little to win: on the true equations the same search costs 243 to 268 from these starts (seeds 0 to "
    "2), and the model of 500 random steps is on average within a fifth of that.",
)
CLAIMS = (MISMATCH, EXPRESSIVE, MENDED, RETURNS)
