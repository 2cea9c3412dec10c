"""Files of a run: written so that they are whole or not there, and read as if a stranger had written them.

A file is opened only if it is a plain file (never through a link; a pipe or a device cannot block us), and read only if
it is not larger than what is allowed, before anything is allocated.  JSON is strict (no NaN, no number that overflows,
no key twice, no half of a surrogate pair), not deep, and sealed: it holds a SHA-256 of itself; every byte counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = 16 * 2**20
"""Bytes that a file of words (JSON) may have."""
DEPTH = 64
"""Brackets within brackets that JSON may have."""
INTEGERS = range(-(2**63), 2**63)
"""The integers that JSON may have."""


class Damaged(Exception):
    """A file that is not as it was written, and why."""


class StorageError(Exception):
    """Something of a run could not be written."""


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Tell what could not be written, and why, as `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} could not be saved: {error.strerror}.") from error


def largest() -> int:
    """Bytes that a file of arrays may have: a quarter of this machine's memory (reading makes a copy)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def read_bytes(path: Path, limit: int, exactly: int | None = None) -> bytes:
    """A plain file of at most `limit` bytes, or of `exactly` so many.  Raises `Damaged` before it reads anything."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        link = " (it is a link, and links are not followed)" if path.is_symlink() else ""
        raise Damaged(f"{path.name} cannot be read: {error.strerror}{link}.") from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise Damaged(f"{path.name} is no plain file.")
        if about.st_size > limit:
            raise Damaged(f"{path.name} has {about.st_size} bytes, and at most {limit} are read.")
        if exactly is not None and about.st_size != exactly:
            raise Damaged(f"{path.name} is not what was written (it has {about.st_size} bytes instead of {exactly}).")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(about.st_size + 1)
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}.") from error
    finally:
        os.close(handle)


def parse_json(data: bytes, name: str) -> Any:
    """Strict JSON: no NaN, no infinity, no key twice, no deeper than `DEPTH`.  Raises `Damaged`."""
    _check_depth(data, name)
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_twice,
            parse_float=_finite,
            parse_int=_not_huge,
        )
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot even be printed
    except (ValueError, RecursionError) as error:
        words = str(error)
        raise Damaged(f"{name} is no JSON ({words if len(words) < 200 else words[:200] + '...'}).") from error
    return value


# A string, or one that never ends; nothing is looked at twice, so hostile quotes cost no more than others.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(b for b in range(256) if b not in b"[]{}")


def _check_depth(data: bytes, name: str) -> None:
    """Raise `Damaged` where brackets are too deep, before a parser goes down there."""
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise Damaged(f"{name} is too deep: at most {DEPTH} brackets within brackets are read.")


def seal(value: dict[str, Any]) -> bytes:
    """The object as JSON that holds its own SHA-256.  Raises `StorageError` for more than can be read again."""
    data = _written(value | {"sha256": _digest(value)})
    if len(data) > WORDS:
        raise StorageError(f"{len(data)} bytes of JSON were to be written, and at most {WORDS} can be read again.")
    return data


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """What `seal` was given.  Raises `Damaged` if a single byte is another."""
    value = parse_json(data, name)
    if not isinstance(value, dict) or "sha256" not in value:
        raise Damaged(f"{name} is not as it was written: it is no object with a SHA-256 of itself.")
    rest = {k: v for k, v in value.items() if k != "sha256"}
    if value["sha256"] != _digest(rest) or data != _written(value):
        raise Damaged(f"{name} is not what was written (its SHA-256 differs).")
    return rest


def read_sealed(path: Path) -> dict[str, Any]:
    """A sealed JSON file.  Raises `Damaged`."""
    return unseal(read_bytes(path, WORDS), path.name)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file, never through a link, and flush it to the disk."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it, and put it in place of the old one, if any."""
    temporary = path.with_name(f".{path.name}.part")
    write_durably(temporary, data)
    temporary.replace(path)
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> int:
    """Add a line to the end of a file, never through a link; half a line, left when a disk was full or a power cut
    came, goes first, and if this one cannot be written as a whole, nothing of it stays.  The bytes before the line."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        size = os.fstat(handle).st_size
        whole = _end_of_lines(handle, size)
        if whole < size:
            os.ftruncate(handle, whole)
            size = whole
        try:
            write_all(handle, line)
        except OSError:
            os.ftruncate(handle, size)
            raise
        return size
    finally:
        os.close(handle)


def _end_of_lines(handle: int, size: int) -> int:
    """Where the last whole line ends."""
    while size:
        begin = max(size - 2**16, 0)
        at = os.pread(handle, size - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        size = begin
    return 0


def write_all(handle: int, data: bytes) -> None:
    """Write it all, also where the system takes it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_file(path: Path) -> None:
    """Flush a file to the disk, if it is there."""
    if path.is_file():
        _sync(path, os.O_NOFOLLOW)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    _sync(folder, os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; what cannot be removed stays."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        pass


def _written(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _digest(value: dict[str, Any]) -> str:
    """SHA-256 in a form that does not depend on the order of the keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is no number of 64 bits")
    return value


def _not_huge(text: str) -> int:
    if len(text) > 20 or int(text) not in INTEGERS:
        raise ValueError(f"{text[:30]} is no integer of 64 bits")
    return int(text)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
