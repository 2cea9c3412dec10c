"""Being asked to stop: Ctrl-C and SIGTERM, at moments when nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """Asked to stop by a signal other than Ctrl-C's, which is its argument."""

    @property
    def signal(self) -> signal.Signals:
        """Which signal it was."""
        return signal.Signals(self.args[0])


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Stopped` where Ctrl-C would raise KeyboardInterrupt."""
    with _handled(_stop, ASKING[1:]):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold such signals back until the block is done, so that what is written down is never half of something.

    However many come, the first one counts; it is raised after the block, also where the block raised an error.
    """
    caught: list[int] = []
    try:
        with _handled(lambda number, frame: caught.append(number), ASKING):
            yield
    finally:
        if caught:
            raise KeyboardInterrupt if caught[0] == signal.SIGINT else Stopped(caught[0])


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def _handled(handler: Any, numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Another handler for these signals, unless they are ignored (nohup); only the main thread can have one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
