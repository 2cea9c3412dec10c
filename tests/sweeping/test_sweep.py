"""Jobs as processes: limits, kills, restarts.  They are a few lines of Python; what they compute does not matter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from forethought.errors import UserError
from forethought.sweeping import supervise as supervising
from forethought.sweeping.descendants import descendants, resident
from forethought.sweeping.job import Caps, Job, Place
from forethought.sweeping.sweep import LOCK, locked, one_thread, sweep


def python(code: str, *arguments: str | Path) -> tuple[str, ...]:
    """A command that runs this code: what is imported at the start of an interpreter, it does without."""
    return (sys.executable, "-I", "-S", "-c", textwrap.dedent(code), *map(str, arguments))


WRITE = "import sys; open(sys.argv[1], 'w').write('done')"
ON_FIRST_TRY = """
import os, signal, sys, time
tried = sys.argv[1] + '.tried'
first = not os.path.exists(tried)
open(tried, 'w').close()
if first:
    {what}
open(sys.argv[1], 'w').write('done')
"""
KILLED = ON_FIRST_TRY.format(what="os.kill(os.getpid(), signal.SIGKILL)")
GREEDY = ON_FIRST_TRY.format(what="held = bytearray(300 * 10**6); held[::4096] = held[::4096]; time.sleep(60)")


def job(folder: Path, name: str, code: str = WRITE) -> Job:
    result = folder / f"{name}.result"
    return Job(name, python(code, result), result)


def test_sixteen_jobs_of_which_one_is_killed_and_one_takes_too_much(tmp_path) -> None:
    """14 results and two clear reports; and 16 after a restart, which runs the two and nothing else."""
    codes = {3: KILLED, 8: GREEDY}
    jobs = [job(tmp_path, f"j{i:02}", codes.get(i, WRITE)) for i in range(16)]
    said: list[str] = []
    tell = lambda outcome: said.append(outcome.name)
    found = sweep(jobs, tmp_path / "s", at_once=2, caps=Caps(megabytes=200.0), tell=tell)
    assert [each.name for each in found] == [each.name for each in jobs]
    failed = {each.name: each.reason for each in found if each.status == "failed"}
    assert failed.keys() == {"j03", "j08"}
    assert failed["j03"] == "killed by SIGKILL from outside: by hand, or by the system when memory ran short"
    assert re.fullmatch(r"memory limit: it held (2|3)\d\d MB, and 200 are allowed; killed", failed["j08"])
    assert sum(each.result.exists() for each in jobs if each.result) == 14
    assert sorted(said) == [each.name for each in jobs]
    before = {each.name: each.result.stat().st_mtime_ns for each in jobs if each.result and each.result.exists()}

    again = sweep(jobs, tmp_path / "s", at_once=2, caps=Caps(megabytes=200.0))
    assert [each.status for each in again] == ["done"] * 16
    assert {each.name for each in again if not each.earlier} == {"j03", "j08"}
    after = {each.name: each.result.stat().st_mtime_ns for each in jobs if each.result}
    assert {name: after[name] for name in before} == before
    assert len(after) == 16


def test_a_job_that_takes_too_long_is_asked_and_then_killed(tmp_path, monkeypatch) -> None:
    """One saves when it is asked to end; the other does not listen."""
    monkeypatch.setattr(supervising, "GRACE", 0.5)
    listens = "import signal, sys, time\ndef stop(*_):\n    open(sys.argv[1], 'w').close()\n    sys.exit(143)\n"
    jobs = [
        job(tmp_path, "listens", listens + "signal.signal(signal.SIGTERM, stop)\ntime.sleep(60)"),
        job(tmp_path, "deaf", "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"),
    ]
    found = sweep(jobs, tmp_path / "s", at_once=2, caps=Caps(seconds=0.5))
    assert [each.reason for each in found] == ["time limit: it still ran after 0.5 s; ended"] * 2
    assert (tmp_path / "listens.result").exists()
    assert all(each.seconds < 10.0 for each in found)


@pytest.mark.parametrize("end", ["done", "killed", "late"])
def test_what_a_job_leaves_behind_ends_with_it(tmp_path, monkeypatch, end) -> None:
    """Whether the job ends well, is killed, or has to be asked: its child would go on outside of every limit."""
    monkeypatch.setattr(supervising, "GRACE", 2.0)
    child = f"import time; '{tmp_path}'; time.sleep(60)"
    last = {"done": "", "killed": "os.kill(os.getpid(), signal.SIGKILL)", "late": "time.sleep(60)"}[end]
    code = f"""
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.Popen([sys.executable, "-I", "-S", "-c", {child!r}])
    {last}
    """
    sweep([Job("one", python(code))], tmp_path / "s", caps=Caps(seconds=1.5))
    assert soon(lambda: not running(tmp_path))


def test_a_memory_limit_that_cannot_be_kept_is_refused(tmp_path, monkeypatch) -> None:
    """Without /proc nobody knows what a process holds."""
    monkeypatch.setattr("forethought.sweeping.descendants.PROC", tmp_path / "none")
    (one,) = sweep([job(tmp_path, "one")], tmp_path / "s", caps=Caps(megabytes=100.0))
    assert one.status == "failed"
    assert "cannot be kept" in one.reason
    assert not (tmp_path / "one.result").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; sys.exit('forethought: steps is -1.')",
            "exit status 1: forethought: steps is -1.",
        ),
        ("import sys; sys.exit(143)", "exit status 143 (ended by SIGTERM)"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("pass", "ended well, but "),
    ],
)
def test_a_failure_says_why(tmp_path, code, reason) -> None:
    (found,) = sweep([job(tmp_path, "one", code)], tmp_path / "s")
    assert found.status == "failed"
    assert found.reason.startswith(reason)


def test_a_command_that_is_not_there_is_a_failure(tmp_path) -> None:
    (found,) = sweep([Job("one", (str(tmp_path / "missing"),))], tmp_path / "s")
    assert found.reason == "could not be started: No such file or directory"


def test_what_a_job_said_before_is_no_reason_now(tmp_path) -> None:
    """The log has all tries; the reason is of the last."""
    code = ON_FIRST_TRY.format(what="sys.exit('the first reason')") + "\nsys.exit(3)"
    jobs = [job(tmp_path, "one", code)]
    assert sweep(jobs, tmp_path / "s")[0].reason == "exit status 1: the first reason"
    assert sweep(jobs, tmp_path / "s")[0].reason == "exit status 3"
    assert "the first reason" in (tmp_path / "s" / "logs" / "one.log").read_text()


def test_a_result_does_not_make_a_failure_good(tmp_path) -> None:
    """A run directory is there long before the run is done."""
    jobs = [job(tmp_path, "one", WRITE + "; sys.exit(3)")]
    assert sweep(jobs, tmp_path / "s")[0].reason == "exit status 3"
    (again,) = sweep(jobs, tmp_path / "s")
    assert (again.reason, again.earlier) == ("exit status 3", False)


def test_a_job_that_was_begun_is_resumed(tmp_path) -> None:
    begun, result = tmp_path / "begun", tmp_path / "result"
    code = python("import sys; open(sys.argv[1], 'w').close(); sys.exit(sys.argv[2])", begun, "broken off")
    jobs = [Job("one", code, result, python(WRITE, result), begun)]
    assert sweep(jobs, tmp_path / "s")[0].reason == "exit status 1: broken off"
    assert sweep(jobs, tmp_path / "s")[0].status == "done"


def test_memory_is_that_of_the_whole_tree(tmp_path) -> None:
    """A child of a child holds it, in a session of its own."""
    hold = "held = bytearray(150 * 10**6); held[::4096] = held[::4096]; import time; time.sleep(60)"
    child = f"import subprocess as s, sys; s.run([sys.executable, '-I', '-S', '-c', {hold!r}], start_new_session=True)"
    (found,) = sweep([Job("one", python(child))], tmp_path / "s", caps=Caps(megabytes=100.0))
    assert found.reason.startswith("memory limit: it held 1")
    assert found.peak_mb > 100.0
    assert soon(lambda: not commanded(hold))


def commanded(*words: str) -> list[int]:
    """The processes in whose command lines these words are."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            found += [pid] if all(word.encode() in command for word in words) else []
    return found


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it holds within 30 seconds."""
    until = time.monotonic() + 30.0
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_reserved_memory_is_none_that_is_held() -> None:
    """4 GB of addresses, as a program with arenas reserves them, of which nothing is touched."""
    code = python("import mmap; m = mmap.mmap(-1, 4 * 2**30); print(flush=True); input()")
    process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        assert descendants(process.pid) == [process.pid]
        assert 10**6 < resident(descendants(process.pid)) < 10**8
    finally:
        process.communicate(b"\n")


def test_without_a_folder_results_say_what_is_done(tmp_path, capfd) -> None:
    """No states, no logs, no lock: what jobs print is printed."""
    (tmp_path / "a.result").write_text("done")
    jobs = [job(tmp_path, "a", "raise SystemExit(1)"), job(tmp_path, "b", "print('hello', flush=True)\n" + WRITE)]
    found = sweep(jobs)
    assert [(each.status, each.earlier) for each in found] == [("done", True), ("done", False)]
    assert "hello" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.result", "b.result"]


def test_a_result_that_is_gone_is_made_again(tmp_path) -> None:
    jobs = [job(tmp_path, "one")]
    sweep(jobs, tmp_path / "s")
    (tmp_path / "one.result").unlink()
    (found,) = sweep(jobs, tmp_path / "s")
    assert not found.earlier
    assert (tmp_path / "one.result").exists()


def test_a_damaged_state_is_as_if_there_were_none(tmp_path) -> None:
    jobs = [job(tmp_path, "one")]
    sweep(jobs, tmp_path / "s")
    state = tmp_path / "s" / "states" / "one.json"
    state.write_text(state.read_text().replace("done", "dune"))
    assert Place(tmp_path / "s").read("one") is None
    assert not sweep(jobs, tmp_path / "s")[0].earlier


def test_two_sweeps_at_once_are_one_too_many(tmp_path) -> None:
    with locked(tmp_path / "s"), pytest.raises(UserError, match=f"in use by another process .{os.getpid()}"):
        sweep([job(tmp_path, "one")], tmp_path / "s")
    assert sweep([job(tmp_path, "one")], tmp_path / "s")[0].status == "done"


SWEEPER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever started the tests ignores it
from pathlib import Path
from forethought.sweeping.job import Job
from forethought.sweeping.sweep import sweep
wait = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(60)"
names = ("a", "b", "c")
jobs = [Job(n, (sys.executable, "-I", "-S", "-c", wait, sys.argv[1] + "/" + n)) for n in names]
sweep(jobs, Path(sys.argv[1]) / "s", at_once=2)
"""


def running(folder: Path) -> list[int]:
    """The jobs that are at work in the folder."""
    return [pid for pid in commanded("time.sleep(60)", str(folder)) if pid != os.getpid()]


def begun_sweep(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own, two of whose three jobs have begun."""
    process = subprocess.Popen([sys.executable, "-c", SWEEPER, str(tmp_path)], stderr=subprocess.PIPE)
    assert soon(lambda: process.poll() is not None or all((tmp_path / name).exists() for name in "ab"))
    assert process.poll() is None
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_jobs(tmp_path, number) -> None:
    """In order, none is left, none is begun, and none has a state: they are pending."""
    process = begun_sweep(tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said or b"Stopped" in said
    assert not running(tmp_path)
    assert not (tmp_path / "c").exists()
    assert not list((tmp_path / "s" / "states").iterdir())


def test_what_a_killed_sweep_left_behind_holds_its_lock(tmp_path) -> None:
    """A run that still goes on must not be begun again beside it."""
    process = begun_sweep(tmp_path)
    process.kill()
    process.communicate()
    left = running(tmp_path)
    assert len(left) == 2
    try:
        with pytest.raises(UserError, match="runs that it left behind"), locked(tmp_path / "s"):
            pass
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert soon(lambda: not running(tmp_path))
    with locked(tmp_path / "s"):
        assert (tmp_path / "s" / LOCK).read_text() == f"{os.getpid()}\n"


def test_jobs_have_one_thread_unless_told_otherwise(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert one_thread()["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    assert one_thread()["OMP_NUM_THREADS"] == "3"
    assert one_thread({"HOME": "/"})["OPENBLAS_NUM_THREADS"] == "1"
    assert one_thread({"XLA_FLAGS": "--a=b"})["XLA_FLAGS"] == "--a=b --xla_cpu_multi_thread_eigen=false"
    several = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true"}
    assert one_thread(several)["XLA_FLAGS"] == several["XLA_FLAGS"]
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['XLA_FLAGS'])"
    sweep([job(tmp_path, "one", code)], tmp_path / "s")
    assert (tmp_path / "one.result").read_text() == "--xla_cpu_multi_thread_eigen=false"


def test_names_are_file_names(tmp_path) -> None:
    for names in (["a", "a"], ["a/b"], [".."], [""]):
        with pytest.raises(ValueError, match="must be file names"):
            sweep([Job(name, ("true",)) for name in names], tmp_path / "s")


def test_a_sweep_needs_no_jax() -> None:
    code = "import sys, forethought.sweeping.sweep; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
