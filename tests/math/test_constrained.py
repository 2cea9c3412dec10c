"""Trajectories under constraints against dense solves and SciPy's SLSQP: a point mass in a plane."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from control_cases import gains_of, rollout
from forethought import Constraints, ILQRStatus, ilqr
from lqr_cases import best, constant

T, n, m, DT = 15, 4, 2, 0.2
A = np.eye(n) + DT * np.eye(n, k=2)
B = np.concatenate([0.5 * DT**2 * np.eye(m), DT * np.eye(m)])
GOAL = np.array([2.0, 1.0, 0.0, 0.0])
FAR = np.full((T, m), np.inf)


class Push(eqx.Module):
    """Positions and velocities; the forces are held over a step."""

    A: Any
    B: Any

    def __call__(self, x, u, t):
        del t
        return self.A @ x + self.B @ u


class Effort(eqx.Module):
    """1/2 |u|^2 + weight/2 |x|^2."""

    weight: Any

    def __call__(self, x, u, t):
        del t
        return 0.5 * jnp.sum(u**2) + 0.5 * self.weight * jnp.sum(x**2)


class Distance(eqx.Module):
    """weight/2 |x - goal|^2."""

    weight: Any

    def __call__(self, x):
        return 0.5 * self.weight * jnp.sum((x - GOAL) ** 2)


class Obstacle(eqx.Module):
    """Positions outside of a circle, of none if the radius is negative; velocities below `fastest`."""

    centre: Any
    radius: Any
    fastest: Any

    def __call__(self, x, u, t):
        del u, t
        off = self.radius * jnp.abs(self.radius) - jnp.sum((x[:2] - self.centre) ** 2)
        return jnp.concatenate([off[None], x[2:] - self.fastest, -x[2:] - self.fastest])


class Together(eqx.Module):
    """weight (u_0 - u_1) = 0."""

    weight: Any

    def __call__(self, x, u, t):
        del x, t
        return self.weight * (u[:1] - u[1:])


class Arrive(eqx.Module):
    """weight (x - goal) = 0."""

    weight: Any
    goal: Any

    def __call__(self, x):
        return self.weight * (x - self.goal)


class Slow(eqx.Module):
    """The last velocity along the first axis is at most `most`."""

    most: Any

    def __call__(self, x):
        return x[2:3] - self.most


@dataclasses.dataclass(frozen=True)
class Asked:
    """One of many problems that share a program: what is not named holds nothing."""

    arrive: float = 0.0
    centre: tuple[float, float] = (1.0, 0.6)
    radius: float = -1.0
    fastest: float = 1e3
    together: float = 0.0
    most: float = 1e3
    end: float = 0.0
    weight: float = 0.0
    force: float = np.inf

    def arguments(self, start=0.1) -> tuple[tuple, Constraints]:
        f = lambda value: np.asarray(value, np.float64)
        less = Obstacle(f(self.centre), f(self.radius), f(self.fastest))
        constraints = Constraints(Together(f(self.together)), less, Arrive(f(self.arrive), GOAL), Slow(f(self.most)))
        us = start * np.random.default_rng(0).standard_normal((T, m))
        limit = np.full((T, m), self.force)
        functions = Push(A, B), Effort(f(self.weight)), Distance(f(self.end))
        return (*functions, np.zeros(n), us, -limit, limit), constraints

    def solve(self):
        arguments, constraints = self.arguments()
        return ilqr(*arguments, constraints=constraints)

    def cost(self, us) -> float:
        xs = states(us)
        way = 0.5 * np.sum(np.asarray(us) ** 2) + 0.5 * self.weight * np.sum(xs[:-1] ** 2)
        return float(way + 0.5 * self.end * np.sum((xs[-1] - GOAL) ** 2))

    def off(self, us) -> float:
        """The largest violation, in NumPy."""
        xs, us = states(us), np.asarray(us)
        circle = self.radius * abs(self.radius) - np.sum((xs[:-1, :2] - self.centre) ** 2, axis=1)
        parts = [circle, np.abs(xs[:-1, 2:]) - self.fastest, xs[-1, 2] - self.most]
        parts += [np.abs(self.together * (us[:, 0] - us[:, 1])), np.abs(self.arrive * (xs[-1] - GOAL)), 0.0]
        return max(float(np.max(part)) for part in parts)

    def by_slsqp(self, start) -> np.ndarray:
        """The optimum from a start, by SciPy on all controls at once."""
        circle = lambda u: np.sum((states(u)[:-1, :2] - self.centre) ** 2, axis=1) - self.radius * abs(self.radius)
        rules = [{"type": "ineq", "fun": circle}] if self.radius > 0.0 else []
        if self.fastest < 1e3:
            rules.append({"type": "ineq", "fun": lambda u: np.ravel(self.fastest - states(u)[:-1, 2:])})
            rules.append({"type": "ineq", "fun": lambda u: np.ravel(self.fastest + states(u)[:-1, 2:])})
        if self.most < 1e3:
            rules.append({"type": "ineq", "fun": lambda u: self.most - states(u)[-1, 2]})
        if self.arrive:
            rules.append({"type": "eq", "fun": lambda u: states(u)[-1] - GOAL})
        if self.together:
            rules.append({"type": "eq", "fun": lambda u: u[0::2] - u[1::2]})
        limits = [(-self.force, self.force)] * (T * m)
        settings = {"maxiter": 300, "ftol": 1e-13}
        begin = np.ravel(start)
        found = minimize(self.cost, begin, method="SLSQP", bounds=limits, constraints=rules, options=settings)
        return found.x.reshape(T, m)


def states(us) -> np.ndarray:
    xs = [np.zeros(n)]
    for u in np.reshape(us, (T, m)):
        xs.append(A @ xs[-1] + B @ u)
    return np.array(xs)


def check(asked: Asked, got, tolerance=1e-6):
    """Kept, and what is said about it is so."""
    np.testing.assert_allclose(got.xs, states(got.us), atol=1e-12)
    assert float(got.cost) == pytest.approx(asked.cost(got.us), rel=1e-10)
    assert float(got.violation) == pytest.approx(asked.off(got.us), abs=1e-12)
    assert got.violation <= tolerance
    assert np.all(np.abs(got.us) <= asked.force)
    assert got.status in (ILQRStatus.CONVERGED, ILQRStatus.SMALL_STEP)


def test_the_least_energy_to_arrive_has_a_closed_form():
    asked = Asked(arrive=1.0)
    got = asked.solve()
    check(asked, got)
    effect = np.concatenate([np.linalg.matrix_power(A, T - 1 - t) @ B for t in range(T)], axis=1)
    want = effect.T @ np.linalg.solve(effect @ effect.T, GOAL)
    np.testing.assert_allclose(np.ravel(got.us), want, atol=1e-5)
    np.testing.assert_allclose(got.xs[-1], GOAL, atol=1e-6)


CONVEX = {
    "a last state": Asked(arrive=1.0, weight=0.3),
    "a speed limit": Asked(arrive=1.0, fastest=0.85),
    "a speed limit and a soft end": Asked(end=20.0, fastest=0.5, weight=0.1),
    "limits of force": Asked(arrive=1.0, force=1.3),
    "limits of force and of speed": Asked(arrive=1.0, force=1.6, fastest=0.95),
    "forces that belong together": Asked(end=20.0, together=1.0),
    "a bound of the last state": Asked(end=20.0, most=0.0),
    "all of it": Asked(end=20.0, together=1.0, most=0.1, fastest=0.7, force=1.0),
}


@pytest.mark.parametrize("name", CONVEX)
def test_a_convex_problem_has_the_optimum_of_scipy(name):
    asked = CONVEX[name]
    got = asked.solve()
    check(asked, got)
    us = asked.by_slsqp(np.zeros((T, m)))
    assert asked.off(us) < 1e-6
    np.testing.assert_allclose(got.us, us, atol=2e-5)
    assert float(got.cost) == pytest.approx(asked.cost(us), rel=1e-5)
    assert got.iterations <= 16  # with multipliers that were wrong it would be penalties alone, and take longer
    free = dataclasses.replace(Asked(), end=asked.end, weight=asked.weight).solve()
    assert got.cost > 1.001 * free.cost  # each of them costs something


@pytest.mark.parametrize("centre", [(1.0, 0.6), (1.0, 0.3), (0.6, 0.7)])
def test_an_obstacle_is_avoided(centre):
    asked = Asked(arrive=1.0, centre=centre, radius=0.4)
    got = asked.solve()
    check(asked, got)
    apart = np.linalg.norm(np.asarray(got.xs)[:-1, :2] - centre, axis=1)
    assert apart.min() >= 0.4 - 2e-6
    assert apart.min() <= 0.4 + 1e-4
    assert got.iterations <= 45
    straight = Asked(arrive=1.0).solve()
    assert np.linalg.norm(np.asarray(straight.xs)[:, :2] - centre, axis=1).min() < 0.38
    again = asked.by_slsqp(got.us)
    assert float(got.cost) <= asked.cost(again) * (1.0 + 1e-4)


def test_constraints_that_hold_nothing_change_nothing():
    """It is one linear-quadratic problem then: one iteration, and the dense optimum."""
    asked = Asked(end=20.0, weight=0.1)
    got = asked.solve()
    free = constant(A, B, 0.1 * np.eye(n), np.eye(m), 20.0 * np.eye(n), T)._replace(c_T=-20.0 * GOAL)
    xs, us, _ = best(free, np.zeros(n))
    assert got.status == ILQRStatus.CONVERGED
    assert got.violation == 0.0
    assert got.iterations == 1
    np.testing.assert_allclose(got.us, us, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got.xs, xs, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got.K, gains_of(free), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(arrive=1.0, force=0.05),
        Asked(arrive=1.0, fastest=0.1),
        Asked(arrive=1.0, most=-1.0),
        Asked(radius=0.5, centre=(0.0, 0.0)),
    ],
    ids=["too weak", "too slow", "two ends", "a start inside"],
)
def test_what_is_impossible_is_reported_with_its_violation(asked):
    got = asked.solve()
    assert got.status == ILQRStatus.INFEASIBLE
    assert got.violation > 1e-2
    assert float(got.violation) == pytest.approx(asked.off(got.us), rel=1e-9)
    assert all(np.isfinite(leaf).all() for leaf in got)
    assert np.all(np.abs(got.us) <= asked.force)
    np.testing.assert_allclose(got.xs, states(got.us), atol=1e-10)


def test_an_impossible_end_is_missed_by_as_little_as_can_be():
    """With forces of at most 0.05 nothing gets nearer than full force all the way."""
    asked = Asked(arrive=1.0, force=0.05)
    nearest = minimize(
        lambda u: np.sum((states(u)[-1] - GOAL) ** 2),
        np.zeros(T * m),
        method="L-BFGS-B",
        bounds=[(-0.05, 0.05)] * T * m,
    )
    got = asked.solve()
    assert np.sum((np.asarray(got.xs[-1]) - GOAL) ** 2) <= nearest.fun * 1.02


def test_a_batch_of_obstacles_is_a_loop():
    """One of which is NaN: it has a status, and the others do not notice."""
    asked = [Asked(arrive=1.0, radius=0.4), Asked(arrive=1.0, radius=np.nan), Asked(arrive=1.0, radius=0.2)]
    constraints = [each.arguments()[1] for each in asked]
    arguments, _ = asked[0].arguments()
    batch = jax.vmap(lambda c: ilqr(*arguments, constraints=c))(jax.tree.map(lambda *a: np.stack(a), *constraints))
    for i in (0, 2):
        alone = asked[i].solve()
        for name, value in alone._asdict().items():
            np.testing.assert_allclose(getattr(batch, name)[i], value, rtol=1e-7, atol=1e-8, err_msg=name)
    assert ILQRStatus(int(batch.status[1])) in (ILQRStatus.NOT_FINITE, ILQRStatus.INFEASIBLE)
    assert batch.violation[1] == np.inf
    for leaf in (batch.xs[1], batch.us[1], batch.K[1]):
        assert np.isfinite(leaf).all()
    assert not any(np.isnan(leaf[1]).any() for leaf in batch)


def test_a_rollout_is_what_the_system_does():
    """The oracle's own states are those of the step."""
    us = np.random.default_rng(1).standard_normal((T, m))
    np.testing.assert_allclose(rollout(Push(A, B), np.zeros(n), us), states(us), atol=1e-12)
