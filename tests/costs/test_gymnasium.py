"""Known rewards against the environments themselves, on 1,000 random transitions each."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.costs.known import KNOWN, known_cost
from forethought.worlds import registered as registered  # makes our own ids known

COUNT = 1000

# Worst and root mean square error of the reward.  1e-4 where (x, u, y) determine it; the others are stated in the
# docstrings of their classes, with the reason.
BOUNDS: dict[str, tuple[float, float]] = dict.fromkeys(KNOWN, (1e-4, 1e-4)) | {
    "InvertedDoublePendulum-v5": (2e-4, 1e-4),
    "Swimmer-v5": (0.3, 0.03),
    "HalfCheetah-v5": (0.7, 0.125),
    "Hopper-v5": (0.05, 0.005),
    "Walker2d-v5": (0.15, 0.016),
}


def transitions(id: str, seed: int = 0, **kwargs: Any) -> dict[str, np.ndarray]:
    """Random actions, as seen from outside: x, u (one-hot if discrete), y, r, terminated."""
    env = gymnasium.make(id, disable_env_checker=True, **kwargs)
    env.action_space.seed(seed)
    rows: dict[str, list] = {name: [] for name in ("x", "u", "y", "r", "end")}
    x, _ = env.reset(seed=seed)
    while len(rows["r"]) < COUNT:
        action = env.action_space.sample()
        y, r, end, clock, _ = env.step(action)
        discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
        u = np.eye(env.action_space.n)[action] if discrete else action
        for name, value in zip(rows, (x, u, y, r, end), strict=True):
            rows[name].append(np.array(value))
        x = y
        if end or clock:
            x, _ = env.reset()
    return {name: np.stack(values) for name, values in rows.items()}


@functools.cache
def plain(id: str) -> dict[str, np.ndarray]:
    return transitions(id)


def evaluate(cost, rows, extra: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Costs and alive flags in float32, with `extra` outputs of the model after y that must not be read."""
    x, u, y = (jnp.asarray(rows[name], jnp.float32) for name in "xuy")
    y = jnp.concatenate([y, jnp.full((len(y), extra), jnp.nan, jnp.float32)], axis=1)
    t = jnp.zeros((), jnp.int32)
    costs = jax.jit(jax.vmap(lambda x, u, y: cost.stage(x, u, y, t)))(x, u, y)
    assert costs.dtype == jnp.float32
    return np.asarray(costs), np.asarray(jax.vmap(cost.alive)(y))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("id", KNOWN)
def test_reward_and_end_are_the_environments(id: str, seed: int) -> None:
    rows = plain(id) if seed == 0 else transitions(id, seed)
    cost = known_cost(id)
    costs, alive = evaluate(cost, rows, extra=2)
    error = -costs.astype(np.float64) - rows["r"]
    if id == "InvertedDoublePendulum-v5":
        clipped = np.abs(rows["y"][:, 6:8]).max(axis=1) >= 10.0
        assert clipped.sum() < 5
        assert np.all(error[clipped] <= 0.1)
        assert np.all(error[clipped] >= -2e-4)
        error = error[~clipped]
    worst, typical = BOUNDS[id]
    assert np.abs(error).max() <= worst
    assert np.sqrt(np.mean(error**2)) <= typical
    assert np.array_equal(~alive, rows["end"])
    assert rows["r"].std() > 0 or id in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
    assert cost.terminal(jnp.ones(rows["x"].shape[1], jnp.float32)) == 0


@pytest.mark.parametrize("id", ["CartPole-v1", "InvertedPendulum-v5", "Hopper-v5", "Walker2d-v5"])
def test_the_sample_has_both_kinds_of_states(id: str) -> None:
    """Otherwise the agreement about ends would say nothing."""
    assert 10 < plain(id)["end"].sum() < COUNT - 10


@pytest.mark.parametrize("id", ["Swimmer-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_with_positions_the_forward_reward_is_exact(id: str) -> None:
    kwargs = {"exclude_current_positions_from_observation": False}
    rows = transitions(id, **kwargs)
    costs, alive = evaluate(known_cost(id, kwargs), rows)
    # A position p in float32 is known to 6e-8 |p|, and is divided by dt twice over.
    assert np.abs(-costs - rows["r"]).max() <= 2e-3
    assert np.sqrt(np.mean((-costs - rows["r"]) ** 2)) <= 1e-4
    assert np.array_equal(~alive, rows["end"])


@pytest.mark.parametrize(
    ("id", "kwargs"),
    [
        ("Reacher-v5", {"reward_dist_weight": 3.0, "reward_control_weight": 0.2, "frame_skip": 3}),
        ("Pusher-v5", {"reward_near_weight": 2.0, "reward_dist_weight": 3.0, "reward_control_weight": 0.5}),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.01}),
        ("Pendulum-v1", {"g": 3.0}),
    ],
)
def test_arguments_reach_the_cost(id: str, kwargs: dict[str, Any]) -> None:
    rows = transitions(id, **kwargs)
    costs, alive = evaluate(known_cost(id, kwargs), rows)
    assert np.abs(-costs - rows["r"]).max() <= BOUNDS[id][0]
    assert np.array_equal(~alive, rows["end"])


def test_arguments_reach_the_walkers() -> None:
    kwargs = {
        "forward_reward_weight": 0.5,
        "ctrl_cost_weight": 0.2,
        "healthy_reward": 2.0,
        "terminate_when_unhealthy": False,
        "healthy_z_range": [0.5, 1.26],
        "healthy_angle_range": [-0.1, 0.1],
        "frame_skip": 2,
        "exclude_current_positions_from_observation": False,
    }
    for id in ("Hopper-v5", "Walker2d-v5"):
        rows = transitions(id, **kwargs)
        costs, alive = evaluate(known_cost(id, kwargs), rows)
        error = np.abs(-costs - rows["r"])
        assert np.quantile(error, 0.99) <= 2e-3
        assert np.all(alive)


def test_acrobot_and_mountain_car_end_at_their_goals() -> None:
    """Random actions do not get there: put the environments next to their goals."""
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True).unwrapped
    cost = known_cost("Acrobot-v1")
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(200):
        env.reset(seed=0)
        env.state = rng.uniform([-np.pi, -np.pi, -3, -3], [np.pi, np.pi, 3, 3]).astype(np.float32)
        x = env._get_ob()
        y, r, end, _, _ = env.step(1)
        x, y, u = (jnp.asarray(v, jnp.float32) for v in (x, y, np.eye(3)[1]))
        assert float(cost.stage(x, u, y, jnp.zeros((), jnp.int32))) == -r
        assert bool(cost.alive(y)) == (not end)
        ends += end
    assert 20 < ends < 180
    for id in ("MountainCarContinuous-v0", "MountainCar-v0"):
        car = gymnasium.make(id, disable_env_checker=True).unwrapped
        cost = known_cost(id)
        ends = 0
        for _ in range(200):
            car.reset(seed=0)
            car.state = rng.uniform([0.35, -0.07], [0.6, 0.07]).astype(np.float32)
            x, u = car.state, rng.uniform(-1, 1, 1) if "Continuous" in id else np.int64(2)
            y, r, end, _, _ = car.step(u)
            x, y, u = (jnp.asarray(v, jnp.float32) for v in (x, y, np.atleast_1d(u)))
            assert float(cost.stage(x, u, y, jnp.zeros((), jnp.int32))) == pytest.approx(-r, abs=1e-4)
            assert bool(cost.alive(y)) == (not end)
            ends += end
        assert 20 < ends < 180


@pytest.mark.parametrize("id", KNOWN)
def test_a_prediction_that_is_not_finite_costs_nan_or_more(id: str) -> None:
    """A constant reward must not hide a broken model."""
    rows = plain(id)
    cost, t = known_cost(id), jnp.zeros((), jnp.int32)
    x, u = (jnp.asarray(rows[name][0], jnp.float32) for name in "xu")
    y = jnp.full(x.shape, jnp.nan, jnp.float32)
    x = y if id == "Pendulum-v1" else x  # its reward is that of x
    assert not np.isfinite(float(cost.stage(x, u, y, t)))


def test_known_cost_knows_its_limits() -> None:
    assert known_cost("Ant-v5") is None
    assert known_cost("somewhere:Pendulum-v1") is None
    assert known_cost("Reacher-v5", {"xml_file": "other.xml"}) is None
    assert known_cost("Pendulum-v1", {"wind": 1.0}) is None
    assert known_cost("Hopper-v5", {"reset_noise_scale": 0.1, "render_mode": "rgb_array"}) is not None
    assert known_cost("Hopper-v5", {"extras": 2}) is None
    hash(known_cost("Hopper-v5", {"healthy_z_range": [0.5, 1.0]}))


def test_reacher_has_a_gradient_at_the_goal() -> None:
    cost = known_cost("Reacher-v5")
    gradient = jax.grad(lambda y: cost.stage(y, jnp.zeros(2, jnp.float32), y, jnp.zeros((), jnp.int32)))
    assert np.all(np.isfinite(gradient(jnp.zeros(10, jnp.float32))))
