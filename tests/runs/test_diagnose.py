"""`forethought diagnose RUN`: what is held out, what is said about it, and what is written."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought import UserError
from forethought.math.dataset import empty
from forethought.models.auto import AutoLearner
from forethought.models.gp_learner import GPLearner
from forethought.runs.diagnose import FILE, diagnose_run, hold_out
from forethought.runs.diagnosis_text import sentences, text
from forethought.runs.directory import RunDirectory, strict
from forethought.runs.experiment import open_run
from forethought.runs.files import read_sealed
from forethought.runs.verify import problems
from forethought.types import Spec
from kept import lines
from small import call, recipe

SPEC = Spec(1, 1)


def episodes(*lengths: int):
    """A dataset of episodes whose states count the rows."""
    parts, first = [], 0
    for length in lengths:
        x = np.arange(first, first + length, dtype=float)[:, None]
        parts.append(as_trajectory(x, x, x + 1))
        first += length
    return as_dataset(SPEC, *parts)


@pytest.mark.parametrize(
    ("lengths", "share", "kept", "held"),
    [
        ((10, 10, 10), 0.2, 20, [10]),
        ((10, 10, 10), 0.5, 10, [10, 10]),
        ((10, 10, 10), 0.99, 10, [10, 10]),
        ((50, 1), 0.2, 50, [1]),
        ((50, 5, 5), 0.15, 50, [5, 5]),
        ((10,), 0.2, 8, [2]),
        ((10,), 0.01, 9, [1]),
        ((2,), 0.99, 1, [1]),
    ],
)
def test_the_last_episodes_are_held_out(lengths, share, kept, held) -> None:
    parts = hold_out(episodes(*lengths), share, "runs/x")
    assert int(parts.data.count) == kept
    assert np.array_equal(np.asarray(parts.data.x)[:kept, 0], np.arange(kept)), "nothing that is judged is learned from"
    assert [e.length for e in parts.episodes] == held
    assert parts.episodes[0].x[0, 0] == sum(lengths) - sum(held)
    assert parts.whole == (len(lengths) > 1)


def test_interleaved_episodes_are_put_together() -> None:
    """Episodes of several workers come in pieces."""
    data = episodes(4, 4)
    mixed = dataclasses.replace(
        data, episode=np.concatenate([[0, 1, 0, 1, 0, 1, 0, 1], np.zeros(data.capacity - 8, int)])
    )
    assert hold_out(mixed, 0.2, "runs/x").episodes[0].x[:, 0].tolist() == [1.0, 3.0, 5.0, 7.0]


def test_what_auto_had_chosen_is_judged(tmp_path) -> None:
    """With fewer rows, as there are when some are held out, it would choose the other one."""
    run, small = tmp_path / "run", recipe().algorithm
    learner = AutoLearner(GPLearner(evaluations=5, restarts=0, functions=2), small.learner, few=5, many=30)
    recipe(algorithm=dataclasses.replace(small, learner=learner), out=run).run()
    found = diagnose_run(open_run(run), held_out=0.5, horizon=3)
    assert found["model"] == "Ensemble"
    assert "its Ensemble, fitted anew to the first 10 steps" in text(found)


@pytest.mark.parametrize(("count", "words"), [(0, "no finished step"), (1, "1 finished step")])
def test_too_little_to_hold_anything_out(count, words) -> None:
    data = empty(SPEC) if count == 0 else episodes(1)
    with pytest.raises(UserError, match=f"runs/x has {words}; at least 2 are needed"):
        hold_out(data, 0.2, "runs/x")


@pytest.fixture(scope="module")
def found(original):
    return diagnose_run(open_run(original), horizon=4)


def test_a_run_is_judged_on_its_last_episode(original, found) -> None:
    assert (found["mode"], found["training_steps"], found["judged_steps"], found["judged_episodes"]) == (
        "held-out",
        20,
        10,
        1,
    )
    assert found["fits"] == 3
    assert (found["name"], found["env_steps"]) == (open_run(original).name, 30)
    assert [a["count"] for a in found["ahead"]] == [10, 9, 8, 7]
    assert found["exploitation"]["steps"] == 3, "the planning horizon"
    assert found["components"] == ["x0", "x1", "x2"]
    data = open_run(original).state.data
    np.testing.assert_allclose(found["scale"], np.asarray(data.x)[:20].std(axis=0))
    assert diagnose_run(open_run(original), horizon=4) == found, "the same numbers each time"


def test_fresh_episodes_judge_the_saved_model(original, found) -> None:
    other = diagnose_run(open_run(original), fresh=2, horizon=4)
    assert (other["mode"], other["training_steps"], other["judged_steps"]) == ("fresh", 30, 20)
    assert other["starts_of_episodes"] == [1000, 1001]
    assert other["one_step"]["error"] != found["one_step"]["error"]
    assert "the saved Ensemble, judged on 20 steps in 2 episodes" in text(other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"held_out": 0.0}, "held-out is 0.0; it must be a share"),
        ({"held_out": 1.0}, "held-out is 1.0; it must be a share"),
        ({"held_out": float("nan")}, "held-out is nan; it must be a share"),
        ({"fresh": 0}, "fresh is 0; it must be a whole number of episodes, at least 1"),
        ({"fresh": 1001}, "at most 1000"),
        ({"horizon": 0}, "horizon is 0; it must be a whole number of steps, at least 1"),
        ({"horizon": 10**6}, "horizon is 1000000"),
    ],
)
def test_settings_out_of_range(original, settings, words) -> None:
    with pytest.raises(UserError, match=words):
        diagnose_run(open_run(original), **settings)


def test_a_run_without_a_fitted_model(original) -> None:
    run = open_run(original)
    run = run._replace(state=dataclasses.replace(run.state, fits=run.state.fits * 0))
    with pytest.raises(UserError, match="has no fitted model yet"):
        diagnose_run(run, fresh=1)


class Own:
    """An algorithm of a user's, which learns in its own way."""

    policy = None


def test_an_algorithm_without_a_learner(original) -> None:
    run = open_run(original)._replace(algorithm=Own())
    with pytest.raises(UserError, match="Own has no field `learner` that could be fitted anew: give --fresh N"):
        diagnose_run(run)


def test_a_fit_that_fails_is_said(original, monkeypatch) -> None:
    run = open_run(original)
    learner = type(run.algorithm.learner)
    monkeypatch.setattr(learner, "fit", lambda self, fitted, data, key: (fitted, {"failed": True}))
    with pytest.raises(UserError, match="could not be fitted to the first 20 steps"):
        diagnose_run(run)


# The command


def test_a_table_that_ends_in_sentences(capsys, run) -> None:
    answer = call(capsys, "diagnose", run, "--horizon", "4")
    assert answer.status == 0
    said = answer.out.splitlines()
    first = (
        "pendulum, v1.5: its Ensemble, fitted anew to the first 20 steps, judged on the rest, 10 steps in 1 episode."
    )
    assert said[0] == first
    head = next(i for i, line in enumerate(said) if line.lstrip().startswith("steps"))
    assert [line.split()[0] for line in said[head + 1 : head + 4]] == ["1", "2", "4"]
    assert "nothing changes" in said[head]
    kept = read_sealed(run / FILE)
    assert said[-len(kept["sentences"]) :] == kept["sentences"]
    assert any("too few data to tell whether the model is as sure as it should be" in s for s in kept["sentences"])
    assert list(problems(RunDirectory(run))) == [], "the run is as whole as before"


def test_json_is_one_strict_object(capsys, run) -> None:
    answer = call(capsys, "diagnose", run, "--json", "--horizon", "12", "--held-out", "0.6")
    found = answer.json
    json.dumps(found, allow_nan=False)
    assert (found["training_steps"], found["judged_episodes"]) == (10, 2)
    assert found["ahead"][10]["error"] is None, "no episode is so long"
    kept = read_sealed(run / FILE)
    assert {k: v for k, v in kept.items() if k != "sha256"} == found


def test_fresh_on_the_command_line(capsys, run) -> None:
    found = call(capsys, "diagnose", run, "--json", "--fresh", "1", "--horizon", "4").json
    assert (found["mode"], found["judged_steps"]) == ("fresh", 10)


def test_a_run_of_one_episode(capsys, tmp_path) -> None:
    recipe(out=tmp_path / "r", steps=10).run()
    answer = call(capsys, "diagnose", tmp_path / "r", "--horizon", "4")
    assert answer.status == 0
    assert (
        "fitted anew to the first 8 steps of its only episode, judged on the rest, 2 steps in 1 episode" in answer.out
    )


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nowhere"], 2, "nowhere is no run directory"),
        ([], 2, "diagnose takes one run directory, and none was given"),
        (["RUN", "--held-out", "2"], 2, "held-out is 2.0; it must be a share"),
        (["RUN", "--held-out", "much"], 2, "--held-out is 'much'; it must be a number"),
        (["RUN", "--fresh", "0"], 2, "fresh is 0"),
        (["RUN", "--best"], 2, "There is no flag --best"),
    ],
)
def test_mistakes_are_sentences(capsys, original, words, status, says) -> None:
    answer = call(capsys, "diagnose", *[original if w == "RUN" else w for w in words])
    assert (answer.status, answer.out) == (status, "")
    assert says in answer.err


def test_damage_is_refused_if_that_is_asked(capsys, run) -> None:
    (run / "run.json").write_text("{")
    assert call(capsys, "diagnose", run, "--strict").status == 2
    assert not (run / FILE).exists()
    assert call(capsys, "diagnose", run, "--horizon", "4", "--quiet").status == 0


def test_whoever_does_not_read_on_does_not_cost_the_file(capsys, run, monkeypatch) -> None:
    """As `| head` does, and Ctrl-C."""

    def gone(found):
        raise KeyboardInterrupt

    monkeypatch.setattr("forethought.runs.diagnosis_text.text", gone)
    assert call(capsys, "diagnose", run, "--horizon", "4").status == 130
    assert (run / FILE).exists()


def test_a_folder_that_cannot_be_written_to(capsys, run, monkeypatch) -> None:
    """The numbers are said, and the exit status tells that they could not be kept."""

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("forethought.runs.diagnose.replace_durably", full)
    answer = call(capsys, "diagnose", run, "--horizon", "4")
    assert answer.status == 1
    assert "nothing changes" in answer.out
    assert "diagnosis.json could not be saved: No space left on device" in answer.err


def test_help_names_it(capsys) -> None:
    assert "diagnose DIR" in call(capsys, "--help").out
    assert "--held-out" in call(capsys, "diagnose", "--help").out


# While training


def test_the_same_numbers_go_into_the_metrics(original) -> None:
    planned = [line for line in lines(original) if line.get("planned")]
    assert len(planned) == 2
    for line in planned:
        for name in ("model_error_1", "coverage_50_1", "coverage_95_5", "log_likelihood_1", "epistemic_std"):
            assert isinstance(line[name], float), name
        assert line["exploitation_steps"] == 3
        assert len(line["model_error_by_component"]) == open_run(original).task.spec.n
        assert line["model_error_20"] is None, "episodes of ten steps"


# Sentences


@pytest.fixture
def plain(found):
    """A diagnosis in which all is well, to be spoiled: 1,000 independent points, two components, four steps."""
    held = lambda share, wide: {
        "share": share,
        "by_component": [share, share],
        "low": [share - wide] * 2,
        "high": [share + wide] * 2,
        "effective": [1000.0] * 2,
    }
    at = lambda h: {
        "steps": h,
        "count": 1000,
        "finite": 1.0,
        "error": 0.1 * h,
        "error_by_component": [0.1 * h] * 2,
        "persistence": 0.25,
        "wins": {"share": 0.9, "low": 0.8, "high": 0.95} if h < 3 else {"share": 0.1, "low": 0.05, "high": 0.2},
        "coverage": {"50": held(0.5, 0.05), "80": held(0.8, 0.04), "95": held(0.95, 0.02)},
        "log_likelihood": 1.0,
        "log_likelihood_standard_error": 0.1,
        "epistemic_share": 0.25,
    }
    one = {"error": [0.1, 0.1], "bias": [0.0, 0.0], "bias_standard_error": [0.01, 0.01]}
    windows = {"gap": 0.1, "standard_error": 0.2, "windows": 30, "effective": 30.0, "steps": 20, "real_return": -50.0}
    return copy.deepcopy(found) | {
        "components": ["x0", "x1"],
        "one_step": one,
        "break_even": 2,
        "ahead": [at(h) for h in range(1, 5)],
        "exploitation": windows,
    }


def test_all_is_well(plain) -> None:
    assert sentences(plain) == [
        "The model beats 'nothing changes' up to 2 steps, and not beyond.",
        "The predictive bands hold as many points as they should, as far as so many data can tell.",
        "At one step 25% of the predictive variance is doubt, which more data would lessen; the rest is noise, which "
        "they would not.",
        "Nothing shows that plans exploit the model: imagined minus real return over 20 steps is 0.1 (-+ 0.41).",
    ]


def spoil(plain, **changes):
    """Change entries by their path, with __ between the parts; `each` means every number of steps from the 3rd on."""
    for path, value in changes.items():
        *way, last = path.split("__")
        for place in plain["ahead"][2:] if way and way[0] == "late" else [plain]:
            for part in way[1:] if way and way[0] == "late" else way:
                place = place[int(part) if isinstance(place, list) else part]
            place[int(last) if isinstance(place, list) else last] = value
    return sentences(plain)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"break_even": 4},
            "The model beats 'nothing changes' up to 4 steps, though not at every number of steps below",
        ),
        ({"break_even": 1}, "The model beats 'nothing changes' up to 1 step, and not beyond."),
        ({"break_even": 0}, "The model beats 'nothing changes' at none of 1 to 4 steps: it is of no use as it is."),
        ({"break_even": None}, "There are too few data to tell whether the model beats"),
        (
            {"late__coverage__95__by_component": [0.61, 0.95], "late__coverage__95__high": [0.66, 0.97]},
            "x0 is over-confident beyond 2 steps: 61% of points lie in the 95% band (4 steps ahead).",
        ),
        (
            {"late__coverage__80__by_component": [0.8, 0.99], "late__coverage__80__low": [0.7, 0.97]},
            "x1 is less sure than it could be: 99% of points lie in the 80% band (3 steps ahead).",
        ),
        ({"one_step__bias": [0.0, -0.09]}, "x1 is predicted too low, by 0.09 standard deviations at one step"),
        ({"one_step__bias": [0.08, 0.0]}, "x0 is predicted too high, by 0.08"),
        (
            {"exploitation__gap": 12.34},
            "Over 20 steps plans look 12.3 better in the model than they were (-+ 0.41): it is",
        ),
        ({"exploitation__gap": -9.0}, "Over 20 steps plans were 9 better than they look in the model (-+ 0.41)."),
        ({"exploitation__standard_error": None}, "There are too few data (30 windows of 20 steps) to tell"),
        ({"exploitation__effective": 2.0}, "There are too few data (30 windows of 20 steps) to tell"),
        ({"exploitation__gap": None}, "to tell whether plans exploit it."),
        ({"late__finite": 0.88}, "From 12% of the starting points the model's rollouts are not finite within 4 steps"),
    ],
)
def test_what_is_wrong_is_said(plain, changes, says) -> None:
    assert says in "\n".join(spoil(plain, **changes))


@pytest.mark.parametrize(
    ("changes", "not_said"),
    [
        # Within the margin, and within what the points can tell.
        ({"late__coverage__95__by_component": [0.9, 0.9], "late__coverage__95__high": [0.94, 0.94]}, "over-confident"),
        ({"one_step__bias": [0.09, 0.0], "one_step__bias_standard_error": [0.04, 0.04]}, "predicted too"),
        ({"exploitation__gap": 0.3}, "exploited"),
        # Certain, and too small to matter.
        ({"exploitation__gap": 0.3, "exploitation__standard_error": 0.01}, "exploited"),
        ({"one_step__bias": [0.03, 0.0], "one_step__bias_standard_error": [0.001, 0.001]}, "predicted too"),
    ],
)
def test_what_may_be_luck_is_not_said(plain, changes, not_said) -> None:
    assert not_said not in "\n".join(spoil(plain, **changes))


def test_a_model_without_doubt(plain) -> None:
    plain["ahead"][0]["epistemic_share"] = 0.0
    assert any(s.startswith("The model has no doubt about itself") for s in sentences(plain))


def test_few_points_are_said_to_be_few(plain) -> None:
    plain["ahead"][0]["coverage"]["95"]["effective"] = [1000.0, 7.0]
    said = sentences(plain)
    assert "about 7 independent points, and 20 are needed." in said[1]
    assert not any("band" in s for s in said)


def test_nothing_known_is_a_table_all_the_same(found) -> None:
    """A model that said NaN throughout."""
    nothing = lambda v: (
        {k: nothing(e) for k, e in v.items()}
        if isinstance(v, dict)
        else [nothing(e) for e in v]
        if isinstance(v, list)
        else None
        if isinstance(v, float)
        else v
    )
    spoiled = strict(nothing(found))
    spoiled["sentences"] = sentences(spoiled)
    assert "too few data" in text(spoiled)
