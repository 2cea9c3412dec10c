from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fakes import A, B, Linear, as_trajectory
from forethought.core import AbstractDynamics
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.model_error import HORIZON, model_error
from forethought.types import Spec


def real(steps: int):
    """A rollout of the true linear system."""
    rng = np.random.default_rng(0)
    u = rng.uniform(-1, 1, (steps, 1))
    x = np.zeros((steps + 1, 2))
    for t in range(steps):
        x[t + 1] = A @ x[t] + B @ u[t]
    return as_trajectory(x[:-1], u, x[1:])


def test_the_true_model_has_no_error() -> None:
    errors = model_error(Linear(A, B), real(40), Spec(2, 1), 64, np.ones(2))
    assert errors["model_error_1"] < 1e-5
    assert errors[f"model_error_{HORIZON}"] < 1e-4


def test_errors_equal_a_plain_loop() -> None:
    wrong = np.array([[1.0, 0.35], [0.0, 0.98]], np.float32)
    trajectory, scale = real(30), np.array([2.0, 0.5])
    errors = model_error(Linear(wrong, B), trajectory, Spec(2, 1), 64, scale)
    for steps, name in ((1, "model_error_1"), (HORIZON, f"model_error_{HORIZON}")):
        squares = []
        for i in range(30 - steps + 1):
            x = trajectory.x[i]
            for u in trajectory.u[i : i + steps]:
                x = wrong @ x + B @ u
            squares.append(np.mean(((x - trajectory.y[i + steps - 1]) / scale) ** 2))
        np.testing.assert_allclose(errors[name], np.sqrt(np.mean(squares)), rtol=1e-4)


def test_a_short_piece_has_no_error_at_twenty_steps() -> None:
    errors = model_error(Linear(A, B), real(HORIZON - 1), Spec(2, 1), 32, np.ones(2))
    assert np.isfinite(errors["model_error_1"])
    assert np.isnan(errors[f"model_error_{HORIZON}"])


@pytest.mark.parametrize(("angles", "expected"), [((), 2 * np.pi - 0.02), ((0,), 0.02)])
def test_angles_are_compared_the_short_way_round(angles, expected) -> None:
    class Turned(AbstractDynamics):
        """Always predicts an angle just above -pi."""

        def predict(self, x, u, t):
            y = jnp.full_like(x, -np.pi + 0.01)
            return DiagonalGaussian(y, jnp.zeros_like(y))

        def draw(self, key, particles):
            return self

    seen = np.full((3, 1), np.pi - 0.01)
    errors = model_error(Turned(), as_trajectory(seen, seen, seen), Spec(1, 1, angles=angles), 32, np.ones(1))
    np.testing.assert_allclose(errors["model_error_1"], expected, rtol=1e-3)
