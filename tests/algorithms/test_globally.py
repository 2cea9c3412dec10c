from __future__ import annotations

import dataclasses
import threading

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.globally import V05, V10, V15
from forethought.algorithms.turn import share, together
from forethought.core import AbstractPolicy, AbstractWitness
from forethought.math.act import act, start
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.planners.icem import ICEM
from forethought.tasks import task
from forethought.worlds.recorder import Recorder, joined

SMALL = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1, kept=2)
LEARNER = EnsembleLearner(members=2, width=8, depth=1, gradient_steps=10)
ALL = [
    pytest.param(V05(planner=SMALL, learner=LEARNER, base_steps=30), id="v0.5"),
    pytest.param(V10(planner=SMALL, learner=LEARNER, base_steps=30), id="v1.0"),
    pytest.param(V15(planner=SMALL, learner=LEARNER, base_steps=30, refit_every=20, horizon=4), id="v1.5"),
]


@pytest.fixture(scope="module")
def pendulum():
    """Pendulum-v1 itself, with episodes of 50 steps."""
    return task("Pendulum-v1", limit=50)


def turns(algorithm, target, count, budget=10_000, seed=0):
    """(state, what the world was seen to do, metrics) of each turn."""
    seen = Seen()
    target = dataclasses.replace(target, world=target.world.watched(seen))
    state, out = algorithm.init(target, jr.key(seed)), []
    for _ in range(count):
        state, metrics = algorithm.step(target, state, budget)
        out.append((state, seen.taken(), metrics))
    return out


class Seen(AbstractWitness):
    """Every transition, in order, whether a dataset has it or not."""

    def __init__(self):
        self.pieces = []
        self.record = None

    def began(self, x, condition):
        self.record = Recorder(x, 1, 0, condition)
        self.pieces.append(self.record)

    def happened(self, u, y, reward, terminated, truncated):
        self.record.add(u, y, reward, terminated, truncated)

    def taken(self):
        """The transitions since the last call, with their steps of the episode."""
        found = joined([piece.trajectory() for piece in self.pieces])
        self.record = Recorder(self.record.y[-1] if self.record.y else self.record.x, 1, self._next(), 0)
        self.pieces = [self.record]
        return found

    def _next(self):
        return self.record.t + len(self.record.reward)


def shapes(state):
    """Structure, shapes and dtypes of what must not change (the open episodes come and go)."""
    fixed = eqx.tree_at(lambda s: s.open, state, None, is_leaf=lambda v: v is None)
    return jax.tree.structure(fixed), [(v.shape, v.dtype) for v in jax.tree.leaves(eqx.filter(fixed, eqx.is_array))]


@pytest.mark.parametrize("algorithm", ALL)
def test_steps_add_up_and_the_state_keeps_its_tree(algorithm, pendulum) -> None:
    before = shapes(algorithm.init(pendulum, jr.key(0)))
    total = 0
    for state, trajectory, metrics in turns(algorithm, pendulum, 6):
        total += trajectory.length
        assert int(state.steps) == total
        assert metrics["steps"] == trajectory.length
        assert shapes(state) == before


@pytest.mark.parametrize("algorithm", ALL)
def test_a_turn_never_exceeds_its_limit_nor_the_episode(algorithm, pendulum) -> None:
    seen = Seen()
    watched = dataclasses.replace(pendulum, world=pendulum.world.watched(seen))
    state = algorithm.init(watched, jr.key(1))
    for limit in (7, 1, 100, 100, 3, 100):
        before = state
        state, metrics = algorithm.step(watched, state, limit)
        trajectory = seen.taken()
        assert 1 <= trajectory.length == metrics["steps"] <= limit
        assert np.all(np.diff(trajectory.t) == 1), "a turn lies within one episode"
        if before.open is not None:
            (lane,) = before.open
            assert trajectory.t[0] == int(lane.at.t), "an open episode is continued where it stands"
            assert np.array_equal(trajectory.x[0], lane.at.x)
        else:
            assert trajectory.t[0] == 0
        assert (state.open is None) == bool(trajectory.truncated[-1])


def test_the_return_so_far_is_that_of_the_open_episode(pendulum) -> None:
    algorithm = V15(planner=SMALL, learner=LEARNER, base_steps=10, refit_every=20, horizon=4)
    (first, early, _), (second, late, _), (third, _, _) = turns(algorithm, pendulum, 3)
    assert first.open[0].so_far == pytest.approx(early.reward.sum(), rel=1e-12)
    assert second.open[0].so_far == pytest.approx(early.reward.sum() + late.reward.sum(), rel=1e-12)
    assert third.open is None


def test_v05_fits_once_and_learns_nothing_from_what_it_executes(pendulum) -> None:
    history = turns(V05(planner=SMALL, learner=LEARNER, base_steps=50), pendulum, 4)
    assert [int(state.data.count) for state, _, _ in history] == [50, 50, 50, 50]
    assert [int(state.fits) for state, _, _ in history] == [0, 1, 1, 1]
    assert [metrics["planned"] for _, _, metrics in history] == [False, True, True, True]
    assert int(history[-1][0].steps) == 200


def test_v10_appends_every_episode_and_refits_between_them(pendulum) -> None:
    history = turns(V10(planner=SMALL, learner=LEARNER, base_steps=50), pendulum, 4)
    assert [int(state.data.count) for state, _, _ in history] == [50, 100, 150, 200]
    assert [int(state.fits) for state, _, _ in history] == [0, 1, 2, 3]
    assert all(state.open is None for state, _, _ in history)


def test_v15_refits_inside_the_episode_and_keeps_its_warm_plan(pendulum) -> None:
    history = turns(V15(planner=SMALL, learner=LEARNER, base_steps=10, refit_every=20, horizon=4), pendulum, 4)
    assert [(int(s.steps), int(s.fits), int(s.episodes)) for s, _, _ in history] == [
        (10, 0, 0),
        (30, 1, 0),
        (50, 2, 1),
        (70, 3, 1),
    ]
    assert history[0][0].open[0].carry is None, "the base policy leaves no warm plan"
    assert history[1][0].open[0].carry is not None
    assert history[2][0].open is None, "no plan outlives its episode"


def test_v15_executes_what_mpc_would_do(pendulum) -> None:
    """The recorded actions are those of the policy, step by step, from the recorded states."""
    algorithm = V15(planner=SMALL, learner=LEARNER, base_steps=10, refit_every=20, horizon=4)
    (state, _, _), (after, trajectory, _) = turns(algorithm, pendulum, 2)
    key, k_fit = jr.split(state.key)
    fitted, _ = algorithm.learner.fit(state.fitted, state.data, k_fit)
    policy = algorithm.policy(pendulum, eqx.tree_at(lambda s: s.fitted, state, fitted))
    _, _, k_start, _ = jr.split(key, 4)
    carry = start(policy, trajectory.x[0], k_start)
    for x, t, u in zip(trajectory.x, trajectory.t, trajectory.u, strict=True):
        planned, carry = act(policy, carry, x, t)
        np.testing.assert_allclose(planned, u, rtol=1e-6)
    np.testing.assert_array_equal(carry.warm.mean, after.open[0].carry.warm.mean)


@pytest.mark.parametrize("algorithm", ALL)
def test_limit_zero_learns_and_takes_no_step(algorithm, pendulum) -> None:
    state = turns(algorithm, pendulum, 1)[-1][0]
    held, metrics = algorithm.step(pendulum, state, 0)
    assert "steps" not in metrics
    assert int(held.steps) == int(state.steps)
    assert int(held.data.count) == int(state.data.count)
    assert int(held.fits) == int(state.fits) + 1
    changed = jax.tree.map(np.array_equal, held.fitted.model, state.fitted.model)
    assert not all(jax.tree.leaves(changed))


@pytest.mark.parametrize("algorithm", ALL)
def test_the_same_seed_gives_the_same_run(algorithm, pendulum) -> None:
    first, second, other = (turns(algorithm, pendulum, 3, seed=s)[-1][0] for s in (5, 5, 6))
    np.testing.assert_array_equal(first.data.x, second.data.x)
    np.testing.assert_array_equal(jr.key_data(first.key), jr.key_data(second.key))
    assert not np.array_equal(first.data.x, other.data.x)


def test_a_users_base_policy_collects_the_first_data(pendulum) -> None:
    class Push(AbstractPolicy[None]):
        """Full torque, always."""

        def init(self, x, key):
            return None

        def act(self, carry, x, t):
            return np.full(1, 1.5, np.float32), None

    algorithm = V15(planner=SMALL, learner=LEARNER, base=Push(), base_steps=12, horizon=4)
    _, trajectory, metrics = turns(algorithm, pendulum, 1)[0]
    np.testing.assert_array_equal(trajectory.u, 1.5)
    assert metrics["planned"] is False


# The first one fits a single time.
@pytest.mark.parametrize("algorithm", [pytest.param(*ALL[0].values, id="v0.5", marks=pytest.mark.slow), *ALL[1:]])
def test_nothing_compiles_after_the_first_planned_turns(algorithm, pendulum) -> None:
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    # A planner and a learner that no other test has compiled.
    unique = {"V05": 17, "V10": 19, "V15": 23}[type(algorithm).__name__]
    algorithm = eqx.tree_at(lambda a: (a.planner.samples, a.learner.gradient_steps), algorithm, (unique, unique))
    state = algorithm.init(pendulum, jr.key(3))
    counts = []
    for _ in range(9):
        state, _ = algorithm.step(pendulum, state, 20)
        counts.append(len(compiled))
    assert int(state.episodes) >= 2, "a change of episode is part of what must not compile"
    assert counts[5] >= 2, "the listener hears neither the fit nor the plan"
    # Turns 1 and 2 are the base policy's; 3 compiles fit and plan; 4 and 5 end an episode and begin the next.
    assert counts[5:] == [counts[5]] * 4


def test_one_compilation_of_the_fit_per_size_bucket() -> None:
    from fakes import as_dataset, as_trajectory
    from forethought.models.ensemble import _fit
    from forethought.types import Spec

    spec, learner = Spec(1, 1), EnsembleLearner(members=2, width=5, depth=1, gradient_steps=2)
    fitted = learner.init(spec, jr.key(0))
    before = _fit._cached._cache_size()
    for count in (10, 500, 513, 900, 1024, 1025):
        x = np.arange(count, dtype=float)[:, None]
        fitted, _ = learner.fit(fitted, as_dataset(spec, as_trajectory(x, x, x)), jr.key(0))
    assert _fit._cached._cache_size() - before == 3  # 512, 1024, 2048


@pytest.mark.parametrize(
    ("steps", "open_", "parts"),
    [
        (6, [True, True, True], [2, 2, 2]),
        (7, [True, True, True], [3, 2, 2]),
        (8, [True, False, True], [4, 0, 4]),
        (1, [False, True, True], [0, 1, 0]),
        (5, [False, False], [0, 0]),
        (0, [True], [0]),
    ],
)
def test_steps_are_shared_out_among_the_open_episodes(steps, open_, parts) -> None:
    assert share(steps, open_) == parts


@pytest.fixture(scope="module")
def three():
    """Three copies of a world, with episodes of ten steps."""
    one = task("pendulum", limit=10)
    return dataclasses.replace(one, beside=(one.world.fresh(), one.world.fresh()))


def test_several_worlds_begin_and_end_their_episodes_together(three) -> None:
    algorithm = V15(planner=SMALL, learner=LEARNER, base_steps=12, refit_every=12, horizon=4)
    state, seen = algorithm.init(three, jr.key(0)), []
    for _ in range(5):
        state, metrics = algorithm.step(three, state, 1000)
        standing = None if state.open is None else [int(lane.at.t) for lane in state.open]
        seen.append((metrics["steps"], int(state.episodes), standing))
    assert seen == [(12, 0, [4, 4, 4]), (12, 0, [8, 8, 8]), (6, 3, None), (12, 3, [4, 4, 4]), (12, 3, [8, 8, 8])]
    data = state.data
    assert np.asarray(data.episode)[:30].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4 + [
        *(0, 0, 1, 1, 2, 2)
    ], "in the order of the worlds, turn by turn"
    conditions = {int(e): set(np.asarray(data.condition)[:54][np.asarray(data.episode)[:54] == e]) for e in range(6)}
    assert all(len(found) == 1 for found in conditions.values())
    assert len(set.union(*conditions.values())) == 6, "no two episodes begin alike"


def test_the_first_of_several_worlds_does_what_one_world_alone_would(three) -> None:
    """So that a second worker adds data and changes none."""
    algorithm = V15(planner=SMALL, learner=LEARNER, base_steps=30, horizon=4)
    many, _ = algorithm.step(three, algorithm.init(three, jr.key(2)), 30)
    one, _ = algorithm.step(dataclasses.replace(three, beside=()), algorithm.init(three, jr.key(2)), 10)
    for column in ("x", "u", "y", "reward", "condition"):
        np.testing.assert_array_equal(getattr(many.data, column)[:10], getattr(one.data, column)[:10])


def test_all_worlds_are_waited_for_before_an_error_goes_on(three) -> None:
    """The first error in the order of the worlds, whichever came first."""
    done, second, first = [], threading.Event(), threading.Event()

    def one(lane):
        if lane == 0:
            second.wait(10)
            first.set()
            raise ValueError("the first world")
        if lane == 1:
            second.set()
            raise OSError("the second world")
        first.wait(10)
        done.append(lane)

    with pytest.raises(ValueError, match="the first world"):
        together(one, three.worlds)
    assert done == [2]
