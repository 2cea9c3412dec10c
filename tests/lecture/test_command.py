"""`forethought lecture` with claims that are made up: the command line, the processes, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from forethought.cli import guarded
from forethought.lecture import command as lecture
from forethought.lecture import running
from forethought.lecture.measuring import claims_in, keep, kept, measure, path_of
from forethought.lecture.running import Job, environment, run_all
from forethought.runs.files import read_sealed, seal

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
    """One claim fails in two seeds, one is killed: both are shown as such, and only the killed one is measured anew."""
    out = tmp_path / "out"
    status, said, told = call(capsys, "--out", out, "--jobs", "3", "--no-cache")
    assert status == 1
    lines = {line.split()[0]: line for line in said.splitlines() if line and not line.startswith(" ")}
    assert "holds" in lines["sure"]
    assert "2.01 [1.99, 2.03] nats" in lines["sure"]
    assert "> 1 " in lines["sure"]
    assert "undecided" in lines["broken"]
    assert "1 (2 failed)" in lines["broken"]
    assert "undecided" in lines["killed"]
    assert "only with --full" in lines["dear"]
    assert "Failed: seed 0: the effect is nan." in said
    assert "Failed: seed 1: ValueError: a <b>bold</b> mistake." in said
    assert "Failed: its process was killed by SIGKILL." in said
    assert "3/3" in told
    page = (out / "lecture.html").read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; mistake" in page
    assert "<b>" not in page
    assert not path_of(out, "killed").exists()
    calls = made_up / "sure.calls"
    assert calls.read_text() == "xxx"

    (made_up / "spare").touch()
    status, said, told = call(capsys, "--out", out, "--no-cache", "--json")
    assert status == 1  # the broken one still is
    assert "2 of 3 claims are there already." in told
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
    none, why = kept(tmp_path, claim, True)
    assert none is None
    assert "something else (full, seeds)" in str(why)
    none, why = kept(tmp_path, dataclasses.replace(claim, margin=2.0), False)
    assert none is None
    assert "(margin)" in str(why)
    path = path_of(tmp_path, "sure")
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
    (["--deadline", "nan"], "--deadline is nan; it must be larger than 0 seconds."),
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


def sleeper(folder: Path, out: Path) -> list[Job]:
    """The claim that sleeps for a minute."""
    (folder / "sleepers.py").write_text("from made_up_claims import SLOW as CLAIMS\n")
    return [Job("slow", ("sleepers", "slow", str(out), "quick", "no-cache"))]


def test_what_takes_too_long_is_ended(made_up, tmp_path) -> None:
    said, began = [], time.monotonic()
    run_all(sleeper(made_up, tmp_path), 1, 0.2, lambda *words: said.append(words))
    assert time.monotonic() - began < 20.0
    assert [(name, wrong) for name, wrong, _ in said] == [("slow", "it took longer than 0.2 s and was ended")]
    assert not path_of(tmp_path, "slow").exists()


def test_an_interruption_ends_the_processes(made_up, tmp_path, monkeypatch) -> None:
    """Whatever comes up while others are measured: nothing of it goes on by itself."""
    started = []
    start = running._start
    monkeypatch.setattr(running, "_start", lambda job: started.append(start(job)) or started[-1])

    def impatient(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "time", SimpleNamespace(sleep=impatient, monotonic=time.monotonic))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(sleeper(made_up, tmp_path), 1, 60.0, lambda *words: None)
    assert time.monotonic() - began < 30.0, "it was waited for until it had ended by itself"
    assert [now.process.poll() is not None for now in started] == [True]
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].process.pid, 0)


def test_a_process_has_one_thread_unless_the_user_says_otherwise() -> None:
    own = environment({"HOME": "/"})
    assert own["OMP_NUM_THREADS"] == own["OPENBLAS_NUM_THREADS"] == "1"
    assert own["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    assert own["HOME"] == "/"
    theirs = environment({"OMP_NUM_THREADS": "2", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true"})
    assert theirs["OMP_NUM_THREADS"] == "2"
    assert theirs["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"
    assert environment({"XLA_FLAGS": "--a=b"})["XLA_FLAGS"] == "--a=b --xla_cpu_multi_thread_eigen=false"
