"""The actor-critic: its targets by hand, its slopes by their signs, and its value on a problem whose value is known."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from forethought.algorithms import soft_actor_critic
from forethought.algorithms.soft_actor_critic import Batch, SoftActorCritic, in_units
from forethought.costs.quadratic import Quadratic
from forethought.costs.terminal import TerminalValue
from forethought.math.ring import Transitions, empty_ring, push
from forethought.math.scaling import identity_scaler
from forethought.policies.squashed_gaussian import head, log_prob
from forethought.types import Box, Spec

SPEC, RECIPE = Spec(n=2, m=1), SoftActorCritic(width=16, depth=1, batch=8, actor_every=2, discount=0.9)
rng = np.random.default_rng(0)
steps = (soft_actor_critic.step_critics, soft_actor_critic.step_actor, soft_actor_critic.targets_of)
step_critics, step_actor, targets_of = map(eqx.filter_jit, steps)

NOISE = rng.normal(size=(64, 1)).astype(np.float32)


def rows(*shape: int, ends=None) -> Transitions:
    draw = lambda *k: jnp.asarray(rng.uniform(-1.0, 1.0, (*shape, *k)), jnp.float32)
    ends = jnp.zeros(shape, bool) if ends is None else jnp.asarray(ends)
    return Transitions(draw(2), draw(1), draw(), draw(2), ends)


@pytest.fixture(scope="module")
def agent():
    return in_units(RECIPE.init(SPEC, jr.key(0)), identity_scaler(2), jnp.full((), 2.0, jnp.float32))


def test_targets_are_bellmans_with_costs_and_the_larger_critic(agent):
    """With a policy that is nearly certain, so that the draw is known; the entropy by the density of that draw."""
    actor = agent.actor
    last = actor.layers[-1]
    certain = type(last)(last.weight.at[:, 1:].set(0.0), last.bias.at[1:].set(-30.0))
    agent = eqx.tree_at(lambda a: a.actor, agent, actor._replace(layers=(*actor.layers[:-1], certain)))
    agent = eqx.tree_at(lambda a: a.targets, agent, jax.tree.map(lambda v: v + 0.05, agent.targets))
    given = rows(4, ends=[False, True, False, False])
    noise = jr.normal(jr.key(3), (4, 1), jnp.float32)
    said = np.asarray(targets_of(RECIPE, agent, SPEC, given, noise))
    for i in range(4):
        at = head(agent.actor, SPEC, given.y[i])
        z = jnp.tanh(at.mean + jnp.exp(at.log_std) * noise[i])
        q = np.asarray(agent.targets(jnp.concatenate([given.y[i], z])[None]))[:, 0]
        ahead = q.max() + 0.1 * float(log_prob(at, z))
        wanted = float(given.cost[i]) / 2.0 + 0.9 * (0.0 if given.ends[i] else ahead)
        assert said[i] == pytest.approx(wanted, abs=2e-3)
    assert said[1] == pytest.approx(float(given.cost[1]) / 2.0)


def test_nothing_is_learned_from_what_follows_an_end_be_it_not_a_number(agent):
    given = rows(4, ends=[True] * 4)
    spoiled = given._replace(y=jnp.full((4, 2), jnp.nan))
    np.testing.assert_array_equal(targets_of(RECIPE, agent, SPEC, spoiled, jnp.ones((4, 1))), given.cost / 2.0)


def test_the_critics_step_goes_towards_the_target_and_the_slow_ones_follow_slowly(agent):
    batch = Batch(rows(8), jnp.ones((8,), jnp.float32))
    after, first = step_critics(RECIPE, agent, SPEC, batch, NOISE[:8])
    for _ in range(20):
        after, last = step_critics(RECIPE, after, SPEC, batch, NOISE[:8])
    assert float(last) < 0.7 * float(first)
    one, _ = step_critics(RECIPE, agent, SPEC, batch, NOISE[:8])
    pairs = zip(*map(jax.tree.leaves, (agent.targets, one.critics, one.targets)), strict=True)
    for old, new, slow in pairs:
        np.testing.assert_allclose(slow, old + 0.01 * (new - old), rtol=1e-5, atol=1e-7)
    assert int(one.updates) == 1


def test_rows_without_weight_change_nothing(agent):
    given = rows(8)
    weight = jnp.asarray([1.0] * 4 + [0.0] * 4, jnp.float32)
    other = given._replace(cost=given.cost.at[5].set(jnp.inf), x=given.x.at[6].set(9.0))
    for step in (step_critics, step_actor):
        one, _ = step(RECIPE, agent, SPEC, Batch(given, weight), NOISE[:8])
        two, _ = step(RECIPE, agent, SPEC, Batch(other, weight), NOISE[:8])
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_the_actors_step_lowers_the_cost_to_go_and_the_temperature_seeks_the_entropy(agent):
    batch = Batch(rows(64), jnp.ones((64,), jnp.float32))
    calm = eqx.tree_at(lambda a: a.log_alpha, agent, jnp.full((), -20.0, jnp.float32))
    first = last = None
    for _ in range(30):
        calm, (q, _) = step_actor(RECIPE, calm, SPEC, batch, NOISE)
        first, last = q if first is None else first, q
    assert float(last) < float(first) - 1e-3
    # More random than it need be: randomness is worth less from now on; less random: more.
    for entropy, sign in ((-9.0, -1.0), (0.69, 1.0)):
        after, (_, said) = step_actor(dataclasses.replace(RECIPE, entropy=entropy), agent, SPEC, batch, NOISE)
        assert sign * (entropy - float(said)) > 0.0
        assert sign * float(after.log_alpha - agent.log_alpha) > 0.0


@pytest.fixture(scope="module")
def compiled():
    ring = push(empty_ring(32, 2, 1), rows(16), jnp.ones((16,), bool))
    return lambda agent, real, ring=ring: RECIPE.update(agent, SPEC, real, ring, jr.key(5))


def test_steps_that_are_not_finite_are_not_taken_and_counted(agent, compiled):
    real = rows(6, 4)
    spoiled = real._replace(cost=real.cost.at[2, 1].set(jnp.nan))
    after, told = compiled(agent, spoiled)
    assert int(told["refused"]) == 1
    assert int(after.updates) == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    everywhere, told = compiled(agent, real._replace(x=jnp.full_like(real.x, jnp.nan)))
    assert int(told["refused"]) == 6 + 3
    assert int(everywhere.updates) == 0
    for part in (lambda a: a.critics, lambda a: a.targets, lambda a: a.actor, lambda a: a.log_alpha):
        old, new = jax.tree.leaves(part(agent)), jax.tree.leaves(part(everywhere))
        assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_the_tree_stays_as_it_was(agent, compiled):
    after, told = compiled(agent, rows(6, 4))
    kind = lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type)
    assert jax.tree.structure(agent) == jax.tree.structure(after)
    assert list(map(kind, jax.tree.leaves(agent))) == list(map(kind, jax.tree.leaves(after)))
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert int(after.updates) == 6
    assert int(told["refused"]) == 0


A, B, Q, R, G = 0.9, 0.5, 1.0, 0.5, 0.8


def test_on_a_linear_quadratic_problem_the_value_is_the_known_one():
    """x' = 0.9 x + 0.5 u, cost x^2 + u^2/2, discount 0.8: P of the Riccati equation with A and B times sqrt(g)."""
    recipe = SoftActorCritic(
        width=32, depth=2, batch=64, discount=G, actor_every=2, entropy=-3.0, learning_rate=5e-3, target_rate=0.05
    )
    spec, root = Spec(n=1, m=1), np.sqrt(G)
    P = float(solve_discrete_are(root * A * np.eye(1), root * B * np.eye(1), Q * np.eye(1), R * np.eye(1))[0, 0])
    K = G * P * A * B / (R + G * P * B**2)
    S, r = 1200, 64
    x, u = rng.uniform(-1.5, 1.5, (S, r, 1)), rng.uniform(-1.0, 1.0, (S, r, 1))
    f = lambda v: jnp.asarray(v, jnp.float32)
    cost = Q * x[..., 0] ** 2 + R * u[..., 0] ** 2
    real = Transitions(f(x), f(u), f(cost), f(A * x + B * u), jnp.zeros((S, r), bool))
    agent, told = recipe.update(recipe.init(spec, jr.key(0)), spec, real, empty_ring(1, 1, 1), jr.key(1))
    assert int(told["refused"]) == 0
    value, at = recipe.value(agent, spec), np.linspace(-1.0, 1.0, 9)
    said = np.asarray(jax.vmap(value)(f(at[:, None])))
    # What the entropy costs that it is kept at, for ever: the soft value is larger by that.
    kept = G / (1.0 - G) * 3.0 * float(told["temperature"])
    np.testing.assert_allclose(said, P * at**2 + kept, atol=0.1)
    policy = recipe.policy(agent, spec, Box(f(np.array([-1.0])), f(np.array([1.0]))))
    acts = [float(policy.act(jr.key(0), f([v]), jnp.int32(0))[0][0]) for v in at]
    np.testing.assert_allclose(acts, -K * at, atol=0.12)
    # It closes the horizon of a planner's cost.
    closed = TerminalValue(Quadratic(np.zeros(1), np.ones(1), np.ones(1)), value)
    assert float(closed.terminal(f([0.5]))) == pytest.approx(float(value(f([0.5]))))
