"""metrics.jsonl: one line of strict JSON per turn, and a running SHA-256 that checkpoints take along.

What follows the last checkpoint has no such sum yet: each line has a CRC-32 in metrics.crc, which is written before it.
A run that goes on drops those lines and writes them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forethought.runs.directory import strict
from forethought.runs.files import Damaged, append_line, largest, read_bytes, remove, replace_durably

CHECKS = "metrics.crc"


@dataclass(eq=False)
class MetricsFile:
    """The file of a run that goes on."""

    path: Path
    bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def checks(self) -> Path:
        """The file with the CRC-32 of each line."""
        return self.path.with_name(CHECKS)

    def append(self, line: dict[str, Any]) -> None:
        """Add one line.  Raises `OSError`, and then nothing of it stays."""
        data = (json.dumps(strict(line), allow_nan=False) + "\n").encode()
        before = append_line(self.checks, _check(data))
        try:
            append_line(self.path, data)
        except OSError:
            os.truncate(self.checks, before)
            raise
        self.bytes += len(data)
        self.digest.update(data)

    def seal(self) -> dict[str, Any]:
        """What the file is now."""
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


def _check(line: bytes) -> bytes:
    return b"%08x\n" % zlib.crc32(line)


def _read(path: Path) -> bytes:
    """The file, or nothing where there is none."""
    return read_bytes(path, largest()) if path.exists() or path.is_symlink() else b""


def intact(path: Path, seal: dict[str, Any]) -> bytes:
    """The file's beginning, as it was sealed.  Raises `Damaged` if it is another."""
    length = seal.get("bytes")
    if type(length) is not int or length < 0:
        raise Damaged(f"The checkpoint does not say what {path.name} was.")
    data = _read(path)
    if length > len(data):
        missing = "is missing" if not path.exists() else "is shorter than when the checkpoint was written"
        raise Damaged(f"{path.name} {missing}.")
    if hashlib.sha256(data[:length]).hexdigest() != seal.get("sha256"):
        raise Damaged(f"{path.name} is not what was written (its SHA-256 differs).")
    return data[:length]


def check_lines(path: Path) -> None:
    """Raise `Damaged` unless every line has its CRC-32, in order.

    More of them at the end are what a kill between the two leaves; a line without one is not.
    """
    checks = _read(path.with_name(CHECKS)).split(b"\n")
    lines = _read(path).split(b"\n")
    if lines.pop():
        raise Damaged(f"{path.name} ends in half a line.")
    if checks.pop() or not all(re.fullmatch(b"[0-9a-f]{8}", check) for check in checks):
        raise Damaged(f"{CHECKS} is not what was written.")
    for i, line in enumerate(lines):
        if i >= len(checks) or checks[i] + b"\n" != _check(line + b"\n"):
            raise Damaged(
                f"line {i + 1} of {path.name} is not what was written, or {CHECKS} is not (its CRC-32 differs)."
            )


def kept(path: Path, seal: dict[str, Any]) -> tuple[MetricsFile, int]:
    """The whole file, and how many lines it has: what a world that cannot be replayed did stays told.

    Raises `Damaged` if a line is not as it was written.
    """
    intact(path, seal)
    check_lines(path)
    data = _read(path)
    lines = data.split(b"\n")[:-1]
    replace_durably(path.with_name(CHECKS), b"".join(_check(line + b"\n") for line in lines))
    return MetricsFile(path, len(data), hashlib.sha256(data)), len(lines)


def resumed(path: Path, seal: dict[str, Any]) -> MetricsFile:
    """The file without what was written after the checkpoint, which a resumed run writes again.

    Raises `Damaged`; the file is put aside then, and a new one begun by the next call.
    """
    try:
        data = intact(path, seal)
    except Damaged:
        remove(path.with_name(CHECKS))
        if path.exists():
            aside = path.with_name("metrics.jsonl.damaged")
            remove(aside)
            path.replace(aside)
        raise
    replace_durably(path, data)
    lines = data.split(b"\n")[:-1]
    replace_durably(path.with_name(CHECKS), b"".join(_check(line + b"\n") for line in lines))
    return MetricsFile(path, len(data), hashlib.sha256(data))
