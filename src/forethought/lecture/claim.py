"""A claim of the lecture as an experiment, and the judge.  Nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from forethought.math.stats import mean_interval

Verdict = Literal["holds", "does not hold", "undecided"]
TIMES = "times"
"""The unit of an effect that is the natural logarithm of a ratio; it is shown as the ratio."""


class Outcome(NamedTuple):
    """What one seed came to."""

    effect: float
    """Above the claim's margin is what the lecture says."""
    details: dict[str, Any]
    """What it was computed from, for whoever doubts it: numbers, texts, and lists of them."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence, what it predicts, and how that is measured.

    The margin is chosen before anything is measured: 0, or the least effect that would matter.
    """

    name: str
    section: str
    """Of the lecture notes."""
    sentence: str
    """What the lecture says, in other words."""
    prediction: str
    """What is then to be seen here."""
    how: str
    """How the effect of one seed is measured."""
    measure: Callable[[int, bool], Outcome]
    """The outcome of a seed; the second argument says whether it may take long (`--full`)."""
    unit: str
    margin: float = 0.0
    """In the unit of the effect; a logarithm where that is `TIMES`."""
    seeds: tuple[int, ...] = tuple(range(100, 110))
    """Without `--full`; none: the claim is too dear for that.  Those below 100 are for trying experiments out."""
    full_seeds: tuple[int, ...] = tuple(range(100, 130))
    note: str = ""
    """What is known about why it does not hold, or is undecided, where that is what was found."""

    def seeds_of(self, full: bool) -> tuple[int, ...]:
        """What is measured."""
        return self.full_seeds if full else self.seeds


class Judgement(NamedTuple):
    """What the seeds of a claim say together."""

    verdict: Verdict
    mean: float | None
    """Over the seeds that have an effect; None without any."""
    interval: tuple[float, float] | None
    """95%, Student's t over seeds; None of fewer than two."""
    count: int
    """Seeds with an effect."""
    failed: int
    """Seeds without one: an error, or a number that is not finite."""


def judge(effects: Sequence[float | None], margin: float) -> Judgement:
    """Holds if the whole 95% interval of the mean effect is above the margin, does not hold if it is all below.

    A seed without a finite effect has failed.  Failures may be of the very kind that the claim denies, so a claim that
    has any cannot hold; it still does not hold if the others say so.
    """
    finite = [e for e in effects if e is not None and math.isfinite(e)]
    failed = len(effects) - len(finite)
    if not finite:
        return Judgement("undecided", None, None, 0, failed)
    mean, interval = mean_interval(finite)
    verdict: Verdict = "undecided"
    if interval is not None:
        if interval[0] > margin and not failed:
            verdict = "holds"
        elif interval[1] < margin:
            verdict = "does not hold"
    return Judgement(verdict, mean, interval, len(finite), failed)


def log_ratio(above: float, below: float) -> float:
    """log(above / below); NaN, which is a failure, unless both are positive."""
    return math.log(above / below) if above > 0.0 and below > 0.0 and math.isfinite(above / below) else math.nan
