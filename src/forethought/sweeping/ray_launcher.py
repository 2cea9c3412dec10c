"""The same jobs on a Ray cluster: each task runs, watches and limits the same process, on the machine of its worker.

Folders are shared between the machines, and forethought is installed on each.  Ray sends jobs and outcomes between its
own processes as pickles; nothing of them is written by us or read from a file.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from forethought.errors import UserError
from forethought.sweeping.job import Job, Outcome
from forethought.sweeping.supervise import Setting, supervise
from forethought.sweeping.sweep import locked

CARRIED = ("CUDA_", "JAX_", "MKL_", "MUJOCO_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON", "TF_", "XLA_")
"""Variables that decide what a job computes: they are those of the command, also where Ray has set others."""


def run_on_ray(jobs: Sequence[Job], at_once: int, setting: Setting) -> Generator[Outcome, None, None]:
    """Run the jobs on the cluster that this process is connected to, or else on the one that Ray finds.

    At most `at_once` at a time, each of which asks for one CPU.  Raises `UserError` without Ray, or without a cluster.
    """
    ray = connected()
    task = ray.remote(num_cpus=1, max_retries=0)(run_here)
    setting, waiting = setting._replace(held=None), list(jobs)
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[task.remote(job, setting)] = job
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            yield _outcome(ray, ended, running.pop(ended), setting)
    except BaseException:
        for each in running:
            ray.cancel(each, force=False)
        # What a task raises when it is cancelled does not matter; its process has ended then.
        with suppress(Exception):
            ray.wait(list(running), num_returns=len(running), timeout=60.0)
        raise


def run_here(job: Job, setting: Setting) -> Outcome:
    """The task: the job in the worker's own environment, but for what decides what it computes.

    Ray may kill a worker, whose job then goes on alone.  It holds a lock of its own, and is not begun again meanwhile.
    """
    setting = setting._replace(environment=merged(os.environ, setting.environment))
    if setting.place is None:
        return supervise(job, setting)
    try:
        with locked(setting.place.states, f".{job.name}.lock") as held:
            return supervise(job, setting._replace(held=held))
    except UserError as error:
        return Outcome(job.name, "failed", f"an earlier try still goes on: {error}", 0.0, 0.0)


def merged(workers: Mapping[str, str], commands: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment, with the command's variables of `CARRIED`, and without those that it has not."""
    kept = {name: value for name, value in workers.items() if not name.startswith(CARRIED)}
    return kept | {name: value for name, value in commands.items() if name.startswith(CARRIED)}


def connected() -> Any:
    """The module ray, connected to a cluster.  Raises `UserError`."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--launcher is ray, but Ray cannot be imported; install it with: pip install 'forethought[ray]'."
        ) from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            ray.init(address=address, log_to_driver=False)
        except Exception as error:
            words = " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(
                f"There is no Ray cluster at {address} ({words}); start one with 'ray start --head', or name it in "
                "RAY_ADDRESS."
            ) from error
    return ray


def _outcome(ray: Any, ended: Any, job: Job, setting: Setting) -> Outcome:
    """How the job ended; a task that Ray has lost is a job that failed."""
    try:
        return ray.get(ended)
    except Exception as error:
        words = f"lost by Ray: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        outcome = Outcome(job.name, "failed", words, 0.0, 0.0)
        if setting.place is not None:
            setting.place.write(outcome)
        return outcome
