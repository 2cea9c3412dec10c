"""The lecture's loops on a global model: versions 0.5, 1.0 and 1.5.

    1  run a base policy to collect D
    2  fit f to D
    3  plan through f
    4  execute
    5  append to D, go to 2

They differ in what is executed (an open-loop plan, or the first action of each new plan) and in whether D grows.
"""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr

from forethought.algorithms.turn import base_policy, execute, learn
from forethought.core import AbstractAlgorithm, AbstractLearner, AbstractPlanner, AbstractPolicy, RunState, Task
from forethought.math.dataset import empty
from forethought.math.rollout import Imagination, needed
from forethought.models.auto import AutoLearner
from forethought.models.ensemble import EnsembleLearner
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning, PlanOnce
from forethought.planners.standby import Safe
from forethought.types import Metrics, RandomKey


def unfitted(learner: AbstractLearner, task: Task, key: RandomKey) -> RunState:
    """No data, an unfitted model, counters at zero."""
    key, k_init = jr.split(key)
    zero = jnp.zeros((), jnp.int32)
    return RunState(key, zero, zero, zero, empty(task.spec), learner.init(task.spec, k_init))


def planning(algorithm: V05 | V10 | V15, task: Task, state: RunState, horizon: int) -> Planning:
    """The algorithm's planner on the model at hand, so many steps ahead."""
    how = getattr(algorithm.planner, "imagination", None)
    model = state.fitted.model
    return Planning(
        planner=algorithm.planner,
        dynamics=needed(how, model) if isinstance(how, Imagination) else model,
        cost=task.cost,
        actions=task.world.actions,
        horizon=horizon,
        discount=algorithm.discount,
        safe=algorithm.safe,
    )


class V05(AbstractAlgorithm):
    """v0.5: fit once to the base data, plan a whole episode, execute it open loop; what happens is not learned from."""

    planner: AbstractPlanner = ICEM(samples=256, iterations=10, elites=20)
    learner: AbstractLearner = AutoLearner(ensemble=EnsembleLearner(gradient_steps=2000))
    base: AbstractPolicy | None = None
    """Who collects the first data; None: uniform random actions."""
    base_steps: int = 200
    """Steps of the base policy before the fit, in whole episodes."""
    discount: float = 1.0
    safe: Safe = "zero"
    """What is done when there is no plan to trust: zero (the allowed action nearest to it), hold (the last action
    again), or, in Python, a policy."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """No data yet."""
        return unfitted(self.learner, task, key)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Algorithm 1 of the lecture: one base episode, or one planned one."""
        if int(state.data.count) < self.base_steps and limit > 0:
            return execute(base_policy(self.base, task), task, state, limit, grow=True)  # 1
        state, fit = learn(self.learner, state) if int(state.fits) == 0 else (state, {})  # 2
        policy = self.policy(task, state)  # 3
        state, run = execute(policy, task, state, limit, grow=False)  # 4
        return state, fit | run

    def appends(self, state: RunState) -> bool:
        """Only the base data."""
        return int(state.data.count) < self.base_steps

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """A plan for the whole episode, made from its first state."""
        return PlanOnce(planning(self, task, state, task.limit))


class V10(AbstractAlgorithm):
    """v1.0: fit, plan a whole episode, execute it open loop, append what happened, repeat."""

    planner: AbstractPlanner = ICEM(samples=256, iterations=10, elites=20)
    learner: AbstractLearner = AutoLearner(ensemble=EnsembleLearner(gradient_steps=2000))
    base: AbstractPolicy | None = None
    """Who collects the first data; None: uniform random actions."""
    base_steps: int = 200
    """Steps of the base policy before the first plan, in whole episodes."""
    discount: float = 1.0
    safe: Safe = "zero"
    """What is done when there is no plan to trust: zero (the allowed action nearest to it), hold (the last action
    again), or, in Python, a policy."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """No data yet."""
        return unfitted(self.learner, task, key)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Algorithm 2 of the lecture: one episode."""
        if int(state.data.count) < self.base_steps and limit > 0:
            return execute(base_policy(self.base, task), task, state, limit, grow=True)  # 1
        state, fit = learn(self.learner, state)  # 2
        policy = self.policy(task, state)  # 3
        state, run = execute(policy, task, state, limit, grow=True)  # 4 5
        return state, fit | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """A plan for the whole episode, made from its first state."""
        return PlanOnce(planning(self, task, state, task.limit))


class V15(AbstractAlgorithm):
    """v1.5, model predictive control: replan at every step, refit every `refit_every` steps inside the episode."""

    planner: AbstractPlanner = ICEM()
    learner: AbstractLearner = AutoLearner()
    base: AbstractPolicy | None = None
    """Who collects the first data; None: uniform random actions."""
    base_steps: int = 50
    """Steps of the base policy before the first plan."""
    refit_every: int = 20
    """Steps between two fits."""
    horizon: int = 20
    """Steps that a plan looks ahead."""
    discount: float = 1.0
    safe: Safe = "zero"
    """What is done when there is no plan to trust: zero (the allowed action nearest to it), hold (the last action
    again), or, in Python, a policy."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """No data yet."""
        return unfitted(self.learner, task, key)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Algorithm 3 of the lecture: one round of its outer loop."""
        if (missing := min(limit, self.base_steps - int(state.data.count))) > 0:
            return execute(base_policy(self.base, task), task, state, missing, grow=True)  # 1
        state, fit = learn(self.learner, state)  # 2
        policy, steps = self.policy(task, state), min(limit, self.refit_every)
        state, run = execute(policy, task, state, steps, grow=True)  # 3 4 5
        return state, fit | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """MPC on the model at hand."""
        return MPC(planning(self, task, state, self.horizon))
