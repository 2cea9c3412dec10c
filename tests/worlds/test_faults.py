"""Twenty faults of an environment, at every place where they can occur: found, named, and nothing finished is lost.

The 20th, a step that hangs, can only be ended in a worker process.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from faulty import FAULTS, ID, IN_RESET, LAST, LIMIT
from forethought.core import AbstractPolicy
from forethought.worlds.guard import TransitionError
from forethought.worlds.gym import GymWorld, gym_world

KEY = jr.key(0)

EXPECTED = {
    "nan-observation": ("observation", "must be finite", "nan"),
    "inf-observation": ("observation", "must be finite", "inf"),
    "none-observation": ("observation", "must be an array of real numbers", "None"),
    "wrong-shape": ("observation", "has shape (4,)", "array([0., 0., 0., 0.]"),
    "short-shape": ("observation", "must have shape (3,), as observation_space says, and has shape (1,)", "array(["),
    "lossy-dtype": ("observation", "must be of dtype float32 and is of dtype float64", "array([0.1, 0.2, 0.3])"),
    "far-out": ("observation", "component 2 is 1e+06, and its limits are -8 and 8", "1.e+06"),
    "in-place": ("observation", "was changed in place after it had been returned: return a copy", "array(["),
    "nan-reward": ("reward", "must be finite", "nan"),
    "inf-reward": ("reward", "must be finite", "inf"),
    "huge-reward": ("reward", "--guard.reward-bound", "1e+30"),
    "array-reward": ("reward", "must be one real number", "array([-"),
    "none-reward": ("reward", "must be one real number", "None"),
    "string-reward": ("reward", "must be one real number", "'1.0'"),
    "info-none": ("info", "must be a dict", "None"),
    "four-tuple": ("result", "must be a tuple (observation, ", ""),
    "terminated-0.7": ("terminated", "must be True or False", "0.7"),
    "exception": ("step", "raised an exception", "RuntimeError('the motor is off')"),
}
"""Fault: (field, what the sentence says, what it shows of the value)."""


class Push(AbstractPolicy):
    """The same small action always."""

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return jnp.full(1, 0.25, jnp.float32), None


def faulty(fault: str, at: int | str, **kwargs: Any) -> GymWorld:
    return gym_world(ID, {"fault": fault, "at": at, **kwargs})


def episode(world: GymWorld, condition: int = 0):
    """A whole episode from a reset."""
    return world.collect(Push(), None, world.reset(KEY, condition), KEY, LIMIT)[0]


def require_named(error: TransitionError, fault: str, step: int | None) -> None:
    """The fault is told by environment, step, field and value."""
    field, says, value = EXPECTED[fault]
    field = "reset" if step is None and field == "step" else field
    assert (error.environment, error.step, error.field) == (ID, step, field)
    sentence = str(error)
    assert sentence.startswith(f"{ID}, {'in reset' if step is None else f'at step {step}'}: {field} ")
    assert says in sentence
    assert value in sentence.rpartition("; it was ")[2]


def test_all_twenty_are_here() -> None:
    assert len(set(FAULTS)) == 20
    assert set(EXPECTED) == set(FAULTS) - {"lossless-dtype", "hang"}
    assert LAST == 49


@pytest.mark.parametrize("at", [1, 30, "last"])
@pytest.mark.parametrize("fault", EXPECTED)
def test_in_a_step(fault: str, at: int | str) -> None:
    step = LAST if at == "last" else int(at)
    healthy = episode(faulty("none", 0))
    world = faulty(fault, at)
    with pytest.raises(TransitionError) as caught:
        episode(world)
    require_named(caught.value, fault, step)
    kept = caught.value.trajectory
    assert kept is not None
    assert kept.length == step
    for name in ("x", "u", "y", "reward"):
        assert np.array_equal(getattr(kept, name), getattr(healthy, name)[:step])
    # The next episode is a fresh one.
    assert episode(world, 1).length == LIMIT


@pytest.mark.parametrize("fault", [fault for fault in IN_RESET if fault in EXPECTED])
def test_in_reset(fault: str) -> None:
    world = faulty(fault, -1, episode=1)
    assert episode(world).length == LIMIT
    with pytest.raises(TransitionError) as caught:
        world.reset(KEY, 1)
    require_named(caught.value, fault, None)
    assert caught.value.trajectory is None
    with pytest.raises(RuntimeError, match="no open episode"):
        world.collect(Push(), None, world.live.cursor(), KEY, 1)
    assert episode(world, 2).length == LIMIT


@pytest.mark.parametrize("fault", [fault for fault in IN_RESET if fault in EXPECTED and fault != "in-place"])
def test_in_the_very_first_reset(fault: str) -> None:
    with pytest.raises(TransitionError) as caught:
        faulty(fault, -1).reset(KEY, 0)
    require_named(caught.value, fault, None)


@pytest.mark.parametrize("fault", ["nan-observation", "huge-reward", "in-place", "exception"])
def test_rollouts_keep_the_episodes_before(fault: str) -> None:
    world = faulty(fault, 30, episode=1)
    with pytest.raises(TransitionError) as caught:
        world.rollouts(Push(), KEY, [5, 6, 7], LIMIT)
    require_named(caught.value, fault, 30)
    kept = caught.value.trajectory
    assert kept is not None
    assert kept.length == LIMIT + 30
    assert set(kept.condition[:LIMIT]) == {5}
    assert set(kept.condition[LIMIT:]) == {6}


@pytest.mark.parametrize(
    ("at", "when"), [(-1, "in reset"), (1, "at step 1"), (30, "at step 30"), ("last", "at step 49")]
)
def test_a_lossless_cast_is_said_once_and_no_fault(at: int | str, when: str) -> None:
    world = faulty("lossless-dtype", at)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first, second = episode(world), episode(world, 1)
    assert first.length == second.length == LIMIT
    about = [str(w.message) for w in said if "dtype" in str(w.message)]
    assert len(about) == 1
    assert about[0].startswith(f"{ID}, {when}: observation is of dtype float64, and its space says float32")
    assert np.array_equal(first.y, episode(faulty("none", 0)).y)


@pytest.mark.parametrize("step", [3, 4])
def test_repeated_actions_are_checked_one_by_one(step: int) -> None:
    """Steps are the environment's own: the fault is inside a decision, and the decisions before are kept."""
    world = gym_world(ID, {"fault": "nan-reward", "at": step}, action_repeat=3)
    with pytest.raises(TransitionError, match=f"at step {step}: reward must be finite") as caught:
        episode(world)
    assert caught.value.trajectory is not None
    assert caught.value.trajectory.length == 1


def test_the_fault_happens_once_where_a_file_says_so(tmp_path) -> None:
    """For worker processes, of which each has its own count of episodes."""
    kwargs = {"fault": "nan-observation", "at": 5, "once": str(tmp_path / "done")}
    with pytest.raises(TransitionError):
        episode(gym_world(ID, kwargs))
    assert episode(gym_world(ID, kwargs)).length == LIMIT


def test_the_fault_happens_with_a_reset_seed() -> None:
    world = faulty("nan-observation", 5, seed=7)
    assert episode(world, 6).length == LIMIT
    for _ in range(2):
        with pytest.raises(TransitionError):
            episode(world, 7)
