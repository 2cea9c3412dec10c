"""Asked to stop: what was tried is kept, and the run goes on as if nobody had asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from compiling import FLAGS
from forethought import resume
from forethought.runs.checkpoint import numbered
from forethought.runs.directory import existing
from forethought.runs.signals import Stopped, stoppable, undisturbed
from forethought.runs.verify import problems
from small import PACE, TINY, recipe

ENDLESS = ["train", "Pendulum-v1", *TINY, *PACE, "--limit", "10", "--steps", "1000000", "--quiet"]


def begin(out: Path) -> subprocess.Popen[str]:
    """A run in a process of its own that has written two checkpoints and is at work on the next episode."""
    command = [sys.executable, "-m", "forethought.cli", *ENDLESS, "--out", str(out)]
    environment = os.environ | {"XLA_FLAGS": FLAGS}  # it is gone on with, and compared to the bit, in this process
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 120
    while len(numbered(out / "checkpoints")) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the run does not get going"
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("signals", "status", "says"),
    [
        ((signal.SIGTERM,), 143, "Stopped by SIGTERM. What was finished is saved; go on by: forethought resume"),
        ((signal.SIGINT, signal.SIGINT), 130, "Interrupted. What was finished is saved; go on by: forethought resume"),
    ],
)
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not(tmp_path, signals, status, says):
    process = begin(tmp_path / "run")
    for number in signals:
        process.send_signal(number)
    _, err = process.communicate(timeout=180)
    assert process.returncode == status, err
    assert says in err
    assert "Traceback" not in err
    assert list(problems(existing(tmp_path / "run"))) == []
    last = numbered(tmp_path / "run" / "checkpoints")[-1]
    taken = json.loads((last / "manifest.json").read_bytes())["counters"]["steps"]
    steps = taken - taken % 10 + 20
    assert resume(tmp_path / "run", steps=steps).env_steps == steps
    recipe(task="Pendulum-v1", out=tmp_path / "straight", steps=steps).run()
    one, two = (
        load_file(numbered(tmp_path / n / "checkpoints")[-1] / "arrays.safetensors") for n in ("run", "straight")
    )
    assert one.keys() == two.keys()
    assert [k for k in one if one[k].tobytes() != two[k].tobytes()] == []


def test_a_signal_waits_for_what_is_being_written():
    done = []

    def write(*signals: signal.Signals) -> None:
        with stoppable(), undisturbed():
            for number in signals:
                os.kill(os.getpid(), number)
            done.append(signals)

    with pytest.raises(Stopped) as stopped:
        write(signal.SIGTERM, signal.SIGINT)
    assert stopped.value.signal == signal.SIGTERM, "the first one counts"
    with pytest.raises(KeyboardInterrupt) as interrupted:
        write(signal.SIGINT)
    assert not isinstance(interrupted.value, Stopped)
    assert len(done) == 2


def test_handlers_are_put_back_also_after_an_error():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def fail() -> None:
        with stoppable(), undisturbed():
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_what_is_ignored_stays_ignored():
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(), undisturbed():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_touched():
    """Only the main thread may have handlers; a run in a notebook's thread must work."""
    failed = []

    def work():
        try:
            with stoppable(), undisturbed():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
