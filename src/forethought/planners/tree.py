"""The tree of `MCTS`: what a node holds, one step from a node, and which branch is looked into next.  Built on mctx.

A node has A actions with C places for outcomes each, slot = action * C + outcome, so that one expansion of mctx is one
call of the model: an outcome is a draw of the next state.  To choose an action the outcomes of each are averaged into a
row of a tree with a single node, which mctx's own selection rules are asked about.
"""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int, UInt32

from forethought.core import AbstractDynamics, Problem
from forethought.math.rollout import Imagination, transition
from forethought.types import Array, Box, RandomKey, UserError


def need_mctx() -> ModuleType:
    """The package mctx.  Raises `UserError` if it is not installed."""
    try:
        import mctx
    except ImportError as error:
        raise UserError(
            "The planner mcts needs the package mctx, and it cannot be imported "
            f"({error}): install it with pip install 'forethought[search]'."
        ) from None
    return mctx


class Shape(eqx.Module):
    """Sizes and settings of a search, none of them an array."""

    search: Literal["puct", "gumbel"] = eqx.field(static=True)
    simulations: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    """A: branches of a node."""
    outcomes: int = eqx.field(static=True)
    """C: places for outcomes of each action; 1 where there is only one outcome."""
    widening: tuple[float, float] = eqx.field(static=True)
    """(k, a): a node visited N times has at most ceil(k N^a) children; not for discrete actions."""
    growth: float = eqx.field(static=True)
    """An action taken N times has ceil(N^growth) outcomes."""
    exploration: float = eqx.field(static=True)
    hold: int = eqx.field(static=True)
    """Steps that one branch is long."""
    rollouts: int = eqx.field(static=True)
    rollout: int = eqx.field(static=True)
    """Steps that a rollout from a leaf goes on at most."""


class World(eqx.Module):
    """What one search is about: arguments of the compiled program, never closed over."""

    problem: Problem
    how: Imagination
    dynamics: AbstractDynamics
    """Beliefs, stacked."""
    pool: Float[Array, "M H d"]
    """Sequences of actions to choose from; the first one is the last plan."""
    shape: Shape

    @property
    def one_way(self) -> bool:
        """Whether an action has one outcome only: one belief, without noise."""
        return self.how.particles == 1 and not self.how.noise


class Node(eqx.Module):
    """A state that was reached in the tree, and the best that is known from there.  One per node; B = 1 in front."""

    x: Float[Array, "*b n"]
    step: Int[Array, "*b"]
    """Steps from the root."""
    belief: Int[Array, "*b"]
    alive: Bool[Array, "*b"]
    sick: Bool[Array, "*b"]
    """Something on the way here, or everything from here on, was not finite."""
    spent: Float[Array, "*b"]
    """Discounted cost from the root to here."""
    plan: Float[Array, "*b H d"]
    """A whole plan through here: the actions that led here, and the best rollout's from here on."""
    total: Float[Array, "*b"]
    """What that plan cost in the draws that it was tried in; +inf if it is not finite."""
    value: Float[Array, "*b"]
    """Estimate of the cost from here on."""
    seed: UInt32[Array, "*b w"]
    """Data of the random key that its outcomes are drawn with: a slot that is drawn again is the same."""
    options: Float[Array, "*b A d"] | None
    """Candidate actions of a box; None for choices, which are the same everywhere."""


def root(world: World, key: RandomKey) -> Node:
    """The first node, with its own rollouts."""
    k_here, k_below = jr.split(key)
    x = world.problem.x0.astype(jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    width = world.pool.shape[1:]
    blank = Node(
        x=x,
        step=zero,
        belief=zero,
        alive=jnp.ones((), bool),
        sick=jnp.zeros((), bool),
        spent=jnp.zeros((), jnp.float32),
        plan=jnp.zeros(width, jnp.float32),
        total=jnp.zeros((), jnp.float32),
        value=jnp.zeros((), jnp.float32),
        seed=jr.key_data(k_below),
        options=None,
    )
    return finished(world, blank, k_here)


def option(world: World, node: Node, action: Int[Array, ""]) -> Float[Array, " d"]:
    """A branch as a point of the search space."""
    if node.options is None:
        return 2.0 * jax.nn.one_hot(action, world.shape.actions, dtype=jnp.float32) - 1.0
    return node.options[action]


def child(world: World, node: Node, slot: Int[Array, ""]) -> tuple[Node, Array, Array]:
    """(the node that a slot leads to, the cost of getting there, the discount on what comes after).

    A branch whose numbers are not finite is sick: it costs what was expected of its parent, so that nothing is said by
    it, and is never chosen again.  Where the episode has ended the discount and all that follows are 0.
    """
    it, shape = world.problem, world.shape
    key = jr.fold_in(jr.wrap_key_data(jnp.asarray(node.seed)), slot)
    k_belief, k_steps, k_rest, k_below = jr.split(key, 4)
    action, outcome = slot // shape.outcomes, slot % shape.outcomes
    z = option(world, node, action)
    u = it.actions.decode(z).astype(jnp.float32)
    belief = _belief(world, node, outcome, k_belief)
    dynamics = _one(world, belief)

    def advance(i: Any, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        x, step, alive, cost = now
        t, k = it.t0 + step, jr.fold_in(k_steps, i)
        y, c, lives = transition(dynamics, it.cost, x, u, t, k, noise=world.how.noise)
        goes = alive & (step < it.horizon)
        weight = jnp.float32(it.discount) ** (step - node.step).astype(jnp.float32)
        cost = cost + jnp.where(goes, weight * c.astype(jnp.float32), 0.0)
        x = jnp.where(goes, y[: x.shape[0]].astype(jnp.float32), x)
        return x, step + goes.astype(jnp.int32), alive & jnp.where(goes, lives, True), cost

    start = (node.x, node.step, node.alive, jnp.zeros((), jnp.float32))
    x, step, alive, cost = jax.lax.fori_loop(0, shape.hold, advance, start)
    sick = node.sick | ~(jnp.isfinite(cost) & jnp.all(jnp.isfinite(x)))
    at = jnp.arange(node.plan.shape[0])
    plan = jnp.where(((at >= node.step) & (at < step))[:, None], z, node.plan)
    spent = node.spent + jnp.float32(it.discount) ** node.step.astype(jnp.float32) * cost
    seed = jr.key_data(k_below)
    reached = Node(x, step, belief, alive, sick, spent, plan, node.total, node.value, seed, node.options)
    reached = finished(world, reached, k_rest)
    kept = jnp.float32(it.discount) ** (step - node.step).astype(jnp.float32)
    cost = jnp.where(reached.sick, node.value, cost)
    return reached, cost, jnp.where(reached.sick | ~alive, 0.0, kept)


def _belief(world: World, node: Node, outcome: Int[Array, ""], key: RandomKey) -> Int[Array, ""]:
    """Which drawn model: outcomes of a root's action take them in turn; below, it is kept (ts-inf) or drawn (ts-1)."""
    if world.how.particles == 1:
        return node.belief
    turn = (outcome % world.how.particles).astype(jnp.int32)
    below = jr.randint(key, (), 0, world.how.particles, jnp.int32) if world.how.propagation == "ts-1" else node.belief
    return jnp.where(node.step == 0, turn, below)


def _one(world: World, belief: Int[Array, ""]) -> AbstractDynamics:
    """One of the beliefs."""
    arrays, rest = eqx.partition(world.dynamics, eqx.is_array)
    pick = 0 if world.how.particles == 1 else belief
    return eqx.combine(jax.tree.map(lambda leaf: leaf[pick], arrays), rest)


def finished(world: World, node: Node, key: RandomKey) -> Node:
    """A node with candidate actions, and with its value and plan by rollouts.

    The last plan is always among the rollouts.  Where there is one outcome the value is that of the cheapest of them:
    it is a plan that can be carried out.  Elsewhere the cheapest was lucky, and the value is their mean.
    """
    it, shape = world.problem, world.shape
    k_pick, k_option, k_roll = jr.split(key, 3)
    tails = _picked(world.pool, k_pick, shape.rollouts)
    costs = _rolled(world, node, tails, k_roll)
    fine = jnp.isfinite(costs) & ~node.sick
    best = jnp.argmin(jnp.where(fine, costs, jnp.inf))
    mean = jnp.sum(jnp.where(fine, costs, 0.0)) / jnp.maximum(jnp.sum(fine, dtype=jnp.float32), 1.0)
    value = costs[best] if world.one_way else mean
    sick = ~jnp.any(fine)
    later = jnp.arange(node.plan.shape[0])[:, None] >= node.step
    weight = jnp.float32(it.discount) ** node.step.astype(jnp.float32)
    total = node.spent + weight * costs[best]
    options = None
    if isinstance(it.actions, Box):
        here = jnp.minimum(node.step, node.plan.shape[0] - 1)
        options = _picked(world.pool, k_option, shape.actions)[:, here]
    return dataclasses.replace(
        node,
        sick=sick,
        plan=jnp.where(later, tails[best], node.plan),
        total=jnp.where(sick | ~jnp.isfinite(total), jnp.inf, total),
        value=jnp.where(sick, node.value, value),
        options=options,
    )


def _picked(pool: Float[Array, "M H d"], key: RandomKey, count: int) -> Float[Array, "r H d"]:
    """The first sequence of the pool and `count` - 1 others in a row from a random place on; a single one is any."""
    rest = pool.shape[0] - 1
    if count == 1:
        return pool[jr.randint(key, (1,), 0, rest + 1, jnp.int32)]
    others = 1 + (jr.randint(key, (), 0, rest, jnp.int32) + jnp.arange(count - 1, dtype=jnp.int32)) % rest
    return pool[jnp.concatenate([jnp.zeros((1,), jnp.int32), others])]


def _rolled(world: World, node: Node, tails: Float[Array, "r H d"], key: RandomKey) -> Float[Array, " r"]:
    """Discounted costs from the node on, each with its own noise, with the terminal cost at the end."""
    it = world.problem
    us = jax.vmap(jax.vmap(it.actions.decode))(tails).astype(jnp.float32)
    dynamics = _one(world, node.belief)
    each = lambda x, u, t, k: transition(dynamics, it.cost, x, u, t, k, noise=world.how.noise)

    def advance(step: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, alive, total = now
        keys = jr.split(jr.fold_in(key, step), us.shape[0])
        y, cost, lives = jax.vmap(each, in_axes=(0, 0, None, 0))(x, us[:, step], it.t0 + step, keys)
        weight = jnp.float32(it.discount) ** (step - node.step).astype(jnp.float32)
        total = total + jnp.where(alive, weight * cost.astype(jnp.float32), 0.0)
        return y[:, : x.shape[1]].astype(jnp.float32), alive & lives, total

    count = us.shape[0]
    x = jnp.broadcast_to(node.x, (count, node.x.shape[0]))
    start = (x, jnp.broadcast_to(node.alive, (count,)), jnp.zeros((count,), jnp.float32))
    end = jnp.minimum(node.step + jnp.int32(world.shape.rollout), jnp.int32(it.horizon))
    x, alive, total = jax.lax.fori_loop(node.step, end, advance, start)
    closing = jax.vmap(it.cost.terminal)(x).astype(jnp.float32)
    weight = jnp.float32(it.discount) ** (end - node.step).astype(jnp.float32)
    return total + jnp.where(alive, weight * closing, 0.0)


class Row(eqx.Module):
    """What is known at one node about its actions: outcomes averaged, sick ones left out."""

    visits: Int[Array, " A"]
    q: Float[Array, " A"]
    """Mean return (minus cost) of each action over the draws of its outcomes."""
    blocked: Bool[Array, " A"]
    """Actions all of whose outcomes were sick."""
    each: Int[Array, "A C"]
    """Visits of every outcome."""
    sick: Bool[Array, "A C"]
    same: Bool[Array, "A C C"]
    """Which outcomes of an action are one and the same state."""


def row(tree: Any, node: Array, shape: Shape) -> Row:
    """The averages at one node of an mctx tree without a batch.

    Every draw counts once, however often what came after it was looked into; draws of the same state share what is
    known about it.
    """
    split = lambda v: v[node].reshape(shape.actions, shape.outcomes)
    index, each = split(tree.children_index), split(tree.children_visits)
    sick = (index >= 0) & tree.embeddings.sick[index]
    q = split(tree.children_rewards) + split(tree.children_discounts) * split(tree.children_values)
    counted = jnp.where(sick, 0, each)
    visits = jnp.sum(counted, axis=1, dtype=jnp.int32)
    same = jnp.ones((shape.actions, 1, 1), bool)
    if shape.outcomes > 1:
        drawn = counted > 0
        x, belief = tree.embeddings.x[index], tree.embeddings.belief[index]
        same = jnp.all(x[:, :, None] == x[:, None], axis=-1) & (belief[:, :, None] == belief[:, None])
        rewards = split(tree.children_rewards)
        same = same & (rewards[:, :, None] == rewards[:, None]) & drawn[:, :, None] & drawn[:, None]
        shared = jnp.sum(jnp.where(same, (counted * q)[:, None], 0.0), axis=2, dtype=q.dtype)
        q = shared / jnp.maximum(jnp.sum(jnp.where(same, counted[:, None], 0), axis=2), 1).astype(q.dtype)
        counted = drawn
    times = jnp.maximum(jnp.sum(counted, axis=1), 1).astype(q.dtype)
    mean = jnp.sum(jnp.where(counted > 0, q * counted, 0.0), axis=1, dtype=q.dtype) / times
    return Row(visits, mean, jnp.all(sick, axis=1), each, sick, same)


def open_actions(known: Row, shape: Shape) -> Bool[Array, " A"]:
    """Which of a box's candidates may be looked into: progressive widening.

    After N visits ceil(k N^a) have been tried, as far as there are places: a new one is taken as soon as there is room.
    """
    k, power = shape.widening
    tried = (known.visits > 0) | known.blocked
    visit = jnp.sum(known.visits, dtype=jnp.float32) + 1.0
    # What is a whole number on paper may be a little more in float32, which must not become one child more.
    room = jnp.ceil(k * visit**power - 1e-4).astype(jnp.int32)
    fresh = ~tried & (jnp.cumsum(~tried) == 1)
    wider = (jnp.sum(tried & ~known.blocked) < room) & jnp.any(fresh)
    none = ~jnp.any(tried & ~known.blocked)
    return jnp.where(wider | none, fresh, tried & ~known.blocked)


def alone(tree: Any, node: Array, known: Row, usable: Bool[Array, " A"], mctx: ModuleType) -> Any:
    """A tree with the one node, in which each action has one outcome: its average."""
    zeros, count = jnp.zeros_like(known.q)[None], jnp.sum(known.visits, dtype=jnp.int32)
    return mctx.Tree(
        node_visits=count[None] + 1,
        raw_values=tree.raw_values[node][None],
        node_values=tree.node_values[node][None],
        parents=jnp.full((1,), -1, jnp.int32),
        action_from_parent=jnp.full((1,), -1, jnp.int32),
        children_index=jnp.full_like(known.visits, -1)[None],
        children_prior_logits=jnp.where(usable, 0.0, -1e9).astype(zeros.dtype)[None],
        children_values=zeros,
        children_visits=known.visits[None],
        children_rewards=known.q[None],
        children_discounts=zeros,
        embeddings=None,
        root_invalid_actions=(~usable).astype(zeros.dtype),
        extra_data=tree.extra_data,
    )


def choose_slot(known: Row, action: Array, shape: Shape) -> Array:
    """The outcome to look into: a new draw while the action has fewer than ceil(N^growth), or the one that was looked
    into least for as often as it was drawn, at its first draw."""
    if shape.outcomes == 1:
        return action
    each, sick, same = known.each[action], known.sick[action], known.same[action]
    drawn = jnp.sum((each > 0) & ~sick)
    room = jnp.ceil((known.visits[action] + 1.0).astype(jnp.float32) ** shape.growth - 1e-4).astype(jnp.int32)
    empty = each == 0
    fresh = (drawn < room) & jnp.any(empty)
    looked = jnp.sum(jnp.where(same, each, 0), axis=1) / jnp.maximum(jnp.sum(same, axis=1), 1)
    first = jnp.argmax(same, axis=1) == jnp.arange(shape.outcomes)
    oldest = jnp.argmin(jnp.where(sick | empty | ~first, jnp.inf, looked.astype(jnp.float32)))
    return action * shape.outcomes + jnp.where(fresh, jnp.argmax(empty), oldest).astype(jnp.int32)


def select(world: World, key: RandomKey, tree: Any, node: Array, depth: Any) -> Array:
    """The slot to descend into: mctx's rule on the averages, then an outcome.  `depth` is None at the root."""
    mctx, shape = need_mctx(), world.shape
    known = row(tree, node, shape)
    usable = ~known.blocked
    whole = shape.search == "gumbel" and depth is None  # sequential halving decides how many are looked into
    if isinstance(world.problem.actions, Box) and not whole:
        usable = open_actions(known, shape)
    view, zero = alone(tree, node, known, usable, mctx), jnp.zeros((), jnp.int32)
    completed = functools.partial(mctx.qtransform_completed_by_mix_value, value_scale=0.125 / shape.exploration)
    if shape.search == "puct":
        action = mctx.muzero_action_selection(key, view, zero, zero, pb_c_init=shape.exploration)
    elif depth is None:
        action = mctx.gumbel_muzero_root_action_selection(
            key,
            view,
            zero,
            num_simulations=shape.simulations,
            max_num_considered_actions=shape.actions,
            qtransform=completed,
        )
    else:
        action = mctx.gumbel_muzero_interior_action_selection(key, view, zero, zero, qtransform=completed)
    return choose_slot(known, action.astype(jnp.int32), shape)
