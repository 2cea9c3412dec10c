"""Section 3.2: what a plan of iterative LQR is worth under noise, by its actions, with its feedback, or replanned.

A cart-pole that has to come upright and to the middle, with known equations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.ilqr import ILQRSolution, ilqr
from forethought.types import Action, Array, Scalar, State, Time
from forethought.worlds.classic import CartPole

STEPS, ROLLOUTS, MOST = 40, 4, 10.0
"""Of 0.02 s; per seed; N of force."""
START = np.asarray([0.3, 0.0, 0.2, 0.0])
NOISE = np.asarray([0.0, 0.03, 0.0, 0.1])
"""Standard deviations per step, of the velocities."""
WEIGHTS = np.asarray([1.0, 0.1, 10.0, 0.1])
Controller = Callable[[int, np.ndarray], np.ndarray]


class Cart(eqx.Module):
    """CartPole-v1 with a continuous force."""

    def __call__(self, x: State, u: Action, t: Time) -> State:
        """The next [p, v, th, w]."""
        del t
        return CartPole()(x, u)


class Stage(eqx.Module):
    """What a step costs."""

    def __call__(self, x: State, u: Action, t: Time) -> Scalar:
        """x' W x + u^2 / 1000."""
        del t
        return jnp.sum(WEIGHTS * x**2) + 1e-3 * jnp.sum(u**2)


class End(eqx.Module):
    """What the last state costs."""

    def __call__(self, x: State) -> Scalar:
        """10 x' W x."""
        return 10.0 * jnp.sum(WEIGHTS * x**2)


def plan(x: Float[np.ndarray, " n"], us: Float[Array, "T m"]) -> ILQRSolution:
    """From a state on, beginning with these controls."""
    return ilqr(Cart(), Stage(), End(), x, us, -MOST, MOST)


@eqx.filter_jit
def _advance(x: State, u: Action) -> tuple[State, Scalar]:
    t = jnp.zeros((), jnp.int32)
    return Cart()(x, u, t), Stage()(x, u, t)


def cost(controller: Controller, disturbance: Float[np.ndarray, "T n"]) -> float:
    """Of one rollout with these disturbances."""
    x, total = START, 0.0
    for t, w in enumerate(disturbance):
        y, charge = _advance(x, np.clip(controller(t, x), -MOST, MOST))
        x, total = np.asarray(y) + w, total + float(charge)
    return total + 10.0 * float(np.sum(WEIGHTS * x**2))


def open_loop(found: ILQRSolution) -> Controller:
    """Version 0.5 of the controllers: the planned actions."""
    us = np.asarray(found.us)
    return lambda t, x: us[t]


def feedback(found: ILQRSolution) -> Controller:
    """Version 1.0: the planned actions, corrected by the gains."""
    us, K, xs = (np.asarray(part) for part in (found.us, found.K, found.xs))
    return lambda t, x: us[t] + K[t] @ (x - xs[t])


def replanned(found: ILQRSolution) -> Controller:
    """MPC: the first action of a new plan at every step, which begins with the last one, shifted."""
    now = [np.asarray(found.us)]

    def act(t: int, x: np.ndarray) -> np.ndarray:
        if t:
            now[0] = np.asarray(plan(x, np.concatenate([now[0][1:], now[0][-1:]])).us)
        return now[0][0]

    return act


def costs(seed: int, *ways: Callable[[ILQRSolution], Controller]) -> list[float]:
    """Mean costs of each way to execute the same plan, under the same noise."""
    found = plan(START, np.zeros((STEPS, 1)))
    noise = NOISE * np.random.default_rng(seed).standard_normal((ROLLOUTS, STEPS, 4))
    return [float(np.mean([cost(way(found), each) for each in noise])) for way in ways]


def tracked(seed: int, full: bool) -> Outcome:
    """How much more the actions alone cost than with the gains."""
    del full
    pair = costs(seed, open_loop, feedback)
    return Outcome(log_ratio(*pair), {"open loop and feedback": pair})


def mpc(seed: int, full: bool) -> Outcome:
    """How much more the actions alone cost than replanning."""
    del full
    pair = costs(seed, open_loop, replanned)
    return Outcome(log_ratio(*pair), {"open loop and replanned": pair})


WHERE = (
    f"CartPole-v1's cart with a continuous force, from 0.3 m and 0.2 rad, {STEPS} steps, noise of 0.03 m/s and 0.1 "
    f"rad/s per step, {ROLLOUTS} rollouts: a plan of iterative LQR on the true equations."
)

TRACKED = Claim(
    name="ilqr-feedback",
    section="3.2, versions 0.5 and 1.0 of the controller",
    sentence="Executing iLQR's planned actions alone does not correct deviations; u = K (x - x') + k + u' does.",
    prediction="Under process noise the planned actions cost more than the same plan with iLQR's gains.",
    how=f"{WHERE} Ratio of mean costs, actions over actions with gains.",
    measure=tracked,
    unit=TIMES,
)
MPC = dataclasses.replace(
    TRACKED,
    name="ilqr-mpc",
    section="2, version 1.5",
    sentence="If a mistake is made one can replan: MPC is robust.",
    prediction="Under process noise the planned actions cost more than replanning with iLQR at every step.",
    how=f"{WHERE} Ratio of mean costs, actions over replanning {STEPS} steps ahead at every step.",
    measure=mpc,
)
CLAIMS = (TRACKED, MPC)
