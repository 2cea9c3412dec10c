"""Tree search against enumeration; and that it foresees no dice, goes not beyond an end, and believes no NaN."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractCost, AbstractDynamics, AbstractPrediction, Problem
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import Imagination, beliefs
from forethought.planners.mcts import MCTS, grow
from forethought.planners.mpc import MPC, Planning
from forethought.planners.tree import World
from forethought.types import Array, Box, Choices, UserError

TWO = Choices(np.eye(2, dtype=np.float32))
THREE = Choices(np.eye(3, dtype=np.float32))
LINE = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
T0 = jnp.zeros((), jnp.int32)
KINDS = ["puct", "gumbel"]
BOTH = ["puct", pytest.param("gumbel", marks=pytest.mark.slow)]
"""A program each: one of them is enough for every day."""
CERTAIN = Imagination(propagation="mean")
DICE = Imagination(particles=1, propagation="ts-inf")


class Outcome(AbstractPrediction):
    """One of two rows, the second with probability p."""

    mean: Array
    rows: Array
    p: Array

    def sample(self, key):
        return jnp.where(jr.bernoulli(key, self.p), self.rows[1], self.rows[0])

    def log_prob(self, y):
        return jnp.zeros(())


class Table(AbstractDynamics):
    """Finitely many states x = [s]: action a leads to go[s, a, 0], or with probability p[s, a] to go[s, a, 1]; y holds
    the next state and the reward of the step."""

    go: Array
    reward: Array
    p: Array

    def predict(self, x, u, t):
        s, a = x[0].astype(jnp.int32), jnp.argmax(u)
        rows = jnp.stack([self.go[s, a], self.reward[s, a]], axis=1).astype(jnp.float32)
        p = self.p[s, a].astype(jnp.float32)
        return Outcome((1.0 - p) * rows[0] + p * rows[1], rows, p)

    def draw(self, key, particles):
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *v.shape)), self)


class Told(AbstractCost):
    """Minus the reward that the model says; states from `last` on end the episode, what comes after costs `after`."""

    last: Array = dataclasses.field(default_factory=lambda: np.asarray(1e6, np.float32))
    after: Array = dataclasses.field(default_factory=lambda: np.asarray(0.0, np.float32))
    extras: int = eqx.field(static=True, default=1)

    def stage(self, x, u, y, t):
        return -y[1]

    def terminal(self, x):
        return jnp.asarray(self.after)

    def alive(self, y):
        return y[0] < self.last


def table_problem(go, reward, p=None, horizon=3, cost=None) -> Problem:
    go, reward = np.asarray(go, np.float32), np.asarray(reward, np.float32)
    if go.ndim == 2:  # certain: both outcomes are the same
        go, reward = np.stack([go, go], -1), np.stack([reward, reward], -1)
    p = np.zeros(go.shape[:2], np.float32) if p is None else np.asarray(p, np.float32)
    dynamics = Table(jnp.asarray(go), jnp.asarray(reward), jnp.asarray(p))
    actions = Choices(np.eye(go.shape[1], dtype=np.float32))
    return Problem(dynamics, cost or Told(), actions, jnp.zeros(1, jnp.float32), T0, horizon)


def tree_problem(rng, depth: int, branches: int = 2, dice: bool = False) -> Problem:
    """A tree of states with a random reward on every branch, numbered by rows; with dice a branch has two ends."""
    ways = branches * (2 if dice else 1)
    inner = (ways**depth - 1) // (ways - 1)
    count = inner + ways**depth
    go, reward = np.zeros((count, branches, 2)), np.zeros((count, branches, 2))
    for s, a, o in itertools.product(range(inner), range(branches), range(2)):
        go[s, a, o] = ways * s + 1 + (2 * a + o if dice else a)
        reward[s, a, o] = rng.normal() if dice or o == 0 else reward[s, a, 0]
    return table_problem(go, reward, rng.uniform(0.2, 0.8, (count, branches)) if dice else None, depth)


def q_values(problem: Problem) -> np.ndarray:
    """Q*(x0, .) by enumeration, in NumPy."""
    table = problem.dynamics
    go, reward, p = (np.asarray(v, np.float64) for v in (table.go, table.reward, table.p))

    def q(s: int, left: int) -> np.ndarray:
        if left == 0:
            return np.zeros(go.shape[1])
        odds = np.stack([1.0 - p[s], p[s]], -1)
        after = np.array(
            [
                [q(int(t), left - 1).max() if w > 0 else 0.0 for t, w in zip(*r, strict=True)]
                for r in zip(go[s], odds, strict=True)
            ]
        )
        return (odds * (reward[s] + after)).sum(-1)

    return q(int(problem.x0[0]), problem.horizon)


@eqx.filter_jit
def solve(planner, problem, keys):
    """Plans for many keys, and problems stacked like them, one after the other."""
    arrays, rest = eqx.partition(problem, eqx.is_array)

    def one(each):
        p = eqx.combine(each[0], rest)
        return planner.plan(p, planner.init(p), each[1])

    return jax.lax.map(one, (arrays, keys))


def stacked(problems: list[Problem]) -> Problem:
    return jax.tree.map(
        lambda *v: jnp.stack([jnp.asarray(e) for e in v]) if eqx.is_array_like(v[0]) else v[0], *problems
    )


def keys(count: int) -> Array:
    return jr.split(jr.key(0), count)


# Against enumeration.


@pytest.mark.parametrize("kind", KINDS)
def test_a_binary_tree_of_depth_three(kind) -> None:
    """By the tree alone (one random rollout per leaf), and with the rollouts that the default has."""
    rng = np.random.default_rng(1)
    problems = [tree_problem(rng, 3) for _ in range(40)]
    exact = np.stack([q_values(p) for p in problems])
    planner = MCTS(CERTAIN, kind, simulations=128, exploration=2.5, rollouts=1, sequences=8, beta=0.0)
    plan, _ = solve(planner, stacked(problems), keys(len(problems)))
    first = np.argmax(np.asarray(plan.policy.us)[:, 0], axis=1)
    assert np.sum(first == exact.argmax(1)) >= 37
    assert np.all(np.asarray(plan.cost) >= -exact.max(1) - 1e-4)
    said = [walked(p, us) for p, us in zip(problems, np.asarray(plan.policy.us), strict=True)]
    np.testing.assert_allclose(plan.cost, said, atol=1e-4, err_msg="a plan costs what it says")
    if kind == "puct":  # Gumbel search visits two actions equally often
        visited = np.argmax(np.asarray(plan.metrics["visits"]), axis=1)
        assert np.sum(visited == exact.argmax(1)) >= 34


def walked(problem: Problem, us: np.ndarray) -> float:
    """What a sequence costs in a certain table."""
    s, total = 0, 0.0
    for a in us.argmax(1):
        total -= float(problem.dynamics.reward[s, a, 0])
        s = int(problem.dynamics.go[s, a, 0])
    return total


def flat(problem: Problem, calls: int, key) -> np.ndarray:
    """A flat sampler: every action in turn, then random ones to the end; the mean return of each first action."""
    count, per = problem.actions.d, problem.horizon
    rounds = calls // (count * per)

    def episode(a, k):
        k_a, k_y = jr.split(k)
        later = jr.randint(k_a, (per,), 0, count)
        x, total = problem.x0, jnp.zeros(())
        for h in range(per):
            u = jax.nn.one_hot(jnp.where(h == 0, a, later[h]), count)
            y = problem.dynamics.predict(x, u, T0).sample(jr.fold_in(k_y, h))
            x, total = y[:1], total + y[1]
        return total

    each = jax.vmap(lambda a, k: jax.vmap(lambda k: episode(a, k))(jr.split(k, rounds)))
    return jnp.mean(each(jnp.arange(count), jr.split(key, count)), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stochastic_trees_beside_a_flat_sampler(kind) -> None:
    """With the same number of model calls, a simulation being three at most.  More trees are in bench/mcts.py."""
    rng = np.random.default_rng(2)
    problems = [tree_problem(rng, 3, dice=True) for _ in range(60)]
    best = np.stack([q_values(p) for p in problems]).argmax(1)
    planner = MCTS(DICE, kind, simulations=199, exploration=2.5, rollouts=1, beta=0.0)
    plan, _ = solve(planner, stacked(problems), keys(len(problems)))
    ours = np.argmax(np.asarray(plan.policy.us)[:, 0], axis=1)
    sampler = eqx.filter_jit(eqx.filter_vmap(lambda p, k: flat(p, 600, k), in_axes=(eqx.if_array(0), 0)))
    theirs = np.asarray(sampler(stacked(problems), keys(len(problems)))).argmax(1)
    assert np.sum(ours == best) >= np.sum(theirs == best)


# Dice.


@pytest.mark.parametrize("kind", BOTH)
def test_dice_are_not_foreseen(kind) -> None:
    """Safe .5 beside a gamble of 1 with probability .3: a tree with one draw per action would gamble 3 times in 10."""
    problem = table_problem(np.zeros((1, 2, 2)), [[[0.5, 0.5], [0.0, 1.0]]], [[0.0, 0.3]], horizon=1)
    many = stacked([problem] * 50)
    chosen = lambda planner: np.asarray(solve(planner, many, keys(50))[0].policy.us)[:, 0].argmax(1)
    assert np.sum(chosen(MCTS(DICE, kind)) == 0) >= 49
    frozen = chosen(MCTS(DICE, kind, draws=1))
    assert 5 <= np.sum(frozen == 1) <= 25, "otherwise the test above could not fail"


def test_beliefs_are_not_foreseen() -> None:
    """The same gamble, of which 3 of 10 drawn models say that it pays: each says so with certainty."""
    go, pays = np.zeros((10, 1, 2, 2), np.float32), np.zeros((10, 1, 2, 2), np.float32)
    pays[:, 0, 0], pays[:3, 0, 1] = 0.5, 1.0
    table = Members(Table(jnp.asarray(go), jnp.asarray(pays), jnp.zeros((10, 1, 2), jnp.float32)))
    problem = Problem(table, Told(), TWO, jnp.zeros(1, jnp.float32), T0, 1)
    plan, _ = solve(MCTS(Imagination(particles=10, propagation="ts-inf")), stacked([problem] * 20), keys(20))
    assert np.all(np.asarray(plan.policy.us)[:, 0].argmax(1) == 0)
    assert np.all(np.asarray(plan.cost) == -0.5)


class Members(AbstractDynamics):
    """Ten tables, each a belief."""

    each: Table

    def predict(self, x, u, t):
        return jax.tree.map(lambda v: v[0], self.each).predict(x, u, t)

    def draw(self, key, particles):
        return jax.tree.map(lambda v: v[:particles], self.each)


# The end of an episode.


@pytest.mark.parametrize("how", [pytest.param(CERTAIN, marks=pytest.mark.slow), DICE], ids=["certain", "dice"])
def test_nothing_is_charged_after_the_end(how) -> None:
    """Action 1 ends the episode with reward 0.7; going on pays 0.4, 0.4, 0.4 and what the terminal cost says."""
    go = [[1, 3], [1, 3], [2, 3], [3, 3]]
    reward = [[0.4, 0.7], [0.4, -0.5], [9.0, 9.0], [9.0, 9.0]]
    # The mean of random rollouts says little about small differences.
    cases = [(-5.0, 0, -6.2), (5.0, 1, -0.7)] + ([(0.0, 0, -1.2)] if how is CERTAIN else [])
    told = lambda after: Told(np.asarray(3.0, np.float32), np.asarray(after, np.float32))
    problem = stacked([table_problem(go, reward, horizon=3, cost=told(after)) for after, _, _ in cases])
    plan, _ = solve(MCTS(how, simulations=48), problem, keys(len(cases)))
    for i, (_, first, cost) in enumerate(cases):
        assert np.asarray(plan.policy.us)[i, 0].argmax() == first
        np.testing.assert_allclose(plan.cost[i], cost, rtol=1e-5)
    ended = np.asarray(plan.metrics["values"])[:, 1]
    np.testing.assert_allclose(ended, -0.7, rtol=1e-5, err_msg="the reward of the last step, and nothing more")


def test_the_terminal_cost_takes_the_place_of_rollouts() -> None:
    """With `rollout_steps` 0 a learned value is all that leaves know: here it points the other way."""
    go, reward = [[1, 2], [1, 1], [2, 2]], [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]

    class Value(AbstractCost):
        extras: int = 1

        def stage(self, x, u, y, t):
            return -y[1]

        def terminal(self, x):
            return jnp.where(x[0] == 2.0, -100.0, 0.0).astype(x.dtype)

        def alive(self, y):
            return jnp.ones((), bool)

    problem = stacked([table_problem(go, reward, horizon=6, cost=Value())])
    plan, _ = solve(MCTS(CERTAIN, rollout_steps=0, simulations=8), problem, keys(1))
    assert np.asarray(plan.policy.us)[0, 0].argmax() == 1
    assert float(plan.cost[0]) == -100.0


# Continuous actions.


class Point(AbstractDynamics):
    """y = x + u + noise; NaN beyond an edge."""

    std: Array = dataclasses.field(default_factory=lambda: np.asarray(0.0, np.float32))
    edge: Array = dataclasses.field(default_factory=lambda: np.asarray(1e9, np.float32))

    def predict(self, x, u, t):
        y = jnp.where(x + u > self.edge, jnp.nan, x + u)
        return DiagonalGaussian(y, jnp.zeros_like(y) + self.std)

    def draw(self, key, particles):
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *jnp.shape(v))), self)


class Near(AbstractCost):
    """(y - 0.3)^2."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return (y[0] - 0.3) ** 2

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.ones((), bool)


def point(actions=LINE, horizon=3, **settings) -> Problem:
    settings = {name: np.asarray(value, np.float32) for name, value in settings.items()}
    return Problem(Point(**settings), Near(), actions, jnp.zeros(1, jnp.float32), T0, horizon)


@eqx.filter_jit
def search(planner, problem, key):
    how, dynamics = beliefs(planner.imagination, problem, key)
    pool = planner._sequences(problem.actions, planner.init(problem), key)
    return grow(World(problem, how, dynamics, pool, planner._shape(problem, how)), key)


@pytest.mark.parametrize(
    ("k", "power", "how"), [pytest.param(2.0, 0.25, CERTAIN, marks=pytest.mark.slow), (1.0, 0.5, DICE)]
)
def test_progressive_widening(k, power, how) -> None:
    """After N visits a node has ceil(k N^a) children, as far as there are candidates."""
    planner = MCTS(how, simulations=25, candidates=10, widening=k, widening_power=power, rollouts=2, sequences=16)
    grown = search(planner, point(std=0.1), jr.key(0))
    assert int(grown.known.visits.sum()) == 25
    expected = min(10, int(np.ceil(k * 25**power - 1e-6)))
    assert int(np.sum(np.asarray(grown.known.visits) > 0)) == expected


def test_outcomes_grow_with_visits() -> None:
    planner = MCTS(DICE, simulations=60, draws=12, draws_power=0.5, rollouts=1, sequences=4)
    grown = search(planner, point(TWO, horizon=4, std=0.1), jr.key(1))
    visits, drawn = np.asarray(grown.known.visits), np.asarray(grown.known.each > 0).sum(1)
    np.testing.assert_array_equal(drawn, np.minimum(12, np.ceil(np.sqrt(visits) - 1e-6)))
    spread = np.asarray(grown.known.each)
    assert all(np.ptp(row[row > 0]) <= 1 + row.sum() // 12 for row in spread), "none is looked into much more often"


@pytest.mark.parametrize(("kind", "std"), [("puct", 0.0), pytest.param("gumbel", 0.05, marks=pytest.mark.slow)])
def test_a_point_goes_where_it_should(kind, std) -> None:
    """Planned again and again from where the last plan ended; a certain plan never becomes worse."""
    how = CERTAIN if std == 0.0 else Imagination(particles=4, propagation="ts-inf")
    planner, problem = MCTS(how, kind, simulations=32, rollouts=4, sequences=64, beta=0.5), point(std=std)

    @eqx.filter_jit
    def again(planner, problem, key):
        def once(warm, k):
            plan, warm = planner.plan(problem, warm, k)
            return warm, (plan.policy.us, plan.cost)

        return jax.lax.scan(once, planner.init(problem), jr.split(key, 8))[1]

    us, costs = again(planner, problem, jr.key(0))
    np.testing.assert_allclose(us[-1, 0, 0], 0.3, atol=0.15)
    assert float(costs[-1]) < 0.07
    assert std > 0.0 or np.all(np.diff(np.asarray(costs)) <= 1e-6)


# NaN, and programs.


@pytest.mark.parametrize(("kind", "how"), [("gumbel", CERTAIN), ("puct", DICE)])
def test_what_is_not_finite_never_wins(kind, how) -> None:
    """The model breaks beyond 0.2; 0.3 is where one would like to be."""
    planner = MCTS(how, kind, simulations=32, rollouts=4, sequences=32)
    plan, warm = solve(planner, stacked([point(edge=0.2)] * 3), keys(3))
    assert np.all(plan.ok)
    reached = np.cumsum(np.asarray(plan.policy.us)[:, :, 0], axis=1)
    assert np.all(reached <= 0.2 + 1e-6)
    nodes = np.asarray(plan.metrics["nodes"])
    assert np.all((nodes > 1) & (nodes < 33)), "some branches were sick, or the test says nothing"
    plan, warm = solve(planner, stacked([point(edge=-1e9)] * 3), keys(3))
    assert not np.any(plan.ok)
    assert np.all(np.isinf(np.asarray(plan.cost)))
    np.testing.assert_array_equal(plan.policy.us, 0.0)
    np.testing.assert_array_equal(warm.mean, 0.0)
    assert np.all(plan.metrics["left_out"] == 1)


def test_one_program_and_one_tree() -> None:
    traced = []

    @eqx.filter_jit
    def plan(planner, problem, warm, key):
        traced.append(1)
        return planner.plan(problem, warm, key)

    planner = MCTS(DICE, simulations=8, sequences=8)
    warm = planner.init(point())
    shapes = lambda tree: [(v.shape, v.dtype, v.weak_type) for v in jax.tree.leaves(tree)]
    before = shapes(warm)
    for std, key in ((0.1, 0), (0.2, 1), (np.nan, 2)):
        found, warm = plan(
            planner, eqx.tree_at(lambda p: p.x0, point(std=std), jnp.full(1, 0.1, jnp.float32)), warm, jr.key(key)
        )
        assert shapes(warm) == before
        warm = planner.shift(warm)
        assert shapes(warm) == before
    assert len(traced) == 1
    assert found.cost.dtype == jnp.float32


def test_the_last_plan_is_kept_where_it_is_good() -> None:
    """One sequence of 12 choices in 4,096 ends well: once it is known, it is not lost again."""
    go = np.array([[s + 1 if a == s % 2 else 13 for a in range(2)] for s in range(14)]).clip(max=13)
    reward = np.zeros((14, 2))
    reward[11] = [1.0, 1.0]
    problem = table_problem(go, reward, horizon=12)
    planner = MCTS(CERTAIN, simulations=4, rollouts=2, sequences=4)
    warm = planner.init(problem)
    right = 2.0 * np.eye(2)[np.arange(12) % 2] - 1.0
    warm = eqx.tree_at(lambda w: w.mean, warm, jnp.asarray(right, jnp.float32))
    plan, warm = eqx.filter_jit(planner.plan)(problem, warm, jr.key(0))
    assert float(plan.cost) == -1.0
    assert np.all(np.asarray(warm.mean).argmax(1)[:11] == np.arange(11) % 2)


def test_a_missing_package_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mctx", None)
    policy = MPC(Planning(MCTS(), Point(), Near(), LINE, 3))
    with pytest.raises(UserError, match=r"mcts needs the package mctx.*pip install 'forethought\[search\]'"):
        policy.init(jnp.zeros(1, jnp.float32), jr.key(0))


def test_where_nothing_makes_a_difference_it_wanders() -> None:
    """Not one action for ever, nor a new one at every step: each is held, and the plan is kept for a while."""
    problem = table_problem(np.zeros((1, 3)), np.full((1, 3), -1.0), horizon=30)
    planner = MCTS(CERTAIN, simulations=4, hold=5, rollouts=2)
    step = eqx.filter_jit(lambda warm, key: planner.plan(problem, warm, key))
    warm, taken, redrawn = planner.init(problem), [], 0
    for key in jr.split(jr.key(3), 300):
        plan, after = step(warm, key)
        assert bool(plan.metrics["tied"])
        redrawn += not np.array_equal(after.mean, warm.mean)
        taken.append(int(np.argmax(np.asarray(after.mean)[0])))
        warm = planner.shift(after)
    runs = [len(list(group)) for _, group in itertools.groupby(taken)]
    assert set(taken) == {0, 1, 2}
    assert np.median(runs) >= 4, runs
    assert 3 <= redrawn <= 30, "about once per horizon"
    planner = dataclasses.replace(planner, simulations=32)
    best, _ = planner.plan(table_problem([[0, 0, 0]], [[-1.0, -1.0, 0.0]], horizon=30), warm, jr.key(0))
    assert not bool(best.metrics["tied"])
    assert int(np.argmax(best.policy.us[0])) == 2, "where there is a difference it goes there"
