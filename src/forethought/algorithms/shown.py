"""A start for v2.0's policy: a planner shows it what to do in the model, and it learns that by heart.

Backpropagation through a swing-up ends in the nearest local minimum, which is most often a bad one.  Planners search
more widely, so their plans are where the descent begins; what they cannot do, answer to every state at once and to what
is not known of the model, is what the descent is for.  Levine and Koltun, Guided policy search, ICML 2013, begin there,
too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float, Int

from forethought.algorithms.beginnings import NEAR
from forethought.algorithms.improve import Imagined, Improvement, trained_leaves
from forethought.core import AbstractCost, AbstractDynamics, AbstractPlanner, AbstractPolicy, Problem
from forethought.math.finite import where_all
from forethought.math.rollout import Imagination, needed, transition
from forethought.policies.actor import Actor, placed
from forethought.types import Array, Box, Metrics, RandomKey, Scalar, State

COPIES = 16
"""Imagined rollouts of each plan."""
NOISE = 0.2
"""Standard deviation of their actions' noise, in half ranges: what is shown is how to come back, too."""
STEPS = 1000
"""Of Adam, to learn it by heart."""
RATE = 0.01
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Show:
    """What is compiled in."""

    planner: AbstractPlanner
    plans: int
    horizon: int
    discount: float


class Shown(NamedTuple):
    """States, what the planner's policy does there, and whether a row is to be believed."""

    x: Float[Array, "B n"]
    z: Float[Array, "B d"]
    """In half ranges."""
    use: Float[Array, " B"]
    cost: Scalar
    """What the plans that succeeded are expected to cost, on average; +inf if there is none."""


@eqx.filter_jit
def show(how: Show, at: Imagined, box: Box, key: RandomKey) -> Shown:
    """Plans from so many of the start states, each followed in drawn models from nearby, with noise."""
    k_rows, k_plan = jr.split(key)
    starts = at.pool[jr.randint(k_rows, (how.plans,), 0, at.pool.shape[0])]
    imagination = getattr(how.planner, "imagination", None)
    model = needed(imagination, at.model) if isinstance(imagination, Imagination) else at.model

    def one(inputs: tuple[Array, RandomKey]) -> tuple[Array, Array, Array, Array]:
        x0, key = inputs
        k_solve, k_draw, k_near, k_roll = jr.split(key, 4)
        problem = Problem(model, at.cost, box, x0, jnp.zeros((), jnp.int32), how.horizon, how.discount)
        plan, _ = how.planner.plan(problem, how.planner.init(problem), k_solve)
        beliefs, rest = eqx.partition(at.model.draw(k_draw, COPIES), eqx.is_array)
        near = x0 + NEAR * at.stretch.scale * jr.normal(k_near, (COPIES, *x0.shape), x0.dtype)

        def follow(belief: AbstractDynamics, x: State, keys: Array) -> tuple[Array, Array]:
            return _followed(eqx.combine(belief, rest), at.cost, (plan.policy, box), x, keys)

        xs, zs = jax.vmap(follow)(beliefs, near, jr.split(k_roll, (COPIES, how.horizon)))
        return xs, zs, jnp.broadcast_to(plan.ok, xs.shape[:2]), jnp.where(plan.ok, plan.cost, jnp.nan)

    x, z, ok, cost = jax.lax.map(one, (starts, jr.split(k_plan, how.plans)))
    flat = lambda v: v.reshape(-1, v.shape[-1])
    use = ok.reshape(-1) & jnp.all(jnp.isfinite(flat(x)), axis=1) & jnp.all(jnp.isfinite(flat(z)), axis=1)
    mean = jnp.nanmean(cost)
    clean = lambda v: jnp.where(use[:, None], flat(v), 0.0)
    return Shown(clean(x), clean(z), use.astype(jnp.float32), jnp.where(jnp.isfinite(mean), mean, jnp.inf))


def _followed(
    belief: AbstractDynamics, cost: AbstractCost, who: tuple[AbstractPolicy, Box], x0: State, keys: Array
) -> tuple[Float[Array, "H n"], Float[Array, "H d"]]:
    """The states of one rollout, and what the policy would do there without the noise that was added."""
    policy, box = who
    k_init, k_first = jr.split(keys[0])

    def step(now: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        x, carry = now
        t, key = inputs
        k_act, k_next = jr.split(key)
        u, carry = policy.act(carry, x, t)
        z = box.encode(u)
        tried = jnp.clip(z + NOISE * jr.normal(k_act, z.shape, z.dtype), -1.0, 1.0)
        y, _, _ = transition(belief, cost, x, box.decode(tried).astype(jnp.float32), t, k_next, noise=True)
        return (y[: x.shape[0]], carry), (x, z.astype(jnp.float32))

    keys = jnp.concatenate([k_first[None], keys[1:]])
    return jax.lax.scan(step, (x0, policy.init(x0, k_init)), (jnp.arange(len(keys), dtype=jnp.int32), keys))[1]


@eqx.filter_jit
def learn_by_heart(actor: Actor, shown: Shown, rows: Int[Array, ""], key: RandomKey) -> tuple[Actor, Scalar]:
    """Adam on the mean of |z(x) - z|^2 over so many of the first rows; the second result is that mean at the end.

    z is in half ranges.  A policy that would not be finite is not taken.
    """
    trained, fixed = eqx.partition(actor, trained_leaves(actor))
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    box = actor.actions

    def loss(trained: Actor, rows: Array) -> Scalar:
        who = eqx.combine(trained, fixed)
        off = jax.vmap(lambda x: box.encode(who(x)))(shown.x[rows]) - shown.z[rows]
        weight = shown.use[rows]
        return jnp.sum(weight * jnp.sum(off**2, axis=1)) / jnp.maximum(jnp.sum(weight), 1.0)

    def step(carry: tuple, key: RandomKey) -> tuple[tuple, Scalar]:
        trained, memory = carry
        value, slope = jax.value_and_grad(loss)(trained, jr.randint(key, (BATCH,), 0, rows))
        change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(trained, change), memory), value

    (after, _), losses = jax.lax.scan(step, (trained, optimiser.init(trained)), jr.split(key, STEPS))
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(after)]))
    return eqx.combine(where_all(sound, after, trained), fixed), jnp.mean(losses[-100:])


Improver = Callable[[Improvement, int, RandomKey], tuple[Improvement, Metrics]]
"""(what to improve, by which part of all steps: 1 for all, 2 for a half, key) -> (it, improved, what to log)."""


def improve_from_shown(
    how: Show, improver: Improver, now: Improvement, fresh: Actor, at: Imagined, key: RandomKey
) -> tuple[Improvement, Metrics]:
    """The best of some students, and of the policy at hand, improved.

    One student learns a single plan by heart, the next two, four, ...: one plan does not contradict itself, and many
    cover more starts.  Each gets a sixth of the steps, the best of them a third, as the policy at hand does, and the
    better of the two the second half.  All are judged on the same starts, models and noise.  If no plan succeeds the
    policy at hand gets all steps.
    """
    k_show, k_place, k_heart, k_students, k_two, k_rest = jr.split(key, 6)
    shown = show(how, at, fresh.actions, k_show)
    told: Metrics = {"improve_plan": float(shown.cost)}
    if not np.isfinite(told["improve_plan"]):
        after, found = improver(now, 1, k_two)
        return after, found | told | {"improve_students": 0}
    tried = []
    for count in _doubling(how.plans):
        rows = count * (len(shown.use) // how.plans)
        seen = np.asarray(shown.x)[:rows][np.asarray(shown.use)[:rows] > 0]
        if len(seen):
            student = placed(fresh, seen, k_place)
            student, loss = learn_by_heart(student, shown, jnp.asarray(rows, jnp.int32), k_heart)
            tried.append((*improver(now._replace(actor=student), 6, k_students), count, float(loss)))
    best, _, count, loss = min(tried, key=lambda each: _rank(each[1]))
    told |= {"improve_students": len(tried), "improve_plans": count, "improve_heart": loss}
    contest = [improver(best, 3, k_two), improver(now, 3, k_two)]
    (better, found), chosen = min(zip(contest, (True, False), strict=True), key=lambda each: _rank(each[0][1]))
    after, last = improver(better, 2, k_rest)
    says = " ".join(dict.fromkeys(t["improve_says"] for t in (found, last) if "improve_says" in t))
    told |= last | {"improve_began": found["improve_began"], "improve_shown": chosen}
    return after, told | ({"improve_says": says} if says else {})


def _doubling(most: int) -> list[int]:
    """1, 2, 4, ..., most."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def _rank(told: Metrics) -> tuple[int, float]:
    """Smaller is better; a cost over a shorter horizon is no cost to compare with, and NaN is the worst."""
    cost = told["improve_cost"]
    return -told["improve_length"], cost if np.isfinite(cost) else np.inf
