from __future__ import annotations

import json

import pytest

from forethought.runs.directory import strict
from forethought.runs.files import Damaged
from forethought.runs.log import Bar, Lines, Quiet, Turn, blindness, display, number, summary, warnings_of
from forethought.runs.metrics import MetricsFile, intact, resumed
from small import recipe

METRICS = {"planned": True, "model_error_1": 0.01234, "model_error_20": float("nan"), "step_seconds": 0.0056}


def test_metrics_are_strict_json(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.5], "c": {"d": float("nan")}})
    metrics.append({"a": 1})
    text = metrics.path.read_text()
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    first, second = (json.loads(line, parse_constant=refuse) for line in text.splitlines())
    assert first == {"a": None, "b": ["Infinity", "-Infinity", 1.5], "c": {"d": None}}
    assert second == {"a": 1}


def test_metrics_go_on_from_a_seal(tmp_path):
    """What was written after it is dropped; what was written before it must be as it was."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    empty = metrics.seal()
    assert intact(path, empty) == b""
    metrics.append({"a": 1})
    seal, kept = metrics.seal(), path.read_bytes()
    metrics.append({"a": 2})
    assert intact(path, seal) == kept
    whole = path.read_bytes()
    again = resumed(path, seal)
    assert path.read_bytes() == kept
    again.append({"a": 2})
    assert path.read_bytes() == whole
    assert again.seal() == metrics.seal(), "as if it had never been broken off"
    assert resumed(path, empty).seal() == empty
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[:-1], "is shorter than when the checkpoint was written"),
        (lambda data: b"", "is shorter than when the checkpoint was written"),
        (lambda data: None, "is missing"),
        (lambda data: b"X" + data[1:], "is not what was written"),
        (lambda data: data[:-2] + b" \n", "is not what was written"),
    ],
)
def test_metrics_that_are_not_what_was_sealed_are_put_aside(tmp_path, spoil, sentence):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"a": 1})
    data = spoil(metrics.path.read_bytes())
    metrics.path.unlink()
    if data is not None:
        metrics.path.write_bytes(data)
    with pytest.raises(Damaged, match=f"metrics.jsonl {sentence}"):
        resumed(metrics.path, metrics.seal())
    assert not metrics.path.exists()
    aside = tmp_path / "metrics.jsonl.damaged"
    assert (aside.read_bytes() if aside.exists() else None) == data


@pytest.mark.parametrize("seal", [{}, {"bytes": -1}, {"bytes": "1"}, {"bytes": True}, {"sha256": "0"}], ids=str)
def test_a_seal_that_is_none_is_damage(tmp_path, seal):
    with pytest.raises(Damaged, match=r"does not say what metrics\.jsonl was"):
        intact(tmp_path / "metrics.jsonl", seal)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, []),
        ({"plan_failures": 0, "fit_failed": False, "fit_dropped": 0}, []),
        ({"plan_failures": 2}, []),
        ({"plan_failures": 3}, ["at step 7 no plan of finite cost was found (3 times in this episode)"]),
        (
            {"fit_failed": True},
            ["the fit at step 7 gave no model of finite numbers; the model from before it is kept"],
        ),
        (
            {"fit_failed": True, "fit_says": "There are no rows."},
            ["the fit at step 7 failed; the model from before it is kept. There are no rows."],
        ),
        ({"fit_dropped": 2}, ["at step 7 2 members of the model were dropped"]),
        ({"plan_failures": 3, "fit_failed": True}, ["no plan of finite cost", "the fit at step 7"]),
    ],
    ids=str,
)
def test_what_went_wrong_in_a_turn_is_said_once(metrics, said):
    """Two plans of the episode had failed before: that was said then."""
    found = list(warnings_of(metrics, 7, 2))
    assert len(found) == len(said)
    assert all(
        part in sentence and sentence.startswith("Warning: ") for part, sentence in zip(said, found, strict=True)
    )


@pytest.mark.parametrize(
    ("ties", "steps", "before", "said"),
    [
        (20, 20, 0, True),
        (40, 20, 20, True),
        (40, 20, 21, True),
        (40, 20, 23, False),
        (9, 9, 0, False),
        (None, 20, 0, False),
    ],
)
def test_plans_that_see_no_difference_are_said(ties, steps, before, said) -> None:
    """Nine in ten of the turn's, of which there are a few."""
    found = blindness({"plan_ties": ties, "steps": steps}, 40, before)
    assert (found is not None) == said
    assert found is None or "--algorithm.horizon" in found


def test_a_goal_beyond_the_horizon_is_said_once(capsys) -> None:
    """MountainCar-v0, three steps ahead: every plan costs three."""
    recipe(task="MountainCar-v0", steps=40).run()
    assert capsys.readouterr().err.count("look further ahead") == 1


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


def test_a_strangers_words_do_not_command_the_terminal(capsys):
    for show in (Quiet(), Lines()):
        show.say("the task \x1b]0;owned\x07 is\x9b31m odd\nand über")
    found = capsys.readouterr().err
    assert "\x1b" not in found
    assert "\x9b" not in found
    assert found.count("\\x1b]0;owned\\x07 is\\x9b31m odd\nand über") == 2
