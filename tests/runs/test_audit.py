"""What reading a run, importing the library, and training do to the system, as Python's own audit events tell it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiling import FLAGS
from small import recipe

HOOK = """
import sys
events, watching, heads = [], [], {heads!r}
def hook(event, arguments):
    if watching and (heads is None or event.split(".")[0] in heads):
        events.append((event, [str(a)[:300] for a in arguments[:3]]))
sys.addaudithook(hook)
"""

READ = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
from forethought.errors import UserError
from forethought.runs.checkpoint import best, newest
from forethought.runs.codec import decode_fields
from forethought.runs.directory import existing
from forethought.runs.episodes import episode_files, read_episode
from forethought.runs.experiment import Experiment, Named, identity, read_experiment
from forethought.runs.journal import journals, read_journal
from forethought.runs.progress import from_notes
from forethought.runs.verify import problems

def parse(path):
    found = list(problems(existing(path)))
    try:
        name, config = identity(existing(path), found.append)
        decode_fields(Experiment, config, "config.json")
        read_experiment(path, config, Named())
        stored = newest(path / "checkpoints", name, found.append)
        from_notes(stored.about.notes, "here")
        best(path / "checkpoints", name, found.append)
        for file in episode_files(path / "episodes").values():
            read_episode(file)
        for file in journals(path / "journal").values():
            read_journal(file, name)
    except UserError as error:
        found.append(str(error))
    return found

runs = [Path(p) for p in {runs!r}]
parse(runs[0])  # what Python imports on the way the first time
said = []
for run in runs:
    watching.append(1)
    found = parse(run)
    watching.clear()
    said.append(found)
print(json.dumps({{"events": events, "said": said}}))
"""


def python(code: str, heads: tuple[str, ...] | None = None) -> Any:
    """Run it in a process of its own, with the hook on all events or on these; what it printed last."""
    done = subprocess.run(
        [sys.executable, "-c", HOOK.format(heads=heads) + code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def parsed(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Undamaged, damaged and hostile runs, parsed under the hook."""
    folder = tmp_path_factory.mktemp("audit")
    run = recipe(out=folder / "whole", steps=20).run().run
    damaged = Path(shutil.copytree(run, folder / "damaged"))
    for file in [*damaged.rglob("*.json"), *damaged.rglob("*.safetensors"), *damaged.rglob("*.jsonl")]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    linked = Path(shutil.copytree(run, folder / "linked"))
    outside = folder / "outside"
    outside.write_text("secret")
    names = ("error.txt", "metrics.crc", "episodes/000000.safetensors", "episodes/SHA256SUMS")
    for name in (*names, "checkpoints/000001/manifest.json"):
        (linked / name).unlink(missing_ok=True)
        (linked / name).symlink_to(outside)
    code = READ.format(tests=str(Path(__file__).parents[1]), runs=[str(p) for p in (run, damaged, linked)])
    return folder, python(code)


FORBIDDEN = ("exec", "compile", "import", "subprocess", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket")
FORBIDDEN += ("ctypes", "pickle", "marshal", "code.__new__", "function.__new__", "webbrowser", "urllib", "shutil")
FORBIDDEN += ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate")


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_parsing_a_run_does_nothing(parsed, forbidden):
    found = [event for event in parsed[1]["events"] if event[0] == forbidden or event[0].startswith(forbidden + ".")]
    assert found == []


def test_parsing_a_run_opens_only_what_is_inside(parsed):
    folder, result = parsed
    opened = [Path(arguments[0]) for event, arguments in result["events"] if event == "open"]
    assert len(opened) > 30
    runs = [folder / name for name in ("whole", "damaged", "linked")]
    # A bare number is a file that is open already.
    strangers = [p for p in opened if not str(p).isdecimal() and not any(p.is_relative_to(run) for run in runs)]
    assert strangers == []
    assert all(any(p.is_relative_to(run) for p in opened) for run in runs)


def test_what_is_opened_is_only_read(parsed):
    for event, arguments in parsed[1]["events"]:
        if event == "open":
            flags = int(arguments[2])
            assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) == 0, arguments


def test_the_damage_was_seen(parsed):
    """The parse went all the way, and nothing of the secret outside came in."""
    whole, damaged, linked = parsed[1]["said"]
    assert whole == []
    assert len(damaged) > 5
    assert sum("link" in sentence for sentence in linked) >= 3
    assert "secret" not in json.dumps(parsed[1])


def test_the_hook_sees_what_it_has_to():
    """Otherwise all of the above would be empty words."""
    code = """
import json, pickle, socket, subprocess
watching.append(1)
eval("1 + 1")
pickle.loads(pickle.dumps(json.JSONDecoder))
socket.socket().close()
subprocess.run(["true"])
open("/dev/null").close()
watching.clear()
print(json.dumps([event for event, _ in events]))
"""
    assert {"compile", "exec", "pickle.find_class", "socket.__new__", "subprocess.Popen", "open"} <= set(python(code))


NETWORK = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.bind",
    "socket.sendto",
    "urllib.Request",
)

TRAIN = """
import json
watching.append(1)
import forethought
imported = len(events)
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
from pathlib import Path
from small import recipe
recipe(out=Path({out!r}), steps=20).run()
before = len(events)
forethought.load({out!r})
watching.clear()
print(json.dumps([(i >= imported, i >= before, e, a) for i, (e, a) in enumerate(events)]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list:
    """Events of import, training and loading, in one process."""
    out = str(tmp_path_factory.mktemp("network") / "run")
    heads = ("socket", "urllib", "pickle", "subprocess", "os", "http", "ftplib", "smtplib")
    return python(TRAIN.format(tests=str(Path(__file__).parents[1]), out=out), heads)


@pytest.mark.parametrize("name", NETWORK)
def test_no_network_on_import_or_train(trained, name):
    assert [(event, arguments) for _, _, event, arguments in trained if event == name] == []


def test_import_starts_no_process(trained):
    starts = ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec")
    assert [event for after, _, event, _ in trained if not after and event in starts] == []


def test_load_unpickles_nothing(trained):
    assert [a for _, loading, event, a in trained if loading and event == "pickle.find_class"] == []
