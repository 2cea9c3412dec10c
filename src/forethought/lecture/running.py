"""All claims, each in a process of its own: one that is killed loses that claim only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

WAIT = 0.05
"""Seconds between two looks at the processes."""
GRACE = 5.0
"""Seconds that a process has to end after it was asked to."""
LAST_WORDS = 300
"""Characters of what a process said last that are told."""


class Job(NamedTuple):
    """What a claim's process is asked."""

    name: str
    words: tuple[str, ...]
    """Arguments of `forethought.lecture.worker`."""


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    began: float


Ended = Callable[[str, str | None, float], None]
"""Is told the name of a job that has ended, what went wrong if anything did, and the seconds it took."""


def run_all(jobs: Sequence[Job], at_once: int, deadline: float, ended: Ended) -> None:
    """Run every job, `at_once` of them at the same time, each for at most `deadline` seconds.

    Whatever ends this early ends the processes that are running.
    """
    waiting, running = list(jobs), []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0)))
            time.sleep(WAIT)
            for now in list(running):
                seconds = time.monotonic() - now.began
                if now.process.poll() is None and seconds > deadline:
                    _end([now.process])
                    wrong = f"it took longer than {deadline:g} s and was ended"
                elif now.process.poll() is None:
                    continue
                else:
                    wrong = _wrong(now)
                running.remove(now)
                now.said.close()
                ended(now.job.name, wrong, seconds)
    finally:
        _end([now.process for now in running])
        for now in running:
            now.said.close()


def _start(job: Job) -> _Running:
    """A process of its own session, so that Ctrl-C reaches only its parent, which ends it in order."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when the process has ended
    command = [sys.executable, "-P", "-m", "forethought.lecture.worker", *job.words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        env=environment(os.environ),
        start_new_session=True,
    )
    return _Running(job, process, said, time.monotonic())


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """One thread each, so that times do not depend on what else is measured; what the user has set stays.  A process
    finds what this one does."""
    flags, one = given.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false"
    own = {
        "XLA_FLAGS": flags if "multi_thread_eigen" in flags else f"{flags} {one}".strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path))),
    }
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | dict(given) | own


def _wrong(now: _Running) -> str | None:
    """Why a process ended badly; None if it did not."""
    code = now.process.returncode
    if code == 0:
        return None
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"its process was killed by {names.get(-code, f'signal {-code}')}"
    now.said.seek(max(0, now.said.seek(0, os.SEEK_END) - 2**16))
    lines = now.said.read().decode(errors="replace").strip().splitlines()
    return f"its process ended with status {code}: {(lines or ['it said nothing'])[-1][:LAST_WORDS]}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask, then insist; whoever cannot wait for that (a second Ctrl-C) makes us insist at once."""
    for process in processes:
        process.terminate()
    try:
        until = time.monotonic() + GRACE
        for process in processes:
            process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
