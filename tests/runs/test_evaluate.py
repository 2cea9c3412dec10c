from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought import ControlError, LoadedPolicy, UserError, evaluate, load
from forethought.core import AbstractPolicy
from forethought.math.stats import mean_interval
from forethought.policies.excitation import RandomPolicy
from forethought.runs.evaluation import starts_for
from forethought.runs.experiment import open_run
from forethought.runs.files import read_sealed, seal
from forethought.tasks import task as make_task
from small import recipe


class Echo(AbstractPolicy):
    """u = the first m components of the state."""

    m: int

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return x[: self.m], carry


@pytest.fixture(scope="module")
def pendulum_run(tmp_path_factory):
    """On Gymnasium's pendulum, whose observations and actions are its own."""
    return recipe(task="Pendulum-v1", out=tmp_path_factory.mktemp("runs") / "run", steps=20).run().run


def test_an_evaluation_adds_up_and_repeats():
    task = make_task("pendulum", limit=20)
    policy = RandomPolicy(task.world.actions)
    one, two, other = (evaluate(task, policy, jr.key(k), [3, 4, 5]) for k in (0, 0, 1))
    assert one == two != other
    assert (one.env_steps, one.starts, one.successes) == (60, [3, 4, 5], None)
    assert (one.mean_return, one.interval) == mean_interval(one.returns)
    assert one.mean_return == pytest.approx(np.mean(one.returns))


def test_successes_are_counted_where_the_task_has_a_test():
    task = make_task("double-integrator")
    found = evaluate(task, RandomPolicy(task.world.actions), jr.key(0), [1, 2])
    assert found.successes == 0


def test_starts():
    task = make_task("pendulum")
    assert starts_for(task, None, None) == list(range(1000, 1010))
    assert starts_for(task, 3, None) == [1000, 1001, 1002]
    assert starts_for(task, 12, None) == list(range(1000, 1012))
    assert starts_for(task, 2, 7) == [7, 8]
    with pytest.raises(UserError, match="episodes is 0; it must be a whole number, at least 1"):
        starts_for(task, 0, None)
    with pytest.raises(UserError, match="seed is -1"):
        starts_for(task, None, -1)


def test_a_loaded_policy_drives_the_users_own_loop(pendulum_run):
    policy = load(pendulum_run)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=1000)
    policy.reset()
    for _ in range(5):
        action = policy.act(observation)
        assert isinstance(action, np.ndarray)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)


def test_the_best_or_the_newest_and_nothing_damaged(pendulum_run, tmp_path):
    """`load` passes on which checkpoint, and whether damage is refused."""
    run = Path(shutil.copytree(pendulum_run, tmp_path / "run"))
    first = min((run / "checkpoints").iterdir()) / "manifest.json"
    first.write_bytes(seal(read_sealed(first) | {"score": 1e9}))
    weights = lambda policy: [np.asarray(v) for v in jax.tree.leaves(eqx.filter(policy.policy, eqx.is_inexact_array))]
    newest, best = weights(load(run)), weights(load(run, which="best", strict=True))
    assert not all(map(np.array_equal, newest, best))
    (run / "run.json").write_text("{")
    assert all(map(np.array_equal, newest, weights(load(run))))
    with pytest.raises(UserError, match=r"--strict refuses that.*run\.json"):
        load(run, strict=True)


def test_the_users_loop_and_evaluate_agree(pendulum_run):
    run = open_run(pendulum_run)
    policy = run.algorithm.policy(run.task, run.state)
    expected = evaluate(run.task, policy, jr.key(0), [1000]).returns[0]
    mine, total = load(pendulum_run), 0.0
    # The same key as the evaluation's first episode.
    mine._key = jr.split(jr.split(jr.key(0), 1)[0])[0]
    env = gymnasium.make("Pendulum-v1", max_episode_steps=10)
    observation, _ = env.reset(seed=1000)
    done = False
    while not done:
        observation, reward, terminated, truncated, _ = env.step(mine.act(observation))
        total, done = total + float(reward), terminated or truncated
    assert total == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "observation",
    [[0.0, float("nan"), 0.0], [0.0, float("inf"), 0.0], [1e39, 0.0, 0.0], [0.0, 0.0], np.zeros((3, 1)), None, "up"],
)
def test_a_bad_observation_gets_an_error_and_a_safe_action(pendulum_run, observation):
    policy = load(pendulum_run)
    with pytest.raises(ControlError, match="Pendulum-v1, at step 0: observation must") as caught:
        policy.act(observation)
    assert np.array_equal(caught.value.safe_action, np.zeros(1, np.float32))
    assert policy.act([1.0, 0.0, 0.0]).shape == (1,), "the episode can go on"


def test_a_broken_model_gets_an_error_and_a_safe_action(pendulum_run):
    run = open_run(pendulum_run)
    policy = run.algorithm.policy(run.task, run.state)
    broken = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan) if eqx.is_inexact_array(v) else v, policy)
    with pytest.raises(ControlError, match="no plan of finite cost was found") as caught:
        LoadedPolicy(run.task, broken).act([1.0, 0.0, 0.0])
    assert np.array_equal(caught.value.safe_action, np.zeros(1, np.float32))


def test_the_safe_action_of_a_users_loop_is_the_configured_one(pendulum_run):
    """Hold: what was done last, in an observation that is refused as well as where no plan is found."""
    run = open_run(pendulum_run)
    held = dataclasses.replace(run.algorithm, safe="hold").policy(run.task, run.state)
    policy = LoadedPolicy(run.task, held)
    last = policy.act([1.0, 0.0, 0.0])
    assert np.abs(last).max() > 1e-3, "an action that is not zero by chance"
    with pytest.raises(ControlError, match="must be finite") as caught:
        policy.act([float("nan"), 0.0, 0.0])
    assert np.array_equal(caught.value.safe_action, last)
    broken = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan) if eqx.is_inexact_array(v) else v, held.planning.dynamics)
    policy.policy = eqx.tree_at(lambda p: p.planning.dynamics, held, broken)
    with pytest.raises(ControlError, match="no plan of finite cost was found") as caught:
        policy.act([1.0, 0.0, 0.0])
    assert np.array_equal(caught.value.safe_action, last)


def test_discrete_actions_are_whole_numbers():
    policy = LoadedPolicy(make_task("CartPole-v1"), Echo(2))
    assert [policy.act(o) for o in ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])] == [0, 1]
    assert isinstance(policy.act([1.0, 0.0, 0.0, 0.0]), int)
    assert policy.safe_action == 0


def test_history_is_stacked_as_in_training():
    """Oldest first, and the first observation repeated, as the world's own wrapper does it."""
    task = make_task("Pendulum-v1", history=3)
    world = task.world.fresh()
    policy = LoadedPolicy(task, Echo(1))
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=5)
    at = world.reset(jr.key(0), 5)
    carry = None
    for _ in range(4):
        trajectory, carry, at = world.collect(Echo(1), carry, at, jr.key(0), 1)
        action = policy.act(observation)
        assert np.allclose(action, trajectory.u[0])
        observation, *_ = env.step(action)


def test_simulated_worlds_take_states():
    policy = LoadedPolicy(make_task("double-integrator"), Echo(1))
    assert np.array_equal(policy.act(np.array([0.25, 0.0])), np.float32([0.25]))
