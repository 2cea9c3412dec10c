"""The best linear-Gaussian policy within a KL bound of the old one (Algorithm 6 of the lecture, solved by its dual).

    minimise  E_p[cost]   with   sum_t E_p[KL(p(.|x_t) || old(.|x_t))] <= epsilon

With a multiplier l the Lagrangian is that of maximum-entropy control with the cost C + l M, where 1/2 z^T M z + m^T z
is -log old(u|x): one LQR, whose policy is N(K x + k, l Quu^-1).  What is left is one number (`kl_dual`).

Levine and Abbeel, Learning neural network policies with guided policy search under unknown dynamics, NIPS 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.math.finite import where_all
from forethought.math.kl_dual import DEFAULT, Bracket, KLStatus, Trial, reached, solve_kl_dual
from forethought.math.linear_kl import Surprise, policy_kl, precision_root, surprise
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
    policy_entropy,
)
from forethought.math.riccati import LQRStatus, riccati
from forethought.types import Array, Flag, Scalar


class Start(NamedTuple):
    """x_0 ~ N(m0, P0)."""

    m0: Float[Array, " n"]
    P0: Float[Array, "n n"]


class KLStep(NamedTuple):
    """A policy within the bound; the old one if nothing else was found."""

    policy: LinearGaussianPolicy
    multiplier: Float[Array, "..."]
    """l, or [T] with bounds on each step; +inf where the old policy is returned."""
    kl: Float[Array, " T"]
    """E_p[KL] at each step, under the new policy's own states."""
    cost: Scalar
    """E_p[cost], without the entropy."""
    status: Int[Array, ""]
    """A `KLStatus`."""
    solves: Int[Array, ""]
    """LQR problems solved."""


def kl_step(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    start: Start,
    old: LinearGaussianPolicy,
    epsilon: Scalar,
    *,
    guess: Scalar | None = None,
    entropy: float = 0.0,
    how: Bracket = DEFAULT,
) -> KLStep:
    """Bound the sum over time.

    `guess` is the multiplier that is tried first, the last one for instance; one that is not positive and finite is
    passed over.  With `entropy` a > 0 what is minimised is E[cost] - a H(p), and the covariance is (l + a) Quu^-1.
    """
    extra = surprise(old)
    before = _known(dynamics, cost, start, old)

    def attempt(multiplier: Scalar) -> Trial:
        return _trial(dynamics, cost, start, old, extra, multiplier, entropy=entropy)

    unknown = lambda: first_guess(dynamics, cost, start, old, epsilon)
    first = unknown() if guess is None else jax.lax.cond(_usable(guess), lambda: guess, unknown)
    found = solve_kl_dual(attempt, before, epsilon, first, how)
    policy, kl, expected = found.result
    return KLStep(policy, found.multiplier, kl, expected, found.status, found.evaluations)


def _usable(guess: Float[Array, "..."]) -> Flag:
    """Whether all of it are multipliers."""
    return jnp.all((guess > 0.0) & jnp.isfinite(guess))


def _known(dynamics: LinearDynamics, cost: QuadraticCost, start: Start, old: LinearGaussianPolicy) -> Trial:
    """What the old policy is, with its expected cost and a KL of 0."""
    known = expected_cost(cost, linear_marginals(dynamics, old, *start))
    none = jnp.zeros(old.k.shape[:1], old.k.dtype)
    return Trial(jnp.zeros((), known.dtype), known, jnp.isfinite(known), (old, none, known))


def _trial(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    start: Start,
    old: LinearGaussianPolicy,
    extra: Surprise,
    multiplier: Float[Array, "..."],
    *,
    entropy: float = 0.0,
) -> Trial:
    """The policy that minimises cost + multiplier KL - entropy H, with what it costs and how far it went.

    One multiplier for all steps, or one per step: then Quu_t holds that of its own step, and so does the covariance.
    The result is the policy, its KL at each step, and its expected cost without the entropy.
    """
    each = jnp.broadcast_to(multiplier, old.k.shape[:1])
    tilted = cost._replace(C=cost.C + each[:, None, None] * extra.M, c=cost.c + each[:, None] * extra.m)
    solution = riccati(dynamics._replace(W=None), tilted)  # noise changes no policy
    sound = (solution.status == LQRStatus.SOLVED) & jnp.all(jnp.isfinite(solution.Quu))
    eye = jnp.eye(old.k.shape[1], dtype=old.k.dtype)
    root = precision_root(jnp.where(sound, solution.Quu, eye))
    policy = LinearGaussianPolicy(solution.K, solution.k, jnp.sqrt(each + entropy)[:, None, None] * root)
    marginals = linear_marginals(dynamics, policy, *start)
    kl = policy_kl(policy, old, marginals)
    expected = expected_cost(cost, marginals)
    minimised = expected - entropy * jnp.sum(policy_entropy(policy)) if entropy else expected
    return Trial(jnp.sum(kl), minimised, sound, (policy, kl, expected))


def first_guess(
    dynamics: LinearDynamics, cost: QuadraticCost, start: Start, old: LinearGaussianPolicy, epsilon: Scalar
) -> Scalar:
    """A multiplier for when none is known: what is exact as epsilon goes to 0.

    A natural-gradient step of the old policy has KL = G^2 / (2 l^2), where G^2 is the variance of the old policy's
    advantage under its own noise, to second order in u: with Quu, and Qu = Qux x + qu + Quu u of the old policy's value
    function, and L its noise, G^2 = E|L^T Qu|^2 + 1/2 |L^T Quu L|_F^2 at each step.
    """
    n = old.K.shape[2]
    marginals = linear_marginals(dynamics, old, *start)

    def step(value: tuple[Array, Array], at: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        (P, p), (F, f, C, c, K, k) = value, at
        Q = C + jnp.matmul(F.T, jnp.matmul(P, F, precision="highest"), precision="highest")
        q = c + jnp.sum(F * (p + jnp.sum(P * f, axis=1))[:, None], axis=0)
        both = jnp.concatenate([jnp.eye(n, dtype=Q.dtype), K])
        ahead = jnp.matmul(Q, both, precision="highest")
        inner = jnp.matmul(both.T, ahead, precision="highest")
        slope = q + jnp.sum(Q[:, n:] * k, axis=1)
        return (inner, jnp.sum(both * slope[:, None], axis=0)), (ahead[n:], slope[n:], Q[n:, n:])

    inputs = (dynamics.F, dynamics.f, cost.C, cost.c, old.K, old.k)
    _, (gain, offset, Quu) = jax.lax.scan(step, (cost.C_T, cost.c_T), inputs, reverse=True)
    mean, cov = marginals.mean[:, :n], marginals.cov[:, :n, :n]
    transposed = jnp.swapaxes(old.L, 1, 2)
    centre = jnp.sum(old.L * (jnp.sum(gain * mean[:, None, :], axis=2) + offset)[:, :, None], axis=1)
    scattered = jnp.matmul(transposed, gain, precision="highest")
    inside = jnp.matmul(transposed, jnp.matmul(Quu, old.L, precision="highest"), precision="highest")
    # In units of the largest, since squares of what unstable dynamics amplify overflow.
    widest = jnp.sqrt(jnp.max(jnp.diagonal(cov, axis1=1, axis2=2), axis=1))
    spread = jnp.abs(scattered) * widest[:, None, None]
    unit = jnp.maximum(jnp.maximum(jnp.max(jnp.abs(centre)), jnp.max(spread)), jnp.max(jnp.abs(inside)))
    scattered = scattered / unit
    scatter = jnp.sum(jnp.matmul(scattered, cov, precision="highest") * scattered)
    variance = jnp.sum((centre / unit) ** 2) + scatter + 0.5 * jnp.sum((inside / unit) ** 2)
    guess = unit * jnp.sqrt(variance / (2.0 * jnp.where(epsilon > 0.0, epsilon, 1.0)))
    return jnp.where(_usable(guess), guess, 1.0)


RATE = 0.7
"""Power of KL_t / epsilon_t by which multipliers of single steps move, at most."""
SLOWEST = 0.02
"""And at least, unless no policy is met."""
REACH = 3.0
"""Most that log(KL_t / epsilon_t) counts for."""
LEAST = 1e-30
"""Smallest of the first multipliers, as a share of the largest."""


class _Sweeps(NamedTuple):
    """What is carried through the sweeps over the multipliers of single steps."""

    logs: Float[Array, " T"]
    """The last logarithms of multipliers that gave a policy."""
    gap: Float[Array, " T"]
    """log(KL_t / epsilon_t) there."""
    rate: Scalar
    best: KLStep
    least: Scalar
    """What is minimised, at the best: its cost, without the entropy's share that `KLStep.cost` leaves out."""
    ending: Int[Array, ""]


def kl_step_each(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    start: Start,
    old: LinearGaussianPolicy,
    epsilon: Float[Array, " T"],
    *,
    guess: Float[Array, " T"] | None = None,
    entropy: float = 0.0,
    how: Bracket = DEFAULT,
) -> KLStep:
    """Bound every step: E_p[KL at t] <= epsilon_t, with a multiplier of its own for each.

    First one multiplier for all, or one factor for those of `guess`, with max_t KL_t / epsilon_t = 1: that keeps the
    bounds.  From there every multiplier climbs its own slope KL_t - epsilon_t of the dual, all at once, by a power of
    KL_t / epsilon_t; the power follows from the last move, and is halved where that leads to no policy (a Quu that is
    not positive definite).

    Where the sum over time may spend the whole bound in a few steps, this one keeps every step near the old policy, at
    the price of more solves.  Bounds have to be positive: with a 0 among them the old policy is all that is found.
    """
    extra, before = surprise(old), _known(dynamics, cost, start, old)
    sound = _usable(epsilon)
    flat = lambda: (jnp.ones_like(epsilon), first_guess(dynamics, cost, start, old, jnp.sum(epsilon)))
    if guess is None:
        profile, first = flat()
    else:
        given = lambda: (jnp.maximum(guess / jnp.max(guess), LEAST), jnp.max(guess))
        profile, first = jax.lax.cond(_usable(guess), given, flat)

    def attempt(multiplier: Float[Array, "..."]) -> Trial:
        return _trial(dynamics, cost, start, old, extra, multiplier, entropy=entropy)

    def together(factor: Scalar) -> Trial:
        trial = attempt(factor * profile)
        return trial._replace(kl=jnp.max(trial.result[1] / epsilon))

    one = jnp.where(sound, 1.0, jnp.where(jnp.all(epsilon == 0.0), 0.0, -1.0)).astype(epsilon.dtype)
    common = solve_kl_dual(together, before, one, first, how)
    policy, kl, expected = common.result
    best = KLStep(policy, common.multiplier * profile, kl, expected, common.status, common.evaluations)
    spent = jnp.where(best.solves >= how.evaluations, KLStatus.LIMITED, -1)
    ending = jnp.where(reached(kl, epsilon, how.tolerance), KLStatus.SOLVED, spent)
    ending = jnp.where(common.status == KLStatus.FAILED, KLStatus.FAILED, ending).astype(jnp.int32)
    rate = jnp.full((), RATE, kl.dtype)
    began = _Sweeps(jnp.log(best.multiplier), _gap(kl, epsilon), rate, best, common.cost, ending)
    end = jax.lax.while_loop(lambda now: now.ending < 0, lambda now: _sweep(attempt, now, epsilon, how), began)
    return end.best._replace(status=end.ending)


def _sweep(
    attempt: Callable[[Float[Array, " T"]], Trial], now: _Sweeps, epsilon: Float[Array, " T"], how: Bracket
) -> _Sweeps:
    """Move all multipliers once, and keep what is best."""
    logs = now.logs + now.rate * jnp.clip(now.gap, -REACH, REACH)
    trial = attempt(jnp.exp(logs))
    policy, kl, expected = trial.result
    ok = trial.ok & jnp.isfinite(trial.cost) & jnp.all(jnp.isfinite(kl))
    better = ok & jnp.all(kl <= (1.0 + how.tolerance) * epsilon) & (trial.cost < now.least)
    solves = now.best.solves + 1
    mine = KLStep(policy, jnp.exp(logs), kl, expected, now.best.status, solves)
    best = where_all(better, mine, now.best)._replace(solves=solves)
    gap = jnp.where(ok, _gap(kl, epsilon), now.gap)
    rate = jnp.where(ok, _rate(logs - now.logs, gap - now.gap, now.rate), 0.5 * now.rate)
    over = jnp.where((solves >= how.evaluations) | (rate < 1e-3), KLStatus.LIMITED, -1)
    ending = jnp.where(ok & reached(kl, epsilon, how.tolerance), KLStatus.SOLVED, over).astype(jnp.int32)
    least = jnp.where(better, trial.cost, now.least)
    return _Sweeps(jnp.where(ok, logs, now.logs), gap, rate, best, least, ending)


def _rate(moved: Float[Array, " T"], changed: Float[Array, " T"], last: Scalar) -> Scalar:
    """The power that the last move calls for: the s for which `moved` is nearest to -s `changed`.

    All multipliers together pull much harder than each by itself where Quu is hardly positive definite, and a power
    that is too large goes to and fro for ever (Barzilai and Borwein, IMA J. Numerical Analysis 8, 1988).
    """
    square = jnp.sum(changed**2)
    fitting = -jnp.sum(moved * changed) / jnp.where(square > 0.0, square, 1.0)
    fitting = jnp.where((fitting > 0.0) & jnp.isfinite(fitting), fitting, RATE)
    return jnp.clip(fitting, SLOWEST, jnp.minimum(2.0 * last, RATE))


def _gap(kl: Float[Array, " T"], epsilon: Float[Array, " T"]) -> Float[Array, " T"]:
    """log(KL_t / epsilon_t), finite for KL_t = 0."""
    return jnp.log(jnp.maximum(kl, 1e-300) / epsilon)


def within(step: KLStep, epsilon: Float[Array, "..."], tolerance: float = DEFAULT.tolerance) -> Flag:
    """Whether the bound is kept, over all steps or at each."""
    used = jnp.sum(step.kl) if epsilon.ndim == 0 else step.kl
    return jnp.all(used <= (1.0 + tolerance) * epsilon)
