"""All claims, each in a process of its own: one that is killed loses that claim only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from forethought.sweeping.job import Caps, Job, Outcome
from forethought.sweeping.sweep import one_thread, sweep


def run_all(
    module: str,
    names: Sequence[str],
    out: Path,
    settings: Sequence[str],
    *,
    at_once: int,
    deadline: float,
    tell: Callable[[Outcome], None],
) -> None:
    """Measure claims of a module, `at_once` of them at the same time, each for at most `deadline` seconds.

    `settings` are the last arguments of `forethought.lecture.worker`.  What a claim's process says is in out/logs.
    Raises `UserError` if another process measures into that folder.
    """
    command = (sys.executable, "-P", "-m", "forethought.lecture.worker", module)
    jobs = [Job(name, (*command, name, str(out.absolute()), *settings)) for name in names]
    # A process finds what this one does; one thread each, so that times do not depend on what else is measured.
    environment = one_thread() | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))}
    sweep(jobs, out, at_once=at_once, caps=Caps(seconds=deadline), environment=environment, tell=tell, anew=True)
