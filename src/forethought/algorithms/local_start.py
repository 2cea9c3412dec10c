"""The controllers that the local method begins with: noise alone, or a feedback that holds the initial state."""

from __future__ import annotations

from typing import Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from forethought.math.linear_quadratic import LinearDynamics, QuadraticCost
from forethought.math.lqr import lqr_backward
from forethought.types import Box, Spec, UserError

Feedback = Literal["none", "pd", "hold"]


class First(NamedTuple):
    """u = middle of the range + K_t (x - x_0) + L_t e, for all steps."""

    K: Float[np.ndarray, "T m n"]
    L: Float[np.ndarray, "T m m"]


class InitialController(eqx.Module):
    """What the first rollouts are made with: noise around the middle of the action range, and perhaps feedback.

    pd:    u = -half stiffness (q - q_0 + damping v), with half the range of each action.
    hold:  the finite-horizon LQR of a guess of the system, q' = q + dt v + dt^2/2 G u, v' = v + dt G u with G =
           acceleration / half, whose cost is 1/2 |stiffness (q - q_0)|^2 + 1/2 |stiffness damping v|^2 +
           1/2 |u / half|^2; its noise is std^2 Quu^-1, which is less where an action has much effect.

    Feedback needs to know which components of the state are the positions that the actions drive, one per action, and
    which are their velocities.
    """

    feedback: Feedback = "none"
    std: float = 0.1
    """Standard deviation of the noise, in half ranges of the actions."""
    positions: tuple[int, ...] = ()
    """Components of the state, one per action."""
    velocities: tuple[int, ...] = ()
    """Those of the positions; none: no damping."""
    stiffness: float = 1.0
    """Half ranges per unit of position."""
    damping: float = 0.1
    """In s: how much a velocity counts beside a position."""
    dt: float = 0.05
    """Of hold: seconds per step."""
    acceleration: float = 1.0
    """Of hold: how fast half the range of an action accelerates its position, in units of position per s^2."""

    def first(self, spec: Spec, actions: Box, steps: int) -> First:
        """The controller for so many steps.  Raises `UserError` for positions that are not there."""
        half, n, m = 0.5 * (np.asarray(actions.high, np.float64) - actions.low), spec.n, spec.m
        noise = np.broadcast_to(np.diag(self.std * half), (steps, m, m))
        if self.feedback == "none":
            return First(np.zeros((steps, m, n)), noise)
        self._need_places(n, m)
        if self.feedback == "hold":
            return self._hold(half, n, steps)
        K, actions_ = np.zeros((m, n)), np.arange(m)
        K[actions_, list(self.positions)] = -half * self.stiffness
        if self.velocities:
            K[actions_, list(self.velocities)] = -half * self.stiffness * self.damping
        return First(np.broadcast_to(K, (steps, m, n)), noise)

    def _hold(self, half: np.ndarray, n: int, steps: int) -> First:
        m, q, v = len(half), list(self.positions), list(self.velocities)
        G = np.diag(self.acceleration / half)
        F = np.concatenate([np.eye(n), np.zeros((n, m))], axis=1)
        F[q, n:] = 0.5 * self.dt**2 * G
        F[v, n:] = self.dt * G
        F[q, v] = self.dt
        weights = np.zeros(n + m)
        weights[q], weights[v], weights[n:] = self.stiffness**2, (self.stiffness * self.damping) ** 2, half**-2.0
        repeat = lambda a: np.broadcast_to(a, (steps, *a.shape))
        nothing = np.zeros(n + m)
        cost = QuadraticCost(
            repeat(np.diag(weights)), repeat(nothing), np.zeros(steps), np.diag(weights[:n]), nothing[:n], np.zeros(())
        )
        found = lqr_backward(LinearDynamics(repeat(F), np.zeros((steps, n))), cost)
        cov = self.std**2 * np.linalg.inv(np.asarray(found.Quu))
        return First(np.asarray(found.K), np.linalg.cholesky(0.5 * (cov + np.swapaxes(cov, 1, 2))))

    def _need_places(self, n: int, m: int) -> None:
        """Raise `UserError` unless positions and velocities are distinct components of the state."""
        places = (*self.positions, *self.velocities)
        least = (m,) if self.feedback == "hold" else (m, 0)
        proper = len(set(places)) == len(places) and all(0 <= place < n for place in places)
        if len(self.positions) != m or len(self.velocities) not in least or not proper:
            raise UserError(
                f"an initial controller with the feedback {self.feedback} was given the positions {self.positions} and "
                f"the velocities {self.velocities}; it needs {m} of each, one for each action"
                f"{'' if self.feedback == 'hold' else ' (or no velocities)'}, all of them different components of the "
                f"state, from 0 to {n - 1}."
            )
