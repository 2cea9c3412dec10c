r"""The journal: every transition is on its way to the disk before the next action is chosen.

One file per open episode, which goes when the episode is part of a checkpoint:

    header   "forethought journal 1\n", length (uint32), JSON, CRC-32
    row      "T", action [m] and next state [n] and reward (float64), terminated and truncated (one byte each), CRC-32
    end      "E", CRC-32: the episode is finished; written to the disk before anything else happens

Numbers are little-endian.  A CRC-32 covers the bytes before it and is seeded with the one before, so that a row is
right only after exactly the rows, and the header, that it was written after.

The file appears with its header.  A kill leaves whole rows; a power cut may leave half of one, or fewer, and half a row
is a sentence.  A file that ends after a whole row is what an earlier kill would have left: a valid older state.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forethought.core import AbstractWitness
from forethought.runs.files import (
    INTEGERS,
    WORDS,
    Damaged,
    StorageError,
    largest,
    parse_json,
    read_bytes,
    remove,
    sync_folder,
    write_all,
)
from forethought.types import Trajectory
from forethought.worlds.guard import Guard, TransitionError
from forethought.worlds.recorder import Recorder

MAGIC = b"forethought journal 1\n"
WIDEST = 10**6
"""Numbers that a state or an action may have."""


@dataclass(eq=False)
class Journal(AbstractWitness):
    """Writes down what happens in one world."""

    folder: Path
    run: str
    m: int
    """Size of an action."""
    number: Callable[[], int]
    """The number of the episode that begins now."""
    say: Callable[[str], None]
    world: str = "The world"
    """Its name, for sentences."""
    guard: Guard = dataclasses.field(default_factory=Guard)
    required: bool = True
    """Whether it is an error if nothing can be written; otherwise it is said, and the run goes on."""
    expected: dict[int, Trajectory] = dataclasses.field(default_factory=dict)
    """What happened in these episodes before, which a world that can be replayed has to do again."""
    record: Recorder | None = None
    """The open episode, or the last one."""
    absorbed: int = 0
    """Transitions of it that the run's state has already."""
    path: Path | None = None
    handle: int | None = None
    episode: int = -1
    differs: bool = False
    seed: int = 0
    """The CRC-32 that the next row begins with."""

    def began(self, x: np.ndarray, condition: int) -> None:
        """Open the file of the episode.  Raises `TransitionError` for a state that is none."""
        x = self._checked("observation", x, None)
        number = self.number()
        if self.rows():
            number = max(number, self.episode + 1)  # a further episode of the same turn
        self.done()
        self.episode = number
        header = {"run": self.run, "episode": self.episode, "condition": int(condition), "m": self.m, "x": x.tolist()}
        self.record = Recorder(np.array(x, np.float64), self.m, 0, int(condition))
        self.path = self.folder / f"{self.episode:06d}.journal"
        self._write(lambda: self._open(header))

    def happened(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """One row, on its way to the disk when this returns; at the end of the episode, on the disk.

        What is no transition is not written: `TransitionError`.  Worlds of Gymnasium have said so before.
        """
        record = self.record
        if record is None:
            raise RuntimeError("A world showed a transition before an episode had begun.")
        step = len(record.reward)
        u, y = self._checked("action", u, step), self._checked("observation", y, step)
        self._check_rest(reward, terminated, truncated, step)
        record.add(np.array(u, np.float64), np.array(y, np.float64), reward, terminated, truncated)
        count = len(record.reward)
        row = encode_row(u, y, reward, terminated, truncated, self.seed)
        self.seed = _crc(row)
        self._write(lambda: self._append(row))
        self._compare(count - 1)
        if terminated or truncated:
            self._write(lambda: self._append(end_mark(self.seed), durable=True))

    def _checked(self, field: str, value: np.ndarray, step: int | None) -> np.ndarray:
        """A vector of finite numbers of the right size and within the guard's bound."""
        wanted = self.m if field == "action" else None if self.record is None or step is None else len(self.record.x)
        array = np.asarray(value)
        right = array.ndim == 1 and array.dtype.kind in "fiu" and (wanted is None or len(array) == wanted)
        if not right:
            size = "numbers" if wanted is None else f"{wanted} numbers"
            raise TransitionError(self.world, step, field, value, f"must be a vector of {size}")
        if not (np.isfinite(array) & (np.abs(array) <= self.guard.observation_bound)).all():
            wrong = f"must be finite, and at most {self.guard.observation_bound:g} (--guard.observation-bound)"
            raise TransitionError(self.world, step, field, value, wrong)
        return array.astype(np.float64)

    def _check_rest(self, reward: float, terminated: bool, truncated: bool, step: int) -> None:
        """The reward within its bound, flags that are flags."""
        if not isinstance(reward, (float, int, np.floating)) or not (
            math.isfinite(reward) and abs(reward) <= self.guard.reward_bound
        ):
            wrong = f"must be one number of at most {self.guard.reward_bound:g} (--guard.reward-bound)"
            raise TransitionError(self.world, step, "reward", reward, wrong)
        for field, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, (bool, np.bool_)):
                raise TransitionError(self.world, step, field, flag, "must be True or False")

    def finished(self) -> bool:
        """Whether the episode has ended."""
        record = self.record
        return record is not None and bool(record.reward) and (record.terminated[-1] or record.truncated[-1])

    def rows(self) -> int:
        """Transitions of the episode so far."""
        return 0 if self.record is None else len(self.record.reward)

    def episode_so_far(self, since: int = 0) -> Trajectory | None:
        """The episode's transitions from this one on; None where there is none."""
        if self.record is None or self.rows() <= since:
            return None
        whole = self.record.trajectory()
        return Trajectory(**{f: getattr(whole, f)[since:] for f in Trajectory.__dataclass_fields__})

    def close(self) -> None:
        """Close the file, which stays."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def done(self) -> None:
        """The episode is over; its file stays until a checkpoint has what is in it."""
        self.close()
        self.path, self.record, self.absorbed = None, None, 0

    def _open(self, header: dict[str, Any]) -> None:
        self.folder.mkdir(exist_ok=True)
        assert self.path is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        remove(self.path)
        words = encode_header(header)
        self.seed = _crc(words)
        # Under a temporary name until the header is there: a journal that can be seen can be read.
        temporary = self.path.with_name(f".{self.path.name}.part")
        remove(temporary)
        self.handle = os.open(temporary, flags, 0o666)
        write_all(self.handle, words)
        temporary.rename(self.path)

    def _append(self, data: bytes, *, durable: bool = False) -> None:
        if self.handle is not None:
            write_all(self.handle, data)
            if durable:
                os.fsync(self.handle)
                sync_folder(self.folder)

    def _write(self, action: Callable[[], None]) -> None:
        """Do it; where it cannot be done, stop or say so once per episode."""
        try:
            action()
        except OSError as error:
            self.close()
            sentence = f"The journal {self.path} cannot be written: {error.strerror}."
            if self.required:
                raise StorageError(f"{sentence} What was tried before it is kept.") from error
            self.say(f"Warning: {sentence} The run goes on, and this episode would be lost if it were killed now.")

    def _compare(self, i: int) -> None:
        """Whether a replayed episode does what it did before; if not, the file of the first time stays."""
        before = self.expected.get(self.episode)
        if before is None or self.differs or i >= before.length or self.record is None:
            return
        now = self.record
        same = np.array_equal(now.u[i], before.u[i]) and np.array_equal(now.y[i], before.y[i])
        if same and now.reward[i] == before.reward[i]:
            return
        self.differs = True
        kept = self.folder / f"{self.episode:06d}.differs"
        with suppress(OSError):
            if not kept.exists():
                (self.folder / before_name(self.episode)).rename(kept)
        self.say(
            f"Warning: the world did not repeat episode {self.episode}: step {i} differs from what happened before the "
            f"run was broken off. What was tried then is kept in {kept.name}. If the world cannot "
            "repeat itself, train with --no-replayable."
        )


def before_name(number: int) -> str:
    """The name under which the journal of an episode that is done again is put aside."""
    return f"{number:06d}.before"


def encode_header(header: dict[str, Any]) -> bytes:
    """The first bytes of a journal."""
    words = json.dumps(header, allow_nan=False).encode()
    data = MAGIC + struct.pack("<I", len(words)) + words
    return data + struct.pack("<I", zlib.crc32(data))


def encode_row(u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool, seed: int) -> bytes:
    """A row; `seed` is the CRC-32 of what comes before it."""
    numbers = np.concatenate([u, y, [reward]]).astype("<f8").tobytes()
    data = b"T" + numbers + bytes((bool(terminated), bool(truncated)))
    return data + struct.pack("<I", zlib.crc32(data, seed))


def end_mark(seed: int) -> bytes:
    """The mark after the last row, whose CRC-32 is the seed."""
    return b"E" + struct.pack("<I", zlib.crc32(b"E", seed))


def _crc(piece: bytes) -> int:
    """The CRC-32 at the end of a piece."""
    return struct.unpack("<I", piece[-4:])[0]


class Read(NamedTuple):
    """A journal as it was read."""

    episode: int
    trajectory: Trajectory
    ended: bool
    """Whether the mark of the end is there."""
    damage: str | None
    """What is wrong with the rest, if anything: the rows before it can be trusted."""


def read_journal(path: Path, run: str) -> Read:
    """The rows of a journal, up to the first that is not as it was written.  Raises `Damaged` if there is no header of
    this run and of this number."""
    data = read_bytes(path, largest())
    head = len(MAGIC) + 4
    length = struct.unpack("<I", data[len(MAGIC) : head])[0] if len(data) >= head else -1
    at = head + length + 4
    if not data.startswith(MAGIC) or length < 0 or at > len(data):
        raise Damaged(f"{path.name} is no journal of forethought.")
    if length > WORDS:
        raise Damaged(f"{path.name} has a header of {length} bytes, and at most {WORDS} are read.")
    if zlib.crc32(data[: at - 4]) != _crc(data[:at]):
        raise Damaged(f"{path.name} is not what was written (the CRC-32 of its header differs).")
    header = parse_json(data[head : at - 4], path.name)
    if not _is_header(header):
        raise Damaged(f"{path.name} has a header that is not as this version writes it.")
    if header["run"] != run:
        raise Damaged(f"{path.name} belongs to another run ({header['run']!r}, and this one is {run!r}).")
    if f"{header['episode']:06d}" != path.stem:
        raise Damaged(f"{path.name} is the journal of episode {header['episode']}.")
    record = Recorder(np.asarray(header["x"], np.float64), header["m"], 0, header["condition"])
    ended, damage = _read_rows(data, at, record)
    return Read(header["episode"], record.trajectory(), ended, damage and f"{path.name}: {damage}")


def _is_header(header: Any) -> bool:
    """Whether it says what a header has to say."""
    if not isinstance(header, dict) or not isinstance(header.get("run"), str):
        return False
    allowed = {"episode": range(2**31), "m": range(WIDEST + 1), "condition": INTEGERS}
    x = header.get("x")
    numbers = isinstance(x, list) and len(x) <= WIDEST and all(type(v) in (int, float) for v in x)
    return numbers and all(type(header.get(k)) is int and header[k] in values for k, values in allowed.items())


def _read_rows(data: bytes, at: int, record: Recorder) -> tuple[bool, str | None]:
    """Read the rows that begin at this byte into the record; whether the end is there, and what is wrong."""
    m, seed, over = record.m, _crc(data[:at]), False
    width = 8 * (m + len(record.x) + 1) + 3
    while at < len(data):
        count = len(record.reward)
        if over:
            right = data[at:] == end_mark(seed) if len(data) - at <= 5 else False
            return right, None if right else f"what follows row {count - 1}, the last of its episode, is not whole."
        row, crc = data[at : at + width], data[at + width : at + width + 4]
        if row[:1] != b"T" or len(crc) < 4 or zlib.crc32(row, seed) != _crc(crc):
            return False, f"row {count} and what follows is not whole."
        numbers = np.frombuffer(row[1:-2], "<f8")
        record.add(numbers[:m], numbers[m:-1], float(numbers[-1]), bool(row[-2]), bool(row[-1]))
        at, seed, over = at + width + 4, _crc(crc), bool(row[-2]) or bool(row[-1])
    return False, None


def journals(folder: Path) -> dict[int, Path]:
    """Number to file, of every journal in the folder."""
    return _numbered(folder, "journal")


def put_aside(folder: Path) -> dict[int, Path]:
    """Number to file, of every journal whose episode is, or was, done again."""
    return _numbered(folder, "before")


def _numbered(folder: Path, ending: str) -> dict[int, Path]:
    if not folder.is_dir() or folder.is_symlink():
        return {}
    found = {int(p.stem): p for p in folder.iterdir() if re.fullmatch(rf"[0-9]{{6,9}}\.{ending}", p.name)}
    return dict(sorted(found.items()))
