"""metrics.jsonl as the page sees it: the newest lines, of a bounded size, read on where it was left."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from forethought.errors import printable
from forethought.runs.files import WORDS, Damaged, parse_json

FILE = "metrics.jsonl"
MOST_BYTES = 2**27
"""Bytes that are read at most, the newest ones."""
CHUNK = WORDS + 1
"""Bytes that are read at once: the longest line, and its end."""
MOST_LINES = 200_000
"""Lines that are kept at most, the newest ones."""
MOST_NAMES = 300
"""Names in a line that are kept at most."""
MOST_WORDS = 500
"""Characters of a text."""
MOST_NUMBERS = 1024
"""Entries of a list."""


@dataclass
class Turns:
    """What was read, and what was left out."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    broken: int = 0
    """Lines that could not be read."""
    older: int = 0
    """Lines that were left out, as too many came after them."""
    skipped: int = 0
    """Bytes that were not read at all."""
    long: int = 0
    """Lines with more names than are kept."""
    offset: int = 0
    size: int = 0
    inode: int = -1
    behind: bool = False
    """Whether more is there than was read."""

    def read_on(self, path: Path, *, whole: bool) -> None:
        """Read what has come since the last time, or all of it where the file is another one; `whole`: to its end, and
        not one `CHUNK` alone.  Half a line at the end is still being written.  Raises `Damaged` and `OSError`."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        newest: deque[bytes] = deque(maxlen=MOST_LINES)
        with os.fdopen(handle, "rb") as file:
            self._begin(file)
            while self._part(file, newest) and whole:
                pass
        while newest:
            try:
                self.lines.append(self._line(newest.popleft()))
            except Damaged:
                self.broken += 1
        more = max(len(self.lines) - MOST_LINES, 0)
        del self.lines[:more]
        self.older += more

    def _begin(self, file: BinaryIO) -> None:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Damaged(f"{FILE} is no plain file.")
        if about.st_ino != self.inode or about.st_size < self.offset:
            self.lines, self.offset, self.inode = [], 0, about.st_ino
            self.broken = self.older = self.skipped = self.long = 0
        self.size = about.st_size
        file.seek(self.offset)
        if (more := self.size - MOST_BYTES - self.offset) > 0:
            file.seek(self.offset + more)
            more += len(file.readline(CHUNK))
            self.skipped += more
            self.offset += more

    def _part(self, file: BinaryIO, newest: deque[bytes]) -> bool:
        """Take the whole lines of one chunk; whether there is another chunk."""
        file.seek(self.offset)
        data = file.read(CHUNK)
        self.behind = len(data) == CHUNK
        whole = data.rfind(b"\n") + 1
        if not whole and self.behind:  # a line that is longer than any may be
            self.broken, whole, data = self.broken + 1, len(data), b""
        found = data[:whole].split(b"\n")[:-1]
        self.offset += whole
        self.older += max(len(newest) + len(found) - MOST_LINES, 0)
        newest.extend(found)
        return self.behind

    def _line(self, data: bytes) -> dict[str, Any]:
        """One line, without what is absurdly long.  Raises `Damaged`."""
        if len(data) > WORDS:
            raise Damaged(f"A line of {FILE} is too long.")
        found = parse_json(data, FILE)
        if not isinstance(found, dict) or type(found.get("env_steps")) is not int:
            raise Damaged(f"A line of {FILE} is not as this version writes it.")
        names = [name for name in found if len(name) < 80]
        if len(names) > MOST_NAMES:
            self.long += 1
            names = ["env_steps", *(name for name in names[:MOST_NAMES] if name != "env_steps")]
        # Hundreds of thousands of lines share their names.
        return {sys.intern(name): _bounded(found[name]) for name in names}

    def left_out(self) -> Iterator[str]:
        """What of the file is not among the lines, in sentences."""
        if self.broken:
            yield f"{self.broken} lines of {FILE} cannot be read, and are left out."
        if self.skipped:
            yield f"Of {FILE} the newest {MOST_BYTES >> 20} MiB are read; {self.skipped} bytes before them are not."
        if self.older:
            yield f"Of {FILE} the newest {MOST_LINES} lines are kept; {self.older} older ones are left out."
        if self.long:
            yield f"{self.long} lines of {FILE} have more than {MOST_NAMES} names; the rest of these is left out."
        if self.behind:
            yield f"{FILE} is still being read: {self.offset} of {self.size} bytes so far."


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value[:MOST_WORDS])
    return value[:MOST_NUMBERS] if isinstance(value, list) else value
