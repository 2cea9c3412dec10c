"""Many jobs, a few at a time, each a process of its own; what is done is not done again.

    from forethought.sweeping.job import Job
    from forethought.sweeping.sweep import sweep

    sweep([Job("one", ("python", "one.py")), Job("two", ("python", "two.py"))], Path("here"), at_once=2)

Killing one job loses one job.  Killing the sweep loses nothing that was done: start it again.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from forethought.errors import UserError
from forethought.runs.signals import stoppable
from forethought.sweeping.job import Caps, Job, Outcome, Place
from forethought.sweeping.processes import run_processes
from forethought.sweeping.supervise import Setting

LOCK = ".lock"

Launcher = Callable[[Sequence[Job], int, Setting], Generator[Outcome, None, None]]
"""Runs jobs, so many at once, and tells of each when it has ended."""


def sweep(
    jobs: Sequence[Job],
    folder: Path | None = None,
    *,
    at_once: int = 1,
    caps: Caps | None = None,
    environment: Mapping[str, str] | None = None,
    launch: Launcher = run_processes,
    tell: Callable[[Outcome], None] | None = None,
    held: int | None = None,
    anew: bool = False,
) -> list[Outcome]:
    """Run the jobs that are not done yet (`anew`: all of them); how each of them ended, in their order.

    `folder` keeps a state and a log for each; without one a job is done if its `result` is there, and prints where
    this process does.  `environment` is that of the jobs (None: this process's, and one thread for each job).  `held`:
    the folder's lock, from `locked`, if the caller has it.  Raises `UserError` if another sweep is at work in the
    folder.  An interrupt ends the jobs in order before it goes on; they are pending then.
    """
    names = [job.name for job in jobs]
    wrong = [n for n, count in Counter(names).items() if count > 1 or Path(n).name != n or not n.strip(".")]
    if wrong:
        raise ValueError(f"A job is called {wrong[0]!r}; the names of jobs must be file names, and different.")
    tell = tell or (lambda outcome: None)
    caps = caps or Caps()
    caps.check()
    place = None if folder is None else Place(folder.absolute())
    outcomes: dict[str, Outcome] = {}
    with stoppable(), nullcontext(held) if place is None or held is not None else locked(place.folder) as lock:
        if place is not None:
            place.states.mkdir(exist_ok=True)
            place.logs.mkdir(exist_ok=True)
        for job in jobs:
            before = None if anew else _done_before(job, place)
            if before is not None:
                outcomes[job.name] = before
                tell(before)
        waiting = [job for job in jobs if job.name not in outcomes]
        setting = Setting(caps, place, one_thread() if environment is None else environment, os.getcwd(), lock)
        with closing(launch(waiting, at_once, setting)) as ended:
            for outcome in ended:
                outcomes[outcome.name] = outcome
                tell(outcome)
    return [outcomes[name] for name in names]


def _done_before(job: Job, place: Place | None) -> Outcome | None:
    """The outcome of a job that need not be run."""
    found = None if place is None else place.read(job.name)
    there = job.result is None or job.result.exists()
    if found is not None:
        return found._replace(earlier=True) if found.status == "done" and there else None
    if place is None and job.result is not None and there:
        return Outcome(job.name, "done", "", 0.0, 0.0, earlier=True)
    return None


def told(outcome: Outcome) -> str:
    """An outcome in a few words."""
    if outcome.status == "failed":
        return f"FAILED, {outcome.reason}"
    memory = f", {outcome.peak_mb:.0f} MB" if outcome.peak_mb else ""
    return "done already" if outcome.earlier else f"done, {outcome.seconds:.1f} s{memory}"


def one_thread(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment (None: the process's) with one thread for each job, where it does not say otherwise.

    A job is one thread of work: several side by side are faster than one job on several cores.
    """
    given = os.environ if given is None else given
    flags, one = given.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false"
    xla = {"XLA_FLAGS": flags if "multi_thread_eigen" in flags else f"{flags} {one}".strip()}
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | dict(given) | xla


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[int]:
    """Let no other sweep work in the folder meanwhile, by a file of this name.  Raises `UserError` if one does.

    Jobs hold the lock open too: where a sweep was killed, and a run that it started still goes on, a second sweep
    would otherwise begin that run again in the same directory.
    """
    handle = _lock(folder, name)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(folder: Path, name: str) -> int:
    """The open lock file, which is locked as long as somebody holds it open."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}); give another folder.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise UserError(
                f"{folder} is in use by another process ({pid}), or by runs that it left behind when it was "
                "killed; they must end first."
            ) from None
        raise UserError(
            f"{folder} cannot be locked ({error.strerror}); give one on a file system with locks."
        ) from error
    return handle
