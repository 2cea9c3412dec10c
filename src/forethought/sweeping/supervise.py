"""One job from its start to its end: a process in a group of its own, watched, and ended where it takes too much."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from forethought.runs.command_line import shorten
from forethought.runs.signals import ASKING
from forethought.sweeping.descendants import descendants, measurable, resident
from forethought.sweeping.job import MB, Caps, Job, Outcome, Place

LOOK = 0.1
"""Seconds between two looks at a process."""
GRACE = 20.0
"""Seconds in which a job that is asked to end may do so in order; a run saves a checkpoint meanwhile."""


class Over(Exception):
    """The sweep is over before the job is."""


class Setting(NamedTuple):
    """What the jobs of a sweep have in common."""

    caps: Caps
    place: Place | None
    """Where states and logs are kept; None: nowhere, and what jobs print goes where the sweep's output goes."""
    environment: Mapping[str, str]
    cwd: str
    held: int | None = None
    """A file that each job holds open, so that the sweep's lock is not free before the last of them has ended."""


class Control(NamedTuple):
    """How the thread of a job is told that the sweep is over."""

    stop: Event
    """End in order."""
    kill: Event
    """End at once."""


def supervise(job: Job, setting: Setting, control: Control | None = None) -> Outcome:
    """Run a job, and keep how it ended.  Raises `Over` if the sweep is over before; then nothing is kept."""
    began = time.monotonic()
    try:
        ended = _run(job, setting, control, began)
    except OSError as error:
        ended = _Ended(f"could not be started: {error.strerror}", 0)
    reason = ended.reason
    if not reason and job.result is not None and not job.result.exists():
        reason = f"ended well, but {job.result} is not there"
    seconds, peak = round(time.monotonic() - began, 3), round(ended.peak / MB, 1)
    outcome = Outcome(job.name, "failed" if reason else "done", reason, seconds, peak)
    if setting.place is not None:
        setting.place.write(outcome)
    return outcome


class _Ended(NamedTuple):
    reason: str
    peak: int


def _run(job: Job, setting: Setting, control: Control | None, began: float) -> _Ended:
    """The process, until it has ended."""
    if setting.caps.megabytes is not None and not measurable():
        return _Ended("memory limit: it cannot be kept here, where /proc does not tell what processes hold", 0)
    log = None if setting.place is None else setting.place.logs / f"{job.name}.log"
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        before = 0 if log is None else log.stat().st_size
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env=dict(setting.environment),
            cwd=setting.cwd,
            # A group of its own: the Ctrl-C of a terminal reaches the sweep only, which ends its jobs in order.
            start_new_session=True,
            pass_fds=() if setting.held is None else (setting.held,),
        )
        try:
            reason, peak = _watch(process, setting.caps, control, began)
        except BaseException:
            _end(process, control)
            raise
        finally:
            _kill(process)  # and what it has started, if it left that behind
    return _Ended(reason or _reason(process.returncode, log, before), peak)


def _watch(process: subprocess.Popen[bytes], caps: Caps, control: Control | None, began: float) -> tuple[str, int]:
    """Why the process was ended, if it was, and the most memory that was seen."""
    peak = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
            return "", peak
        if control is not None and control.stop.is_set():
            raise Over
        family = descendants(process.pid)
        peak = max(peak, now := resident(family))
        if caps.megabytes is not None and now > caps.megabytes * MB:
            _kill(process)
            return f"memory limit: it held {math.ceil(now / MB)} MB, and {caps.megabytes:g} are allowed; killed", peak
        if caps.seconds is not None and time.monotonic() - began > caps.seconds:
            _end(process, control)
            # It may have been done in that very moment.
            reason = "" if process.returncode == 0 else f"time limit: it still ran after {caps.seconds:g} s; ended"
            return reason, peak


def _end(process: subprocess.Popen[bytes], control: Control | None) -> None:
    """Ask the process to end; if it has not after a while, or when that is wanted, kill it."""
    until = time.monotonic() + GRACE
    with suppress(ProcessLookupError):
        process.terminate()
    while process.poll() is None and time.monotonic() < until and not (control and control.kill.is_set()):
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, its group and its descendants, and wait for it.

    Also where it has just ended: the others of its group need not have.  No new process can have its number as long as
    there are others, and so soon after none has it where there are not.
    """
    family = descendants(process.pid) if process.poll() is None else []
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in family[1:]:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _reason(status: int, log: Path | None, before: int) -> str:
    """Why a job that ended of itself has failed; nothing if it has not."""
    if status == 0:
        return ""
    if status == -signal.SIGKILL:
        return "killed by SIGKILL from outside: by hand, or by the system when memory ran short"
    if status < 0:
        return f"killed by {_name(-status)}"
    asked = f" (ended by {_name(status - 128)})" if status - 128 in ASKING else ""
    last = "" if log is None else _last_line(log, before)
    return f"exit status {status}{asked}{': ' if last else ''}{last}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(log: Path, before: int) -> str:
    """What the job said last, of what it printed in this try."""
    with log.open("rb") as file:
        file.seek(max(before, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return shorten(lines[-1], 300) if lines else ""
