"""A condition fixes the start of an episode, bit for bit, which local methods rely on."""

from __future__ import annotations

import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractPolicy
from forethought.runs.experiment import Experiment, Named, read_experiment
from forethought.runs.train_flags import parse_train
from forethought.runs.validate import RULES, check
from forethought.tasks import MISSES, task
from forethought.types import UserError
from forethought.worlds.guard import TransitionError
from forethought.worlds.registered import PEG_INSERTION


class Push(AbstractPolicy):
    """A fixed torque."""

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return jnp.array([0.3, -0.2], jnp.float32), None


def hidden(world) -> np.ndarray:
    data = world.env.unwrapped.data
    return np.concatenate([data.qpos, data.qvel])


def test_reacher_starts_where_it_started() -> None:
    """Also after other episodes, in a fresh instance, and in what the observation does not show."""
    world, four = task("Reacher-v5").world, range(4)
    seen, true = [], []
    for seed in four:
        at = world.reset(jr.key(seed), seed)
        seen.append(np.asarray(at.x))
        true.append(hidden(world))
        world.collect(Push(), None, at, jr.key(0), 7)
    other = world.fresh()
    for seed in reversed(four):
        for again in (world, other):
            assert np.array_equal(again.reset(jr.key(99), seed).x, seen[seed])
            assert np.array_equal(hidden(again), true[seed])
    assert len({tuple(x) for x in seen}) == 4
    # The targets are different ones, in reach, and do not move.
    goals = np.array([x[4:6] for x in seen])
    assert np.all(np.linalg.norm(goals, axis=1) < 0.2)
    episodes = world.rollouts(Push(), jr.key(1), [*four, *four], 50)
    for one, two in zip(episodes[:4], episodes[4:], strict=True):
        assert np.array_equal(one.x, two.x)
        assert np.array_equal(one.y, two.y)
        assert np.all(one.y[:, 4:6] == one.x[0, 4:6])


def test_the_distance_at_the_end_is_the_observations() -> None:
    """Of fingertip and target as MuJoCo has them, and of the angles by hand (to the digits of its last Runge-Kutta
    stage)."""
    world = task("Reacher-v5").world
    (q,) = world.rollouts(Push(), jr.key(1), [2], 50)
    inner = world.env.unwrapped
    away = np.linalg.norm(inner.get_body_com("fingertip") - inner.get_body_com("target"))
    assert MISSES["Reacher-v5"](q) == away
    y = q.y[-1]
    first, second = np.arctan2(y[2:4], y[:2])
    tip = 0.1 * np.exp(1j * first) + 0.11 * np.exp(1j * (first + second))
    assert abs(abs(tip - complex(*y[4:6])) - away) < 1e-5


ANGLES = [[1.5, -1.6, -1.4], [1.6, -1.7, -1.5]]


@pytest.mark.parametrize("workers", [1, 2])
def test_reset_options_go_with_the_first_seeds(workers) -> None:
    """In this process and in workers: seed i with the i-th options, later seeds as without any."""
    made = Experiment(PEG_INSERTION, resets=tuple({"start": angles} for angles in ANGLES), workers=workers).make_task()
    plain = task(PEG_INSERTION).world
    for world in made.worlds:
        for seed, angles in enumerate(ANGLES):
            np.testing.assert_allclose(world.reset(jr.key(0), seed).x[:3], angles, rtol=1e-12)
        np.testing.assert_array_equal(world.reset(jr.key(0), 2).x, plain.reset(jr.key(0), 2).x)
        world.close()


def test_reset_options_are_kept_by_a_run_and_taken_up_again(tmp_path) -> None:
    recipe = Experiment(PEG_INSERTION, resets=({"start": ANGLES[0]},), out=tmp_path / "run")
    back = read_experiment(tmp_path / "run", json.loads(json.dumps(recipe.config())), Named())
    assert back.resets == recipe.resets


@pytest.mark.parametrize(
    "wrong",
    [
        [{"start": [1.0]}],
        ({"start": "/etc/passwd"},),
        ({"start": "a.xml"},),
        ({"start": float("nan")},),
        ({"start": {"a": 1}},),
        ({1: 2},),
        (1,),
        ({"start": [[[[[1.0]]]]]},),
    ],
)
def test_reset_options_that_could_name_a_file_are_refused(wrong) -> None:
    assert not RULES["Experiment"]["resets"].accepts(wrong)


def test_the_sentence_says_what_options_may_be() -> None:
    with pytest.raises(UserError, match=r"resets is .* it must be a tuple of dicts from names to numbers"):
        check(Experiment(PEG_INSERTION, resets=({"start": "a.xml"},)))
    check(Experiment(PEG_INSERTION, resets=({"start": [1, 2.0, [True, None, "left"]]},)))


def test_reset_options_on_the_command_line() -> None:
    found = parse_train([PEG_INSERTION, "--resets", json.dumps([{"start": ANGLES[0]}]), "--steps", "7"])
    assert found.experiment.resets == ({"start": ANGLES[0]},)
    assert parse_train([PEG_INSERTION]).experiment.resets == ()
    for wrong in ("7", "[1]", "{", '{"start": 1}'):
        with pytest.raises(UserError, match=r"--resets is .*a list of objects in JSON"):
            parse_train([PEG_INSERTION, f"--resets={wrong}"])
    with pytest.raises(UserError, match="--resets needs a value"):
        parse_train([PEG_INSERTION, "--resets"])


def test_classic_tasks_take_no_reset_options() -> None:
    with pytest.raises(UserError, match=r"resets is .*pendulum takes no environment arguments"):
        task("pendulum", resets=[{"a": 1}])


def test_an_option_that_the_environment_refuses_is_its_own_sentence() -> None:
    world = task(PEG_INSERTION, resets=[{"start": [9.0, 0.0, 0.0]}]).world
    with pytest.raises(TransitionError, match="three joint angles"):
        world.reset(jr.key(0), 0)
