"""Simulated worlds: one scan, noise, angles, ends, purity."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractCost, AbstractPolicy
from forethought.costs.gymnasium import CartPoleCost, PendulumCost
from forethought.costs.quadratic import Quadratic
from forethought.costs.saturating import CartPoleSwingUpCost
from forethought.types import Actions, Box, Choices, Cursor, Spec, UserError
from forethought.worlds import classic
from forethought.worlds.guard import TransitionError
from forethought.worlds.simulated import GaussianStart, SimulatedWorld


class RandomPolicy(AbstractPolicy):
    actions: Actions

    def init(self, x, key):
        return key

    def act(self, carry, x, t):
        assert x.dtype == jnp.float32
        assert t.dtype == jnp.int32
        now, later = jr.split(carry)
        return self.actions.sample(now), later


class Constant(AbstractPolicy):
    u: jax.Array

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return self.u, None


class Falling(AbstractCost):
    """Ends beyond 1.05."""

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x, u, y, t):
        return jnp.sum(y)

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return y[0] <= 1.05


def line(step, actions, limit=20, **changes) -> SimulatedWorld:
    """A one-dimensional world, quiet unless told otherwise."""
    world = SimulatedWorld(
        spec=Spec(1, actions.m),
        actions=actions,
        name="line",
        step=step,
        cost=Quadratic(np.zeros(1), np.ones(1), np.zeros(actions.m)),
        start=GaussianStart(np.full(1, 0.5), np.zeros(1)),
        noise_std=np.zeros(1),
        process_std=np.zeros(1),
        limit=limit,
    )
    return dataclasses.replace(world, **changes)


UNIT = Box(-np.ones(1, np.float32), np.ones(1, np.float32))


def test_pieces_make_the_whole_and_nothing_is_kept_between() -> None:
    world = classic.pendulum(PendulumCost())
    policy = RandomPolicy(world.actions)
    at = world.reset(jr.key(0), 7)
    assert not at.done
    carry = policy.init(at.x, jr.key(1))
    a, between, middle = world.collect(policy, carry, at, jr.key(2), 3)
    b, _, _ = world.collect(policy, between, middle, jr.key(3), 500)
    again, _, _ = world.collect(policy, between, middle, jr.key(3), 500)
    assert a.length == 3
    assert b.length == 197
    assert np.array_equal(b.y, again.y)
    assert np.array_equal(a.y[-1], b.x[0])
    assert np.array_equal(np.concatenate([a.t, b.t]), np.arange(200))
    assert b.truncated.tolist() == [False] * 196 + [True]
    assert not np.any(b.terminated)
    assert set(a.condition) == {7}
    with pytest.raises(RuntimeError, match="reset"):
        world.collect(policy, between, dataclasses.replace(middle, done=np.asarray(True)), jr.key(3), 5)


def test_rollouts_are_the_same_physics_as_gymnasium() -> None:
    """Executed actions, rewards and states of the scan against the environment, from the same starts."""
    import gymnasium

    world = classic.pendulum(PendulumCost(), "float64")
    (trajectory,) = world.rollouts(RandomPolicy(world.actions), jr.key(0), [3], 200)
    env = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    env.reset(seed=0)
    cos, sin, w = trajectory.x[0]
    env.unwrapped.state = np.array([np.arctan2(sin, cos), w])
    for t in range(200):
        y, reward, *_ = env.step(trajectory.u[t])
        assert np.abs(y - trajectory.y[t]).max() <= 1e-5
        assert reward == pytest.approx(trajectory.reward[t], abs=1e-5)
    assert np.ptp(trajectory.u) > 2


def test_starts_follow_the_condition_and_noise_follows_the_key() -> None:
    start = GaussianStart(np.full(1, 0.5), np.full(1, 0.1))
    world = line(lambda x, u: x, UNIT, noise_std=np.full(1, 0.01), start=start)
    policy = Constant(jnp.zeros(1, jnp.float32))
    one, two, same = world.rollouts(policy, jr.key(0), [5, 6, 5], 10)
    assert np.array_equal(one.x[0], same.x[0])
    assert np.array_equal(one.x[0], world.reset(jr.key(99), 5).x)
    assert not np.allclose(one.x[0], two.x[0])
    assert not np.array_equal(one.y, same.y)
    other = world.rollouts(policy, jr.key(1), [5, 6, 5], 10)[0]
    assert not np.array_equal(one.y, other.y)
    drawn = {int(world.reset(jr.key(i)).inner.condition) for i in range(20)}
    assert len(drawn) == 20
    assert all(0 <= c < 2**31 for c in drawn)


def test_observation_noise_has_its_size_and_the_reward_has_none() -> None:
    world = line(lambda x, u: x + 0.1 * u, UNIT, limit=60, noise_std=np.full(1, 0.01))
    policy = Constant(jnp.full(1, 0.5, jnp.float32))
    conditions = list(range(50))
    quiet = dataclasses.replace(world, noise_std=np.zeros(1))
    noisy, clean = (w.rollouts(policy, jr.key(0), conditions, 60) for w in (world, quiet))
    off = np.concatenate([a.y - b.y for a, b in zip(noisy, clean, strict=True)])
    assert off.std() == pytest.approx(0.01, rel=0.05)
    assert abs(off.mean()) < 1e-3
    for a, b in zip(noisy, clean, strict=True):
        assert np.array_equal(a.reward, b.reward)
        assert np.array_equal(a.x[1:], a.y[:-1])
    assert classic.cartpole_swingup(CartPoleSwingUpCost()).noise_std.tolist() == [0.01] * 4


def test_process_noise_moves_the_state() -> None:
    world = line(lambda x, u: x, UNIT, limit=400, process_std=np.full(1, 0.1))
    trajectory = world.rollouts(Constant(jnp.zeros(1)), jr.key(0), [0], 400)[0]
    assert np.diff(trajectory.y[:, 0]).std() == pytest.approx(0.1, rel=0.15)


def test_angles_are_wrapped_in_state_and_observation() -> None:
    world = classic.cartpole_swingup(CartPoleSwingUpCost())
    fast = dataclasses.replace(world, start=GaussianStart(np.array([0.0, 0, 0, 15.0]), np.zeros(4)))
    at = fast.reset(jr.key(0), 0)
    trajectory, _, at = fast.collect(Constant(jnp.zeros(1)), None, at, jr.key(0), 60)
    assert np.all((trajectory.y[:, 2] >= -np.pi - 1e-6) & (trajectory.y[:, 2] < np.pi))
    assert np.any(np.abs(np.diff(trajectory.y[:, 2])) > 5)
    assert abs(at.inner.x[2]) <= np.pi + 1e-6


def test_episodes_end_where_the_cost_says() -> None:
    """Unequal lengths from one vmapped scan."""
    world = classic.cartpole_balance(CartPoleCost())
    trajectories = world.rollouts(RandomPolicy(world.actions), jr.key(0), list(range(8)), 500)
    lengths = {q.length for q in trajectories}
    assert len(lengths) > 3
    for q in trajectories:
        assert q.terminated.tolist() == [False] * (q.length - 1) + [True]
        assert abs(q.y[-1, 0]) > 2.4 or abs(q.y[-1, 2]) > np.deg2rad(12)
        assert np.all(np.abs(q.y[:-1, 2]) <= np.deg2rad(12) + 1e-6)
        assert np.all(q.reward == 1)
    falls = line(lambda x, u: x + 0.1, UNIT, cost=Falling())
    trajectory, _, at = falls.collect(Constant(jnp.zeros(1)), None, falls.reset(jr.key(0), 0), jr.key(0), 500)
    assert at.done
    assert np.allclose(trajectory.y[:, 0], [0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    assert trajectory.terminated.tolist() == [False] * 5 + [True]


def test_actions_are_recorded_as_executed() -> None:
    push = lambda x, u: x + 0.1 * u
    trajectory = line(push, UNIT).rollouts(Constant(jnp.full(1, 7.0)), jr.key(0), [0], 5)[0]
    assert np.all(trajectory.u == 1)
    assert trajectory.y[-1, 0] == pytest.approx(1.0, abs=1e-6)
    choices = Choices(np.array([[-1.0], [0.0], [2.0]], np.float32))
    trajectory = line(push, choices).rollouts(Constant(jnp.full(1, 1.6)), jr.key(0), [0], 5)[0]
    assert np.all(trajectory.u == 2)


@pytest.mark.parametrize("batched", [True, False])
def test_what_is_not_finite_is_named_and_the_rest_is_kept(batched: bool) -> None:
    world = line(lambda x, u: jnp.where(x > 0.75, jnp.nan, x + 0.1), UNIT)
    policy = Constant(jnp.zeros(1, jnp.float32))
    at = world.reset(jr.key(0), 0)
    run = (
        (lambda: world.rollouts(policy, jr.key(0), [0], 10))
        if batched
        else (lambda: world.collect(policy, None, at, jr.key(0), 10))
    )
    with pytest.raises(TransitionError, match="line, at step 3: observation must be finite") as caught:
        run()
    assert caught.value.trajectory.length == 3
    assert np.all(np.isfinite(caught.value.trajectory.y))
    broken = Constant(jnp.full(1, jnp.nan, jnp.float32))
    with pytest.raises(TransitionError, match="step 0: action"):
        line(lambda x, u: x, UNIT).rollouts(broken, jr.key(0), [0], 10)


def test_one_program_for_every_number_of_steps_and_every_policy_of_a_kind() -> None:
    traced = []

    def step(x, u):
        traced.append(1)
        return x + 0.1 * u

    world = line(step, UNIT)
    for i, steps in enumerate((1, 4, 9)):
        at = world.reset(jr.key(i), i)
        trajectory, _, _ = world.collect(Constant(jnp.full(1, 0.1 * i)), None, at, jr.key(i), steps)
        assert trajectory.length == steps
        if i == 0:
            first = len(traced)
    assert len(traced) == first


def test_the_cursor_never_changes_its_shape() -> None:
    world = classic.pendulum(PendulumCost())
    at = world.reset(jr.key(0), 0)
    _, _, later = world.collect(Constant(jnp.zeros(1)), None, at, jr.key(0), 2)

    def signature(cursor: Cursor):
        return jax.tree.map(lambda leaf: (type(leaf), leaf.shape, leaf.dtype), cursor)

    assert eqx.tree_equal(signature(at), signature(later))
    assert at.x.dtype == np.float64
    assert at.inner.x.dtype == np.float32
    assert later.t == 2


def test_float64_is_a_matter_of_asking() -> None:
    world = classic.pendulum(PendulumCost(), "float64")
    assert world.reset(jr.key(0), 0).inner.x.dtype == np.float64
    with jax.enable_x64(False), pytest.raises(UserError, match="jax_enable_x64"):
        world.reset(jr.key(0), 0)
    with pytest.raises(UserError, match="seed"):
        world.reset(jr.key(0), -1)
    assert world.fresh() is world
