"""What a person sees while a run goes on.  Nothing of it goes to standard output."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from forethought.errors import printable
from forethought.types import Metrics

BLIND_STEPS = 10
"""Steps of a turn below which plans that see no difference are too few to be talked about."""


class Turn(NamedTuple):
    """One turn of the loop, as it is shown."""

    env_steps: int
    budget: int
    returns: Sequence[float]
    """Returns of the finished training episodes so far."""
    metrics: Metrics
    seconds: float
    """Wall clock since the run began."""


class Quiet:
    """Shows nothing but warnings."""

    def say(self, sentence: str) -> None:
        """A warning, or what the user should know."""
        print(printable(sentence), file=sys.stderr, flush=True)

    def turn(self, turn: Turn) -> None:
        """One turn of the loop is done."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class Lines:
    """Plain lines, where the output is no terminal: one per finished episode, and one every ten seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.episodes = 0

    def say(self, sentence: str) -> None:
        """A warning, or what the user should know."""
        print(printable(sentence), file=sys.stderr, flush=True)

    def turn(self, turn: Turn) -> None:
        """One turn of the loop is done."""
        now = time.monotonic()
        if len(turn.returns) > self.episodes or now - self.last >= 10.0 or turn.env_steps >= turn.budget:
            self.episodes, self.last = len(turn.returns), now
            self.say(f"step {turn.env_steps}/{turn.budget}  {summary(turn)}  {turn.seconds:.1f} s")

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class Bar:
    """A progress bar with what matters beside it, for terminals."""

    def __init__(self) -> None:
        # Only terminals need it, and it takes a while to import.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=8),
            TextColumn("{task.completed:.0f}/{task.fields[budget]}"),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.task = self.bar.add_task("train", total=None, budget="-", text="compiling")

    def say(self, sentence: str) -> None:
        """A warning, or what the user should know."""
        self.bar.console.print(printable(sentence), markup=False, highlight=False)

    def turn(self, turn: Turn) -> None:
        """One turn of the loop is done."""
        fields = {"budget": turn.budget, "text": short(turn)}
        self.bar.update(self.task, total=turn.budget, completed=turn.env_steps, **fields)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()


Display = Quiet | Lines | Bar


def warnings_of(metrics: Metrics, steps: int, failures: int) -> Iterator[str]:
    """What a person has to know of a turn at this step.  `failures`: plans that had failed in the episode before it."""
    failed = int(metrics.get("plan_failures") or 0)
    if failed > failures:
        yield (
            f"Warning: at step {steps} no plan of finite cost was found ({failed} times in this episode); the safe "
            "action was taken. The model or the cost is not finite there."
        )
    sentence = metrics.get("fit_says")
    if metrics.get("fit_failed"):
        what, why = ("failed", f" {sentence}") if sentence else ("gave no model of finite numbers", "")
        yield f"Warning: the fit at step {steps} {what}; the model from before it is kept.{why}"
    elif sentence:
        yield str(sentence)
    if sentence := metrics.get("improve_says"):
        yield f"At step {steps}: {sentence}"
    if dropped := int(metrics.get("fit_dropped") or 0):
        yield f"Warning: at step {steps} {dropped} members of the model were dropped: not finite, or far off."


def blindness(metrics: Metrics, steps: int, ties: int) -> str | None:
    """What to do if nearly all plans of a turn had nothing to choose between; `ties` of the episode were before it."""
    tied, taken = int(metrics.get("plan_ties") or 0) - ties, int(metrics.get("steps") or 0)
    if taken < BLIND_STEPS or tied < 0.9 * taken:
        return None
    return (
        f"Warning: in {tied} of {taken} plans up to step {steps} all that was tried cost the same: within the horizon "
        "nothing makes a difference. If there is still something to gain, look further ahead (--algorithm.horizon), or "
        "give a cost that says where to go."
    )


def display(quiet: bool) -> Display:
    """The display that fits where the output goes."""
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()


def summary(turn: Turn) -> str:
    """The last return, the model's error at 1 and 20 steps, and the seconds of a planned step."""
    metrics = turn.metrics
    last = f"{turn.returns[-1]:.1f}" if turn.returns else "-"
    parts = [f"episode {len(turn.returns)}  return {last}"]
    errors = [number(metrics.get(f"model_error_{k}")) for k in (1, 20)]
    if metrics.get("planned"):
        parts.append(f"model error {errors[0]} / {errors[1]}  {number(metrics.get('step_seconds'))} s/step")
    return "  ".join(parts)


def short(turn: Turn) -> str:
    """The same in what fits beside a bar in 80 columns."""
    metrics = turn.metrics
    text = f"return {turn.returns[-1]:.1f}" if turn.returns else "return -"
    if metrics.get("planned"):
        one, many = (number(metrics.get(f"model_error_{k}"), 2) for k in (1, 20))
        text += f"  error@1 {one} @20 {many}  {number(1e3 * metrics.get('step_seconds', math.nan), 2)} ms/step"
    return text


def number(value: Any, digits: int = 3) -> str:
    """A number in a few digits, or a dash where there is none."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}"
