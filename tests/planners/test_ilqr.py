"""The planner ilqr: what it refuses, what it finds, and the feedback that it returns."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought import ICEM, ILQR, AbstractDynamics, Box, Choices, Imagination, Problem, UserError
from forethought.costs.gymnasium import PendulumCost
from forethought.costs.quadratic import Quadratic
from forethought.costs.saturating import Saturating
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.models.known import KnownDynamics
from forethought.planners.ilqr import control_problem, reads, seen_as
from forethought.policies.tracking import Tracking
from forethought.testing import check_planner
from forethought.worlds.classic import Pendulum
from lqr_cases import best, constant

SMALL = ILQR(ICEM(Imagination(propagation="mean"), samples=16, elites=4, iterations=2), window=12, drives=2)
BOX = Box(np.full(1, -2.0, np.float32), np.full(1, 2.0, np.float32))
DT = 0.1


class Mass(eqx.Module):
    """A mass that is pushed; a gain of NaN breaks it."""

    gain: jax.Array

    def __call__(self, x, u):
        return jnp.stack([x[0] + DT * x[1], x[1] + DT * self.gain.astype(x.dtype) * u[0]])


MASS = KnownDynamics(Mass(jnp.ones((), jnp.float64)))
COST = Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.01]), final_weight=np.array([5.0, 1.0]))


def problem(dynamics=MASS, cost=COST, x0=(1.0, 0.0), horizon=10, box=BOX) -> Problem:
    return Problem(dynamics, cost, box, jnp.asarray(x0, jnp.float32), jnp.zeros((), jnp.int32), horizon)


@eqx.filter_jit
def planned(planner, problem, key=jr.key(0)):  # noqa: B008
    return planner.plan(problem, planner.init(problem), key)


def test_it_keeps_the_laws_of_planners():
    check_planner(SMALL, discrete=False)


def test_discrete_actions_are_refused_with_a_sentence():
    choices = Choices(np.array([[-1.0], [1.0]], np.float32))
    with pytest.raises(UserError, match="continuous actions; these are discrete"):
        SMALL.init(dataclasses.replace(problem(), actions=choices))


@pytest.mark.parametrize("horizon", [10, 25])
def test_a_linear_quadratic_problem_is_solved_exactly(horizon):
    """Within the limits the plan is that of a dense solve; the longer one is driven through the model first."""
    plan, _ = planned(SMALL, problem(x0=(0.2, 0.0), horizon=horizon))
    A, B = np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.0], [DT]])
    exact = constant(A, B, 2.0 * np.diag([1.0, 0.1]), 0.02, 2.0 * np.diag([5.0, 1.0]), horizon)
    _, us, cost = best(exact, np.array([0.2, 0.0], np.float32).astype(float))
    assert np.abs(us).max() < 1.9  # the limits do not matter
    np.testing.assert_allclose(plan.policy.us, us, atol=1e-5 * np.abs(us).max())
    assert float(plan.cost) == pytest.approx(cost, rel=1e-5)


def test_its_feedback_holds_what_an_open_loop_loses():
    """A pendulum held upright from a disturbed start: the plan alone falls."""
    plan, _ = planned(SMALL, problem(KnownDynamics(Pendulum()), PendulumCost(), (1.0, 0.0, 0.0), 40))
    assert isinstance(plan.policy, Tracking)

    def executed(K):
        policy, step = dataclasses.replace(plan.policy, K=K), Pendulum()

        def advance(x, t):
            x = step(x, policy.act(None, x, t)[0])
            return x, x[0]

        start = jnp.asarray([np.cos(0.05), np.sin(0.05), 0.0])
        return np.asarray(jax.lax.scan(advance, start, jnp.arange(40))[1])

    assert executed(plan.policy.K)[-1] > 0.999
    assert executed(0.0 * plan.policy.K)[-1] < 0.99


def test_the_policy_takes_angles_the_short_way_and_ignores_what_it_cannot_see():
    one = np.ones((1, 1, 2))
    policy = Tracking(np.array([[3.1, 0.0]]), np.zeros((1, 1)), one, BOX, jnp.int32(0), angles=(0,))
    u, _ = policy.act(None, jnp.asarray([-3.1, 0.1]), jnp.int32(0))
    assert float(u[0]) == pytest.approx(2.0 * np.pi - 6.2 + 0.1, abs=1e-5)
    unseen, _ = policy.act(None, jnp.asarray([jnp.nan, 0.1]), jnp.int32(5))
    assert float(unseen[0]) == pytest.approx(0.1, abs=1e-6)
    far, _ = policy.act(None, jnp.asarray([3.1, 100.0]), jnp.int32(0))
    assert float(far[0]) == 2.0


class Turning(AbstractDynamics):
    """An angle that grows by 0.3 + u, wrapped as models wrap it."""

    def predict(self, x, u, t):
        y = x + 0.3 + u
        return wrapped(DiagonalGaussian(y, 0.0 * y), (0,))

    def draw(self, key, particles):
        return self


def test_a_plan_does_not_jump_by_a_turn():
    control = control_problem(problem(Turning(), Saturating(np.zeros(1), np.ones(1), angles=(0,)), (3.0,)))
    assert seen_as(problem(Turning(), COST, (3.0,))).angles == (0,)
    y = control.step(jnp.asarray([3.0]), jnp.asarray([0.0]), jnp.int32(0))
    assert float(y[0]) == pytest.approx(3.3)


def test_what_a_cost_reads_is_found():
    x, u, t = jnp.zeros(3), jnp.zeros(1), jnp.int32(0)
    assert not reads(PendulumCost().stage, 2, x, u, x, t)
    assert reads(Saturating(np.zeros(3), np.ones(3)).stage, 2, x, u, x, t)


def test_a_model_without_numbers_gives_the_safe_action():
    broken = problem(KnownDynamics(Mass(jnp.full((), jnp.nan, jnp.float64))))
    for horizon in (10, 25):
        plan, warm = planned(SMALL, dataclasses.replace(broken, horizon=horizon))
        assert not bool(plan.ok)
        np.testing.assert_array_equal(plan.policy.us, 0.0)
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(warm) if eqx.is_inexact_array(leaf))


class Counted(eqx.Module):
    """The mass, with a count of how often it is traced."""

    gain: jax.Array

    def __call__(self, x, u):
        TRACES.append(1)
        return jnp.stack([x[0] + DT * x[1], x[1] + DT * self.gain.astype(x.dtype) * u[0]])


TRACES = []


def test_new_models_compile_nothing():
    counts = []
    for gain in (1.0, 0.5, 2.0):
        planned(SMALL, problem(KnownDynamics(Counted(jnp.asarray(gain, jnp.float64)))))
        counts.append(len(TRACES))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
