"""The lecture's local method: fit time-varying linear dynamics, improve the controller under a KL bound.

    1  run each condition's controller a few times
    2  fit p_t(x'|x, u) at every step, with a prior from a global model
    3  minimise E[cost] with KL(p || p_old) <= epsilon, by dual ascent
    4  go to 1

Levine and Abbeel, Learning neural network policies with guided policy search under unknown dynamics, NIPS 2014.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from forethought.algorithms.imitation import Guide, linearised
from forethought.algorithms.local_batch import batch_of, clip_rate, nearest_turn, newest
from forethought.algorithms.local_improve import (
    Bound,
    Carried,
    Dynamics,
    FittingBy,
    How,
    Improved,
    Rollouts,
    Setting,
    improve,
)
from forethought.algorithms.local_start import InitialController
from forethought.algorithms.turn import execute, learn_inside, resized_part
from forethought.core import AbstractAlgorithm, AbstractDynamics, AbstractLearner, AbstractSized, RunState, Task
from forethought.math.dataset import empty
from forethought.math.kl_dual import KLStatus
from forethought.math.linear_quadratic import LinearGaussianPolicy
from forethought.models.gmm import GMMLearner
from forethought.policies.linear_gaussian import Gains, LinearGaussianController
from forethought.policies.neural import Network, NeuralPolicy
from forethought.types import Array, Box, Metrics, RandomKey, UserError

Controller = Literal["gaussian", "feedback", "open-loop"]


class LocalState(AbstractSized):
    """The controllers of all conditions, and the global model that their fits take as prior."""

    prior: Any
    """What the learner carries."""
    network: Network | None
    """The policy that is trained on all controllers, if one is."""
    gains: Gains
    starts: Float[Array, "c n"]
    carried: Carried
    """[c] each."""
    improved: Int[Array, ""]
    """Improvements so far."""
    first: Int[Array, ""]
    """The first episode of the current iteration."""

    @property
    def model(self) -> AbstractDynamics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The global model."""
        return self.prior.model

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> LocalState:
        """With room for what the global model has kept of its data."""
        return resized_part(self, "prior", shapes)


class Local(AbstractAlgorithm):
    """Local models and linear-Gaussian controllers, one per initial condition, improved within a KL bound."""

    learner: AbstractLearner = GMMLearner()
    """The global model that is the prior of every local fit."""
    conditions: tuple[int, ...] = (0, 1, 2, 3)
    """Reset seeds: each has a controller of its own."""
    rollouts: int = 5
    """Per condition and iteration."""
    horizon: int = 0
    """Steps of an episode that are planned; 0: the task's limit."""
    fit: FittingBy = "bayesian"
    """bayesian: with a prior from the global model; regression: linear regression at every step."""
    strength: float = 1.0
    """How many rollouts the prior weighs."""
    recent: int = 20
    """The global model is fitted to so many of the newest rollouts: what is far from where the controllers are now
    makes it wide, and a wide prior leaves the rollouts little to say.  0: to all."""
    controller: Controller = "gaussian"
    """What is executed: gaussian (feedback and noise), feedback, or open-loop."""
    bound: Bound = "sum"
    """sum: KL over the whole trajectory; each: at every step; none."""
    kl: float = 0.5
    """The bound in nats per step, before it adapts."""
    initial: InitialController = InitialController()
    """What the first rollouts are made with."""
    floor: float = 0.01
    """Least standard deviation of any controller, in half ranges."""
    dynamics: Dynamics = "local"
    """local: the step is taken in the fits; global: around iterative LQR in the learner's model."""
    guide: Guide = Guide()
    """Guided policy search: one network that is trained to do what all the controllers do."""

    def init(self, task: Task, key: RandomKey) -> RunState:
        """The initial controllers.  Raises `UserError` for discrete actions and for settings that do not fit."""
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise UserError(f"conditions is {self.conditions}; it must be at least one reset seed, each of them once.")
        if not isinstance(task.world.actions, Box):
            raise UserError(
                f"{task.name} has discrete actions, and the local method has linear-Gaussian controllers: use "
                "--algorithm v1.5 instead."
            )
        if self.dynamics == "global" and self.bound != "sum":
            raise UserError(f"bound is {self.bound}, and with dynamics global it must be sum.")
        key, k_init, k_network = jr.split(key, 3)
        zero = jnp.zeros((), jnp.int32)
        n, c, T = task.spec.n, len(self.conditions), self._horizon(task)
        _, middle = _ranges(task.world.actions)
        first = self.initial.first(task.spec, task.world.actions, T)
        each = lambda part: jnp.asarray(np.broadcast_to(part, (c, *part.shape)))
        gains = Gains(jnp.zeros((c, T, n)), each(np.tile(middle, (T, 1))), each(first.K), each(first.L))
        # Of a stated dtype: a weak one would compile the second improvement anew.
        unknown = jnp.full((c,), jnp.nan, jnp.float64)
        carried = Carried(jnp.ones((c,), jnp.float64), unknown, unknown, unknown, unknown)
        prior = self.learner.init(task.spec, k_init)
        network = self.guide.init(task.spec, k_network)
        fitted = LocalState(prior, network, gains, jnp.zeros((c, n)), carried, zero, zero)  # pyright: ignore[reportCallIssue]
        return RunState(key, zero, zero, zero, empty(task.spec), fitted)

    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """One rollout; before the first of a new iteration, the improvement (Algorithm 6 of the lecture)."""
        metrics: Metrics = {}
        done = int(state.episodes) - int(state.fitted.first)
        if state.open is None and done >= self.rollouts * len(self.conditions):
            state, metrics = self._improve(task, state)  # 2 3
            done = 0
        if limit == 0:
            return state, metrics
        index = done % len(self.conditions)
        controller = self._controller(task, state, index, exploring=True)
        seeds = [self.conditions[index]] * len(task.worlds)
        state, run = execute(controller, task, state, limit, grow=True, conditions=seeds)  # 1
        return state, metrics | run

    def appends(self, state: RunState) -> bool:
        """Everything."""
        return True

    def policy(self, task: Task, state: RunState) -> LinearGaussianController | NeuralPolicy:
        """The means of the controllers, of which the one whose initial state is nearest takes an episode; or the
        network's."""
        network, actions = state.fitted.network, task.world.actions
        if network is not None and int(state.fitted.improved):
            assert isinstance(actions, Box)
            return NeuralPolicy(network, jnp.zeros((), jnp.float32), actions, task.spec)
        return self._controller(task, state, -1, exploring=False)

    def _horizon(self, task: Task) -> int:
        return min(self.horizon, task.limit) if self.horizon else task.limit

    def _controller(self, task: Task, state: RunState, index: int, *, exploring: bool) -> LinearGaussianController:
        """The controller as it is executed: the lecture's versions leave out noise, or feedback and noise."""
        fitted: LocalState = state.fitted
        gains, dtype = fitted.gains, fitted.starts.dtype
        if self.controller == "open-loop":
            gains = gains._replace(K=jnp.zeros_like(gains.K))
        # The very first rollouts need noise whatever the version: there is nothing else to learn from.
        noisy = exploring and (self.controller == "gaussian" or int(fitted.improved) == 0)
        actions = task.world.actions
        assert isinstance(actions, Box)
        return LinearGaussianController(
            gains=gains,
            starts=fitted.starts,
            widths=jnp.ones((task.spec.n,), dtype),
            anchored=jnp.asarray(int(fitted.improved) == 0),
            only=jnp.asarray(index, jnp.int32),
            noise=jnp.asarray(1.0 if noisy else 0.0, dtype),
            actions=actions,
            angles=task.spec.angles,
        )

    def _improve(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """Steps 2 and 3 for every condition."""
        state, metrics = self._learn(task, state)
        before: LocalState = state.fitted
        T, angles = self._horizon(task), task.spec.angles
        batch = batch_of(state.data, int(before.first), self.conditions, self.rollouts, T, angles)
        mean = np.mean(batch.x[:, :, :-1], axis=1)
        gains = before.gains
        # The first controllers are anchored where they took over.
        reference = np.asarray(gains.xs) if int(before.improved) else np.broadcast_to(mean[:, :1], mean.shape)
        reference = nearest_turn(reference, mean, angles)
        k = jnp.asarray(gains.us) - jnp.sum(gains.K * jnp.asarray(reference)[:, :, None, :], axis=3)
        own = LinearGaussianPolicy(gains.K, k, gains.L)
        network = before.network if int(before.improved) else None
        old = own if network is None else linearised(network, task.spec, jnp.asarray(mean))
        actions = task.world.actions
        assert isinstance(actions, Box)
        half, _ = _ranges(actions)
        how = How(self.fit, self.bound, self.kl, self.strength, angles, self.dynamics, self.floor)
        rollouts = Rollouts(*(jnp.asarray(part) for part in batch))
        found = improve(
            rollouts,
            old,
            before.carried,
            Setting(before.model, task.cost, jnp.asarray(half)),
            how,
            own if before.network is not None else None,
        )
        fitted = _taken(before, found, jnp.asarray(batch.whole), state.episodes)
        metrics |= _told(found, np.asarray(batch.cost)) | {"local_clip_rate": clip_rate(batch, actions)}
        key, k_guide = jr.split(state.key)
        if fitted.network is not None:
            network, told = self.guide.follow(fitted.network, task.spec, rollouts, fitted.gains, k_guide)
            fitted = dataclasses.replace(fitted, network=network)
            metrics |= told
        return eqx.tree_at(lambda s: (s.key, s.fitted), state, (key, fitted)), metrics

    def _learn(self, task: Task, state: RunState) -> tuple[RunState, Metrics]:
        """Fit the global model, unless nobody asks for it."""
        if self.fit == "regression" and self.dynamics == "local" and not task.cost.extras:
            return state, {}
        data = newest(state.data, max(self.recent, self.rollouts * len(self.conditions))) if self.recent else state.data
        return learn_inside(self.learner, state, "prior", data)


def _ranges(actions: Box) -> tuple[np.ndarray, np.ndarray]:
    """Half the range of each action, and its middle, float64."""
    low, high = np.asarray(actions.low, np.float64), np.asarray(actions.high, np.float64)
    return 0.5 * (high - low), 0.5 * (high + low)


def _taken(before: LocalState, found: Improved, whole: Array, episodes: Array) -> LocalState:
    """The state with the new controllers, where there was a rollout and every number is finite."""
    policy = found.policy
    us = policy.k + jnp.sum(policy.K * found.xs[:, :, None, :], axis=3)
    new = Gains(found.xs, us, policy.K, policy.L)
    sound = whole
    for part in (*new, found.carried.scale):
        sound = sound & jnp.all(jnp.isfinite(part).reshape(part.shape[0], -1), axis=1)
    choose = lambda a, b: jnp.where(sound.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)
    gains, starts, carried = (
        _each(choose, a, b)
        for a, b in ((new, before.gains), (found.start.m0, before.starts), (found.carried, before.carried))
    )
    improved = before.improved + 1
    return LocalState(before.prior, before.network, gains, starts, carried, improved, episodes)  # pyright: ignore[reportCallIssue]


def _each(choose: Any, new: Any, old: Any) -> Any:
    return choose(new, old) if not isinstance(new, tuple) else type(new)(*map(choose, new, old))


def _told(found: Improved, cost: np.ndarray) -> Metrics:
    """What is logged: per condition where that is what one wants to see."""
    step, cov = found.step, jnp.matmul(found.step.policy.L, jnp.swapaxes(found.step.policy.L, 2, 3))
    multiplier = np.asarray(step.multiplier).reshape(cost.shape[0], -1).max(axis=1)
    sharpest = np.linalg.eigvalsh(np.asarray(cov))[..., -1].max(axis=1)
    with np.errstate(invalid="ignore"):
        least = multiplier / np.maximum(sharpest, 1e-300)  # cov = multiplier Quu^-1
    kl = np.asarray(step.kl).sum(axis=1)
    per = {
        "cost": cost.mean(axis=1),
        "kl": kl,
        "kl_most": np.asarray(step.kl).max(axis=1),
        "epsilon": np.asarray(found.epsilon),
        "multiplier": multiplier,
        "predicted": np.asarray(found.cost - step.cost),
        "actual": np.asarray(found.actual),
        "least_quu": least,
        "solves": np.asarray(step.solves),
        "information": np.asarray(found.information),
        "guessed": np.asarray(found.guessed),
    }
    told: Metrics = {f"local_{name}": [_plain(v) for v in values] for name, values in per.items()}
    return told | {"local_status": [KLStatus(int(s)).name.lower() for s in np.asarray(step.status)]}


def _plain(value: Any) -> float | None:
    """A number for a file: none where it is not finite."""
    return float(value) if np.isfinite(value) else None
