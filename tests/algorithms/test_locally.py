"""The local method: its loop, what it keeps, and that it improves where there is a known best."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import forethought
from forethought.algorithms import local_improve
from forethought.algorithms.imitation import Guide
from forethought.algorithms.local_batch import batch_of, clip_rate, nearest_turn, newest
from forethought.algorithms.local_improve import Carried, adapted
from forethought.algorithms.local_start import InitialController
from forethought.algorithms.locally import Local
from forethought.math.dataset import append, empty
from forethought.math.kl_dual import KLStatus
from forethought.models.known import KnownLearner
from forethought.models.linear import LinearLearner
from forethought.policies.neural import NeuralPolicy
from forethought.tasks import task
from forethought.types import Box, Spec, Trajectory, UserError

SMALL = Local(LinearLearner(), conditions=(3, 4), rollouts=3)
"""The cart is nearly linear, so that a global linear model is a good prior, and a cheap one."""


@pytest.fixture(scope="module")
def cart():
    """The cart with drag, in episodes of 20 steps."""
    return task("drag-cart", limit=20)


def turns(algorithm, target, count, seed=0):
    """The state and metrics after each turn."""
    state, out = algorithm.init(target, jr.key(seed)), []
    for _ in range(count):
        state, metrics = algorithm.step(target, state, 10_000)
        out.append((state, metrics))
    return out


def shapes(state):
    """Structure, shapes and dtypes of what must not change, but for the data, which grow."""
    fixed = eqx.tree_at(lambda s: (s.open, s.data), state, (None, None), is_leaf=lambda v: v is None)
    leaves = jax.tree.leaves(eqx.filter(fixed, eqx.is_array))
    return jax.tree.structure(fixed), [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in leaves]


def best_and_reached(cart, episode):
    """The least cost from where an episode began, by iterative LQR on the equations, and the episode's own."""
    step = lambda x, u, t: jnp.asarray(cart.world.step(x, u), jnp.float64)
    stage = lambda x, u, t: cart.cost.stage(x, u, step(x, u, t), t)
    low, high = np.asarray(cart.world.actions.low, np.float64), np.asarray(cart.world.actions.high, np.float64)
    x0 = np.asarray(episode.x[0], np.float64)
    best = forethought.ilqr(step, stage, cart.cost.terminal, x0, np.zeros((20, 2)), low, high)
    reached = -float(np.sum(episode.reward)) + float(cart.cost.terminal(jnp.asarray(episode.y[-1])))
    return float(best.cost), reached


def test_one_turn_is_one_rollout_and_an_iteration_improves_every_condition(cart) -> None:
    out = turns(SMALL, cart, 14)
    improved = [i for i, (_, metrics) in enumerate(out) if "local_status" in metrics]
    assert improved == [6, 12]
    assert all(int(state.episodes) == i + 1 for i, (state, _) in enumerate(out))
    data = out[-1][0].data
    ends = np.flatnonzero(np.asarray(data.truncated)[: int(data.count)])
    assert np.asarray(data.condition)[ends].tolist() == [3, 4] * 7
    assert shapes(out[0][0]) == shapes(out[-1][0])
    for i in improved:
        metrics = out[i][1]
        assert metrics["local_status"] == ["solved", "solved"]
        for kl, epsilon in zip(metrics["local_kl"], metrics["local_epsilon"], strict=True):
            assert 0.9 * epsilon <= kl <= 1.1 * epsilon
        assert all(value > 0.0 for value in metrics["local_predicted"] + metrics["local_least_quu"])
    # A linear fit of a nearly linear system predicts what happens, but for the noise of three rollouts each.
    first, second = out[6][1], out[12][1]
    np.testing.assert_allclose(second["local_actual"], first["local_predicted"], rtol=0.3)


def test_it_comes_near_the_best_that_a_controller_with_the_equations_reaches(cart) -> None:
    """Of the known system, by iterative LQR from the same starts."""
    state = turns(dataclasses.replace(SMALL, kl=3.0), cart, 31)[-1][0]
    episodes = cart.world.fresh().rollouts(SMALL.policy(cart, state), jr.key(1), SMALL.conditions, 20)
    for episode in episodes:
        best, reached = best_and_reached(cart, episode)
        assert best * 0.999 <= reached <= 1.05 * best


def test_the_same_seed_gives_the_same_run_to_the_bit(cart) -> None:
    one, two = (turns(SMALL, cart, 8)[-1][0] for _ in "12")
    for a, b in zip(jax.tree.leaves(one.fitted), jax.tree.leaves(two.fitted), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_programs_are_compiled_once(cart) -> None:
    """The improvement is traced in the first iteration, and never again."""
    state = turns(SMALL, cart, 7)[-1][0]
    count = []
    original = local_improve.improve_one

    def counted(*arguments):
        count.append(1)
        return original(*arguments)

    local_improve.improve_one = counted
    try:
        for _ in range(6):
            state, _ = SMALL.step(cart, state, 10_000)
    finally:
        local_improve.improve_one = original
    assert int(state.fitted.improved) == 2
    assert not count


@pytest.mark.parametrize("controller", ["gaussian", "feedback", "open-loop"])
def test_the_three_controllers_are_values_of_one_class(controller, cart) -> None:
    algorithm = dataclasses.replace(SMALL, controller=controller)
    state = turns(algorithm, cart, 7)[-1][0]
    explored = algorithm._controller(cart, state, 0, exploring=True)
    assert (float(explored.noise) > 0.0) == (controller == "gaussian")
    assert bool(jnp.any(explored.gains.K != 0.0)) == (controller != "open-loop")
    assert float(algorithm.policy(cart, state).noise) == 0.0


@pytest.mark.parametrize("bound", ["sum", "each", "none"])
def test_bounds(bound, cart) -> None:
    algorithm = dataclasses.replace(SMALL, bound=bound)
    metrics = turns(algorithm, cart, 7)[-1][1]
    if bound == "each":
        assert all(most <= 1.1 * algorithm.kl for most in metrics["local_kl_most"])
    if bound == "none":
        assert metrics["local_multiplier"] == [0.0, 0.0]


def test_the_budget_may_end_inside_an_iteration(cart) -> None:
    state = turns(SMALL, cart, 4)[-1][0]
    after, metrics = SMALL.step(cart, state, 0)
    assert metrics == {}
    assert int(after.fitted.improved) == 0
    state = turns(SMALL, cart, 6)[-1][0]
    after, metrics = SMALL.step(cart, state, 0)
    assert "local_status" in metrics
    assert int(after.steps) == int(state.steps)


@pytest.mark.parametrize("conditions", [(), (1, 1)])
def test_conditions_are_distinct(conditions, cart) -> None:
    with pytest.raises(UserError, match="conditions"):
        dataclasses.replace(SMALL, conditions=conditions).init(cart, jr.key(0))


def test_discrete_actions_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="discrete actions"):
        SMALL.init(task("CartPole-v1"), jr.key(0))


def test_the_bound_adapts_to_what_was_predicted_and_what_came() -> None:
    as_float = lambda *values: Carried(*(jnp.asarray(v) for v in values))
    # As predicted: the model I(k) = a k + b k^2 has b = 0, and the bound grows by the most.
    assert float(adapted(as_float(1.0, 10.0, 8.0, 1.0, 0.0), jnp.asarray(8.0), jnp.zeros(()))) == 5.0
    # Half of what was predicted: k* = pred / (2 (pred - act)) = 1.
    assert float(adapted(as_float(1.0, 10.0, 8.0, 1.0, 0.0), jnp.asarray(9.0), jnp.zeros(()))) == pytest.approx(1.0)
    # Worse than before: pred 2, act -2: 2 / 8.
    assert float(adapted(as_float(1.0, 10.0, 8.0, 1.0, 0.0), jnp.asarray(12.0), jnp.zeros(()))) == pytest.approx(0.25)
    assert float(adapted(as_float(1.0, 10.0, 11.0, 1.0, 0.0), jnp.asarray(9.0), jnp.zeros(()))) == pytest.approx(0.1)
    assert float(adapted(as_float(1.0, np.nan, np.nan, 1.0, 0.0), jnp.asarray(9.0), jnp.zeros(()))) == 1.0
    assert float(adapted(as_float(9.0, 10.0, 8.0, 1.0, 0.0), jnp.asarray(8.0), jnp.zeros(()))) == 10.0
    # Worse by 2 with a standard error of 3, of which a part is the last mean's: it may as well have been better by 1.
    assert float(adapted(as_float(1.0, 10.0, 8.0, 1.0, 4.0), jnp.asarray(12.0), jnp.asarray(5.0))) == pytest.approx(1.0)


def rows(x, episode, condition):
    """One episode of a state with one angle, as a trajectory."""
    T = len(x) - 1
    x = np.asarray(x, np.float64)[:, None]
    flags = np.zeros(T, bool)
    return Trajectory(
        x[:-1], np.full((T, 1), 0.5), x[1:], -np.ones(T), flags, flags, np.arange(T), np.zeros(T), np.full(T, condition)
    )


def test_a_batch_holds_the_newest_rollouts_of_each_condition_with_angles_that_run_on() -> None:
    data = empty(Spec(n=1, m=1, angles=(0,)))
    data = append(data, rows([0.0, 0.1, 0.2, 0.3], 0, 7), 0)
    data = append(data, rows([3.0, -3.2, -3.0, -2.8], 1, 8), 1)
    data = append(data, rows([1.0, 1.1], 2, 7), 2)
    batch = batch_of(data, 0, (7, 8), 2, 3, (0,))
    np.testing.assert_allclose(batch.x[0, :, :, 0], [[0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.1, 1.1]])
    np.testing.assert_allclose(
        batch.x[1, 0, :, 0], np.array([3.0, -3.2, -3.0, -2.8]) + 2 * np.pi * np.array([0, 1, 1, 1])
    )
    np.testing.assert_array_equal(batch.weight, [[[1, 1, 1], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]])
    np.testing.assert_array_equal(batch.cost, [[3.0, 1.0], [3.0, 0.0]])
    last = newest(data, 2)
    assert (int(last.count), last.capacity) == (4, data.capacity)
    np.testing.assert_array_equal(last.y[:4, 0], [-3.2, -3.0, -2.8, 1.1])
    assert newest(data, 3) is data
    assert batch_of(data, 2, (7, 8), 2, 3, (0,)).whole.tolist() == [True, False]
    assert clip_rate(batch, Box(np.array([-0.5]), np.array([0.5]))) == 1.0
    assert clip_rate(batch, Box(np.array([-1.0]), np.array([1.0]))) == 0.0
    turned = nearest_turn(np.array([[3.0, 5.0]]), np.array([[-3.0, 5.0]]), (0,))
    np.testing.assert_allclose(turned, [[3.0 - 2 * np.pi, 5.0]])


def test_a_condition_whose_rollouts_are_not_finite_keeps_its_controller(cart) -> None:
    state = turns(SMALL, cart, 6)[-1][0]
    y = np.array(state.data.y)
    y[np.asarray(state.data.condition) == 4] = np.nan
    spoiled = eqx.tree_at(
        lambda s: s.data, state, dataclasses.replace(state.data, y=y, x=np.where(np.isnan(y), y, state.data.x))
    )
    after, metrics = SMALL.step(cart, spoiled, 0)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(after.fitted.gains))
    assert not np.array_equal(after.fitted.gains.K[0], state.fitted.gains.K[0])
    assert metrics["local_status"][0] == KLStatus.SOLVED.name.lower()


@pytest.mark.slow
def test_guided_policy_search_ends_in_one_network_for_all_starts(cart) -> None:
    """The network alone does what the controllers came to; bench/local_learning.py asks it from other starts."""
    loud, guide = InitialController(std=0.3), Guide(on=True, gradient_steps=2000)
    method = dataclasses.replace(SMALL, kl=3.0, initial=loud, guide=guide)
    out = turns(method, cart, 43)
    metrics = [m for _, m in out if "local_status" in m]
    assert not any(m["local_imitation_failed"] for m in metrics)
    for m in metrics:
        assert all(kl <= 1.1 * epsilon for kl, epsilon in zip(m["local_kl"], m["local_epsilon"], strict=True))
    state = out[-1][0]
    policy = method.policy(cart, state)
    assert isinstance(policy, NeuralPolicy)
    costs = lambda policy: [
        best_and_reached(cart, episode)[1]
        for episode in cart.world.fresh().rollouts(policy, jr.key(1), method.conditions, 20)
    ]
    network = costs(policy)
    for ours, own in zip(network, costs(method._controller(cart, state, -1, exploring=False)), strict=True):
        assert ours <= 1.05 * own
    for ours, before in zip(network, costs(method._controller(cart, out[0][0], -1, exploring=False)), strict=True):
        assert ours <= 0.6 * before
    # What is carried has the same shapes all the way.
    assert shapes(out[0][0]) == shapes(state)


def test_known_dynamics_need_two_iterations(cart) -> None:
    """The step around iterative LQR, in the equations themselves: from the same starts as good as iterative LQR."""
    method = dataclasses.replace(SMALL, learner=KnownLearner(cart.world.step), dynamics="global", kl=30.0)
    out = turns(method, cart, 20)
    improved = [m for _, m in out if "local_status" in m]
    assert len(improved) == 3
    np.testing.assert_allclose(improved[1]["local_actual"], improved[0]["local_predicted"], rtol=0.1)
    assert improved[0]["local_information"] == [None, None]
    episodes = cart.world.fresh().rollouts(method.policy(cart, out[-1][0]), jr.key(1), method.conditions, 20)
    for episode in episodes:
        best, reached = best_and_reached(cart, episode)
        assert best * 0.999 <= reached <= 1.02 * best


def test_a_global_model_has_one_bound_over_all_steps(cart) -> None:
    method = dataclasses.replace(SMALL, dynamics="global", bound="each")
    with pytest.raises(UserError, match="bound is each, and with dynamics global it must be sum"):
        method.init(cart, jr.key(0))


def test_feedback_of_the_first_controllers_is_part_of_the_old_policy(cart) -> None:
    """The bound is counted from what was executed: u = K (x - x_0), and no other line."""
    places = InitialController("pd", positions=(0, 1), velocities=(2, 3), stiffness=2.0)
    method = dataclasses.replace(SMALL, initial=places, kl=1e-3)
    state = turns(method, cart, 7)[-1][0]
    x0 = np.asarray(state.data.x)[0]
    policy = method._controller(cart, state, 0, exploring=False)
    first = method._controller(cart, method.init(cart, jr.key(0)), 0, exploring=False)
    x = x0 + 0.01
    for t in (0, 10):
        now = policy.act(policy.init(jnp.asarray(x0), jr.key(0)), jnp.asarray(x), jnp.asarray(t))[0]
        was = first.act(first.init(jnp.asarray(x0), jr.key(0)), jnp.asarray(x), jnp.asarray(t))[0]
        np.testing.assert_allclose(now, was, atol=0.05)
    assert np.abs(policy.gains.K[0, 5]).max() > 1.0
