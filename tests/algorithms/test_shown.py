"""A planner that shows v2.0's policy what to do: what is shown, what is learned of it, and who goes on."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms import shown as verb
from forethought.algorithms.globally import V20
from forethought.algorithms.improve import Imagined, Improve, Improvement
from forethought.algorithms.shown import Show, Shown, improve_from_shown, learn_by_heart, show
from forethought.core import AbstractDynamics
from forethought.costs.quadratic import Quadratic
from forethought.math.closed_loop import Stretch
from forethought.math.lqr import lqr
from forethought.math.rollout import Certain
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.known import KnownDynamics
from forethought.models.linear import LinearLearner
from forethought.models.mdn import MDNLearner
from forethought.planners.ilqr import ILQR
from forethought.policies.actor import init_actor
from forethought.tasks import task
from forethought.types import Box, Spec, UserError

SPEC, LIMITS = Spec(n=2, m=1), Box(np.full(1, -5.0, np.float32), np.full(1, 5.0, np.float32))
A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
COST = Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.1]))
H = 12


class Mass(eqx.Module):
    """A double integrator."""

    A: jax.Array
    B: jax.Array

    def __call__(self, x, u):
        return self.A @ x + self.B @ u


def place(model: AbstractDynamics | None = None) -> Imagined:
    known = KnownDynamics(Mass(jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)))
    pool = jnp.float32(0.5) * jr.normal(jr.key(7), (32, 2), jnp.float32)
    stretch = Stretch(jnp.asarray(H, jnp.int32), jnp.ones((), jnp.float32), jnp.ones((2,), jnp.float32))
    return Imagined(known if model is None else model, COST, pool, stretch)


def new(form="linear", seed=0) -> Improvement:
    return Improvement(init_actor(SPEC, LIMITS, form, (16, 1), jr.key(seed)), None, jnp.asarray(H, jnp.int32))


HOW = Show(ILQR(drives=1), 3, H, 1.0)


def test_what_is_shown_are_the_best_controllers_actions() -> None:
    """With a linear system and a quadratic cost the planner's feedback is the Riccati recursion's, at any state."""
    found = show(HOW, place(), LIMITS, jr.key(0))
    F, C = np.tile(np.hstack([A, B]), (H, 1, 1)), np.tile(np.diag([2.0, 0.2, 0.2]), (H, 1, 1))
    # The stage cost is one of the state that a step leads to.
    said = lqr(F, np.zeros((H, 2)), C, np.zeros((H, 3)), np.zeros((2, 2)), np.zeros(2))
    assert np.all(np.asarray(found.use) == 1.0)
    x = np.asarray(found.x, np.float64).reshape(3, verb.COPIES, H, 2)
    u = 5.0 * np.asarray(found.z, np.float64).reshape(3, verb.COPIES, H, 1)
    assert np.abs(x).max() < 10.0
    wanted = np.einsum("tmn,pctn->pctm", np.asarray(said.K), x)
    np.testing.assert_allclose(u, np.clip(wanted, -5.0, 5.0), atol=2e-3)
    # Noise was added to what was done, not to what was shown.
    assert np.std(x[:, :, -1, 1]) > 0.02


def test_only_the_first_rows_that_count_are_learned() -> None:
    gain = np.array([[-0.4, 0.3]])
    x = np.asarray(jr.normal(jr.key(1), (600, 2), jnp.float32))
    z = 0.5 * np.sin(x @ gain.T)
    z[400:], use = 1.0, np.ones(600)
    z[::3], use[::3] = -1.0, 0.0
    given = Shown(*(jnp.asarray(v, jnp.float32) for v in (x, z, use)), jnp.zeros(()))
    actor, loss = learn_by_heart(new("rbf").actor, given, jnp.asarray(400, jnp.int32), jr.key(2))
    said = np.asarray(jax.vmap(lambda x: LIMITS.encode(actor(x)))(given.x))
    kept = np.arange(600) % 3 != 0
    assert float(loss) < 2e-3
    assert np.mean((said - z)[:400][kept[:400]] ** 2) < 2e-3
    assert np.mean((said - z)[400:][kept[400:]] ** 2) > 0.1


def test_what_is_not_finite_is_not_learned() -> None:
    broken = Shown(*(jnp.full(s, jnp.nan, jnp.float32) for s in ((50, 2), (50, 1))), jnp.ones((50,)), jnp.zeros(()))
    before = new().actor
    after, _ = learn_by_heart(before, broken, jnp.asarray(50, jnp.int32), jr.key(0))
    assert eqx.tree_equal(before, after)


def contest(costs: dict[str, tuple[int, float]]):
    """(who goes on, what was logged, which parts of the steps were given): with improvers that only say a cost."""
    now, fresh, parts = new(seed=0), new(seed=1), []

    def improver(given: Improvement, part: int, key):
        who = "hand" if given.actor is now.actor else "student"
        parts.append((who, part))
        length, cost = costs[who]
        return given, {"improve_length": length, "improve_cost": cost, "improve_began": cost}

    after, told = improve_from_shown(HOW, improver, now, fresh.actor, place(), jr.key(0))
    return "hand" if after.actor is now.actor else "student", told, parts


@pytest.mark.parametrize(
    ("student", "hand", "wins"),
    [
        ((H, 1.0), (H, 2.0), "student"),
        ((H, 2.0), (H, 1.0), "hand"),
        ((H // 2, 1.0), (H, 2.0), "hand"),
        ((H, np.inf), (H, 2.0), "hand"),
        ((H, 1.0), (H, np.nan), "student"),
        ((H, np.nan), (H, 1.0), "hand"),
    ],
)
def test_the_better_one_goes_on(student, hand, wins) -> None:
    """A cost over half the horizon is no smaller one, and NaN never wins."""
    who, told, parts = contest({"student": student, "hand": hand})
    assert who == wins
    assert told["improve_shown"] == (wins == "student")
    assert told["improve_students"] == 3
    assert parts == [("student", 6)] * 3 + [("student", 3), ("hand", 3), (wins, 2)]


def test_without_a_plan_the_policy_at_hand_gets_all_steps() -> None:
    broken = KnownDynamics(Mass(jnp.full((2, 2), jnp.nan, jnp.float32), jnp.asarray(B, jnp.float32)))
    now, given = new(), []

    def improver(it, part, key):
        given.append((it, part))
        return it, {"improve_cost": 0.0}

    after, told = improve_from_shown(HOW, improver, now, new(seed=1).actor, place(broken), jr.key(0))
    assert after is now
    assert given == [(now, 1)]
    assert told["improve_students"] == 0
    assert told["improve_plan"] == np.inf


def test_a_planner_that_cannot_is_refused_before_anything_is_tried() -> None:
    with jax.enable_x64(False), pytest.raises(UserError, match="planner ilqr computes in float64"):
        V20(EnsembleLearner(members=2, width=8)).init(task("double-integrator", limit=10), jr.key(0))


def test_it_does_not_learn_twice_from_the_same_rows() -> None:
    target = task("double-integrator", limit=10)
    quick = Improve(horizon=5, particles=4, gradient_steps=25)
    algorithm = V20(LinearLearner(), base_steps=10, form="linear", planner=None, improve=quick)
    state = algorithm.init(target, jr.key(0))
    state, _ = algorithm.step(target, state, 10)
    held, told = algorithm.step(target, state, 0)
    assert "improve_cost" in told
    again, told = algorithm.step(target, held, 0)
    assert "improve_cost" not in told
    assert eqx.tree_equal(again.fitted, held.fitted)
    straight, _ = algorithm.step(target, state, 10)
    after, _ = algorithm.step(target, held, 10)
    assert eqx.tree_equal(after.data, straight.data)


@pytest.mark.parametrize(
    ("learner", "imagine", "certain"),
    [
        (GPLearner(functions=2, waves=8), "auto", True),
        (GPLearner(functions=2, waves=8), "particles", False),
        (EnsembleLearner(members=2, width=8, gradient_steps=1), "auto", True),
        (MDNLearner(width=8, gradient_steps=1), "auto", False),
        (MDNLearner(width=8, gradient_steps=1), "mean", True),
    ],
)
def test_what_the_policy_is_tried_out_in(learner, imagine, certain) -> None:
    target = task("double-integrator", limit=10)
    model = learner.init(target.spec, jr.key(0)).model
    said = V20(learner, imagine=imagine)._tried_in(model, target, jnp.zeros(2, jnp.float32))
    assert isinstance(said, Certain) == certain
    drawn = said.draw(jr.key(0), 3)
    x, u, t = jnp.ones(2, jnp.float32), jnp.ones(1, jnp.float32), jnp.zeros((), jnp.int32)
    y = np.asarray(eqx.filter_vmap(lambda belief: belief.predict(x, u, t).mean)(drawn))
    assert y.shape == (3, 2)
    if certain:
        np.testing.assert_array_equal(y, np.broadcast_to(y[0], y.shape))
