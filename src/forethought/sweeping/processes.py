"""Jobs on this machine: a thread for each, which watches its process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from forethought.sweeping.job import Job, Outcome
from forethought.sweeping.supervise import Control, Setting, supervise


def run_processes(jobs: Sequence[Job], at_once: int, setting: Setting) -> Generator[Outcome, None, None]:
    """Run the jobs, `at_once` at a time.  An interrupt ends those that run in order; a second one kills them."""
    control = Control(Event(), Event())
    with ThreadPoolExecutor(max(at_once, 1), thread_name_prefix="job") as threads:
        running = {threads.submit(supervise, job, setting, control) for job in jobs}
        try:
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        except BaseException:
            _stop(running, control)
            raise


def _stop(running: set[Future[Outcome]], control: Control) -> None:
    """End what runs, begin nothing more, and wait until all have ended."""
    for future in running:
        future.cancel()
    control.stop.set()
    try:
        wait(running)
    except BaseException:
        control.kill.set()
        wait(running)
