"""What `check` finds in environments of which nothing can be trusted."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest

from faulty import FAULTS, ID
from forethought.checks.environment import Row as EnvironmentRow
from forethought.checks.environment import check_environment, difference, same
from forethought.checks.findings import MOST, Report
from forethought.errors import UserError
from forethought.worlds.guard import Guard


def checked(name: str, steps: int = 300, **settings: Any) -> Report:
    return check_environment(f"sick:sick/{name}-v0", steps=steps, **settings)


def numbered(report: Report) -> list[str]:
    """The problems as they are printed."""
    return re.findall(r"^ +\d+\. (.*)$", report.text(), re.MULTILINE)


@pytest.mark.parametrize(
    "id", ["sick:sick/Healthy-v0", "Pendulum-v1", "CartPole-v1", "Acrobot-v1", "InvertedPendulum-v5"]
)
def test_nothing_is_wrong(id: str) -> None:
    report = check_environment(id, steps=300)
    assert report.problems == []
    assert report.ok
    assert report.steps == 300
    assert "Nothing is wrong." in report.text()
    assert report.limit is not None
    latency = report.latency_ms
    assert latency is not None
    assert 0.0 < latency["median"] <= latency["p99"] <= latency["max"]
    assert sum(count for _, _, count in latency["histogram"]) == 300
    for low, high, _ in latency["histogram"]:
        assert high == 2.0 * low
    assert latency["histogram"][0][0] <= latency["median"] <= latency["histogram"][-1][1]


WRONG = {
    "Unseeded": "two resets with the seed 0 began with the observation .* self.np_random",
    "Noisy": "the same seed and the same actions gave, at step 0, the reward .* self.np_random",
    "Shared": "two instances disturb each other: .* keep all state on self",
    "Numbered": "a new instance, with the same seed and the same actions, gave at step 0 the reward",
    "Grasping": "step changed the action that it was given in place; it must work on a copy",
    "NoInit": r"Gymnasium cannot make .*OSError: no such device: /dev/ttyUSB0",
    "Quits": "step raised SystemExit: enough; it must raise nothing",
    "QuitsAtOnce": "its __init__ raised SystemExit: 0; it must raise nothing",
    "NoClose": r"close raised RuntimeError: it is jammed; it must raise nothing. See .*sick.py:\d+",
    "NoReset": r"in reset: reset raised an exception; it was NotImplementedError\(\). See .*sick.py:\d+",
    "NoSpaces": "has no observation_space; its __init__ must set self.observation_space",
    "Discrete": r"has observations in Discrete\(5\); allowed are Box",
    "Unbounded": "has unbounded actions",
    "Endless": "has no time limit, .* register it with max_episode_steps",
    "Single": "the port is busy",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    report = checked(name)
    assert not report.ok
    assert any(re.search(WRONG[name], problem) for problem in report.problems), report.problems
    assert len(report.problems) <= 2
    assert numbered(report) == report.problems


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("lossless-dtype", "hang")])
@pytest.mark.parametrize("at", [30, "last"])
def test_the_faults_of_the_guard_are_found_in_mid_run(fault: str, at: int | str) -> None:
    report = check_environment(ID, {"fault": fault, "at": at, "episode": 1}, steps=300)
    assert len(report.problems) == 1
    assert f"{ID}, at step {30 if at == 30 else 49}: " in report.problems[0]
    assert report.steps == 300


@pytest.mark.parametrize("fault", ["nan-observation", "info-none", "four-tuple", "exception", "short-shape"])
def test_the_faults_of_a_reset_are_found(fault: str) -> None:
    report = check_environment(ID, {"fault": fault, "at": -1, "episode": 3}, steps=300)
    assert len(report.problems) == 1
    assert f"{ID}, in reset: " in report.problems[0]


def test_a_call_that_hangs_is_ended() -> None:
    report = check_environment(ID, {"fault": "hang", "at": 30}, guard=Guard(deadline=0.3))
    assert len(report.problems) == 1
    assert "at step 30: step raised an exception" in report.problems[0]
    assert "no answer within 0.3 s (--guard.deadline changes that)" in report.problems[0]
    assert report.steps == 30


def test_different_problems_are_told_once_each() -> None:
    report = checked("Many", steps=200)
    assert 6 <= len(report.problems) <= MOST
    assert len({re.sub(r"[\d.]+", "", p) for p in report.problems}) == len(report.problems)
    assert any("It happened" in problem for problem in report.problems)
    assert report.episodes > len(report.problems)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Fixed", "every reset seed begins with the same observation"),
        ("Loose", "observations left the limits of observation_space by up to 0."),
    ],
)
def test_what_may_be_meant_is_a_note(name: str, says: str) -> None:
    report = checked(name)
    assert report.ok
    assert any(says in note for note in report.notes)
    assert f"Note: {report.notes[0]}" in report.text()


def test_a_lossless_cast_is_a_note() -> None:
    report = check_environment(ID, {"fault": "lossless-dtype", "at": 3}, steps=200)
    assert report.ok
    assert len([note for note in report.notes if "is of dtype float64, and its space says float32" in note]) >= 1


def test_an_episode_that_never_ends_is_a_note() -> None:
    assert any("no episode ended within 120 steps" in note for note in checked("Endless", steps=120).notes)


@pytest.mark.parametrize("id", ["NoSuch-v0", "nomodule:X-v0", "sick:NoSuch-v0"])
def test_what_does_not_exist_is_refused(id: str) -> None:
    with pytest.raises(UserError, match=r"(There is no task or environment|cannot be imported)"):
        check_environment(id)


def test_a_module_that_quits_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "quits_on_import.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ends the program when it is imported"):
        check_environment("quits_on_import:X-v0")


def test_the_same_seed_finds_the_same() -> None:
    a, b = (check_environment("CartPole-v1", steps=200, seed=3).as_dict() for _ in range(2))
    assert a.pop("latency_ms").keys() == b.pop("latency_ms").keys()
    assert a == b
    other = check_environment("CartPole-v1", steps=200, seed=4).as_dict()
    assert (other["episodes"], other["terminated"]) != (a["episodes"], a["terminated"])


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (np.ones(2), np.ones(2), True),
        (np.ones(2), np.array([1.0, 1.0 + 1e-15]), False),
        (np.ones(2), np.ones(3), False),
        ({"a": np.ones(2), "b": 1}, {"a": np.ones(2), "b": 1}, True),
        ({"a": np.ones(2)}, {"b": np.ones(2)}, False),
        ((1, np.ones(1)), (1, np.zeros(1)), False),
        ((1,), (1, 2), False),
        (None, None, True),
        ("a", "b", False),
    ],
)
def test_sameness(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) is equal
    rows = [EnvironmentRow(0, None, False), EnvironmentRow(a, 1.0, False)]
    others = [EnvironmentRow(0, None, False), EnvironmentRow(b, 1.0, False)]
    assert difference(rows, others) == (None if equal else 1)


class TestCommand:
    def test_a_healthy_environment(self, capsys) -> None:
        from small import call

        answer = call(capsys, "check", "Pendulum-v1", "--steps", "250")
        assert answer.status == 0
        assert "Pendulum-v1: 250 random steps, 2 episodes, seed 0" in answer.out
        assert "Nothing is wrong." in answer.out
        assert re.search(r"^ +[\d.e-]+ to [\d.e-]+ +ms  #+ +\d+$", answer.out, re.MULTILINE)

    def test_a_sick_one(self, capsys) -> None:
        from small import call

        answer = call(capsys, "check", ID, "--env.fault", "huge-reward", "--env.at", "30", "--steps", "100")
        assert answer.status == 1
        assert "1 thing is wrong:\n  1. faulty:Faulty-v0, at step 30: reward must be within 1e+09" in answer.out
        assert "Traceback" not in answer.out + answer.err

    def test_the_flag_that_the_sentence_names(self, capsys) -> None:
        from small import call

        words = ["check", ID, "--env.fault", "huge-reward", "--env.at", "30", "--steps", "100"]
        assert "--guard.reward-bound" in call(capsys, *words).out
        assert "--guard.reward-bound" not in call(capsys, *words, "--guard.reward-bound", "1e31").out

    def test_json_is_one_object_whatever_the_environment_prints(self, capsys) -> None:
        from small import call

        answer = call(capsys, "check", "sick:sick/Chatty-v0", "--steps", "50", "--json", "--seed", "5")
        assert (answer.status, answer.json["ok"], answer.json["problems"]) == (0, True, [])
        assert (answer.json["steps"], answer.json["seed"]) == (50, 5)
        assert "here we go" in answer.err
        answer = call(capsys, "check", "sick:sick/NoInit-v0", "--json")
        assert (answer.status, answer.json["ok"], len(answer.json["problems"])) == (1, False, 1)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ([], "check takes one environment, and none was given"),
            (["Pendulum-v1", "CartPole-v1"], "check takes one environment, and 2 were given"),
            (["Pendulum-v1", "--steps", "0"], "--steps is 0; it must be 1 or larger"),
            (["Pendulum-v1", "--seed", "-1"], "--seed is -1; it must be 0 or larger"),
            (["Pendulum-v1", "--step", "5"], "There is no flag --step. The nearest is --steps."),
            (["Pendulum-v1", "--algorithm", "v1.5"], "There is no flag --algorithm."),
            (["Pendulum-v1", "--env.g"], "--env.g needs a value"),
            (["Pendulum-v2"], "There is no task or environment Pendulum-v2"),
            (["pendulum"], "pendulum is simulated by Forethought itself"),
            (["."], " is no run directory: it has neither config.json nor checkpoints"),
            (["nomodule:X-v0"], "The module nomodule of nomodule:X-v0 cannot be imported"),
        ],
    )
    def test_mistakes_are_told_in_a_sentence(self, capsys, words: list[str], says: str) -> None:
        from small import call

        answer = call(capsys, "check", *words)
        assert (answer.status, answer.out) == (2, "")
        assert says in answer.err
        assert "Traceback" not in answer.err

    def test_help(self, capsys) -> None:
        from small import call

        answer = call(capsys, "check", "--help")
        assert answer.status == 0
        for word in (
            "usage: forethought check TASK",
            "--steps",
            "--seed",
            "--json",
            "--env.NAME",
            "--guard.reward-bound",
        ):
            assert word in answer.out


def test_gymnasiums_registry_is_left_alone() -> None:
    assert gymnasium.spec("Pendulum-v1").max_episode_steps == 200
