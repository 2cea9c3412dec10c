"""What the check of an environment found: collected as it comes, whatever is raised, and told in numbered sentences."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np

from forethought.errors import UserError
from forethought.worlds.guard import TransitionError

T = TypeVar("T")

MOST = 10
"""Different problems after which no more are looked for."""

BAR = 40
"""Characters of the longest bar of the histogram."""


class Stopwatch(gymnasium.Wrapper):
    """Seconds of each step that came to an end."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.seconds: list[float] = []

    def step(self, action: Any) -> Any:
        """The environment's step, timed."""
        began = time.perf_counter()
        result = self.env.step(action)
        self.seconds.append(time.perf_counter() - began)
        return result


@dataclass(frozen=True)
class Report:
    """What was seen of an environment."""

    environment: str
    seed: int
    observations: str | None
    """Its spaces, in words; None: it could not be made."""
    actions: str | None
    limit: int | None
    steps: int
    episodes: int
    terminated: int
    truncated: int
    latency_ms: dict[str, Any] | None
    """Of a step: median, p99, max, and histogram: rows of [from, to, count], each twice as far as the one before."""
    problems: list[str]
    """What is wrong, and how to mend it."""
    notes: list[str]
    """What may be meant so."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {"ok": self.ok, **asdict(self)}

    def text(self) -> str:
        """For people."""
        lines = [f"{self.environment}: {self.steps} random steps, {self.episodes} episodes, seed {self.seed}", ""]
        if self.observations is not None:
            limit = "none" if self.limit is None else f"{self.limit} steps"
            lines += [f"observations  {self.observations}", f"actions       {self.actions}", f"time limit    {limit}"]
            lines += [f"ends          {self.terminated} terminated, {self.truncated} truncated"]
        if self.latency_ms is not None:
            lines += _latency_lines(self.latency_ms)
        for note in self.notes:
            lines += ["", f"Note: {note}"]
        lines.append("")
        if self.ok:
            return "\n".join([*lines, "Nothing is wrong."])
        count = len(self.problems)
        lines.append(f"{count} {'thing is' if count == 1 else 'things are'} wrong:")
        return "\n".join([*lines, *(f"{i:3}. {problem}" for i, problem in enumerate(self.problems, 1))])


@dataclass(eq=False)
class Findings:
    """What becomes a `Report`."""

    environment: str
    seed: int
    deadline: float
    """Seconds that any one call of the environment may take."""
    observations: str | None = None
    actions: str | None = None
    limit: int | None = None
    steps: int = 0
    episodes: int = 0
    terminated: int = 0
    truncated: int = 0
    hung: bool = False
    seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """By what distinguishes them."""
    times: dict[str, int] = field(default_factory=dict)

    @property
    def enough(self) -> bool:
        """Whether to look no further."""
        return self.hung or len(self.problems) >= MOST

    def problem(self, sentence: str, key: str | None = None) -> None:
        """Something is wrong; of those with the same key the first is told."""
        key = sentence if key is None else key
        self.problems.setdefault(key, sentence)
        self.times[key] = self.times.get(key, 0) + 1

    def note(self, sentence: str) -> None:
        """Something should be known."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def attempt(self, what: str, call: Callable[[], T]) -> T | None:
        """The result of a call of the environment's, or None where it raised: then that is a problem."""
        try:
            with _deadline(self.deadline):
                return call()
        except UserError as error:
            self.problem(str(error))
        except TransitionError as error:
            cause = error.__cause__
            self.hung |= isinstance(cause, DeadlineExceeded)
            # Of faults that differ in their numbers only, one is enough.
            words = re.sub(r"[-+.\d]+", "#", error.wrong)
            key = f"{error.step is None} {error.field} {words} {type(error.value).__name__}"
            self.problem(f"{error}{_place(cause)}", key)
        except (Exception, SystemExit) as error:
            self.hung |= isinstance(error, DeadlineExceeded)
            said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:200]
            key = f"{what} {type(error).__name__}"
            self.problem(f"{self.environment}: {what} raised {said}; it must raise nothing.{_place(error)}", key)
        return None

    def report(self) -> Report:
        """Everything."""
        often = {key: f" (It happened {n} times.)" if n > 1 else "" for key, n in self.times.items()}
        return Report(
            environment=self.environment,
            seed=self.seed,
            observations=self.observations,
            actions=self.actions,
            limit=self.limit,
            steps=self.steps,
            episodes=self.episodes,
            terminated=self.terminated,
            truncated=self.truncated,
            latency_ms=_latency(self.seconds),
            problems=[sentence + often[key] for key, sentence in self.problems.items()],
            notes=self.notes,
        )


class DeadlineExceeded(TimeoutError):
    """A call took longer than the deadline."""


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise `DeadlineExceeded` in a call that takes longer; only the main thread can be interrupted so."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, functools.partial(_late, seconds))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _late(seconds: float, *_: Any) -> None:
    raise DeadlineExceeded(f"no answer within {seconds:g} s (--guard.deadline changes that)")


def _place(error: BaseException | None) -> str:
    """Where an exception came from, as an editor opens it."""
    if error is None:
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    if not frames or "gymnasium/wrappers/" in Path(frames[-1].filename).as_posix():
        return ""
    return f" See {frames[-1].filename}:{frames[-1].lineno}."


def _latency(seconds: list[float]) -> dict[str, Any] | None:
    """Figures in milliseconds."""
    if not seconds:
        return None
    taken = 1e3 * np.maximum(np.asarray(seconds), 1e-9)
    first, last = math.floor(math.log2(taken.min())), math.floor(math.log2(taken.max()))
    counts = np.bincount(np.clip(np.floor(np.log2(taken)).astype(int), first, last) - first, minlength=last - first + 1)
    return {
        "median": float(np.median(taken)),
        "p99": float(np.percentile(taken, 99)),
        "max": float(taken.max()),
        "histogram": [[2.0 ** (first + i), 2.0 ** (first + i + 1), int(n)] for i, n in enumerate(counts)],
    }


def _latency_lines(latency: dict[str, Any]) -> list[str]:
    """The figures, and the histogram as bars."""
    median, p99, most = (f"{latency[name]:.3g}" for name in ("median", "p99", "max"))
    lines = [f"a step takes  {median} ms (median), {p99} ms (99th percentile), {most} ms (longest)"]
    highest = max(count for _, _, count in latency["histogram"])
    for low, high, count in latency["histogram"]:
        bar = "#" * math.ceil(BAR * count / highest)
        lines.append(f"  {low:>8.3g} to {high:<8.3g} ms  {bar:<{BAR}}  {count}")
    return lines
