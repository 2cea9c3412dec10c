"""The run loop: turn after turn of an algorithm, until a rule says stop, with everything written down on the way."""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractAlgorithm, RunState, Task
from forethought.math.dataset import append
from forethought.runs.checkpoint import About, save
from forethought.runs.directory import RunDirectory
from forethought.runs.episodes import SUMS, episode_file, write_episode
from forethought.runs.evaluation import evaluate_and_keep
from forethought.runs.files import StorageError, remove, replace_durably, sync_file
from forethought.runs.journal import Journal, before_name, journals
from forethought.runs.log import Display, Turn, blindness, warnings_of
from forethought.runs.metrics import MetricsFile
from forethought.runs.progress import Progress
from forethought.runs.signals import stoppable, undisturbed
from forethought.runs.stopping import Until, convergence
from forethought.types import Dataset, Metrics, Trajectory, UserError
from forethought.worlds.guard import Guard, TransitionError
from forethought.worlds.gym import GymWorld
from forethought.worlds.remote import WorkerLost

ANY = Guard(reward_bound=math.inf, observation_bound=math.inf)
RECENT = 5
"""Training episodes whose mean return says which checkpoint is the best."""


class Rules(NamedTuple):
    """When a run stops, of itself and when something goes wrong."""

    steps: int
    until: Until
    guard: Guard
    on_save_error: Literal["stop", "go-on"]
    evaluate_every: int = 0


@dataclass(eq=False)
class Loop:
    """A run while it goes on.  The only place of a run that changes in place."""

    algorithm: AbstractAlgorithm
    task: Task
    """Its worlds are watched by the journals."""
    rules: Rules
    directory: RunDirectory
    run_name: str
    config: dict[str, Any]
    show: Display
    state: RunState
    progress: Progress
    metrics: MetricsFile
    journals: list[Journal] = field(default_factory=list)
    exact: bool = True
    """Whether a run that goes on from this state is the run that was never broken off."""
    left: int = 0
    """Steps of the budget that were left when the open episodes began."""
    unsaved: bool = False
    """Whether the state is newer than the last checkpoint."""
    began: float = field(default_factory=time.monotonic)
    judge: Task = field(init=False)
    """The task as evaluations see it."""

    def __post_init__(self) -> None:
        """Let a journal watch each world; evaluations are not watched, as nothing is learned from them."""
        self.judge = dataclasses.replace(self.task, beside=())
        self.journals = [
            Journal(
                folder=self.directory.journal,
                run=self.run_name,
                m=self.task.spec.m,
                number=lambda lane=lane: int(self.state.episodes) + lane,
                say=self.show.say,
                world=self.task.name,
                # An environment of Gymnasium has its guard inside, which knows the limits of its spaces.
                guard=ANY if isinstance(self.task.world, GymWorld) else self.rules.guard,
                required=self.rules.on_save_error == "stop",
            )
            for lane in range(len(self.task.worlds))
        ]
        first, *others = (w.watched(j) for w, j in zip(self.task.worlds, self.journals, strict=True))
        self.task = dataclasses.replace(self.task, world=first, beside=tuple(others))

    @property
    def replayable(self) -> bool:
        """Whether open episodes can be done again."""
        return all(world.replayable for world in self.task.worlds)

    def run(self) -> str:
        """Go on until a rule says stop, learn from everything once more, save; the name of the rule.

        Whatever interrupts it, the transitions that were finished are written down before the error goes on.
        """
        try:
            with stoppable():
                while (reason := self.reason()) is None:
                    self.turn()
                self.learn_last()
        except BaseException as error:
            with undisturbed():
                try:
                    self.rescue(error)
                except Exception as failed:  # a full disk must not hide what went wrong first
                    error.saved = False  # pyright: ignore[reportAttributeAccessIssue]
                    self.show.say(f"Warning: what was finished could not be saved: {failed}")
            raise
        finally:
            for journal in self.journals:
                journal.close()
            for world in self.task.worlds:
                world.close()
        return reason

    def reason(self) -> str | None:
        """Which rule says stop now, if any."""
        if int(self.state.steps) >= self.rules.steps:
            return "steps"
        if self.state.open is not None:
            return None
        return convergence(self.rules.until, self.task.threshold, self.progress.returns)

    def turn(self) -> None:
        """One turn of the algorithm, written down."""
        before, left = self.state, self.rules.steps - int(self.state.steps)
        self.left = left if before.open is None else self.left
        try:
            state, metrics = self.algorithm.step(self.task, before, left)
        except TransitionError as error:
            self.fault(error)
            return
        if int(state.steps) == int(before.steps):
            raise RuntimeError(f"{type(self.algorithm).__name__} took no step though steps were left.")
        with undisturbed():
            self.state, self.unsaved = state, True
            if self.replayable and len(self.journals) > 1 and self.left < len(self.journals) * self.task.limit:
                # The budget may have cut shares, which a larger one would not have: then this is no place to go on.
                self.exact = False
            for journal in self.journals:
                journal.absorbed = journal.rows()
            if state.open is None:
                self.finish_episodes(int(before.episodes))
            self.record(metrics)
            if state.open is None:
                self.save()
        every = self.rules.evaluate_every
        if every and int(state.steps) // every > int(before.steps) // every:
            self.evaluate()
        self.show.turn(
            Turn(int(state.steps), self.rules.steps, self.progress.returns, metrics, self.seconds()),
        )

    def fault(self, error: TransitionError) -> None:
        """Something that is no transition: what was finished is kept, and the run goes on if that is wanted."""
        guard = self.rules.guard
        with undisturbed():
            kept = sum(journal.rows() for journal in self.journals)
            self.progress.faults += 1
            if kept == 0 and self.state.open is None:
                # The next reset must not draw the seed of the one that failed.
                self.state = dataclasses.replace(self.state, key=jr.fold_in(self.state.key, 1))
            self.close_episodes(exact=True)
            self.record({"fault": str(error), "fault_field": error.field, "fault_step": error.step})
            self.save()
        goes_on = guard.on_fault == "go-on" or isinstance(error, WorkerLost)
        if not goes_on or self.progress.faults > guard.most_faults:
            raise error
        self.show.say(
            f"{error} The episode was ended there, and its {kept} steps are kept; a fresh one begins "
            f"(fault {self.progress.faults} of at most {guard.most_faults})."
        )

    def learn_last(self) -> None:
        """Learn from the data at hand, so that the saved controller uses all of it; then save.

        That is for evaluation: a run that is given more steps goes on from its last whole episode, or, in a world that
        cannot be replayed, from the episode that ended here, and so is the run that had more steps from the beginning.
        """
        with undisturbed():
            if self.state.open is not None:
                self.close_episodes(exact=not self.replayable)
                if self.exact:
                    self.save()
        state, metrics = self.algorithm.step(self.task, self.state, 0)
        with undisturbed():
            self.state, self.exact, self.unsaved = state, False, True
            if metrics:
                self.record(metrics | {"last": True})
            self.save(finished=True)
        if self.rules.evaluate_every:
            self.evaluate()

    def evaluate(self) -> None:
        """Try the controller from the task's fixed starts, in a world of its own; nothing is learned from it."""
        if int(self.state.fits) == 0:
            return
        policy = self.algorithm.policy(self.judge, self.state)
        about = {"run": self.run_name, "env_steps": int(self.state.steps), "which": "newest"}
        self.stored("The evaluation", lambda: evaluate_and_keep(self.judge, policy, self.directory.path, about))

    def record(self, metrics: Metrics) -> None:
        """One line of metrics, and a warning where planning or fitting failed."""
        steps = int(self.state.steps)
        for sentence in warnings_of(metrics, steps, self.progress.failures):
            self.show.say(sentence)
        if not self.progress.blind and (sentence := blindness(metrics, steps, self.progress.ties)):
            self.progress.blind = True
            self.show.say(sentence)
        of = lambda name: 0 if self.state.open is None else int(metrics.get(name) or 0)
        self.progress.failures, self.progress.ties = of("plan_failures"), of("plan_ties")
        line: dict[str, Any] = {
            "turn": self.progress.turns + 1,
            "env_steps": steps,
            "episodes": len(self.progress.returns),
            "seconds": round(self.seconds(), 3),
        }
        self.stored("metrics.jsonl", lambda: self.metrics.append(line | metrics))
        self.progress.turns += 1

    def seconds(self) -> float:
        """Wall clock of the run, without the pauses between its parts."""
        return self.progress.seconds + time.monotonic() - self.began

    def finish_episodes(self, first: int) -> None:
        """Write the episodes of the journals into files, numbered from `first`, and count the returns of whole ones."""
        for lane, journal in enumerate(self.journals):
            whole = journal.episode_so_far()
            if whole is not None:
                self.progress.returns += self.write_episode(first + lane, whole, complete=journal.finished())
                journal.done()

    def write_episode(self, number: int, episode: Trajectory, *, complete: bool) -> list[float]:
        """Write an episode into a file; its return, if it is whole."""
        score = float(np.sum(episode.reward))
        about: dict[str, Any] = {"run": self.run_name, "task": self.task.name, "complete": complete}
        about["return"] = score if np.isfinite(score) else None
        self.stored(f"Episode {number}", lambda: write_episode(self.directory.episodes, number, episode, about))
        return [score] if complete else []

    def close_episodes(self, *, exact: bool) -> None:
        """End the open episodes as if truncated here: all transitions stay, and the next ones start afresh."""
        state = self.state
        if state.open is None and not any(journal.rows() for journal in self.journals):
            return
        if state.open is None and all(journal.absorbed == journal.rows() for journal in self.journals):
            # They have ended and are part of the state; only their files could not be written.
            self.finish_episodes(int(state.episodes) - len(self.journals))
            return
        first, data, steps = int(state.episodes), state.data, int(state.steps)
        grows = self.algorithm.appends(state)
        for lane, journal in enumerate(self.journals):
            part = journal.episode_so_far(journal.absorbed)
            if part is not None:
                steps += part.length
                data = append(data, part, first + lane) if grows else data
            data = cut(data, first + lane)
        self.state = dataclasses.replace(
            state,
            # The next episode must not repeat the random numbers of this one.
            key=jr.fold_in(state.key, 1),
            episodes=state.episodes + jnp.int32(len(self.journals)),
            steps=jnp.asarray(steps, state.steps.dtype),
            data=data,
            open=None,
        )
        self.exact, self.unsaved = self.exact and exact, True
        self.finish_episodes(first)

    def rescue(self, error: BaseException) -> None:
        """Keep what was finished when `error` came.

        Where the world can be replayed a resumed run goes on from the last whole episode, and what is saved here is for
        evaluation only.
        """
        if not isinstance(error, (KeyboardInterrupt, TransitionError, StorageError, UserError)):
            text = "".join(traceback.format_exception(error))
            replace_durably(self.directory.path / "error.txt", text.encode(errors="replace"))
        self.catch_up(error)
        self.close_episodes(exact=not self.replayable)
        if self.unsaved:
            self.save()

    def catch_up(self, error: BaseException) -> None:
        """An interrupt may come when a step was taken and not yet shown: the error has it, and the journal not."""
        part, journal = getattr(error, "trajectory", None), self.journals[0]
        if len(self.journals) > 1 or not isinstance(part, Trajectory) or journal.record is None:
            return
        for i in range(journal.rows() - journal.absorbed, part.length):
            u, y, flags = part.u[i], part.y[i], (bool(part.terminated[i]), bool(part.truncated[i]))
            journal.happened(np.asarray(u), np.asarray(y), float(part.reward[i]), *flags)

    def save(self, *, finished: bool = False) -> None:
        """Write a checkpoint; the journals of episodes that are part of it go."""
        returns = self.progress.returns[-RECENT:]
        about = About(
            run=self.run_name,
            notes=self.progress.notes(self.seconds())
            | {"finished": finished, "env_steps": int(self.state.steps), "metrics": self.metrics.seal()},
            experiment=self.config,
            resumable=self.exact,
            score=float(np.mean(returns)) if returns else None,
        )
        self.unsaved = not self.stored("The checkpoint", lambda: self.write_checkpoint(about))
        if self.exact and not self.unsaved:
            for number, path in journals(self.directory.journal).items():
                # Asked one by one: a long run has many episodes, and few journals.
                if number < int(self.state.episodes) and episode_file(self.directory.episodes, number).is_file():
                    remove(path)
                    remove(path.with_name(before_name(number)))

    def write_checkpoint(self, about: About) -> None:
        """What the checkpoint seals is on the disk before it is."""
        for path in (self.metrics.path, self.metrics.checks, self.directory.episodes / SUMS):
            sync_file(path)
        save(self.directory.checkpoints, self.state, about)

    def stored(self, what: str, write: Callable[[], Any]) -> bool:
        """Write something; where that fails the run stops, or says so and goes on, as configured."""
        try:
            write()
        except OSError as error:
            sentence = f"{what} could not be saved in {self.directory.path}: {error.strerror}. What was saved stays"
            if self.rules.on_save_error == "stop":
                raise StorageError(f"{sentence}.") from error
            self.show.say(f"Warning: {sentence}; the run goes on, as on-save-error says.")
            return False
        return True


def cut(data: Dataset, episode: int) -> Dataset:
    """The data with the last row of this episode marked as truncated, unless it is terminated, or there is none."""
    count = int(data.count)
    rows = np.flatnonzero(np.asarray(data.episode)[:count] == episode)
    if len(rows) == 0 or bool(data.terminated[rows[-1]]):
        return data
    truncated = np.array(data.truncated)
    truncated[rows[-1]] = True
    return dataclasses.replace(data, truncated=truncated)
