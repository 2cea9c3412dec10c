"""The run loop: turn after turn of an algorithm, until a rule says stop, with everything written down on the way."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractAlgorithm, RunState, Task
from forethought.math.dataset import append
from forethought.runs.checkpoint import save
from forethought.runs.directory import RunDirectory
from forethought.runs.episodes import joined, write_episode
from forethought.runs.log import Display, Turn
from forethought.runs.stopping import Until, convergence
from forethought.types import Dataset, Metrics, Trajectory
from forethought.worlds.guard import TransitionError


@dataclass(eq=False)
class Loop:
    """A run while it goes on.  The only place of a run that changes in place."""

    algorithm: AbstractAlgorithm
    task: Task
    steps: int
    until: Until
    directory: RunDirectory
    show: Display
    state: RunState
    returns: list[float] = field(default_factory=list)
    """Returns of the finished training episodes."""
    turns: int = 0
    seconds_before: float = 0.0
    """Wall clock of the earlier parts of a resumed run."""
    pieces: list[Trajectory] = field(default_factory=list)
    """What was executed so far in the open episode."""
    grows: bool = True
    """Whether the algorithm learned from what it executed last (v0.5 does not)."""
    began: float = field(default_factory=time.monotonic)
    failures: int = 0

    def run(self) -> str:
        """Go on until a rule says stop, learn from everything once more, save; the name of the rule.

        Whatever interrupts it, the transitions that were finished are written and saved before the error goes on.
        """
        try:
            while (reason := self.reason()) is None:
                self.turn()
            with undisturbed():
                self.close_episode()
            self.learn_last()
        except BaseException as error:
            with undisturbed():
                try:
                    self.rescue(error)
                except OSError as failed:  # a full disk must not hide what went wrong first
                    self.show.say(f"Warning: what was finished could not be saved: {failed}.")
            raise
        return reason

    def reason(self) -> str | None:
        """Which rule says stop now, if any."""
        if int(self.state.steps) >= self.steps:
            return "steps"
        return None if self.state.at is not None else convergence(self.until, self.task.threshold, self.returns)

    def turn(self) -> None:
        """One turn of the algorithm, written down."""
        before = self.state
        state, trajectory, metrics = self.algorithm.step(self.task, before, self.steps - int(before.steps))
        if trajectory is None or trajectory.length == 0:
            raise RuntimeError(f"{type(self.algorithm).__name__} took no step though steps were left.")
        with undisturbed():
            self.state = state
            self.pieces.append(trajectory)
            self.grows = int(state.data.count) > int(before.data.count)
            ended = state.at is None
            if ended:
                self.returns.append(float(np.sum(joined(self.pieces).reward)))
            self.record(metrics)
            if ended:
                self.write_episode(complete=True)
                self.save()
        self.show.turn(Turn(int(state.steps), self.steps, self.returns, metrics, self.seconds()))

    def learn_last(self) -> None:
        """Learn from the data at hand, so that the saved controller uses all of it; then save."""
        state, _, metrics = self.algorithm.step(self.task, self.state, 0)
        with undisturbed():
            self.state = state
            if metrics:
                self.record(metrics | {"last": True})
            self.save(finished=True)

    def record(self, metrics: Metrics) -> None:
        """One line of metrics, and a warning where planning failed."""
        failed = metrics.get("plan_failures") or 0
        if failed > self.failures:
            self.show.say(
                f"Warning: at step {int(self.state.steps)} no plan of finite cost was found ({failed} times in this "
                "episode); the safe action was taken. The model or the cost is not finite there."
            )
        self.failures = 0 if self.state.at is None else failed
        self.turns += 1
        line: dict[str, Any] = {
            "turn": self.turns,
            "env_steps": int(self.state.steps),
            "episodes": len(self.returns),
            "seconds": round(self.seconds(), 3),
        }
        self.directory.append_metrics(line | metrics)

    def seconds(self) -> float:
        """Wall clock of the run, without the pauses between its parts."""
        return self.seconds_before + time.monotonic() - self.began

    def write_episode(self, *, complete: bool) -> None:
        """Write the episode of the pieces at hand into a file."""
        if self.pieces:
            whole = joined(self.pieces)
            number = int(self.state.episodes) - (1 if complete else 0)
            about = {"task": self.task.name, "complete": complete, "return": float(np.sum(whole.reward))}
            write_episode(self.directory.episodes, number, whole, about)
        self.pieces = []

    def close_episode(self) -> None:
        """End an open episode as if truncated here: its transitions stay, and the next one starts afresh."""
        state = self.state
        if state.at is None and not self.pieces:
            return
        self.write_episode(complete=False)
        self.state = dataclasses.replace(
            state,
            # The next episode must not repeat the random numbers of this one.
            key=jr.fold_in(state.key, 1),
            episodes=state.episodes + jnp.int32(1),
            data=cut(state.data, int(state.episodes)),
            at=None,
            carry=None,
            so_far=0.0,
        )

    def rescue(self, error: BaseException) -> None:
        """Keep what was finished when `error` came, which may carry the transitions of the interrupted piece."""
        if not isinstance(error, (KeyboardInterrupt, TransitionError)):
            text = "".join(traceback.format_exception(error))
            (self.directory.path / "error.txt").write_text(text, encoding="utf-8")
        part = getattr(error, "trajectory", None)
        if isinstance(part, Trajectory) and part.length > 0:
            self.pieces.append(part)
            state = self.state
            data = append(state.data, part, int(state.episodes)) if self.grows else state.data
            steps = state.steps + jnp.int32(part.length)
            self.state = dataclasses.replace(state, data=data, steps=steps)
        self.close_episode()
        self.save()

    def save(self, *, finished: bool = False) -> None:
        """Write a checkpoint."""
        notes = {
            "returns": self.returns,
            "turns": self.turns,
            "seconds": round(self.seconds(), 3),
            "finished": finished,
        }
        save(self.directory.checkpoints, self.state, notes)


def cut(data: Dataset, episode: int) -> Dataset:
    """The data with the last row marked as truncated, if it is of this episode."""
    count = int(data.count)
    if count == 0 or int(data.episode[count - 1]) != episode or bool(data.terminated[count - 1]):
        return data
    truncated = np.array(data.truncated)
    truncated[count - 1] = True
    return dataclasses.replace(data, truncated=truncated)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done, so that what is written down is never half of something."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if caught:
        raise KeyboardInterrupt
