"""Peg insertion: its environment, that it can be done, that it is not done by chance."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import jax.random as jr
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from forethought.checks.environment import check_environment
from forethought.tasks import MISSES, inserted, task
from forethought.testing import check_world
from forethought.types import Trajectory
from forethought.worlds.registered import PEG_INSERTION
from forethought.worlds.source import Source

KEY = jr.key(0)


@pytest.fixture(scope="module")
def env():
    made = gymnasium.make(PEG_INSERTION, disable_env_checker=True)
    yield made
    made.close()


def episode(env, controller, seed: int) -> tuple[float, Trajectory, list[dict]]:
    """Return, trajectory and infos of one whole episode."""
    x, _ = env.reset(seed=seed)
    rows, infos, over = [], [], False
    while not over:
        u = np.asarray(controller(len(rows), x), np.float32)
        y, reward, end, over, info = env.step(u)
        assert not end
        rows.append((x, u.astype(np.float64), y, reward))
        infos.append(info)
        x = y
    x, u, y, r = (np.array(column) for column in zip(*rows, strict=True))
    none = np.zeros(len(r))
    q = Trajectory(x, u, y, r, none > 0, none > 0, np.arange(len(r)), none, np.zeros(len(r), int))
    return float(r.sum()), q, infos


def inverse(tip: tuple[float, float]) -> np.ndarray:
    """Joint angles that hold the peg along the slot with its tip there: the textbook's two-link formula."""
    across, along = tip[0], tip[1] + 0.23
    elbow = -np.arccos((across**2 + along**2 - 0.4**2 - 0.35**2) / (2 * 0.4 * 0.35))
    shoulder = np.arctan2(along, across) - np.arctan2(0.35 * np.sin(elbow), 0.4 + 0.35 * np.cos(elbow))
    return np.array([shoulder, elbow, -np.pi / 2 - shoulder - elbow])


def scripted(t: int, x: np.ndarray) -> np.ndarray:
    """PD control of the joints: first to before the mouth, then into the slot."""
    goal = inverse((0.5, np.interp(t, [55, 85], [0.03, -0.1])))
    torque = np.array([40, 25, 6]) * (goal - x[:3]) - np.array([8, 5, 1]) * x[3:6]
    return np.clip(torque / np.array([2, 1.5, 0.5]), -1, 1)


def pulled(stiffness: float, x: np.ndarray) -> np.ndarray:
    """Springs from both points of the peg straight to their targets, damped: downhill on the distance."""
    angle = np.cumsum(x[:3])
    torque = -np.array([1.0, 0.7, 0.2]) * np.sqrt(stiffness / 10) * x[3:6]
    for reach, off in ((0.23, complex(*x[6:8])), (0.13, complex(*x[8:10]))):
        links = np.array([0.4, 0.35, reach]) * np.exp(1j * angle)
        lever = 1j * np.cumsum(links[::-1])[::-1]
        torque += (lever.conj() * -stiffness * off).real
    return np.clip(torque / np.array([2, 1.5, 0.5]), -1, 1)


def test_gymnasium_and_our_own_checks_are_content(env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # It finds infinite limits of observations unusual, as in all of MuJoCo's tasks.
        check_env(env.unwrapped, skip_render_check=True)
    assert check_environment(PEG_INSERTION, steps=300).ok
    check_world(task(PEG_INSERTION).world)


def test_it_can_be_done_within_the_time(env) -> None:
    returns = []
    for seed in range(8):
        total, q, infos = episode(env, scripted, seed)
        assert inserted(q)
        assert infos[-1]["inserted"]
        assert q.length == 100
        assert MISSES[PEG_INSERTION](q) == pytest.approx(infos[-1]["tip_distance"])
        # In the slot: behind the mouth by 0.07 m and between the walls.
        assert q.y[-1, 7] + -0.08 <= -0.07
        assert abs(q.y[-1, 6]) <= 0.01
        returns.append(total)
    assert min(returns) > -12


def test_it_is_not_done_by_doing_nothing_or_at_random(env) -> None:
    total, q, _ = episode(env, lambda t, x: np.zeros(3), 0)
    assert total < -20
    assert not inserted(q)
    assert np.array_equal(q.x[0], q.y[-1])  # at rest, and without gravity
    rng = np.random.default_rng(0)
    for seed in range(20):
        assert not inserted(episode(env, lambda t, x: rng.uniform(-1, 1, 3), seed)[1])
    for stiffness in (20.0, 100.0):
        assert not any(inserted(episode(env, lambda t, x: pulled(stiffness, x), seed)[1]) for seed in range(4))  # noqa: B023


def test_observation_and_its_geometry(env) -> None:
    """Points from angles by hand, and the velocity is the derivative of the angle."""
    env.reset(seed=5)
    rng = np.random.default_rng(1)
    for _ in range(30):
        y, *_ = env.step(rng.uniform(-1, 1, 3).astype(np.float32))
        angle = np.cumsum(y[:3])
        wrist = 0.4 * np.exp(1j * angle[0]) + 0.35 * np.exp(1j * angle[1])
        for reach, goal, at in ((0.23, 0.5 - 0.08j, slice(6, 8)), (0.13, 0.5 + 0.02j, slice(8, 10))):
            off = wrist + reach * np.exp(1j * angle[2]) - goal
            assert np.allclose(y[at], [off.real, off.imag], atol=1e-12)
    assert y.dtype == np.float64
    assert np.array_equal(y[:6], np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]))


def test_conditions_fix_the_start_bit_for_bit() -> None:
    world = task(PEG_INSERTION).world
    starts = [np.asarray(world.reset(jr.key(i), i % 4).x) for i in range(12)]
    other = world.fresh()
    for seed in range(4):
        assert np.array_equal(starts[seed], starts[seed + 4])
        assert np.array_equal(starts[seed], starts[seed + 8])
        assert np.array_equal(starts[seed], other.reset(KEY, seed).x)
        assert np.all(np.abs(starts[seed][:3] - [1.55, -1.65, -1.45]) <= 0.1)
        assert np.all(starts[seed][3:6] == 0)
    assert len({tuple(x) for x in starts}) == 4


def test_a_start_can_be_given(env) -> None:
    x, _ = env.reset(seed=2, options={"start": [1.5, -1.6, -1.5]})
    assert np.array_equal(x[:6], [1.5, -1.6, -1.5, 0, 0, 0])
    first, _ = env.reset(seed=2)
    assert not np.array_equal(first[:3], x[:3])
    for wrong in ([1.5, -1.6], [9.0, 0.0, 0.0], [np.nan, 0.0, 0.0]):
        with pytest.raises(ValueError, match="three joint angles"):
            env.reset(options={"start": wrong})


def test_saturated_torques_stay_finite_within_limits_and_walls(env) -> None:
    """10,000 steps; angles never come near a turn, and nothing is pressed into the block by 4 mm."""
    inner, rng = env.unwrapped, np.random.default_rng(0)
    inner.reset(seed=0)
    deepest, seen = 0.0, []
    for t in range(10_000):
        if t % 5 == 0:
            u = rng.choice([-1.0, 1.0], 3).astype(np.float32)
        y, reward, *_ = inner.step(u)
        assert np.isfinite(y).all()
        assert np.isfinite(reward)
        seen.append(y)
        deepest = min(deepest, inner.data.contact.dist.min(initial=0.0))
    assert np.abs(np.array(seen)[:, :3]).max() < 3.0
    assert np.abs(np.array(seen)[:, 3:6]).max() < 30.0
    assert -0.004 < deepest < 0


def test_peg_and_slot_have_the_stated_measures(env) -> None:
    model = env.unwrapped.model
    at = lambda name: model.geom(name).pos[0]
    half = lambda name: model.geom(name).size[0]
    width = (at("right") - half("right")) - (at("left") + half("left"))
    assert width == pytest.approx(0.024)
    assert (width - 2 * half("peg")) / 2 == pytest.approx(0.002)
    assert env.unwrapped.dt == pytest.approx(0.05)
    assert np.array_equal(model.actuator_gear[:, 0], [2, 1.5, 0.5])
    assert env.spec.max_episode_steps == 100


def test_found_without_an_import_and_judged_as_registered() -> None:
    code = "import forethought; it = forethought.task('forethought/PegInsertion-v0'); print(it.limit, it.success)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("100 <function inserted"), done.stderr
    idle = "import sys, forethought; sys.exit('gymnasium' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", idle], timeout=120, check=False).returncode == 0
    assert task(PEG_INSERTION).success is inserted
    assert task(PEG_INSERTION, limit=50).success is None
    assert task(PEG_INSERTION, {"log_weight": 0.1}).success is None
    assert task(PEG_INSERTION, action_repeat=2).success is None


def test_worker_processes_have_it() -> None:
    """The same episode as in this process."""
    from forethought.worlds.remote import RemoteEnv

    source = Source(PEG_INSERTION, {}, None, 1, 1)
    here, there = source.make(), RemoteEnv(source, 60.0)
    try:
        assert np.array_equal(here.reset(seed=3)[0], there.reset(seed=3)[0])
        for _ in range(3):
            u = np.array([0.5, -0.5, 1.0], np.float32)
            assert np.array_equal(here.step(u)[0], there.step(u)[0])
    finally:
        there.close()
        here.close()


def test_without_mujoco_there_is_a_sentence() -> None:
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "import forethought\n"
        "try:\n"
        "    forethought.task('forethought/PegInsertion-v0')\n"
        "except forethought.UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "MuJoCo" in done.stdout, done.stdout + done.stderr
    assert 'pip install "gymnasium[mujoco]"' in done.stdout
