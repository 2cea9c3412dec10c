"""An actor-critic that learns from what happened and from what the model imagines (Dyna; Sutton 1990).

    1  run a base policy to collect D
    2  fit f to D, now and then
    3  imagine short rollouts of the policy in f, from states that were really visited
    4  improve critics and policy on both
    5  execute the policy with its noise, append to D, go to 2

Janner et al., When to trust your model: model-based policy optimization, NeurIPS 2019.  With `real_ratio` = 1 no model
is fitted, nothing is imagined, and what is left is the soft actor-critic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from forethought.algorithms.soft_actor_critic import Agent, CostToGo, SoftActorCritic, in_units
from forethought.algorithms.turn import base_policy, execute, learn_inside, resized_part
from forethought.core import (
    AbstractAlgorithm,
    AbstractCost,
    AbstractDynamics,
    AbstractLearner,
    AbstractPolicy,
    AbstractSized,
    RunState,
    Task,
)
from forethought.math.dataset import empty
from forethought.math.ring import Ring, Transitions, empty_ring, push
from forethought.math.rollout import branch
from forethought.math.scaling import Scaler, fit_scaler
from forethought.models.ensemble import EnsembleLearner
from forethought.models.table import usable
from forethought.policies.neural import seen
from forethought.policies.squashed_gaussian import SquashedNetwork, SquashedPolicy, head, squash
from forethought.types import Array, Box, Dataset, Metrics, RandomKey, Spec, UserError

FIRST_ROWS = 4096
"""Rows that there is room for at first: the model's fit is compiled anew whenever the room doubles."""


class DynaState(AbstractSized):
    """The model, the actor-critic, and what was imagined."""

    inner: Any
    """What the model's learner carries."""
    agent: Agent
    imagined: Ring
    learned: Int[Array, ""]
    """Rows of the data that gradient steps were taken for; 0 before the first."""
    refitted: Int[Array, ""]
    """Rows of the data at the last fit of the model."""

    @property
    def model(self) -> AbstractDynamics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return self.inner.model

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> DynaState:
        """With room for the rows that the model keeps, if it keeps any."""
        return resized_part(self, "inner", shapes)


class Dyna(AbstractAlgorithm):
    """Soft actor-critic on real and imagined transitions."""

    learner: AbstractLearner = EnsembleLearner(
        width=128, depth=3, gradient_steps=2000, batch=64, learning_rate=1e-3, weight_decay=1e-5
    )
    agent: SoftActorCritic = SoftActorCritic()
    base: AbstractPolicy | None = None
    """Who collects the first data; None: uniform random actions."""
    base_steps: int = 1000
    """Steps of the base policy before anything is learned."""
    every: int = 25
    """Steps between two turns of learning."""
    updates: int = 8
    """Steps of the critics per step in the environment."""
    real_ratio: float = 0.5
    """Share of each batch that really happened; 1: there is no model."""
    refit_every: int = 250
    """Steps between two fits of the model."""
    rollouts: int = 40
    """Imagined rollouts that begin per step in the environment."""
    horizon: int = 1
    """Steps of an imagined rollout."""
    beliefs: int = 5
    """Drawn models that share out the rollouts of a turn among them."""
    places: int = 20000
    """Imagined transitions that are kept, the newest ones."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """No data yet.  Raises `UserError` for discrete actions and for settings that do not fit together."""
        if not isinstance(task.world.actions, Box):
            raise UserError(
                f"{task.name} has discrete actions, and the actor-critic draws from a box: use v1.5 instead."
            )
        if (self.every * self.updates) % self.agent.actor_every:
            raise UserError(
                f"every is {self.every} and updates {self.updates}; their product must be a multiple of "
                f"agent.actor_every, which is {self.agent.actor_every}."
            )
        key, k_model, k_agent = jr.split(key, 3)
        zero, spec = jnp.zeros((), jnp.int32), task.spec
        ring = empty_ring(self._room() if self._imagines() else 1, spec.n, spec.m)
        agent = self.agent.init(Spec(n=spec.n, m=spec.m, angles=spec.angles), k_agent)
        fitted = DynaState(self.learner.init(spec, k_model), agent, ring, zero, zero)  # pyright: ignore[reportCallIssue]
        return RunState(key, zero, zero, zero, empty(spec, FIRST_ROWS), fitted)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """Learn if it is time, and act until it is time again."""
        count = int(state.data.count)
        if (missing := min(limit, self.base_steps - count)) > 0:
            return execute(base_policy(self.base, task), task, state, missing, grow=True)  # 1
        state, told = self.learn(task, state)  # 2 3 4
        policy = self._policy(task, state, explore=True)
        steps = min(limit, self.every - (count - int(state.fitted.learned)))
        state, run = execute(policy, task, state, steps, grow=True)  # 5
        return state, told | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """The mean action."""
        return self._policy(task, state, explore=False)

    def value(self, task: Task, state: RunState) -> CostToGo:
        """The cost-to-go of the policy: a terminal cost for planners."""
        return self.agent.value(state.fitted.agent, _plain(task.spec))

    def _policy(self, task: Task, state: RunState, *, explore: bool) -> SquashedPolicy:
        assert isinstance(task.world.actions, Box)
        return self.agent.policy(state.fitted.agent, _plain(task.spec), task.world.actions, explore=explore)

    def _imagines(self) -> bool:
        return self.real_ratio < 1.0

    def _begun(self) -> int:
        """Rollouts per belief and turn."""
        return -(-self.rollouts * self.every // self.beliefs)

    def _room(self) -> int:
        """Places of the ring: at least what one turn imagines."""
        return max(self.places, self._begun() * self.beliefs * self.horizon)

    def learn(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """A turn of learning for every `every` new rows; one for all rows at the beginning."""
        told: Metrics = {}
        first = int(state.fitted.learned) == 0
        while (new := int(state.data.count) - int(state.fitted.learned)) > 0 and (first or new >= self.every):
            learned = state.data.count if first else state.fitted.learned + self.every
            state, told = self._turn(task, state)
            learned = jnp.asarray(learned, jnp.int32)
            state = eqx.tree_at(lambda s: s.fitted.learned, state, learned)
            first = False
        return state, told

    def _turn(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """Fit the model if it is time, imagine, and take the gradient steps of `every` steps in the environment."""
        told: Metrics = {}
        count, rows = int(state.data.count), np.flatnonzero(usable(state.data, 1))
        if not len(rows):
            return state, {"agent_rows": 0}
        if int(state.fitted.refitted) == 0 or count - int(state.fitted.refitted) >= self.refit_every:
            state, told = self._refit(task, state)
        key, k_rows, k_starts, k_roll, k_update = jr.split(state.key, 5)
        fitted: DynaState = state.fitted
        spec, box = _plain(task.spec), task.world.actions
        assert isinstance(box, Box)
        shape = (self.every * self.updates, max(1, round(self.real_ratio * self.agent.batch)))
        real = _gathered(state.data, box, rows[_drawn(k_rows, shape, len(rows))])
        ring = fitted.imagined
        if self._imagines():
            starts = rows[_drawn(k_starts, (self.beliefs, self._begun()), len(rows))]
            xs = np.asarray(state.data.x)[starts].astype(np.float32)
            view = (fitted.agent.actor, spec, box)
            ring, said = _imagined(fitted.model, task.cost, view, xs, ring, (k_roll, self.horizon))
            told |= {name: np.asarray(value).tolist() for name, value in said.items()}
        agent, found = self.agent.update(fitted.agent, spec, real, ring, k_update)
        told |= {f"agent_{name}": np.asarray(value).tolist() for name, value in found.items()}
        after = dataclasses.replace(fitted, agent=agent, imagined=ring)
        return eqx.tree_at(lambda s: (s.key, s.fitted), state, (key, after)), told

    def _refit(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """The model, if there is one, and the units in which the actor-critic sees the world."""
        fitted, told = state.fitted, {}
        if self._imagines():
            state, told = learn_inside(self.learner, state, "inner")
            fitted = state.fitted
        data = state.data
        inputs, unit = _units(_plain(task.spec), data.x, data.reward, usable(data, 1))
        # The unit of cost stays what it was at first: what the critics have learned is in it.
        unit = fitted.agent.unit if int(fitted.learned) else unit
        fitted = dataclasses.replace(
            fitted,
            agent=in_units(fitted.agent, inputs, unit),
            refitted=jnp.asarray(data.count, jnp.int32),
        )
        return dataclasses.replace(state, fitted=fitted), told


def _plain(spec: Spec) -> Spec:
    """Without extra outputs: those are the model's."""
    return Spec(n=spec.n, m=spec.m, angles=spec.angles)


def _drawn(key: RandomKey, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Whole numbers below `count`: drawn here, so that no program depends on how many rows there are."""
    return np.asarray(_below(key, shape, np.asarray(count, np.int32)))


@eqx.filter_jit
def _below(key: RandomKey, shape: tuple[int, ...], count: Array) -> Array:
    return jr.randint(key, shape, 0, count, jnp.int32)


def _gathered(data: Dataset, box: Box, index: np.ndarray) -> Transitions:
    """The transitions at these rows, float32."""
    low, high = np.asarray(box.low, np.float64), np.asarray(box.high, np.float64)
    half = 0.5 * (high - low)
    z = (np.asarray(data.u)[index] - 0.5 * (low + high)) / np.where(half > 0, half, 1.0)
    of = lambda v: np.asarray(v, np.float32)
    x, y, cost = of(data.x[index]), of(data.y[index]), -of(data.reward[index])
    return Transitions(x, of(np.clip(z, -1.0, 1.0)), cost, y, np.asarray(data.terminated)[index])


@eqx.filter_jit
def _units(spec: Spec, x: Float[Array, "C n"], reward: Float[Array, " C"], use: Array) -> tuple[Scaler, Array]:
    """Mean and spread of what the networks see of a state, and the root mean square reward (1 where there is none)."""
    known = jnp.where(use[:, None], x, 0.0)
    inputs = fit_scaler(jax.vmap(lambda each: seen(spec, each))(known), jnp.asarray(use))
    square = jnp.sum(jnp.where(use, reward, 0.0) ** 2) / jnp.maximum(jnp.sum(use), 1)
    unit = jnp.sqrt(square).astype(jnp.float32)
    return inputs, jnp.where(unit > 0.0, unit, 1.0)


@eqx.filter_jit
def _imagined(
    model: AbstractDynamics,
    cost: AbstractCost,
    view: tuple[SquashedNetwork, Spec, Box],
    starts: Float[Array, "P N n"],
    ring: Ring,
    how: tuple[RandomKey, int],
) -> tuple[Ring, Metrics]:
    """The ring with what the policy would do from these states, each row of them in one drawn model."""
    actor, spec, box = view
    key, horizon = how
    k_draw, k_roll = jr.split(key)
    beliefs = model.draw(k_draw, starts.shape[0])

    def choose(x: Array, key: RandomKey) -> Array:
        at = head(actor, spec, x)
        return squash(at, jr.normal(key, at.mean.shape, jnp.float32))[0]

    keys = jr.split(k_roll, (horizon, starts.shape[0]))
    made, sound = branch(beliefs, cost, choose, box.decode, jnp.asarray(starts), keys)
    flat = jax.tree.map(lambda v: v.reshape(-1, *v.shape[3:]), made)
    after = push(ring, flat, sound.reshape(-1))
    share = jnp.mean(jnp.where(sound, made.ends, False).astype(jnp.float32))
    return after, {"imagined": jnp.sum(sound, dtype=jnp.int32), "imagined_ends": share}
