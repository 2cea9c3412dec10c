"""Hyperparameters of a Gaussian process: the most probable ones, by L-BFGS from several starts.

Inputs and targets are in scaled units (standard deviation 1).  What is minimised is the negative log likelihood plus
PILCO's curb, sum_d (log l_d / log 100)^30 + ((log s - log sigma) / log 1e5)^30: flat inside, a wall at length-scales
of 1/100 and 100 and at a ratio of signal to noise of 1e5.  It keeps K away from singular matrices: in float64 variances
are exact to about 1e-14 of the signal's, far below the least noise's 1e-10.

PILCO's own ratio is 1000.  But a simulator without noise is smoother than that: with a large signal and long
length-scales a process extends polynomials beyond the data, which a wall at 1000 forbids.  On Pendulum-v1 from 50
random steps that made the difference between 8 and 10 solved of the 10 development seeds.

Deisenroth & Rasmussen, "PILCO", ICML 2011, and its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from scipy.optimize import minimize

from forethought.math import gp_host
from forethought.math.gp import Hyper, Rows
from forethought.math.gp_host import Table
from forethought.math.kernels import Kind
from forethought.math.sparse_gp import choose_inducing
from forethought.types import RandomKey

Status = Literal["converged", "iteration limit", "stalled", "failed"]
"""How a search ended.  `stalled`: the line search found nothing better, which rounding causes near an optimum.
`failed`: no finite value anywhere; the hyperparameters are those of the first start."""

POWER = 30
LENGTH_RANGE = np.log(100.0)
RATIO_RANGE = np.log(1e5)
LIMIT = np.log(1e4)
"""No logarithm of a length-scale or of the signal leaves [-LIMIT, LIMIT]; that of the noise may be as low as twice."""
WALL = 1e10
"""Value of a point where the likelihood has none."""
LEAST_SIGNAL = 1e-3
"""Standard deviation of the signal for targets that do not vary, in their units."""
SUBSET = 256
"""Rows that random starts are compared on: a likelihood of these takes a millisecond."""


class Search(NamedTuple):
    """How long to look."""

    restarts: int = 2
    """Random starts beside the first one."""
    evaluations: int = 200
    """Budget of evaluations of the likelihood, for each start."""


class Found(NamedTuple):
    """Where a search ended."""

    hyper: Hyper
    value: float
    """Negative log likelihood plus curb, in nats; 0 where nothing was searched for, infinite where it failed."""
    status: Status
    evaluations: int
    """Of all starts together."""


def initial(rows: Table) -> Hyper:
    """PILCO's start: length-scales are the inputs' standard deviations, the noise is a tenth of the targets'.

    An input that does not vary has length-scale 1, and so has everything if there are no rows.
    """
    number = max(float(np.sum(rows.count)), 1.0)
    weight = rows.count / number
    spread = np.sqrt(weight @ (rows.z - weight @ rows.z) ** 2)
    variance = weight @ (rows.y - weight @ rows.y) ** 2 + rows.within / number
    signal = np.log(max(float(np.sqrt(variance)), LEAST_SIGNAL))
    lengths = np.clip(np.log(np.where(spread > 1e-6, spread, 1.0)), -LIMIT, LIMIT)
    return Hyper(lengths, np.asarray(signal), np.asarray(signal - np.log(10.0)))


def curb(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """PILCO's penalty and its gradient."""
    lengths, ratio = theta[:-2] / LENGTH_RANGE, (theta[-2] - theta[-1]) / RATIO_RANGE
    gradient = np.empty_like(theta)
    gradient[:-2] = POWER * lengths ** (POWER - 1) / LENGTH_RANGE
    gradient[-2] = POWER * ratio ** (POWER - 1) / RATIO_RANGE
    gradient[-1] = -gradient[-2]
    return float(np.sum(lengths**POWER) + ratio**POWER), gradient


def minimise(objective: gp_host.Objective, start: np.ndarray, evaluations: int, curbed: bool = True) -> Found:
    """One run of L-BFGS from theta = `start`; never worse than the start."""
    best, lowest = np.array(start), np.inf

    def penalised(theta: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, lowest
        found = objective(theta)
        if found is None or not (np.isfinite(found[0]) and np.all(np.isfinite(found[1]))):
            return WALL, np.zeros_like(theta)
        value, gradient = found
        if curbed:
            more, slope = curb(theta)
            value, gradient = value + more, gradient + slope
        if value < lowest:
            best, lowest = np.array(theta), value
        return value, gradient

    low, high = np.full(len(start), -LIMIT), np.full(len(start), LIMIT)
    low[-1] = -2.0 * LIMIT
    options = {"maxfun": evaluations, "maxiter": evaluations, "ftol": 1e-8, "gtol": 1e-2}
    bounds = np.stack([low, high], axis=1)
    with gp_host.one_thread():
        ended = minimize(
            penalised, np.clip(start, low, high), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
    status: Status = "converged" if ended.status == 0 else "iteration limit" if ended.status == 1 else "stalled"
    if not np.isfinite(lowest):
        status = "failed"
    return Found(gp_host.unpack(best), float(lowest), status, int(ended.nfev))


def search(objective: gp_host.Objective, starts: Sequence[Hyper], evaluations: int) -> Found:
    """The best of one run from each start; `evaluations` of all of them."""
    runs = [minimise(objective, gp_host.pack(start), evaluations) for start in starts]
    best = min(runs, key=lambda found: found.value)
    return best._replace(evaluations=sum(found.evaluations for found in runs))


def random_start(near: Hyper, random: np.random.Generator) -> Hyper:
    """Length-scales up to about ten times off, a signal up to three times, and a ratio to the noise of 2 to 200."""
    lengths = near.log_lengths + random.uniform(-1.0, 2.5, np.shape(near.log_lengths))
    signal = near.log_signal + random.uniform(-0.5, 1.0)
    return Hyper(lengths, np.asarray(signal), np.asarray(signal - random.uniform(np.log(2.0), np.log(200.0))))


def fit_hyper(kind: Kind, rows: Rows, warm: Hyper | None, how: Search, key: RandomKey) -> Found:
    """MAP hyperparameters of one exact process: from `warm`, from PILCO's start, and from random ones.

    With more than `SUBSET` rows the random starts see that many of them only, and the best place so far is where one
    run with all rows begins.  Where there is nothing to learn, no rows or targets that are all the same, the answer is
    PILCO's start: a small signal about the prior mean.
    """
    used = gp_host.in_use(rows)
    answer = _without_search(used)
    if answer is not None:
        return answer
    first, random = initial(used), _generator(key)
    starts = [first] if warm is None else [warm, first]
    if len(used.y) <= SUBSET:
        starts += [random_start(first, random) for _ in range(how.restarts)]
        return search(gp_host.exact(kind, used), starts, how.evaluations)
    small = _look_around(kind, used, starts, how, random)
    starts = [small.hyper] if warm is None else [small.hyper, warm]
    return _from_the_best(gp_host.exact(kind, used), starts, how.evaluations, small.evaluations)


def fit_sparse(
    kind: Kind, rows: Rows, warm: Hyper | None, how: Search, key: RandomKey, count: int
) -> tuple[Found, Int[np.ndarray, " m"]]:
    """MAP hyperparameters under Titsias' bound, and the indices of the `count` rows that are its inducing points.

    Greedy points depend on hyperparameters, and those on points: the points are chosen where the search begins, and
    once more where it ends.
    """
    used = gp_host.in_use(rows)
    answer = _without_search(used)
    if answer is not None:
        return answer, choose_inducing(kind, answer.hyper, rows, count)
    first, random = initial(used), _generator(key)
    starts = [first] if warm is None else [warm, first]
    small = _look_around(kind, used, starts, how, random)
    points = np.asarray(rows.z)[choose_inducing(kind, small.hyper, rows, count)]
    starts = [small.hyper] if warm is None else [small.hyper, warm]
    found = _from_the_best(gp_host.sparse(kind, used, points), starts, how.evaluations, small.evaluations)
    return found, choose_inducing(kind, found.hyper, rows, count)


def _generator(key: RandomKey) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _without_search(rows: Table) -> Found | None:
    """The answer where there is nothing to search for."""
    if not all(np.all(np.isfinite(part)) for part in rows):
        unit = gp_host.unpack(np.append(np.zeros(rows.z.shape[1] + 1), -np.log(10.0)))
        return Found(unit, np.inf, "failed", 0)
    first = initial(rows)
    if len(rows.y) > 0 and float(first.log_signal) > np.log(LEAST_SIGNAL):
        return None
    return Found(first, 0.0, "converged", 0)


def _look_around(kind: Kind, rows: Table, starts: Sequence[Hyper], how: Search, random: np.random.Generator) -> Found:
    """The best of all starts, random ones too, for `SUBSET` of the rows."""
    chosen = random.permutation(len(rows.y))[:SUBSET]
    count = rows.count[chosen]
    share = np.sum(count - 1.0) / max(float(np.sum(rows.count - 1.0)), 1.0)
    some = Table(rows.z[chosen], rows.y[chosen], count, rows.within * float(share))
    starts = [*starts, *(random_start(starts[-1], random) for _ in range(how.restarts))]
    return search(gp_host.exact(kind, some), starts, how.evaluations)


def _from_the_best(objective: gp_host.Objective, starts: Sequence[Hyper], evaluations: int, so_far: int) -> Found:
    """One run, from the best of the starts."""
    looks = [minimise(objective, gp_host.pack(start), 1) for start in starts] if len(starts) > 1 else []
    begin = min(looks, key=lambda found: found.value).hyper if looks else starts[0]
    found = minimise(objective, gp_host.pack(begin), evaluations)
    return found._replace(evaluations=found.evaluations + len(looks) + so_far)
