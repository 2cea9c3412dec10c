"""A model judged on whole episodes that it has not seen: what `forethought diagnose` reports, as plain numbers.

Where sampling error matters the number of independent points that would tell as much is counted (math/calibration.py),
and a bound is given beside the number.  Neighbouring starting points share most of their rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from forethought.math.calibration import LEVELS, Average, average, inside, share_interval
from forethought.math.diagnosis import (
    CHUNK,
    Model,
    ahead_errors,
    beliefs_about,
    break_even,
    gaps,
    mean_of,
    root_mean_square,
)
from forethought.math.hindsight import Beliefs, Stretches, stretches
from forethought.types import Trajectory

PARTICLES = 79
"""Imagined rollouts: with so many every band ends at one of them, and a percent point is near what they can tell."""
MOST = 256
"""Starting points at most; of longer episodes every second, third, ... row is one."""
Z = 3.0
"""Half width of the bounds in standard deviations: many shares are looked at, and few should be wrong by luck."""


def judge(model: Model, episodes: Sequence[Trajectory], horizon: int, planned: int, seed: Sequence[int]) -> Any:
    """The whole diagnosis, up to `horizon` steps ahead, and over windows of `planned` steps for the exploitation gap.

    `one_step`, per state component, in units of the data: `error` (root mean square), `bias` (mean prediction minus
    what happened), and by the law of total variance over drawn beliefs `epistemic` (standard deviation of their means)
    and `aleatoric` (root of the mean of their variances).  `ahead`, a list with an entry per number of steps: see
    `_at`.  `noise_floor`: the aleatoric standard deviation over all components, the one-step error that would be left
    if the mean were right and the stated noise true.  `break_even`: the largest number of steps at which the mean
    prediction beats "nothing changes".
    """
    seen, owner, stride = _starts(model, episodes, horizon)
    seed_of = lambda part: [*seed, part]
    said = beliefs_about(model, seen, seed_of(0), (PARTICLES, 2), _chunk(horizon))
    error, still = ahead_errors(model, _filled(seen))
    error, still = error[: len(owner)], still[: len(owner)]
    group = lambda values: [values[owner == e] for e in range(len(episodes))]
    ahead = [_at(h, model, (said, seen, error, still), group, max(h / stride, 1.0)) for h in range(1, horizon + 1)]
    aleatoric, epistemic = (mean_of(v[:, 0], 0) / model.scale**2 for v in (said.aleatoric, said.epistemic))
    biases = [average(group(_finite(error[:, 0, i]))) for i in range(model.spec.n)]
    return {
        "starts": len(owner),
        "stride": stride,
        "horizon": horizon,
        "particles": PARTICLES,
        "scale": model.scale.tolist(),
        "one_step": {
            "error": root_mean_square(error[:, 0], 0).tolist(),
            "bias": [b.mean for b in biases],
            "bias_standard_error": [b.error for b in biases],
            "epistemic": np.sqrt(epistemic).tolist(),
            "aleatoric": np.sqrt(aleatoric).tolist(),
            "effective": min((b.effective for b in biases), default=0.0),
        },
        "noise_floor": float(np.sqrt(mean_of(aleatoric))),
        "break_even": break_even(*(np.array([a[k] for a in ahead]) for k in ("error", "persistence"))),
        "ahead": ahead,
        "exploitation": _exploitation(model, episodes, (horizon, planned), seed_of(0)),
        "extras": _extras(model, said.mean[:, 0], seen.y[:, 0].astype(float), seen.real[:, 0]),
    }


def _chunk(length: int) -> int:
    """How many stretches of so many steps are rolled out at once, so that memory does not grow with their length."""
    return min(max(20 * CHUNK // length, 4), CHUNK)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _starts(model: Model, episodes: Sequence[Trajectory], horizon: int) -> tuple[Stretches, np.ndarray, int]:
    """Stretches from every row, or every so many; whose episode each is of; and how many rows lie between two."""
    stride = max(math.ceil(sum(e.length for e in episodes) / MOST), 1)
    parts = [stretches(e, model.spec, np.arange(0, e.length, stride), horizon) for e in episodes]
    owner = np.repeat(np.arange(len(parts)), [len(p.x) for p in parts])
    return _joined(parts), owner, stride


def _joined(parts: Sequence[Stretches]) -> Stretches:
    return Stretches(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _filled(seen: Stretches) -> Stretches:
    """With the first one again at the end, up to a multiple of `CHUNK`: few sizes to compile for."""
    more = -len(seen.x) % CHUNK
    return Stretches(*(np.concatenate([v, np.repeat(v[:1], more, axis=0)]) for v in seen))


def _at(
    h: int, model: Model, about: tuple[Beliefs, Stretches, np.ndarray, np.ndarray], group: Any, overlap: float
) -> dict[str, Any]:
    """What is known at h steps ahead.

    - `count`: starting points with so many real steps; `finite`: the share of them where all rollouts are finite
    - `error`, `persistence`: of the mean prediction, and of "nothing changes"; `wins`: the share of starting points
      from which the first is the smaller one, with Wilson bounds `low` and `high`
    - `coverage`: per level, the share over all components and `by_component`, with Wilson bounds `low` and `high`
    - `log_likelihood`: mean log p, nats, and its standard error
    - `epistemic_share`: of the predictive variance, the part that is doubt
    """
    said, seen, error, still = about
    k, scale = h - 1, model.scale
    real = seen.real[:, k]
    known = ~np.isnan(said.depth[:, k])
    square = lambda e: np.mean(e[:, k] ** 2, axis=1)
    better = np.where(real, square(error) < square(still), np.nan)
    wins = average(group(better), overlap)
    bounds = share_interval(wins.mean, wins.effective, Z)
    likely = average(group(_finite(said.log_prob[:, k])), overlap)
    parts = (said.shared, said.spread) if h > 1 else (said.epistemic, said.epistemic + said.aleatoric)
    doubt, whole = (float(mean_of(v[:, k] / scale**2)) for v in parts)
    by_component = root_mean_square(error[:, k], 0)
    return {
        "steps": h,
        "count": int(real.sum()),
        "finite": float(known[real].all(axis=1).mean()) if real.any() else math.nan,
        "error": float(root_mean_square(by_component)),
        "error_by_component": by_component.tolist(),
        "persistence": float(root_mean_square(still[:, k])),
        "wins": {"share": wins.mean, "low": bounds[0], "high": bounds[1]},
        "coverage": {str(level): _held(said.depth[:, k], level, group, overlap) for level in LEVELS},
        "log_likelihood": likely.mean,
        "log_likelihood_standard_error": likely.error,
        "epistemic_share": float(np.clip(doubt / whole, 0.0, 1.0)) if whole > 0.0 else math.nan,
    }


def _held(depth: np.ndarray, level: int, group: Any, overlap: float) -> dict[str, Any]:
    """The shares of points [S n] in the central band of a level, and what so many points can tell."""
    held = inside(depth, PARTICLES, level / 100)
    each: list[Average] = [average(group(held[:, i]), overlap) for i in range(held.shape[1])]
    bounds = [share_interval(a.mean, a.effective, Z) for a in each]
    return {
        "share": float(mean_of(held)),
        "by_component": [a.mean for a in each],
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
        "effective": [a.effective for a in each],
    }


def _exploitation(
    model: Model, episodes: Sequence[Trajectory], lengths: tuple[int, int], seed: Sequence[int]
) -> dict[str, Any]:
    """Imagined minus real return of what was executed, over windows side by side of the planning horizon (or of the
    longest episode, if that is shorter): mean, standard error, number of windows, and the mean real return."""
    horizon, planned = lengths
    steps = max(min(planned, max(e.length for e in episodes)), 1)
    # Where it can be, the program that is compiled already.
    length, how_many = (horizon, (PARTICLES, 2)) if steps <= horizon else (steps, (PARTICLES, 1))
    parts, ends, owner = [], [], []
    thin = max(math.ceil(sum(e.length for e in episodes) / steps / CHUNK), 1)
    for i, episode in enumerate(episodes):
        starts = np.arange(0, episode.length, steps * thin)
        parts.append(stretches(episode, model.spec, starts, length))
        rows = np.minimum(starts[:, None] + np.arange(length), episode.length - 1)
        ends.append(np.asarray(episode.terminated)[rows])
        owner += [i] * len(starts)
    seen = _joined(parts)
    said = beliefs_about(model, seen, seed, how_many, _chunk(length))
    gap, real = gaps(said, seen, np.concatenate(ends), steps)
    found = average([gap[np.asarray(owner) == i] for i in range(len(episodes))])
    return {
        "gap": found.mean,
        "standard_error": found.error,
        "windows": found.count,
        "effective": found.effective,
        "steps": steps,
        "real_return": float(mean_of(real)),
    }


def _extras(model: Model, expected: np.ndarray, y: np.ndarray, real: np.ndarray) -> dict[str, Any] | None:
    """Learned reward and termination one step ahead, from the mean over beliefs of what they expect; None if the model
    has no such outputs.  Probabilities are kept between 0.001 and 0.999 for the log loss (nats)."""
    n = model.spec.n
    if model.spec.extras < 2:
        return None
    reward, ended = y[real, n], y[real, n + 1] > 0.5
    said, says = expected[real, n], expected[real, n + 1]
    with np.errstate(invalid="ignore"):
        p = np.clip(says, 1e-3, 1.0 - 1e-3)
        loss = -np.where(ended, np.log(p), np.log1p(-p))
        right = np.where(np.isnan(says), np.nan, (says >= 0.5) == ended)
    return {
        "reward_error": float(root_mean_square(said - reward)),
        "reward_scale": float(np.std(reward)),
        "termination_accuracy": float(mean_of(right)),
        "termination_log_loss": float(mean_of(loss)),
        "terminations": int(ended.sum()),
    }
