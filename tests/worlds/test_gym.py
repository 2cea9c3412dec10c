"""Gymnasium worlds: the same transitions as a plain loop, refusals in sentences, faults that lose nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from gymnasium import spaces

from forethought.core import AbstractPolicy
from forethought.types import Actions, Box, Choices, UserError
from forethought.worlds.guard import TransitionError
from forethought.worlds.gym import gym_world


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
    u: Any

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return self.u, None


def constant(*u: float) -> Constant:
    return Constant(jnp.asarray(u, jnp.float32))


class Toy(gymnasium.Env):
    """Counts its steps; does whatever the test asks for at step `at`."""

    def __init__(self, observation=None, action=None, at=4, fault=None, actions_seen=None):
        self.observation_space = observation or spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = action or spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.at, self.fault, self.seen = at, fault, actions_seen if actions_seen is not None else []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.observation_space.seed(seed)
        return self.look(), {}

    def look(self):
        if type(self.observation_space) is spaces.Box and self.observation_space.shape == (2,):
            return np.array([self.t, 10 * self.t], np.float32)
        return self.observation_space.sample()

    def step(self, action):
        self.seen.append(action)
        self.t += 1
        result = [self.look(), 1.0, False, False, {}]
        if self.fault is not None and self.t == self.at + 1:
            return self.fault(result)
        return tuple(result)


gymnasium.register("Toy-v0", entry_point=Toy, max_episode_steps=12)
gymnasium.register("Endless-v0", entry_point=Toy)
KEY = jr.key(0)


def rollout(world, policy, condition=3, steps=1000):
    return world.rollouts(policy, KEY, [condition], steps)[0]


@pytest.mark.parametrize("id", ["Pendulum-v1", "CartPole-v1", "Reacher-v5"])
def test_transitions_are_those_of_a_plain_loop(id: str) -> None:
    world = gym_world(id)
    q = rollout(world, RandomPolicy(world.actions))
    env = gymnasium.make(id)
    x, _ = env.reset(seed=3)
    for i in range(q.length):
        action = int(q.u[i].argmax()) if id == "CartPole-v1" else q.u[i].astype(np.float32)
        y, reward, terminated, truncated, _ = env.step(action)
        assert np.array_equal(q.x[i], x)
        assert np.array_equal(q.y[i], y)
        assert q.reward[i] == reward
        assert (q.terminated[i], q.truncated[i]) == (terminated, truncated)
        x = y
    assert terminated or truncated
    assert q.x.dtype == q.u.dtype == q.y.dtype == q.reward.dtype == np.float64
    assert q.t.dtype == q.condition.dtype == np.int64
    assert np.array_equal(q.t, np.arange(q.length))
    assert set(q.condition) == {3}


def test_episodes_in_pieces_and_the_clock() -> None:
    world = gym_world("Toy-v0")
    policy = constant(1.0)
    at = world.reset(KEY, 5)
    assert not at.done
    a, _, at = world.collect(policy, None, at, KEY, 5)
    assert (a.length, int(at.t), bool(at.done)) == (5, 5, False)
    assert not np.any(a.truncated)
    b, _, at = world.collect(policy, None, at, KEY, 100)
    assert (b.length, int(at.t), bool(at.done)) == (7, 12, True)
    assert b.truncated.tolist() == [False] * 6 + [True]
    assert not np.any(b.terminated)
    assert np.array_equal(b.x[:, 0], np.arange(5, 12))
    with pytest.raises(RuntimeError, match="no open episode"):
        world.collect(policy, None, at, KEY, 1)


def test_each_choice_of_an_action_is_timed() -> None:
    """Of the last piece; a policy that sleeps is seen to, and the environment is not counted."""

    class Slow(AbstractPolicy):
        def init(self, x, key):
            return None

        def act(self, carry, x, t):
            wait = lambda u: time.sleep(0.05) or u
            return jax.pure_callback(wait, jax.ShapeDtypeStruct((1,), jnp.float32), jnp.zeros(1, jnp.float32)), carry

    world = gym_world("Pendulum-v1")
    at = world.reset(jr.key(0))
    _, _, at = world.collect(Slow(), None, at, jr.key(0), 3)
    assert len(world.act_seconds()) == 3
    assert min(world.act_seconds()) >= 0.05
    world.collect(Slow(), None, at, jr.key(0), 2)
    assert len(world.act_seconds()) == 2


def test_unequal_episodes_in_the_order_of_the_conditions() -> None:
    world = gym_world("CartPole-v1")
    q = world.rollouts(RandomPolicy(world.actions), KEY, [11, 12, 13, 14, 15], 500)
    assert [int(p.condition[0]) for p in q] == [11, 12, 13, 14, 15]
    assert len({p.length for p in q}) > 2
    assert all(p.terminated[-1] and not p.terminated[:-1].any() for p in q)
    assert gym_world("CartPole-v1").rollouts(RandomPolicy(world.actions), KEY, [], 500) == []


def test_conditions_come_from_the_key_when_none_is_given() -> None:
    world = gym_world("Toy-v0")
    seeds = set()
    for i in range(10):
        at = world.reset(jr.key(i))
        seeds.add(int(world.collect(constant(0.0), None, at, KEY, 1)[0].condition[0]))
    assert len(seeds) == 10
    assert all(0 <= s < 2**31 for s in seeds)
    pendulum = gym_world("Pendulum-v1")
    assert np.array_equal(pendulum.reset(jr.key(0), 4).x, pendulum.reset(jr.key(1), 4).x)


def test_a_cursor_of_another_moment_is_refused() -> None:
    world = gym_world("Toy-v0")
    first = world.reset(KEY, 0)
    world.collect(constant(0.0), None, first, KEY, 2)
    with pytest.raises(RuntimeError, match="state cannot be set"):
        world.collect(constant(0.0), None, first, KEY, 2)


def test_a_fresh_world_does_not_disturb_an_open_episode() -> None:
    world = gym_world("Pendulum-v1")
    at = world.reset(KEY, 0)
    _, _, at = world.collect(constant(1.0), None, at, KEY, 5)
    rollout(world.fresh(), constant(0.0), 9)
    rest, _, _ = world.collect(constant(1.0), None, at, KEY, 500)
    whole = rollout(gym_world("Pendulum-v1"), constant(1.0), 0)
    assert rest.length == 195
    assert np.array_equal(rest.y, whole.y[5:])


def test_actions_are_clipped_typed_and_recorded_as_executed() -> None:
    seen: list[Any] = []
    world = gym_world("Toy-v0", {"actions_seen": seen})
    q = rollout(world, constant(7.0))
    assert np.all(q.u == 2.0)
    assert all(a.dtype == np.float32 and a.shape == (1,) and a[0] == 2 for a in seen)
    seen = []
    action = spaces.Box(np.array([[0, -3]]), np.array([[5, 3]]), (1, 2), np.int64)
    world = gym_world("Toy-v0", {"actions_seen": seen, "action": action})
    q = rollout(world, constant(1.6, -9.0))
    assert isinstance(world.actions, Box)
    assert np.array_equal(q.u[0], [2, -3])
    assert all(a.dtype == np.int64 and np.array_equal(a, [[2, -3]]) for a in seen)


def test_discrete_actions_with_an_offset() -> None:
    seen: list[Any] = []
    world = gym_world("Toy-v0", {"actions_seen": seen, "action": spaces.Discrete(3, start=5)})
    assert isinstance(world.actions, Choices)
    assert np.array_equal(world.actions.values, np.eye(3))
    q = rollout(world, constant(0.1, 0.2, 0.9))
    assert set(seen) == {7}
    assert np.array_equal(q.u[0], [0, 0, 1])
    rollout(world, RandomPolicy(world.actions))
    assert set(seen) == {5, 6, 7}


def test_dict_tuple_and_matrix_observations_are_flattened() -> None:
    box = spaces.Box(-1, 1, (2, 3), np.float32)
    for space, n in (
        (spaces.Dict({"a": box, "b": spaces.Discrete(4)}), 10),
        (spaces.Tuple([box, spaces.MultiBinary(2)]), 8),
        (box, 6),
        (spaces.Box(-1, 1, (), np.float32), 1),
    ):
        world = gym_world("Toy-v0", {"observation": space})
        assert world.spec.n == n
        q = rollout(world, constant(0.0))
        assert q.x.shape == (12, n)
        space.seed(3)
        assert np.array_equal(q.x[0], spaces.flatten(space, space.sample()))


def test_action_repeat_and_history() -> None:
    world = gym_world("Toy-v0", action_repeat=5)
    q = rollout(world, constant(0.0))
    assert np.array_equal(q.y[:, 0], [5, 10, 12])
    assert np.array_equal(q.reward, [5, 5, 2])
    assert (world.limit, q.truncated.tolist()) == (3, [False, False, True])
    world = gym_world("Toy-v0", history=3)
    assert world.spec.n == 6
    q = rollout(world, constant(0.0))
    assert np.array_equal(q.x[0], [0, 0, 0, 0, 0, 0])
    assert np.array_equal(q.y[3], [2, 20, 3, 30, 4, 40])


def test_limits() -> None:
    assert gym_world("Pendulum-v1").limit == 200
    world = gym_world("Endless-v0", limit=7)
    q = rollout(world, constant(0.0))
    assert (world.limit, q.length, bool(q.truncated[-1])) == (7, 7, True)
    assert rollout(gym_world("Toy-v0", limit=20), constant(0.0)).length == 20


def names(id: str, **options: Any) -> str:
    """The sentence with which an environment is refused."""
    with pytest.raises(UserError) as caught:
        gym_world(id, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"action": spaces.MultiDiscrete([2, 3])}, ["MultiDiscrete", "Box", "Discrete"]),
        ({"action": spaces.MultiBinary(3)}, ["MultiBinary", "Box"]),
        ({"action": spaces.Box(-np.inf, 1.0, (2,))}, ["unbounded", "-inf", "finite limits"]),
        ({"observation": spaces.Discrete(5)}, ["Discrete(5)", "Box"]),
        ({"observation": spaces.Box(0, 255, (84, 84), np.uint8)}, ["image", "(84, 84)", "uint8"]),
        ({"observation": spaces.Box(0, 1, (64, 64, 3), np.float32)}, ["image", "(64, 64, 3)"]),
        ({"observation": spaces.Dict({"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8)})}, ["image"]),
        ({"observation": spaces.Dict({"x": spaces.Text(3), "g": spaces.Sequence(spaces.Discrete(2))})}, ["Box"]),
        ({"colour": "red"}, ["colour", "cannot make"]),
    ],
)
def test_what_cannot_be_controlled_is_refused(kwargs: dict[str, Any], words: list[str]) -> None:
    sentence = names("Toy-v0", kwargs=kwargs)
    for word in ["Toy-v0", *words]:
        assert word in sentence


def test_ids_that_lead_nowhere() -> None:
    assert "Pendulum-v1" in names("Pendulm-v1")
    assert "CartPole-v1" in names("cartpole-v1")
    assert "nowhere_at_all" in names("nowhere_at_all:Env-v0")
    assert "time limit" in names("Endless-v0")
    assert "limit=1000" in names("Endless-v0")
    for option in ("limit", "history", "action_repeat"):
        assert f"{option} of Toy-v0 was 0" in names("Toy-v0", **{option: 0})


def test_a_users_own_module(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_pole.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gymnasium.register('Mine-v3', entry_point=PendulumEnv, max_episode_steps=9)\n"
    )
    (tmp_path / "broken_pole.py").write_text("raise ValueError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        world = gym_world("my_pole:Mine-v3")
        assert rollout(world, constant(0.0)).length == 9
        assert world.fresh().env is not world.env
        assert "Mine-v3" in names("my_pole:Mnie-v3")
        assert "no licence" in names("broken_pole:Mine-v3")
    finally:
        sys.modules.pop("my_pole", None)
        gymnasium.registry.pop("Mine-v3", None)


def spoil(i: int, value: Any):
    def fault(result):
        result[i] = value
        return tuple(result)

    return fault


def explode(result):
    raise ZeroDivisionError("motor fell off")


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        (spoil(0, np.full(2, np.nan, np.float32)), "observation"),
        (spoil(0, np.array([np.inf, 0], np.float32)), "observation"),
        (spoil(0, None), "observation"),
        (spoil(0, np.zeros(3, np.float32)), "observation"),
        (spoil(1, float("nan")), "reward"),
        (spoil(1, np.zeros(2)), "reward"),
        (spoil(1, None), "reward"),
        (spoil(1, "high"), "reward"),
        (spoil(2, 0.7), "terminated"),
        (lambda result: tuple(result[:4]), "result"),
        (explode, "step"),
    ],
)
def test_a_fault_is_named_and_loses_nothing(fault, field: str) -> None:
    world = gym_world("Toy-v0", {"fault": fault, "at": 4})
    at = world.reset(KEY, 0)
    with pytest.raises(TransitionError) as caught:
        world.collect(constant(1.0), None, at, KEY, 100)
    error = caught.value
    assert (error.environment, error.step, error.field) == ("Toy-v0", 4, field)
    assert "Toy-v0, at step 4" in str(error)
    assert error.trajectory.length == 4
    assert np.array_equal(error.trajectory.y[:, 0], [1, 2, 3, 4])
    if field == "step":
        assert "motor fell off" in str(error)
    with pytest.raises(RuntimeError, match="call reset"):
        world.collect(constant(1.0), None, at, KEY, 1)
    assert world.reset(KEY, 0).t == 0


def test_an_interrupt_loses_nothing() -> None:
    def interrupt(result):
        raise KeyboardInterrupt

    world = gym_world("Toy-v0", {"fault": interrupt, "at": 4})
    with pytest.raises(KeyboardInterrupt) as caught:
        world.collect(constant(1.0), None, world.reset(KEY, 0), KEY, 100)
    assert caught.value.trajectory.length == 4
    # Whole episodes before the interrupt are kept as well.
    calls = []

    def second(result):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tuple(result)

    world = gym_world("Toy-v0", {"fault": second, "at": 4})
    with pytest.raises(KeyboardInterrupt) as caught:
        world.rollouts(constant(1.0), KEY, [1, 2, 3], 100)
    assert caught.value.trajectory.length == 12 + 4
    assert set(caught.value.trajectory.condition) == {1, 2}


def test_a_broken_reset_and_a_broken_policy() -> None:
    class NoInfo(Toy):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    gymnasium.register("NoInfo-v0", entry_point=NoInfo, max_episode_steps=5, order_enforce=False)
    with pytest.raises(TransitionError, match="NoInfo-v0, in reset"):
        gym_world("NoInfo-v0").reset(KEY, 0)
    seen: list[Any] = []
    world = gym_world("Toy-v0", {"actions_seen": seen})
    for bad in (constant(float("nan")), constant(1.0, 2.0)):
        with pytest.raises(TransitionError, match="step 0: action"):
            rollout(world, bad)
    assert seen == []
    with pytest.raises(UserError, match="seed"):
        world.reset(KEY, -4)


def test_an_observation_that_is_changed_later_is_named() -> None:
    """Environments that write into one buffer are common; what is learned from them would depend on who copies when."""
    buffer = np.zeros(2, np.float32)

    class Reuse(Toy):
        def look(self):
            buffer[:] = self.t
            return buffer

    gymnasium.register("Reuse-v0", entry_point=Reuse, max_episode_steps=5)
    with pytest.raises(TransitionError, match="changed in place"):
        rollout(gym_world("Reuse-v0"), constant(0.0))
