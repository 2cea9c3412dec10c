"""forethought watch: the page of a run while it goes on, for a browser on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from forethought.console import complain, print_json
from forethought.errors import UserError, printable
from forethought.reporting.contents import Beside, contents
from forethought.reporting.page import page
from forethought.reporting.records import Memory, read_records
from forethought.reporting.serving import Resource, Server
from forethought.runs.command_line import Common, flags_of, one_place, parse_plain, split
from forethought.runs.directory import existing

OFTEN = 2.0
"""Seconds between two looks at the run at least; and ten times what the last one took, so that it takes a tenth of a
core at most."""
SHARE = 10.0
NICE = 15
"""How much this process gives way to others."""


@dataclasses.dataclass(frozen=True)
class Watch(Common):
    """What `watch` takes."""

    port: int = 0
    """The port on 127.0.0.1; 0: any that is free."""


class Asked(NamedTuple):
    """Which run, and how."""

    run: Path
    flags: Watch


ABOUT = """Show a run in a browser while it goes on: prints one address on this machine, with a random token in it. Only
whoever knows the address sees the page, and nothing in the run is changed. Ctrl-C ends it; the run goes on."""


def parse(argv: Sequence[str]) -> Asked:
    """What a command line asks for.  Raises `UserError`."""
    known = {name for name, flag in flags_of(Watch()).items() if flag.switch} | {"-h", "--help"}
    places, rest = split(argv, known)
    place = "." if {"-h", "--help"} & set(rest) else one_place(places, "watch", "run directory")
    flags = parse_plain(Watch(), rest, "forethought watch RUN", ABOUT)
    if not 0 <= flags.port <= 65535:
        raise UserError(f"--port is {flags.port}; it must be a whole number, at least 0 and at most 65535.")
    return Asked(Path(place), flags)


@dataclass
class Live:
    """The data of a page that follows a run, made anew when something has changed, and not too often."""

    run: Path
    memory: Memory = field(default_factory=Memory)
    lock: threading.Lock = field(default_factory=threading.Lock)
    data: bytes = b""
    failed: str = ""
    """Why the last look had no data."""
    seen: Any = None
    """What the files looked like then."""
    due: float = 0.0
    """When the next look may be."""
    version: int = 0

    def json(self) -> bytes:
        """The newest data, or that they cannot be made; of several askers one looks, and the others wait."""
        with self.lock:
            now = time.monotonic()
            if now >= self.due:
                try:
                    self._look()
                    self.failed = ""
                except Exception as error:  # whoever watches sees it, and the run may be sound again a moment later
                    self._fail(error)
                finally:
                    self.due = time.monotonic() + max(OFTEN, SHARE * (time.monotonic() - now))
            return json.dumps({"failed": self.failed}).encode() if self.failed else self.data

    def _fail(self, error: Exception) -> None:
        """Say what went wrong, once."""
        words = str(error) if isinstance(error, UserError) else f"unexpected {type(error).__name__}."
        sentence = printable(" ".join(f"The run cannot be shown now: {words}".split()))
        if sentence != self.failed:
            complain(sentence, 1)
        self.failed = sentence

    def _look(self) -> None:
        seen = fingerprint(self.run)
        if self.data and seen == self.seen and not self.memory.turns.behind:
            return
        records = read_records(self.run, self.memory)
        absent = ["While a run is watched its model is not asked: 'forethought report' draws what it predicts."]
        self.version += 1
        found = contents([records], [Beside(no_fan=absent)], self.memory)
        self.data = json.dumps(found | {"version": self.version}, allow_nan=False, separators=(",", ":")).encode()
        self.seen = seen


def fingerprint(run: Path) -> list[Any]:
    """Sizes and times of what a page is made of."""
    names = ("config.json", "run.json", "metrics.jsonl", "diagnosis.json", "error.txt")
    found: list[Any] = []
    for path in [*(run / n for n in names), *(run / n for n in ("episodes", "evaluations", "checkpoints"))]:
        try:
            about = path.lstat()
            found.append((about.st_mtime_ns, about.st_size, about.st_ino))
        except OSError:
            found.append(None)
    return found


def command(argv: list[str]) -> int:
    """Serve the page until Ctrl-C."""
    asked = parse(argv)
    live = Live(existing(asked.run).path)
    os.nice(NICE)
    whole = page(None, f"{live.run.name}: live")
    resources = {
        "": Resource("text/html", lambda: whole),
        "data.json": Resource("application/json", live.json),
    }
    try:
        server = Server(asked.flags.port, secrets.token_urlsafe(24), resources)
    except OSError as error:
        raise UserError(f"Port {asked.flags.port} of 127.0.0.1 cannot be listened on: {error.strerror}.") from error
    with server:
        if asked.flags.json:
            print_json({"url": server.url, "run": str(live.run)})
        else:
            print(f"Open {server.url}\nCtrl-C ends it; the run goes on.")
        sys.stdout.flush()
        try:
            server.serve_forever(poll_interval=0.5)
        except KeyboardInterrupt:
            print("Stopped watching.", file=sys.stderr)
    return 0
