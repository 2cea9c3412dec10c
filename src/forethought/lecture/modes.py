"""Section 2, the loss of a network: one Gaussian against a mixture where the same action has two outcomes."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractCost, AbstractDynamics, AbstractLearner, Problem
from forethought.lecture.apparatus import Rows, data_of
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.models.mdn import MDNLearner
from forethought.models.plain import NetworkLearner
from forethought.planners.icem import ICEM
from forethought.types import Action, Array, Box, Flag, RandomKey, Scalar, Spec, State, Time

ROWS, FRESH, NOISE = 400, 1000, 0.05
SPEC = Spec(n=1, m=1)
LEARNERS = (NetworkLearner(), MDNLearner(components=2))
"""The Euclidean loss, and the likelihood of a mixture."""
LEARNED, JUDGED = 0, 1
"""Purposes of random numbers: no model is judged by chances that it was fitted to."""
STARTS = np.linspace(-0.2, 0.2, 8)[:, None]
"""Where the planner is asked."""


def pushed(u: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How far the ball rolls to one side or the other, with equal chance, when it is pushed so hard."""
    side = np.where(random.random(u.shape) < 0.5, -1.0, 1.0)
    return side * (0.2 + 0.8 * np.abs(u)) + NOISE * random.standard_normal(u.shape)


def transitions(count: int, seed: int, purpose: int) -> Rows:
    """A ball on a ridge: x' = x -+ (0.2 + 0.8 |u|) + noise; other ones for another purpose."""
    random = np.random.default_rng([seed, purpose])
    x, u = random.uniform(-0.2, 0.2, (count, 1)), random.uniform(-1.0, 1.0, (count, 1))
    return Rows(x, u, x + pushed(u, random))


def fitted(learner: AbstractLearner, seed: int) -> AbstractDynamics:
    """The learner's model of ROWS rows."""
    k_init, k_fit, _ = jr.split(jr.key(seed), 3)
    return learner.fit(learner.init(SPEC, k_init), data_of(SPEC, transitions(ROWS, seed, LEARNED)), k_fit)[0].model


@eqx.filter_jit
def _log_likelihood(model: AbstractDynamics, x: Array, u: Array, y: Array) -> Array:
    at = jnp.zeros((), jnp.int32)
    return jnp.mean(jax.vmap(lambda x, u, y: model.predict(x, u, at).log_prob(y))(x, u, y))


def likelihood(model: AbstractDynamics, rows: Rows) -> float:
    """Mean log density of the rows, in nats."""
    return float(_log_likelihood(model, *(jnp.asarray(part, jnp.float32) for part in rows)))


def likely(seed: int, full: bool) -> Outcome:
    """By how much the mixture's log-likelihood of new rows is larger."""
    del full
    fresh = transitions(FRESH, seed, JUDGED)
    one, two = (likelihood(fitted(learner, seed), fresh) for learner in LEARNERS)
    return Outcome(two - one, {"one Gaussian": one, "mixture": two})


class Slots(AbstractCost):
    """(|y| - 1)^2 + u^2 / 10: the ball shall land one unit to either side."""

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: State, t: Time) -> Scalar:
        del x, t
        return (jnp.abs(y[0]) - 1.0) ** 2 + 0.1 * jnp.sum(u**2)

    def terminal(self, x: State) -> Scalar:
        return jnp.zeros((), x.dtype)

    def alive(self, y: State) -> Flag:
        del y
        return jnp.ones((), bool)


@eqx.filter_jit
def _chosen(planner: ICEM, model: AbstractDynamics, x: State, key: RandomKey) -> Action:
    box = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    problem = Problem(model, Slots(), box, x, jnp.zeros((), jnp.int32), 1)
    plan, _ = planner.plan(problem, planner.init(problem), key)
    return plan.policy.act(plan.policy.init(x, key), x, problem.t0)[0]


def true_cost(model: AbstractDynamics, seed: int) -> float:
    """What the planner's actions really cost."""
    *_, k_plan = jr.split(jr.key(seed), 3)
    keys = jr.split(k_plan, len(STARTS))
    u = np.stack([_chosen(ICEM(), model, jnp.asarray(x, jnp.float32), k) for x, k in zip(STARTS, keys, strict=True)])
    y = STARTS[:, None] + pushed(np.tile(u[:, None], (1, 100, 1)), np.random.default_rng([seed, JUDGED]))
    return float(np.mean((np.abs(y) - 1.0) ** 2 + 0.1 * u[:, None] ** 2))


def planned(seed: int, full: bool) -> Outcome:
    """How much more plans cost that go through one Gaussian."""
    del full
    one, two = (true_cost(fitted(learner, seed), seed) for learner in LEARNERS)
    return Outcome(log_ratio(one, two), {"one Gaussian": one, "mixture": two})


WHERE = (
    f"A ball on a ridge that a push sends to one side or the other by 0.2 + 0.8 |u|; a network with a Euclidean loss "
    f"(one Gaussian) and one whose output is a mixture of two Gaussians, fitted to {ROWS} rows."
)

LIKELY = Claim(
    name="mixture-likelihood",
    section="2, models",
    sentence="A Euclidean loss corresponds to one Gaussian; more complex losses output a mixture of Gaussians.",
    prediction="Where one action has two outcomes a mixture gives new data a larger likelihood than one Gaussian.",
    how=f"{WHERE} Difference of the mean log-likelihood of {FRESH} new rows, mixture minus Gaussian.",
    measure=likely,
    unit="nats per row",
)
PLANNED = dataclasses.replace(
    LIKELY,
    name="mixture-planning",
    prediction="Plans through a Gaussian's mean, where nothing ever lands, cost more than plans through a mixture.",
    how=f"{WHERE} The ball shall land 1 away; actions by iCEM with the library's defaults (the mean of one Gaussian, "
    "samples of a mixture). Ratio of true costs, Gaussian over mixture.",
    measure=planned,
    unit=TIMES,
)
CLAIMS = (LIKELY, PLANNED)
