"""Section 3.2, Algorithms 5 and 6: the multiplier of the KL bound by the lecture's fixed step, and by the solver."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.kl_step import Start, kl_step
from forethought.math.linear_kl import policy_kl, surprise
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost, linear_marginals
from forethought.math.lqr import max_entropy_policy
from forethought.math.riccati import LQRStatus, riccati
from forethought.types import Array, Scalar

T, N, M = 20, 3, 2
NEAR = 0.1
"""A KL that is off by at most this part of the bound counts as having reached it."""
RATES = (1e-3, 0.1, 10.0)
"""alpha."""
MOST, FULL_MOST = 500, 2000
"""Steps of the ascent, at most."""


class Problem(NamedTuple):
    """Minimise E[cost] within KL <= epsilon of the old controller."""

    dynamics: LinearDynamics
    cost: QuadraticCost
    start: Start
    old: LinearGaussianPolicy
    epsilon: Scalar


def problem(seed: int) -> Problem:
    """Random and convex: costs of scales from 1e-3 to 1e3, bounds of 0.01 to 1 nats per step."""
    random = np.random.default_rng(seed)
    A = np.eye(N) + 0.2 * random.standard_normal((T, N, N))
    A *= random.uniform(0.7, 1.1) / np.max(np.abs(np.linalg.eigvals(A)), axis=1)[:, None, None]
    F = np.concatenate([A, 0.5 * random.standard_normal((T, N, M))], axis=2)
    dynamics = LinearDynamics(F, 0.1 * random.standard_normal((T, N)), np.tile(1e-3 * np.eye(N), (T, 1, 1)))
    root, scale = random.standard_normal((T, N + M, N + M)), 10.0 ** random.uniform(-3.0, 3.0)
    C = scale * (root @ np.swapaxes(root, 1, 2) / (N + M) + 0.05 * np.eye(N + M))
    c = scale * random.standard_normal((T, N + M))
    cost = QuadraticCost(C, c, np.zeros(T), scale * np.eye(N), np.zeros(N), np.zeros(()))
    L = np.tile(10.0 ** random.uniform(-1.0, 0.5) * np.eye(M), (T, 1, 1))
    old = LinearGaussianPolicy(0.2 * random.standard_normal((T, M, N)), 0.3 * random.standard_normal((T, M)), L)
    start = Start(random.standard_normal(N), 0.1 * np.eye(N))
    epsilon = np.asarray(T * 10.0 ** random.uniform(-2.0, 0.0))
    return Problem(*jax.tree.map(jnp.asarray, (dynamics, cost, start, old, epsilon)))


def divergence(it: Problem, multiplier: Scalar) -> Scalar:
    """KL of the controller that minimises cost / l - log old (Algorithm 6, steps 1 and 2); +inf where there is none."""
    extra = surprise(it.old)
    cost = it.cost._replace(C=it.cost.C + multiplier * extra.M, c=it.cost.c + multiplier * extra.m)
    solution = riccati(it.dynamics._replace(W=None), cost)
    policy = max_entropy_policy(solution, multiplier)
    kl = jnp.sum(policy_kl(policy, it.old, linear_marginals(it.dynamics, policy, *it.start)))
    return jnp.where((solution.status == LQRStatus.SOLVED) & jnp.isfinite(kl), kl, jnp.inf)


@jax.jit
def ascend(it: Problem, rate: Scalar, most: Array) -> tuple[Array, Array]:
    """(LQR problems solved, whether the bound was reached) by l <- max(l + rate (KL - epsilon), 1e-8) from 1."""
    reached = lambda kl: jnp.abs(kl / it.epsilon - 1.0) <= NEAR

    def step(now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        multiplier, kl, count = now
        # The lecture does not say what follows an infinite KL; a finite one goes on.
        multiplier = jnp.maximum(multiplier + rate * (jnp.minimum(kl, 1e6) - it.epsilon), 1e-8)
        return multiplier, divergence(it, multiplier), count + 1

    one = jnp.ones((), jnp.float64)
    began = one, divergence(it, one), jnp.ones((), jnp.int32)
    _, kl, count = jax.lax.while_loop(lambda now: ~reached(now[1]) & (now[2] < most), step, began)
    return count, reached(kl)


@jax.jit
def _solved(it: Problem) -> tuple[Array, Array]:
    found = kl_step(*it)
    return found.solves, jnp.sum(found.kl)


def _ascents(seed: int, full: bool) -> dict[str, Any]:
    """Of every rate: how many LQR problems it took, or None if it did not get there."""
    it, most = problem(seed), jnp.asarray(FULL_MOST if full else MOST, jnp.int32)
    found = {}
    for rate in RATES:
        count, reached = ascend(it, jnp.asarray(rate, jnp.float64), most)
        found[f"alpha {rate:g}"] = int(count) if bool(reached) else None
    return found


def slower(seed: int, full: bool) -> Outcome:
    """How many times as many LQR problems the best fixed step takes, at least."""
    found = _ascents(seed, full)
    solves, kl = _solved(problem(seed))
    ratio = float(kl / problem(seed).epsilon)
    if not abs(ratio - 1.0) <= NEAR:
        raise RuntimeError(f"the solver ended at a KL of {ratio:.3g} of the bound")
    best = min((count for count in found.values() if count is not None), default=FULL_MOST if full else MOST)
    return Outcome(log_ratio(float(best), float(solves)), found | {"solver": int(solves), "its KL / epsilon": ratio})


def converging(seed: int, full: bool) -> Outcome:
    """1 if ascent with the middle rate gets there, otherwise 0."""
    found = _ascents(seed, full)
    return Outcome(float(found[f"alpha {RATES[1]:g}"] is not None), found)


WHERE = (
    f"Random convex problems with {N} states, {M} actions, {T} steps, costs of scales from 1e-3 to 1e3 and bounds of "
    f"0.01 to 1 nats per step; ascent from 1, at most {MOST} steps ({FULL_MOST} with --full)."
)

SLOWER = Claim(
    name="dual-solver",
    section="3.2, dual gradient descent",
    sentence="The multiplier of the KL bound is found by gradient ascent on the dual with a fixed step.",
    prediction="Ascent with a fixed step, the best of three sizes, solves more than twice as many LQR problems as the "
    "library's search on a log-log scale until KL is within a tenth of the bound.",
    how=f"{WHERE} Ratio of LQR problems solved, fixed step over search; ascent that does not arrive counts with all "
    "its steps, so the ratio is a lower bound.",
    measure=slower,
    unit=TIMES,
    margin=float(np.log(2.0)),
    seeds=tuple(range(100, 140)),
    full_seeds=tuple(range(100, 300)),
)
CONVERGING = dataclasses.replace(
    SLOWER,
    name="dual-converges",
    sentence="Repeating l <- l + alpha (KL - epsilon) converges to the bound.",
    prediction="With alpha = 0.1 more than nine of ten problems arrive within a tenth of their bound.",
    how=f"{WHERE} 1 for a problem that arrives, 0 for one that does not.",
    measure=converging,
    note="alpha has the units of the cost: what suits one scale is far too small or too large for another, and the "
    "lecture does not say how to choose it.",
    unit="share of problems",
    margin=0.9,
)
CLAIMS = (SLOWER, CONVERGING)
