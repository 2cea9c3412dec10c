"""The loop around the actor-critic: when it learns, from what, and that nothing changes shape on the way."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.dyna import Dyna
from forethought.algorithms.soft_actor_critic import SoftActorCritic
from forethought.models.ensemble import EnsembleLearner
from forethought.tasks import task
from forethought.types import UserError

SMALL = Dyna(
    learner=EnsembleLearner(members=2, width=8, depth=1, gradient_steps=5, batch=8),
    agent=SoftActorCritic(width=8, depth=1, batch=8, actor_every=2),
    base_steps=12,
    every=10,
    updates=2,
    refit_every=20,
    rollouts=2,
    horizon=2,
    beliefs=2,
    places=100,
)


@pytest.fixture(scope="module")
def target():
    return task("pendulum", limit=30)


def kinds(state):
    """Shape, dtype and weakness of every leaf but the open episodes'."""
    kind = lambda leaf: (np.shape(leaf), leaf.dtype, getattr(leaf, "weak_type", False))
    closed = dataclasses.replace(state, open=None)
    return jax.tree.structure(closed), [kind(leaf) for leaf in jax.tree.leaves(closed) if eqx.is_array(leaf)]


@pytest.fixture(scope="module")
def walked(target):
    """Eleven turns: the states after each, what they told, and what had been compiled by then."""
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    states, told, counts = [SMALL.init(target, jr.key(0))], [], [0]
    for _ in range(11):
        state, metrics = SMALL.step(target, states[-1], 10**6)
        states.append(state)
        told.append(metrics)
        counts.append(len(compiled))
    return states, told, counts


def test_it_learns_once_every_so_many_steps_and_refits_now_and_then(walked):
    states, told, _ = walked
    counts = [int(s.data.count) for s in states]
    # Episodes of 30 steps end between two turns of learning, which stay where they are.
    assert counts[:6] == [0, 12, 22, 30, 32, 42]
    learned = [int(s.fitted.learned) for s in states]
    assert learned[:6] == [0, 0, 12, 22, 22, 32]
    assert [int(s.fitted.agent.updates) for s in states[:6]] == [0, 0, 20, 40, 40, 60]
    refitted = [int(s.fitted.refitted) for s in states]
    assert refitted[:6] == [0, 0, 12, 12, 12, 32]
    assert int(states[-1].fits) == len({r for r in refitted if r})
    assert told[1]["imagined"] == 2 * 10 * 2
    assert "agent_critic_loss" not in told[3]


def test_nothing_changes_shape(walked):
    states, _, _ = walked
    first = kinds(states[0])
    for state in states[1:]:
        assert kinds(state) == first


def test_every_program_is_compiled_once(walked):
    """The fit, the imagining and the update by the first turn of learning, the rest when an episode has ended."""
    counts = walked[2]
    assert counts[5] == counts[-1]
    assert counts[1] < counts[2]


def test_the_ring_turns_and_its_rows_are_of_the_task(walked, target):
    ring = walked[0][-1].fitted.imagined
    assert ring.size == 100
    assert int(ring.filled) == 100
    rows = ring.rows
    assert np.all(np.abs(rows.z) <= 1.0)
    box = target.world.actions
    i = 3
    u = box.decode(rows.z[i])
    np.testing.assert_allclose(rows.cost[i], target.cost.stage(rows.x[i], u, rows.y[i], jnp.int32(0)), rtol=1e-5)


def test_without_a_model_nothing_is_fitted_or_imagined(target):
    plain = dataclasses.replace(SMALL, real_ratio=1.0)
    state = plain.init(target, jr.key(0))
    for _ in range(3):
        state, told = plain.step(target, state, 10**6)
    assert int(state.fits) == 0
    assert int(state.fitted.imagined.filled) == 0
    assert int(state.fitted.agent.updates) == 40
    assert "imagined" not in told


def test_with_no_steps_left_it_only_learns(target, walked):
    state = walked[0][2]
    after, _ = SMALL.step(target, state, 0)
    assert int(after.steps) == int(state.steps)
    assert int(after.fitted.learned) == int(after.data.count)


def test_rows_that_are_not_credible_are_not_learned_from(target, walked):
    state = walked[0][2]
    x = np.array(state.data.x)
    x[3] = np.nan
    spoiled = dataclasses.replace(state, data=dataclasses.replace(state.data, x=x))
    after, told = SMALL.step(target, spoiled, 0)
    assert told["agent_refused"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.fitted.agent))


def test_what_cannot_be_is_refused_in_a_sentence(target):
    with pytest.raises(UserError, match="discrete actions"):
        SMALL.init(task("CartPole-v1"), jr.key(0))
    odd = dataclasses.replace(SMALL, every=5, updates=1)
    with pytest.raises(UserError, match=r"every is 5 and updates 1; .* multiple of agent.actor_every, which is 2"):
        odd.init(target, jr.key(0))


def test_evaluation_is_without_noise(target, walked):
    state = walked[0][-1]
    policy = SMALL.policy(target, state)
    x = np.full(target.spec.n, 0.5, np.float32)
    one, two = (policy.act(jr.key(k), jnp.asarray(x), jnp.int32(0))[0] for k in (1, 2))
    np.testing.assert_array_equal(one, two)
