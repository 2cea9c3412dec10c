"""The same jobs on a local Ray cluster: the same results, bit for bit, and the same reports of what went wrong."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from forethought.cli import guarded
from forethought.errors import UserError
from forethought.sweeping import ray_launcher
from forethought.sweeping.command import command
from forethought.sweeping.job import Caps, Job, Place
from forethought.sweeping.ray_launcher import connected, merged, run_here, run_on_ray
from forethought.sweeping.supervise import Setting
from forethought.sweeping.sweep import locked, sweep
from kept import CLOCKS
from small import PACE, TINY


def test_without_ray_a_sentence_says_how_to_get_it() -> None:
    with patch.dict(sys.modules, {"ray": None}), pytest.raises(UserError, match=r"pip install 'forethought\[ray\]'"):
        connected()


def test_what_decides_the_figures_is_the_commands() -> None:
    """Ray sets threads and hides accelerators; a job must not see that."""
    workers = {"HOME": "/home/worker", "OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "", "RAY_JOB": "1"}
    commands = {"HOME": "/home/me", "OMP_NUM_THREADS": "1", "XLA_FLAGS": "--x", "SECRET": "s"}
    assert merged(workers, commands) == {
        "HOME": "/home/worker",
        "RAY_JOB": "1",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--x",
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs, on this machine, for these tests only: it sends nothing home, and its key is in no file."""
    ray = pytest.importorskip("ray", reason="ray is an extra and is not installed")
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with patch.dict(os.environ, settings):
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


def contents(run: Path) -> dict[str, object]:
    """What a run wrote, but for clocks and its name: arrays byte for byte."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, object] = {"metrics": [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]}
    files = sorted(run.glob("checkpoints/*/arrays.safetensors"))
    return found | {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_runs_are_the_same_bit_for_bit(cluster, tmp_path, capsys) -> None:
    """One run of the same sweep by processes, and on the cluster."""
    words = ["pendulum", *TINY, *PACE, "--steps", "20", "--limit", "10", "--seeds", "3"]
    for launcher in ("processes", "ray"):
        assert guarded(command, [*words, "--out", str(tmp_path / launcher), "--launcher", launcher]) == 0
    one, two = (contents(tmp_path / launcher / "seed3") for launcher in ("processes", "ray"))
    assert len(one) > 2
    assert one == two
    assert "1 of 1 runs are done." in capsys.readouterr().out


def test_limits_and_kills_are_the_same_on_the_cluster(cluster, tmp_path) -> None:
    """Four jobs on two workers; states and logs lie where they always do, and a second sweep does the rest."""
    plain = "import sys; open(sys.argv[1], 'w').write('done')"
    once = "import os, signal, sys\nif not os.path.exists(sys.argv[1] + '.tried'):\n    "
    mark = "open(sys.argv[1] + '.tried', 'w').close(); "
    kill = f"{once}{mark}os.kill(os.getpid(), signal.SIGKILL)\n{plain}"
    hoard = f"{once}{mark}b = bytearray(300 * 10**6); b[::4096] = b[::4096]; signal.pause()\n{plain}"
    jobs = []
    for name, code in {"a": plain, "b": kill, "c": hoard, "d": plain}.items():
        result = tmp_path / f"{name}.result"
        jobs.append(Job(name, (sys.executable, "-I", "-S", "-c", code, str(result)), result))
    caps = Caps(megabytes=200.0)
    found = sweep(jobs, tmp_path / "s", at_once=2, caps=caps, launch=run_on_ray)
    assert [each.status for each in found] == ["done", "failed", "failed", "done"]
    assert found[1].reason.startswith("killed by SIGKILL from outside")
    assert found[2].reason.startswith("memory limit: it held")
    again = sweep(jobs, tmp_path / "s", at_once=2, caps=caps, launch=run_on_ray)
    assert [each.status for each in again] == ["done"] * 4
    assert [each.earlier for each in again] == [True, False, False, True]


def test_what_a_dead_worker_left_behind_is_not_begun_again(tmp_path) -> None:
    """Its job holds a lock of its own as long as it runs."""
    place = Place(tmp_path)
    place.states.mkdir()
    place.logs.mkdir()
    code = "import sys; open(sys.argv[1], 'w').write('done')"
    job = Job("one", (sys.executable, "-I", "-S", "-c", code, str(tmp_path / "result")))
    setting = Setting(Caps(), place, dict(os.environ), str(tmp_path))
    with locked(place.states, ".one.lock"):
        found = run_here(job, setting)
    assert found.status == "failed"
    assert "an earlier try still goes on" in found.reason
    assert not (tmp_path / "result").exists()
    assert run_here(job, setting).status == "done"


def test_the_job_of_a_dead_worker_holds_its_lock(cluster, tmp_path) -> None:
    code = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getppid()} {os.getpid()}.'); time.sleep(60)"
    began = tmp_path / "began"
    jobs = [Job("one", (sys.executable, "-I", "-S", "-c", code, str(began)))]

    def kill() -> None:
        while not (began.exists() and began.read_text().endswith(".")):
            time.sleep(0.05)
        os.kill(int(began.read_text().split()[0]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    (one,) = sweep(jobs, tmp_path / "s", launch=run_on_ray)
    thread.join()
    assert one.reason.startswith("lost by Ray")
    (again,) = sweep(jobs, tmp_path / "s", launch=run_on_ray)
    assert "an earlier try still goes on" in again.reason
    os.kill(int(began.read_text().split()[1].rstrip(".")), signal.SIGKILL)


def test_a_cluster_that_is_not_there_is_a_sentence(monkeypatch) -> None:
    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(**settings: object) -> None:
            raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with patch.dict(sys.modules, {"ray": Ray}), pytest.raises(UserError, match="There is no Ray cluster at auto"):
        ray_launcher.connected()
