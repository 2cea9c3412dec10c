"""Section 2, models: the Gaussian process and the network with few rows and with many, smooth and with kinks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractDynamics, AbstractLearner
from forethought.lecture.apparatus import Rows, data_of, error, spread
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.models.gp_learner import GPLearner
from forethought.models.plain import NetworkLearner
from forethought.types import Action, Spec, State
from forethought.worlds.classic import Pendulum

SPEC = Spec(n=3, m=1)
FEW, SOME, MANY, FRESH = 50, 300, 3000, 512
NOISE = 0.02
"""Standard deviation of the process noise, in every component."""
LEARNERS: dict[str, AbstractLearner] = {"GP": GPLearner(), "network": NetworkLearner()}


def stopped(x: State, u: Action) -> State:
    """The pendulum between two stops at -2 and 2 rad from upright, off which it bounces with half its speed."""
    y = Pendulum()(x, u)
    angle, before = jnp.arctan2(y[1], y[0]), jnp.arctan2(x[1], x[0])
    # The whole lower part is out of reach: whoever starts there is put at the stop.
    beyond = jnp.abs(angle) > 2.0
    held = 2.0 * jnp.sign(jnp.where(beyond, angle, before))
    at = jnp.where(beyond, held, angle)
    speed = jnp.where(beyond & (y[2] * held > 0.0), -0.5 * y[2], y[2])
    return jnp.stack([jnp.cos(at), jnp.sin(at), speed])


def transitions(system: Callable[[State, Action], State], count: int, seed: int, noise: float = NOISE) -> Rows:
    """From states all over: angles within 2 rad of upright, speeds to 6 rad/s, torques to 2 N m."""
    random = np.random.default_rng([seed, count])
    angle, speed = random.uniform(-2.0, 2.0, count), random.uniform(-6.0, 6.0, count)
    x, u = np.stack([np.cos(angle), np.sin(angle), speed], axis=1), random.uniform(-2.0, 2.0, (count, 1))
    y = np.asarray(jax.vmap(system)(jnp.asarray(x), jnp.asarray(u)))
    return Rows(x, u, y + noise * random.standard_normal(y.shape))


def fitted(learner: AbstractLearner, rows: Rows, seed: int) -> AbstractDynamics:
    """The model of these rows."""
    k_init, k_fit = jr.split(jr.key(seed))
    return jax.block_until_ready(learner.fit(learner.init(SPEC, k_init), data_of(SPEC, rows), k_fit)[0].model)


def errors(system: Callable[[State, Action], State], count: int, seed: int) -> dict[str, float]:
    """Of both models on new points, against the system without noise."""
    rows, fresh = transitions(system, count, seed), transitions(system, FRESH, 10_000 + seed, 0.0)
    return {name: error(fitted(learner, rows, seed), fresh, spread(rows)) for name, learner in LEARNERS.items()}


def few(seed: int, full: bool) -> Outcome:
    """How much larger the network's error is with few rows."""
    del full
    found = errors(Pendulum(), FEW, seed)
    return Outcome(log_ratio(found["network"], found["GP"]), found)


def many(seed: int, full: bool) -> Outcome:
    """How much larger the Gaussian process's error is with many rows."""
    del full
    found = errors(Pendulum(), MANY, seed)
    return Outcome(log_ratio(found["GP"], found["network"]), found)


def kinks(seed: int, full: bool) -> Outcome:
    """By what factor the lead of the Gaussian process is larger where the system is smooth."""
    del full
    smooth, kinked = errors(Pendulum(), SOME, seed), errors(stopped, SOME, seed)
    lead = lambda found: log_ratio(found["network"], found["GP"])
    told: dict[str, Any] = {f"smooth, {name}": value for name, value in smooth.items()}
    return Outcome(lead(smooth) - lead(kinked), told | {f"kinks, {name}": value for name, value in kinked.items()})


WHERE = (
    f"The pendulum, states within 2 rad of upright, noise of {NOISE} on every component; a Gaussian process and a "
    f"network with the library's defaults; root mean square error of one step at {FRESH} new points."
)

FEW_ROWS = Claim(
    name="gp-few-rows",
    section="2, models",
    sentence="Gaussian processes are very data-efficient; networks are not great in low data areas.",
    prediction=f"With {FEW} rows the network's error is larger than the Gaussian process's.",
    how=f"{WHERE} Ratio of errors, network over Gaussian process.",
    measure=few,
    unit=TIMES,
    seeds=tuple(range(100, 108)),
    full_seeds=tuple(range(100, 120)),
)
MANY_ROWS = dataclasses.replace(
    FEW_ROWS,
    name="network-many-rows",
    sentence="Networks are very expressive, and use lots of data.",
    prediction=f"With {MANY} rows the Gaussian process's error is larger than the network's.",
    how=f"{WHERE} Ratio of errors, Gaussian process over network.",
    measure=many,
    note="The pendulum is smooth and of few dimensions, which suits a Gaussian process, and the network takes 1,000 "
    "gradient steps whatever the data, in a fiftieth of the time. More steps were not tried.",
    seeds=tuple(range(100, 105)),
)
KINKS = dataclasses.replace(
    FEW_ROWS,
    name="gp-kinks",
    sentence="Gaussian processes are not great with non-smooth dynamics.",
    prediction="Between two stops off which the pendulum bounces, the Gaussian process's lead over the network is "
    "smaller than where the system is smooth.",
    how=f"{WHERE} With {SOME} rows: ratio of errors, network over Gaussian process; that of the smooth system over "
    "that of the one with stops.",
    measure=kinks,
)
CLAIMS = (FEW_ROWS, MANY_ROWS, KINKS)
