"""Soft actor-critic in cost form: a policy that pays little and stays as random as it can afford.

    Q(x, u) = c + g E[Q(y, u') + alpha log pi(u'|y)]     to the critics, y's part only where the episode goes on
    min over pi of  E[Q(x, u) + alpha log pi(u|x)]       to the policy
    alpha such that  E[-log pi] = the target entropy

Haarnoja et al., Soft actor-critic algorithms and applications, 2018.  Costs are minimised, so the pessimistic one of
several critics is the largest.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Float, Int, PyTree

from forethought.math.finite import where_all
from forethought.math.ring import Ring, Transitions, row_numbers
from forethought.math.scaling import Scaler, feature_count
from forethought.models.critics import Critics, init_critics
from forethought.policies.neural import seen
from forethought.policies.squashed_gaussian import SquashedNetwork, SquashedPolicy, head, init_squashed, squash
from forethought.types import Array, Box, Metrics, RandomKey, Scalar, Spec, State

T = TypeVar("T")


class Agent(eqx.Module):
    """What learning changes: networks, temperature, and the memory of their optimisers."""

    actor: SquashedNetwork
    critics: Critics
    targets: Critics
    """The critics' running average, which they learn from."""
    log_alpha: Scalar
    memory: tuple[PyTree, PyTree, PyTree]
    """Adam's, for actor, critics and temperature."""
    unit: Scalar
    """What the critics call 1: costs are learned in units of it."""
    updates: Int[Array, ""]
    """Gradient steps of the critics so far."""
    refused: Int[Array, ""]
    """Gradient steps of anything that were not finite, and not taken."""


class Batch(NamedTuple):
    """Rows, and how much each counts."""

    rows: Transitions
    weight: Float[Array, " B"]


class CostToGo(eqx.Module):
    """x -> what is still to be paid from x on if the policy goes on, in the task's units: a terminal cost for planners
    (`TerminalValue`).  It is the largest critic's at the mean action, so it holds the discount and the small worth of
    randomness that it was learned with."""

    agent: Agent
    spec: Spec

    def __call__(self, x: State) -> Scalar:
        """A scalar, float32."""
        x = jnp.asarray(x, jnp.float32)
        z = jnp.tanh(head(self.agent.actor, self.spec, x).mean)
        return self.agent.unit * jnp.max(_q(self.agent.critics, self.agent.actor.inputs, self.spec, x[None], z[None]))


class SoftActorCritic(eqx.Module):
    """The learner's settings."""

    width: int = 64
    depth: int = 2
    critics: int = 2
    learning_rate: float = 1e-3
    discount: float = 0.99
    target_rate: float = 0.01
    """How far the slow critics move towards the fast ones at each step."""
    batch: int = 128
    entropy: float = -0.5
    """What the policy's entropy is held at, in nats per action coordinate, where uniform actions have log 2."""
    temperature: float = 0.1
    """The first weight of the entropy, in units of the typical cost of a step."""
    actor_every: int = 4
    """Steps of the critics per step of the actor and of the temperature."""

    def init(self, spec: Spec, key: RandomKey) -> Agent:
        """Before the first step, float32."""
        return _init(self, spec, key)

    def update(
        self, agent: Agent, spec: Spec, real: Transitions, imagined: Ring, key: RandomKey
    ) -> tuple[Agent, Metrics]:
        """S steps of the critics in one compiled program, on batches of r + i rows.

        `real` [S, r, ...] are rows that were drawn for each step; the i = batch - r others are drawn from the ring, and
        do not count while it is empty.  S is a multiple of `actor_every`.  A step of the critics, of the actor or of
        the temperature that is not finite is not taken: `refused` counts them.
        """
        return _update(self, agent, spec, (real, imagined), key)

    def policy(self, agent: Agent, spec: Spec, actions: Box, *, explore: bool = False) -> SquashedPolicy:
        """What acts: with its noise while it explores, without for evaluation (and as a planner's proposal)."""
        return SquashedPolicy(agent.actor, jnp.full((), float(explore), jnp.float32), actions, spec)

    def value(self, agent: Agent, spec: Spec) -> CostToGo:
        """The cost-to-go of the current policy, for a planner to end its horizon with."""
        return CostToGo(agent, spec)


def in_units(agent: Agent, inputs: Scaler, unit: Float[Array, ""]) -> Agent:
    """The agent with its view of states, and of costs, in these units."""
    return eqx.tree_at(lambda a: (a.actor, a.unit), agent, (agent.actor._replace(inputs=inputs), unit))


@eqx.filter_jit
def _init(recipe: SoftActorCritic, spec: Spec, key: RandomKey) -> Agent:
    k_actor, k_critics = jr.split(key)
    actor = init_squashed(spec, recipe.width, recipe.depth, k_actor)
    critics = init_critics(feature_count(spec), recipe.width, recipe.depth, recipe.critics, k_critics)
    log_alpha = jnp.log(jnp.full((), recipe.temperature, jnp.float32))
    adam = optax.adam(recipe.learning_rate)
    parts: tuple[Any, ...] = (actor.layers, critics, log_alpha)
    memory = tuple(adam.init(part) for part in parts)
    zero = jnp.zeros((), jnp.int32)
    return Agent(actor, critics, critics, log_alpha, memory, jnp.ones((), jnp.float32), zero, zero)  # pyright: ignore


@eqx.filter_jit
def _update(
    recipe: SoftActorCritic, agent: Agent, spec: Spec, rows: tuple[Transitions, Ring], key: RandomKey
) -> tuple[Agent, Metrics]:
    real, ring = rows
    every = recipe.actor_every
    steps, fresh = real.cost.shape[0] // every, max(recipe.batch - real.cost.shape[1], 0)
    in_turns = lambda v: v.reshape(steps, every, *v.shape[1:])
    # All random numbers at once: drawn inside the loops they take a third of the time, and most of the compilation's.
    k_rows, k_critics, k_actor = jr.split(key, 3)
    size = real.cost.shape[1] + fresh
    index = row_numbers(ring, k_rows, (steps * every, fresh))
    noise = jr.normal(k_critics, (steps * every, size, spec.m), jnp.float32)
    actors = jr.normal(k_actor, (steps, size, spec.m), jnp.float32)
    weight = jnp.concatenate([jnp.ones((size - fresh,), jnp.float32), jnp.full((fresh,), ring.filled > 0, jnp.float32)])

    def batch(real: Transitions, index: Array) -> Batch:
        both = [jnp.concatenate([own, seen[index]]) for own, seen in zip(real, ring.rows, strict=True)]
        return Batch(Transitions(*both), weight)

    def criticise(agent: Agent, inputs: tuple[Transitions, Array, Array]) -> tuple[Agent, Array]:
        real, index, noise = inputs
        return step_critics(recipe, agent, spec, batch(real, index), noise)

    def together(agent: Agent, inputs: tuple[tuple[Any, ...], Array]) -> tuple[Agent, tuple[Array, ...]]:
        turn, noise = inputs
        agent, losses = jax.lax.scan(criticise, agent, turn)
        real, index, _ = jax.tree.map(lambda v: v[-1], turn)
        agent, told = step_actor(recipe, agent, spec, batch(real, index), noise)
        return agent, (jnp.mean(losses), *told)

    after, told = jax.lax.scan(together, agent, (jax.tree.map(in_turns, (real, index, noise)), actors))
    names = ("critic_loss", "cost_to_go", "entropy")
    metrics: Metrics = {name: jnp.mean(value) for name, value in zip(names, told, strict=True)}
    refused = after.refused - agent.refused
    return after, metrics | {"temperature": jnp.exp(after.log_alpha) * after.unit, "refused": refused}


def targets_of(recipe: SoftActorCritic, agent: Agent, spec: Spec, rows: Transitions, noise: Array) -> Array:
    """c + g (1 - ends) [max_k Q_k(y, z') + alpha log pi(z'|y)] in the critics' units, z' from standard
    normal noise [B m]; [B]."""
    at = jax.vmap(lambda y: head(agent.actor, spec, y))(rows.y)
    z, log_p = jax.vmap(squash)(at, noise)
    ahead = jnp.max(_q(agent.targets, agent.actor.inputs, spec, rows.y, z), axis=0) + jnp.exp(agent.log_alpha) * log_p
    # Where an episode has ended nothing is added, not even a NaN times zero.
    return rows.cost / agent.unit + jnp.float32(recipe.discount) * jnp.where(rows.ends, 0.0, ahead)


def step_critics(recipe: SoftActorCritic, agent: Agent, spec: Spec, batch: Batch, noise: Array) -> tuple[Agent, Scalar]:
    """One step of Adam on mean_B sum_k (Q_k - target)^2/2, and the slow critics a little after; and that loss."""
    rows, weight = batch
    wanted = targets_of(recipe, agent, spec, rows, noise)
    total = jnp.maximum(jnp.sum(weight), 1.0)

    def loss(critics: Critics) -> Array:
        off = _q(critics, agent.actor.inputs, spec, rows.x, rows.z) - wanted
        # Before the square: of what has no weight the slope is none, either, whatever it cost.
        off = jnp.where(weight > 0.0, off, 0.0)
        return 0.5 * jnp.sum(weight * off**2) / total

    value, slope = eqx.filter_value_and_grad(loss)(agent.critics)
    change, memory = optax.adam(recipe.learning_rate).update(slope, agent.memory[1])
    critics = _moved(agent.critics, change)
    rate = jnp.float32(recipe.target_rate)
    slow = jax.tree.map(lambda old, new: old + rate * (new - old), agent.targets, critics)
    ok = _finite((value, slope, critics))
    new = where_all(ok, (critics, slow, memory), (agent.critics, agent.targets, agent.memory[1]))
    counts = agent.updates + ok.astype(jnp.int32), agent.refused + (~ok).astype(jnp.int32)
    where = lambda a: (a.critics, a.targets, a.memory[1], a.updates, a.refused)
    return eqx.tree_at(where, agent, (*new, *counts)), value


def step_actor(
    recipe: SoftActorCritic, agent: Agent, spec: Spec, batch: Batch, noise: Array
) -> tuple[Agent, tuple[Scalar, Scalar]]:
    """One step of Adam on mean_B [max_k Q_k(x, z) + alpha log pi(z|x)], z from noise [B m] so that its gradient flows,
    and one of the temperature towards the target entropy; and the mean cost-to-go in the task's units, and entropy."""
    rows, weight = batch
    share = weight / jnp.maximum(jnp.sum(weight), 1.0)
    mean = lambda v: jnp.sum(jnp.where(weight > 0.0, share * v, 0.0))

    def loss(layers: tuple) -> tuple[Array, tuple[Array, Array]]:
        actor = agent.actor._replace(layers=layers)
        z, log_p = jax.vmap(squash)(jax.vmap(lambda x: head(actor, spec, x))(rows.x), noise)
        q = mean(jnp.max(_q(agent.critics, actor.inputs, spec, rows.x, z), axis=0))
        return q + jnp.exp(agent.log_alpha) * mean(log_p), (q, -mean(log_p))

    adam = optax.adam(recipe.learning_rate)
    (value, (q, entropy)), slope = eqx.filter_value_and_grad(loss, has_aux=True)(agent.actor.layers)
    change, memory = adam.update(slope, agent.memory[0])
    layers = _moved(agent.actor.layers, change)
    # d/d log alpha of alpha (entropy - target): alpha falls while the policy is more random than it need be.
    surplus = entropy - jnp.float32(recipe.entropy * spec.m)
    moved, memory_alpha = adam.update(jnp.exp(agent.log_alpha) * surplus, agent.memory[2])
    log_alpha = _moved(agent.log_alpha, moved)
    ok = _finite((value, slope, layers, log_alpha))
    old = (agent.actor.layers, agent.log_alpha, agent.memory[0], agent.memory[2])
    new = where_all(ok, (layers, log_alpha, memory, memory_alpha), old)
    where = lambda a: (a.actor.layers, a.log_alpha, a.memory[0], a.memory[2], a.refused)
    return eqx.tree_at(where, agent, (*new, agent.refused + (~ok).astype(jnp.int32))), (agent.unit * q, entropy)


def _q(critics: Critics, inputs: Scaler, spec: Spec, xs: Float[Array, "B n"], zs: Float[Array, "B m"]) -> Array:
    """Q of each critic [K, B], in the critics' units."""
    view = lambda x, z: jnp.concatenate([inputs.scale(seen(spec, x)), z])
    return critics(jax.vmap(view)(xs, zs))


def _moved(parameters: T, change: Any) -> T:
    return jax.tree.map(lambda p, c: p + c, parameters, change)


def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
