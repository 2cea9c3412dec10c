"""Every file of a run, damaged in every way: it is said, and what is loaded was written.  See bench/flips.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import flips

from forethought import UserError
from forethought.runs import verify
from forethought.runs.checkpoint import best, numbered
from forethought.runs.directory import existing
from forethought.runs.experiment import open_run
from forethought.runs.resume import resume
from forethought.runs.verify import problems


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> flips.Runs:
    return flips.make_runs(tmp_path_factory.mktemp("flips"))


@pytest.fixture
def whole(runs, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(runs.path("whole"), tmp_path / "run"))


@pytest.fixture
def broken(runs, tmp_path) -> Path:
    """A copy of a run that was broken off in the middle of an episode."""
    return Path(shutil.copytree(runs.path("broken"), tmp_path / "broken"))


def spoil(path: Path) -> None:
    """Another bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_flips_of_every_file(runs):
    found = flips.measure(runs, flips.flips(runs, 44, seed=1), strict=False)
    assert found["failures"] == []
    assert found["by_way"] == {"flip": {"named": 44}}
    assert len(found["by_file"]) > 30, "every file was damaged"


def test_strict_refuses_every_flip(runs):
    found = flips.measure(runs, flips.flips(runs, 20, seed=2), strict=True)
    assert found["by_way"] == {"flip": {"refused": 20}}


HOW = ["cut to 0.0%", "cut to 1.0%", "cut to 50.0%", "cut to 99.9%", "deleted", "foreign", "swapped"]


@pytest.mark.parametrize("how", HOW)
def test_every_other_damage_to_every_file(runs, how):
    cases = [case for case in flips.others(runs) if case[2] == how]
    assert len(cases) > 30
    # A few of each in the default tests; bench/flips.py has all of them.
    found = flips.measure(runs, iter(cases[:: max(len(cases) // 14, 1)]), strict=False)
    assert found["failures"] == []
    assert found["by_way"][how]["named"] >= 12


def test_the_measure_sees_silence_and_wrong_states(runs, monkeypatch):
    """The judge itself can find both."""
    monkeypatch.setattr(flips, "problems", lambda run: iter(()))
    found = flips.measure(runs, flips.flips(runs, 10, seed=3), strict=False)
    assert found["by_way"]["flip"]["silent"] > 0
    monkeypatch.setattr(flips, "digest", lambda stored: "another")
    found = flips.measure(runs, flips.flips(runs, 3, seed=3), strict=False)
    assert found["by_way"]["flip"] == {"wrong": 3}


def test_undamaged_runs_have_no_problems(whole, broken):
    assert list(problems(existing(whole))) == []
    assert list(problems(existing(broken))) == []
    verify.refuse_damage(existing(broken))


SPOILED = ["config.json", "run.json", "metrics.jsonl", "metrics.crc", "episodes/000001.safetensors"]
SPOILED += ["checkpoints/{}/manifest.json", "checkpoints/{}/arrays.safetensors", "episodes/SHA256SUMS"]


@pytest.mark.parametrize("name", SPOILED)
def test_strict_names_the_file_it_refuses(whole, name):
    name = name.format(numbered(whole / "checkpoints")[-1].name)
    spoil(whole / name)
    with pytest.raises(UserError, match="--strict refuses") as caught:
        open_run(whole, strict=True)
    assert Path(name).name in str(caught.value)


def test_only_another_runs_checkpoints_are_refused(runs, whole):
    """config.json and run.json agree about whose run it is."""
    shutil.rmtree(whole / "checkpoints")
    shutil.copytree(runs.foreign("whole") / "checkpoints", whole / "checkpoints")
    with pytest.raises(UserError, match="none of the 5 checkpoints is valid"):
        open_run(whole)
    assert sum("belongs to another run" in s for s in problems(existing(whole))) == 5


@pytest.mark.parametrize("strict", [False, True])
def test_another_runs_config_is_named(runs, strict):
    cases = [c for c in flips.others(runs) if c[1].name == "config.json" and c[2] == "foreign"]
    found = flips.measure(runs, iter(cases), strict=strict)
    assert found["by_way"] == {"foreign": {"refused" if strict else "named": 2}}


def test_the_best_checkpoint_is_passed_over_aloud(whole):
    """Also where only its manifest is damaged, and it is not the newest."""
    found = best(whole / "checkpoints", None, print).path
    spoil(found / "manifest.json")
    said: list[str] = []
    assert best(whole / "checkpoints", None, said.append).path != found
    assert any(str(found) in sentence for sentence in said)


def test_the_best_checkpoint_is_passed_over_where_its_arrays_are_damaged(whole):
    found = best(whole / "checkpoints", None, print).path
    spoil(found / "arrays.safetensors")
    said: list[str] = []
    assert best(whole / "checkpoints", None, said.append).path != found
    assert any("arrays.safetensors" in sentence for sentence in said)


def test_no_checkpoint_left_is_a_sentence_that_names_each(whole):
    for path in numbered(whole / "checkpoints"):
        spoil(path / "arrays.safetensors")
    said: list[str] = []
    with pytest.raises(UserError, match="none of the 5 checkpoints is valid"):
        open_run(whole, say=said.append)
    assert all(any(str(path) in s for s in said) for path in numbered(whole / "checkpoints"))


def test_a_missing_folder_is_said(whole):
    shutil.rmtree(whole / "episodes")
    found = list(problems(existing(whole)))
    assert [Path(s.split(": ")[0]).name for s in found] == [f"{i:06d}.safetensors" for i in range(4)]


def test_a_missing_folder_of_checkpoints_is_said(whole):
    shutil.rmtree(whole / "checkpoints")
    with pytest.raises(UserError, match="there is no checkpoint"):
        open_run(whole)
    assert any("there is no valid checkpoint" in s for s in problems(existing(whole)))


def test_a_torn_journal_is_said_and_its_whole_rows_are_read(broken):
    file = next((broken / "journal").glob("*.journal"))
    file.write_bytes(file.read_bytes()[:-7])
    said = [s for s in problems(existing(broken)) if str(file) in s]
    assert len(said) == 1
    assert "row 4 and what follows is not whole" in said[0]


def test_a_lost_journal_is_said(broken):
    """Nothing in it is left, but metrics.jsonl tells of its steps."""
    next((broken / "journal").glob("*.journal")).unlink()
    assert any("5 steps that metrics.jsonl tells of are in no journal" in s for s in problems(existing(broken)))


class Listener(flips.Quiet):
    """Keeps what is said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def test_resume_names_every_damage_once_and_then_the_run_is_whole(runs, tmp_path):
    """In a folder whose own name must not hide anything."""
    run = Path(shutil.copytree(runs.path("broken"), tmp_path / "checkpoints config.json"))
    last = numbered(run / "checkpoints")[-1]
    damaged = [run / "episodes/000000.safetensors", run / "metrics.jsonl", last / "arrays.safetensors"]
    damaged.append(numbered(run / "checkpoints")[0] / "manifest.json")
    for path in damaged:
        spoil(path)
    listener = Listener()
    assert resume(run, show=listener).env_steps == 40
    for path in damaged:
        place = path.parent if path.parent.parent.name == "checkpoints" else path
        named = [s for s in listener.said if str(place) in s]
        assert len(named) == 1, (path, named)
    left = list(problems(existing(run)))
    assert [s for s in left if "000000.safetensors" not in s] == [], "what was not lost is whole again"


def test_a_resumed_run_that_is_broken_off_at_once_has_no_problems(whole, monkeypatch):
    """Going on behind the last look takes the metrics back, and the checkpoint that knew more of them goes."""
    from forethought.runs import resume as module

    class Killed(BaseException):
        pass

    def kill(loop, first):
        first(loop)
        raise Killed

    monkeypatch.setattr(module, "finish", kill)
    with pytest.raises(Killed):
        resume(whole, steps=60)
    assert list(problems(existing(whole))) == []
    monkeypatch.undo()
    assert resume(whole).env_steps == 60
    assert list(problems(existing(whole))) == []


@pytest.mark.slow
def test_a_thousand_flips(runs):
    found = flips.measure(runs, flips.flips(runs, 1000, seed=5), strict=False)
    assert found["failures"] == []
    assert found["by_way"] == {"flip": {"named": 1000}}
