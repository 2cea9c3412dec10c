"""Tasks by name."""

from __future__ import annotations

import gymnasium
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractPolicy, Task
from forethought.costs.gymnasium import PendulumCost
from forethought.costs.gymnasium_locomotion import HopperCost
from forethought.costs.learned import LearnedCost
from forethought.tasks import CLASSIC, MISSES, arrived, catalogue, inserted, parked, reached, stood_up, swung_up, task
from forethought.types import Trajectory, UserError


class Middle(AbstractPolicy):
    """The safe action."""

    u: jnp.ndarray

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return self.u, None


def run(it: Task, conditions) -> list[Trajectory]:
    policy = Middle(jnp.asarray(it.world.actions.safe()))
    return it.world.rollouts(policy, jr.key(0), conditions, it.limit)


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_tasks_run(name: str) -> None:
    it = task(name)
    assert it.name == name
    (q,) = run(it, it.starts[:1])
    assert q.x.shape[1] == it.spec.n == it.world.spec.n
    assert it.spec.extras == 0
    assert q.length == it.limit or q.terminated[-1]
    # The reward is minus the task's own cost, where the observation is the state.
    if name != "cartpole-swingup":
        x, u, y = (jnp.asarray(v[0], jnp.float32) for v in (q.x, q.u, q.y))
        assert float(it.cost.stage(x, u, y, jnp.zeros((), jnp.int32))) == pytest.approx(
            -q.reward[0], rel=1e-3, abs=1e-4
        )
    if it.success is not None:
        assert it.success(q) is False


def test_known_and_learned_rewards() -> None:
    it = task("Pendulum-v1")
    assert isinstance(it.cost, PendulumCost)
    assert (it.limit, it.threshold, it.starts) == (200, -200.0, tuple(range(1000, 1010)))
    learned = task("Ant-v5", {"include_cfrc_ext_in_observation": False})
    assert isinstance(learned.cost, LearnedCost)
    assert learned.spec.outputs == learned.world.spec.n + 2
    assert learned.cost.n == learned.world.spec.n
    hopper = task("Hopper-v5", {"ctrl_cost_weight": 0.5})
    assert isinstance(hopper.cost, HopperCost)
    assert hopper.cost.ctrl_cost_weight == 0.5
    for options in ({"action_repeat": 2}, {"history": 2}):
        assert isinstance(task("Pendulum-v1", **options).cost, LearnedCost)


def test_thresholds_hold_for_the_task_as_registered() -> None:
    assert task("CartPole-v1").threshold == 475
    assert task("MountainCarContinuous-v0").threshold == 90
    assert task("Acrobot-v1").threshold == -100
    assert task("Walker2d-v5").threshold is None
    assert task("Pendulum-v1", limit=200).threshold == -200
    assert task("Pendulum-v1", limit=50).threshold is None
    assert task("Pendulum-v1", {"g": 1.0}).threshold is None
    assert task("pendulum").threshold == -200
    assert task("pendulum", limit=50).threshold is None
    assert task("pendulum", limit=50).world.limit == 50


def test_an_id_has_its_version_and_may_come_from_a_users_module(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="Pendulum-v1"):
        task("Pendulum")  # what it means would change with Gymnasium's next version
    (tmp_path / "impostor.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gymnasium.register('Impostor-v0', entry_point=PendulumEnv, max_episode_steps=9, reward_threshold=-5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    it = task("impostor:Impostor-v0")
    gymnasium.registry.pop("Impostor-v0")
    assert isinstance(it.cost, LearnedCost)
    assert (it.limit, it.threshold) == (9, -5.0)


def test_mistakes_get_a_sentence() -> None:
    for name, near in (
        ("cartpole-swngup", "cartpole-swingup"),
        ("Pendlum-v1", "Pendulum-v1"),
        ("Pendlum-v1", "pendulum"),
    ):
        with pytest.raises(UserError, match=near):
            task(name)
    with pytest.raises(UserError, match="xyzzy"):
        task("xyzzy")
    for options in ({"kwargs": {"g": 1.0}}, {"action_repeat": 2}, {"history": 3}):
        with pytest.raises(UserError, match="pendulum takes no"):
            task("pendulum", **options)
    with pytest.raises(UserError, match="limit of pendulum was 0"):
        task("pendulum", limit=0)


def test_catalogue_names_tasks() -> None:
    lines = catalogue()
    assert set(CLASSIC) < set(lines)
    assert "HalfCheetah-v5" in lines
    assert all(about and "\n" not in about for about in lines.values())
    for name in lines:
        assert task(name).name == name


def swing(angle_off: float, position: float, count: int = 60, bad: int | None = None) -> Trajectory:
    """An episode that hangs for 2 s, then stands at the given angle from upright."""
    states = np.zeros((count + 1, 4))
    states[40:, 2] = np.pi - angle_off
    states[40:, 0] = position
    if bad is not None:
        states[bad, 2] = np.pi - 0.2
    zero = np.zeros(count)
    return Trajectory(
        x=states[:-1], u=zero[:, None], y=states[1:], reward=zero, terminated=zero.astype(bool),
        truncated=zero.astype(bool), t=np.arange(count), log_prob=zero, condition=np.zeros(count, int),
    )  # fmt: skip


def test_swing_up_success_is_the_whole_last_second() -> None:
    ten = np.deg2rad(10)
    assert swung_up(swing(0.0, 0.0))
    assert swung_up(swing(ten - 1e-3, 0.099))
    assert swung_up(swing(-ten + 1e-3, -0.099))
    assert not swung_up(swing(ten + 1e-3, 0.0))
    assert not swung_up(swing(-ten - 1e-3, 0.0))
    assert not swung_up(swing(0.0, 0.101))
    assert not swung_up(swing(0.0, 0.0, count=59))
    for bad in (40, 50, 60):
        assert not swung_up(swing(0.0, 0.0, bad=bad))
    assert swung_up(swing(0.0, 0.0, bad=39))


def test_other_successes() -> None:
    q = swing(0.0, 0.05)
    assert not arrived(q)
    assert not stood_up(q)
    up = np.asarray(q.y).copy()
    up[-1] = [np.pi, 0, 0, 0]
    still = np.zeros_like(up)
    build = lambda y: Trajectory(q.x, q.u, y, q.reward, q.terminated, q.truncated, q.t, q.log_prob, q.condition)
    assert stood_up(build(up))
    assert arrived(build(still))


def ends(*y: float) -> Trajectory:
    """One transition to y."""
    none = np.zeros(1)
    return Trajectory(
        x=np.ones((1, len(y))), u=none[:, None], y=np.array([y]), reward=none, terminated=none > 0, truncated=none > 0,
        t=np.zeros(1, int), log_prob=none, condition=np.zeros(1, int),
    )  # fmt: skip


def test_successes_and_distances_of_reaching() -> None:
    assert parked(ends(0.012, -0.012, 0.03, 0.03))
    assert not parked(ends(0.015, -0.015, 0.0, 0.0))
    assert not parked(ends(0.0, 0.0, 0.04, 0.04))
    a, b = np.arccos(0.4), 0.0
    assert MISSES["arm-reach"](ends(a, b, 0.0, 0.0)) == pytest.approx(np.hypot(0.4 - 0.2, np.sin(a) - 0.7))
    # (0.2, 0.7) from two links of 0.5: cos b = 0.06.
    b = np.arccos(0.06)
    a = np.arctan2(0.7, 0.2) - 0.5 * b
    assert reached(ends(a, b, 9.0, 9.0))
    assert reached(ends(a + 0.02, b, 0.0, 0.0))
    assert not reached(ends(a + 0.03, b, 0.0, 0.0))
    assert MISSES["Reacher-v5"](ends(*np.ones(8), 0.03, -0.04)) == pytest.approx(0.05)
    peg = np.zeros(10)
    assert inserted(ends(*peg))
    peg[7] = 0.0101
    assert not inserted(ends(*peg))
    peg[6:8], peg[8:] = (-0.007, 0.007), 1.0
    assert inserted(ends(*peg))
