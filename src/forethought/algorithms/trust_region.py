"""KL-bounded policy updates: a stochastic network policy, improved on real rollouts or on imagined ones.

    1  run the policy to collect D
    2  fit f to D                                              (imagined only)
    3  estimate the advantages of what was done                (really, or in imagined rollouts through drawn models)
    4  minimise the surrogate with mean KL(old || new) <= eps  (imagined: again and again, while most models agree)
    5  go to 1

The same policy, value function and bound in both, so that what a model buys can be compared.  Really: Schulman et al.,
Trust region policy optimization, ICML 2015.  Imagined: Kurutach et al., Model-ensemble trust-region policy
optimization, ICLR 2018; here each rollout keeps one model (there each step draws one), starts from states of D and is
closed by the value function, and updates that most models did not confirm are taken back.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Int

from forethought.algorithms.trust_improve import (
    Actor,
    Critic,
    Ending,
    Rows,
    Terms,
    acting,
    critic_of,
    drawn,
    imagine,
    init_actor,
    judge,
    settle,
    update,
)
from forethought.algorithms.turn import execute, learn_inside, resized_part
from forethought.core import AbstractAlgorithm, AbstractDynamics, AbstractLearner, AbstractSized, RunState, Task
from forethought.math.dataset import empty
from forethought.math.imagined import Room, Starts
from forethought.math.kl_dual import KLStatus
from forethought.math.trust_region import StepHow
from forethought.models.ensemble import EnsembleLearner
from forethought.models.value import FittedValue, ValueLearner
from forethought.policies.neural import ChoosingPolicy, NeuralPolicy
from forethought.types import Array, Dataset, Metrics, RandomKey

REAL, IMAGINED = 1000, 200
"""Environment steps between two improvements, unless the recipe says otherwise."""


MARGIN = 0.1
"""How far imagined states may leave the ranges of the real ones, in shares of the range."""


class TrustState(AbstractSized):
    """The policy, its value function, and the model that it may be improved in."""

    inner: Any
    """What the learner carries."""
    actor: Actor
    value: FittedValue
    updates: Int[Array, ""]
    """Improvements so far: of imagined ones many in a turn count once."""
    used: Int[Array, ""]
    """Rows of the data that have been learned from."""

    @property
    def model(self) -> AbstractDynamics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The learned model; never fitted if updates are real."""
        return self.inner.model

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> TrustState:
        """With room for what the model has kept of its data."""
        return resized_part(self, "inner", shapes)


class _Search(NamedTuple):
    """Imagined updates on their way."""

    actor: Actor
    critic: Critic
    kept: Actor
    """The last that enough models confirmed."""
    share: float
    """Of the models that judge, how many said of the last check that it costs less."""
    checks: list[tuple[np.ndarray, np.ndarray]]
    """[P] each: what the kept and the new policy cost in them."""


class TrustRegion(AbstractAlgorithm):
    """Trust-region policy optimisation, on real or on imagined rollouts."""

    data: Literal["imagined", "real"] = "imagined"
    """What updates see: rollouts imagined in the learned model, or the real ones themselves (model-free)."""
    learner: AbstractLearner = EnsembleLearner()
    """The model (with data imagined)."""
    fresh: int = 0
    """Environment steps between two improvements; 0: 1000 if updates are real, 200 if they are imagined."""
    kl: float = 0.01
    """The bound of an update, in nats per state."""
    discount: float = 0.99
    trace: float = 0.95
    """lambda of the advantages: 0 trusts the value function, 1 the rollouts."""
    width: int = 64
    depth: int = 2
    std: float = 0.5
    """Standard deviation of the first policy's actions, in half ranges."""
    damping: float = 0.01
    """Of the Fisher information, in units of its curvature along the slope."""
    value: ValueLearner = ValueLearner()
    """The value function."""
    updates: int = 25
    """Most updates per improvement (with data imagined)."""
    check_every: int = 5
    """Updates between two checks whether enough models confirm the improvement."""
    agree: float = 0.7
    """Share of the models that must."""
    models: int = 5
    """Models drawn for an update, and to judge it."""
    rollouts: int = 20
    """Imagined rollouts per drawn model."""
    horizon: int = 50
    """Steps of an imagined rollout."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """The first policy: noise around the middle of the actions, or any choice."""
        key, k_model, k_actor, k_value = jr.split(key, 4)
        zero = jnp.zeros((), jnp.int32)
        actor = init_actor(task.spec, task.world.actions, (self.width, self.depth), self.std, k_actor)
        inner, value = self.learner.init(task.spec, k_model), self.value.init(task.spec, k_value)
        fitted = TrustState(inner, actor, value, zero, zero)  # pyright: ignore[reportCallIssue]
        return RunState(key, zero, zero, zero, empty(task.spec), fitted)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """At most until the next improvement is due; before that, the one that is due now."""
        metrics: Metrics = {}
        waiting, due = self._waiting(state), self._due()
        if waiting >= (1 if limit == 0 and self.data == "imagined" else due):
            state, metrics = (self._imagined if self.data == "imagined" else self._real)(task, state)  # 2 3 4
            waiting = 0
        if limit == 0:
            return state, metrics
        policy = acting(state.fitted.actor, task.world.actions, task.spec, 1.0)
        state, run = execute(policy, task, state, min(limit, due - waiting), grow=True)  # 1
        return state, metrics | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> NeuralPolicy | ChoosingPolicy:
        """The policy without its noise."""
        return acting(state.fitted.actor, task.world.actions, task.spec, 0.0)

    def _due(self) -> int:
        return self.fresh or (REAL if self.data == "real" else IMAGINED)

    def _waiting(self, state: RunState) -> int:
        """Rows that were not learned from; real updates may not use logged ones, which are another policy's."""
        rows = int(state.data.count) - int(state.fitted.used)
        return min(rows, int(state.steps)) if self.data == "real" else rows

    def _terms(self, task: Task) -> Terms:
        step = StepHow(damping=self.damping)
        return Terms(task.spec, self.kl, self.discount, self.trace, self.value, step)

    def _critic(self, state: RunState) -> Critic:
        reward = np.asarray(state.data.reward)[: int(state.data.count)]
        return critic_of(state.fitted.value, -reward, self.discount)

    def _real(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """One update on the newest rows."""
        key, k_update = jr.split(state.key)
        rows, fitted = _newest(state.data, self._due()), state.fitted
        actor = settle(fitted.actor, task.spec, rows.x, rows.use) if int(fitted.updates) == 0 else fitted.actor
        actor, value, told = update(actor, self._critic(state), rows, task.world.actions, self._terms(task), k_update)
        return _taken(state, key, actor, value), _said([told])

    def _imagined(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """Fit the model, then update in it until it no longer helps in enough of the drawn models."""
        state, metrics = learn_inside(self.learner, state, "inner")
        fitted: TrustState = state.fitted
        key, k_judge, k_starts, k_random, k_updates = jr.split(state.key, 5)
        x, t = _states(state.data)
        room = _room(state.data)
        if int(fitted.updates) == 0:
            rows = _newest(state.data, self._due())
            fitted = dataclasses.replace(fitted, actor=settle(fitted.actor, task.spec, rows.x, rows.use))
        judges, starts = drawn(fitted.model, k_judge, self.models), self._starts(x, t, k_starts)

        now, told = _Search(fitted.actor, self._critic(state), fitted.actor, 1.0, []), []
        for i, k_update in enumerate(jr.split(k_updates, self.updates)):
            now, each = self._imagined_update(task, fitted.model, now, (x, t, room), k_update)
            told.append(each)
            if (i + 1) % self.check_every and i + 1 < self.updates:
                continue
            now = self._checked(task, now, judges, (starts, room), k_random)
            if now.share < self.agree:
                break
        metrics |= _said(told) | _checks(now)
        return _taken(state, key, now.kept, now.critic.fitted), metrics

    def _checked(
        self, task: Task, now: _Search, judges: AbstractDynamics, where: tuple[Starts, Room], key: RandomKey
    ) -> _Search:
        """The policy is kept if it costs less than the one kept before in enough of the models."""
        starts, room = where
        one, two = (acting(actor, task.world.actions, task.spec, 1.0) for actor in (now.kept, now.actor))
        cost = Ending(task.cost, now.critic.bounded, self.discount)
        before, after = np.asarray(judge(judges, (one, two), cost, starts, (room, self.horizon), key))
        share = float(np.mean(after < before))
        kept = now.actor if share >= self.agree else now.kept
        return now._replace(kept=kept, share=share, checks=[*now.checks, (before, after)])

    def _imagined_update(
        self, task: Task, model: AbstractDynamics, now: _Search, where: tuple[np.ndarray, np.ndarray, Room], key: Array
    ) -> tuple[_Search, Metrics]:
        """One update on fresh rollouts in freshly drawn models."""
        x, t, room = where
        k_draw, k_starts, k_roll, k_step = jr.split(key, 4)
        beliefs, starts = drawn(model, k_draw, self.models), self._starts(x, t, k_starts)
        policy = acting(now.actor, task.world.actions, task.spec, 1.0)
        rows = imagine(beliefs, policy, task.cost, starts, (room, self.horizon), k_roll)
        actor, value, told = update(now.actor, now.critic, rows, task.world.actions, self._terms(task), k_step)
        return now._replace(actor=actor, critic=now.critic._replace(fitted=value)), told

    def _starts(self, x: np.ndarray, t: np.ndarray, key: RandomKey) -> Starts:
        """States of the data, each as likely as any other."""
        rows = np.asarray(jr.randint(key, (self.models, self.rollouts), 0, len(x), jnp.int32))
        return Starts(jnp.asarray(x[rows], jnp.float32), jnp.asarray(t[rows], jnp.int32))


def _newest(data: Dataset, rows: int) -> Rows:
    """The last so many rows; fewer are padded with some that do not count."""
    count = int(data.count)
    have = min(count, rows)

    def last(column: Array) -> np.ndarray:
        part = np.asarray(column)[count - have : count]
        return np.concatenate([part, np.zeros((rows - have, *part.shape[1:]), part.dtype)])

    episode, t, whole = last(data.episode), last(data.t), last(data.terminated) | last(data.truncated)
    follows = (episode[1:] == episode[:-1]) & (t[1:] == t[:-1] + 1)
    ended = whole | np.append(~follows, True)
    x, u, y = last(data.x), last(data.u), last(data.y)
    return Rows(x, u, y, -last(data.reward), last(data.terminated), ended, np.arange(rows) < have)


def _states(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All states of the data in which an action was taken, and their step of the episode."""
    count = int(data.count)
    x, t = np.asarray(data.x)[:count], np.asarray(data.t)[:count]
    sound = np.isfinite(x).all(axis=1)
    return x[sound], t[sound]


def _room(data: Dataset) -> Room:
    """The ranges of all states of the data, those that ended an episode too, and a little more."""
    count = int(data.count)
    seen = np.concatenate([np.asarray(data.x)[:count], np.asarray(data.y)[:count]])
    low, high = seen.min(axis=0), seen.max(axis=0)
    wider = MARGIN * (high - low)
    return Room(jnp.asarray(low - wider, jnp.float32), jnp.asarray(high + wider, jnp.float32))


def _taken(state: RunState, key: RandomKey, actor: Actor, value: FittedValue) -> RunState:
    """The state after an improvement."""
    used = jnp.asarray(int(state.data.count), jnp.int32)
    fitted = dataclasses.replace(
        state.fitted, actor=actor, value=value, updates=state.fitted.updates + jnp.int32(1), used=used
    )
    return eqx.tree_at(lambda s: (s.key, s.fitted), state, (key, fitted))


def _said(told: list[Metrics]) -> Metrics:
    """What is logged of one or more updates: means, the largest KL, and how often which status."""
    each = jax.tree.map(np.asarray, told)
    found: Metrics = {"policy_updates": len(each)}
    for name in each[0]:
        values = np.asarray([one[name] for one in each], np.float64)
        if name == "policy_status":
            counts = collections.Counter(KLStatus(int(v)).name.lower() for v in values)
            found[name] = dict(sorted(counts.items()))
        else:
            found[name] = float(values.mean()) if np.isfinite(values).all() else None
    found["policy_kl_most"] = float(max(one["policy_kl"] for one in each))
    return found


def _checks(now: _Search) -> Metrics:
    """What the models that judge said, means over them, check by check."""
    plain = lambda v: float(np.mean(v)) if np.isfinite(v).all() else None
    told = {"imagined_cost_kept": [plain(a) for a, _ in now.checks], "imagined_cost": [plain(b) for _, b in now.checks]}
    return {"policy_agreed": now.share} | told
