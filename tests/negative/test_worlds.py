"""Environments and observations that cannot be worked with, and what is said about them."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax.random as jr
import numpy as np
import pytest
from gymnasium import spaces

from forethought import ControlError, LoadedPolicy, UserError, task
from forethought.policies.excitation import RandomPolicy
from forethought.runs.evaluation import evaluate, starts_for
from forethought.worlds.guard import TransitionError
from forethought.worlds.gym import gym_world
from forethought.worlds.source import executed

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Made(gymnasium.Env):
    """An environment with any spaces."""

    def __init__(self, observation: Any = BOX, action: Any = BOX, error: Exception | None = None):
        if error is not None:
            raise error
        if observation is not None:
            self.observation_space = observation
        if action is not None:
            self.action_space = action

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


for name, limit in (("Negative-v0", 10), ("NegativeEndless-v0", None)):
    if f"tests/{name}" not in gymnasium.registry:
        gymnasium.register(f"tests/{name}", entry_point=lambda **kwargs: Made(**kwargs), max_episode_steps=limit)

IMAGE = spaces.Box(0, 255, (84, 84, 3), np.uint8)
SPACES = [
    ({"observation": spaces.Discrete(5)}, r"observations in Discrete\(5\); allowed are Box"),
    ({"observation": spaces.Text(5)}, "observations in Text.*; allowed are Box"),
    ({"observation": spaces.Sequence(spaces.Discrete(2))}, "observations in Sequence.*; allowed are Box"),
    ({"observation": spaces.Box(0, 1, (0,), np.float32)}, "observations in Box.*; allowed are Box"),
    ({"observation": spaces.Dict({"a": spaces.Sequence(BOX)})}, "observations in Dict.*; allowed are Box, and Dict"),
    ({"observation": IMAGE}, r"observes images \(a box of shape \(84, 84, 3\) and dtype uint8\); allowed are vectors"),
    ({"observation": spaces.Dict({"camera": IMAGE, "x": BOX})}, "observes images"),
    ({"observation": spaces.Tuple((BOX, spaces.Box(0, 1, (3, 64, 64), np.float32)))}, "observes images"),
    ({"action": spaces.MultiDiscrete([2, 3])}, r"actions in MultiDiscrete\(\[2 3\]\); allowed are Box"),
    ({"action": spaces.MultiBinary(3)}, r"actions in MultiBinary\(3\); allowed are Box"),
    ({"action": spaces.Dict({"a": BOX})}, "actions in Dict.*; allowed are Box with finite limits and Discrete"),
    ({"action": spaces.Box(-np.inf, np.inf, (1,))}, "unbounded actions .*; allowed are boxes with finite limits"),
    ({"action": spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64)}, "unbounded actions"),
    ({"observation": None}, "has no observation_space; its __init__ must set self.observation_space"),
    ({"action": None}, "has no action_space; its __init__ must set self.action_space"),
    ({"observation": "a box"}, "has no observation_space"),
    ({"action": (2,)}, "has no action_space"),
    ({"error": OSError("no serial port")}, "Gymnasium cannot make tests/Negative-v0 with .*OSError: no serial port"),
    ({"colour": "red"}, "Gymnasium cannot make tests/Negative-v0 with {'colour': 'red'}: TypeError"),
]


@pytest.mark.parametrize(("kwargs", "sentence"), SPACES)
def test_an_environment_that_cannot_be_controlled_from_here(kwargs, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        gym_world("tests/Negative-v0", kwargs)
    assert "\n" not in str(caught.value)
    assert "tests/Negative-v0" in str(caught.value)


def test_an_episode_must_end_somewhere() -> None:
    with pytest.raises(UserError, match=r"tests/NegativeEndless-v0 has no time limit.*limit=1000"):
        gym_world("tests/NegativeEndless-v0")
    assert gym_world("tests/NegativeEndless-v0", limit=7).limit == 7


@pytest.mark.parametrize("name", ["action_repeat", "history", "limit"])
@pytest.mark.parametrize("value", [0, -1, -(10**20)])
def test_counts_below_one(name, value) -> None:
    with pytest.raises(UserError, match=rf"{name} of Pendulum-v1 was {value}; it must be 1 or larger"):
        gym_world("Pendulum-v1", **{name: value})


@pytest.mark.parametrize(
    "id", ["", "-v1", "Pendulum-v", "Pendulum-v1 ", "pendulum-V1", "a/b/c-v1", "gymnasium:", "é-v0"]
)
def test_ids_that_are_none(id) -> None:
    with pytest.raises(UserError, match="There is no task or environment"):
        task(id)


def test_a_negative_limit_of_a_classic_task() -> None:
    with pytest.raises(UserError, match="limit of pendulum was -3; it must be 1 or larger"):
        task("pendulum", limit=-3)


@pytest.mark.parametrize("name", ["Pendulum-v1", "pendulum"])
def test_a_reset_seed_that_is_none(name) -> None:
    with pytest.raises(UserError, match=f"The reset seed of {name} was -1; it must be"):
        task(name).world.reset(jr.key(0), -1)


@pytest.mark.parametrize("name", ["Pendulum-v1", "pendulum"])
def test_an_episode_that_is_over_does_not_go_on(name) -> None:
    made = task(name, limit=2)
    policy = RandomPolicy(made.world.actions)
    at = made.world.reset(jr.key(0), 1)
    carry = policy.init(at.x.astype(np.float32), jr.key(1))
    _, carry, at = made.world.collect(policy, carry, at, jr.key(2), 5)
    with pytest.raises(RuntimeError, match=f"{name} has no open episode: call reset before collect"):
        made.world.collect(policy, carry, at, jr.key(3), 1)


def test_an_environment_cannot_go_back() -> None:
    made = task("Pendulum-v1")
    policy = RandomPolicy(made.world.actions)
    before = made.world.reset(jr.key(0), 1)
    carry = policy.init(before.x.astype(np.float32), jr.key(1))
    made.world.collect(policy, carry, before, jr.key(2), 1)
    with pytest.raises(RuntimeError, match=r"stands at step 1 .* an environment's state cannot be set"):
        made.world.collect(policy, carry, before, jr.key(2), 1)


@pytest.mark.parametrize("u", [np.zeros(3), np.zeros(()), np.array([np.nan, 0.0]), np.array([np.inf, 0.0])], ids=str)
@pytest.mark.parametrize("space", [BOX, spaces.Discrete(2)], ids=["box", "discrete"])
def test_an_action_that_must_not_reach_the_environment(space, u) -> None:
    with pytest.raises(TransitionError, match=r"e, at step 4: action must be 2 finite numbers, .* from the policy"):
        executed(space, u, "e", 4)


# Evaluation, and a controller in a user's own loop.


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0; it must be a whole number, at least 1"),
        ({"episodes": -5}, "episodes is -5"),
        ({"episodes": 10**9}, "episodes is 1000000000; .* at most 1000000"),
        ({"seed": -1}, "seed is -1; it must be a whole number, at least 0"),
        ({"seed": 2**31}, "seed is 2147483648; .* at most 2146483648"),
    ],
)
def test_starts_that_there_are_none_of(settings, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        starts_for(task("pendulum"), **{"episodes": None, "seed": None} | settings)


def test_the_mean_of_no_episode() -> None:
    made = task("pendulum")
    with pytest.raises(ValueError, match="The mean of no values was asked for; at least one is needed"):
        evaluate(made, RandomPolicy(made.world.actions), jr.key(0), [])


@pytest.fixture(scope="module")
def loaded():
    """A controller of Gymnasium's pendulum that needs no training."""
    made = task("Pendulum-v1")
    return LoadedPolicy(made, RandomPolicy(made.world.actions))


OBSERVATIONS = [
    (None, "must be an array of real numbers"),
    ("north", "must be an array of real numbers"),
    ([], r"must have shape \(3,\).*has shape \(0,\)"),
    ([1.0, 0.0], r"must have shape \(3,\).*has shape \(2,\)"),
    ([[1.0, 0.0, 0.0]], r"has shape \(1, 3\)"),
    (0.5, r"has shape \(\)"),
    ([1.0, 0.0, np.nan], r"must be finite \(in float32\)"),
    ([np.inf, 0.0, 0.0], "must be finite"),
    ([1e39, 0.0, 0.0], "must be finite"),
    ([1.0, 0.0, 1e9], "far out of bounds: component 2 is 1e.09, and its limits are -8 and 8"),
    ([1j, 0.0, 0.0], "must be an array of real numbers"),
    (["1", "0", "0"], "must be an array of real numbers"),
    (([1.0, 0.0, 0.0], {}), "must be an array of real numbers"),
    ({"x": 1.0}, "must be an array of real numbers"),
    (np.array([True, False, True]), "must be an array of real numbers"),
]


@pytest.mark.parametrize(("observation", "sentence"), OBSERVATIONS)
def test_an_observation_that_is_none_gets_no_action(loaded, observation, sentence) -> None:
    loaded.reset()
    with pytest.raises(ControlError, match=rf"^Pendulum-v1, at step 0: observation .*{sentence}") as caught:
        loaded.act(observation)
    assert "\n" not in str(caught.value)
    assert np.asarray(caught.value.safe_action).tolist() == [0.0]
    assert loaded.act(np.array([1.0, 0.0, 0.0], np.float32)).shape == (1,), "the next one may be better"
