"""The multiplier of one KL bound: a root on a log-log scale.

minimise cost(p) with KL(p || old) <= epsilon has the dual g(l) = min_p cost(p) + l (KL(p) - epsilon), which is concave
with the slope KL(p_l) - epsilon: so the multiplier is where KL(p_l) = epsilon.  KL falls strictly in l.  As l grows it
falls like l^-2 (p_l is the old one tilted by exp(-advantage / l)), so that log KL over log l is nearly a line, and a
secant on that scale lands in a few steps, in any units of the cost.  Where no p_l exists (a Quu that is not positive
definite: the dual is -inf there) KL counts as +inf, which is the side on which l has to grow.

This one solver serves time-varying controllers, the weights of samples, and trust-region steps of networks.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.types import Array, Flag, Scalar


class KLStatus(enum.IntEnum):
    """How the search for a multiplier ended.  Whatever it is, what is returned keeps the bound."""

    SOLVED = 0
    """KL is the bound to the tolerance (or what keeps the bound and costs less than that is returned)."""
    INACTIVE = 1
    """The bound holds without being reached, at the smallest multiplier that is tried."""
    LIMITED = 2
    """The best that keeps the bound, but KL is not near it: it jumps there, or evaluations ran out."""
    FAILED = 3
    """Nothing that was tried keeps the bound: the old one is returned."""


class Trial(NamedTuple):
    """What one multiplier gives."""

    kl: Scalar
    cost: Scalar
    """What is minimised."""
    ok: Flag
    """Whether it gives anything."""
    result: Any
    """What is to be returned, a tree of arrays."""


class DualSolution(NamedTuple):
    """The best that keeps the bound."""

    result: Any
    multiplier: Scalar
    """+inf where the old one is returned."""
    kl: Scalar
    cost: Scalar
    status: Int[jax.Array, ""]
    """A `KLStatus`."""
    evaluations: Int[jax.Array, ""]


@dataclasses.dataclass(frozen=True)
class Bracket:
    """How the multiplier is looked for."""

    tolerance: float = 0.1
    """|KL / epsilon - 1| that counts as equal, and the share by which the bound may be exceeded."""
    evaluations: int = 50
    decades: float = 16.0
    """The multiplier is looked for within that many powers of ten of the start, and below as long as that pays."""


STEEPEST, FLATTEST = -2.0, -0.2
"""Slopes d log KL / d log multiplier that a secant may have before there is a bracket; the first is the limit for large
multipliers."""
FARTHEST = math.log(1e3)
"""Most that a step changes the logarithm of the multiplier, unless KL is flat."""
INNER = 0.05
"""A step that leaves less than this share of the bracket on one side is replaced by its middle, if KL is far off."""
GAIN = 1e-3
"""A smaller multiplier pays if the cost falls by that share of itself."""
SLOW = 0.5
"""A step that leaves more than this share of log(KL / epsilon) brought little."""
NARROW = 1e-10
"""A bracket of logarithms that is narrower has a jump of KL inside."""
DEFAULT = Bracket()


class _Search(NamedTuple):
    x: Scalar
    """log multiplier."""
    low: Scalar
    high: Scalar
    before: tuple[Scalar, Scalar]
    """The last x and log(KL / epsilon) that were finite; NaN before there is one."""
    failures: Int[jax.Array, ""]
    """In a row, without anything that is known to be large enough."""
    best: DualSolution
    ending: Int[jax.Array, ""]
    """The status; -1 as long as the search goes on."""


def solve_kl_dual(
    attempt: Callable[[Scalar], Trial], old: Trial, epsilon: Scalar, start: Scalar, how: Bracket = DEFAULT
) -> DualSolution:
    """The multiplier with KL = epsilon, and what it gives; `old` (KL = 0) if nothing else keeps the bound.

    `attempt` is evaluated at `start` first, then by secant steps on the log-log scale inside a bracket.  Of all that
    was evaluated the one of least cost with KL <= (1 + tolerance) epsilon is returned, never another.  A bound of 0
    leaves the old one; one that is negative, infinite or NaN fails.
    """
    dtype = epsilon.dtype
    infinite, nothing = jnp.full((), jnp.inf, dtype), jnp.full((), jnp.nan, dtype)
    first = jnp.log(jnp.where(jnp.isfinite(start) & (start > 0.0), start, 1.0)).astype(dtype)
    count = jnp.zeros((), jnp.int32)
    none = DualSolution(old.result, infinite, jnp.zeros((), dtype), infinite, count, count)
    open_ended = (epsilon > 0.0) & jnp.isfinite(epsilon)
    ending = jnp.where(open_ended, -1, jnp.where(epsilon == 0.0, KLStatus.SOLVED, KLStatus.FAILED))
    began = _Search(first, -infinite, infinite, (nothing, nothing), count, none, ending.astype(jnp.int32))
    turn = lambda now: _turn(attempt, now, first, epsilon, how)
    end = jax.lax.while_loop(lambda now: now.ending < 0, turn, began)
    found = jnp.isfinite(end.best.cost)
    status = jnp.where(found | (epsilon == 0.0), end.ending, KLStatus.FAILED).astype(jnp.int32)
    return end.best._replace(cost=jnp.where(found, end.best.cost, old.cost), status=status)


def reached(kl: Float[Array, "*T"], epsilon: Float[Array, "*T"], tolerance: float) -> Flag:
    """Whether KL is the bound, everywhere, to the tolerance; never where it is beyond."""
    return jnp.all((kl >= (1.0 - tolerance) * epsilon) & (kl <= (1.0 + tolerance) * epsilon))


def _turn(attempt: Callable[[Scalar], Trial], now: _Search, first: Scalar, epsilon: Scalar, how: Bracket) -> _Search:
    """Try one multiplier, keep what is best, and choose the next."""
    x, multiplier = now.x, jnp.exp(now.x)
    trial = attempt(multiplier)
    ok = trial.ok & jnp.isfinite(trial.kl) & jnp.isfinite(trial.cost)
    gap = jnp.where(ok, jnp.log(jnp.maximum(trial.kl, 1e-300) / epsilon), jnp.inf)
    better = ok & (trial.kl <= (1.0 + how.tolerance) * epsilon) & (trial.cost < now.best.cost)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
    evaluations = now.best.evaluations + 1
    mine = DualSolution(trial.result, multiplier, trial.kl, trial.cost, now.best.status, evaluations)
    best = keep(mine, now.best)._replace(evaluations=evaluations)
    low = jnp.where(gap > 0.0, jnp.maximum(now.low, x), now.low)
    high = jnp.where(gap > 0.0, now.high, jnp.minimum(now.high, x))

    following = jnp.where(ok, _secant(x, gap, now.before, (low, high)), _up(x, (low, high), now.failures))
    least, most = first - how.decades * math.log(10.0), first + how.decades * math.log(10.0)
    over = (high - low < NARROW) | (following > most) | (evaluations >= how.evaluations)
    ending = jnp.where(over, KLStatus.LIMITED, -1)
    paid = now.best.cost - trial.cost > GAIN * jnp.abs(trial.cost)
    lowest = jnp.log(jnp.finfo(x.dtype).tiny)
    ending = jnp.where(ok & (following < jnp.where(paid, lowest, least)), KLStatus.INACTIVE, ending)
    ending = jnp.where(ok & reached(trial.kl, epsilon, how.tolerance), KLStatus.SOLVED, ending)
    before = (jnp.where(ok, x, jnp.nan), jnp.where(ok, gap, jnp.nan))
    failures = jnp.where(ok, 0, now.failures + 1)
    return _Search(following, low, high, before, failures, best, ending.astype(jnp.int32))


def _secant(x: Scalar, gap: Scalar, before: tuple[Scalar, Scalar], bracket: tuple[Scalar, Scalar]) -> Scalar:
    """Where the line through the last two points is 0; the middle of the bracket if that is not well inside it.

    How far inside goes with how much is missing, so that the end of a search is not slowed down; the middle is also
    taken if the last step brought little.  Where KL hardly grows any more and nothing is known to be too much, every
    step is twice the last.
    """
    low, high = bracket
    width = high - low
    closed = jnp.isfinite(width)
    slope = (gap - before[1]) / (x - before[0])
    likely = jnp.where(closed, jnp.minimum(slope, -1e-6), jnp.clip(slope, STEEPEST, FLATTEST))
    step = -gap / jnp.where(jnp.isnan(slope), STEEPEST, likely)
    following = x + jnp.clip(step, -FARTHEST, FARTHEST)
    flat = (slope > FLATTEST) & (gap < 0.0) & jnp.isinf(low)
    following = jnp.where(flat, jnp.minimum(following, x + 2.0 * (x - before[0])), following)
    inner = INNER * jnp.minimum(jnp.abs(gap), 1.0) * width
    outside = (following <= low + inner) | (following >= high - inner) | (jnp.abs(gap) > SLOW * jnp.abs(before[1]))
    return jnp.where(closed & outside, 0.5 * (low + high), following)


def _up(x: Scalar, bracket: tuple[Scalar, Scalar], failures: Int[jax.Array, ""]) -> Scalar:
    """From where there is nothing: to the middle, or up by 4, 16, 256, ... until there is something."""
    low, high = bracket
    further = x + jnp.minimum(math.log(4.0) * 2.0 ** failures.astype(x.dtype), FARTHEST)
    return jnp.where(jnp.isfinite(high), 0.5 * (low + high), further)
