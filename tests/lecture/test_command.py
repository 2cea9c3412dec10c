"""`forethought lecture` with claims that are made up: the command line, the processes, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from forethought.cli import guarded
from forethought.lecture import command as lecture
from forethought.lecture.measuring import claims_in, keep, kept, measure, path_of
from forethought.lecture.running import run_all
from forethought.runs.files import read_sealed, seal
from forethought.sweeping.sweep import locked

MADE_UP = """
import dataclasses, math, os, signal, time
from pathlib import Path
from forethought.lecture.claim import Claim, Outcome

FOLDER = Path(__file__).parent

def counted(name):
    with (FOLDER / f"{name}.calls").open("a") as file:
        file.write("x")

def sure(seed, full):
    counted("sure")
    return Outcome(2.0 + 0.01 * seed, {"seed": seed, "nothing": math.nan})

def broken(seed, full):
    if seed == 1:
        raise ValueError("a <b>bold</b> mistake")
    return Outcome(5.0 + seed if seed else math.nan, {})

def killed(seed, full):
    if not (FOLDER / "spare").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(-1.0 - seed, {})

def slow(seed, full):
    (FOLDER / "slow.began").touch()
    time.sleep(60.0)

SURE = Claim("sure", "1", "A & B.", "It is sure.", "By hand.", sure, "nats", 1.0, (0, 1, 2), (0, 1, 2, 3))
replace = lambda name, measure: dataclasses.replace(SURE, name=name, prediction=f"It is {name}.", measure=measure)
DEAR = dataclasses.replace(SURE, name="dear", prediction="It is dear.", seeds=())
KILLED = dataclasses.replace(replace("killed", killed), note="It was to be.")
CLAIMS = (SURE, replace("broken", broken), KILLED, DEAR)
SLOW = (replace("slow", slow),)
"""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A module of claims that other processes find, too."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "made_up_claims.py").write_text(MADE_UP)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setattr(lecture, "CLAIMS_IN", "made_up_claims")
        yield folder


def call(capsys, *words):
    """(status, standard output, standard error)."""
    capsys.readouterr()
    status = guarded(lecture.command, [str(word) for word in words])
    return status, *capsys.readouterr()


def test_from_the_command_line_to_the_page(made_up, tmp_path, capsys) -> None:
    """One claim fails in two seeds, one is killed: both are shown as such, and measured anew the next time."""
    out = tmp_path / "out"
    status, said, told = call(capsys, "--out", out, "--jobs", "3", "--no-cache")
    assert status == 1
    lines = {line.split()[0]: line for line in said.splitlines() if line and not line.startswith(" ")}
    assert "holds" in lines["sure"]
    assert "2.01 [1.99, 2.03] nats" in lines["sure"]
    assert "> 1 " in lines["sure"]
    assert "undecided" in lines["broken"]
    assert "1 (2 failed)" in lines["broken"]
    assert lines["killed"].split()[1] == "failed"
    assert "failed: 1" in said
    assert "It was to be." not in said, "that explains a result"
    assert "only with --full" in lines["dear"]
    assert "Failed: seed 0: the effect is nan." in said
    assert "Failed: seed 1: ValueError: a <b>bold</b> mistake." in said
    assert "Failed: killed by SIGKILL from outside" in said
    assert "3/3" in told
    page = (out / "lecture.html").read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; mistake" in page
    assert "<b>" not in page
    assert not path_of(out, "killed", False).exists()
    calls = made_up / "sure.calls"
    assert calls.read_text() == "xxx"

    (made_up / "spare").touch()
    status, said, told = call(capsys, "--out", out, "--no-cache", "--json")
    assert status == 1  # the broken one still is
    assert "1 of 3 claims are there already." in told
    assert calls.read_text() == "xxx"
    found = {claim["name"]: claim for claim in json.loads(said)["claims"]}
    assert (found["killed"]["verdict"], found["killed"]["mean"]) == ("does not hold", -2.0)
    assert found["killed"]["failures"] == []
    assert found["dear"]["verdict"] is None
    assert [o["effect"] for o in found["broken"]["outcomes"]] == [None, None, 7.0]
    assert found["sure"]["outcomes"][2]["details"] == {"seed": 2, "nothing": None}
    kept_there = read_sealed(out / "results.json")
    assert kept_there["claims"] == json.loads(said)["claims"]
    assert kept_there["full"] is False
    assert kept_there["machines"][0]["jax_enable_x64"] is True
    assert "It was to be." in (out / "lecture.html").read_text()

    # Nothing is left to measure: it is only shown.
    began = time.monotonic()
    status, said, _ = call(capsys, "--out", out, "--only", "sure", "--only", "killed", "--markdown")
    assert status == 1
    assert time.monotonic() - began < 5.0
    assert "| `sure` | It is sure. | 2.01 [1.99, 2.03] nats | > 1 | 3 | holds |" in said
    assert "| **does not hold** |" in said
    assert "`killed`: It was to be." in said


def test_what_is_kept_counts_for_what_it_is_of(made_up, tmp_path) -> None:
    """Another version's, another length's, a changed claim's or a damaged file's measurement is none."""
    claim = claims_in("made_up_claims")["sure"]
    found = measure(claim, False)
    keep(tmp_path, found)
    assert kept(tmp_path, claim, False)[0] == found
    (made_up / "sure.calls").unlink()
    assert kept(tmp_path, claim, True) == (None, None), "a short measurement is not a full one"
    keep(tmp_path, measure(claim, True))
    assert kept(tmp_path, claim, False)[0] == found, "nor does either take the other's place"
    none, why = kept(tmp_path, dataclasses.replace(claim, margin=2.0), False)
    assert none is None
    assert "(margin)" in str(why)
    path = path_of(tmp_path, "sure", False)
    path.write_bytes(seal(found | {"versions": found["versions"] | {"forethought": "0.0.1"}}))
    none, why = kept(tmp_path, claim, False)
    assert none is None
    assert "was measured by forethought 0.0.1" in str(why)
    keep(tmp_path, found)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"effect": 2.0', b'"effect": 9.0', 1))
    none, why = kept(tmp_path, claim, False)
    assert none is None
    assert "SHA-256" in str(why)


SLIPS = [
    (["--only", "shure"], "There is no claim shure in the lecture. The nearest is sure."),
    (["--only", "sure,kiled"], "There is no claim kiled in the lecture. The nearest is killed."),
    (["--only", "sure", "--only=brokn"], "There is no claim brokn in the lecture. The nearest is broken."),
    (["--only", "sure,"], "There is no claim '' in the lecture."),
    (["--only", "dear"], "The claim dear takes too long without --full; give that, too."),
    (["--only"], "--only needs a value"),
    (["--jobs", "0"], "--jobs is 0; it must be 1 or larger."),
    (["--deadline", "nan"], "--deadline is nan; it must be a finite number of seconds, larger than 0."),
    (["--fulll"], "There is no flag --fulll. The nearest is --full."),
    (["sure"], "There is no further argument sure."),
]


@pytest.mark.parametrize(("words", "sentence"), SLIPS, ids=[" ".join(words) for words, _ in SLIPS])
def test_slips_get_a_sentence(made_up, capsys, tmp_path, monkeypatch, words, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    status, said, told = call(capsys, *words)
    assert status == 2
    assert sentence in told
    assert said == ""
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(made_up, capsys, tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    status, _, told = call(capsys, "--out", tmp_path, "--only", "sure")
    assert status == 2
    assert "is not empty and holds no results of the lecture" in told
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_list_measures_nothing(made_up, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, said, _ = call(capsys, "--list")
    assert status == 0
    assert "dear (only with --full)\n    It is dear." in said
    status, said, _ = call(capsys, "--list", "--only", "sure", "--json")
    assert [claim["prediction"] for claim in json.loads(said)["claims"]] == ["It is sure."]
    assert not list(tmp_path.iterdir())


def sleep(folder: Path, out: Path, deadline: float, tell) -> None:
    """Measure the claim that sleeps for a minute."""
    (folder / "sleepers.py").write_text("from made_up_claims import SLOW as CLAIMS\n")
    run_all("sleepers", ["slow"], out, ("quick", "no-cache"), at_once=1, deadline=deadline, tell=tell)


def test_what_takes_too_long_is_ended(made_up, tmp_path) -> None:
    said, began = [], time.monotonic()
    sleep(made_up, tmp_path, 0.2, said.append)
    assert time.monotonic() - began < 40.0
    assert [(o.name, o.status) for o in said] == [("slow", "failed")]
    assert "time limit: it still ran after 0.2 s" in said[0].reason
    assert not path_of(tmp_path, "slow", False).exists()


def test_an_interruption_ends_the_processes(made_up, tmp_path) -> None:
    """Whatever comes up while others are measured: nothing of it goes on by itself."""
    (made_up / "slow.began").unlink(missing_ok=True)

    def interrupt() -> None:
        while not (made_up / "slow.began").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread, began = threading.Thread(target=interrupt), time.monotonic()
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sleep(made_up, tmp_path, 300.0, lambda outcome: None)
    thread.join()
    assert time.monotonic() - began < 55.0, "it was waited for until it had ended by itself"
    with locked(tmp_path):  # which a process that still ran would hold
        pass


def test_one_folder_is_measured_into_by_one(made_up, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    (out / "claims").mkdir(parents=True)
    with locked(out):
        status, _, told = call(capsys, "--out", out, "--only", "sure")
    assert status == 2
    assert "is in use by another" in told


def test_what_was_measured_stays_until_there_is_a_better_one(made_up, tmp_path, monkeypatch, capsys) -> None:
    """Another version measures again; if nothing comes of that, the old measurement is still there."""
    keep(tmp_path, measure(claims_in("made_up_claims")["sure"], False))
    path = path_of(tmp_path, "sure", False)
    data = path.read_bytes()
    monkeypatch.setattr("forethought.lecture.measuring.versions", lambda: {"forethought": "99.0"})
    monkeypatch.setattr(lecture, "run_all", lambda *args, **kwargs: None)
    call(capsys, "--out", tmp_path, "--only", "sure")
    assert path.read_bytes() == data
