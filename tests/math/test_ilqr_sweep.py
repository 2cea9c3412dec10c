"""One expansion and one backward sweep of iterative LQR: what is predicted, and second derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import control_cases as cc
from control_cases import Control, Mortal, linear_quadratic, wild
from forethought.math.control_problem import ControlProblem, Expansion, Feedback, Trail, defects_of, expand, unroll
from forethought.math.ilqr_sweep import Regularisation, Slope, Sweep, gradient_of, slope_of, sweep_back, units
from lqr_cases import case

n, m, T = 4, 2, 12


class Ahead(eqx.Module):
    """A stage cost that looks at y = [x+; r], what the step led to: stage(x, u) + 1/2 |y - x|^2 + sin(r) x_0."""

    stage: Any

    def __call__(self, x, u, y, t):
        return self.stage(x, u, t) + 0.5 * jnp.sum((y[:n] - x) ** 2) + jnp.sin(y[n]) * x[0]


class More(eqx.Module):
    """A step with one more output than the state has."""

    step: Any

    def __call__(self, x, u, t):
        return jnp.append(self.step(x, u, t), jnp.cos(x[1]) * u[0])


class Composite(eqx.Module):
    """The same cost written as one of (x, u): it computes the step once more."""

    step: Any
    stage: Ahead

    def __call__(self, x, u, y, t):
        del y
        return self.stage(x, u, self.step(x, u, t), t)


class WithoutY(eqx.Module):
    """As one of (x, u, t)."""

    composite: Composite

    def __call__(self, x, u, t):
        return self.composite(x, u, None, t)


class Found(NamedTuple):
    """Of one problem around a rollout."""

    trail: Trail
    expansion: Expansion
    slope: Slope
    plain: Sweep
    bending: Sweep


def _around(problem, xs, us, mu) -> Found:
    trail = unroll(problem, xs, us)
    expansion = expand(problem, trail)
    held = Regularisation(mu * jnp.ones(m), None)
    sweeps = [sweep_back(expansion, held, trail, None, bending) for bending in (None, problem)]
    return Found(trail, expansion, slope_of(gradient_of(expansion), expansion, us, None), *sweeps)


@eqx.filter_jit
def both(q: Control, mu, wall):
    """With a stage that looks ahead, and with the composite one; the episode ends at the wall."""
    xs, us, step = jnp.broadcast_to(q.x0, (T + 1, n)), jnp.asarray(q.us), More(q.step)
    ahead = ControlProblem(step, Ahead(q.stage), q.terminal, Mortal(wall), looks_ahead=True)
    composite = ControlProblem(q.step, Composite(step, Ahead(q.stage)), q.terminal, Mortal(wall))
    return _around(ahead, xs, us, mu), _around(composite, xs, us, mu)


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * scale)


FAR = np.float64(1e6)


@pytest.mark.parametrize(("seed", "wall"), [(1, FAR), (4, FAR), (1, np.float64(2.0))])
def test_a_stage_that_looks_ahead_is_the_composite_one(seed, wall):
    """Cost and gradient always; the Hessian, and with it the step, once the curvature of the step counts."""
    ahead, composite = both(wild(seed=seed, bend=0.15), np.float64(30.0), wall)
    assert (0 < np.sum(~ahead.trail.alive) < T) == (wall < FAR)
    close(ahead.trail.cost, composite.trail.cost)
    close(ahead.trail.xs, composite.trail.xs)
    scale = np.abs(composite.slope.gradient).max()
    close(ahead.slope.gradient, composite.slope.gradient, scale)
    close(ahead.expansion.C[:, :-1, -1], composite.expansion.C[:, :-1, -1], scale)
    close(ahead.expansion.F, composite.expansion.F)
    close(ahead.expansion.end, composite.expansion.end)
    difference = np.abs(ahead.expansion.C - composite.expansion.C)
    assert difference.max() > 1e-2
    for name in ("K", "k", "linear", "quadratic"):
        a, b = getattr(ahead.bending, name), getattr(composite.bending, name)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())
    assert composite.bending.definite
    assert ahead.bending.definite
    assert np.abs(ahead.plain.K - composite.plain.K).max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_its_gradient_is_that_of_the_rolled_out_cost(seed):
    q = wild(seed=seed, bend=0.3)
    found, _ = both(q, np.float64(1.0), FAR)
    whole = q._replace(stage=WithoutY(Composite(More(q.step), Ahead(q.stage))))
    np.testing.assert_allclose(found.slope.gradient, cc.gradient(whole, q.us), rtol=1e-9, atol=1e-9)
    assert float(found.trail.cost) == pytest.approx(cc.cost(whole, q.us), rel=1e-12)


def test_second_derivatives_of_outputs_that_no_cost_reads_are_left_out():
    """The step has more outputs than the state and the stage does not look at them."""
    q = wild(seed=0)
    problem = ControlProblem(More(q.step), Plain(q.stage), q.terminal)
    found = eqx.filter_eval_shape(_around, problem, jnp.zeros((T + 1, n)), jnp.asarray(q.us), 0.0)
    assert found.bending.K.shape == (T, m, n)
    assert found.expansion.F.shape == (T, n + 1, n + m + 1)


class Plain(eqx.Module):
    """A stage cost of (x, u, t) where one of (x, u, y, t) is wanted."""

    stage: Any

    def __call__(self, x, u, y, t):
        del y
        return self.stage(x, u, t)


@eqx.filter_jit
def tried(q: Control, xs, mu, alpha):
    """A sweep, and the trajectory that a share of its step leads to; `xs` may jump."""
    problem, us = ControlProblem(q.step, Plain(q.stage), q.terminal), jnp.asarray(q.us)
    jumps = defects_of(problem, xs, us)
    here = unroll(problem, xs, us, defects=jumps)
    none = jnp.full(us.shape, jnp.inf)
    expansion = expand(problem, here)
    sweep = sweep_back(expansion, jax.tree.map(lambda v: mu * v, units(expansion, "control")), here, None, None)
    feedback = Feedback(sweep.K, sweep.k, alpha, -none, none)
    return here, sweep, unroll(problem, here.xs, us, feedback, jumps), jumps


@pytest.mark.parametrize(("alpha", "mu"), [(1.0, 0.0), (0.3, 0.0), (1.0, 0.1), (1.0, 100.0)])
def test_the_predicted_decrease_of_a_linear_quadratic_problem_is_the_real_one(alpha, mu):
    """Of the whole regularised step too, whose value function has nothing of the regularisation in it."""
    q = linear_quadratic(case(n, m, T, seed=2), np.ones(n), np.random.default_rng(0).standard_normal((T, m)))
    xs = np.array(cc.rollout(q.step, q.x0, q.us))
    here, sweep, there, jumps = tried(q, xs, np.float64(mu), np.float64(alpha))
    assert not np.asarray(jumps).any()
    predicted = alpha * float(sweep.linear) + alpha**2 * float(sweep.quadratic)
    assert predicted < -0.1
    assert float(there.cost - here.cost) == pytest.approx(predicted, rel=1e-10)
    want = cc.gains(q, xs, q.us)
    assert (np.abs(sweep.K - want).max() < 1e-9) == (mu == 0.0)
    if mu == 0.0 and alpha == 1.0:
        np.testing.assert_allclose(sweep.quadratic, -0.5 * sweep.linear, rtol=1e-10)
        np.testing.assert_allclose(cc.gradient(q, there.us), 0.0, atol=1e-9)


def test_jumps_are_closed_by_the_share_of_the_step_that_is_made():
    q = linear_quadratic(case(n, m, T, seed=2), np.ones(n), np.zeros((T, m)))
    xs = np.random.default_rng(1).standard_normal((T + 1, n))
    xs[0] = q.x0
    for alpha in (1.0, 0.25):
        here, _, there, jumps = tried(q, xs, np.float64(0.0), np.float64(alpha))
        np.testing.assert_allclose(here.xs, xs, rtol=1e-12, atol=1e-12)
        z = np.concatenate([there.xs[:-1], there.us], axis=1)
        left = np.einsum("tij,tj->ti", q.step.F, z) + q.step.f - there.xs[1:]
        np.testing.assert_allclose(left, (1.0 - alpha) * jumps, atol=1e-11)
        assert np.abs(jumps).max() > 1.0


@eqx.filter_jit
def one_step(q: Control):
    problem = ControlProblem(q.step, Plain(q.stage), q.terminal)
    return _around(problem, jnp.broadcast_to(q.x0, (2, n)), jnp.asarray(q.us[:1]), 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_q_of_one_step_has_the_hessian_of_differences(seed):
    """K = -Huu^-1 Hux and k = -Huu^-1 gu at any point, with all second derivatives; iterative LQR has others."""
    q = wild(seed=seed, bend=0.3)
    q = q._replace(us=q.us[:1])
    found = one_step(q)
    assert found.bending.definite
    hessian, mixed = cc.curves(q, q.us)
    np.testing.assert_allclose(found.bending.K[0], -np.linalg.solve(hessian, mixed), rtol=1e-6, atol=1e-7)
    k = -np.linalg.solve(hessian, cc.gradient(q, q.us)[0])
    np.testing.assert_allclose(found.bending.k[0], k, rtol=1e-6, atol=1e-7)
    assert np.abs(found.plain.K[0] + np.linalg.solve(hessian, mixed)).max() > 1e-3
