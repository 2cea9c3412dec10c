"""The journal: what was tried is in the file before anything else is done, and it is read only as it was written."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.policies.excitation import RandomPolicy
from forethought.runs import journal as module
from forethought.runs.files import Damaged, StorageError
from forethought.runs.journal import MAGIC, Journal, encode_header, encode_row, end_mark, journals, read_journal
from forethought.tasks import task as make_task
from forethought.worlds.guard import Guard, TransitionError
from small import Fragile, recipe

ROW = (np.array([0.5]), np.array([1.0, 2.0]), -1.0, False, False)
LAST = (np.array([0.5]), np.array([1.0, 2.0]), -1.0, False, True)


def made(folder: Path, said: list[str] | None = None, **settings) -> Journal:
    """A journal of episode 3 of the run "r", with states of 2 and actions of 1."""
    say = (said if said is not None else []).append
    made = Journal(folder=folder / "journal", run="r", m=1, number=lambda: 3, say=say)
    return dataclasses.replace(made, **settings)


def begun(folder: Path, said: list[str] | None = None, **settings) -> Journal:
    journal = made(folder, said, **settings)
    journal.began(np.array([0.1, 0.2]), 7)
    return journal


def written(folder: Path, rows: int = 4, *, ended: bool = True) -> Path:
    """The file of an episode."""
    journal = begun(folder)
    for i in range(rows):
        journal.happened(np.array([float(i)]), np.array([i, -i]), 0.5 * i, False, ended and i == rows - 1)
    journal.close()
    assert journal.path is not None
    return journal.path


def test_what_is_written_comes_back(tmp_path):
    read = read_journal(written(tmp_path), "r")
    assert (read.episode, read.ended, read.damage) == (3, True, None)
    assert read.trajectory.x.tolist() == [[0.1, 0.2], [0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]
    assert read.trajectory.u.tolist() == [[0.0], [1.0], [2.0], [3.0]]
    assert read.trajectory.reward.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert read.trajectory.truncated.tolist() == [False, False, False, True]
    assert read.trajectory.condition.tolist() == [7] * 4


def test_each_row_is_in_the_file_when_the_call_returns(tmp_path):
    journal = begun(tmp_path)
    assert journal.path is not None
    for i in range(5):
        assert read_journal(journal.path, "r").trajectory.length == i
        journal.happened(*ROW)
    assert not read_journal(journal.path, "r").ended


def test_every_step_is_in_the_file_before_the_next_action(tmp_path, monkeypatch):
    """The environment itself reads the file at each step."""
    counts = []
    original = Fragile.step

    def step(self, action):
        (path,) = journals(tmp_path / "journal").values()
        counts.append(read_journal(path, "r").trajectory.length)
        return original(self, action)

    monkeypatch.setattr(Fragile, "step", step)
    Fragile.plan_fault(None)
    world = make_task("tests/Fragile-v0").world.watched(made(tmp_path))
    world.rollouts(RandomPolicy(world.actions), jr.key(0), [5], 10)
    assert counts == [*range(10)]
    assert read_journal(tmp_path / "journal" / "000003.journal", "r").ended


def test_the_end_is_flushed_before_anything_else(tmp_path, monkeypatch):
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(module.os, "write", lambda h, d: (calls.append(bytes(d)[:1]), write(h, d))[1])
    monkeypatch.setattr(module.os, "fsync", lambda h: (calls.append("fsync"), fsync(h))[1])
    journal = begun(tmp_path)
    calls.clear()
    journal.happened(*ROW)
    assert calls == [b"T"], "rows are on their way to the disk"
    journal.happened(*LAST)
    assert calls == [b"T", b"T", b"E", "fsync", "fsync"], "the end is on the disk, and so is the file's name"


def test_a_transition_before_an_episode_is_a_mistake(tmp_path):
    with pytest.raises(RuntimeError, match="before an episode had begun"):
        made(tmp_path).happened(*ROW)


def test_the_file_appears_with_its_header(tmp_path, monkeypatch):
    seen = []
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (seen.append((journals(self.parent), to)), rename(self, to))[1]
    )
    journal = begun(tmp_path)
    assert seen == [({}, journal.path)]


def test_an_old_file_of_the_same_number_goes(tmp_path):
    path = written(tmp_path)
    begun(tmp_path)
    assert read_journal(path, "r").trajectory.length == 0


def failing(monkeypatch, after: int, number: int = errno.ENOSPC):
    """os.write fails from the `after`-th call on."""
    write, calls = os.write, []

    def fail(handle, data):
        calls.append(data)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return write(handle, data)

    monkeypatch.setattr(os, "write", fail)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EIO, "Input/output error")])
def test_a_full_disk_stops_and_nothing_in_memory_is_lost(tmp_path, monkeypatch, number, words):
    journal = begun(tmp_path)
    failing(monkeypatch, 2, number)
    journal.happened(*ROW)
    journal.happened(*ROW)
    with pytest.raises(StorageError, match=words) as caught:
        journal.happened(*ROW)
    assert "000003.journal" in str(caught.value)
    assert journal.rows() == 3, "what was tried is still in memory"
    assert journal.path is not None
    assert read_journal(journal.path, "r").trajectory.length == 2


def test_a_full_disk_is_said_once_where_the_run_goes_on(tmp_path, monkeypatch):
    said: list[str] = []
    journal = begun(tmp_path, said, required=False)
    failing(monkeypatch, 1)
    for _ in range(5):
        journal.happened(*ROW)
    journal.happened(*LAST)
    assert len(said) == 1
    assert "No space left" in said[0]
    assert "The run goes on" in said[0]
    assert journal.rows() == 6
    assert journal.finished()
    assert journal.path is not None
    assert read_journal(journal.path, "r").trajectory.length == 1


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "journal").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        begun(tmp_path)


def test_a_folder_that_is_removed_is_a_sentence_at_the_next_episode(tmp_path):
    (tmp_path / "gone").mkdir()
    journal = begun(tmp_path / "gone")
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    journal.happened(*ROW)  # the open file is still there
    with pytest.raises(StorageError, match="No such file"):
        journal.began(np.zeros(2), 0)


@pytest.mark.parametrize("piece", [1, 7, 30])
def test_a_system_that_writes_in_pieces(tmp_path, monkeypatch, piece):
    write = os.write
    monkeypatch.setattr(os, "write", lambda h, d: write(h, bytes(d)[:piece]))
    assert read_journal(written(tmp_path), "r").ended


@pytest.mark.parametrize("lost", range(1, 41))
def test_a_torn_tail_is_said_and_the_rows_before_it_stand(tmp_path, lost):
    """41 bytes: a row has 38 with its sum, and the end 5."""
    path = written(tmp_path, rows=3)
    data = path.read_bytes()
    path.write_bytes(data[:-lost])
    read = read_journal(path, "r")
    whole = 3 if lost <= 5 else 2
    assert read.trajectory.length == whole
    assert not read.ended
    if lost == 5:
        assert read.damage is None, "it ends after a whole row: an older state"
    else:
        assert read.damage is not None
        assert "is not whole" in read.damage


def rows_of(path: Path, m: int = 1, n: int = 2) -> tuple[bytes, list[bytes], bytes]:
    """Header, rows and end."""
    data = path.read_bytes()
    head = len(MAGIC) + 8 + struct.unpack("<I", data[len(MAGIC) : len(MAGIC) + 4])[0]
    width = 8 * (m + n + 1) + 7
    return data[:head], [data[i : i + width] for i in range(head, len(data) - 5, width)], data[-5:]


CHAINS = {
    "exchanged rows": lambda h, r, e: (0, [r[1], r[0], *r[2:], e]),
    "a row that is missing": lambda h, r, e: (1, [r[0], *r[2:], e]),
    "a row twice": lambda h, r, e: (2, [r[0], r[1], r[1], *r[2:], e]),
    "an end too early": lambda h, r, e: (2, [r[0], r[1], e]),
    "rows after the end": lambda h, r, e: (4, [*r, e, r[0]]),
    "the end twice": lambda h, r, e: (4, [*r, e, e]),
    "a row after the last one": lambda h, r, e: (4, [*r, r[0]]),
}


@pytest.mark.parametrize("how", CHAINS)
def test_rows_hang_together(tmp_path, how):
    path = written(tmp_path)
    header, rows, end = rows_of(path)
    right, pieces = CHAINS[how](header, rows, end)
    path.write_bytes(header + b"".join(pieces))
    read = read_journal(path, "r")
    assert read.trajectory.length == right
    assert not read.ended
    assert read.damage is not None


def test_a_row_of_another_run_does_not_fit(tmp_path):
    """Though it is whole and of the same place."""
    path = written(tmp_path)
    header, rows, end = rows_of(path)
    journal = begun(tmp_path / "other" if not (tmp_path / "other").mkdir() else tmp_path, run="s")
    for row in (ROW, ROW, ROW, LAST):
        journal.happened(*row)
    assert journal.path is not None
    foreign = rows_of(journal.path)[1]
    path.write_bytes(header + rows[0] + foreign[1] + b"".join(rows[2:]) + end)
    assert read_journal(path, "r").trajectory.length == 1


def test_another_run_is_refused(tmp_path):
    with pytest.raises(Damaged, match="belongs to another run"):
        read_journal(written(tmp_path), "other")


def test_another_number_is_refused(tmp_path):
    path = written(tmp_path)
    with pytest.raises(Damaged, match="is the journal of episode 3"):
        read_journal(path.rename(path.with_name("000004.journal")), "r")


HEADER = {"run": "r", "episode": 3, "condition": 7, "m": 1, "x": [0.1, 0.2]}
WRONG = [None, True, -1, 1.5, "x", [], {}, [1, "2"], [None], 2**62, [[1.0]], "r" * 9]


RIGHT = [("condition", -1), ("condition", 2**62), ("x", [])]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in HEADER for value in WRONG if (name, value) not in RIGHT],
    ids=lambda v: str(v)[:12],
)
def test_a_header_of_other_types_is_refused(tmp_path, name, value):
    """Its sum is right, so somebody meant it."""
    path = tmp_path / "000003.journal"
    path.write_bytes(encode_header(HEADER | {name: value}))
    with pytest.raises(Damaged):
        read_journal(path, "r")


@pytest.mark.parametrize("words", [b"[]", b"null", b"{}", b"{" * 99, b"nan", b'{"run": "r"}', b"\xff"])
def test_a_header_that_is_none_is_refused(tmp_path, words):
    data = MAGIC + struct.pack("<I", len(words)) + words
    path = tmp_path / "000003.journal"
    path.write_bytes(data + struct.pack("<I", zlib.crc32(data)))
    with pytest.raises(Damaged):
        read_journal(path, "r")


finite = st.floats(allow_nan=False, allow_infinity=False)  # -0.0 and subnormals are among them


@st.composite
def episodes(draw):
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    vector = lambda size: st.lists(finite, min_size=size, max_size=size).map(np.array)
    rows = draw(st.lists(st.tuples(vector(m), vector(n), finite), max_size=6))
    return draw(vector(n)), m, draw(st.integers(-(2**31), 2**31)), rows, draw(st.sampled_from(["no", "end", "trunc"]))


@settings(max_examples=60, deadline=None)
@given(episodes())
def test_any_episode_comes_back_bit_for_bit(tmp_path_factory, episode):
    x, m, condition, rows, over = episode
    folder = tmp_path_factory.mktemp("j")
    journal = made(folder, m=m, guard=Guard(reward_bound=math.inf, observation_bound=math.inf))
    journal.began(x, condition)
    for i, (u, y, reward) in enumerate(rows):
        last = i == len(rows) - 1
        journal.happened(u, y, reward, last and over == "end", last and over == "trunc")
    journal.close()
    assert journal.path is not None
    read = read_journal(journal.path, "r")
    assert read.damage is None
    assert read.ended == (bool(rows) and over != "no")
    assert read.trajectory.u.tobytes() == b"".join(u.astype(np.float64).tobytes() for u, _, _ in rows)
    assert read.trajectory.y.tobytes() == b"".join(y.astype(np.float64).tobytes() for _, y, _ in rows)
    assert read.trajectory.reward.tobytes() == np.array([r for _, _, r in rows], np.float64).tobytes()
    assert read.trajectory.x[:1].tobytes() == (x.astype(np.float64).tobytes() if rows else b"")


def only_damaged(path: Path) -> None:
    with suppress(Damaged):
        read_journal(path, "r")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, begins):
    path = tmp_path_factory.mktemp("j") / "000003.journal"
    path.write_bytes(MAGIC * begins + data)
    only_damaged(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=9))
def test_a_changed_file_is_read_up_to_the_change(tmp_path_factory, at, byte, cut, added):
    path = written(tmp_path_factory.mktemp("j"))
    before = read_journal(path, "r").trajectory
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= byte
    path.write_bytes(bytes(data[: len(data) - cut]) + added)
    only_damaged(path)
    try:
        after = read_journal(path, "r").trajectory
    except Damaged:
        return
    assert np.array_equal(after.u, before.u[: after.length]), "whatever is read was written"
    assert np.array_equal(after.y, before.y[: after.length])


def test_a_journal_of_many_rows_is_read_in_time_that_grows_with_them(tmp_path):
    seed, rows = zlib.crc32(b""), []
    header = encode_header(HEADER)
    seed = struct.unpack("<I", header[-4:])[0]
    for _ in range(20_000):
        rows.append(encode_row(*ROW, seed))
        seed = struct.unpack("<I", rows[-1][-4:])[0]
    path = tmp_path / "000003.journal"
    path.write_bytes(header + b"".join(rows) + end_mark(seed))
    read = read_journal(path, "r")
    assert read.trajectory.length == 20_000
    assert read.damage is not None, "an end after a row that does not end the episode"


def test_a_fault_keeps_what_is_in_the_journal(tmp_path):
    """The rows before an environment's fault are data, and the file says so until they are in a checkpoint."""
    experiment = recipe(task="tests/Fragile-v0", out=tmp_path / "run", steps=20)
    random = dataclasses.replace(experiment.algorithm, base_steps=20)
    Fragile.plan_fault(15, np.array([np.nan, 0.0], np.float32))
    try:
        with pytest.raises(TransitionError, match="step 4"):
            dataclasses.replace(experiment, algorithm=random).run()
    finally:
        Fragile.plan_fault(None)
    assert journals(tmp_path / "run" / "journal") == {}
    assert (tmp_path / "run" / "episodes" / "000001.safetensors").exists()
