"""Section 2, models: what it takes to fit a Gaussian process and a network."""

from __future__ import annotations

import dataclasses
import math
import time

from forethought.core import AbstractLearner
from forethought.lecture.amounts import LEARNERS, MANY, MANY_ROWS, Rows, fitted, transitions
from forethought.lecture.claim import Claim, Outcome, log_ratio
from forethought.models.gp_learner import GPLearner
from forethought.worlds.classic import Pendulum

SIZES = (256, 1024)
"""Rows between which the growth of the time of a fit is measured."""


def seconds(learner: AbstractLearner, rows: Rows, seed: int) -> float:
    """Processor time of a fit, when everything is compiled: other programs do not count."""
    fitted(learner, rows, seed)
    began = time.process_time()
    fitted(learner, rows, seed)
    return time.process_time() - began


def growing(seed: int, full: bool) -> Outcome:
    """The power of the number of rows with which the time of a fit grows."""
    del full
    learner = GPLearner(restarts=0, evaluations=10, sparse_above=10**6)
    times = [seconds(learner, transitions(Pendulum(), count, seed), seed) for count in SIZES]
    power = math.log(times[1] / times[0]) / math.log(SIZES[1] / SIZES[0])
    return Outcome(power, {f"seconds of {count} rows": each for count, each in zip(SIZES, times, strict=True)})


def quicker(seed: int, full: bool) -> Outcome:
    """How many times as long the Gaussian process's fit takes with many rows."""
    del full
    rows = transitions(Pendulum(), MANY, seed)
    found = {f"seconds, {name}": seconds(learner, rows, seed) for name, learner in LEARNERS.items()}
    return Outcome(log_ratio(*found.values()), found)


QUICKER: Claim = dataclasses.replace(
    MANY_ROWS,
    name="network-fit-time",
    prediction=f"With {MANY} rows a fit of the Gaussian process takes longer than one of the network.",
    how=f"Data as for {MANY_ROWS.name}, the library's defaults; ratio of processor times, Gaussian process (which is "
    "sparse above 512 rows) over network, when both are compiled.",
    measure=quicker,
    note="",
)
GROWING = dataclasses.replace(
    MANY_ROWS,
    name="gp-cost",
    sentence="A Gaussian process gets slower with the number of rows, O(n).",
    prediction="The time of a fit grows faster than in proportion to the rows (an exact one is O(n^3)).",
    how=f"An exact Gaussian process, ten evaluations of the likelihood per output; log of the ratio of "
    f"processor times, {SIZES[1]} over {SIZES[0]} rows, over log {SIZES[1] // SIZES[0]}.",
    measure=growing,
    note="",
    unit="power of n",
    margin=1.0,
    seeds=tuple(range(100, 105)),
    full_seeds=tuple(range(100, 110)),
)
CLAIMS = (QUICKER, GROWING)
