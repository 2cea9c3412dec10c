"""The lecture's loops on a global model: versions 0.5, 1.0, 1.5 and 2.0.

    1  run a base policy to collect D
    2  fit f to D
    3  plan through f
    4  execute
    5  append to D, go to 2

They differ in what is executed (an open-loop plan, the first action of each new plan, or a policy that was improved in
the model) and in whether D grows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Int

from forethought.algorithms.beginnings import asked, share_visited, start_pool, where_episodes_were
from forethought.algorithms.dyna import Dyna
from forethought.algorithms.improve import Imagined, Improve, Improvement, improve
from forethought.algorithms.improve_moments import belief_problem, improve_moments
from forethought.algorithms.shown import Show, improve_from_shown
from forethought.algorithms.soft_actor_critic import SoftActorCritic
from forethought.algorithms.turn import base_policy, execute, learn, learn_inside, resized_part
from forethought.core import (
    AbstractAlgorithm,
    AbstractDynamics,
    AbstractLearner,
    AbstractPlanner,
    AbstractPolicy,
    AbstractSized,
    Problem,
    RunState,
    Task,
)
from forethought.costs.terminal import TerminalValue
from forethought.math.closed_loop import Stretch
from forethought.math.dataset import empty
from forethought.math.diagnosis import data_scale
from forethought.math.rollout import Certain, Imagination, certain, needed
from forethought.models.auto import AutoLearner
from forethought.models.ensemble import EnsembleLearner
from forethought.models.value import FittedValue
from forethought.planners.icem import ICEM
from forethought.planners.ilqr import ILQR
from forethought.planners.mpc import MPC, Planning, PlanOnce
from forethought.planners.proposed import Proposed
from forethought.planners.standby import Safe
from forethought.policies.actor import Actor, ActorPolicy, Form, init_actor, need_moments, placed
from forethought.types import Array, Box, Metrics, RandomKey, State, UserError


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
    proposal: Literal["none", "policy"] = "none"
    """policy: a policy is trained beside the model, and a sampling planner's search may begin at what it would do."""
    terminal: Literal["none", "value"] = "none"
    """value: the value of that policy closes the horizon."""
    agent: SoftActorCritic = SoftActorCritic(width=64)
    """How that policy and its value are trained, on real and imagined transitions, where one of them is asked for."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """No data yet.  Raises `UserError` for a proposal to a planner that cannot take one."""
        if not self._trains():
            return unfitted(self.learner, task, key)
        state = self._trainer().init(task, key)
        if self.proposal == "policy":
            asked = Proposed(self.planner, self._trainer().policy(task, state))
            start = jnp.zeros((task.spec.n,), jnp.float32), jnp.zeros((), jnp.int32)
            asked.init(planning(self, task, state, self.horizon).problem(*start))
        return state

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Algorithm 3 of the lecture: one round of its outer loop."""
        if (missing := min(limit, self.base_steps - int(state.data.count))) > 0:
            return execute(base_policy(self.base, task), task, state, missing, grow=True)  # 1
        state, fit = self._trainer().learn(task, state) if self._trains() else learn(self.learner, state)  # 2
        policy, steps = self.policy(task, state), min(limit, self.refit_every)
        state, run = execute(policy, task, state, steps, grow=True)  # 3 4 5
        return state, fit | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """MPC on the model at hand, with what the policy says if it is asked."""
        plan = planning(self, task, state, self.horizon)
        trainer = self._trainer()
        if self.proposal == "policy":
            proposed = Proposed(self.planner, trainer.policy(task, state))
            plan = dataclasses.replace(plan, planner=proposed)
        if self.terminal == "value":
            plan = dataclasses.replace(plan, cost=TerminalValue(task.cost, trainer.value(task, state)))
        return MPC(plan)

    def _trains(self) -> bool:
        return self.proposal != "none" or self.terminal != "none"

    def _trainer(self) -> Dyna:
        """The actor-critic's loop without its acting: it learns whenever the model does."""
        often = {"every": self.refit_every, "refit_every": self.refit_every}
        return Dyna(self.learner, self.agent, self.base, self.base_steps, **often)


class PolicyState(AbstractSized):
    """The policy, and the model that it is improved in."""

    inner: Any
    """What the learner carries."""
    actor: Actor
    value: FittedValue | None
    """The value function that closes the horizon, if one does."""
    length: Int[Array, ""]
    """Steps of the horizon that count."""
    improved: Int[Array, ""]
    """Rows of the data at the last improvement; 0 before the first."""

    @property
    def model(self) -> AbstractDynamics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return self.inner.model

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> PolicyState:
        """With room for what the model has kept of its data."""
        return resized_part(self, "inner", shapes)


class V20(AbstractAlgorithm):
    """v2.0: fit, improve a policy by backpropagation through the model, execute it, append what happened, repeat."""

    learner: AbstractLearner = AutoLearner()
    base: AbstractPolicy | None = None
    """Who collects the first data; None: uniform random actions."""
    base_steps: int = 50
    """Steps of the base policy before the first improvement, in whole pieces of `every` steps."""
    every: int = 100
    """Most steps between two improvements; at the end of an episode there is one in any case."""
    form: Form = "rbf"
    """The policy: rbf (radial basis functions), network or linear."""
    width: int = 100
    """With rbf, how many functions there are; of a network, the width of its layers."""
    depth: int = 2
    planner: AbstractPlanner | None = ILQR(drives=1)
    """Who shows a fresh policy what to do in the model, before each improvement; the better of it and the policy at
    hand goes on.  None: nobody, and the first policy is a random one."""
    plans: int = 4
    """How many plans it shows, each from another start."""
    imagine: Literal["auto", "mean", "particles", "moments"] = "auto"
    """particles: rollouts through drawn models; mean: all through the model's average, with its noise; auto: mean where
    a prediction is one Gaussian, otherwise particles; moments: Gaussian beliefs through a Gaussian process."""
    improve: Improve = Improve()
    iterations: int = 50
    """Of L-BFGS per improvement, with moments."""
    beginnings: Literal["auto", "asked", "seen"] = "auto"
    """Where episodes begin: asked: as resets of a copy of the world tell, without a step; seen: as those of the data
    did; auto: asked, but seen where the world cannot be replayed, as a machine's resets are work."""
    visited: float = 0.6
    """Share of the imagined rollouts that start in any state of the data where episodes begin as far apart as the data
    are; less where they begin closer together.  The others start where episodes began."""
    noise: float = 0.0
    """Standard deviation of exploration, in half ranges."""
    discount: float = 1.0

    def init(self, task: Task, key: RandomKey) -> RunState:
        """A policy that was never improved.  Raises `UserError` for discrete actions, for moments with a policy
        that has none, and for what the planner cannot do: before anything is tried in the world."""
        if not isinstance(task.world.actions, Box):
            raise UserError(f"{task.name} has discrete actions, and v2.0's policies are continuous: use v1.5 or dyna.")
        key, k_init, k_actor, k_value = jr.split(key, 4)
        zero = jnp.zeros((), jnp.int32)
        actor = self._fresh(task, k_actor)
        if self.imagine == "moments":
            need_moments(actor)
        value = self.improve.value.init(task.spec, k_value) if self.improve.terminal == "value" else None
        length = jnp.full((), min(self.improve.horizon, task.limit), jnp.int32)
        inner = self.learner.init(task.spec, k_init)
        if self.planner is not None:
            start, horizon = jnp.zeros((task.spec.n,), jnp.float32), min(self.improve.horizon, task.limit)
            self.planner.init(Problem(inner.model, task.cost, task.world.actions, start, zero, horizon))
        fitted = PolicyState(inner, actor, value, length, zero)  # pyright: ignore[reportCallIssue]
        return RunState(key, zero, zero, zero, empty(task.spec), fitted)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Algorithm 4 of the lecture: improve the policy, and execute it to the end of the episode, or for a while."""
        steps = min(limit, self.every)
        if int(state.data.count) < self.base_steps and limit > 0:
            return execute(base_policy(self.base, task), task, state, steps, grow=True)  # 1
        fit, told = {}, {}
        if int(state.data.count) > int(state.fitted.improved):
            state, fit = learn_inside(self.learner, state, "inner")  # 2
            state, told = self._improved(task, state)  # 3
        state, run = execute(self._acting(state, self.noise), task, state, steps, grow=True)  # 4 5
        return state, fit | told | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> ActorPolicy:
        """The policy, without noise."""
        return self._acting(state, 0.0)

    def _acting(self, state: RunState, noise: float) -> ActorPolicy:
        return ActorPolicy(state.fitted.actor, jnp.full((), noise, jnp.float32))

    def _fresh(self, task: Task, key: RandomKey) -> Actor:
        assert isinstance(task.world.actions, Box)
        return init_actor(task.spec, task.world.actions, self.form, (self.width, self.depth), key)

    def _tried_in(self, model: AbstractDynamics, task: Task, x: State) -> AbstractDynamics:
        """The model, or its average."""
        problem = Problem(model, task.cost, task.world.actions, x, jnp.zeros((), jnp.int32), 1)
        mean = self.imagine == "mean" or (self.imagine == "auto" and certain(Imagination(), problem))
        return Certain(needed(Imagination(propagation="mean"), model)) if mean else model

    def _improved(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """Backpropagation through f into the policy."""
        key, k_place, k_ask, k_pool, k_improve = jr.split(state.key, 5)
        fitted: PolicyState = state.fitted
        began, states = where_episodes_were(state.data)
        if self.beginnings == "asked" or (self.beginnings == "auto" and task.world.replayable):
            began = np.concatenate([began, asked(task.world, k_ask)])
        first = int(fitted.improved) == 0
        fresh = fitted.actor if first else self._fresh(task, k_place)
        actor = placed(fresh, states, k_place) if first else fitted.actor
        now = Improvement(actor, fitted.value, fitted.length)
        scale = data_scale(states)
        stretch = Stretch(fitted.length, jnp.full((), self.discount, jnp.float32), jnp.asarray(scale, jnp.float32))
        pool = start_pool(began, states, share_visited(began, scale, self.visited), scale, k_pool)
        at = Imagined(self._tried_in(fitted.model, task, pool[0]), task.cost, pool, stretch)
        horizon = min(self.improve.horizon, task.limit)

        def improver(now: Improvement, part: int, key: RandomKey) -> tuple[Improvement, Metrics]:
            if self.imagine == "moments":
                problem = belief_problem(fitted.model, task.cost, began, stretch)
                return improve_moments(now, problem, horizon, max(1, self.iterations // part))
            how = dataclasses.replace(self.improve, gradient_steps=max(1, self.improve.gradient_steps // part))
            return improve(how, now, at, task.limit, key)

        clock = time.perf_counter()
        if self.planner is None:
            now, told = improver(now, 1, k_improve)
        else:
            show = Show(self.planner, self.plans, horizon, self.discount)
            now, told = improve_from_shown(show, improver, now, fresh, at, k_improve)
        told["improve_seconds"] = time.perf_counter() - clock
        rows = jnp.asarray(state.data.count, jnp.int32)
        fitted = dataclasses.replace(fitted, actor=now.actor, value=now.value, length=now.length, improved=rows)
        return dataclasses.replace(state, key=key, fitted=fitted), told
