"""Gaussian mixtures with full covariances, fitted by EM in log space.  NumPy in float64 on the host: nothing is
compiled, so that neither the number of rows nor that of components costs a compilation.

The E-step is one matrix product of all whitening factors with a block of rows that stays in the cache; the M-step takes
covariances around the new means (two passes), never E[x x^T] - mu mu^T, which cancels.

Dempster, Laird & Rubin (1977); Arthur & Vassilvitskii (2007) for the start; Schwarz (1978) for the number of
components.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK = 512
"""Rows per block: 13 columns and 20 components of them fill a second-level cache of 1 MB."""
LLOYD = 10
"""The most rounds of k-means before EM."""
BRIEF = 10
"""Rounds of EM after which the best start is chosen; it alone goes on."""

Points = Float[np.ndarray, "r D"]


class Joint(NamedTuple):
    """sum_k exp(log_weights_k) N(means_k, covs_k)."""

    log_weights: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K D"]
    covs: Float[np.ndarray, "K D D"]


class Settings(NamedTuple):
    """How EM runs."""

    floor: float = 1e-6
    """What is added to the variances of every component, in the (standard) units of the columns."""
    tolerance: float = 1e-5
    """EM stops when the mean log-likelihood changes by less than this part of its absolute value."""
    most: int = 200
    """Rounds after which it stops in any case."""
    starts: int = 5
    """Runs of k-means++, of which the best one goes on."""


class Run(NamedTuple):
    """Where EM ended."""

    joint: Joint
    history: list[float]
    """Mean log-likelihood before each round, and at the end."""
    reseeded: int
    """How often a component that had lost its rows was put elsewhere."""
    converged: bool


class Chosen(NamedTuple):
    """The mixture with the least BIC."""

    run: Run
    bic: dict[int, float]
    """By the number of components that was tried (a component that found no rows is counted out)."""


def log_densities(points: Points, joint: Joint) -> Float[np.ndarray, "K r"]:
    """log pi_k + log N(x_i; mu_k, S_k)."""
    return _log_densities(np.ascontiguousarray(points.T), joint)


def _log_densities(columns: Float[np.ndarray, "D r"], joint: Joint) -> Float[np.ndarray, "K r"]:
    """The same for points in columns, which keeps the long axis contiguous."""
    count, d = joint.means.shape
    lower = np.linalg.cholesky(joint.covs)
    whiten = np.linalg.inv(lower)
    offset = np.einsum("kij,kj->ki", whiten, joint.means)
    log_det = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    constant = (joint.log_weights - log_det - 0.5 * d * math.log(2.0 * math.pi))[:, None]
    # Rows ordered by coordinate, then by component: squares are summed over the slow axis, in vector instructions.
    stacked = np.ascontiguousarray(whiten.transpose(1, 0, 2)).reshape(d * count, d)
    shift = np.ascontiguousarray(offset.T).reshape(d * count, 1)
    out = np.empty((count, columns.shape[1]))
    for begin in range(0, columns.shape[1], BLOCK):
        z = stacked @ columns[:, begin : begin + BLOCK]
        z -= shift
        np.multiply(z, z, out=z)
        out[:, begin : begin + BLOCK] = constant - 0.5 * z.reshape(d, count, -1).sum(axis=0)
    return out


def expect(points: Points, joint: Joint) -> tuple[Float[np.ndarray, "K r"], Float[np.ndarray, " r"]]:
    """E-step: responsibilities of the components for each point, and each point's log-likelihood."""
    return _expect(np.ascontiguousarray(points.T), joint)


def _expect(
    columns: Float[np.ndarray, "D r"], joint: Joint
) -> tuple[Float[np.ndarray, "K r"], Float[np.ndarray, " r"]]:
    log_r = _log_densities(columns, joint)
    best = log_r.max(axis=0)
    log_r -= best
    share = np.exp(log_r, out=log_r)
    total = share.sum(axis=0)
    share /= total
    return share, best + np.log(total)


def maximise(points: Points, share: Float[np.ndarray, "K r"], floor: float) -> Joint:
    """M-step: weights, means and covariances + floor I of the points by their responsibilities."""
    return _maximise(np.ascontiguousarray(points.T), share, floor)


def _maximise(columns: Float[np.ndarray, "D r"], share: Float[np.ndarray, "K r"], floor: float) -> Joint:
    rows = share.sum(axis=1) + 10.0 * np.finfo(np.float64).eps
    means = (share @ columns.T) / rows[:, None]
    covs = np.empty((len(rows), columns.shape[0], columns.shape[0]))
    for k, (mean, each) in enumerate(zip(means, share, strict=True)):
        away = columns - mean[:, None]
        away *= np.sqrt(each)
        covs[k] = away @ away.T
        covs[k] /= rows[k]
        covs[k].flat[:: columns.shape[0] + 1] += floor
    return Joint(np.log(rows / rows.sum()), means, covs)


def em(points: Points, start: Joint, settings: Settings = Settings()) -> Run:  # noqa: B008 (it is immutable)
    """EM from a given start until the likelihood settles.

    A component that is left with fewer than D + 1 rows, from which no covariance can be had, moves to the point of
    lowest likelihood, twice at most; after that it is taken out, so that the result may have fewer components.
    """
    columns = np.ascontiguousarray(points.T)
    joint, history, reseeded, left = start, [], 0, 2 * len(start.means)
    moved, converged = False, False
    for _ in range(settings.most):
        share, each = _expect(columns, joint)
        history.append(float(each.mean()))
        # After a component has moved the likelihood may well have fallen.
        if len(history) > 1 and not moved and _settled(history, settings.tolerance):
            converged = True
            break
        poor = _poor(share, points.shape[1] + 1)
        joint = _maximise(columns, share, settings.floor)
        moved = bool(poor.any())
        if moved and left >= poor.sum():
            joint = _reseeded(points, joint, poor, each)
            reseeded, left = reseeded + int(poor.sum()), left - int(poor.sum())
        elif moved:
            joint = _without(joint, poor)
    if not converged:
        history.append(float(_expect(columns, joint)[1].mean()))
    return Run(joint, history, reseeded, converged)


def _settled(history: list[float], tolerance: float) -> bool:
    """Whether the last round changed next to nothing, relative to the absolute value: the likelihood's logarithm may be
    negative."""
    return abs(history[-1] - history[-2]) <= tolerance * abs(history[-1])


def _poor(share: Float[np.ndarray, "K r"], least: int) -> np.ndarray:
    """Which components [K] have too few rows; the largest never counts as one of them."""
    rows = share.sum(axis=1)
    poor = rows < least
    poor[np.argmax(rows)] = False
    return poor


def _reseeded(points: Points, joint: Joint, poor: np.ndarray, each: Float[np.ndarray, " r"]) -> Joint:
    """Poor components at the points that are explained worst, with the average covariance of the others."""
    means, covs, weights = joint.means.copy(), joint.covs.copy(), np.exp(joint.log_weights)
    means[poor] = points[np.argsort(each, kind="stable")[: int(poor.sum())]]
    covs[poor] = np.average(joint.covs[~poor], axis=0, weights=weights[~poor])
    weights[poor] = 1.0 / len(weights)
    return Joint(np.log(weights / weights.sum()), means, covs)


def _without(joint: Joint, poor: np.ndarray) -> Joint:
    """The other components, their weights made to sum to 1."""
    weights = np.exp(joint.log_weights[~poor])
    return Joint(np.log(weights / weights.sum()), joint.means[~poor], joint.covs[~poor])


def clusters(points: Points, count: int, random: np.random.Generator) -> Int[np.ndarray, " r"]:
    """A label for each point: k-means++, then at most `LLOYD` rounds of k-means."""
    centres = _spread(points, count, random)
    labels = np.full(len(points), -1)
    for _ in range(LLOYD + 1):
        square = (centres**2).sum(axis=1) - 2.0 * points @ centres.T
        before, labels = labels, np.argmin(square, axis=1)
        if np.array_equal(before, labels):
            break
        rows = np.bincount(labels, minlength=count)
        sums = np.stack([np.bincount(labels, column, count) for column in points.T], axis=1)
        # An empty cluster keeps its centre; EM moves it if it stays empty.
        centres = np.where(rows[:, None] > 0, sums / np.maximum(rows, 1)[:, None], centres)
    return labels


def _spread(points: Points, count: int, random: np.random.Generator) -> Float[np.ndarray, "K D"]:
    """k-means++: centres drawn one after the other by the squared distance to the nearest one so far; of a few draws
    the one that brings the points nearest is taken."""
    centres = [points[random.integers(len(points))]]
    nearest, size = ((points - centres[0]) ** 2).sum(axis=1), (points**2).sum(axis=1)
    draws = 2 + int(math.log(count))
    for _ in range(count - 1):
        running = np.cumsum(nearest)
        # Where all points coincide with centres, any of them will do: the search then ends at the last one.
        at = np.searchsorted(running, random.uniform(size=draws) * running[-1], side="right")
        tried = points[np.minimum(at, len(points) - 1)]
        square = size + (tried**2).sum(axis=1)[:, None] - 2.0 * tried @ points.T
        square = np.minimum(nearest, np.maximum(square, 0.0))
        best = int(np.argmin(square.sum(axis=1)))
        centres.append(tried[best])
        nearest = square[best]
    return np.stack(centres)


def start_from(points: Points, labels: Int[np.ndarray, " r"], count: int, floor: float) -> Joint:
    """The mixture of labelled points; clusters too small for a covariance get the average one."""
    share = (labels[None, :] == np.arange(count)[:, None]).astype(np.float64)
    joint, rows = maximise(points, share, floor), share.sum(axis=1)
    poor = _poor(share, points.shape[1] + 1)
    means = np.where(rows[:, None] > 0, joint.means, points.mean(axis=0))
    covs = np.where(poor[:, None, None], np.average(joint.covs, axis=0, weights=rows), joint.covs)
    weights = np.maximum(rows, 1.0)
    return Joint(np.log(weights / weights.sum()), means, covs)


def fit_count(points: Points, count: int, settings: Settings, random: np.random.Generator) -> Run:
    """EM with `count` components from the best of several starts, each tried for `BRIEF` rounds."""
    starts = settings.starts if count > 1 else 1
    labels = [clusters(points, count, random) for _ in range(starts)]
    brief = settings._replace(most=min(BRIEF, settings.most))
    tried = [em(points, start_from(points, each, count, settings.floor), brief) for each in labels]
    best = max(tried, key=lambda run: run.history[-1])
    if best.converged or settings.most <= BRIEF:
        return best
    rest = em(points, best.joint, settings._replace(most=settings.most - BRIEF))
    return rest._replace(history=best.history[:-1] + rest.history, reseeded=best.reseeded + rest.reseeded)


def bic(run: Run, rows: int) -> float:
    """-2 log L + p log rows, with the p free parameters of the components that are there."""
    count, d = run.joint.means.shape
    free = (count - 1) + count * d + count * d * (d + 1) // 2
    return -2.0 * rows * run.history[-1] + free * math.log(rows)


def candidates(most: int, rows: int, d: int) -> list[int]:
    """1, 2, 4, 8, ... and `most` itself: every component must be able to have D + 1 rows."""
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most] + [most]
    return [count for count in powers if count == 1 or count * (d + 1) <= rows] or [1]


def choose(points: Points, most: int, settings: Settings, random: np.random.Generator) -> Chosen:
    """The number of components, at most `most`, with the least BIC, and the mixture."""
    counts = candidates(most, *points.shape)
    runs = {count: fit_count(points, count, settings, random) for count in counts}
    scores = {count: bic(run, len(points)) for count, run in runs.items()}
    return Chosen(runs[min(scores, key=lambda count: scores[count])], scores)
