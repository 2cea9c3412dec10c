"""One improvement of a local controller: fit its dynamics, expand the cost, take a step within the KL bound."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.algorithms.local_model import around, follow, stage_of, step_in_model
from forethought.core import AbstractCost, AbstractDynamics
from forethought.math.angles import wrap_components
from forethought.math.kl_dual import KLStatus
from forethought.math.kl_ilqr import Around
from forethought.math.kl_step import KLStep, Start, kl_step, kl_step_each
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
)
from forethought.math.local_cost import expand_samples
from forethought.math.local_fit import LocalFit, fit_bayesian, fit_initial, fit_regression, widened_dynamics
from forethought.math.lqr import max_entropy_policy
from forethought.math.riccati import riccati
from forethought.models.local_prior import prior_from
from forethought.types import Array, Scalar

FittingBy = Literal["bayesian", "regression"]
Bound = Literal["sum", "each", "none"]
Dynamics = Literal["local", "global"]
LEAST_SCALE, MOST_SCALE = 0.01, 10.0
"""Factors that the KL bound may have."""


RIDGE = 1e-3
"""Of fits with a prior; see `fit_bayesian`."""
SHRINK, GROW = 0.1, 5.0
"""Most that it changes in one iteration."""


@dataclasses.dataclass(frozen=True)
class How:
    """What an improvement is done by; cannot change without compiling anew."""

    fit: FittingBy
    bound: Bound
    kl: float
    """Nats per time step."""
    strength: float
    """Rollouts that the prior weighs."""
    angles: tuple[int, ...]
    dynamics: Dynamics
    floor: float
    """Least standard deviation of the noise, in half ranges of the controls."""


class Rollouts(NamedTuple):
    """N rollouts from one condition."""

    x: Float[Array, "N T+1 n"]
    u: Float[Array, "N T m"]
    weight: Float[Array, "N T"]
    cost: Float[Array, " N"]
    """-return of each, as it came."""


class Setting(NamedTuple):
    """What is the same for all conditions."""

    model: AbstractDynamics
    """The global model."""
    cost: AbstractCost
    half: Float[Array, " m"]
    """Half the range of each control, in whose units the least noise is meant."""


class Carried(NamedTuple):
    """What one condition keeps from iteration to iteration."""

    scale: Scalar
    """Factor of the KL bound."""
    before: Scalar
    """Mean cost of the rollouts before the last step, NaN at first."""
    after: Scalar
    """What the step was to make of it: less what it improves under the dynamics of then."""
    multiplier: Scalar
    """That of the last step; NaN at first."""
    doubt: Scalar
    """Variance of `before`, which is a mean of few; NaN at first."""


class Improved(NamedTuple):
    """A step, with what it is made of."""

    policy: LinearGaussianPolicy
    xs: Float[Array, "T n"]
    """The means of the states under it."""
    start: Start
    carried: Carried
    step: KLStep
    epsilon: Scalar
    cost: Scalar
    """Expected cost of what was executed, under the new fit."""
    actual: Scalar
    """By how much the last step lowered the mean cost of the rollouts; NaN at first."""
    information: Scalar
    """The least over time of `LocalFit.information`."""
    guessed: Scalar
    """Share of the steps whose noise is a guess."""


@eqx.filter_jit
def improve(
    rollouts: Rollouts,
    old: LinearGaussianPolicy,
    carried: Carried,
    setting: Setting,
    how: How,
    executed: LinearGaussianPolicy | None = None,
) -> Improved:
    """All conditions, one after the other; every array of the rollouts, of the policies and of what was carried has a
    leading axis of conditions.

    The bound is counted from `old`; `executed` is what made the rollouts, if that is another policy, and by which it is
    judged what the last step brought.
    """
    one = lambda at: improve_one(at[0], at[1], at[2], setting, how, at[3])
    return jax.lax.map(one, (rollouts, old, carried, executed))


def improve_one(
    rollouts: Rollouts,
    old: LinearGaussianPolicy,
    carried: Carried,
    setting: Setting,
    how: How,
    executed: LinearGaussianPolicy | None,
) -> Improved:
    """One condition."""
    rollouts = _sound(rollouts)
    (x, u, weight, _), (model, cost, half) = rollouts, setting
    start = Start(*fit_initial(x[:, 0], weight[:, 0], scale=_usual(x[:, :-1], weight), angles=how.angles))
    executed = old if executed is None else executed
    (dynamics, expanded), information, guessed = _place(rollouts, executed, start, setting, how)
    expected = expected_cost(expanded, linear_marginals(dynamics, executed, *start))
    now, doubt = _mean_cost(rollouts, cost, how.angles)
    scale = adapted(carried, now, doubt)
    epsilon = how.kl * scale * u.shape[1]
    if how.dynamics == "global":
        step = step_in_model(model, cost, start, old, epsilon, how.angles)
    else:
        step = _bounded(dynamics, expanded, start, old, epsilon, how)
    policy = step.policy._replace(L=_excited(step.policy.L, how.floor * half))
    if how.dynamics == "global":
        xs = follow(model, policy, start.m0, how.angles)[0][:-1]
    else:
        xs = linear_marginals(dynamics, policy, *start).mean[:, : x.shape[2]]
    xs = jnp.where(jnp.all(jnp.isfinite(xs)), xs, jnp.mean(x[:, :-1], axis=0))
    kept = jnp.where(jnp.isfinite(jnp.max(step.multiplier)), jnp.max(step.multiplier), carried.multiplier)
    moved = Carried(scale, now, now - (expected - step.cost), kept, doubt)
    return Improved(policy, xs, start, moved, step, epsilon, expected, carried.before - now, information, guessed)


def _sound(rollouts: Rollouts) -> Rollouts:
    """With weight 0, and zeros, where something is not finite."""
    x, u, weight, cost = rollouts
    states = jnp.all(jnp.isfinite(x), axis=2)
    fine = states[:, :-1] & states[:, 1:] & jnp.all(jnp.isfinite(u), axis=2)
    known = jnp.isfinite(cost)
    weight = jnp.where(fine & known[:, None], weight, 0.0)
    zero = lambda a: jnp.where(jnp.isfinite(a), a, 0.0)
    return Rollouts(zero(x), zero(u), weight, zero(cost))


def _mean_cost(rollouts: Rollouts, cost: AbstractCost, angles: tuple[int, ...]) -> tuple[Scalar, Scalar]:
    """Of the rollouts that have begun, with the cost-to-go of their ends; and the variance of that mean (0 of one).

    Not the cost that is expected under the fit: where that is wrong by orders of magnitude, as it may be once in a
    while, a bound that adapts to it would close for good.
    """
    begun = rollouts.weight[:, 0]
    end = jax.vmap(lambda x: jnp.asarray(cost.terminal(wrap_components(x, angles)), x.dtype))(rollouts.x[:, -1])
    each = jnp.where(begun > 0.0, rollouts.cost + end, 0.0)
    count = jnp.sum(begun)
    mean = jnp.sum(each) / jnp.maximum(count, 1.0)
    spread = jnp.sum(jnp.where(begun > 0.0, (each - mean) ** 2, 0.0))
    return mean, spread / jnp.maximum(count * (count - 1.0), 1.0)


def _place(
    rollouts: Rollouts, executed: LinearGaussianPolicy, start: Start, setting: Setting, how: How
) -> tuple[Around, Scalar, Scalar]:
    """Dynamics and cost where the step is taken, with the least `information` of the fit, and the share of its steps
    whose noise is a guess: both are NaN where the dynamics are the global model's."""
    (x, u, weight, _), (model, cost, _) = rollouts, setting
    if how.dynamics == "global":
        unknown = jnp.full((), jnp.nan)
        return around(model, cost, *follow(model, executed, start.m0, how.angles), how.angles), unknown, unknown
    z = jnp.swapaxes(jnp.concatenate([x[:, :-1], u], axis=2), 0, 1)
    y, w = jnp.swapaxes(x[:, 1:], 0, 1), weight.T
    fit = _fitted(z, y, w, model, how)
    stage = stage_of(cost, fit.dynamics, model, x.shape[2], how.angles)
    end = lambda x: jnp.asarray(cost.terminal(wrap_components(x, how.angles)), x.dtype)
    expanded = expand_samples(stage, end, z, x[:, -1], jnp.concatenate([w, w[-1:]]))
    dynamics = widened_dynamics(fit, linear_marginals(fit.dynamics, executed, *start).mean)
    return Around(dynamics, expanded), jnp.min(fit.information), jnp.mean(fit.guessed.astype(x.dtype))


def _usual(x: Float[Array, "N T n"], weight: Float[Array, "N T"]) -> Float[Array, " n"]:
    """What is usual for each component of the state: its standard deviation over all rows that count."""
    share = (weight / jnp.maximum(jnp.sum(weight), 1.0))[:, :, None]
    mean = jnp.sum(share * x, axis=(0, 1))
    return jnp.sqrt(jnp.sum(share * (x - mean) ** 2, axis=(0, 1))) + 1e-12


def _fitted(z: Array, y: Array, w: Array, model: AbstractDynamics, how: How) -> LocalFit:
    """v1.0: linear regression at each step; v2.0: with a prior from the global model."""
    if how.fit == "regression":
        return fit_regression(z, y, w, angles=how.angles)
    strengths = {"strength_mean": how.strength, "strength_cov": how.strength}
    prior = prior_from(model, z, y, w, angles=how.angles, **strengths)
    return fit_bayesian(z, y, w, prior, ridge=RIDGE, angles=how.angles)


def adapted(carried: Carried, now: Scalar, doubt: Scalar) -> Scalar:
    """The factor of the bound from the predicted and the actual improvement of the last step; `now` is the mean cost,
    and `doubt` its variance.

    With I(k) = a k + b k^2 through both, the best bound is pred / (2 (pred - act)) times the last one.  A step that was
    predicted to make things worse shrinks it.  The actual improvement is the difference of two means of few: it counts
    with one standard error in its favour, or chance alone would close the bound where rollouts differ much.
    """
    predicted, actual = carried.before - carried.after, carried.before - now
    actual = actual + jnp.sqrt(carried.doubt + doubt)
    least = 1e-4 * jnp.maximum(jnp.abs(predicted), 1e-300)
    factor = jnp.clip(predicted / (2.0 * jnp.maximum(predicted - actual, least)), SHRINK, GROW)
    factor = jnp.where(predicted > 0.0, factor, SHRINK)
    factor = jnp.where(jnp.isnan(carried.before), 1.0, jnp.where(jnp.isfinite(factor), factor, SHRINK))
    return jnp.clip(carried.scale * factor, LEAST_SCALE, MOST_SCALE)


def _bounded(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    start: Start,
    old: LinearGaussianPolicy,
    epsilon: Scalar,
    how: How,
) -> KLStep:
    """The step, by the bound that was asked for."""
    if how.bound == "sum":
        return kl_step(dynamics, cost, start, old, epsilon)
    T = old.k.shape[0]
    if how.bound == "each":
        return kl_step_each(dynamics, cost, start, old, jnp.broadcast_to(epsilon / T, (T,)))
    return _unbounded(dynamics, cost, start, old)


def _unbounded(dynamics: LinearDynamics, cost: QuadraticCost, start: Start, old: LinearGaussianPolicy) -> KLStep:
    """The maximum-entropy policy of temperature 1 without any bound, as the lecture has it before its section 3.3; the
    old one where that does not exist."""
    solution = riccati(dynamics, cost)
    sound = jnp.all(solution.definite) & jnp.all(jnp.isfinite(solution.K)) & jnp.all(jnp.isfinite(solution.k))
    free = max_entropy_policy(solution, 1.0)
    policy = jax.tree.map(lambda a, b: jnp.where(sound, a, b), free, old)
    expected = expected_cost(cost, linear_marginals(dynamics, policy, *start))
    sound = sound & jnp.isfinite(expected)
    policy = jax.tree.map(lambda a, b: jnp.where(sound, a, b), policy, old)
    status = jnp.where(sound, KLStatus.SOLVED, KLStatus.FAILED).astype(jnp.int32)
    nothing = jnp.zeros(old.k.shape[:1], old.k.dtype)
    one = jnp.ones((), jnp.int32)
    return KLStep(policy, jnp.zeros((), old.k.dtype), nothing, expected, status, one)


def _excited(L: Float[Array, "T m m"], least: Float[Array, " m"]) -> Float[Array, "T m m"]:
    """The factor with at least so much noise in every control: a covariance that collapses can be fitted to no more,
    and nothing else is within a finite KL of it."""
    cov = jnp.matmul(L, jnp.swapaxes(L, 1, 2), precision="highest")
    lacking = jnp.maximum(least**2 - jnp.diagonal(cov, axis1=1, axis2=2), 0.0)
    raised = jnp.linalg.cholesky(cov + lacking[:, :, None] * jnp.eye(L.shape[1], dtype=L.dtype))
    keep = jnp.all(lacking == 0.0, axis=1) | ~jnp.all(jnp.isfinite(raised), axis=(1, 2))
    return jnp.where(keep[:, None, None], L, raised)
