"""Trust-region policy updates: the bound, the sign, what does not count, and the loop around them."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import log_softmax

from forethought.algorithms import trust_region
from forethought.algorithms.trust_improve import Rows, Terms, acting, critic_of, init_actor, said, settle, update
from forethought.algorithms.trust_region import TrustRegion, _newest
from forethought.core import AbstractLearner
from forethought.math.dataset import append, empty
from forethought.math.kl_dual import KLStatus
from forethought.math.stochastic import log_prob
from forethought.math.trust_region import StepHow
from forethought.models.linear import LinearLearner
from forethought.models.value import ValueLearner
from forethought.policies.neural import ChoosingPolicy, NeuralPolicy
from forethought.tasks import task
from forethought.types import Box, Choices, Spec, Trajectory

SPEC, B, KL = Spec(n=2, m=1, angles=(0,)), 200, 0.02
BOX, CHOICES = Box(np.float32([-2.0]), np.float32([2.0])), Choices(np.eye(3, dtype=np.float32))
VALUE = ValueLearner(width=8, depth=1, gradient_steps=30, batch=32)
TERMS = Terms(SPEC, KL, 0.9, 0.9, VALUE, StepHow())
SMALL = TrustRegion(
    learner=LinearLearner(),
    fresh=20,
    width=8,
    depth=1,
    value=VALUE,
    updates=4,
    check_every=2,
    models=3,
    rollouts=4,
    horizon=5,
)
rng = np.random.default_rng(0)
X = rng.normal(size=(B, 2))


def start(actions, seed=0):
    actor = init_actor(SPEC, actions, (8, 1), 0.5, jr.key(seed))
    return actor, critic_of(VALUE.init(SPEC, jr.key(1)), np.array([0.0, 9.0]), 0.9)


def drawn_actions(actor, actions, seed=0):
    policy = acting(actor, actions, SPEC, 1.0)
    act = lambda x, k: policy.act(policy.init(x, k), x, jnp.zeros((), jnp.int32))[0]
    return np.asarray(jax.vmap(act)(jnp.asarray(X, jnp.float32), jr.split(jr.key(seed), B)))


def bandit(actor, actions, cost, seed=0):
    """Rows of one step each, so that the advantage is the cost itself, but for a constant."""
    u, yes = drawn_actions(actor, actions, seed), np.ones(B, bool)
    return Rows(X, u, X, cost(u), yes, yes, yes)


def wanted_action(u):
    return (u[:, 0] - 0.7) ** 2


def second_choice(u):
    return 1.0 - u[:, 1]


def distribution(actor):
    found = jax.vmap(lambda x: said(actor, SPEC, x))(jnp.asarray(X))
    return np.asarray(found.center, float), np.asarray(found.log_std, float)


def mean_kl(old, new, actions):
    """KL(old || new) over the states, in float64 and by the textbook."""
    (m0, s0), (m1, s1) = distribution(old), distribution(new)
    if isinstance(actions, Choices):
        p, q = log_softmax(m0, axis=1), log_softmax(m1, axis=1)
        return np.mean(np.sum(np.exp(p) * (p - q), axis=1))
    return np.mean(np.sum(s1 - s0 + (np.exp(2 * s0) + (m0 - m1) ** 2) / (2 * np.exp(2 * s1)) - 0.5, axis=1))


@pytest.mark.parametrize(("actions", "cost"), [(BOX, wanted_action), (CHOICES, second_choice)], ids=["box", "choices"])
def test_every_update_keeps_the_bound_uses_it_and_brings_the_cost_down(actions, cost):
    actor, critic = start(actions)
    before = np.mean(cost(drawn_actions(actor, actions)))
    for i in range(20):
        rows = bandit(actor, actions, cost, i)
        after, fitted, told = update(actor, critic, rows, actions, TERMS, jr.key(i))
        kl = mean_kl(actor, after, actions)
        assert kl == pytest.approx(float(told["policy_kl"]), rel=1e-3)
        assert kl <= KL * 1.001  # float32
        if i < 5:
            assert int(told["policy_status"]) == KLStatus.SOLVED
            assert kl > 0.9 * KL
        actor, critic = after, critic._replace(fitted=fitted)
    assert np.mean(cost(drawn_actions(actor, actions))) < 0.3 * before
    still, now = acting(actor, actions, SPEC, 0.0), jnp.zeros((), jnp.int32)
    mean = np.asarray(jax.vmap(lambda x: still.act(jr.key(0), x, now)[0])(jnp.asarray(X)))
    assert np.mean(cost(mean)) < 0.05


def test_the_policy_that_acts_is_the_one_whose_likelihood_is_used():
    actor, _ = start(BOX)
    actor = actor._replace(log_std=jnp.asarray([0.5], jnp.float32))
    u = drawn_actions(actor, BOX)
    logs = jax.vmap(lambda x, u: log_prob(BOX, said(actor, SPEC, x), u))(jnp.asarray(X), jnp.asarray(u))
    off = (u - distribution(actor)[0]) / np.exp(0.5)
    inside = np.abs(u[:, 0]) < 2.0
    assert 0.5 < inside.mean() < 0.95
    np.testing.assert_allclose(logs[inside], (-0.5 * off**2 - 0.5 - 0.5 * np.log(2 * np.pi))[inside, 0], atol=1e-4)


def test_rows_that_are_not_finite_or_not_in_use_have_no_influence():
    actor, critic = start(BOX)
    rows = bandit(actor, BOX, wanted_action)
    half = np.arange(B) < B // 2
    clean = update(actor, critic, rows._replace(use=half), BOX, TERMS, jr.key(0))
    spoiled, x, y = np.where(half, rows.cost, np.nan), X.copy(), X.copy()
    x[B // 2 + 5], y[B // 2 + 6] = np.nan, np.inf
    other = update(actor, critic, rows._replace(x=x, y=y, cost=spoiled), BOX, TERMS, jr.key(0))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(clean[2]["policy_rows"]) == B // 2


@pytest.mark.parametrize("why", ["nan", "same"])
def test_without_an_advantage_the_policy_stays(why):
    actor, critic = start(BOX)
    rows = bandit(actor, BOX, lambda u: np.full(B, np.nan if why == "nan" else 3.0))
    # With equal costs there is no advantage if the value is the same everywhere, too.
    critic = critic._replace(low=jnp.zeros((), jnp.float32), high=jnp.zeros((), jnp.float32))
    after, fitted, told = update(actor, critic, rows, BOX, TERMS, jr.key(0))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(actor), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(told["policy_status"]) == KLStatus.INACTIVE
    assert bool(told["value_failed"]) == (why == "nan")
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(fitted))


def test_what_is_believed_of_a_value_is_between_the_costs_that_were_seen():
    critic = critic_of(VALUE.init(SPEC, jr.key(1)), np.array([2.0, 4.0]), 0.9)
    assert (float(critic.low), float(critic.high)) == pytest.approx((0.0, 40.0))
    wild = eqx.tree_at(lambda c: c.fitted.value.outputs.mean, critic, jnp.full((1,), -1e6, jnp.float32))
    assert float(wild.bounded(jnp.zeros(2))) == 0.0
    assert np.isinf(float(critic_of(critic.fitted, np.array([1.0]), 1.0).high))


def test_settling_changes_the_inputs_and_not_the_policy():
    actor, _ = start(BOX)
    x = 50.0 + 7.0 * rng.normal(size=(B, 2))
    after = settle(actor, SPEC, x, np.arange(B) < 150)
    assert float(after.network.inputs.mean[0]) == pytest.approx(x[:150, 1].mean(), rel=1e-5)
    for v in x[:5]:
        one, two = (np.asarray(said(a, SPEC, jnp.asarray(v)).center) for a in (actor, after))
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def piece(length, t0=0, *, terminated=False, truncated=False):
    """A piece of an episode."""
    flags = [np.zeros(length, bool) for _ in "12"]
    flags[0][-1], flags[1][-1] = terminated, truncated
    x = rng.normal(size=(length, 2))
    zeros = np.zeros(length)
    return Trajectory(
        x, x[:, :1], x, -np.arange(length) * 1.0, *flags, np.arange(length) + t0, zeros, np.zeros(length, int)
    )


def test_the_newest_rows_know_where_episodes_end():
    data = append(append(empty(SPEC), piece(4, truncated=True), 0), piece(3), 1)
    data = append(append(data, piece(2, 3, terminated=True), 1), piece(3), 2)
    data = append(data, piece(2, 3), 3)  # another world's
    rows = _newest(data, 16)
    np.testing.assert_array_equal(np.flatnonzero(rows.ended[:14]), [3, 8, 11, 13])
    np.testing.assert_array_equal(np.flatnonzero(rows.terminated), [8])
    np.testing.assert_array_equal(rows.use, np.arange(16) < 14)
    np.testing.assert_array_equal(rows.cost[:4], [0, 1, 2, 3])
    np.testing.assert_array_equal(_newest(data, 5).x, np.asarray(data.x)[9:14])


class Broken(AbstractLearner):
    """Has learned nothing but NaN."""

    fitted: Any

    def init(self, spec, key):
        return self.fitted

    def fit(self, fitted, data, key):
        return self.fitted, {}


@pytest.fixture(scope="module")
def cart():
    return task("drag-cart", limit=20)


def shapes(state):
    """Structure, shapes, dtypes and weak types of what must not change, but for the data, which grow."""
    fixed = eqx.tree_at(lambda s: (s.open, s.data), state, (None, None), is_leaf=lambda v: v is None)
    leaves = jax.tree.leaves(eqx.filter(fixed, eqx.is_array))
    return jax.tree.structure(fixed), [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in leaves]


@pytest.mark.parametrize("data", ["imagined", "real"])
def test_the_state_keeps_its_shape_and_nothing_compiles_after_the_second_improvement(data, cart):
    algorithm = dataclasses.replace(SMALL, data=data, agree=0.0)
    state, told = algorithm.init(cart, jr.key(0)), []
    first = shapes(state)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    counts = []
    for _ in range(5):
        state, metrics = algorithm.step(cart, state, 1000)
        assert shapes(state) == first
        told.append(metrics)
        counts.append(len(compiled))
    assert int(state.fitted.updates) == 4
    assert counts[1] > 0
    assert counts[2:] == [counts[2]] * 3
    assert int(state.fits) == (4 if data == "imagined" else 0)
    for metrics in told[1:]:
        assert metrics["policy_updates"] == (4 if data == "imagined" else 1)
        assert sum(metrics["policy_status"].values()) == metrics["policy_updates"]
        assert metrics["policy_kl_most"] <= algorithm.kl * 1.001
    assert isinstance(algorithm.policy(cart, state), NeuralPolicy)


def test_updates_that_models_do_not_confirm_are_taken_back(cart, monkeypatch):
    state, _ = SMALL.step(cart, SMALL.init(cart, jr.key(0)), 20)
    said_of = []

    def judge(*arguments):
        said_of.append(arguments)
        return np.array([[1.0, 1.0, 1.0], [0.0, 0.5, 2.0 if len(said_of) == 1 else 3.0]])

    monkeypatch.setattr(trust_region, "judge", judge)
    after, metrics = dataclasses.replace(SMALL, agree=0.7).step(cart, state, 0)
    assert (metrics["policy_updates"], len(said_of)) == (2, 1)
    assert metrics["policy_agreed"] == pytest.approx(2 / 3)
    settled = settle(state.fitted.actor, cart.spec, *_newest(state.data, 20)[::6][:2])
    np.testing.assert_array_equal(after.fitted.actor.log_std, settled.log_std)
    after, metrics = dataclasses.replace(SMALL, agree=0.6).step(cart, state, 0)
    assert metrics["policy_updates"] == 4
    assert np.any(np.asarray(after.fitted.actor.log_std) != np.asarray(settled.log_std))


def test_a_model_that_is_not_finite_changes_nothing(cart):
    state, _ = SMALL.step(cart, SMALL.init(cart, jr.key(0)), 20)
    broken = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan) if eqx.is_inexact_array(v) else v, state.fitted.inner)
    algorithm = dataclasses.replace(SMALL, learner=Broken(broken))
    spoiled = dataclasses.replace(state, fitted=dataclasses.replace(state.fitted, inner=broken))
    after, metrics = algorithm.step(cart, spoiled, 0)
    assert metrics["policy_status"] == {"inactive": 2}
    assert metrics["policy_agreed"] == 0.0
    assert metrics["policy_rows"] == 0.0
    settled = settle(state.fitted.actor, cart.spec, *_newest(state.data, 20)[::6][:2])
    for a, b in zip(jax.tree.leaves(after.fitted.actor), jax.tree.leaves(settled), strict=True):
        np.testing.assert_array_equal(a, b)


def test_real_updates_do_not_take_logged_rows_for_their_own(cart):
    algorithm = dataclasses.replace(SMALL, data="real")
    state = algorithm.init(cart, jr.key(0))
    logged = append(empty(cart.spec), _logged(cart), 0)
    state = dataclasses.replace(state, data=logged)
    assert algorithm._waiting(state) == 0
    state, metrics = algorithm.step(cart, state, 1000)
    assert "policy_kl" not in metrics
    assert algorithm._waiting(state) == 20
    state, metrics = algorithm.step(cart, state, 1000)
    assert metrics["policy_rows"] == 20
    assert SMALL._waiting(dataclasses.replace(SMALL.init(cart, jr.key(0)), data=logged)) == 30


def _logged(cart):
    n, m, T = cart.spec.n, cart.spec.m, 30
    x, zeros = rng.normal(size=(T, n)), np.zeros(T)
    no = np.zeros(T, bool)
    return Trajectory(x, np.zeros((T, m)), x, zeros, no, no, np.arange(T), zeros, np.zeros(T, int))


def test_choices_have_a_policy_that_chooses():
    algorithm = dataclasses.replace(SMALL, data="real", fresh=60)
    cartpole = task("CartPole-v1")
    state, _ = algorithm.step(cartpole, algorithm.init(cartpole, jr.key(0)), 30)
    assert 0.2 < np.asarray(state.data.u)[: int(state.data.count), 0].mean() < 0.8
    policy = algorithm.policy(cartpole, state)
    assert isinstance(policy, ChoosingPolicy)
    u, _ = policy.act(jr.key(0), jnp.zeros(4), jnp.zeros((), jnp.int32))
    assert sorted(np.asarray(u).tolist()) == [0.0, 1.0]
