"""A process and its descendants, and the memory that they hold, as Linux tells it in /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """The process and everything that it started, as far as it still has a parent among them."""
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += _children(each)
    return found


def measurable() -> bool:
    """Whether this machine tells what processes hold, and which are children of which."""
    own = os.getpid()
    return resident([own]) > 0 and (PROC / str(own) / "task" / str(own) / "children").exists()


def resident(pids: list[int]) -> int:
    """Bytes of memory that these processes hold; what they share counts for each of them.

    Not the addresses that they have reserved, which RLIMIT_AS would limit: jax, like every program with large arenas
    and many threads, reserves gigabytes that it never touches.
    """
    pages = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):  # it has ended
            pages += int((PROC / str(pid) / "statm").read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    """Each thread lists the children that it started."""
    found: list[int] = []
    with suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_bytes().split())
    return found
