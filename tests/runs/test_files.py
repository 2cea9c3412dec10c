"""Writing: whole or not there, in whatever order the disk fails; and runs whose disk fails."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax.random as jr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.runs import files as module
from forethought.runs.checkpoint import About, newest, numbered, read, save
from forethought.runs.directory import RunDirectory, existing
from forethought.runs.experiment import open_run
from forethought.runs.files import (
    WORDS,
    Damaged,
    StorageError,
    append_line,
    read_bytes,
    remove,
    replace_durably,
    seal,
    write_all,
)
from forethought.runs.log import Quiet
from forethought.runs.resume import resume
from forethought.runs.verify import problems
from small import recipe

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "ftruncate")


class Failing:
    """Counts the calls that change the disk, and lets one of them, and perhaps all after it, fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        self.fail: range = range(0)
        self.where = ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))
        # An open file writes by itself.
        monkeypatch.setattr(module.os, "fdopen", self.fdopen(os.fdopen))

    def wrapped(self, name: str, original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            reads = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if not reads and "/dev/" not in str(arguments[0]):
                self.count += 1
                if self.count in self.fail:
                    self.where = name
                    raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
            return original(*arguments, **named)

        return call

    def fdopen(self, original: Any) -> Any:
        def call(handle: int, mode: str) -> Any:
            file = original(handle, mode, buffering=0) if mode == "wb" else original(handle, mode)
            if mode == "wb":
                self.count += 1
                if self.count in self.fail:
                    os.close(handle)
                    raise OSError(errno.ENOSPC, "No space left on device")
            return file

        return call

    def after(self, k: int, many: int = 1) -> None:
        """From now on the k-th call fails, and the ones after it."""
        self.count, self.fail = 0, range(k, k + many)

    def stop(self) -> int:
        """Let everything work again; how many calls there were."""
        self.fail = range(0)
        return self.count


@pytest.fixture
def disk(monkeypatch) -> Failing:
    return Failing(monkeypatch)


@pytest.fixture(scope="module")
def state():
    return recipe().algorithm.init(recipe().make_task(), jr.key(0))


ABOUT = About("r", {"turns": 1}, {}, score=1.0)


def test_every_call_of_a_save_may_fail(tmp_path, state, disk):
    """The last good one stays, is found, and the next save is right."""
    folder = tmp_path / "checkpoints"
    save(folder, state, ABOUT)
    disk.after(10**6)
    save(folder, state, ABOUT)
    calls = disk.stop()
    assert calls > 8
    for k in range(1, calls + 1):
        before = numbered(folder)
        disk.after(k)
        # (That a folder cannot be made does not matter where it is there.)
        with nullcontext() if k == 1 else pytest.raises(OSError, match="No space left"):
            save(folder, state, ABOUT)
        disk.stop()
        said: list[str] = []
        found = newest(folder, "r", said.append)
        assert said == [], "nothing is half written"
        assert int(found.path.name) in (int(before[-1].name), int(before[-1].name) + 1)
        assert int(save(folder, state, ABOUT).name) > int(found.path.name)


def test_every_call_of_a_replacement_may_fail(tmp_path, disk):
    path = tmp_path / "f"
    replace_durably(path, b"old")
    disk.after(10**6)
    replace_durably(path, b"old")
    calls = disk.stop()
    for k in range(1, calls + 1):
        disk.after(k)
        with pytest.raises(OSError, match="No space left"):
            replace_durably(path, b"new")
        disk.stop()
        assert path.read_bytes() in (b"old", b"new")
        replace_durably(path, b"old")


@pytest.mark.parametrize("torn", [b"", b"ha", b"half a line"])
def test_half_a_line_goes_before_the_next(tmp_path, torn):
    path = tmp_path / "f"
    path.write_bytes(b"one\n" + torn)
    append_line(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"")), max_size=5), st.integers(0, 20))
def test_lines_after_a_cut_anywhere(tmp_path_factory, lines, cut):
    path = tmp_path_factory.mktemp("f") / "f"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole[: max(len(whole) - cut, 0)])
    append_line(path, b"last\n")
    found = path.read_bytes().split(b"\n")
    assert found[-2:] == [b"last", b""]
    assert found[:-2] == lines[: len(found) - 2], "whole lines, and no other"


def test_half_a_line_longer_than_what_is_looked_at(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    append_line(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("taken", [0, 2])
def test_a_line_that_did_not_fit_leaves_nothing(tmp_path, monkeypatch, taken):
    """The disk takes a part of it, and then no more."""
    path = tmp_path / "f"
    path.write_bytes(b"one\n")
    write, calls = os.write, []

    def part(handle, data):
        calls.append(data)
        if len(calls) > 1 or not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, bytes(data)[:taken])

    monkeypatch.setattr(os, "write", part)
    with pytest.raises(OSError, match="No space"):
        append_line(path, b"two\n")
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_a_system_that_writes_in_pieces(tmp_path, monkeypatch, piece):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data)[:piece]))
    append_line(tmp_path / "f", b"a line of some length\n")
    assert (tmp_path / "f").read_bytes() == b"a line of some length\n"


def test_write_all_says_what_the_system_says():
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write_all(writing, b"x")
    os.close(writing)


def test_more_words_than_can_be_read_again_are_not_written():
    with pytest.raises(StorageError, match="can be read again"):
        seal({"x": "a" * WORDS})


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 100])
def test_the_limit_of_a_file(tmp_path, size):
    path = tmp_path / "f"
    path.write_bytes(b"x" * size)
    if size <= 10:
        assert read_bytes(path, 10) == b"x" * size
        return
    with pytest.raises(Damaged, match=f"has {size} bytes, and at most 10"):
        read_bytes(path, 10)


def test_a_file_of_another_size_than_it_was(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    with pytest.raises(Damaged, match="3 bytes instead of 4"):
        read_bytes(tmp_path / "f", 10, exactly=4)


def test_what_cannot_be_removed_stays(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("x")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: (_ for _ in ()).throw(PermissionError()))
    remove(tmp_path / "f")
    assert (tmp_path / "f").exists()


# -- whole runs ----------------------------------------------------------------------------------------------------


class Listener(Quiet):
    """Keeps what is said, and does something before a turn is shown."""

    def __init__(self, at: int = -1, action: Any = None):
        self.said: list[str] = []
        self.at, self.action = at, action

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def turn(self, turn: Any) -> None:
        if turn.env_steps == self.at:
            self.action()


def test_a_run_on_a_full_disk_stops_at_that_save(tmp_path, disk):
    """And goes on from the last good one when there is room again."""
    with pytest.raises(StorageError, match="No space left") as caught:
        recipe(out=tmp_path / "run").run(Listener(20, lambda: disk.after(1, 10**9)))
    disk.stop()
    assert str(tmp_path / "run") in str(caught.value)
    assert int(open_run(tmp_path / "run").state.steps) == 20
    assert resume(tmp_path / "run").env_steps == 30
    assert list(problems(existing(tmp_path / "run"))) == []


def test_a_run_that_goes_on_says_what_was_not_saved(tmp_path, disk):
    """The disk is full during one episode; afterwards everything is saved again, the missing episode aside."""
    listener = Listener(10, lambda: disk.after(1, 10**9))
    original = listener.turn

    def turn(shown):
        if shown.env_steps == 20:
            disk.stop()
        original(shown)

    listener.turn = turn
    result = recipe(out=tmp_path / "run", on_save_error="go-on").run(listener)
    assert result.env_steps == 30
    for what in ("The journal", "Episode 1 ", "metrics.jsonl ", "The checkpoint "):
        assert sum(what in sentence and "No space left" in sentence for sentence in listener.said) == 1, what
    found = list(problems(existing(tmp_path / "run")))
    assert len(found) == 1
    assert "000001.safetensors" in found[0]
    assert int(open_run(tmp_path / "run").state.data.count) == 30, "the data of it are in the checkpoint"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_a_folder_that_becomes_read_only(tmp_path, monkeypatch, number):
    def refuse(*arguments, **named):
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError, match=os.strerror(number)):
        recipe(out=tmp_path / "run").run(Listener(20, lambda: monkeypatch.setattr(module.os, "write", refuse)))
    monkeypatch.undo()
    assert resume(tmp_path / "run").env_steps == 30


@pytest.mark.parametrize("on_save_error", ["stop", "go-on"])
def test_a_folder_that_is_removed_under_a_run(tmp_path, on_save_error):
    listener = Listener(20, lambda: shutil.rmtree(tmp_path / "run"))
    experiment = recipe(out=tmp_path / "run", on_save_error=on_save_error)
    if on_save_error == "stop":
        with pytest.raises(StorageError, match="No such file"):
            experiment.run(listener)
        return
    assert experiment.run(listener).env_steps == 30
    assert any("could not be saved" in sentence for sentence in listener.said)


LIMITS = (0, 500, 30_000)
FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
from dataclasses import replace
from pathlib import Path
from forethought.runs.files import StorageError
from forethought.runs.log import Quiet
from small import recipe
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
class Shrink(Quiet):
    def turn(self, turn):
        if turn.env_steps == 20:
            allow(self.limit)
for limit in {limits}:
    show = Shrink()
    show.limit = limit
    try:
        # At random to the end: nothing has to be compiled.
        experiment = recipe(out=Path({out!r}) / str(limit))
        replace(experiment, algorithm=replace(experiment.algorithm, base_steps=30)).run(show)
    except StorageError as error:
        print("SAID", limit, error)
    allow(resource.RLIM_INFINITY)
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Path, str]:
    """Runs on disks that are full, in another process; and what was said there."""
    out = tmp_path_factory.mktemp("full")
    code = FULL.format(tests=str(Path(__file__).parents[1]), out=str(out), limits=LIMITS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, done.stdout


@pytest.mark.parametrize("limit", LIMITS)
def test_a_disk_that_is_really_full(full, limit):
    """No file may be larger than this: the kernel itself refuses, also in the middle of a write."""
    folder, said = full
    out = folder / str(limit)
    (line,) = [line for line in said.splitlines() if line.startswith(f"SAID {limit} ")]
    assert "File too large" in line
    assert int(open_run(out).state.steps) == 20
    assert read(numbered(out / "checkpoints")[-1])
    assert resume(out).env_steps == 30
    assert list(problems(existing(out))) == []


def test_limits_are_as_they_were():
    """The tests above limited another process."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) != signal.SIG_DFL


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(StorageError, match=r"gone/config\.json could not be saved: No such file or directory"):
        RunDirectory(tmp_path / "gone").write_config("r", {})
