"""The lecture's version 2.0, its verb: improve a policy by backpropagation through imagined rollouts."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float, Int

from forethought.core import AbstractCost, AbstractDynamics
from forethought.costs.terminal import TerminalValue
from forethought.math.advantage import advantages
from forethought.math.closed_loop import Health, Parts, Stretch, each_particle, lyapunov, pathwise, unroll
from forethought.math.finite import where_all
from forethought.math.gaussian import DiagonalGaussian, Wrapped
from forethought.math.total_propagation import total_propagation
from forethought.models.value import FittedValue, ValueLearner
from forethought.policies.actor import Actor
from forethought.types import Array, Metrics, RandomKey, Scalar

Estimator = Literal["pathwise", "total"]

ROUND = 25
"""Gradient steps between two looks at the health of the gradient."""
JUDGES = 2
"""Judging takes so many times the particles of a gradient step."""
EXPLODES = 1e5
"""Times that an adjoint may grow along a rollout before a gradient that is mostly noise counts as unstable."""
LEAST = 5
"""Steps that a horizon is not shortened below."""


@dataclasses.dataclass(frozen=True)
class Descent:
    """What is compiled in."""

    particles: int
    horizon: int
    estimator: Estimator
    learning_rate: float
    clip: float
    trace: float


class Imagined(NamedTuple):
    """Where the policy is tried out."""

    model: AbstractDynamics
    cost: AbstractCost
    pool: Float[Array, "S n"]
    """States to start from; every one is as likely as any other."""
    stretch: Stretch


class Report(NamedTuple):
    """What one round came to."""

    health: Health
    """Of the round's gradient steps: [ROUND ...]."""
    judged: Scalar
    """Mean cost of the policy after it, on starts and random numbers that are the same in all rounds."""
    saturated: Scalar
    """Share of the actions that squashing holds."""
    exponent: Scalar
    """Largest Lyapunov exponent per step, the mean over particles."""


@eqx.filter_jit
def descend(
    actor: Actor, memory: optax.OptState, at: Imagined, keys: tuple[RandomKey, RandomKey], how: Descent
) -> tuple[Actor, optax.OptState, Report]:
    """A round of Adam on the gradient of the mean imagined cost.

    One model is drawn per rollout, and anew at every step; the gradient is averaged over rollouts before it is clipped.
    A step that would not be finite is not taken.
    """
    trained, fixed = eqx.partition(actor, trained_leaves(actor))
    optimiser = _optimiser(how)
    estimate = pathwise if how.estimator == "pathwise" else _total(actor)

    def step(carry: tuple, key: RandomKey) -> tuple[tuple, Health]:
        trained, memory = carry
        beliefs, starts, noise = _drawn(at, how.particles, how.horizon, key)
        slope, health = estimate(Parts(trained, fixed), beliefs, at.cost, starts, noise, at.stretch)
        change, after = optimiser.update(slope, memory)
        moved = optax.apply_updates(trained, change)
        sound = _finite((moved, after)) & (health.lost < how.particles)
        return (where_all(sound, moved, trained), where_all(sound, after, memory)), health

    k_steps, k_judge = keys
    (trained, memory), health = jax.lax.scan(step, (trained, memory), jr.split(k_steps, ROUND))
    after = eqx.combine(trained, fixed)
    return after, memory, Report(health, *_judge(after, at, how, k_judge))


def _total(actor: Actor) -> Any:
    return lambda *args: total_propagation(*args, angles=actor.spec.angles)


def trained_leaves(actor: Actor) -> Any:
    """Which leaves training changes: those of the body."""
    none = jax.tree.map(lambda _: False, actor)
    return eqx.tree_at(lambda a: a.body, none, jax.tree.map(eqx.is_inexact_array, actor.body))


def _optimiser(how: Descent) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(how.clip), optax.adam(how.learning_rate))


def remember(actor: Actor, how: Descent) -> optax.OptState:
    """The optimiser's memory before the first step."""
    return _optimiser(how).init(eqx.filter(actor, trained_leaves(actor)))


def _finite(tree: Any) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]
    return jnp.all(jnp.stack(leaves))


def _drawn(at: Imagined, count: int, horizon: int, key: RandomKey) -> tuple[AbstractDynamics, jax.Array, jax.Array]:
    """Beliefs, start states and noise of so many rollouts."""
    k_draw, k_start, k_noise = jr.split(key, 3)
    rows = jr.randint(k_start, (count,), 0, at.pool.shape[0])
    return at.model.draw(k_draw, count), at.pool[rows], jr.split(k_noise, (count, horizon))


def _judge(actor: Actor, at: Imagined, how: Descent, key: RandomKey) -> tuple[Scalar, Scalar, Scalar]:
    """Mean cost, saturation and Lyapunov exponent; a rollout that is not finite makes the cost +inf."""
    k_roll, k_direction = jr.split(key)
    count = JUDGES * how.particles
    beliefs, starts, noise = _drawn(at, count, how.horizon, k_roll)

    def one(belief: AbstractDynamics, x0: Array, noise: jax.Array, key: RandomKey) -> tuple[Scalar, Scalar, Scalar]:
        rolled = unroll(actor, belief, at.cost, x0, noise, at.stretch)
        held = jnp.mean(jax.vmap(lambda x: actor.saturation(actor.raw(x)))(rolled.x), axis=1)
        share = jnp.sum(jnp.where(rolled.counts, held, 0.0)) / jnp.maximum(jnp.sum(rolled.counts), 1)
        exponent = lyapunov(actor, belief, x0, key, how.horizon, at.stretch.length)
        return rolled.cost, share.astype(jnp.float32), exponent

    cost, share, exponent = each_particle(one, beliefs, starts, noise, jr.split(k_direction, count))
    total = jnp.mean(cost)
    return jnp.where(jnp.isfinite(total), total, jnp.inf), jnp.mean(share), jnp.mean(exponent)


@eqx.filter_jit
def learn_value(
    learner: ValueLearner, fitted: FittedValue, actor: Actor, at: Imagined, key: RandomKey, how: Descent
) -> tuple[FittedValue, Metrics]:
    """Fit V to the policy's imagined rollouts, with TD(lambda) targets (`Descent.trace`)."""
    k_roll, k_fit = jr.split(key)
    count = JUDGES * how.particles
    beliefs, starts, noise = _drawn(at, count, how.horizon, k_roll)
    rolled = each_particle(lambda b, x0, k: unroll(actor, b, at.cost, x0, k, at.stretch), beliefs, starts, noise)
    value = jax.vmap(jax.vmap(fitted.value))
    last = jnp.arange(how.horizon) + 1 >= at.stretch.length
    one = lambda c, v, w, end: advantages(c, (v, w), end, last | end, at.stretch.discount, how.trace).target
    target = jax.vmap(one)(rolled.stage, value(rolled.x), value(rolled.y), rolled.ended)
    flat = lambda v: v.reshape(-1, *v.shape[2:])
    return learner.fit(fitted, flat(rolled.x), flat(target), flat(rolled.counts), k_fit)


class Improve(eqx.Module):
    """How the policy is improved between two pieces of episodes, in particles: rollouts through one drawn model each.

    Reparameterised gradients as in Deisenroth and Rasmussen, PILCO, ICML 2011, and Heess et al., Learning continuous
    control policies by stochastic value gradients, NIPS 2015; particles through Gaussian process functions as in Amadio
    et al., Model-based policy search using Monte Carlo gradient estimation with real systems application, 2022.
    """

    horizon: int = 60
    """Steps that a rollout imagines, at most those of an episode."""
    particles: int = 32
    """Rollouts per gradient step."""
    gradient_steps: int = 600
    """Per improvement."""
    learning_rate: float = 0.01
    clip: float = 1.0
    """Largest norm of a gradient, after it was averaged over rollouts."""
    estimator: Estimator = "pathwise"
    """pathwise: backpropagation; total: total propagation, which mixes it with the likelihood ratio at every step."""
    stabilise: Literal["auto", "off"] = "auto"
    """auto: a gradient that is noise, or explodes, has the estimator switched to total, then the horizon halved."""
    terminal: Literal["none", "value"] = "none"
    """value: a learned value function closes the horizon."""
    value: ValueLearner = ValueLearner(gradient_steps=100)
    """How it is fitted, after each round of gradient steps."""
    trace: float = 0.95
    """lambda of its TD(lambda) targets."""

    def compiled(self, limit: int, estimator: Estimator) -> Descent:
        """What does not change from call to call."""
        horizon = min(self.horizon, limit)
        return Descent(self.particles, horizon, estimator, self.learning_rate, self.clip, self.trace)


class Improvement(NamedTuple):
    """What an improvement carries from call to call."""

    actor: Actor
    value: FittedValue | None
    length: Int[Array, ""]
    """Steps of the horizon that count."""


def improve(how: Improve, now: Improvement, at: Imagined, limit: int, key: RandomKey) -> tuple[Improvement, Metrics]:
    """Rounds of gradient steps; the policy that was judged best, at the start and after each round, goes on.

    Every round is judged on the same starts, models and noise.
    """
    key, k_judge = jr.split(key)
    estimator: Estimator = how.estimator
    compiled = how.compiled(limit, estimator)
    length = int(now.length)
    actor, value, memory = now.actor, now.value, remember(now.actor, compiled)
    best, best_cost, says, reports = actor, first_cost(actor, at, compiled, k_judge, value, length), [], []
    began = best_cost
    for _ in range(max(1, how.gradient_steps // ROUND)):
        key, k_steps, k_value = jr.split(key, 3)
        here = _closed(at, value, length)
        actor, memory, report = descend(actor, memory, here, (k_steps, k_judge), compiled)
        reports.append(jax.tree.map(np.asarray, report))
        judged = float(report.judged)
        if judged < best_cost:
            best, best_cost = actor, judged
        trouble = unstable(reports[-1], length) if how.stabilise == "auto" else None
        if trouble is not None:
            mixable = estimator == "pathwise" and _gaussian(at, actor)
            estimator, length, said = _remedy("total" if mixable else estimator, estimator, length, trouble)
            says += [said] if said not in says else []
            compiled, actor = how.compiled(limit, estimator), best
            memory = remember(best, compiled)
            best_cost = first_cost(best, at, compiled, k_judge, value, length)
        if value is not None:
            value, _ = learn_value(how.value, value, actor, _closed(at, value, length), k_value, compiled)
            best_cost = first_cost(best, at, compiled, k_judge, value, length)
    after = Improvement(best, value, jnp.asarray(length, jnp.int32))
    return after, told(reports, began, best_cost, length, estimator, says)


def _closed(at: Imagined, value: FittedValue | None, length: int) -> Imagined:
    """With the horizon and the terminal cost at hand."""
    stretch = at.stretch._replace(length=jnp.asarray(length, jnp.int32))
    cost = at.cost if value is None else TerminalValue(at.cost, value.value)
    return at._replace(cost=cost, stretch=stretch)


@eqx.filter_jit
def _judged(actor: Actor, at: Imagined, how: Descent, key: RandomKey) -> Scalar:
    return _judge(actor, at, how, key)[0]


def first_cost(
    actor: Actor, at: Imagined, how: Descent, key: RandomKey, value: FittedValue | None, length: int
) -> float:
    """What the policy costs before a round, on the starts that rounds are judged by."""
    return float(_judged(actor, _closed(at, value, length), how, key))


def unstable(report: Report, length: int) -> str | None:
    """What is wrong with a round's gradient, if anything is."""
    health = report.health
    lost = int(np.max(health.lost))
    growth = _growth(np.asarray(health.adjoint), length)
    snr = float(np.median(health.snr))
    if lost > 0 or not np.isfinite(report.judged):
        return f"{lost} of its rollouts exploded" if lost else "the rollouts that judge it were not finite"
    if not snr >= 1.0 and growth > EXPLODES:
        return f"its signal-to-noise ratio was {snr:.2g} and its adjoints grew {growth:.0f}-fold along a rollout"
    return None


def _growth(adjoint: Float[np.ndarray, "R H"], length: int) -> float:
    """How many times the adjoint is larger somewhere than at the end of the horizon."""
    mean = np.mean(adjoint, axis=0)[:length]
    if not np.isfinite(mean).all():
        return float("inf")
    return float(np.max(mean, initial=0.0) / max(float(np.median(mean[-max(1, length // 10) :])), 1e-30))


def _remedy(other: Estimator, estimator: Estimator, length: int, trouble: str) -> tuple[Estimator, int, str]:
    """Another estimator, if there is one, then a shorter horizon, with a sentence about it."""
    if other != estimator:
        return other, length, f"The policy's gradient was switched to total propagation: {trouble}."
    shorter = max(LEAST, length // 2)
    if shorter >= length:
        return estimator, length, f"The policy's gradient is unstable at a horizon of {length} steps: {trouble}."
    return estimator, shorter, f"The policy's horizon was shortened from {length} to {shorter} steps: {trouble}."


def _gaussian(at: Imagined, actor: Actor) -> bool:
    """Whether a belief's predictions are single Gaussians, as total propagation needs them."""

    def ask(model: AbstractDynamics, actor: Actor, x: Array) -> Any:
        one = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, model.draw(jr.key(0), 1))
        return one.predict(x, actor(x), jnp.zeros((), jnp.int32))

    said = eqx.filter_eval_shape(ask, at.model, actor, at.pool[0])
    return isinstance(said.unwrapped if isinstance(said, Wrapped) else said, DiagonalGaussian)


def told(
    reports: list[Report], began: float, best: float, length: int, estimator: Estimator, says: list[str]
) -> Metrics:
    """What is logged of an improvement: of its last round where it is a state of affairs."""
    last = reports[-1]
    adjoint = np.mean(np.asarray(last.health.adjoint), axis=0)[:length]
    metrics: Metrics = {
        "improve_began": began,
        "improve_cost": best,
        "improve_snr": float(np.median([np.median(r.health.snr) for r in reports])),
        "improve_gradient": float(np.median(last.health.norm)),
        "improve_adjoint": adjoint.tolist(),
        "improve_growth": _growth(np.asarray(last.health.adjoint), length),
        "improve_exponent": float(last.exponent),
        "improve_saturated": float(last.saturated),
        "improve_lost": int(sum(np.sum(r.health.lost) for r in reports)),
        "improve_mixture": float(np.mean(last.health.mixture)),
        "improve_length": length,
        "improve_estimator": estimator,
    }
    return metrics | ({"improve_says": " ".join(says)} if says else {})
