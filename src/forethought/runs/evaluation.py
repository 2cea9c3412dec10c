"""What a controller is worth: its returns from given starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.random as jr
import numpy as np

from forethought.core import AbstractPolicy, Task
from forethought.math.stats import mean_interval
from forethought.runs.evaluations import write_evaluation
from forethought.runs.precision import in_64_bit
from forethought.types import RandomKey, UserError


class Evaluation(NamedTuple):
    """Returns of a controller from given starts, without exploration or learning."""

    returns: list[float]
    mean_return: float
    interval: tuple[float, float] | None
    """95% confidence interval of the mean over starts (Student's t); None for one episode."""
    env_steps: int
    starts: list[int]
    successes: int | None
    """How many episodes succeeded, where the task has a test for it."""


@in_64_bit
def evaluate(task: Task, policy: AbstractPolicy, key: RandomKey, conditions: Sequence[int]) -> Evaluation:
    """Run the policy once from each condition, in a world of its own."""
    episodes = task.world.fresh().rollouts(policy, key, conditions, task.limit)
    returns = [float(np.sum(e.reward)) for e in episodes]
    mean, interval = mean_interval(returns)
    successes = None if task.success is None else sum(bool(task.success(e)) for e in episodes)
    steps = sum(e.length for e in episodes)
    return Evaluation(returns, mean, interval, steps, [int(c) for c in conditions], successes)


def starts_for(task: Task, episodes: int | None, seed: int | None) -> list[int]:
    """Conditions of an evaluation: the task's fixed ones (and the numbers after them), or seed, seed + 1, ..."""
    for name, value, least, most in (("episodes", episodes, 1, 10**6), ("seed", seed, 0, 2**31 - 10**6)):
        if value is not None and not least <= value <= most:
            raise UserError(f"{name} is {value}; it must be a whole number, at least {least} and at most {most}.")
    count = len(task.starts) if episodes is None else episodes
    if seed is not None:
        return list(range(seed, seed + count))
    more = max(task.starts) + 1
    return [*task.starts[:count], *range(more, more + count - len(task.starts))]


@in_64_bit
def evaluate_and_keep(task: Task, policy: AbstractPolicy, run: Path, about: dict[str, Any]) -> Evaluation:
    """Run the policy once from each of the task's fixed starts, and keep what was found in the run's directory.

    `about` says the `run`'s name, the `env_steps` that the controller had learned from, and `which` one it is.  Raises
    `OSError` where it cannot be written.
    """
    began = time.monotonic()
    found = evaluate(task, policy, jr.key(0), task.starts)
    keep(found, task, run, about | {"seconds": round(time.monotonic() - began, 3)})
    return found


def keep(found: Evaluation, task: Task, run: Path, about: dict[str, Any]) -> None:
    """Write down an evaluation from the task's fixed starts; what is not finite is no return, and nothing is kept."""
    if np.isfinite(found.returns).all():
        facts = {"returns": found.returns, "starts": found.starts, "successes": found.successes}
        write_evaluation(run, about | facts | {"task": task.name, "threshold": task.threshold})
