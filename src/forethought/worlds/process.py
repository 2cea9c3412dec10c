"""The run's side of a worker process: its start, its messages with a deadline, its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

from forethought.worlds.wire import PIECE, Kind, Message, pack, receive

PATIENCE = 1.0
"""Seconds that a process gets to end by itself before it is killed."""

LOOK = 0.2
"""Seconds between looks at a process that says nothing."""


class Process:
    """One worker process and the connection to it.  One thread at a time asks; any thread may kill.

    It is killed with its owner, and when the interpreter ends.
    """

    def __init__(self, owner: object) -> None:
        self._creator = os.getpid()
        self._lock = threading.RLock()
        self._end = threading.RLock()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        reading, self._lifeline = os.pipe()
        self._polls = {event: select.poll() for event in (select.POLLIN, select.POLLOUT)}
        for event, poll in self._polls.items():
            poll.register(self._socket, event)
        command = [sys.executable, "-P", "-m", "forethought.worlds.worker", str(theirs.fileno()), str(reading)]
        path = os.pathsep.join(filter(None, map(str, sys.path)))
        try:
            # A session of its own: the Ctrl-C of a terminal reaches the run only, and what the environment starts can
            # be killed with it.
            self._popen = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), reading),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        except BaseException:
            self._socket.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(reading)
        self._last = weakref.finalize(owner, self.kill)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._popen.pid

    def exchange(self, message: bytes, seconds: float) -> Message:
        """The answer to a message.

        Raises `TimeoutError` when it takes longer, `EOFError` or another `OSError` when the process is gone, and
        `GarbledError` when what comes is no message.
        """
        with self._lock:
            until = time.monotonic() + seconds
            self._send(message, until)
            return receive(lambda: self._read(until))

    def close(self) -> None:
        """Let the environment close itself if it is idle, for `PATIENCE`; then kill."""
        if self._lock.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, EOFError):
                    self._send(pack(Kind.CLOSE), time.monotonic() + PATIENCE)
                    self.wait(PATIENCE)
            finally:
                self._lock.release()
        self.kill()

    def kill(self) -> int | None:
        """Kill the process, if it lives, and all that it started; its exit status.

        A thread that waits for its answer is woken.  Can be called from any thread, and more than once.
        """
        self._last.detach()
        if os.getpid() != self._creator:
            return None  # A fork of the run has no say.
        with self._end:
            if self._popen.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(5.0)
        # Nobody may be waiting for a file descriptor when it is closed: its number may be another's at once.
        with self._lock:
            if self._socket.fileno() >= 0:
                self._socket.close()
                os.close(self._lifeline)
        return self._popen.returncode

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended, within these seconds.  It stays a zombie, so that its number stays its own."""
        until = time.monotonic() + seconds
        while not self._ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

    def _ended(self) -> bool:
        """Whether the process has ended."""
        try:
            return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _send(self, message: bytes, until: float) -> None:
        """All of a message."""
        rest = memoryview(message)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, until)

    def _read(self, until: float) -> bytes:
        """The next piece."""
        self._wait(select.POLLIN, until)
        piece = self._socket.recv(PIECE)
        if not piece:
            raise EOFError
        return piece

    def _wait(self, event: int, until: float) -> None:
        """Return when the socket is ready.

        A process that has ended is noticed even where something that it started still holds the connection.
        """
        poll, ended = self._polls[event], False
        while not poll.poll(1000.0 * max(0.0, min(LOOK, until - time.monotonic()))):
            if ended:
                raise EOFError
            if time.monotonic() >= until:
                raise TimeoutError
            ended = self._ended()
