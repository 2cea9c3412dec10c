"""Whatever model, cost or observation a planner gets, the action is finite and allowed, and what happened is told."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.globally import V05, V10, V15, unfitted
from forethought.algorithms.turn import learn
from forethought.core import AbstractCost, AbstractFitted, AbstractLearner, AbstractPlanner, AbstractPolicy, Plan
from forethought.math.act import act, start
from forethought.math.finite import LARGEST
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import Imagination
from forethought.models.ensemble import Ensemble, EnsembleLearner
from forethought.models.known import KnownDynamics
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning, PlanOnce, planning_metrics
from forethought.planners.mppi import MPPI
from forethought.planners.shooting import RandomShooting
from forethought.policies.open_loop import OpenLoop
from forethought.tasks import task
from forethought.types import Array, Box, Choices, Spec, UserError

FOUR = Imagination(particles=4, propagation="ts-inf", noise=False)
PLANNERS = {
    "shooting": RandomShooting(FOUR, samples=64),
    "cem": CEM(FOUR, samples=64, elites=6, iterations=2),
    "icem": ICEM(FOUR, samples=64, elites=6, iterations=2),
    "mppi": MPPI(FOUR, samples=64, iterations=2),
}
BOX = Box(np.full(1, -2.0, np.float32), np.full(1, 1.0, np.float32))
CHOICES = Choices(np.array([[0.25], [-2.0], [1.0]], np.float32))
"""Of which no one is zero: the safe one is the first."""
ACTIONS = {"box": BOX, "choices": CHOICES}
GAINS = np.array([0.5, 0.4, 0.6, 0.5], np.float32)
HORIZON = 4
GOOD = np.array([1.0], np.float32)
ZERO = np.zeros((), np.int32)


class Near(AbstractCost):
    """(y - 0.3)^2 scale; NaN for actions beyond `edge`."""

    scale: Array = dataclasses.field(default_factory=lambda: np.ones((), np.float32))
    edge: Array = dataclasses.field(default_factory=lambda: np.full((), 9.0, np.float32))
    extras: int = 0

    def stage(self, x, u, y, t):
        return jnp.where(u[0] > self.edge, jnp.nan, jnp.asarray(self.scale) * (y[0] - 0.3) ** 2)

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.ones((), bool)


def four_members(gains=GAINS, growth=0.0) -> Ensemble:
    """y = (1 + growth) x + gain u, certain, a gain per member: networks without a hidden layer."""
    model = EnsembleLearner(members=4, depth=0).init(Spec(1, 1), jr.key(0)).model
    weight = np.zeros((4, 2, 2), np.float32)
    weight[:, 1, 0], weight[:, 0, 0] = gains, growth
    return eqx.tree_at(lambda m: m.members.layers[0].weight, model, jnp.asarray(weight))


def with_member(value: float, *, healthy: bool) -> Ensemble:
    """Member 1 says this whatever it is asked."""
    model = four_members()
    layer = model.members.layers[0].weight.at[1].set(value)
    mask = model.healthy.at[1].set(healthy)
    return eqx.tree_at(lambda m: (m.members.layers[0].weight, m.healthy), model, (layer, mask))


def planning(planner="icem", actions=BOX, model=None, cost=None, safe="zero") -> Planning:
    return Planning(PLANNERS[planner], model or four_members(), cost or Near(), actions, HORIZON, safe=safe)


@dataclasses.dataclass
class Case:
    """A situation, and what is to be seen: whether there is a plan, particles left out, ties."""

    x: float = 1.0
    model: Ensemble | None = None
    cost: Near | None = None
    ok: bool = False
    left_out: int = 0
    ties: int = 0


nan32 = np.full((), np.nan, np.float32)
CASES = {
    "fine": Case(ok=True),
    "all_members_nan": Case(model=four_members(np.full(4, np.nan)), left_out=4),
    "one_member_nan": Case(model=with_member(np.nan, healthy=True), ok=True, left_out=1),
    "one_member_inf": Case(model=with_member(np.inf, healthy=True), ok=True, left_out=1),
    "one_member_explodes": Case(model=with_member(1e15, healthy=True), ok=True, left_out=1),
    "one_member_nan_and_dropped": Case(model=with_member(np.nan, healthy=False), ok=True),
    "one_member_absurd_and_dropped": Case(model=with_member(300.0, healthy=False), ok=True),
    "nobody_healthy": Case(model=eqx.tree_at(lambda m: m.healthy, four_members(), jnp.zeros(4, bool)), left_out=4),
    "constant_model": Case(model=four_members(np.zeros(4)), ok=True, ties=1),
    "exploding_rollouts": Case(model=four_members(growth=1e15), left_out=4),
    "nan_observation": Case(x=np.nan, left_out=4),
    "inf_observation": Case(x=np.inf, left_out=4),
    "minus_inf_observation": Case(x=-np.inf, left_out=4),
    "observation_1e20": Case(x=1e20, left_out=4),
    "observation_beyond_the_largest": Case(x=2.0 * LARGEST, ties=-1),
    "nan_cost": Case(cost=Near(nan32), left_out=4),
    "constant_cost": Case(cost=Near(np.zeros((), np.float32)), ok=True, ties=1),
    "nan_cost_for_some_plans": Case(cost=Near(edge=np.full((), 0.5, np.float32)), ok=True),
}


def allowed(u, actions) -> bool:
    u = np.asarray(u)
    if isinstance(actions, Box):
        return bool(np.all((u >= actions.low) & (u <= actions.high)))
    return any(np.array_equal(u, row) for row in actions.values)


def finite(tree) -> bool:
    return all(np.isfinite(v).all() for v in jax.tree.leaves(tree) if eqx.is_inexact_array(v))


PAIRS = [
    pytest.param(planner, actions, id=f"{planner}-{name}", marks=[pytest.mark.slow] if slow else [])
    for name, actions in ACTIONS.items()
    for planner in PLANNERS
    # A program each: with discrete actions the default planner's is enough for every day.
    for slow in [name == "choices" and planner != "icem"]
]


@pytest.mark.parametrize(("planner", "actions"), PAIRS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_mpc_gives_an_action_to_trust_and_says_what_happened(case, planner, actions) -> None:
    good = MPC(planning(planner, actions))
    begun = start(good, GOOD, jr.key(3))
    policy = MPC(planning(planner, actions, case.model, case.cost))
    u, carry = act(policy, begun, np.full(1, case.x, np.float32), ZERO)
    assert np.isfinite(u).all()
    assert allowed(u, actions)
    told = {name: float(value) for name, value in planning_metrics(carry).items()}
    assert told["plan_failures"] == int(carry.failures) == (not case.ok)
    assert told["plan_left_out"] == case.left_out
    assert case.ties < 0 or told["plan_ties"] == case.ties
    if case.ok:
        assert np.isfinite(told["plan_cost"])
        assert float(u[0]) <= float(policy.planning.cost.edge)
    else:
        np.testing.assert_array_equal(u, actions.safe())
        np.testing.assert_array_equal(carry.warm.mean, begun.warm.mean)
    assert finite(carry.warm)
    # The next observation is good, and so is the model: nothing of what was before is in the way.
    u, carry = act(good, carry, GOOD, ZERO + 1)
    assert int(carry.failures) == (not case.ok)
    assert float(carry.tally.cost) < 2.0
    # (Where nothing was to choose the search has wandered off, and so small a one may take its time to come back.)
    assert case.ties == 1 or float(u[0]) < 0.0, "from 1 to 0.3 the way is down"


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e15, -1e15])
def test_a_sick_belief_is_left_out_of_what_a_plan_costs(planner, value) -> None:
    """The cost that is promised is the mean over the other members, by a rollout in NumPy."""
    carry = start(PlanOnce(planning(planner, model=with_member(value, healthy=True))), GOOD, jr.key(0))
    costs = []
    for gain in GAINS[[0, 2, 3]]:
        x, total = 1.0, 0.0
        for u in np.asarray(carry.plan.us)[:, 0]:
            x += float(gain) * float(u)
            total += (x - 0.3) ** 2
        costs.append(total)
    np.testing.assert_allclose(carry.tally.cost, np.mean(costs), rtol=1e-5)
    assert (int(carry.tally.left_out), int(carry.failures), bool(carry.ok)) == (1, 0, True)


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_a_dropped_member_says_changes_nothing(planner) -> None:
    plans = [
        start(PlanOnce(planning(planner, model=with_member(value, healthy=False))), GOOD, jr.key(0))
        for value in (0.4, 300.0, np.nan)
    ]
    for other in plans[1:]:
        np.testing.assert_array_equal(other.plan.us, plans[0].plan.us)
        np.testing.assert_array_equal(other.tally.cost, plans[0].tally.cost)
        assert int(other.tally.left_out) == 0


class Brake(AbstractPolicy[Array]):
    """u = -x / 2, and how often it was asked."""

    gain: Array = dataclasses.field(default_factory=lambda: np.full((), -0.5, np.float32))

    def init(self, x, key):
        return jnp.zeros((), jnp.float32)

    def act(self, carry, x, t):
        return jnp.asarray(self.gain) * x, carry + 1.0


BROKEN = Brake(nan32)
SAFE = {"zero": ("zero", [0.0, 0.0]), "hold": ("hold", None), "policy": (Brake(), [-0.3, -0.3])}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("safe", SAFE)
def test_mpc_takes_the_configured_safe_action_and_recovers(safe, bad) -> None:
    setting, expected = SAFE[safe]
    policy = MPC(planning("shooting", safe=setting))
    carry, done = start(policy, GOOD, jr.key(1)), []
    for t, x in enumerate((1.0, 0.6, bad, bad, 0.9)):
        u, after = act(policy, carry, np.full(1, x, np.float32), ZERO + t)
        done.append(float(u[0]))
        if t in (2, 3):
            np.testing.assert_array_equal(after.warm.mean, carry.warm.mean)
        carry = after
    want = [done[1]] * 2 if expected is None else expected
    np.testing.assert_allclose(done[2:4], want, rtol=1e-6)
    assert int(carry.failures) == 2
    assert done[1] != done[0], "the planner is not the one that holds"
    # But for the key, the last plan is made from where the second one ended.
    assert done[4] not in (0.0, done[3])
    assert finite(carry.ready)
    if safe == "policy":
        assert float(carry.ready.inner) == 5.0, "it is asked at every step, to be in time"


@pytest.mark.parametrize(("safe", "expected"), [("zero", 0.0), ("hold", 0.0), (Brake(), 0.0), (BROKEN, 0.0)])
def test_a_first_observation_that_is_bad(safe, expected) -> None:
    policy = MPC(planning("shooting", safe=safe))
    nan = np.full(1, np.nan, np.float32)
    carry = start(policy, nan, jr.key(1))
    u, carry = act(policy, carry, nan, ZERO)
    assert float(u[0]) == expected
    assert int(carry.failures) == 1
    u, carry = act(policy, carry, GOOD, ZERO + 1)
    assert float(u[0]) < 0.0
    assert finite((carry.ready, carry.warm))


@pytest.mark.parametrize("safe", ["zero", "hold", Brake()], ids=["zero", "hold", "policy"])
def test_plan_once_without_a_plan_takes_the_safe_action_throughout(safe) -> None:
    policy = PlanOnce(planning("shooting", safe=safe))
    carry = start(policy, np.full(1, np.nan, np.float32), jr.key(0))
    done = []
    for t, x in enumerate((1.0, 0.5, np.nan)):
        u, carry = act(policy, carry, np.full(1, x, np.float32), ZERO + t)
        done.append(float(u[0]))
    assert done == ([-0.5, -0.25, -0.25] if isinstance(safe, Brake) else [0.0] * 3)
    assert int(carry.failures) == 1, "one plan failed, not three"
    again = start(policy, GOOD, jr.key(0))  # the next episode
    u, again = act(policy, again, GOOD, ZERO)
    assert int(again.failures) == 0
    np.testing.assert_array_equal(u, again.plan.us[0])


class Slip(AbstractPlanner[Array]):
    """A user's planner that says ok and forgets a NaN in its second action, or in its warm start."""

    action: float = 0.0
    warm: float = 0.0

    def init(self, problem):
        return jnp.zeros((), jnp.float32)

    def plan(self, problem, warm, key):
        us = jnp.asarray([[0.7], [self.action], [0.6], [0.5]], jnp.float32)
        us = jnp.roll(us, -problem.t0, axis=0)
        return Plan(OpenLoop(us, problem.t0), jnp.ones(()), jnp.ones((), bool), {}), warm + self.warm

    def shift(self, warm):
        return warm


@pytest.mark.parametrize(("safe", "expected"), [("zero", 0.0), ("hold", 0.7)])
@pytest.mark.parametrize("kind", [MPC, PlanOnce])
def test_an_action_that_is_not_finite_is_replaced(kind, safe, expected) -> None:
    policy = kind(dataclasses.replace(planning(safe=safe), planner=Slip(action=float("nan"))))
    carry, done = start(policy, GOOD, jr.key(0)), []
    for t in range(3):
        u, carry = act(policy, carry, GOOD, ZERO + t)
        done.append(float(u[0]))
    np.testing.assert_allclose(done, [0.7, expected, 0.6], rtol=1e-6)
    assert int(carry.failures) == 1
    assert int(carry.tally.ties) == 0, "a planner that does not say is not tied"


def test_a_warm_start_never_becomes_nan() -> None:
    policy = MPC(dataclasses.replace(planning(), planner=Slip(warm=float("nan"))))
    _, carry = act(policy, start(policy, GOOD, jr.key(0)), GOOD, ZERO)
    assert float(carry.warm) == 0.0


@pytest.mark.parametrize("safe", ["Zero", "", "stop", "none"])
def test_an_unknown_safe_action_is_refused(safe) -> None:
    it = planning()
    object.__setattr__(it, "safe", safe)
    with pytest.raises(UserError, match=f"safe is '{safe}'; it must be zero or hold or a policy"):
        MPC(it).init(GOOD, jr.key(0))


@pytest.mark.parametrize("safe", ["zero", "hold", Brake()], ids=["zero", "hold", "policy"])
@pytest.mark.parametrize("algorithm", [V05, V10, V15])
def test_the_algorithms_hand_the_setting_on(algorithm, safe) -> None:
    target = task("pendulum")
    algorithm = algorithm(learner=EnsembleLearner(members=2, width=4, depth=0), safe=safe)
    policy = algorithm.policy(target, algorithm.init(target, jr.key(0)))
    assert policy.planning.safe is safe


def test_nothing_compiles_when_something_goes_wrong() -> None:
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    fresh = dataclasses.replace(PLANNERS["shooting"], samples=37)  # which no other test has compiled
    of = lambda case: MPC(dataclasses.replace(planning("shooting", BOX, case.model, case.cost, "hold"), planner=fresh))
    carry = start(of(CASES["fine"]), GOOD, jr.key(0))
    shapes = lambda tree: [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in jax.tree.leaves(tree)]
    before = shapes(carry)
    _, carry = act(of(CASES["fine"]), carry, GOOD, ZERO)
    count = len(compiled)
    assert count >= 2, "the listener hears nothing"
    for t, case in enumerate(CASES.values()):
        _, carry = act(of(case), carry, np.full(1, case.x, np.float32), ZERO + t)
    assert len(compiled) == count
    assert shapes(carry) == before


class Fitted(AbstractFitted):
    """y = x + gain u, with a place that is still empty."""

    model: KnownDynamics
    gain: Array
    empty: Array


class Flaky(AbstractLearner[Fitted]):
    """A user's learner that gives these numbers."""

    gives: tuple[float, float]

    def init(self, spec, key):
        return Fitted(KnownDynamics(jnp.add), jnp.ones(()), jnp.full((2,), jnp.nan))

    def fit(self, fitted, data, key):
        return dataclasses.replace(fitted, gain=jnp.asarray(self.gives)[0], empty=jnp.asarray(self.gives)), {
            "loss": 1.0
        }


@pytest.mark.parametrize(
    ("gives", "failed"),
    [((2.0, 3.0), False), ((np.nan, 0.0), True), ((np.inf, np.nan), False), ((0.0, np.nan), False)],
)
def test_a_learner_that_brings_nan_changes_nothing(gives, failed) -> None:
    learner = Flaky(gives)
    before = unfitted(learner, task("pendulum"), jr.key(0))
    after, metrics = learn(learner, before)
    assert metrics["fit_failed"] is failed
    assert metrics["fit_loss"] == 1.0
    assert float(after.fitted.gain) == (1.0 if failed else gives[0])
    assert int(after.fits) == (not failed)
    assert not np.array_equal(jr.key_data(after.key), jr.key_data(before.key)), "another try is another fit"


def test_a_mixture_with_nobody_left_predicts_nan() -> None:
    model = CASES["nobody_healthy"].model
    prediction = model.predict(GOOD, GOOD, ZERO)
    assert isinstance(prediction, DiagonalGaussian)
    assert np.isnan(prediction.mean).all()
