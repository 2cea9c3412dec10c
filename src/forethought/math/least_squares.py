"""Nonlinear least squares with few unknowns, on the host: whoever calls gives the normal equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Normal(NamedTuple):
    """A sum of squares c(p) = |r(p)|^2 at a point, and what Gauss and Newton need of it."""

    cost: float
    gradient: Float[np.ndarray, " q"]
    """J^T r, with J = dr/dp."""
    information: Float[np.ndarray, "q q"]
    """J^T J."""


class Solved(NamedTuple):
    """Where the descent ended."""

    p: Float[np.ndarray, " q"]
    at: Normal
    rounds: int


def is_finite(at: Normal) -> bool:
    """Whether cost and derivatives are."""
    return bool(np.isfinite(at.cost) and np.isfinite(at.gradient).all() and np.isfinite(at.information).all())


def levenberg(
    evaluate: Callable[[np.ndarray], Normal], start: Float[np.ndarray, " q"], most: int = 100, least: float = 1e-12
) -> Solved:
    """Levenberg's and Marquardt's descent: p <- p - (J^T J + lam diag J^T J)^-1 J^T r, lam by success.

    It ends when an accepted step gains less than `least` of the cost, when no step helps, or after `most` evaluations.
    A step to where anything is not finite counts as one that does not help.  Marquardt (1963).
    """
    p, at, lam, used = np.asarray(start, np.float64), evaluate(start), 1e-3, 1
    while used < most and lam < 1e12 and is_finite(at):
        units = _units(at.information)
        scaled = at.information * units[:, None] * units
        # In these units lam diag J^T J is lam: only what rounding hides is cut off, not what is small by its unit.
        step = units * np.linalg.lstsq(scaled + lam * np.eye(len(p)), -at.gradient * units, rcond=None)[0]
        tried, used = evaluate(p + step), used + 1
        if not (is_finite(tried) and tried.cost <= at.cost):
            lam *= 8.0
            continue
        gained = at.cost - tried.cost
        p, at, lam = p + step, tried, max(lam / 8.0, 1e-12)
        if gained <= least * at.cost:
            break
    return Solved(p, at, used)


def root_of_inverse(information: Float[np.ndarray, "q q"]) -> Float[np.ndarray, "q q"]:
    """F with F F^T = information^-1, for a symmetric positive definite matrix in whatever units."""
    units = _units(information)
    values, vectors = np.linalg.eigh(information * units[:, None] * units)
    tiny = values.max() * len(values) * np.finfo(np.float64).eps
    return units[:, None] * vectors / np.sqrt(np.maximum(values, tiny))


def _units(information: Float[np.ndarray, "q q"]) -> Float[np.ndarray, " q"]:
    """Of the unknowns, such that the information about each is 1; 0, so that it stays, for one that has none."""
    diagonal = np.diagonal(information)
    return np.where(diagonal > 0.0, 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0)), 0.0)
