"""Experiments on one seed, beside answers that do not share their code."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from forethought.lecture import amounts, apparatus, dual, ilqr_plans, linear_control, linear_systems, modes
from forethought.models.known import KnownDynamics
from forethought.worlds.classic import Pendulum


def moments(it, policy) -> float:
    """Expected cost of a linear-Gaussian policy in a linear system, by NumPy alone."""
    K, k, L = (np.asarray(part) for part in policy)
    F, C, C_T = (np.asarray(part) for part in (it.dynamics.F, it.cost.C, it.cost.C_T))
    n = len(it.x0)
    mean, cov, total = np.asarray(it.x0), np.zeros((n, n)), 0.0
    for t in range(len(F)):
        both = np.vstack([np.eye(n), K[t]])
        z = np.concatenate([mean, K[t] @ mean + k[t]])
        S = both @ cov @ both.T
        S[n:, n:] += L[t] @ L[t].T
        total += 0.5 * (z @ C[t] @ z + np.trace(C[t] @ S))
        mean, cov = F[t] @ z, F[t] @ S @ F[t].T + linear_systems.NOISE**2 * np.eye(n)
    return total + 0.5 * (mean @ C_T @ mean + np.trace(C_T @ cov))


def test_the_three_controllers_cost_what_they_should() -> None:
    """Sample means against moments, and the price of Quu^-1 against its closed form, m T / 2."""
    it = linear_systems.system(0)
    ways = linear_systems.controllers(it)
    exact = {name: moments(it, policy) for name, policy in ways.items()}
    for name, policy in ways.items():
        sampled = linear_systems.mean_cost(it, *linear_systems.rollouts(it, policy, 4000, 1))
        assert sampled == pytest.approx(exact[name], rel=0.05), name
    price = 0.5 * linear_systems.M * linear_systems.STEPS
    assert exact["gaussian"] - exact["feedback"] == pytest.approx(price, abs=1e-6)
    found = linear_control.noisy(0, False)
    assert found.effect == pytest.approx(math.log(exact["open loop"] / exact["feedback"]), abs=0.3)
    assert found.effect > 1.0


def test_no_other_controller_is_more_random_at_its_price() -> None:
    """The excess of a covariance that is s^2 times as large is m T / 2 (s^2 - 1 - log s^2)."""
    found = linear_control.entropic(0, False)
    for square in (0.25, 0.81, 1.21, 4.0):
        exact = 0.5 * linear_systems.M * linear_systems.STEPS * (square - 1.0 - math.log(square))
        assert found.details[f"covariance times {square:g}"] == pytest.approx(exact, rel=1e-6)
    assert found.effect == min(found.details.values()) > 0.0


def test_noise_makes_the_difference_to_a_regression() -> None:
    """With it, least squares by LAPACK make the same error; without it the rows are rank deficient."""
    found = linear_control.exciting(0, False)
    it = linear_systems.system(0)
    xs, us = linear_systems.rollouts(it, linear_systems.controllers(it)["gaussian"], linear_control.FITTED, 0)
    off = []
    for t in range(1, linear_systems.STEPS):
        z = np.concatenate([xs[:, t], us[:, t], np.ones((len(xs), 1))], axis=1)
        solved = np.linalg.lstsq(z, xs[:, t + 1], rcond=None)[0]
        off.append(solved[:-1].T - np.asarray(it.dynamics.F[t]))
    assert found.details["error of [A B], gaussian"] == pytest.approx(np.sqrt(np.mean(np.square(off))), rel=1e-4)
    assert found.details["1 / VIF, feedback"] < 1e-6 < 1e-2 < found.details["1 / VIF, gaussian"]
    assert found.effect > 0.5


def divergence(it, multiplier: float) -> float:
    """KL of the solution of Algorithm 6's LQR from the old controller, by NumPy alone, from its definition."""
    K0, k0, L0 = (np.asarray(part) for part in it.old)
    F, f, W = (np.asarray(part) for part in it.dynamics)
    C, c, C_T = (np.asarray(part) for part in (it.cost.C, it.cost.c, it.cost.C_T))
    n, T, m = F.shape[1], len(F), k0.shape[1]
    P, p, gains = C_T / multiplier, np.zeros(n), []
    for t in reversed(range(T)):
        precision = np.linalg.inv(L0[t] @ L0[t].T)
        G = np.hstack([-K0[t], np.eye(m)])
        Q = C[t] / multiplier + G.T @ precision @ G + F[t].T @ P @ F[t]
        q = c[t] / multiplier - G.T @ precision @ k0[t] + F[t].T @ (p + P @ f[t])
        inverse = np.linalg.inv(Q[n:, n:])
        K, k = -inverse @ Q[n:, :n], -inverse @ q[n:]
        gains.append((K, k, inverse, precision))
        P, p = Q[:n, :n] + Q[:n, n:] @ K, q[:n] + Q[:n, n:] @ k
    mean, S, total = np.asarray(it.start.m0), np.asarray(it.start.P0), 0.0
    for t, (K, k, cov, precision) in enumerate(reversed(gains)):
        D, d = K - K0[t], (K - K0[t]) @ mean + k - k0[t]
        quadratic = np.trace(precision @ cov) + d @ precision @ d + np.trace(precision @ D @ S @ D.T)
        total += 0.5 * (quadratic - m - np.linalg.slogdet(precision @ cov)[1])
        both = np.vstack([np.eye(n), K])
        z = both @ S @ both.T
        z[n:, n:] += cov
        mean, S = F[t] @ np.concatenate([mean, K @ mean + k]) + f[t], F[t] @ z @ F[t].T + W[t]
    return total


def test_dual_ascent_takes_the_steps_that_it_should() -> None:
    """The lecture's Algorithm 6, written down once more in NumPy, arrives after as many steps."""
    it = dual.problem(0)
    for multiplier in (0.5, 30.0):
        assert float(dual.divergence(it, jnp.asarray(multiplier))) == pytest.approx(
            divergence(it, multiplier), rel=1e-8
        )
    epsilon, multiplier, count = float(it.epsilon), 1.0, 1
    while abs(divergence(it, multiplier) / epsilon - 1.0) > dual.NEAR:
        multiplier = max(multiplier + 10.0 * (divergence(it, multiplier) - epsilon), 1e-8)
        count += 1
    found = dual.slower(0, False)
    assert found.details["alpha 10"] == count > 3
    assert found.details["alpha 0.001"] is None
    assert found.effect == pytest.approx(math.log(count / found.details["solver"]))
    assert dual.converging(0, False).effect == 0.0


@pytest.mark.slow
def test_a_mixture_is_worth_what_theory_says() -> None:
    """One Gaussian at its best has -0.98 nats on the ridge, and the truth 0.88; fits come near."""
    found = modes.likely(0, False)
    square = 0.2**2 + 0.2 * 0.8 + 0.8**2 / 3.0 + modes.NOISE**2  # E (0.2 + 0.8 |u|)^2 + noise, |u| uniform
    gaussian = -0.5 * math.log(2.0 * math.pi * math.e * square)
    truth = -math.log(2.0) - 0.5 * math.log(2.0 * math.pi * math.e * modes.NOISE**2)
    assert gaussian - 0.1 < found.details["one Gaussian"] < gaussian + 0.02
    assert truth - 0.4 < found.details["mixture"] < truth + 0.02


def test_a_plan_without_noise_goes_as_planned() -> None:
    """Actions and gains then cost what iLQR says; with noise the gains are worth something."""
    found = ilqr_plans.plan(ilqr_plans.START, np.zeros((ilqr_plans.STEPS, 1)))
    still = np.zeros((ilqr_plans.STEPS, 4))
    for way in (ilqr_plans.open_loop, ilqr_plans.feedback):
        assert ilqr_plans.cost(way(found), still) == pytest.approx(float(found.cost), rel=1e-6)
    open_loop, feedback = ilqr_plans.costs(0, ilqr_plans.open_loop, ilqr_plans.feedback)
    assert open_loop > 1.5 * feedback > float(found.cost)


def test_the_error_of_a_model_is_in_units_of_the_data() -> None:
    """None of the true equations; one and a half units, in one of three components, of a model that is off by so much;
    whatever the number of rows."""
    rows = amounts.transitions(Pendulum(), 300, 0, noise=0.0)
    unit = apparatus.spread(rows)
    assert apparatus.error(KnownDynamics(Pendulum()), rows, unit) < 1e-5
    off = rows._replace(y=rows.y + unit * np.asarray([0.0, 0.0, 1.5]))
    assert apparatus.error(KnownDynamics(Pendulum()), off, unit) == pytest.approx(1.5 / math.sqrt(3.0), rel=1e-4)
    data = apparatus.data_of(amounts.SPEC, rows)
    assert int(data.count) == 300
    assert np.array_equal(np.asarray(data.y)[:300], rows.y)


def test_the_stops_stop() -> None:
    """Beyond 2 rad there is nothing; what hits a stop comes back at half its speed, and elsewhere nothing changes."""
    rows = amounts.transitions(amounts.stopped, 2000, 0, noise=0.0)
    free = amounts.transitions(Pendulum(), 2000, 0, noise=0.0)
    angle, unhindered = np.arctan2(rows.y[:, 1], rows.y[:, 0]), np.arctan2(free.y[:, 1], free.y[:, 0])
    hit = np.abs(unhindered) > 2.0
    assert 20 < hit.sum() < 400
    assert np.abs(angle).max() <= 2.0 + 1e-6
    assert np.allclose(rows.y[~hit], free.y[~hit])
    outward = free.y[hit, 2] * angle[hit] > 0.0
    assert np.allclose(rows.y[hit, 2], np.where(outward, -0.5, 1.0) * free.y[hit, 2])
