"""`forethought watch`: who is let in, and that nobody else is told anything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from forethought.errors import UserError
from forethought.reporting import serving, turns, watch
from forethought.reporting.serving import Resource, Server
from forethought.reporting.watch import Live, parse
from report_cases import write_run

SECRET = "the-name-of-the-run"
TOKEN = "t0ken-t0ken-t0ken-t0ken-t0ken-32"


@contextlib.contextmanager
def served(**resources):
    """A server in a thread, and its port."""
    made = {name: Resource("application/json", lambda v=value: v.encode()) for name, value in resources.items()}
    server = Server(0, TOKEN, {"": Resource("text/html", lambda: f"<p>{SECRET}".encode()), **made})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server():
    with served(**{"data.json": json.dumps({"run": SECRET})}) as found:
        yield found


def exchange(port: int, data: bytes, seconds: float = 10.0) -> bytes:
    """What comes back for these bytes, to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as talk:
        with contextlib.suppress(ConnectionError):
            talk.sendall(data)
            talk.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while more := talk.recv(2**16):
                found += more
        return found


def asking(server, path="/{token}/", method="GET", host="127.0.0.1:{port}", more="", version="HTTP/1.1") -> bytes:
    head = f"{method} {path} {version}\r\nHost: {host}\r\n{more}\r\n"
    return head.replace("{token}", TOKEN).replace("{port}", str(server.port)).encode("utf-8")


def plain(text: str):
    return lambda server: text.replace("{token}", TOKEN).replace("{port}", str(server.port)).encode("utf-8")


HOSTILE = {
    # another host, and none
    "rebinding": lambda s: asking(s, host="evil.example"),
    "rebinding with the port": lambda s: asking(s, host="evil.example:{port}"),
    "another port": lambda s: asking(s, host="127.0.0.1:1"),
    "no port": lambda s: asking(s, host="127.0.0.1"),
    "all addresses": lambda s: asking(s, host="0.0.0.0:{port}"),
    "a suffix": lambda s: asking(s, host="localhost:{port}.evil.example"),
    "an empty host": lambda s: asking(s, host=""),
    "no host": plain("GET /{token}/ HTTP/1.1\r\n\r\n"),
    "no host of 1.0": plain("GET /{token}/ HTTP/1.0\r\n\r\n"),
    "two hosts, ours last": lambda s: asking(s, host="evil.example", more="Host: 127.0.0.1:{port}\r\n"),
    "two hosts": lambda s: asking(s, more="Host: evil.example\r\n"),
    # another token
    "no token": lambda s: asking(s, "/"),
    "a wrong token": lambda s: asking(s, "/" + "A" * len(TOKEN) + "/"),
    "half of the token": lambda s: asking(s, f"/{TOKEN[:16]}/"),
    "the token and more": lambda s: asking(s, f"/{TOKEN}x/"),
    "the token in large letters": lambda s: asking(s, f"/{TOKEN.upper()}/"),
    "the token without its end": lambda s: asking(s, "/{token}"),
    "the token as a query": lambda s: asking(s, "/?token={token}"),
    "data without the token": lambda s: asking(s, "/data.json"),
    # another path
    "a path outside": lambda s: asking(s, "/{token}/../../etc/passwd"),
    "an encoded path outside": lambda s: asking(s, "/{token}/%2e%2e/%2e%2e/etc/passwd"),
    "a file of the run": lambda s: asking(s, "/{token}/config.json"),
    "a query": lambda s: asking(s, "/{token}/?x=1"),
    "a query for the data": lambda s: asking(s, "/{token}/data.json?x=/etc/passwd"),
    "a double slash": lambda s: asking(s, "//{token}/"),
    "a double slash behind": lambda s: asking(s, "/{token}//data.json"),
    "a backslash": lambda s: asking(s, "/{token}/..\\data.json"),
    "a zero byte": lambda s: asking(s, "/{token}/data.json\x00.html"),
    "an encoded zero byte": lambda s: asking(s, "/{token}/data.json%00"),
    "not ASCII": lambda s: asking(s, "/{token}/dätä.json"),
    "a whole address": lambda s: asking(s, "http://127.0.0.1:{port}/{token}/"),
    "a long path": lambda s: asking(s, "/{token}/" + "a" * 100_000),
    # another method
    **{
        m: (lambda s, m=m: asking(s, method=m))
        for m in ("POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH", "PROPFIND")
    },
    "CONNECT": lambda s: asking(s, "127.0.0.1:{port}", method="CONNECT"),
    "a method in small letters": lambda s: asking(s, method="get"),
    # from another page
    "another origin": lambda s: asking(s, "/{token}/data.json", more="Origin: http://evil.example\r\n"),
    "no origin": lambda s: asking(s, "/{token}/data.json", more="Origin: null\r\n"),
    "from another site": lambda s: asking(s, "/{token}/data.json", more="Sec-Fetch-Site: cross-site\r\n"),
    # no HTTP
    "HTTP/0.9": plain("GET /{token}/\r\n\r\n"),
    "HTTP/2": plain("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.1 and more": lambda s: asking(s, version="HTTP/1.1 x"),
    "TLS": lambda s: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "noise": lambda s: bytes(range(256)) * 64,
    "bare line feeds": plain("GET /{token}/ HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"),
    "a folded field": lambda s: asking(s, more="X: 1\r\n 2\r\n"),
    "a space before the colon": lambda s: asking(s, more="X : 1\r\n"),
    "a body": lambda s: asking(s, more="Content-Length: 5\r\n") + b"hello",
    "chunks": lambda s: asking(s, more="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
    "a second request": lambda s: asking(s) + asking(s),
    "a large field": lambda s: asking(s, more="X: " + "a" * 100_000 + "\r\n"),
    "many fields": lambda s: asking(s, more="".join(f"X{i}: 1\r\n" for i in range(5000))),
    "half a request": plain("GET /{token}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"),
    "nothing": plain(""),
}


def test_there_are_many_of_them():
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_for_us_is_refused_and_told_nothing(server, name):
    found = exchange(server.port, HOSTILE[name](server))
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4"), found[:200]
    assert len(body) < 60
    for secret in (SECRET, TOKEN, "python", "etc", "evil", str(server.port)):
        assert secret.encode() not in found.lower().replace(b"content-", b""), secret


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}"])
@pytest.mark.parametrize("name", ["", "data.json"])
def test_who_knows_the_address_is_answered(server, host, name):
    found = exchange(server.port, asking(server, "/{token}/" + name, host=host, more="Sec-Fetch-Site: same-origin\r\n"))
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert SECRET.encode() in body
    for field in (b"Cache-Control: no-store", b"X-Content-Type-Options: nosniff", b"Referrer-Policy: no-referrer"):
        assert field in head
    assert b"Cross-Origin-Resource-Policy: same-origin" in head
    assert b"Access-Control" not in head
    assert b"Server:" not in head
    only = exchange(server.port, asking(server, "/{token}/" + name, method="HEAD", host=host))
    assert only.endswith(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in only


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_request_that_never_ends_is_ended_and_others_are_answered_meanwhile(monkeypatch):
    monkeypatch.setattr(serving, "SECONDS", 0.5)
    with served() as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(4)]
        for talk in slow:
            talk.sendall(b"GET /")
        assert exchange(server.port, asking(server)).startswith(b"HTTP/1.1 200")
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")
        more = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(serving.AT_ONCE + 4)]
        assert any(talk.recv(100).startswith(b"HTTP/1.1 429") for talk in more[-4:])
        for talk in [*slow, *more]:
            talk.close()


def test_what_fails_inside_is_a_bare_number():
    def broken() -> bytes:
        raise UserError(f"{SECRET} has gone")

    with served() as server:
        server.resources["data.json"] = Resource("application/json", broken)
        found = exchange(server.port, asking(server, "/{token}/data.json"))
    assert found.startswith(b"HTTP/1.1 500 ")
    assert SECRET.encode() not in found


def test_the_data_follow_the_run_and_are_not_made_twice(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", episodes=2)
    live = Live(run)
    first = live.json()
    assert json.loads(first)["version"] == 1
    line = (run / "metrics.jsonl").read_text().splitlines()[-1]
    with (run / "metrics.jsonl").open("a") as out:
        out.write(line.replace('"env_steps": 40', '"env_steps": 60') + "\n")
    assert live.json() is first  # not looked at again so soon
    live.due = 0.0
    second = json.loads(live.json())
    assert second["version"] == 2
    assert "60 real steps" in " ".join(second["runs"][0]["sentences"])
    live.due = 0.0
    assert json.loads(live.json())["version"] == 2  # nothing has changed


def test_a_look_that_fails_is_said_once_and_not_repeated_for_each_request(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", episodes=2)
    live, looks = Live(run), []

    def broken(*given):
        looks.append(given)
        raise OverflowError("34")

    monkeypatch.setattr(watch, "contents", broken)
    said = {"failed": "The run cannot be shown now: unexpected OverflowError."}
    assert [json.loads(live.json()) for _ in range(5)] == [said] * 5
    assert len(looks) == 1
    live.due = 0.0
    assert json.loads(live.json()) == said
    assert capsys.readouterr().err == f"forethought: {said['failed']}\n"
    monkeypatch.undo()
    live.due = 0.0
    assert json.loads(live.json())["runs"]
    # The run is gone: what was ours to say is said.
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run)
    live.due = 0.0
    assert "there is no such folder" in json.loads(live.json())["failed"]


def test_a_long_file_of_metrics_is_read_part_by_part(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", episodes=10)
    monkeypatch.setattr(turns, "CHUNK", 2000)
    live, steps = Live(run), []
    for _ in range(12):
        live.due = 0.0
        steps.append(json.loads(live.json())["runs"][0]["sentences"][0])
    assert "200 real steps" not in steps[0]
    assert "200 real steps" in steps[-1]


@pytest.mark.parametrize(("words", "sentence"), [([], "none was given"), (["."] * 2, "2 were given"), (["."], None)])
def test_it_takes_one_run(words, sentence):
    if sentence is None:
        assert parse(words).flags.port == 0
        return
    with pytest.raises(UserError, match=sentence):
        parse(words)
    with pytest.raises(UserError, match="at most 65535"):
        parse([".", "--port", "65536"])


def test_the_process_reads_gently_and_ends_on_ctrl_c(tmp_path):
    run = write_run(tmp_path / SECRET, episodes=2)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.rglob("*") if p.is_file()}
    code = "import sys; from forethought.reporting.watch import command; sys.exit(command(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(run), "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=30) as answer:
            assert b"data-live" in answer.read()
        with direct.open(url + "data.json", timeout=30) as answer:
            assert json.load(answer)["runs"][0]["label"] == SECRET
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 15
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.rglob("*") if p.is_file()} == before
