"""Section 3.1: local models by linear regression at every step, and with a global model as the prior."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.algorithms.local_improve import RIDGE
from forethought.core import AbstractDynamics
from forethought.lecture.apparatus import data_of, joined
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.local_fit import LocalFit, fit_bayesian, fit_regression
from forethought.models.gmm import GMMLearner
from forethought.models.local_prior import prior_from
from forethought.policies.linear_gaussian import Gains, LinearGaussianController
from forethought.tasks import task
from forethought.types import Array, Box, Trajectory

STEPS, FEW, RANK, ENOUGH, FRESH = 50, 5, 6, 18, 20
"""Of an episode; rollouts of a usual iteration; as many as x and u have numbers; three times that; held out."""
STD = 0.02
"""Of the process noise on the arm's joint velocities, in rad/s per step."""
EXCITED = 0.1
"""Standard deviation of the torques, in half ranges: the library's first controllers of the local method."""


def rollouts(seed: int, count: int) -> list[Trajectory]:
    """Of noise around zero torque, from one start."""
    target = task("arm-reach")
    world = dataclasses.replace(target.world, process_std=np.asarray([0.0, 0.0, STD, STD]))
    box, zeros = world.actions, lambda *shape: jnp.zeros((1, STEPS, *shape))
    assert isinstance(box, Box)
    noise = jnp.broadcast_to(EXCITED * jnp.diag(jnp.asarray(box.high, jnp.float64)), (1, STEPS, 2, 2))
    controller = LinearGaussianController(
        gains=Gains(zeros(4), zeros(2), zeros(2, 4), noise),
        starts=jnp.zeros((1, 4)),
        widths=jnp.ones(4),
        anchored=jnp.ones((), bool),
        only=jnp.zeros((), jnp.int32),
        noise=jnp.ones(()),
        actions=box,
    )
    return world.rollouts(controller, jr.key(seed), [seed] * count, STEPS)


def stacked(trajectories: list[Trajectory]) -> tuple[Float[Array, "T N d"], Float[Array, "T N n"]]:
    """[x; u] and the next states at every step."""
    z = np.stack([np.concatenate([t.x, t.u], axis=1) for t in trajectories], axis=1)
    return jnp.asarray(z), jnp.asarray(np.stack([t.y for t in trajectories], axis=1))


def prior(trajectories: list[Trajectory], seed: int) -> AbstractDynamics:
    """The global model, of the same rollouts."""
    spec, learner = task("arm-reach").spec, GMMLearner()
    k_init, k_fit = jr.split(jr.key(seed))
    return learner.fit(learner.init(spec, k_init), data_of(spec, joined(trajectories)), k_fit)[0].model


@jax.jit
def _error(fit: LocalFit, z: Array, y: Array) -> Array:
    """Root mean square one-step error on held-out rollouts, in units of the change."""
    F, f, _ = fit.dynamics
    off = jnp.einsum("tij,tnj->tni", F, z) + f[:, None] - y
    change = jnp.sqrt(jnp.mean((y - z[:, :, :4]) ** 2, axis=(0, 1)))
    return jnp.sqrt(jnp.mean((off / change) ** 2))


def regressed(used: list[Trajectory], fresh: list[Trajectory]) -> tuple[float, LocalFit]:
    """Error of version 1.0 on fresh rollouts, and the fit."""
    z, y = stacked(used)
    fit = jax.jit(fit_regression)(z, y, jnp.ones(z.shape[:2]))
    return float(_error(fit, *stacked(fresh))), fit


def informed(used: list[Trajectory], fresh: list[Trajectory], seed: int) -> float:
    """Error of version 2.0."""
    z, y = stacked(used)
    weight = jnp.ones(z.shape[:2])
    fit = fit_bayesian(z, y, weight, prior_from(prior(used, seed), z, y, weight), ridge=RIDGE)
    return float(_error(fit, *stacked(fresh)))


def bayesian(seed: int, full: bool) -> Outcome:
    """How much larger the error of regression is with few rollouts."""
    del full
    both = rollouts(seed, FEW + FRESH)
    used, fresh = both[:FEW], both[FEW:]
    found = {"regression": regressed(used, fresh)[0], "with the prior": informed(used, fresh, seed)}
    return Outcome(log_ratio(*found.values()), found)


def rank(seed: int, full: bool) -> Outcome:
    """How much larger the error of regression is with as many rollouts as x and u have numbers."""
    del full
    both, told = rollouts(seed, ENOUGH + FRESH), dict[str, Any]()
    for count in (RANK, ENOUGH):
        told[f"error, {count} rollouts"], fit = regressed(both[:count], both[ENOUGH:])
        told[f"steps whose noise is unknown, {count} rollouts"] = float(jnp.mean(fit.guessed))
    return Outcome(log_ratio(told[f"error, {RANK} rollouts"], told[f"error, {ENOUGH} rollouts"]), told)


WHERE = (
    f"The two-link arm, process noise of {STD} rad/s per step, rollouts of {STEPS} steps with Gaussian torques of "
    f"{EXCITED} of their limits from one start; root mean square one-step error on {FRESH} fresh rollouts, in units of "
    "the change per step."
)

BAYESIAN = Claim(
    name="bayesian-few-rollouts",
    section="3.1, versions 1.0 and 2.0",
    sentence="Fit the dynamics at each step by Bayesian linear regression with a global model as prior instead of by "
    "linear regression.",
    prediction=f"With {FEW} rollouts linear regression is less accurate than Bayesian linear regression.",
    how=f"{WHERE} The prior is a Gaussian mixture of the same {FEW} rollouts. Ratio of errors, regression over "
    "Bayesian.",
    measure=bayesian,
    unit=TIMES,
)
RANKED = dataclasses.replace(
    BAYESIAN,
    name="regression-rank",
    section="3.1, version 1.0",
    sentence="Linear regression fits the dynamics at each time from the rollouts of that time alone.",
    prediction=f"With {RANK} rollouts, as many as state and action have numbers, its error is more than twice what it "
    f"is with {ENOUGH}.",
    how=f"{WHERE} Ratio of errors of linear regression, {RANK} over {ENOUGH} rollouts.",
    measure=rank,
    margin=float(np.log(2.0)),
)
CLAIMS = (BAYESIAN, RANKED)
