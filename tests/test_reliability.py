"""RELIABILITY.md is what the results give, and the scripts behind it measure what they say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.random as jr
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import faults
import reliability
import reliability_rows
import soak
import storage

from forethought.math.dataset import append, empty
from forethought.runs.log import Turn
from forethought.types import Spec, Trajectory
from small import recipe

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = {"commit": "0123456789ab" + 28 * "c", "machine": {"cpu": "c", "cores": 2, "system": "s", "python": "3"}}


def test_the_page_is_what_the_results_give(capsys) -> None:
    status = reliability.main(["--check"])
    assert status == 0, f"Run python bench/reliability.py: {capsys.readouterr().out}"


def test_a_page_that_is_not_is_told(tmp_path, capsys) -> None:
    page = tmp_path / "page.md"
    where = ["--results", str(tmp_path), "--page", str(page)]
    assert reliability.main(where) == 0
    assert reliability.main([*where, "--check"]) == 0
    page.write_text(page.read_text().replace("*not measured yet*", "0", 1))
    capsys.readouterr()
    assert reliability.main([*where, "--check"]) == 1
    assert "+| Kill and resume | *not measured yet* |" in capsys.readouterr().out


def test_without_results_every_test_says_what_to_run(tmp_path) -> None:
    page = reliability.page({})
    assert page.count("*Not measured yet: run*") == len(reliability.TESTS)
    assert page.count("| *not measured yet* |") == len(reliability.TESTS)
    assert ": met" not in page


@pytest.mark.parametrize("test", reliability.TESTS, ids=lambda test: test.title)
def test_each_command_names_a_script_with_these_flags(test) -> None:
    scripts = re.findall(r"python (bench/\w+\.py)((?: --[\w-]+(?: \S+)?)*)", test.command)
    assert scripts
    for script, flags in scripts:
        text = (ROOT / script).read_text()
        assert not [flag for flag in re.findall(r"--[\w-]+", flags) if f'"{flag}"' not in text]


def kill(place: str, wrong: list[str]) -> dict[str, Any]:
    return {"task": "Pendulum-v1", "place": place, "replayable": True, "kills": 1, "wrong": wrong}


SOAK = {
    "settings": {"minutes": 30.0},
    "episodes": 9,
    "turns": 20,
    "megabytes_per_10_minutes": 0.25,
    "descriptors": [6, 6],
    "compilations": [20, 20],
    "met": {"memory": True, "descriptors": True, "compilations": True},
}
HANG = {"fault": "hang", "found": True, "named": True, "kept": True}
NEGATIVES = {"places": 150, "cases": 400, "wanted": {"places": 150, "cases": 400}}
KILLS = {"runs": 200, "kills": 260, "wrong": 0}
FLAGS = {"read": {"lines": 2000, "faults": []}, "carried_out": {"lines": 100, "faults": []}}


@pytest.mark.parametrize(
    ("reader", "found", "failures", "target"),
    [
        ("kills_row", KILLS, "0", "met"),
        ("kills_row", KILLS | {"wrong": 1}, "1", "missed"),
        ("kills_row", KILLS | {"runs": 199}, "0", "missed"),
        ("flips_row", {"flips": {"named": 900, "refused": 100, "unchanged": 5}}, "0", "met"),
        ("flips_row", {"flips": {"named": 1000, "silent": 2, "wrong": 1}}, "3", "missed"),
        ("flips_row", {"flips": {"named": 999, "unchanged": 5}}, "0", "missed"),
        ("damages_row", {"damages": {"deleted": {"named": 3, "spare": 1}, "swapped": {"named": 2}}}, "0", "met"),
        ("damages_row", {"damages": {"deleted": {"named": 3, "silent": 1}, "swapped": {"wrong": 1}}}, "2", "missed"),
        ("faults_row", {"faults": 20, "cases": 142, "wrong": 0}, "0", "met"),
        ("faults_row", {"faults": 20, "cases": 142, "wrong": 4}, "4", "missed"),
        ("faults_row", {"faults": 19, "cases": 140, "wrong": 0}, "0", "missed"),
        ("hang_row", {"each": [HANG, HANG | {"fault": "exception", "found": False}]}, "0", "met"),
        ("hang_row", {"each": [HANG | {"kept": False}]}, "1", "missed"),
        ("hang_row", {"each": []}, "0", "missed"),
        ("flags_row", FLAGS, "0", "met"),
        ("flags_row", FLAGS | {"carried_out": {"lines": 100, "faults": [{}]}}, "1", "missed"),
        ("flags_row", FLAGS | {"read": {"lines": 10, "faults": []}}, "0", "missed"),
        ("negatives_row", NEGATIVES | {"met": True}, "-", "met"),
        ("negatives_row", NEGATIVES | {"met": False}, "-", "missed"),
        ("soak_row", SOAK, "+0.25 MB", "met"),
        ("soak_row", SOAK | {"met": SOAK["met"] | {"descriptors": False}}, "+0.25 MB", "missed"),
        ("soak_row", SOAK | {"settings": {"minutes": 1.0}}, "+0.25 MB", "not yet that long"),
        ("tests_row", {"whole": {"tests": 9, "failures": 0, "errors": 0, "skipped": 1}}, "0", "met"),
        ("tests_row", {"whole": {"tests": 9, "failures": 1, "errors": 1, "skipped": 1}}, "2", "missed"),
    ],
)
def test_a_target_is_met_only_by_enough_cases_without_failure(reader, found, failures, target) -> None:
    row = getattr(reliability_rows, reader)(found)
    assert row.failures.startswith(failures)
    assert re.search(rf": \**{target}\**$", row.target), row.target


def test_a_file_of_results_becomes_a_line_and_a_section(tmp_path) -> None:
    each = [kill("save", []), kill("save", ["array fitted"]), kill("train", [])]
    (tmp_path / "kills.json").write_text(json.dumps({"runs": 3, "kills": 3, "wrong": 1, "each": each, **ORIGIN}))
    page = reliability.page(reliability.results_in(tmp_path))
    assert "| Kill and resume | 3 runs, 3 kills | 1 | 0 of at least 200: **missed** |" in page
    assert "| Pendulum-v1 | save | yes | 2 | 1 |" in page
    assert "- commit: 0123456789ab\n- machine: c, 2 cores, s, Python 3" in page
    assert page.count("*Not measured yet: run*") == len(reliability.TESTS) - 1


JUNIT = """<?xml version="1.0"?><testsuites><testsuite timestamp="2026-01-02T03:04:05">
<testcase classname="tests.runs.test_a" name="x"/><testcase classname="tests.runs.test_a.TestB" name="y"/>
<testcase classname="tests.runs.test_c" name="z"><failure message="no"/></testcase>
<testcase classname="tests.test_d" name="w"><skipped/></testcase>
<testcase classname="tests.test_d" name="v"><error/></testcase></testsuite></testsuites>"""


def test_tests_are_counted_by_folder(tmp_path) -> None:
    (tmp_path / "tests.xml").write_text(JUNIT)
    found = reliability_rows.counted(tmp_path / "tests.xml")
    assert found["folders"] == {
        "tests": {"tests": 2, "failures": 0, "errors": 1, "skipped": 1},
        "tests/runs": {"tests": 3, "failures": 1, "errors": 0, "skipped": 0},
    }
    assert found["whole"] == {"tests": 5, "failures": 1, "errors": 1, "skipped": 1}
    (tmp_path / "none.xml").write_text("<testsuites/>")
    with pytest.raises(SystemExit, match="holds no test"):
        reliability_rows.counted(tmp_path / "none.xml")


def sample(second: float, megabytes: float, descriptors: int = 6, compilations: int = 20) -> dict[str, Any]:
    return {"seconds": second, "megabytes": megabytes, "descriptors": descriptors, "compilations": compilations}


def test_the_slope_is_that_after_the_warm_up() -> None:
    """5 MB in 10 minutes after a warm-up in which everything grows."""
    warm = [sample(s, 100 + s, 3, s) for s in range(0, 200, 10)]
    steady = [sample(s, 500 + s * 5 / 600) for s in range(200, 601, 10)]
    found = soak.judged([*warm, *steady], 600.0)
    assert found["megabytes_per_10_minutes"] == pytest.approx(5.0, abs=1e-9)
    assert (found["descriptors"], found["compilations"]) == ([6, 6], [20, 20])
    assert found["met"] == {"memory": False, "descriptors": True, "compilations": True}


@pytest.mark.parametrize(("name", "values"), [("descriptors", (7, 20)), ("compilations", (6, 21))])
def test_one_more_descriptor_or_compilation_is_seen(name: str, values: tuple[int, int]) -> None:
    steady = [sample(s, 500.0) for s in range(200, 600, 10)]
    met = soak.judged([*steady[:-1], sample(590, 500.0, *values)], 600.0)["met"]
    assert met == {"memory": True, "descriptors": True, "compilations": True} | {name: False}


def test_a_slope_needs_samples() -> None:
    with pytest.raises(SystemExit, match="There are 1 samples after the warm-up; at least 5 are needed"):
        soak.judged([sample(0, 1.0), sample(59, 1.0)], 60.0)


def test_the_newest_rows_stay_and_the_capacity_too() -> None:
    count = 30
    trajectory = Trajectory(
        x=np.arange(count)[:, None] * 1.0,
        u=np.zeros((count, 1)),
        y=np.ones((count, 1)),
        reward=-np.arange(count) * 1.0,
        terminated=np.zeros(count, bool),
        truncated=np.zeros(count, bool),
        t=np.arange(count),
        log_prob=np.zeros(count),
        condition=np.zeros(count, np.int64),
    )
    data = append(empty(Spec(n=1, m=1), 32), trajectory, 4)
    cut = soak.newest(data, 10)
    assert (int(cut.count), cut.capacity) == (10, 32)
    assert cut.x[:, 0].tolist() == [*range(20, 30), *[0] * 22]
    assert cut.reward[:10].tolist() == [-i for i in range(20, 30)]
    assert cut.episode[:10].tolist() == [4] * 10
    assert soak.newest(cut, 10) is cut


def test_samples_are_taken_at_the_ends_of_episodes(monkeypatch) -> None:
    clock = itertools.count(0.0)
    monkeypatch.setattr(soak, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    sampler = soak.Sampler(9.0, 4.0, lambda: 3)
    turn = lambda steps, episodes: sampler.turn(Turn(steps, 10**6, [0.0] * episodes, {}, 0.0))
    for i, episodes in enumerate([0, 1, 1, 2, 2, 2, 3, 3, 3], start=1):
        turn(10 * i, episodes)
    with pytest.raises(soak.Enough):
        turn(100, 4)
    rows = [[s[name] for name in ("seconds", "episodes", "steps", "turns")] for s in sampler.samples]
    assert rows == [[2.0, 1, 20, 2], [7.0, 3, 70, 7]]


@pytest.mark.slow
def test_a_short_soak(tmp_path, monkeypatch) -> None:
    """Samples at the ends of episodes, until the time is over; the data do not grow."""
    held, cut, clock = [], soak.newest, itertools.count(0.0)
    monkeypatch.setattr(soak, "newest", lambda data, rows: held.append(int(data.count)) or cut(data, rows))
    monkeypatch.setattr(soak, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    random = dataclasses.replace(recipe().algorithm, base_steps=10**6)  # it never plans: little is compiled
    algorithm = soak.Forgetful(random, 20)  # pyright: ignore[reportArgumentType]
    sampler = soak.Sampler(6.0, 2.0, lambda: 3)
    with pytest.raises(soak.Enough):
        recipe(algorithm=algorithm, steps=10**6, out=tmp_path / "run").run(show=sampler)
    rows = [[s[name] for name in ("seconds", "episodes", "steps", "compilations")] for s in sampler.samples]
    assert rows == [[1.0, 1, 10, 3], [3.0, 3, 30, 3], [5.0, 5, 50, 3]]
    assert all(s["megabytes"] > 50 and s["descriptors"] > 2 for s in sampler.samples)
    assert held == [10, 20, 30, 30, 30, 30]
    assert not (tmp_path / "run" / "error.txt").exists()


@pytest.mark.slow
def test_storage_is_measured_on_a_run(tmp_path) -> None:
    found = storage.measure(recipe().algorithm, "Pendulum-v1", 5, 4, tmp_path)
    assert set(found["seconds"]) == {"checkpoint", "opened", "row", "end", "read", "verify", "flush"}
    assert all(0 < case["median"] <= case["max"] and case["count"] == 4 for case in found["seconds"].values())
    assert (
        f"flushes {found['seconds']['checkpoint']['flushes']} times"
        in reliability_rows.storage_details(found | {"load_before": 0.0})[-2]
    )
    assert found["seconds"]["checkpoint"]["flushes"] >= 3
    # The newest three and the best are kept.
    assert len(list((tmp_path / "saves").iterdir())) in (3, 4)
    assert found["bytes"]["checkpoint"]["arrays.safetensors"] > 1000


@pytest.mark.parametrize(
    ("fault", "place", "wrong"),
    [
        ("nan-reward", "step 1", None),
        ("nan-observation", "reset", None),
        ("lossless-dtype", "step 30", None),
        ("none", "step 1", "found"),
    ],
)
def test_faults_are_judged(fault: str, place: str, wrong: str | None) -> None:
    healthy = faults.world("none", 0, "in process").rollouts(faults.Push(), jr.key(0), [5, 6], faults.LIMIT)
    row = faults.one(fault, place, "in process", healthy)
    assert [row["found"], row["named"], row["kept"]] == [wrong is None] * 3
    if wrong is None:
        other = [faults.rows(episode, episode.length) for episode in healthy]
        other[0].x[0] += 1e-12
        assert not faults.one(fault, place, "in process", other)["kept"] or place == "reset"


def test_every_fault_comes_at_every_place() -> None:
    """20 faults at three steps and 13 of them in reset, in a worker process; a hang only there."""
    found = list(faults.cases(faults.FAULTS))
    assert len(found) == len(set(found)) == 73 + 69
    assert sum(fault == "hang" for fault, _, _ in found) == 4


def test_another_checker_is_judged_by_what_is_new() -> None:
    def checker(fault: str) -> None:
        if fault == "info-none":
            raise TypeError("info")
        if fault == "exception":
            raise RuntimeError("the motor is off")

    found = faults.elsewhere(checker)
    assert found["found"] == ["info-none"]
    assert found["said"]["exception"] == ["RuntimeError: the motor is off"]
