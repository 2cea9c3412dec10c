"""Section 2, version 1.5: open loop against replanning at every step, with noise and with a model that is a bit wrong.

The planner knows the true equations, so that nothing but the execution differs.
"""

from __future__ import annotations

import dataclasses

import jax.random as jr
import numpy as np

from forethought.core import AbstractPolicy
from forethought.lecture.apparatus import cost_of
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.models.known import KnownDynamics
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning, PlanOnce
from forethought.tasks import task
from forethought.worlds.classic import Pendulum

LIMIT, HORIZON, EPISODES = 50, 20, 8
STD = 0.5
"""Of the process noise on the speed, in rad/s per step; torques change it by at most 0.3 per step."""
LITTLE = 0.05
LIGHT = 0.9
"""The mass that the planner believes in, where it is wrong by a tenth."""


def _policies(mass: float) -> tuple[AbstractPolicy, AbstractPolicy]:
    """Open loop for a whole episode, and replanning, with the searches of v1.0 and v1.5."""
    target = task("pendulum", limit=LIMIT)
    model = KnownDynamics(Pendulum(m=mass))
    once = Planning(ICEM(samples=256, iterations=10, elites=20), model, target.cost, target.world.actions, LIMIT)
    return PlanOnce(once), MPC(dataclasses.replace(once, planner=ICEM(), horizon=HORIZON))


def costs(seed: int, std: float, mass: float = 1.0) -> tuple[float, float]:
    """Mean costs of open loop and of replanning, in the same episodes with the same noise."""
    target = task("pendulum", limit=LIMIT)
    world = dataclasses.replace(target.world, process_std=np.asarray([0.0, 0.0, std]))
    starts = [10 * seed + i for i in range(EPISODES)]
    open_loop, replanned = (cost_of(world.rollouts(policy, jr.key(seed), starts, LIMIT)) for policy in _policies(mass))
    return open_loop, replanned


def _told(**pairs: tuple[float, float]) -> dict[str, list[float]]:
    return {f"open loop and replanned, {name.replace('_', ' ')}": list(pair) for name, pair in pairs.items()}


def noisy(seed: int, full: bool) -> Outcome:
    """How much more open loop costs under noise."""
    del full
    pair = costs(seed, STD)
    return Outcome(log_ratio(*pair), _told(noise=pair))


def growing(seed: int, full: bool) -> Outcome:
    """By what factor that ratio is larger than with little noise."""
    del full
    much, little = costs(seed, STD), costs(seed, LITTLE)
    return Outcome(log_ratio(*much) - log_ratio(*little), _told(much_noise=much, little_noise=little))


def mistaken(seed: int, full: bool) -> Outcome:
    """By what factor a wrong mass makes open loop dearer, over the same for replanning."""
    del full
    right, wrong = costs(seed, 0.0), costs(seed, 0.0, LIGHT)
    effect = log_ratio(wrong[0], right[0]) - log_ratio(wrong[1], right[1])
    return Outcome(effect, _told(right_mass=right, wrong_mass=wrong))


WHERE = (
    f"The classic pendulum, its true equations known to the planner, {EPISODES} episodes of {LIMIT} steps from random "
    f"starts: one plan by iCEM for the whole episode, against replanning at every step, {HORIZON} steps ahead."
)

NOISY = Claim(
    name="mpc-noise",
    section="2, versions 1.0 and 1.5",
    sentence="An open-loop plan may perform poorly in stochastic domains; replanning at every step (MPC) does not.",
    prediction="Under process noise the open-loop plan costs more than MPC.",
    how=f"{WHERE} Noise of {STD} rad/s per step; ratio of mean costs, open loop over MPC.",
    measure=noisy,
    unit=TIMES,
)
GROWING = dataclasses.replace(
    NOISY,
    name="mpc-noise-grows",
    sentence="Open loop suffers the more, the more stochastic the domain is.",
    prediction="The ratio of costs, open loop over MPC, grows with the noise.",
    how=f"{WHERE} That ratio with noise of {STD} rad/s per step, over the ratio with {LITTLE}.",
    measure=growing,
    note="Little noise is enough to lose an unstable goal open loop; much noise changes the speed by more per step "
    "than a torque can, 0.3 rad/s, so MPC becomes dearer, too.",
)
MISTAKEN = dataclasses.replace(
    NOISY,
    name="mpc-model-error",
    section="2, version 1.5",
    sentence="MPC is robust to small errors of the model.",
    prediction="A mass that is wrong by a tenth makes the open-loop plan dearer by a larger factor than MPC.",
    how=f"{WHERE} No noise. Ratio of costs, wrong over right mass: open loop's over MPC's.",
    measure=mistaken,
)
CLAIMS = (NOISY, GROWING, MISTAKEN)
