"""The one place where a model is unrolled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int, Key, PyTree

from forethought.core import AbstractAveraged, AbstractCost, AbstractDynamics, Problem
from forethought.math.gaussian import DiagonalGaussian, Wrapped
from forethought.math.ring import Transitions
from forethought.types import Action, Array, Flag, RandomKey, Scalar, State, Time

T = TypeVar("T")


class Imagination(eqx.Module):
    """How plans are tried out inside the model."""

    particles: int = 5
    """Imagined rollouts per plan, each through one drawn model (with ts-inf and ts-1)."""
    propagation: Literal["auto", "mean", "ts-inf", "ts-1"] = "auto"
    """mean: one rollout through the mean predictions, without noise, as if they were certain; ts-inf: particles, each
    of which keeps one drawn model for the whole horizon; ts-1: the models are shuffled at each step; auto: the mean
    where a prediction is one Gaussian and no risk is asked for, otherwise ts-inf."""
    noise: bool = True
    """Whether the model's own noise is added at each step (with ts-inf and ts-1)."""
    risk: float = 0.0
    """Plans are ranked by mean + risk * standard deviation of the cost over particles; below 0 seeks uncertainty."""


def imagine(
    how: Imagination, dynamics: AbstractDynamics, problem: Problem, us: Float[Array, "N H m"], key: RandomKey
) -> Float[Array, "P N"]:
    """Discounted cost of N open-loop plans for each of the P particles in `dynamics` (the result of `draw`).

    J = sum_{h<H} g^h c(x_h, u_h, y_h, t0+h) + g^H c_T(x_H), with x_{h+1} the first n entries of y_h, no cost after
    the imagined episode has ended, and +inf where anything on the way was not finite.  All plans share the particles'
    random numbers, so that differences between plans are not noise.
    """
    us = jnp.swapaxes(us.astype(jnp.float32), 0, 1)
    keys = jr.split(key, (us.shape[0], how.particles + 1))
    if how.propagation == "ts-1":
        total = _shuffled(how, dynamics, problem, us, keys)
    else:
        # Only arrays are mapped: a belief may hold plain numbers beside them (a user's physics).
        beliefs, rest = eqx.partition(dynamics, eqx.is_array)
        one = functools.partial(_particle, rest=rest, problem=problem, us=us, noise=how.noise)
        # On a CPU one particle's matrix products fill a core, and one after the other they stay in its cache (1.4 times
        # as fast for 4x200 networks); elsewhere all of them at once fill the device.
        total = jax.lax.platform_dependent(
            beliefs,
            jnp.swapaxes(keys[:, :-1], 0, 1),
            cpu=lambda b, k: jax.lax.map(lambda each: one(*each), (b, k)),
            default=jax.vmap(one),
        )
    return jnp.where(jnp.isfinite(total), total, jnp.inf)


class _Tally(NamedTuple):
    """A rollout on its way: states [N, n], whether the episodes go on [N], and their costs so far [N]."""

    x: Array
    alive: Array
    total: Array


def _advance(
    dynamics: AbstractDynamics, problem: Problem, now: _Tally, inputs: tuple[Array, Array, RandomKey], *, noise: bool
) -> _Tally:
    """N plans one step further in one belief; they share the random numbers of the step."""
    u, h, key = inputs
    each_plan = jax.vmap(functools.partial(transition, noise=noise), in_axes=(None, None, 0, 0, None, None))
    y, cost, lives = each_plan(dynamics, problem.cost, now.x, u, problem.t0 + h, key)
    weight = jnp.float32(problem.discount) ** h.astype(jnp.float32)
    # Where an episode has ended nothing is added, not even a NaN times zero.
    total = now.total + jnp.where(now.alive, weight * cost.astype(jnp.float32), 0.0)
    return _Tally(y[..., : now.x.shape[-1]], now.alive & lives, total)


def _began(problem: Problem, count: int) -> _Tally:
    """N rollouts before their first step."""
    x0 = jnp.broadcast_to(problem.x0.astype(jnp.float32), (count, problem.x0.shape[0]))
    return _Tally(x0, jnp.ones((count,), bool), jnp.zeros((count,), jnp.float32))


def _closed(problem: Problem, end: _Tally, horizon: int) -> Float[Array, " N"]:
    """The costs with the terminal one, where the episode still goes on."""
    terminal = jax.vmap(problem.cost.terminal)(end.x).astype(jnp.float32)
    return end.total + jnp.where(end.alive, jnp.float32(problem.discount) ** horizon * terminal, 0.0)


def _particle(
    belief: PyTree,
    keys: Key[jax.Array, " H"],
    *,
    rest: PyTree,
    problem: Problem,
    us: Float[Array, "H N m"],
    noise: bool,
) -> Float[Array, " N"]:
    """ts-inf: one belief for the whole horizon."""
    dynamics = eqx.combine(belief, rest)
    steps = jnp.arange(us.shape[0], dtype=jnp.int32)
    advance = lambda now, inputs: (_advance(dynamics, problem, now, inputs, noise=noise), None)
    end, _ = jax.lax.scan(advance, _began(problem, us.shape[1]), (us, steps, keys))
    return _closed(problem, end, us.shape[0])


def _shuffled(
    how: Imagination,
    dynamics: AbstractDynamics,
    problem: Problem,
    us: Float[Array, "H N m"],
    keys: Key[jax.Array, "H Q"],
) -> Float[Array, "P N"]:
    """ts-1: particles change beliefs at each step, by a permutation, and take their cost so far along."""
    step = functools.partial(_advance, noise=how.noise)
    each_particle = eqx.filter_vmap(step, in_axes=(eqx.if_array(0), None, 0, (None, None, 0)))

    def advance(now, inputs):
        u, h, k = inputs
        order = jr.permutation(k[-1], how.particles)
        now = jax.tree.map(lambda leaf: leaf[order], now)
        return each_particle(dynamics, problem, now, (u, h, k[:-1])), None

    began = jax.tree.map(lambda v: jnp.broadcast_to(v, (how.particles, *v.shape)), _began(problem, us.shape[1]))
    end, _ = jax.lax.scan(advance, began, (us, jnp.arange(us.shape[0], dtype=jnp.int32), keys))
    return jax.vmap(lambda e: _closed(problem, e, us.shape[0]))(end)


def transition(
    dynamics: AbstractDynamics, cost: AbstractCost, x: State, u: Action, t: Time, key: RandomKey, *, noise: bool
) -> tuple[Float[Array, " k"], Scalar, Flag]:
    """One imagined transition, its cost, and whether the episode goes on."""
    prediction = dynamics.predict(x, u, t)
    y = prediction.sample(key) if noise else prediction.mean
    y = y.astype(x.dtype)
    # A belief that says NaN about anything, be it only whether the episode has ended, must not look cheap.
    charged = jnp.where(jnp.all(jnp.isfinite(y)), cost.stage(x, u, y, t), jnp.inf)
    return y, charged, cost.alive(y)


class Scored(NamedTuple):
    """What N plans cost, and what is to be known about it."""

    costs: Float[Array, " N"]
    """mean + risk * std over particles; +inf if that is not finite."""
    left_out: Int[Array, ""]
    """Particles in which no plan at all had a finite cost."""
    tied: Bool[Array, ""]
    """Whether all plans cost the same finite number: there was nothing to choose between."""


def appraise(how: Imagination, problem: Problem, z: Float[Array, "N H d"], key: RandomKey) -> Scored:
    """What each of N plans in search coordinates costs in the model.

    A particle in which no plan has a finite cost says nothing about which of them is best: it is sick (a member of an
    ensemble that has become NaN, say) and left out of mean and spread.  If all are, every plan costs +inf.  A plan
    that is not finite in a particle in which others are costs +inf: the fault is the plan's.  With "ts-1" every
    particle passes through every belief, so that one sick belief makes all particles sick.
    """
    k_draw, k_roll = jr.split(key)
    how, dynamics = beliefs(how, problem, k_draw)
    us = jax.vmap(jax.vmap(problem.actions.decode))(z)
    each = imagine(how, dynamics, problem, us, k_roll)
    healthy = jnp.any(jnp.isfinite(each), axis=1)
    total = jnp.where(jnp.all(healthy), _ranked(how, each), _ranked_without(how, each, healthy))
    costs = jnp.where(jnp.isfinite(total), total, jnp.inf)
    left_out = jnp.sum(~healthy, dtype=jnp.int32)
    return Scored(costs, left_out, jnp.isfinite(costs[0]) & jnp.all(costs == costs[0]))


def certain(how: Imagination, problem: Problem) -> bool:
    """Whether plans are tried out in one belief without noise: then a sequence of actions has one outcome."""
    return how.propagation == "mean" or (how.propagation == "auto" and how.risk == 0.0 and _has_one_way(problem))


def beliefs(how: Imagination, problem: Problem, key: RandomKey) -> tuple[Imagination, AbstractDynamics]:
    """What plans are tried out in: the drawn models, stacked, and the settings with "auto" decided."""
    if certain(how, problem):
        known = needed(how, problem.dynamics)
        how = dataclasses.replace(how, particles=1, propagation="ts-inf", noise=False)
        return how, jax.tree.map(lambda leaf: leaf[None] if eqx.is_array(leaf) else leaf, known)
    return how, problem.dynamics.draw(key, how.particles)


def needed(how: Imagination, dynamics: AbstractDynamics) -> AbstractDynamics:
    """What of a model plans are tried out in: its average if they need no more.

    Whoever holds a plan's model from call to call holds this: a Gaussian process grows with its data, and with it
    every program that it is an argument of would be compiled anew; its average soon does not.
    """
    certain = how.propagation == "mean" or (how.propagation == "auto" and how.risk == 0.0)
    return dynamics.average() if certain and isinstance(dynamics, AbstractAveraged) else dynamics


def copies(tree: T, particles: int) -> T:
    """Its arrays, `particles` times along a new leading axis: the draw of a model that has no doubt about itself."""
    repeat = lambda leaf: jnp.broadcast_to(leaf, (particles, *leaf.shape)) if eqx.is_array(leaf) else leaf
    return jax.tree.map(repeat, tree)


class Certain(AbstractDynamics):
    """One belief, for as many particles as are asked for: what a model's drawn beliefs would say on average."""

    inner: AbstractDynamics

    def predict(self, x: State, u: Action, t: Time) -> Any:
        """What the belief says."""
        return self.inner.predict(x, u, t)

    def draw(self, key: RandomKey, particles: int) -> Certain:
        """Copies."""
        del key
        return copies(self, particles)


def _has_one_way(problem: Problem) -> bool:
    """Whether predictions are single Gaussians, whose mean is somewhere the system may be."""
    x, t = problem.x0, jnp.asarray(problem.t0)
    ask = lambda dynamics: dynamics.predict(x, problem.actions.safe(), t)
    said = eqx.filter_eval_shape(ask, problem.dynamics)
    return isinstance(said.unwrapped if isinstance(said, Wrapped) else said, DiagonalGaussian)


def _ranked(how: Imagination, each: Float[Array, "P N"]) -> Float[Array, " N"]:
    """mean + risk * std over particles."""
    total = jnp.mean(each, axis=0)
    return total if how.risk == 0.0 else total + how.risk * jnp.std(each, axis=0)


def _ranked_without(how: Imagination, each: Float[Array, "P N"], healthy: Bool[Array, " P"]) -> Float[Array, " N"]:
    """The same over the healthy particles; NaN if there is none."""
    # Their own formula: with the plain one, a count that is not known when compiling would round differently.
    mean = lambda v: jnp.sum(jnp.where(healthy[:, None], v, 0.0), axis=0) / jnp.sum(healthy, dtype=v.dtype)
    total = mean(each)
    return total if how.risk == 0.0 else total + how.risk * jnp.sqrt(mean((each - total) ** 2))


def score(how: Imagination, problem: Problem, z: Float[Array, "N H d"], key: RandomKey) -> Float[Array, " N"]:
    """The costs of `appraise`, for a planner that has no use for the rest."""
    return appraise(how, problem, z, key).costs


def predict_ahead(dynamics: AbstractDynamics, x0: State, us: Float[Array, "H m"], t0: Time) -> Float[Array, "H n"]:
    """The states that the mean predictions pass through under the given actions."""

    def advance(x, inputs):
        u, h = inputs
        y = dynamics.predict(x, u, t0 + h).mean[: x.shape[0]].astype(x.dtype)
        return y, y

    steps = jnp.arange(us.shape[0], dtype=jnp.int32)
    return jax.lax.scan(advance, x0, (us, steps))[1]


def branch(
    beliefs: AbstractDynamics,
    cost: AbstractCost,
    choose: Callable[[State, RandomKey], Float[Array, " d"]],
    decode: Callable[[Float[Array, " d"]], Action],
    starts: Float[Array, "P N n"],
    keys: Key[jax.Array, "H P"],
) -> tuple[Transitions, Bool[Array, "H P N"]]:
    """Short rollouts from given states: z = choose(x, key), y drawn from belief p for the rollouts [p], H steps.

    The second result says which transitions are to be believed in: those of episodes that had not ended before, with
    nothing but finite numbers; a rollout with another number is over.  Janner et al., When to trust your model, 2019.
    """
    n = starts.shape[2]

    def one(belief: AbstractDynamics, x: State, key: RandomKey) -> tuple[Transitions, Flag]:
        k_act, k_next = jr.split(key)
        z = choose(x, k_act)
        y, price, lives = transition(belief, cost, x, decode(z), jnp.zeros((), jnp.int32), k_next, noise=True)
        sound = jnp.all(jnp.isfinite(y)) & jnp.isfinite(price) & jnp.all(jnp.isfinite(z))
        return Transitions(x, z, price.astype(jnp.float32), y[:n], ~lives), sound

    def of_belief(belief: AbstractDynamics, xs: Array, key: RandomKey) -> tuple[Transitions, Array]:
        return jax.vmap(one, in_axes=(None, 0, 0))(belief, xs, jr.split(key, xs.shape[0]))

    def advance(now: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], tuple[Transitions, Array]]:
        x, open_ = now
        made, sound = eqx.filter_vmap(of_belief, in_axes=(eqx.if_array(0), 0, 0))(beliefs, x, k)
        believed = open_ & sound
        return (made.y, believed & ~made.ends), (made, believed)

    began = (starts, jnp.ones(starts.shape[:2], bool))
    return jax.lax.scan(advance, began, keys)[1]
