"""A server for one reader on this machine: two addresses behind a random token, and a closed door for everything else.

It takes a request apart by itself, strictly: what is not exactly a GET or HEAD of one of the two addresses, to this
host, is answered with a number and a word, and never with anything of the run.
"""

from __future__ import annotations

import hmac
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

HOST = "127.0.0.1"
LONGEST = 8192
"""Bytes that a request may have."""
SECONDS = 5.0
"""Time that a request may take to arrive, and an answer to leave."""
AT_ONCE = 16
"""Requests that are answered at the same time."""
WORDS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}
_REQUEST = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\x21-\x7e][\x20-\x7e\t]*)?")


class Resource(NamedTuple):
    """What one address answers."""

    kind: str
    """Its media type."""
    make: Callable[[], bytes]


class Request(NamedTuple):
    """A request that is well formed."""

    method: str
    path: str
    fields: Mapping[str, str]
    """Names in small letters."""


class Refused(Exception):
    """Why a request is not answered: a status."""

    def __init__(self, status: int):
        super().__init__(WORDS[status])
        self.status = status


def parse(head: bytes) -> Request:
    """The head of a request, up to and without the empty line.  Raises `Refused` for anything unusual: a request target
    that is no plain path, a folded or doubled field, a body."""
    first, *lines = head.split(b"\r\n")
    match = _REQUEST.fullmatch(first)
    if match is None:
        raise Refused(400)
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise Refused(400)
        name = field[1].decode().lower()
        if name in fields:
            raise Refused(400)
        fields[name] = (field[2] or b"").decode().strip()
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        raise Refused(400)
    return Request(match[1].decode(), match[2].decode(), fields)


def admit(request: Request, token: str, port: int) -> str:
    """The name behind the token that is asked for.  Raises `Refused`."""
    hosts = {f"{HOST}:{port}", f"localhost:{port}"}
    if request.fields.get("host") not in hosts:
        raise Refused(421)
    origin = request.fields.get("origin")
    if origin is not None and origin not in {f"http://{host}" for host in hosts}:
        raise Refused(403)
    own = f"/{token}/"
    given, name = request.path[: len(own)], request.path[len(own) :]
    if not hmac.compare_digest(given.encode(), own.encode()):
        raise Refused(404)
    if name and request.fields.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Refused(403)
    return name


class _Handler(socketserver.BaseRequestHandler):
    """One connection, one answer."""

    server: Server
    request: socket.socket

    def handle(self) -> None:
        """Read, decide, answer."""
        head_only = False
        try:
            request = parse(self._head())
            head_only = request.method == "HEAD"
            name = admit(request, self.server.token, self.server.port)
            if name not in self.server.resources:
                raise Refused(404)
            if request.method not in ("GET", "HEAD"):
                raise Refused(405)
            found = self.server.resources[name]
            try:
                body = found.make()
            except Exception:  # the run has gone, say: whoever watches is told no more than that
                raise Refused(500) from None
            self._answer(200, found.kind, body, head_only)
        except Refused as refused:
            with suppress(OSError):
                self._answer(refused.status, "text/plain", f"{refused.status} {refused}\n".encode(), head_only)
                self._swallow()
        except OSError:
            pass  # whoever asked has gone

    def _swallow(self) -> None:
        """What else was sent: a connection that is closed on unread bytes takes the answer with it."""
        self.request.shutdown(socket.SHUT_WR)
        self.request.settimeout(0.2)
        for _ in range(64):
            if not self.request.recv(2**16):
                return

    def _head(self) -> bytes:
        """The bytes before the first empty line."""
        data, end = b"", time.monotonic() + SECONDS
        while b"\r\n\r\n" not in data:
            if len(data) > LONGEST:
                raise Refused(431)
            try:
                # However slowly it drips: the time is that of the whole.
                self.request.settimeout(max(end - time.monotonic(), 0.01))
                more = self.request.recv(LONGEST)
            except TimeoutError:
                raise Refused(408) from None
            if not more:
                raise Refused(400)
            data += more
        self.request.settimeout(SECONDS)
        head, _, rest = data.partition(b"\r\n\r\n")
        if len(head) > LONGEST:
            raise Refused(431)
        if rest:
            raise Refused(400)
        return head

    def _answer(self, status: int, kind: str, body: bytes, head_only: bool) -> None:
        fields = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **SAFE,
        }
        if status == 405:
            fields["Allow"] = "GET, HEAD"
        head = f"HTTP/1.1 {status} {WORDS[status]}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        self.request.sendall(head.encode() + (b"" if head_only else body))


SAFE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
"""Header fields of every answer; the page has a stricter policy of its own beside them."""


class Server(socketserver.ThreadingTCPServer):
    """Answers on 127.0.0.1 alone, each request in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, port: int, token: str, resources: Mapping[str, Resource]):
        self.token, self.resources = token, resources
        self.room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((HOST, port), _Handler)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_address[1]

    @property
    def url(self) -> str:
        """What to open."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is room."""
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.setblocking(False)
                request.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Give the room back at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing of a request goes to the terminal."""
