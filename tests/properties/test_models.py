"""Laws of models, imagined rollouts and the guard: batch = loop, nothing is charged after the end, spaces are kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fakes import Linear
from forethought import Box, EnsembleLearner, Guard, Imagination, Problem, TransitionError
from forethought.core import AbstractCost
from forethought.math.rollout import imagine, predict_ahead
from forethought.types import Spec
from forethought.worlds.guard import Checker

CHECKED = settings(max_examples=60, deadline=None, derandomize=True)
FEW = settings(max_examples=25, deadline=None, derandomize=True)
SMALL = st.floats(-2.0, 2.0, width=32, allow_subnormal=False)


def reals(*shape: int):
    """Arrays of small float32 numbers."""
    return hnp.arrays(np.float32, shape, elements=SMALL)


class Fence(AbstractCost):
    """|x_0| + t, 10 |x_1| at the end; an episode ends where |y_0| > 1."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return jnp.abs(x[0]) + t.astype(x.dtype)

    def terminal(self, x):
        return 10.0 * jnp.abs(x[1])

    def alive(self, y):
        return jnp.abs(y[0]) <= 1.0


HOW = Imagination(particles=2, noise=False)
LIMITS = Box(np.full(1, -2.0, np.float32), np.full(1, 2.0, np.float32))
PLANT = (np.array([[1.0, 0.5], [0.0, 0.9]], np.float32), np.array([[0.0], [0.5]], np.float32))


@jax.jit
def imagined(x0, us, t0, spoil):
    """Costs [P, N] of plans, and of each of them alone; `spoil` is added to the model's matrix."""
    dynamics = Linear(PLANT[0] + spoil, PLANT[1])
    problem = Problem(dynamics, Fence(), LIMITS, x0, t0, us.shape[1], 0.9)
    beliefs = dynamics.draw(jr.key(0), HOW.particles)
    together = imagine(HOW, beliefs, problem, us, jr.key(1))
    alone = [imagine(HOW, beliefs, problem, us[i : i + 1], jr.key(1))[:, 0] for i in range(us.shape[0])]
    return together, jnp.stack(alone, axis=1)


def walked(x0, us, t0: int) -> float:
    """The same cost of one plan, step by step in float64."""
    A, B = (m.astype(np.float64) for m in PLANT)
    x, total, alive = x0.astype(np.float64), 0.0, True
    for h, u in enumerate(us.astype(np.float64)):
        y = A @ x + B @ u
        total += 0.9**h * (abs(x[0]) + t0 + h)
        x = y
        if abs(y[0]) > 1.0:
            alive = False
            break
    return total + (0.9 ** len(us) * 10.0 * abs(x[1]) if alive else 0.0)


def clear(x0, us) -> bool:
    """Whether no step comes so near the fence that rounding decides on which side it is."""
    x = x0.astype(np.float64)
    for u in us.astype(np.float64):
        x = PLANT[0] @ x + PLANT[1] @ u
        if abs(abs(x[0]) - 1.0) < 1e-4:
            return False
    return True


@FEW
@given(reals(2), reals(3, 5, 1), st.integers(0, 50))
def test_imagined_costs_are_those_of_a_walk_and_end_with_the_episode(x0, us, t0) -> None:
    together, _ = imagined(x0, us, jnp.int32(t0), jnp.float32(0.0))
    for i, plan in enumerate(us):
        if clear(x0, plan):
            np.testing.assert_allclose(together[:, i], walked(x0, plan, t0), rtol=1e-4, atol=1e-4)


@FEW
@given(reals(2), reals(3, 5, 1))
def test_plans_imagined_together_cost_what_they_cost_alone(x0, us) -> None:
    together, alone = imagined(x0, us, jnp.int32(0), jnp.float32(0.0))
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@FEW
@given(reals(2), reals(3, 5, 1), st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_a_model_that_explodes_is_never_cheap(x0, us, spoil) -> None:
    together, _ = imagined(x0, us, jnp.int32(0), jnp.float32(spoil))
    found = np.asarray(together)
    assert not np.isnan(found).any()
    if not np.isfinite(spoil):
        assert np.all(found == np.inf)


@jax.jit
def ahead(x0, us):
    """The states under the actions."""
    return predict_ahead(Linear(*PLANT), x0, us, jnp.int32(0))


@FEW
@given(reals(2), reals(5, 1))
def test_predict_ahead_walks_the_model(x0, us) -> None:
    found = np.asarray(ahead(x0, us))
    x = x0.astype(np.float64)
    for u, seen in zip(us, found, strict=True):
        x = PLANT[0] @ x + PLANT[1] @ u
        np.testing.assert_allclose(seen, x, rtol=1e-4, atol=1e-4)


SPEC = Spec(3, 1, extras=2, angles=(2,))
FITTED = EnsembleLearner(members=3, width=4, depth=1).init(SPEC, jr.key(0))
T0 = np.zeros((), np.int32)


@jax.jit
def predicted(xs, us):
    """Mean and deviation of many points at once, and of the members of the first one, one by one."""
    batch = jax.vmap(lambda x, u: FITTED.model.predict(x, u, T0))(xs, us)
    members = FITTED.model.members
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], members).predict(xs[0], us[0], T0) for i in range(3)]
    one = FITTED.model.predict(xs[1], us[1], T0)
    return (batch.mean, batch.std), (one.mean, one.std), [(p.mean, p.std) for p in each]


@FEW
@given(reals(4, 3), reals(4, 1))
def test_an_ensemble_predicts_a_batch_as_it_predicts_each_point(xs, us) -> None:
    (mean, std), one, _ = predicted(xs, us)
    np.testing.assert_allclose(mean[1], one[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(std[1], one[1], rtol=1e-5, atol=1e-5)


@FEW
@given(reals(4, 3), reals(4, 1))
def test_an_ensemble_has_the_moments_of_the_mixture_of_its_members(xs, us) -> None:
    (mean, std), _, each = predicted(xs, us)
    means, stds = (np.asarray([p[i] for p in each], np.float64) for i in (0, 1))
    second = (stds**2 + means**2).mean(axis=0)
    np.testing.assert_allclose(mean[0], means.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std[0] ** 2, second - means.mean(axis=0) ** 2, rtol=1e-3, atol=1e-5)


# The guard.


SPACES = [
    spaces.Box(-1.0, 1.0, (2,), np.float32),
    spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 5.0]), dtype=np.float64),
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Discrete(3, start=1),
    spaces.MultiBinary(2),
    spaces.Dict({"a": spaces.Box(-1.0, 1.0, (1,), np.float32), "b": spaces.Discrete(2)}),
    spaces.Tuple((spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Discrete(2))),
]


@CHECKED
@given(st.sampled_from(range(len(SPACES))), st.integers(0, 2**31 - 1))
def test_the_guard_takes_whatever_gymnasium_takes_for_an_element(index, seed) -> None:
    space = SPACES[index]
    space.seed(seed)
    checker = Checker(space, "e", say=pytest.fail)
    first, second = space.sample(), space.sample()
    assert space.contains(first)
    checker.reset((first, {}))
    checker.transition((second, 0.5, False, False, {}), 0)


FAULTY = st.sampled_from(
    [None, "a", [0.0], [0.0, np.nan], [np.inf, 0.0], np.zeros(3), np.zeros((1, 2)), np.full(2, 99.0), {}, (), 1j]
)


@CHECKED
@given(FAULTY)
def test_the_guard_refuses_what_gymnasium_would_not_take_and_no_cast_mends(value) -> None:
    space = SPACES[0]
    if isinstance(value, (list, np.ndarray)):
        assert not space.contains(np.asarray(value, np.float32))
    with pytest.raises(TransitionError, match=r"^e, at step 3: observation .*; it was "):
        Checker(space, "e").transition((value, 0.0, False, False, {}), 3)


@CHECKED
@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([1e-3, 1.0, 1e9]))
def test_a_reward_passes_exactly_if_it_is_within_the_bound(reward, bound) -> None:
    checker = Checker(SPACES[0], "e", Guard(reward_bound=bound))
    result = (np.zeros(2, np.float32), reward, False, False, {})
    if abs(reward) <= bound:
        checker.transition(result, 0)
    else:
        with pytest.raises(TransitionError, match=r"reward must be (finite|within)"):
            checker.transition(result, 0)
