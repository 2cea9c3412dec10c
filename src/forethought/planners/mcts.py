"""Monte Carlo tree search."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractPlanner, Plan, Problem
from forethought.math.noise import coloured
from forethought.math.rollout import Imagination, appraise, beliefs, certain
from forethought.planners.search import Searched, finish, shift_plan
from forethought.planners.tree import Node, Row, Shape, World, child, need_mctx, root, row, select
from forethought.types import Actions, Array, Choices, RandomKey

FINALISTS = 8
"""Plans that are tried once more where outcomes are uncertain."""


class MCTS(AbstractPlanner[Searched]):
    """A tree of what may be done and what may come of it, grown where it looks good.

    Branches are chosen by PUCT, argmax_a Q(a) + P(a) sqrt(N) (c + log((N + 19653)/19652)) / (1 + N(a)) with Q scaled
    to [0, 1] and P even (Rosin 2011; Silver et al. 2017; Schrittwieser et al. 2020), or by Gumbel search, which halves
    the actions at the root again and again (Danihelka et al. 2022): better where simulations are few.  The search is
    mctx's.

    Discrete actions are the branches.  Of a box's actions each node has sampled candidates, of which ceil(k N^a) are
    looked into after N visits (progressive widening: Couetoux et al. 2011); the first is the last plan's.

    Where the model is certain (`imagination`: the mean of one Gaussian) an action has one outcome.  Elsewhere each
    visit to an action may draw a new one, ceil(N^draws_power) in all: a search that keeps one draw per action, as trees
    for games do, would plan on it as if the dice could be foreseen.  With ts-inf a draw is of a belief and of the
    noise, and the belief is kept below the root.  `imagination.risk` only ranks the last few plans.

    A leaf is worth what `rollouts` short rollouts cost, the last plan's among them: the cheapest of them in a certain
    model, in which it can be carried out, otherwise their mean.  `cost.terminal` closes a rollout, so that a value that
    was learned can take the place of most of it (`rollout_steps` 0: of all of it).  Where `cost.alive` says that an
    episode has ended nothing more is charged.

    The plan is, in a certain model, the cheapest sequence of actions that was met; otherwise the root's action of the
    best mean, of those with at least half the square root of the most visits, and after it the cheapest sequence that
    goes on.  Where all that was met costs the same (the goal is beyond the horizon) it wanders: random actions, each
    held for `hold` steps.
    Needs the package mctx: pip install 'forethought[search]'.
    """

    imagination: Imagination = Imagination()
    search: Literal["puct", "gumbel"] = "puct"
    """How branches are chosen."""
    simulations: int = 64
    """Nodes that are added to the tree per plan."""
    exploration: float = 2.5
    """c of PUCT (for games, whose values are less noisy, 1.25 is usual).  Gumbel search divides its scale of values by
    it."""
    hold: int = 1
    """Steps that one branch is long: its action is held for so many."""
    candidates: int = 16
    """Sampled actions per node, where actions are continuous."""
    widening: float = 1.0
    """k: a node visited N times has at most ceil(k N^a) children."""
    widening_power: float = 0.5
    """a of that."""
    draws: int = 32
    """Outcomes per action that there is room for, where outcomes are uncertain."""
    draws_power: float = 0.9
    """An action that was taken N times has ceil(N^draws_power) outcomes, as far as there is room."""
    rollouts: int = 8
    """Rollouts from each new node."""
    rollout_steps: int = 1000
    """Steps that a rollout goes on at most; never beyond the plan's horizon."""
    sequences: int = 64
    """Sequences of actions that rollouts and candidates are taken from, drawn once per plan."""
    beta: float = 2.0
    """Colour of those: spectrum f^-beta; 0 is white."""
    narrowest: float = 0.1
    """Half of the sequences are near the last plan: at widths from 1 down to this, where actions are continuous."""

    def init(self, problem: Problem) -> Searched:
        """The middle of the action range.  Raises `UserError` if mctx is not installed."""
        need_mctx()
        return Searched(jnp.zeros((problem.horizon, problem.actions.d), jnp.float32))

    def plan(self, problem: Problem, warm: Searched, key: RandomKey) -> tuple[Plan, Searched]:
        """Grow a tree from x0 and take the best of it.  Metrics: `visits` and `values` (costs) of the root's actions,
        and the `nodes` that hold finite numbers."""
        k_draw, k_pool, k_search, k_last, k_wander = jr.split(key, 5)
        how, dynamics = beliefs(self.imagination, problem, k_draw)
        pool = self._sequences(problem.actions, warm, k_pool)
        shape = self._shape(problem, how)
        world = World(problem, how, dynamics, pool, shape)
        grown = grow(world, k_search)
        if world.one_way:  # what a sequence costs is known
            first = jnp.argmin(grown.nodes.total)
            best, cost = grown.nodes.plan[first], grown.nodes.total[first]
            left_out = (~jnp.isfinite(cost)).astype(jnp.int32)
        else:  # the cheapest was lucky, too
            finalists = _finalists(world, grown)
            scored = appraise(self.imagination, problem, finalists, k_last)
            first = jnp.argmin(scored.costs)
            best, cost, left_out = finalists[first], scored.costs[first], scored.left_out
        tied = _tied(grown)
        best = jnp.where(tied, self._wander(problem.actions, warm, k_wander), best)
        visited = grown.known.visits > 0
        metrics = {
            "visits": grown.known.visits,
            "values": jnp.where(visited, -grown.known.q, jnp.inf),
            "nodes": jnp.sum(grown.used & ~grown.nodes.sick, dtype=jnp.int32),
            "left_out": left_out,
            "tied": tied,
        }
        # A plan that cannot be told apart from nonsense leaves the warm start as it was.
        fine = jnp.isfinite(cost) & jnp.any(visited)
        cost, best = jnp.where(fine, cost, jnp.inf), jnp.where(fine, best, warm.mean)
        return finish(problem, best, cost, metrics), Searched(best)

    def shift(self, warm: Searched) -> Searched:
        """Drop the executed action, repeat the last one."""
        return Searched(shift_plan(warm.mean))

    def _wander(self, actions: Actions, warm: Searched, key: RandomKey) -> Float[Array, "H d"]:
        """Where nothing that was tried makes a difference: random actions, each held for `hold` steps, or those that
        the last plan had left.

        Staying with one action, or choosing anew at every step, would seldom come to where there is a difference.
        """
        k_when, k_what = jr.split(key)
        horizon, d = warm.mean.shape
        drawn = jr.normal(k_what, (-(-horizon // self.hold), d), jnp.float32)
        drawn = actions.clip(jnp.repeat(drawn, self.hold, axis=0)[:horizon])
        stay = jr.bernoulli(k_when, 1.0 - 1.0 / horizon) & jnp.any(warm.mean != 0.0)
        return jnp.where(stay, warm.mean, drawn)

    def _shape(self, problem: Problem, how: Imagination) -> Shape:
        actions = problem.actions
        draws = self.draws if how.noise or how.propagation == "ts-1" else min(self.draws, how.particles)
        return Shape(
            search=self.search,
            simulations=self.simulations,
            actions=actions.d if isinstance(actions, Choices) else self.candidates,
            outcomes=1 if certain(self.imagination, problem) else draws,
            widening=(self.widening, self.widening_power),
            growth=self.draws_power,
            exploration=self.exploration,
            hold=self.hold,
            rollouts=min(self.rollouts, self.sequences),
            rollout=self.rollout_steps,
        )

    def _sequences(self, actions: Actions, warm: Searched, key: RandomKey) -> Float[Array, "M H d"]:
        """The last plan, others near it, and as many that have nothing to do with it."""
        near, far = self.sequences // 2, self.sequences - self.sequences // 2
        noise = coloured(key, (near + far, *warm.mean.shape), self.beta)
        # Scores of choices are compared, not carried out: narrow noise would only repeat the last plan.
        narrowest = 1.0 if isinstance(actions, Choices) else self.narrowest
        width = narrowest ** jnp.linspace(0.0, 1.0, near, dtype=jnp.float32)
        around = warm.mean + width[:, None, None] * noise[:near]
        return actions.clip(jnp.concatenate([warm.mean[None], around, noise[near:]]))


class Grown(NamedTuple):
    """A finished search."""

    nodes: Node
    """All places for nodes, the root first."""
    used: Bool[Array, " N"]
    """Places that were needed: none for a branch at the horizon that was looked into again."""
    known: Row
    """The averages at the root."""
    action: Int[Array, ""]
    """The root's branch that the search would take."""


def grow(world: World, key: RandomKey) -> Grown:
    """The tree of a problem, by `mctx.search`."""
    mctx, shape = need_mctx(), world.shape
    k_root, k_gumbel, k_search = jr.split(key, 3)
    first = root(world, k_root)
    slots = jnp.zeros((1, shape.actions * shape.outcomes), jnp.float32)
    gumbel = jr.gumbel(k_gumbel, (1, shape.actions), jnp.float32)
    tree = mctx.search(
        params=world,
        rng_key=k_search,
        root=mctx.RootFnOutput(prior_logits=slots, value=-first.value[None], embedding=_batched(first)),
        recurrent_fn=expand,
        root_action_selection_fn=functools.partial(select, world, depth=None),
        interior_action_selection_fn=functools.partial(select, world),
        num_simulations=shape.simulations,
        # Beyond the horizon there is nothing: a branch that ends there is drawn again, which gives the same.
        max_depth=-(-world.problem.horizon // shape.hold),
        extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=gumbel) if shape.search == "gumbel" else None,
    )
    tree = jax.tree.map(lambda leaf: leaf[0], tree)
    known = row(tree, jnp.zeros((), jnp.int32), shape)
    # The most visited is late to notice that it was lucky in its first draws; the best of all may still be lucky.
    often = (known.visits > 0) & (4 * known.visits**2 >= jnp.max(known.visits))
    used = tree.node_visits > 0
    nodes = eqx.tree_at(lambda n: n.total, tree.embeddings, jnp.where(used, tree.embeddings.total, jnp.inf))
    return Grown(nodes, used, known, jnp.argmax(jnp.where(often, known.q, -jnp.inf)).astype(jnp.int32))


def expand(world: World, key: RandomKey, slot: Int[Array, " 1"], node: Node) -> tuple[Any, Node]:
    """`child` as mctx asks for it: with a batch of one, and returns in the place of costs."""
    del key  # every node has its own
    reached, cost, discount = child(world, jax.tree.map(lambda leaf: leaf[0], node), slot[0])
    output = need_mctx().RecurrentFnOutput(
        reward=-cost[None],
        discount=discount[None],
        prior_logits=jnp.zeros((1, world.shape.actions * world.shape.outcomes), jnp.float32),
        value=-reached.value[None],
    )
    return output, _batched(reached)


def _batched(node: Node) -> Node:
    return jax.tree.map(lambda leaf: leaf[None], node)


def _finalists(world: World, grown: Grown) -> Float[Array, "K H d"]:
    """The sequences that cost least when they were met, of those that begin with the root's choice."""
    nodes = grown.nodes
    totals, count = nodes.total, min(FINALISTS, nodes.total.shape[0])
    if nodes.options is None:
        first = 2.0 * jax.nn.one_hot(grown.action, world.shape.actions, dtype=jnp.float32) - 1.0
    else:
        first = nodes.options[0, grown.action]
    # The root's own plan is a sequence of the pool, of which no branch need be the beginning.
    begins = jnp.all(nodes.plan[:, 0] == first, axis=-1) & (jnp.arange(totals.shape[0]) > 0)
    _, index = jax.lax.top_k(-jnp.where(begins, totals, jnp.inf), count)
    plans = nodes.plan[index]
    # Where fewer nodes begin with it than there are finalists, the others begin with it too, whatever they were.
    return plans.at[:, 0].set(first)


def _tied(grown: Grown) -> Array:
    """Whether nowhere in the tree one sequence was cheaper than another, rounding aside."""
    totals = grown.nodes.total
    low, high = jnp.min(totals), jnp.max(jnp.where(grown.used, totals, -jnp.inf))
    return jnp.isfinite(high) & (high - low <= 1e-5 * jnp.maximum(jnp.abs(low), jnp.abs(high)))
