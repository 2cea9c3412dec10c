"""When a run ends: the budget of steps always, and "until convergence" where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.types import UserError


@dataclass(frozen=True)
class Until:
    """Reasons to stop before the budget is spent."""

    solved: bool = False
    """Stop when the mean return of the last `window` training episodes reaches the threshold."""
    plateau: bool = False
    """Stop when that mean has not improved for `patience` episodes."""
    window: int = 5
    """Episodes that are averaged."""
    patience: int = 20
    """Episodes without improvement that count as a plateau."""
    threshold: float | None = None
    """Return that counts as solved; None: the task's own."""


def check_until(until: Until, threshold: float | None, task: str) -> None:
    """Raise `UserError` if the run should stop when solved, and nobody knows when it is."""
    if until.solved and until.threshold is None and threshold is None:
        raise UserError(
            f"until.solved is True, but {task} has no known threshold; give one as until.threshold "
            "(--until.threshold on the command line)."
        )


def convergence(until: Until, threshold: float | None, returns: Sequence[float]) -> str | None:
    """Which rule is met after these training episodes ("solved" or "plateau"), or None."""
    means = [sum(returns[i - until.window : i]) / until.window for i in range(until.window, len(returns) + 1)]
    if not means:
        return None
    goal = until.threshold if until.threshold is not None else threshold
    if until.solved and goal is not None and means[-1] >= goal:
        return "solved"
    # Episodes after the first one that reached the best mean so far.
    if until.plateau and len(means) - 1 - means.index(max(means)) >= until.patience:
        return "plateau"
    return None
