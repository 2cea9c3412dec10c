"""Worlds whose observations hold angles: wrapped where they come in, and nowhere else."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from gymnasium import spaces

from forethought.core import AbstractPolicy, AbstractWitness
from forethought.math.scaling import feature_count, features, targets
from forethought.tasks import CLASSIC, task
from forethought.types import Spec, UserError
from forethought.worlds.classic import DoubleIntegrator
from forethought.worlds.guard import TransitionError
from forethought.worlds.gym import gym_world
from forethought.worlds.simulated import GaussianStart, SimulatedWorld

KEY = jr.key(0)
SPEED = 2.5


class Wheel(gymnasium.Env):
    """Turns by 2.5 rad per step; shows how far it is from the road's start, its angle in [0, 2 pi) or counted on, and
    its speed."""

    def __init__(self, counted: bool = False, high: float = np.inf):
        low, top = np.array([-np.inf, 0.0, -np.inf]), np.array([np.inf, high, np.inf])
        self.observation_space = spaces.Box(low, top, (3,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.counted = counted

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.angle = 6.0
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.array([self.angle, self.angle if self.counted else self.angle % (2 * np.pi), SPEED])

    def step(self, action: Any) -> Any:
        self.angle += SPEED
        return self.look(), 0.0, False, False, {}


gymnasium.register("Wheel-v0", entry_point=Wheel, max_episode_steps=10)


class Notes(AbstractPolicy):
    """Plays 0; its carry is the states that it saw."""

    def init(self, x, key):
        return jnp.zeros((0, *x.shape), x.dtype)

    def act(self, carry, x, t):
        return jnp.zeros((1,), jnp.float32), jnp.concatenate([carry, x[None]])


class Zero(AbstractPolicy):
    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return jnp.zeros((1,), jnp.float32), None


def on_circle(angle: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi), by another route than the library's."""
    return np.arctan2(np.sin(angle), np.cos(angle))


@pytest.mark.parametrize("counted", [False, True])
def test_what_enters_the_trajectory_is_wrapped(counted):
    world = gym_world("Wheel-v0", {"counted": counted}, angles=(1,))
    assert world.spec.angles == (1,)
    at = world.reset(KEY, 0)
    q, seen, end = world.collect(Notes(), Notes().init(jnp.zeros(3, jnp.float32), KEY), at, KEY, 10)
    turned = 6.0 + SPEED * np.arange(11)
    both = np.concatenate([q.x, q.y[-1:]])
    np.testing.assert_allclose(both[:, 1], on_circle(turned), atol=1e-12)
    np.testing.assert_array_equal(both[:, 0], turned)
    np.testing.assert_array_equal(q.y[:-1], q.x[1:])
    np.testing.assert_array_equal(at.x, q.x[0])
    np.testing.assert_array_equal(end.x, q.y[-1])
    np.testing.assert_allclose(seen, q.x, rtol=1e-6)


def test_without_angles_observations_are_what_they_were():
    world = gym_world("Wheel-v0", {"counted": True})
    q = world.rollouts(Zero(), KEY, [0], 10)[0]
    np.testing.assert_array_equal(q.x[:, 1], 6.0 + SPEED * np.arange(10))
    assert world.spec.angles == ()


def test_an_episode_in_pieces_goes_on_from_wrapped_cursors():
    world = gym_world("Wheel-v0", angles=(1,))
    whole = world.rollouts(Zero(), KEY, [0], 10)[0]
    at = world.reset(KEY, 0)
    first, _, at = world.collect(Zero(), None, at, KEY, 3)
    rest, _, at = world.collect(Zero(), None, at, KEY, 10)
    np.testing.assert_array_equal(np.concatenate([first.x, rest.x]), whole.x)
    assert bool(at.done)


def test_a_history_has_its_angles_in_every_observation():
    world = gym_world("Wheel-v0", {"counted": True}, history=3, angles=[1])
    assert world.spec.angles == (1, 4, 7)
    q = world.rollouts(Zero(), KEY, [0], 10)[0]
    frames = q.y.reshape(-1, 3, 3)
    np.testing.assert_allclose(frames[:, :, 1], on_circle(frames[:, :, 0]), atol=1e-12)
    assert feature_count(world.spec) == 9 + 3 + 1


def test_a_worker_process_gives_the_same_numbers():
    here = task("Pendulum-v1", angles=(2,), limit=5)
    there = dataclasses.replace(here.world.fresh(), deadline=30.0)
    try:
        a, b = (w.rollouts(Zero(), KEY, [1], 5)[0] for w in (here.world, there))
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)
    finally:
        there.close()


def test_a_witness_and_the_trajectory_hold_the_same_numbers():
    class Book(AbstractWitness):
        def __init__(self):
            self.rows: list[np.ndarray] = []

        def began(self, x, condition):
            self.rows.append(x)

        def happened(self, u, y, reward, terminated, truncated):
            self.rows.append(y)

    book = Book()
    world = gym_world("Wheel-v0", angles=(1,)).watched(book)
    q = world.rollouts(Zero(), KEY, [0], 10)[0]
    np.testing.assert_array_equal(np.stack(book.rows), np.concatenate([q.x[:1], q.y]))


def test_the_guard_sees_what_the_environment_returned():
    # In the space as it comes, outside of it once wrapped: nothing to complain about.
    fine = gym_world("Wheel-v0", {"high": 2 * np.pi}, angles=(1,))
    assert np.any(fine.rollouts(Zero(), KEY, [0], 10)[0].x[:, 1] < 0.0)
    # Outside as it comes, inside once wrapped: the environment breaks its own word.
    wrong = gym_world("Wheel-v0", {"counted": True, "high": 6.5}, angles=(1,))
    with pytest.raises(TransitionError, match="observation"):
        wrong.rollouts(Zero(), KEY, [0], 10)


@pytest.mark.parametrize("angles", [(3,), (-1,), (1, 1), (0, 1, 2, 3)])
@pytest.mark.parametrize("history", [1, 2])
def test_angles_that_the_environment_does_not_have_are_refused(angles, history):
    with pytest.raises(UserError, match=r"angles of Pendulum-v1 is .*whole numbers from 0 to 2, each at most once"):
        gym_world("Pendulum-v1", history=history, angles=angles)
    with pytest.raises(UserError, match="angles of Pendulum-v1 is"):
        task("Pendulum-v1", history=history, angles=angles)


@pytest.mark.parametrize("name", sorted(CLASSIC))
def test_a_task_that_has_its_angles_takes_none(name):
    with pytest.raises(UserError, match=rf"angles is \(1,\), but {name} takes no .*nor angles"):
        task(name, angles=(1,))


@pytest.mark.parametrize("angles", [(2,), (-1,), (0, 0)])
def test_a_simulated_world_refuses_angles_that_are_none(angles):
    row = CLASSIC["double-integrator"]
    with pytest.raises(UserError, match=r"angles of double-integrator is .*whole numbers from 0 to 1"):
        dataclasses.replace(row.world(row.cost()), spec=Spec(2, 1, angles=angles))


@pytest.mark.parametrize("name", [name for name in sorted(CLASSIC) if task(name).spec.angles])
def test_simulated_angles_are_wrapped_and_their_costs_know_no_turns(name):
    made = task(name)
    world, angles = made.world, made.spec.angles
    cost, u = made.cost, made.world.actions.sample(jr.key(3))
    stage = lambda v: cost.stage(v, u, v, jnp.int32(0))
    # Stepped by hand from near the border, where half of the steps cross it.
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(0.0, 1.0, made.spec.n).astype(np.float32)
        x[list(angles)] = rng.uniform(3.0, 3.2, len(angles))
        start = GaussianStart(x, np.zeros_like(x))
        here = dataclasses.replace(world, start=start).reset(KEY, 0)
        assert np.all(np.abs(here.x[list(angles)]) <= np.float32(np.pi))
        turned = x.copy()
        turned[list(angles)] += 2 * np.pi * rng.integers(-2, 3, len(angles))
        for read in (stage, cost.terminal, cost.alive):
            # CartPole's cost ends the episode at 12 degrees: beyond, both are over.
            np.testing.assert_allclose(read(jnp.asarray(x)), read(jnp.asarray(turned)), atol=2e-4)


def test_models_see_sine_and_cosine_and_learn_the_short_way_round():
    world = gym_world("Wheel-v0", angles=(1,))
    q = world.rollouts(Zero(), KEY, [0], 10)[0]
    spec = world.spec
    for x, y, u in zip(q.x, q.y, q.u, strict=True):
        np.testing.assert_allclose(targets(spec, x, y, np.zeros(0))[1], SPEED, atol=1e-12)
        seen = features(spec, jnp.asarray(x), jnp.asarray(u))
        np.testing.assert_allclose(seen[2:4], [np.sin(x[0]), np.cos(x[0])], atol=1e-12)


def test_the_states_of_a_simulated_world_stay_on_the_circle():
    world = SimulatedWorld(
        spec=Spec(2, 1, angles=(0,)),
        actions=task("double-integrator").world.actions,
        name="spinning",
        step=DoubleIntegrator(dt=1.0),
        cost=task("double-integrator").cost,
        start=GaussianStart(np.array([3.0, 1.0]), np.zeros(2)),
        noise_std=np.zeros(2),
        process_std=np.zeros(2),
        limit=10,
    )
    q = world.rollouts(Zero(), KEY, [0], 10)[0]
    np.testing.assert_allclose(q.y[:, 0], on_circle(3.0 + np.arange(1, 11)), atol=1e-5)
