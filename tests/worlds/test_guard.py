"""Every fault of an environment is named: environment, step, field."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from forethought.worlds.guard import TransitionError, check_observation, check_reset, check_transition

SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
GOOD = np.zeros(2, np.float32)


def transition(**changes: Any) -> tuple:
    return tuple(({"o": GOOD, "r": 0.0, "end": False, "clock": False, "info": {}} | changes).values())


@pytest.mark.parametrize("reward", [0.5, 1, np.float32(1), np.int64(1), np.array(2.0), np.array(3)])
def test_good_rewards_pass(reward: Any) -> None:
    check_transition(transition(r=reward), SPACE, "E", 0)


@pytest.mark.parametrize("observation", [GOOD, GOOD.astype(np.float64), GOOD.astype(int), [0.0, 1.0], (0, 1)])
def test_good_observations_pass(observation: Any) -> None:
    check_transition(transition(o=observation, end=np.bool_(True)), SPACE, "E", 0)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"o": np.array([np.nan, 0], np.float32)}, "observation", "finite"),
        ({"o": np.array([np.inf, 0], np.float32)}, "observation", "finite"),
        ({"o": np.array([1e300, 0])}, "observation", "finite"),
        ({"o": None}, "observation", "real numbers"),
        ({"o": "ab"}, "observation", "real numbers"),
        ({"o": [[1.0], 2.0]}, "observation", "real numbers"),
        ({"o": np.zeros(3, np.float32)}, "observation", "shape"),
        ({"o": np.zeros((2, 1), np.float32)}, "observation", "shape"),
        ({"o": GOOD.astype(complex)}, "observation", "real numbers"),
        ({"o": GOOD.astype(bool)}, "observation", "real numbers"),
        ({"r": np.nan}, "reward", "finite"),
        ({"r": float("inf")}, "reward", "finite"),
        ({"r": np.zeros(1)}, "reward", "one real number"),
        ({"r": None}, "reward", "one real number"),
        ({"r": "1"}, "reward", "one real number"),
        ({"r": True}, "reward", "one real number"),
        ({"r": np.bool_(True)}, "reward", "one real number"),
        ({"r": 1j}, "reward", "one real number"),
        ({"end": 0.7}, "terminated", "True or False"),
        ({"end": 1}, "terminated", "True or False"),
        ({"clock": None}, "truncated", "True or False"),
        ({"info": None}, "info", "dict"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(TransitionError) as caught:
        check_transition(transition(**changes), SPACE, "Sick-v0", 17)
    error = caught.value
    assert (error.environment, error.step, error.field) == ("Sick-v0", 17, field)
    for word in ("Sick-v0", "step 17", field, says):
        assert word in str(error)
    assert error.value is next(iter(changes.values()))
    assert error.trajectory is None
    assert len(str(error)) < 300


def test_the_tuple_itself() -> None:
    for wrong in (transition()[:4], list(transition()), None):
        with pytest.raises(TransitionError, match="observation, reward, terminated, truncated, info"):
            check_transition(wrong, SPACE, "E", 0)
    with pytest.raises(TransitionError, match=r"in reset: result must be a tuple \(observation, info\)"):
        check_reset(GOOD, SPACE, "E")
    with pytest.raises(TransitionError, match="in reset: info"):
        check_reset((GOOD, None), SPACE, "E")
    check_reset((GOOD, {}), SPACE, "E")


def test_kinds_of_dtype_do_not_mix() -> None:
    whole = spaces.Box(0, 9, (2,), np.int64)
    check_observation(np.zeros(2, np.int32), whole, "E", 0)
    with pytest.raises(TransitionError, match="dtype int64 and is of dtype float32"):
        check_observation(GOOD, whole, "E", 0)


def test_parts_of_composite_observations_are_named() -> None:
    space = spaces.Dict({"a": SPACE, "b": spaces.Tuple([spaces.Discrete(3), SPACE])})
    check_observation({"a": GOOD, "b": (1, GOOD)}, space, "E", 0)
    cases = {
        "observation['a'] must be finite": {"a": GOOD * np.nan, "b": (1, GOOD)},
        "observation['b'][0] must be an element of": {"a": GOOD, "b": (5, GOOD)},
        "observation['b'][1] must have shape": {"a": GOOD, "b": (1, np.zeros(1))},
        "observation['b'] must be a tuple of 2": {"a": GOOD, "b": GOOD[:1]},
        "must be a dict with the keys ['a', 'b']": {"a": GOOD},
    }
    for says, observation in cases.items():
        with pytest.raises(TransitionError) as caught:
            check_observation(observation, space, "E", 0)
        assert says in str(caught.value)


def test_the_error_travels_between_processes() -> None:
    error = TransitionError("E", 3, "reward", None, "must be one real number")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(copy) == str(error)
    assert copy.step == 3
