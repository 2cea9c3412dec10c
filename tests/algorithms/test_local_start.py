"""The controllers that the local method begins with."""

from __future__ import annotations

import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.local_start import InitialController
from forethought.algorithms.locally import Local
from forethought.tasks import task
from forethought.types import Box, Spec, UserError
from oracles import riccati_gains

ACTIONS = Box(np.float32([-2.0, -0.5]), np.float32([2.0, 0.5]))
SPEC = Spec(n=5, m=2)
PLACES = {"positions": (0, 3), "velocities": (1, 4)}


def test_noise_is_in_half_ranges_of_the_actions():
    first = InitialController(std=0.5).first(SPEC, ACTIONS, 3)
    np.testing.assert_array_equal(first.K, np.zeros((3, 2, 5)))
    np.testing.assert_array_equal(first.L, np.tile(np.diag([1.0, 0.25]), (3, 1, 1)))


def test_pd_pushes_positions_back_and_damps_velocities():
    first = InitialController("pd", stiffness=3.0, damping=0.2, **PLACES).first(SPEC, ACTIONS, 2)
    np.testing.assert_allclose(first.K[1], [[-6.0, -1.2, 0, 0, 0], [0, 0, 0, -1.5, -0.3]], rtol=1e-12)
    bare = InitialController("pd", positions=(0, 3)).first(SPEC, ACTIONS, 2)
    assert np.count_nonzero(bare.K[0]) == 2


def test_hold_is_the_lqr_of_its_guess():
    """Against gains from the textbook recursion."""
    dt, a, steps = 0.1, 4.0, 7
    start = InitialController("hold", std=0.5, stiffness=3.0, damping=0.2, dt=dt, acceleration=a, **PLACES)
    first, half = start.first(SPEC, ACTIONS, steps), np.array([2.0, 0.5])
    A, B = np.eye(5), np.zeros((5, 2))
    A[0, 1] = A[3, 4] = dt
    B[[0, 3], [0, 1]], B[[1, 4], [0, 1]] = 0.5 * dt**2 * a / half, dt * a / half
    Q = np.diag([9.0, 0.36, 0.0, 9.0, 0.36])
    gains, curvatures, _ = riccati_gains(A, B, Q, np.diag(half**-2.0), Q, steps)
    np.testing.assert_allclose(first.K, gains, rtol=1e-9, atol=1e-12)
    cov = first.L @ np.swapaxes(first.L, 1, 2)
    np.testing.assert_allclose(cov, 0.25 * np.linalg.inv(curvatures), rtol=1e-9, atol=1e-14)
    # Where an action has hardly an effect, the noise is that of the other kinds.
    idle = InitialController("hold", std=0.5, acceleration=1e-9, **PLACES).first(SPEC, ACTIONS, steps)
    np.testing.assert_allclose(idle.L[0], 0.5 * np.diag(half), rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"feedback": "pd"},
        {"feedback": "pd", "positions": (0,)},
        {"feedback": "pd", "positions": (0, 5)},
        {"feedback": "pd", "positions": (0, 0)},
        {"feedback": "pd", "positions": (0, 3), "velocities": (1,)},
        {"feedback": "pd", "positions": (0, 3), "velocities": (3, 1)},
        {"feedback": "hold", "positions": (0, 3)},
        {"feedback": "hold", "positions": (0, 3, 1), "velocities": (2, 4, 1)},
    ],
)
def test_places_that_are_not_there_are_told(wrong):
    with pytest.raises(UserError, match=r"positions .* velocities .* it needs 2 of each"):
        InitialController(**wrong).first(SPEC, ACTIONS, 3)


def test_the_first_rollouts_hold_the_place_where_they_began():
    """An arm that is pushed by noise alone drifts away; with feedback it does not."""
    target, moved = task("arm-reach"), {}
    for kind in ("none", "pd", "hold"):
        places = {} if kind == "none" else {"positions": (0, 1), "velocities": (2, 3)}
        method = Local(conditions=(0,), initial=InitialController(kind, std=0.2, stiffness=2.0, damping=0.5, **places))
        state, _ = method.step(target, method.init(target, jr.key(0)), 10_000)
        x = np.asarray(state.data.x)[: int(state.data.count), :2]
        moved[kind] = float(np.abs(x - x[0]).max())
    assert moved["pd"] < 0.5 * moved["none"]
    assert moved["hold"] < 0.5 * moved["none"]
