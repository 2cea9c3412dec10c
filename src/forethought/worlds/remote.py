"""An environment that runs in a process of its own, with a deadline on each step and each reset."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from forethought.errors import UserError
from forethought.worlds.guard import TransitionError
from forethought.worlds.process import PATIENCE, Process
from forethought.worlds.source import Source
from forethought.worlds.wire import (
    STEP,
    GarbledError,
    Kind,
    Message,
    pack,
    pack_array,
    plain,
    unpack_array,
    unpack_space,
)
from forethought.worlds.worker import registration


class WorkerLost(TransitionError):
    """A worker process died, took longer than its deadline or sent what is no message; it does not exist any more.

    `field` is "step", "reset" or "process" (its start); `value` the seconds of the deadline, the exit status (negative:
    the signal), or what was sent.
    """

    def __str__(self) -> str:
        when = ", in reset" if self.step is None else f", at step {self.step}"
        return f"{self.environment}{'' if self.field == 'process' else when}: {self.wrong}."


class Shown(str):
    """The text of a value that stayed in another process: an error shows it as it would show the value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class RemoteEnv(gymnasium.Env):
    """The environment of a source in a worker process, which is started when it is first needed.

    Observations, rewards and flags are bit for bit those of `source.make()`; infos stay in the process ({} comes).
    What is wrong with a transition is raised as in this process, with the value as text.  Beyond that, `WorkerLost`
    is raised when the process dies or when a step, a reset or the start takes longer than its deadline (in seconds);
    the next reset then starts a new process, as it does after `close`.  One thread at a time may use an
    instance; `close` may be called from any other, and a waiting step then raises `WorkerLost` at once.

    Processes end with the instance, with this process, and with whatever kills this process.
    """

    def __init__(self, source: Source, deadline: float, start_up: float = 120.0):
        self.source = source
        self.deadline = deadline
        self.start_up = start_up
        try:
            self._hello = pack(Kind.MAKE, _described(source))
        except GarbledError as error:
            raise UserError(f"The arguments of {source.id} are too large for a worker process: {error}.") from error
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._spaces: tuple[spaces.Space, spaces.Space] | None = None
        self._t = 0
        self._open = False

    @property
    def pid(self) -> int | None:
        """The worker process's number; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    @property
    def observation_space(self) -> spaces.Space:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of a local instance; asking for it starts the process if there was none yet."""
        return self._known_spaces()[0]

    @property
    def action_space(self) -> spaces.Space:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of a local instance; asking for it starts the process if there was none yet."""
        return self._known_spaces()[1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, in a new process if there is none.

        Raises `UserError` if the environment cannot be made there, `TransitionError` and `WorkerLost`.
        """
        words = {
            "seed": None if seed is None else int(seed),
            "options": plain(options, f"options of {self.source.id}"),
        }
        process = self._running()
        self._open = False
        answer = self._ask(process, pack(Kind.RESET, words), (Kind.BEGAN, "reset", None))
        with self._reading(process, "reset", None):
            observation = unpack_array(answer.numbers, self._shape())
        self._t, self._open = 0, True
        return observation, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.  Raises `TransitionError` and `WorkerLost`, also where no episode is open."""
        process = self._process
        if process is None or not self._open:
            wrong = "it has no worker process with an open episode: call reset first"
            raise WorkerLost(self.source.id, self._t, "step", None, wrong)
        # Actions come in the shape of the space; `executed` made them.
        answer = self._ask(process, pack(Kind.ACT, None, pack_array(action)), (Kind.MOVED, "step", self._t))
        with self._reading(process, "step", self._t):
            if len(answer.numbers) < STEP.size:
                raise GarbledError("a step without a reward")
            reward, terminated, truncated = STEP.unpack_from(answer.numbers)
            observation = unpack_array(answer.numbers[STEP.size :], self._shape())
        self._t += self.source.action_repeat
        return observation, reward, terminated, truncated, {}

    def close(self) -> None:
        """End the process.  A later reset starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _running(self) -> Process:
        """The process, started if there is none."""
        with self._lock:
            if self._process is not None:
                return self._process
            try:
                process = self._process = Process(self)
            except OSError as error:
                wrong = f"its worker process cannot be started ({error})"
                raise WorkerLost(self.source.id, None, "process", str(error), wrong) from error
        answer = self._ask(process, self._hello, (Kind.SPACES, "process", None))
        with self._reading(process, "process", None):
            observation, rest = unpack_space(answer.words["observation"], answer.numbers)
            action, _ = unpack_space(answer.words["action"], rest)
        self._spaces = observation, action
        return process

    def _known_spaces(self) -> tuple[spaces.Space, spaces.Space]:
        """Of the observations and of the actions."""
        if self._spaces is None:
            self._running()
        assert self._spaces is not None
        return self._spaces

    def _shape(self) -> tuple[int, ...]:
        """Of an observation."""
        shape = self._known_spaces()[0].shape
        assert shape is not None
        return shape

    def _ask(self, process: Process, message: bytes, wanted: tuple[Kind, str, int | None]) -> Message:
        """The answer, if it is of the wanted kind; `wanted` also says which field and step an error is about."""
        kind, field, step = wanted
        seconds = self.start_up if kind == Kind.SPACES else self.deadline
        with self._reading(process, field, step, seconds):
            answer = process.exchange(message, seconds)
            words = answer.words or {}
            for sentence in words.get("said", ()):
                warnings.warn(str(sentence), stacklevel=2)
            if answer.kind == Kind.SORRY and kind == Kind.SPACES:
                raise UserError(str(words["sentence"]))
            if answer.kind == Kind.FAULT and kind != Kind.SPACES:
                self._open = False
                at = step if words["step"] is None else int(words["step"])
                shown = Shown(words["value"])
                raise TransitionError(self.source.id, at, str(words["field"]), shown, str(words["wrong"]))
            if answer.kind != kind:
                raise GarbledError(f"a message of the kind {answer.kind.name}, where {kind.name} was to come")
        return answer

    @contextlib.contextmanager
    def _reading(self, process: Process, field: str, step: int | None, seconds: float = 0.0) -> Iterator[None]:
        """Whatever is wrong with the process, or interrupts a message, ends it and is told as `WorkerLost`."""
        value: Any
        try:
            yield
            return
        except TransitionError:
            raise
        except TimeoutError as error:
            cause, value = error, seconds
            what = "its worker process did not start" if field == "process" else f"its {field} did not end"
            wrong = f"{what} within {seconds:g} s, and the process was killed"
        except (EOFError, OSError) as error:
            cause = error
            wrong, value = self._post_mortem(process)
        except (GarbledError, AttributeError, LookupError, TypeError, ValueError) as error:
            cause, value = error, str(error)
            what = value if isinstance(error, GarbledError) else "a message that cannot be read"
            wrong = f"its worker process sent {what}, and was killed"
        except BaseException:
            self._discard(process)
            raise
        self._discard(process)
        raise WorkerLost(self.source.id, step, field, value, wrong) from cause

    def _post_mortem(self, process: Process) -> tuple[str, int | None]:
        """How a process ended that does not answer any more, and its exit status."""
        if self._process is not process:
            return "its worker process was closed", process.kill()
        # It has closed the connection, so it is ending: on a busy machine that may take a while, and how it ended is
        # what a person wants to know.
        alone = process.wait(5.0 * PATIENCE)
        status = process.kill()
        if not alone or status is None:
            return "its worker process closed the connection, and was killed", status
        if status >= 0:
            return f"its worker process ended with exit status {status}", status
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        memory = ", which the system sends when memory runs out" if -status == signal.SIGKILL else ""
        return f"its worker process was ended by {name}{memory}", status

    def _discard(self, process: Process) -> None:
        """Kill a process; the next reset starts another."""
        with self._lock:
            if self._process is process:
                self._process = None
        process.kill()


def _described(source: Source) -> dict[str, Any]:
    """All that a worker process needs to make the environment.  Raises `UserError` for what cannot be told it."""
    spec = gymnasium.registry.get(source.id)
    known = None if spec is None else registration(spec)
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    fields |= {"kwargs": dict(source.kwargs), "guard": dataclasses.asdict(source.guard)}
    return {
        "paths": [str(path) for path in sys.path],
        "pythonpath": os.environ.get("PYTHONPATH"),
        "registration": plain(known, f"what {source.id} is registered with"),
        "source": {name: plain(value, f"{name} of {source.id}") for name, value in fields.items()},
    }
