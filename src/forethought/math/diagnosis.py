"""How wrong a model was about what then really happened: the numbers, in units that can be compared.

Errors are in units of the data: differences from what happened, angles the short way round, divided by the standard
deviation of each state component over the training states.  An error over several components is the root of the mean
square over them.  Everything that is asked of a model is in math/hindsight.py; here it is counted, in NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from forethought.core import AbstractCost, AbstractDynamics
from forethought.math.calibration import LEVELS, inside
from forethought.math.hindsight import Beliefs, Stretches, believe, mean_ahead, short_way, side_by_side, stretches
from forethought.types import Metrics, Spec, Trajectory

HORIZON = 20
"""Steps ahead of `model_error_20` and `break_even` while training."""
NEAR = 5
"""Steps ahead at which bands are looked at while training, beside one."""
PARTICLES = 19
"""Imagined rollouts while training, where each costs time in every turn."""
CHUNK = 64
"""Stretches in one compiled call of a diagnosis."""


class Model(NamedTuple):
    """What is judged: a model, with the task's cost, its shapes, and the unit [n] of each state component."""

    dynamics: AbstractDynamics
    cost: AbstractCost
    spec: Spec
    scale: np.ndarray


def data_scale(x: np.ndarray) -> np.ndarray:
    """The standard deviation of each component of states [T n]; 1 for one that does not vary, or without states.

    A standard deviation below 1e-6 of the largest magnitude is rounding error, not variation.
    """
    if len(x) == 0:
        return np.ones(x.shape[1])
    std, size = x.std(axis=0), np.abs(x).max(axis=0)
    return np.where(std > 1e-6 * size, std, 1.0)


def root_mean_square(error: np.ndarray, axis: Any = None) -> Any:
    """Over what is finite; NaN where nothing is."""
    return np.sqrt(mean_of(np.asarray(error, np.float64) ** 2, axis))


def mean_of(values: np.ndarray, axis: Any = None) -> Any:
    """The mean of what is not NaN; NaN where everything is."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def ahead_errors(model: Model, seen: Stretches) -> tuple[np.ndarray, np.ndarray]:
    """Errors [S W n] of the mean predictions from each start, and of "nothing changes", NaN beyond the real steps.

    A prediction that is not finite is an infinite error: it must not look like no error.
    """
    n, angles = model.spec.n, model.spec.angles
    path = np.asarray(mean_ahead(model.dynamics, seen.x[:, 0], seen.u), np.float64)
    unknown = ~seen.real[..., None]
    with np.errstate(all="ignore"):
        error = short_way(path - seen.y[..., :n], angles) / model.scale
        still = short_way(seen.x[:, :1] - seen.y[..., :n], angles) / model.scale
    error = np.where(np.isfinite(error), error, np.inf)
    return np.where(unknown, np.nan, error), np.where(unknown, np.nan, still)


def break_even(error: np.ndarray, still: np.ndarray) -> int | None:
    """The largest number of steps ahead at which the error [H] is smaller than that of "nothing changes"; 0 if there
    is none, None if nothing is known."""
    known = ~np.isnan(error) & ~np.isnan(still)
    return int(np.max(np.flatnonzero(known & (error < still)) + 1, initial=0)) if known.any() else None


def beliefs_about(
    model: Model, seen: Stretches, seed: Sequence[int], how_many: tuple[int, int], chunk: int = CHUNK
) -> Beliefs:
    """What P beliefs said about the stretches, `chunk` of them in one call.  All stretches meet the same beliefs.

    Of rows that are not real, everything is NaN.
    """
    belief, noise = np.random.SeedSequence(list(seed)).generate_state(2)
    random = (int(belief), np.random.default_rng(int(noise)))
    parts = []
    for first in range(0, len(seen.x), chunk):
        part = Stretches(*(v[first : first + chunk] for v in seen))
        missing = chunk - len(part.x)
        padded = Stretches(*(np.concatenate([v, np.repeat(v[:1], missing, axis=0)]) for v in part))
        said = believe(model.dynamics, model.cost, model.spec, padded, random, how_many)
        parts.append([np.where(_along(part.real, v), v[: len(part.x)], np.nan) for v in said])
    return Beliefs(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _along(real: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The flags [S W] with as many axes as the values."""
    return real.reshape(*real.shape, *[1] * (values.ndim - 2))


def gaps(said: Beliefs, seen: Stretches, terminated: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(imagined minus real return, real return) [S] over the first `steps` steps of each stretch: mean imagined cost
    over rollouts, discount 1, no terminal cost.

    NaN where fewer steps were real, unless the real episode terminated there, and where the model's cost is not finite.
    """
    real = seen.real[:, :steps]
    whole = real.all(axis=1) | (terminated[:, :steps] & real).any(axis=1)
    with np.errstate(all="ignore"):
        over = lambda cost: np.where(real, cost[:, :steps], 0.0).sum(axis=1)
        gap = np.where(whole, over(said.cost) - over(said.imagined), np.nan)
    return np.where(np.isfinite(gap), gap, np.nan), np.where(whole, -over(said.cost), np.nan)


def while_training(model: Model, piece: Trajectory, horizon: int, seed: Sequence[int]) -> Metrics:
    """How wrong a model was about one piece of an episode that it had not seen; what cannot be told is NaN or None.

    - `model_error_1`, `model_error_20`: root mean squared error of mean predictions so many steps ahead, in units of
      the data, over components and starting points; `model_error_by_component`: the first for each state component
    - `break_even`: the largest number of steps, at most 20, at which that is less than the error of "nothing changes"
    - `coverage_50_1` ... `coverage_95_5`: the share of values in the central bands, one and five steps ahead
    - `log_likelihood_1`, `log_likelihood_5`: mean log p of what happened, in nats per step
    - `epistemic_std`, `aleatoric_std`: one step ahead, in units of the data, root mean square over components
    - `exploitation_gap`: imagined minus real return of `exploitation_steps` executed steps, the planning horizon or
      what there was of it

    Shapes depend on the piece's length only through the next power of two from 32 on, so nothing recompiles.
    """
    rows = 1 << max(piece.length - 1, 31).bit_length()
    ahead = stretches(piece, model.spec, np.minimum(np.arange(rows), piece.length - 1), HORIZON)
    ahead.real[piece.length :] = False
    error, still = ahead_errors(model, ahead)
    by_step, still_by_step = (root_mean_square(v, (0, 2)) for v in (error, still))
    steps = max(min(horizon, piece.length), 1)
    seen = side_by_side(piece, model.spec, (1, NEAR, steps), rows)
    # As many stretches as there are: one compiled call.
    said = beliefs_about(model, seen, seed, (PARTICLES, 1), chunk=len(seen.x))
    ends = np.zeros(rows, bool)
    ends[: piece.length] = piece.terminated
    metrics: Metrics = {
        "model_error_1": number(by_step[0]),
        f"model_error_{HORIZON}": number(by_step[-1]),
        "model_error_by_component": [number(v) for v in root_mean_square(error[:, 0], 0)],
        "break_even": break_even(by_step, still_by_step),
    }
    for lane, far in ((0, 1), (1, NEAR)):
        at = slice(far - 1, piece.length, far)
        for level in LEVELS:
            held = inside(said.depth[lane, at], PARTICLES, level / 100)
            metrics[f"coverage_{level}_{far}"] = whole(held)
        metrics[f"log_likelihood_{far}"] = whole(said.log_prob[lane, at])
    for name, variance in (("epistemic", said.epistemic), ("aleatoric", said.aleatoric)):
        metrics[f"{name}_std"] = number(np.sqrt(whole(variance[0, : piece.length] / model.scale**2)))
    return metrics | _exploited(said, seen, ends, steps)


def _exploited(said: Beliefs, seen: Stretches, ends: np.ndarray, steps: int) -> Metrics:
    """The gap of the third stretch, which rollouts of that many steps fill end to end."""
    windows = -(-seen.real.shape[1] // steps)
    cut = lambda v: np.concatenate([v[2], np.zeros(windows * steps - len(v[2]), v.dtype)]).reshape(windows, steps)
    pick = lambda tree: tree._replace(**{name: cut(getattr(tree, name)) for name in ("imagined", "cost")})
    terminated = np.concatenate([ends, np.zeros(windows * steps - len(ends), bool)]).reshape(windows, steps)
    gap, _ = gaps(pick(said), seen._replace(real=cut(seen.real)), terminated, steps)
    return {"exploitation_gap": number(mean_of(gap)), "exploitation_steps": steps}


def whole(values: np.ndarray) -> float:
    """The mean, NaN unless all of it is finite: while training, a model that is broken anywhere is broken."""
    return number(np.mean(values)) if values.size else float("nan")


def number(value: Any) -> float:
    """A Python float; NaN for what is not finite, which becomes null in JSON."""
    value = float(value)
    return value if np.isfinite(value) else float("nan")
