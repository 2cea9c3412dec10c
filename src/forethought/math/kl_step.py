"""The best linear-Gaussian policy within a KL bound of the old one (Algorithm 6 of the lecture, solved by its dual).

    minimise  E_p[cost]   with   sum_t E_p[KL(p(.|x_t) || old(.|x_t))] <= epsilon

With a multiplier l the Lagrangian is that of maximum-entropy control with the cost C + l M, where 1/2 z^T M z + m^T z
is -log old(u|x): one LQR, whose policy is N(K x + k, l Quu^-1).  What is left is one number (`kl_dual`).

Levine and Abbeel, Learning neural network policies with guided policy search under unknown dynamics, NIPS 2014.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.math.kl_dual import DEFAULT, Bracket, KLStatus, Trial, solve_kl_dual
from forethought.math.linear_kl import Surprise, policy_kl, precision_root, surprise
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
)
from forethought.math.riccati import riccati
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

    `guess` is the multiplier that is tried first, the last one for instance.  With `entropy` a > 0 what is minimised is
    E[cost] - a H(p), and the covariance is (l + a) Quu^-1.
    """
    extra = surprise(old)
    before = _known(dynamics, cost, start, old)

    def attempt(multiplier: Scalar) -> Trial:
        return _trial(dynamics, cost, start, old, extra, multiplier, entropy)

    first = first_guess(dynamics, cost, start, old, epsilon) if guess is None else guess
    found = solve_kl_dual(attempt, before, epsilon, first, how)
    policy, kl, _ = found.result
    return KLStep(policy, found.multiplier, kl, found.cost, found.status, found.evaluations)


def _known(dynamics: LinearDynamics, cost: QuadraticCost, start: Start, old: LinearGaussianPolicy) -> Trial:
    """What the old policy is, with its expected cost and a KL of 0."""
    known = expected_cost(cost, linear_marginals(dynamics, old, *start))
    none, yes = jnp.zeros(old.k.shape[:1], old.k.dtype), jnp.ones(old.k.shape[:1], bool)
    return Trial(jnp.zeros((), known.dtype), known, jnp.isfinite(known), (old, none, yes))


def _trial(
    dynamics: LinearDynamics,
    cost: QuadraticCost,
    start: Start,
    old: LinearGaussianPolicy,
    extra: Surprise,
    multiplier: Float[Array, "..."],
    entropy: float,
) -> Trial:
    """The policy that minimises cost + multiplier KL - entropy H, with what it costs and how far it went.

    One multiplier for all steps, or one per step: then Quu_t holds that of its own step, and so does the covariance.
    """
    each = jnp.broadcast_to(multiplier, old.k.shape[:1])
    tilted = cost._replace(C=cost.C + each[:, None, None] * extra.M, c=cost.c + each[:, None] * extra.m)
    solution = riccati(dynamics._replace(W=None), tilted)  # noise changes no policy
    sound = jnp.all(solution.definite) & jnp.all(jnp.isfinite(solution.K)) & jnp.all(jnp.isfinite(solution.Quu))
    eye = jnp.eye(old.k.shape[1], dtype=old.k.dtype)
    root = precision_root(jnp.where(sound, solution.Quu, eye))
    policy = LinearGaussianPolicy(solution.K, solution.k, jnp.sqrt(each + entropy)[:, None, None] * root)
    marginals = linear_marginals(dynamics, policy, *start)
    kl = policy_kl(policy, old, marginals)
    return Trial(jnp.sum(kl), expected_cost(cost, marginals), sound, (policy, kl, solution.definite))


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
    weigh = lambda v: jnp.sum(old.L * v[:, :, None], axis=1)
    centre = weigh(jnp.sum(gain * marginals.mean[:, None, :n], axis=2) + offset)
    scattered = jnp.matmul(jnp.swapaxes(old.L, 1, 2), gain, precision="highest")
    scatter = jnp.sum(jnp.matmul(scattered, marginals.cov[:, :n, :n], precision="highest") * scattered)
    inside = jnp.matmul(jnp.swapaxes(old.L, 1, 2), jnp.matmul(Quu, old.L, precision="highest"), precision="highest")
    variance = jnp.sum(centre**2) + scatter + 0.5 * jnp.sum(inside**2)
    guess = jnp.sqrt(variance / (2.0 * jnp.where(epsilon > 0.0, epsilon, 1.0)))
    return jnp.where(jnp.isfinite(guess) & (guess > 0.0), guess, 1.0)


RATE = 0.7
"""Power of KL_t / epsilon_t by which multipliers of single steps move, at most."""
REACH = 3.0
"""Most that log(KL_t / epsilon_t) counts for."""


class _Sweeps(NamedTuple):
    """What is carried through the sweeps over the multipliers of single steps."""

    logs: Float[Array, " T"]
    """The last logarithms of multipliers that gave a policy."""
    gap: Float[Array, " T"]
    """log(KL_t / epsilon_t) there."""
    rate: Scalar
    best: KLStep
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
    KL_t / epsilon_t; the power is halved where that leads to no policy (a Quu that is not positive definite).

    Where the sum over time may spend the whole bound in a few steps, this one keeps every step near the old policy, at
    the price of more solves.
    """
    extra, before = surprise(old), _known(dynamics, cost, start, old)
    sound = jnp.all(epsilon > 0.0)
    total = jnp.where(sound, jnp.sum(epsilon), 1.0)
    profile = jnp.ones_like(epsilon) if guess is None else guess / jnp.max(guess)

    def attempt(multiplier: Float[Array, "..."]) -> Trial:
        return _trial(dynamics, cost, start, old, extra, multiplier, entropy)

    def together(factor: Scalar) -> Trial:
        trial = attempt(factor * profile)
        return trial._replace(kl=jnp.max(trial.result[1] / epsilon))

    first = first_guess(dynamics, cost, start, old, total) if guess is None else jnp.max(guess)
    one = jnp.where(sound, 1.0, -1.0).astype(epsilon.dtype)
    common = solve_kl_dual(together, before, one, first, how)
    policy, kl, _ = common.result
    best = KLStep(policy, common.multiplier * profile, kl, common.cost, common.status, common.evaluations)
    lost = common.status == KLStatus.FAILED
    gap = _gap(kl, epsilon)
    close = jnp.max(jnp.abs(jnp.expm1(gap))) <= how.tolerance
    ending = jnp.where(lost, KLStatus.FAILED, jnp.where(close, KLStatus.SOLVED, -1)).astype(jnp.int32)
    began = _Sweeps(jnp.log(best.multiplier), gap, jnp.full((), RATE, kl.dtype), best, ending)

    def sweep(now: _Sweeps) -> _Sweeps:
        logs = now.logs + now.rate * jnp.clip(now.gap, -REACH, REACH)
        trial = attempt(jnp.exp(logs))
        policy, kl, _ = trial.result
        ok = trial.ok & jnp.isfinite(trial.cost) & jnp.all(jnp.isfinite(kl))
        gap = _gap(kl, epsilon)
        kept = ok & jnp.all(kl <= (1.0 + how.tolerance) * epsilon) & (trial.cost < now.best.cost)
        solves = now.best.solves + 1
        mine = KLStep(policy, jnp.exp(logs), kl, trial.cost, now.best.status, solves)
        best = jax.tree.map(lambda a, b: jnp.where(kept, a, b), mine, now.best)._replace(solves=solves)
        rate = jnp.where(ok, jnp.minimum(1.5 * now.rate, RATE), 0.5 * now.rate)
        over = jnp.where((solves >= how.evaluations) | (rate < 1e-3), KLStatus.LIMITED, -1)
        ending = jnp.where(ok & (jnp.max(jnp.abs(jnp.expm1(gap))) <= how.tolerance), KLStatus.SOLVED, over)
        logs, gap = jnp.where(ok, logs, now.logs), jnp.where(ok, gap, now.gap)
        return _Sweeps(logs, gap, rate, best, ending.astype(jnp.int32))

    end = jax.lax.while_loop(lambda now: now.ending < 0, sweep, began)
    return end.best._replace(status=end.ending)


def _gap(kl: Float[Array, " T"], epsilon: Float[Array, " T"]) -> Float[Array, " T"]:
    """log(KL_t / epsilon_t), finite for KL_t = 0."""
    return jnp.log(jnp.maximum(kl, 1e-300) / epsilon)


def within(step: KLStep, epsilon: Float[Array, "..."], tolerance: float = DEFAULT.tolerance) -> Flag:
    """Whether the bound is kept, over all steps or at each."""
    used = jnp.sum(step.kl) if epsilon.ndim == 0 else step.kl
    return jnp.all(used <= (1.0 + tolerance) * epsilon)
