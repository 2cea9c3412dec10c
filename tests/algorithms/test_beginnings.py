"""Where imagined rollouts of v2.0 begin."""

from __future__ import annotations

import dataclasses

import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms import globally
from forethought.algorithms.beginnings import (
    ASKED,
    NEAR,
    POOL,
    asked,
    share_visited,
    start_pool,
    where_episodes_were,
)
from forethought.algorithms.globally import V20
from forethought.models.linear import LinearLearner
from forethought.tasks import task


def test_starts_are_those_of_the_data() -> None:
    target = task("double-integrator", limit=7)
    algorithm = V20(LinearLearner(), base_steps=14)
    state = algorithm.init(target, jr.key(0))
    for _ in range(2):
        state, _ = algorithm.step(target, state, 100)
    began, states = where_episodes_were(state.data)
    assert began.shape == (2, 2)
    assert states.shape == (14, 2)
    scale = np.array([0.5, 2.0], np.float32)
    pool = np.asarray(start_pool(began, states, 0.25, scale, jr.key(1)))
    first, other = np.split(pool, [POOL * 3 // 4])
    assert pool.shape == (POOL, 2)
    off = np.min(np.abs(first[:, None] - np.asarray(began, np.float32)[None]).max(axis=2), axis=1)
    assert 0.0 < off.max() < 5.0 * NEAR * 2.0
    nearest = np.argmin(np.abs(first[:, None] - np.asarray(began, np.float32)[None]).sum(axis=2), axis=1)
    spread = np.std(first - np.asarray(began, np.float32)[nearest], axis=0) / scale
    np.testing.assert_allclose(spread, NEAR, rtol=0.3)
    assert np.isin(other[:, 0], np.asarray(states[:, 0], np.float32)).all()


def test_rollouts_begin_where_episodes_do() -> None:
    """Anywhere in the data only if episodes begin anywhere."""
    scale, states = np.array([0.5, 2.0]), np.random.default_rng(0).normal(size=(400, 2)) * [0.5, 2.0]
    assert share_visited(states[:1], scale, 0.6) == 0.0
    assert share_visited(states, scale, 0.6) == pytest.approx(0.6, rel=0.1)
    assert share_visited(100.0 * states, scale, 0.6) == 0.6
    assert share_visited(0.1 * states, scale, 0.6) == pytest.approx(0.06, rel=0.1)


@pytest.mark.parametrize("name", ["double-integrator", "Pendulum-v1"])
def test_resets_tell_where_episodes_begin(name) -> None:
    """By as many resets, without a step, and without disturbing the open episode."""
    world = task(name).world
    at = world.reset(jr.key(5))
    found = asked(world, jr.key(0))
    assert found.shape == (ASKED, world.spec.n)
    real = np.stack([np.asarray(world.fresh().reset(jr.key(100 + i)).x) for i in range(40)])
    np.testing.assert_allclose(np.std(found, axis=0), np.std(real, axis=0), rtol=0.5)
    assert len(np.unique(found[:, 0])) == ASKED, "no two are alike"
    assert np.array_equal(found, asked(world, jr.key(0)))
    assert not np.array_equal(found, asked(world, jr.key(1)))
    assert np.all(np.isfinite(at.x))


@pytest.mark.parametrize(
    ("beginnings", "replayable", "asks"),
    [("auto", True, True), ("auto", False, False), ("asked", False, True), ("seen", True, False)],
)
def test_a_machine_is_not_reset_for_a_question(monkeypatch, beginnings, replayable, asks) -> None:
    """Unless the user says that it may be."""
    target = task("double-integrator", limit=7)
    target = dataclasses.replace(target, world=dataclasses.replace(target.world, replayable=replayable))
    calls, pools = [], []
    monkeypatch.setattr(globally, "asked", lambda *args: calls.append(args) or np.full((3, 2), 9.0))
    real = globally.start_pool
    monkeypatch.setattr(globally, "start_pool", lambda began, *args: pools.append(began) or real(began, *args))
    how = dataclasses.replace(V20().improve, gradient_steps=25, particles=2)
    algorithm = V20(LinearLearner(), base_steps=14, beginnings=beginnings, planner=None, improve=how, width=4)
    state = algorithm.init(target, jr.key(0))
    for _ in range(2):
        state, _ = algorithm.step(target, state, 100)
    algorithm.step(target, state, 0)
    assert len(calls) == asks
    assert len(pools[0]) == 2 + 3 * asks
