"""Version 2.0: a policy improved, against the best linear controller, and what is said when that is unstable."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from forethought.algorithms import improve as verb
from forethought.algorithms.beginnings import where_episodes_were
from forethought.algorithms.globally import V20
from forethought.algorithms.improve import Imagined, Improve, Improvement, improve
from forethought.algorithms.improve_moments import BeliefProblem, belief_problem, improve_moments, value_and_slope
from forethought.core import AbstractDynamics
from forethought.costs.quadratic import Quadratic
from forethought.math.closed_loop import Stretch
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.lqr import lqr
from forethought.models.gp_learner import GPLearner
from forethought.models.value import ValueLearner
from forethought.policies.actor import init_actor
from forethought.tasks import task
from forethought.types import Box, Spec, UserError

SPEC, LIMITS = Spec(n=2, m=1), Box(np.full(1, -5.0, np.float32), np.full(1, 5.0, np.float32))
A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
COST = Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.1]))
T = 30


class Mass(AbstractDynamics):
    """A double integrator with a little noise."""

    A: jax.Array
    B: jax.Array

    def predict(self, x, u, t):
        return DiagonalGaussian(self.A @ x + self.B @ u, jnp.full((2,), 1e-4, jnp.float32))

    def draw(self, key, particles):
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *v.shape)), self)


def place(model=None, cost=COST, length=T, discount=1.0):
    model = Mass(jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)) if model is None else model
    pool = jnp.float32(0.15) * jr.normal(jr.key(7), (64, 2), jnp.float32)
    stretch = Stretch(jnp.asarray(length, jnp.int32), jnp.asarray(discount, jnp.float32), jnp.ones((2,), jnp.float32))
    return Imagined(model, cost, pool, stretch)


def new(form="linear", how=None, seed=0, length=T):
    value = how.value.init(SPEC, jr.key(3)) if how is not None and how.terminal == "value" else None
    return Improvement(init_actor(SPEC, LIMITS, form, (16, 1), jr.key(seed)), value, jnp.asarray(length, jnp.int32))


def best(pool, steps=T):
    """Mean cost of the optimal controller over the start states."""
    F, C = np.tile(np.hstack([A, B]), (steps, 1, 1)), np.tile(np.diag([2.0, 0.2, 0.2]), (steps, 1, 1))
    found = lqr(F, np.zeros((steps, 2)), C, np.zeros((steps, 3)), np.zeros((2, 2)), np.zeros(2))
    P = np.asarray(found.P[0])
    return float(np.mean(0.5 * np.einsum("si,ij,sj->s", pool, P, pool)))


def test_a_linear_policy_comes_close_to_the_best_controller() -> None:
    how = Improve(horizon=T, particles=16, gradient_steps=400, learning_rate=0.02)
    at = place()
    after, told = improve(how, new(), at, T, jr.key(0))
    x = np.asarray(at.pool, np.float64)
    state, total = x, 0.0
    for _ in range(T):
        u = np.asarray(jax.vmap(after.actor)(jnp.asarray(state, jnp.float32)), np.float64)
        total += np.mean(state**2 @ [1.0, 0.1] + 0.1 * u[:, 0] ** 2)
        state = state @ A.T + u @ B.T
    assert total < 1.05 * best(x)
    assert told["improve_cost"] < 0.5 * told["improve_began"]
    assert len(told["improve_adjoint"]) == T
    assert told["improve_lost"] == 0
    assert "improve_says" not in told


def test_a_value_function_closes_a_short_horizon() -> None:
    """With eight steps and no value the controller lets the mass drift; with V it does not."""
    whole, x = place(), np.asarray(place().pool)
    costs = {}
    for terminal in ("none", "value"):
        how = Improve(
            horizon=8,
            particles=16,
            gradient_steps=400,
            learning_rate=0.02,
            terminal=terminal,
            value=ValueLearner(width=32, gradient_steps=100),
        )
        after, told = improve(how, new("linear", how, length=8), place(length=8, discount=0.97), 8, jr.key(0))
        assert np.isfinite(told["improve_cost"])
        compiled = Improve(horizon=60, particles=64).compiled(60, "pathwise")
        long = whole._replace(stretch=whole.stretch._replace(length=jnp.asarray(60, jnp.int32)))
        costs[terminal] = verb.first_cost(after.actor, long, compiled, jr.key(5), None, 60)
    assert costs["value"] < 0.8 * costs["none"]
    assert costs["value"] < 1.3 * best(x, 60)


class Chaos(AbstractDynamics):
    """States stay small; differences of them grow manifold at every step."""

    gain: jax.Array

    def predict(self, x, u, t):
        return DiagonalGaussian(
            2.0 * jnp.sin(self.gain * x) + jnp.concatenate([u, u]), jnp.full((2,), 0.3, jnp.float32)
        )

    def draw(self, key, particles):
        return Chaos(jnp.broadcast_to(self.gain, (particles,)))


def test_an_unstable_gradient_is_seen_and_something_is_done_about_it() -> None:
    how = Improve(horizon=T, particles=8, gradient_steps=100)
    after, told = improve(how, new(), place(Chaos(jnp.asarray(3.0, jnp.float32))), T, jr.key(0))
    assert told["improve_estimator"] == "total"
    assert "switched to total propagation: " in told["improve_says"]
    assert told["improve_exponent"] > 0.5
    left = dataclasses.replace(how, stabilise="off")
    _, told = improve(left, new(), place(Chaos(jnp.asarray(3.0, jnp.float32))), T, jr.key(0))
    assert told["improve_estimator"] == "pathwise"
    assert told["improve_growth"] > verb.EXPLODES
    assert told["improve_snr"] < 1.0
    # With no other estimator left the horizon shrinks.
    total = dataclasses.replace(how, estimator="total")
    sick = place(eqx.tree_at(lambda m: m.gain, Chaos(jnp.asarray(3.0, jnp.float32)), jnp.asarray(jnp.nan, jnp.float32)))
    after, told = improve(total, new(), sick, T, jr.key(0))
    assert "shortened from 30 to 15 steps: 8 of its rollouts exploded" in told["improve_says"]
    # Nothing was taken from rollouts that are not finite.
    for a, b in zip(jax.tree.leaves(after.actor), jax.tree.leaves(new().actor), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rounds_and_refits_compile_once(monkeypatch) -> None:
    how, counted = Improve(horizon=T, particles=4, gradient_steps=75), []
    real = verb.pathwise
    monkeypatch.setattr(verb, "pathwise", lambda *args: counted.append(1) or real(*args))
    fresh = dataclasses.replace(how, learning_rate=0.0123)  # not compiled by another test
    for gain in (1.0, 1.1, 1.2):
        model = Mass(jnp.asarray(gain * A, jnp.float32), jnp.asarray(B, jnp.float32))
        improve(fresh, new(length=10), place(model, length=10), T, jr.key(0))
    assert len(counted) == 1


@pytest.fixture(scope="module")
def process():
    """A Gaussian process of the mass, and the states that it was learned from."""
    target = task("double-integrator", limit=20)
    algorithm = V20(GPLearner(functions=4, waves=16), base_steps=40)
    state = algorithm.init(target, jr.key(0))
    for _ in range(2):
        state, _ = algorithm.step(target, state, 100)
    fitted, _ = algorithm.learner.fit(state.fitted.inner, state.data, jr.key(1))
    return fitted.model, where_episodes_were(state.data)[0], target


@pytest.mark.parametrize("form", [pytest.param("rbf", marks=pytest.mark.slow), "linear"])
def test_the_gradient_by_moments_is_that_of_finite_differences(process, form) -> None:
    model, began, target = process
    stretch = Stretch(jnp.asarray(5, jnp.int32), jnp.ones((), jnp.float32), jnp.ones((2,), jnp.float32))
    problem = belief_problem(model, target.cost, began, stretch)
    actor = init_actor(target.spec, target.world.actions, form, (4, 0), jr.key(1))
    flat = np.asarray(ravel_pytree(jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), actor.body))[0])
    value, slope = value_and_slope(jnp.asarray(flat), actor, problem, 6)
    assert np.isfinite(float(value))
    # The moments themselves are good to eight digits here: the process has hardly any noise, and large weights cancel.
    for i in range(len(flat)):
        step = 1e-3 * np.eye(len(flat))[i]
        up, down = (float(value_and_slope(jnp.asarray(flat + s), actor, problem, 6)[0]) for s in (step, -step))
        assert float(slope[i]) == pytest.approx((up - down) / 2e-3, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_beliefs_lead_to_a_policy_that_works(process) -> None:
    model, began, target = process
    stretch = Stretch(jnp.asarray(20, jnp.int32), jnp.ones((), jnp.float32), jnp.ones((2,), jnp.float32))
    problem = belief_problem(model, target.cost, began, stretch)
    actor = init_actor(target.spec, target.world.actions, "linear", (0, 0), jr.key(1))
    now = Improvement(actor, None, stretch.length)
    after, told = improve_moments(now, problem, 20, 30)
    assert isinstance(problem, BeliefProblem)
    assert told["improve_cost"] < 0.9 * told["improve_began"]
    # Better inside of the model is better outside.
    runs = {
        name: np.mean([e.reward.sum() for e in target.world.fresh().rollouts(acting(a), jr.key(2), range(8), 20)])
        for name, a in (("before", actor), ("after", after.actor))
    }
    assert runs["after"] > runs["before"]


def acting(actor):
    from forethought.policies.actor import ActorPolicy

    return ActorPolicy(actor, jnp.zeros((), jnp.float32))


def test_what_does_not_go_together_gets_a_sentence(process) -> None:
    target = task("double-integrator")
    with pytest.raises(UserError, match="whose moments have no closed form"):
        V20(imagine="moments", form="network").init(target, jr.key(0))
    stretch = Stretch(jnp.asarray(5, jnp.int32), jnp.ones((), jnp.float32), jnp.ones((2,), jnp.float32))
    with pytest.raises(UserError, match="takes a Gaussian process, and the model is Mass"):
        belief_problem(place().model, COST, process[1], stretch)
    with pytest.raises(UserError, match="has discrete actions"):
        V20().init(task("CartPole-v1"), jr.key(0))
