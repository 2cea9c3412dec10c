"""Every fault of an environment is named: environment, step, field, value; what is none passes."""

from __future__ import annotations

import pickle
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from forethought.worlds.guard import Checker, Guard, TransitionError, check_observation
from forethought.worlds.source import Guarded, Source

SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
DOUBLE = spaces.Box(-np.inf, np.inf, (2,), np.float64)
WHOLE = spaces.Box(0, 9, (2,), np.int64)
GOOD = np.zeros(2, np.float32)


def transition(**changes: Any) -> tuple:
    return tuple(({"o": GOOD, "r": 0.0, "end": False, "clock": False, "info": {}} | changes).values())


class Heard(list):
    """A `say` that keeps what it is told."""

    __call__ = list.append


def checker(space: spaces.Space = SPACE, **guard: Any) -> tuple[Checker, Heard]:
    said = Heard()
    return Checker(space, "Sick-v0", Guard(**guard), said), said


def fault(result: Any, space: spaces.Space = SPACE, step: int = 17, **guard: Any) -> TransitionError:
    with pytest.raises(TransitionError) as caught:
        checker(space, **guard)[0].transition(result, step)
    return caught.value


@pytest.mark.parametrize(
    "reward", [0.5, 1, np.float32(1), np.int64(1), np.array(2.0), np.array(3), -1e9, np.float64(0)]
)
def test_good_rewards_pass(reward: Any) -> None:
    check, said = checker()
    check.transition(transition(r=reward, end=np.bool_(True)), 0)
    assert said == []


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"o": np.array([np.nan, 0], np.float32)}, "observation", "must be finite"),
        ({"o": np.array([np.inf, 0], np.float32)}, "observation", "must be finite"),
        ({"o": np.array([0, -np.inf], np.float32)}, "observation", "must be finite"),
        ({"o": np.array([1e300, 0])}, "observation", "must be finite"),
        ({"o": None}, "observation", "real numbers"),
        ({"o": "ab"}, "observation", "real numbers"),
        ({"o": [[1.0], 2.0]}, "observation", "real numbers"),
        ({"o": np.array([None, 1.0])}, "observation", "real numbers"),
        ({"o": np.zeros(3, np.float32)}, "observation", "must have shape (2,), as observation_space says"),
        ({"o": np.zeros(1, np.float32)}, "observation", "has shape (1,)"),
        ({"o": np.zeros((2, 1), np.float32)}, "observation", "has shape (2, 1)"),
        ({"o": np.float32(0)}, "observation", "has shape ()"),
        ({"o": GOOD.astype(complex)}, "observation", "real numbers"),
        ({"o": GOOD.astype(bool)}, "observation", "real numbers"),
        ({"o": np.array([0.1, 0.2])}, "observation", ".astype(np.float32), or declare float64"),
        ({"o": np.array([2**24 + 1, 0])}, "observation", "values that float32 cannot hold"),
        ({"o": np.array([0, 2e9], np.float32)}, "observation", "--guard.observation-bound changes"),
        ({"r": np.nan}, "reward", "must be finite"),
        ({"r": float("inf")}, "reward", "must be finite"),
        ({"r": 1e30}, "reward", "within 1e+09 of zero (--guard.reward-bound changes that bound)"),
        ({"r": np.float32(-2e9)}, "reward", "--guard.reward-bound"),
        ({"r": 10**12}, "reward", "--guard.reward-bound"),
        ({"r": np.zeros(1)}, "reward", "return float(reward)"),
        ({"r": None}, "reward", "one real number"),
        ({"r": "1"}, "reward", "one real number"),
        ({"r": True}, "reward", "one real number"),
        ({"r": np.bool_(True)}, "reward", "one real number"),
        ({"r": 1j}, "reward", "one real number"),
        ({"r": 10**400}, "reward", "one real number"),
        ({"end": 0.7}, "terminated", "True or False"),
        ({"end": 1}, "terminated", "True or False"),
        ({"end": np.array([True])}, "terminated", "True or False"),
        ({"clock": None}, "truncated", "True or False"),
        ({"info": None}, "info", "must be a dict"),
        ({"info": []}, "info", "must be a dict"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], field: str, says: str) -> None:
    error = fault(transition(**changes))
    assert (error.environment, error.step, error.field) == ("Sick-v0", 17, field)
    for word in ("Sick-v0", "step 17", field, says):
        assert word in str(error)
    assert error.value is next(iter(changes.values()))
    assert error.trajectory is None
    assert len(str(error)) < 330


@pytest.mark.parametrize("result", [transition()[:4], (*transition(), 1), list(transition()), None, GOOD])
def test_a_step_is_a_tuple_of_five(result: Any) -> None:
    error = fault(result)
    assert error.field == "result"
    assert "observation, reward, terminated, truncated, info" in str(error)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (GOOD, r"in reset: result must be a tuple \(observation, info\)"),
        (None, "in reset: result must be a tuple"),
        ([GOOD, {}], "in reset: result must be a tuple"),
        ((GOOD, None), "in reset: info must be a dict"),
        ((GOOD * np.nan, {}), "in reset: observation must be finite"),
        ((GOOD[:1], {}), "in reset: observation must have shape"),
    ],
)
def test_a_reset_is_a_tuple_of_two(result: Any, says: str) -> None:
    check, _ = checker()
    check.reset((GOOD, {}))
    with pytest.raises(TransitionError, match=says) as caught:
        check.reset(result)
    assert caught.value.step is None


@pytest.mark.parametrize("bound", [1e31, float("inf")])
def test_bounds_can_be_wider(bound: float) -> None:
    checker(reward_bound=bound, observation_bound=bound)[0].transition(transition(r=1e30, o=GOOD + 1e30), 0)
    assert "must be finite" in str(fault(transition(r=1e39), reward_bound=bound))
    assert "must be finite" in str(fault(transition(o=GOOD + np.float32(np.inf)), observation_bound=bound))


def test_bounds_can_be_narrower() -> None:
    assert "within 5 of zero" in str(fault(transition(r=-5.1), reward_bound=5.0))
    error = fault(transition(o=GOOD - 5.1), observation_bound=5.0)
    assert "must be within 5 of zero" in str(error)
    assert "component 0 is -5.1" in str(error)


LIMITS = spaces.Box(np.array([-8, 0, -np.inf, -np.inf, -3e-1, 2], np.float32),
                    np.array([8, np.inf, -20, np.inf, 3.4028235e38, 2], np.float32))  # fmt: skip


@pytest.mark.parametrize(
    ("component", "near", "far"),
    [
        (0, 23.9, 24.1),
        (0, -23.9, -24.1),
        (1, -9.9, -10.1),
        (1, 9e8, 1.1e9),
        (2, 179.0, 181.0),
        (2, -9e8, -1.1e9),
        (3, 9e8, 1.1e9),
        (3, -9e8, -1.1e9),
        (4, -10.2, -10.4),  # a largest float is no limit
        (4, 9e8, 1.1e9),
        (5, 21.9, 22.1),  # a width of zero is no width
    ],
)
def test_far_out_of_bounds(component: int, near: float, far: float) -> None:
    value = np.array([0, 1, -30, 0, 0, 2], np.float32)
    value[component] = near
    checker(LIMITS)[0].transition(transition(o=value), 0)
    check_observation(value, LIMITS, "E", 0)
    value[component] = far
    with pytest.raises(TransitionError) as caught:
        check_observation(value, LIMITS, "E", 0)
    for error in (fault(transition(o=value), LIMITS), caught.value):
        assert error.field == "observation"
        assert f"component {component} is {far:g}" in str(error)
        assert "far out of bounds" in str(error) or "--guard.observation-bound" in str(error)


@pytest.mark.parametrize(
    ("space", "observation", "given"),
    [
        (SPACE, np.array([0.5, 1.0]), "dtype float64"),
        (SPACE, np.array([3, 4]), "dtype int64"),
        (SPACE, np.array([0.5, 1.0], np.float16), "dtype float16"),
        (SPACE, np.array([0.5, 1.0], ">f4"), "dtype >f4"),
        (SPACE, [0.1, 0.2], "a list"),
        (SPACE, (0, 1), "a tuple"),
        (DOUBLE, np.array([0.1, 0.2], np.float32), "dtype float32"),
        (WHOLE, np.array([1, 2], np.int32), "dtype int32"),
        (WHOLE, np.array([1.0, 2.0]), "dtype float64"),
    ],
)
def test_a_cast_without_loss_is_said_once(space: spaces.Box, observation: Any, given: str) -> None:
    check, said = checker(space)
    check.reset((observation, {}))
    for step in range(3):
        check.transition(transition(o=observation), step)
    check.reset((observation, {}))
    assert len(said) == 1
    for word in ("Sick-v0, in reset: observation is", given, f"its space says {space.dtype}", f"np.{space.dtype}"):
        assert word in said[0]


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (SPACE, np.array([0.1, 0.0])),
        (SPACE, np.array([1e-60, 0.0])),  # becomes zero
        (SPACE, np.array([16777217, 0])),
        (spaces.Box(-np.inf, np.inf, (2,), np.float16), np.array([0, 0.1], np.float32)),
        (WHOLE, np.array([0.5, 1.0])),
        (WHOLE, [0.5, 1.0]),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([256, 0])),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([-1, 0])),
    ],
)
def test_a_cast_with_loss_is_a_fault(space: spaces.Box, observation: Any) -> None:
    error = fault(transition(o=observation), space)
    for word in (f"must be of dtype {space.dtype}", "cannot hold", f".astype(np.{space.dtype})"):
        assert word in str(error)


def test_a_warning_is_a_warning() -> None:
    check = Checker(SPACE, "E")
    with pytest.warns(UserWarning, match=r"E, at step 4: observation is of dtype float64, and its space says float32"):
        check.transition(transition(o=GOOD.astype(np.float64)), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check.transition(transition(o=GOOD.astype(np.float64)), 5)


class TestChangedInPlace:
    def test_in_a_step(self) -> None:
        check, _ = checker()
        first = GOOD.copy()
        check.reset((first, {}))
        first[1] = 3.0
        with pytest.raises(TransitionError, match=r"at step 0: observation was changed in place .* return a copy") as e:
            check.transition(transition(), 0)
        assert e.value.value is first
        check.reset((GOOD, {}))  # it is said once

    def test_between_episodes(self) -> None:
        check, _ = checker()
        last = GOOD.copy()
        check.transition(transition(o=last), 49)
        last += 1.0
        with pytest.raises(TransitionError, match="in reset: observation was changed in place"):
            check.reset((GOOD, {}))

    def test_a_part(self) -> None:
        check, _ = checker(spaces.Dict({"a": SPACE, "b": SPACE}))
        parts = {"a": GOOD.copy(), "b": GOOD.copy()}
        check.reset((parts, {}))
        parts["b"][0] = -1.0
        with pytest.raises(TransitionError) as caught:
            check.transition(transition(o=parts), 0)
        assert caught.value.field == "observation['b']"

    def test_the_same_array_with_the_same_numbers_is_none(self) -> None:
        check, _ = checker()
        for step in range(3):
            check.transition(transition(o=GOOD), step)

    def test_a_cast_array_counts_too(self) -> None:
        check, _ = checker()
        first = np.zeros(2)
        check.reset((first, {}))
        first[0] = 1.0
        with pytest.raises(TransitionError, match="changed in place"):
            check.transition(transition(o=first), 0)


@pytest.mark.parametrize(
    ("says", "observation"),
    [
        ("observation['a'] must be finite", {"a": GOOD * np.nan, "b": (1, GOOD)}),
        ("observation['b'][0] must be an element of", {"a": GOOD, "b": (5, GOOD)}),
        ("observation['b'][1] must have shape", {"a": GOOD, "b": (1, np.zeros(1))}),
        ("observation['b'] must be a tuple of 2", {"a": GOOD, "b": GOOD[:1]}),
        ("must be a dict with the keys ['a', 'b']", {"a": GOOD}),
        ("must be a dict with the keys ['a', 'b']", None),
    ],
)
def test_parts_of_composite_observations_are_named(says: str, observation: Any) -> None:
    space = spaces.Dict({"a": SPACE, "b": spaces.Tuple([spaces.Discrete(3), SPACE])})
    check_observation({"a": GOOD, "b": (1, GOOD)}, space, "E", 0)
    checker(space)[0].transition(transition(o={"a": GOOD, "b": (1, GOOD)}), 0)
    with pytest.raises(TransitionError) as caught:
        check_observation(observation, space, "E", 0)
    assert says in str(caught.value)
    assert says in str(fault(transition(o=observation), space))


class TestObservationsFromElsewhere:
    """What a loaded controller is given."""

    @pytest.mark.parametrize("observation", [GOOD, np.array([0.1, 0.2]), np.array([1, 2]), [0.1, 0.2], (0, 1)])
    def test_any_float_will_do(self, observation: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_observation(observation, SPACE, "E", 0)

    @pytest.mark.parametrize("value", [1e20, -1e20, np.nan, np.inf, 1e300])
    def test_what_is_far_out_is_refused(self, value: float) -> None:
        with pytest.raises(TransitionError, match=r"E, at step 3: state must be (finite|within 1e\+09 of zero)"):
            check_observation(np.array([0.0, value]), SPACE, "E", 3, field="state")

    def test_floats_are_no_whole_numbers(self) -> None:
        check_observation(np.zeros(2, np.int32), WHOLE, "E", 0)
        with pytest.raises(TransitionError, match="dtype int64 and is of dtype float32"):
            check_observation(GOOD, WHOLE, "E", 0)


class Hostile:
    """Nothing about it can be looked at."""

    def __array__(self, *_: Any, **__: Any):
        raise KeyError("no array")

    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("changes", [{"o": Hostile()}, {"r": Hostile()}, {"end": Hostile()}, {"info": Hostile()}])
def test_what_cannot_be_looked_at_is_named(changes: dict[str, Any]) -> None:
    assert "an object of Hostile that cannot be shown" in str(fault(transition(**changes)))


def test_the_error_travels_between_processes() -> None:
    error = TransitionError("E", 3, "reward", None, "must be one real number")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(copy) == str(error)
    assert copy.step == 3


BUILT_IN = [
    *("Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("Reacher-v5", "Pusher-v5", "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "HalfCheetah-v5", "Ant-v5"),
    *("Hopper-v5", "Swimmer-v5", "Walker2d-v5", "Humanoid-v5", "HumanoidStandup-v5"),
]


@pytest.mark.parametrize("id", BUILT_IN)
def test_gymnasiums_own_environments_pass(id: str) -> None:
    env = Source(id, {}, None, 1, 1).make()
    assert isinstance(env, Guarded)
    env.action_space.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for episode in range(3):
            env.reset(seed=episode)
            for _ in range(300):
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    break
    env.close()


def test_the_guard_of_a_source_is_used() -> None:
    env = Source("Pendulum-v1", {}, None, 1, 1, Guard(reward_bound=1e-6)).make()
    env.reset(seed=0)
    with pytest.raises(TransitionError, match=r"Pendulum-v1, at step 0: reward must be within 1e-06 of zero"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_an_environment_without_a_space_is_refused(name: str) -> None:
    from forethought.errors import UserError

    class Bare(gymnasium.Env):
        observation_space, action_space = SPACE, SPACE

    setattr(Bare, name, None)
    gymnasium.register("Bare-v0", entry_point=Bare)
    with pytest.raises(UserError, match=f"Bare-v0 has no {name}; its __init__ must set self.{name}"):
        Source("Bare-v0", {}, None, 1, 1).make()
    gymnasium.registry.pop("Bare-v0")


def test_neither_the_guard_nor_the_source_needs_jax() -> None:
    import subprocess

    code = "import sys, forethought.worlds.source, forethought.worlds.guard; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
