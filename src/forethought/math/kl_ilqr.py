"""The KL-bounded step with nonlinear dynamics: the same bound around iterative LQR.

The policy is linear-Gaussian and the dynamics are not; so they are linearised around the mean of the policy at hand, a
step is taken within the bound of the *old* policy, and the linearisation moves to the new mean, a few times.  Errata of
the lecture, item 21: with linear dynamics one round is exact; with others it is this loop, with the old policy fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.math.kl_dual import DEFAULT, Bracket, KLStatus
from forethought.math.kl_step import KLStep, Start, first_guess, kl_step
from forethought.math.linear_kl import policy_kl
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
)
from forethought.types import Array, Scalar

ROUNDS = 6
"""Most linearisations."""
SHORTER = 0.3
"""Factor of the bound after a round that was not accepted."""


class Around(NamedTuple):
    """Dynamics and cost as they are along one path."""

    dynamics: LinearDynamics
    cost: QuadraticCost


class _Round(NamedTuple):
    """What is carried from round to round."""

    best: KLStep
    """What was accepted last; its cost is under the linearisation around its own mean."""
    around: Around
    """At the mean of that."""
    share: Scalar
    """Of the bound that the next round may use."""
    rounds: Int[Array, ""]
    solves: Int[Array, ""]


def kl_ilqr(
    along: Callable[[Float[Array, "_ n"], Float[Array, "T m"]], Around],
    follow: Callable[[LinearGaussianPolicy], tuple[Float[Array, "_ n"], Float[Array, "T m"]]],
    start: Start,
    old: LinearGaussianPolicy,
    epsilon: Scalar,
    *,
    rounds: int = ROUNDS,
    how: Bracket = DEFAULT,
) -> KLStep:
    """minimise E[cost] with KL(p || old) <= epsilon, under dynamics that are linearised where the policy leads.

    `along(xs, us)` gives dynamics and cost around a path, `follow(policy)` the path [T+1, n], [T, m] of a policy's mean
    from start.m0.  A round is accepted if cost and KL, both under the linearisation around its own mean, are lower and
    within the bound; otherwise the next one gets a smaller bound.  It ends with the best that was accepted: the old
    policy, at worst.
    """
    place = lambda policy: along(*follow(policy))
    judge = lambda policy, around: _judged(policy, old, start, around)
    here = place(old)
    cost, kl = judge(old, here)
    zero = jnp.zeros((), jnp.int32)
    none = KLStep(old, jnp.full((), jnp.inf, kl.dtype), kl, cost, jnp.full((), KLStatus.FAILED, jnp.int32), zero)
    began = _Round(none, here, jnp.ones((), kl.dtype), zero, zero)

    def turn(now: _Round) -> _Round:
        bound = now.share * epsilon
        guess = first_guess(now.around.dynamics, now.around.cost, start, old, bound)
        step = kl_step(now.around.dynamics, now.around.cost, start, old, bound, guess=guess, how=how)
        there = place(step.policy)
        cost, kl = judge(step.policy, there)
        total = jnp.sum(kl)
        better = (step.status != KLStatus.FAILED) & (cost < now.best.cost) & (total <= (1.0 + how.tolerance) * epsilon)
        mine = KLStep(step.policy, step.multiplier, kl, cost, step.status, zero)
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        share = jnp.where(better, now.share, SHORTER * now.share)
        return _Round(pick(mine, now.best), pick(there, now.around), share, now.rounds + 1, now.solves + step.solves)

    end = jax.lax.while_loop(lambda now: now.rounds < rounds, turn, began)
    return end.best._replace(solves=end.solves)


def _judged(
    policy: LinearGaussianPolicy, old: LinearGaussianPolicy, start: Start, around: Around
) -> tuple[Scalar, Float[Array, " T"]]:
    """Expected cost, +inf if it is not finite, and KL at each step."""
    marginals = linear_marginals(around.dynamics, policy, *start)
    cost = expected_cost(around.cost, marginals)
    return jnp.where(jnp.isfinite(cost), cost, jnp.inf), policy_kl(policy, old, marginals)
