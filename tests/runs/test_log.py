from __future__ import annotations

import json

import pytest

from forethought.runs.directory import RunDirectory, strict
from forethought.runs.log import Bar, Lines, Quiet, Turn, display, number, summary

METRICS = {"planned": True, "model_error_1": 0.01234, "model_error_20": float("nan"), "step_seconds": 0.0056}


def test_metrics_are_strict_json(tmp_path):
    run = RunDirectory(tmp_path)
    run.append_metrics({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.5], "c": {"d": float("nan")}})
    run.append_metrics({"a": 1})
    text = run.metrics.read_text()
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    first, second = (json.loads(line, parse_constant=refuse) for line in text.splitlines())
    assert first == {"a": None, "b": ["Infinity", "-Infinity", 1.5], "c": {"d": None}}
    assert second == {"a": 1}
    run.keep_metrics(1)
    assert run.metrics.read_text() == text.splitlines()[0] + "\n"


def test_strict_leaves_the_rest_alone():
    value = {"x": [1, 2.5, None, True, "NaN"]}
    assert strict(value) == value


def test_a_summary_says_what_matters():
    text = summary(Turn(80, 300, [-1103.84], METRICS, 12.0))
    assert text == "episode 1  return -1103.8  model error 0.0123 / -  0.0056 s/step"
    assert summary(Turn(10, 300, [], {"planned": False}, 1.0)) == "episode 0  return -"
    assert [number(v) for v in (None, "x", float("inf"), 3, 0.00012345)] == ["-", "-", "-", "3", "0.000123"]


def test_plain_lines_where_there_is_no_terminal(capsys):
    assert isinstance(display(quiet=True), Quiet)
    shown = display(quiet=False)
    assert isinstance(shown, Lines)
    with shown:
        shown.turn(Turn(20, 300, [], METRICS, 1.0))
        shown.turn(Turn(200, 300, [-5.0], METRICS, 2.0))
        shown.turn(Turn(220, 300, [-5.0], METRICS, 3.0))
        shown.turn(Turn(300, 300, [-5.0], METRICS, 4.0))
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split()[1] for line in said.err.splitlines()] == ["200/300", "300/300"]
    assert "\x1b" not in said.err


def test_the_bar_goes_to_standard_error(capsys):
    with Bar() as bar:
        bar.turn(Turn(200, 300, [-5.0], METRICS, 2.0))
        bar.say("A [sentence] with brackets.")
    said = capsys.readouterr()
    assert said.out == ""
    assert "A [sentence] with brackets." in said.err
    assert "200/300 return -5.0  error@1 0.012 @20 -  5.6 ms/step" in said.err
