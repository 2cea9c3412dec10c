"""What the panels say of a run, against what is in its files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors
from scipy.stats import t as student

from forethought.reporting.charts import digits_for, figure, level, plain, rounded, series, shown, thinned
from forethought.reporting.contents import Beside, contents, panels_of
from forethought.reporting.local_panel import NUMBERS, _gains, newest_gains
from forethought.reporting.records import read_records
from forethought.runs.evaluations import KEYS, write_evaluation
from forethought.runs.files import Damaged, seal
from report_cases import diagnosis, write_run


def panels(path, **beside):
    return {p["id"]: p for p in panels_of(read_records(path), Beside(**beside))}


def traces(panel, ident):
    """The traces of one figure, by their names; of one to choose from, those of the first choice."""
    found = next(f for f in panel["figures"] if f["id"] == ident)
    return {t.get("name"): t for t in (found["choices"][0] if "choices" in found else found)["traces"]}


def returns_at(run, steps):
    return json.loads((run / "evaluations" / f"{steps:09d}.json").read_text())["returns"]


def test_an_evaluation_has_the_interval_over_its_starts(tmp_path):
    run = write_run(tmp_path / "r", evaluated=[40, 60])
    trace = traces(panels(run)["returns"], "returns")["evaluation, mean over its starts"]
    for i, steps in enumerate((40, 60)):
        values = np.array(returns_at(run, steps))
        low, high = student.interval(0.95, 9, values.mean(), values.std(ddof=1) / math.sqrt(10))
        assert trace["x"][i] == steps
        assert trace["y"][i] == pytest.approx(values.mean(), rel=1e-3)
        assert trace["error_y"]["array"][i] == pytest.approx(high - values.mean(), rel=1e-2)
        assert trace["error_y"]["arrayminus"][i] == pytest.approx(values.mean() - low, rel=1e-2)


@pytest.mark.parametrize(
    ("threshold", "word", "sentence"),
    [
        (-1000.0, "solved", "That solves the task: the threshold is -1000."),
        (1000.0, "not solved", "That does not solve the task: the threshold is 1000."),
        (-185.0, None, "so few starts do not settle it"),
        (None, "no threshold", None),
    ],
)
def test_the_summary_says_whether_the_task_is_solved(tmp_path, threshold, word, sentence):
    run = write_run(tmp_path / "r", threshold=threshold)
    found = contents([read_records(run)], [Beside()])["runs"][0]
    assert found["verdict"] == word or (word is None and found["verdict"].endswith(", not certain"))
    assert sentence is None or sentence in " ".join(found["sentences"])


def test_what_is_missing_is_said_at_the_top_and_in_its_panel(tmp_path):
    run = write_run(tmp_path / "r", evaluated=[])
    found = contents([read_records(run)], [Beside(no_fan=["No fan was asked for."])])["runs"][0]
    assert found["verdict"] == "not evaluated"
    by_panel = {m["panel"]: m["says"] for m in found["missing"]}
    assert by_panel["fan"] == "No fan was asked for."
    assert "forethought evaluate" in by_panel["returns"]
    assert "forethought diagnose" in by_panel["error"]
    assert "--video" in by_panel["film"]
    for panel in found["panels"]:
        assert [m["says"] for m in found["missing"] if m["panel"] == panel["id"]] == panel["missing"]


def test_a_run_without_anything_has_every_panel_and_says_so(tmp_path):
    found = panels(write_run(tmp_path / "r", episodes=0))
    assert set(found) >= {"returns", "fan", "error", "calibration", "planner", "film", "events", "provenance", "other"}
    for ident in ("returns", "error", "calibration", "planner", "film", "other"):
        assert found[ident]["missing"], ident
        assert not found[ident]["figures"], ident


def test_a_diagnosis_is_drawn_as_it_was_found(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "diagnosis.json").write_bytes(seal(diagnosis(n=3, horizon=10)))
    found = panels(run, seen={"steps": [1, 2], "error": [0.1, 0.2], "persistence": [1.0, 2.0], "noise_floor": 0.1})
    drawn = traces(found["error"], "error-ahead")
    assert drawn["model, refitted, on 2 episodes held out"]["y"] == rounded([0.01 * h for h in range(1, 11)])
    assert drawn["nothing changes (persistence)"]["y"] == rounded([0.2 * h for h in range(1, 11)])
    assert drawn["noise that the model states, one step"]["y"] == [0.008, 0.008]
    assert drawn["model, on episodes it has learned from"]["y"] == [0.1, 0.2]
    held = next(f for f in found["calibration"]["figures"] if f["id"] == "reliability")
    assert [c["name"] for c in held["choices"]] == ["all", "x0", "x1", "x2"]
    bounds = next(t for t in held["choices"][1]["traces"] if t["name"] == "5 steps ahead")
    assert bounds["x"] == [50, 80, 95]
    assert bounds["y"] == [45.0, 75.0, 90.0]
    assert bounds["error_y"]["array"] == [10.0, 10.0, 10.0]


BROKEN = "From 60% of the starting points the model's rollouts are not finite within 10 steps."


def test_all_that_the_diagnosis_says_is_there_and_what_is_not_finite(tmp_path):
    run, found = write_run(tmp_path / "r"), diagnosis(n=3, horizon=10)
    for at in found["ahead"][7:]:
        at |= {"error": "Infinity", "finite": 0.4}
    (run / "diagnosis.json").write_bytes(seal(found | {"sentences": [*"abcdef", BROKEN]}))
    ps = panels(run)
    assert ps["error"]["list"]["items"] == [*"abcdef", BROKEN]
    assert "3 of 10 horizons have an error that is not finite; they are gaps in the line." in ps["error"]["missing"]
    assert any("counted over 40% of the starts 8 steps ahead" in m for m in ps["calibration"]["missing"])
    (run / "diagnosis.json").write_bytes(seal(found | {"sentences": [f"s{i}" for i in range(500)]}))
    many = panels(run)["error"]
    assert many["list"]["items"][-1] == "s499"
    assert any("Of 500 sentences of the diagnosis the last 200" in m for m in many["missing"])


def test_a_diagnosis_of_another_time_or_another_run_is_not_this_ones(tmp_path):
    run, found = write_run(tmp_path / "r"), diagnosis(n=3)
    said = lambda: " ".join(panels(run)["error"]["missing"])
    (run / "diagnosis.json").write_bytes(seal(found))
    assert "The diagnosis" not in said()
    (run / "diagnosis.json").write_bytes(seal(found | {"env_steps": 20}))
    assert "The diagnosis used 20 steps; the run has 60 steps now: forethought diagnose" in said()
    older = {k: v for k, v in found.items() if k not in ("name", "env_steps")}
    (run / "diagnosis.json").write_bytes(seal(older))
    assert "does not say after how many steps" in said()
    assert any(f["id"] == "error-ahead" for f in panels(run)["error"]["figures"])
    (run / "diagnosis.json").write_bytes(seal(found | {"name": "f" * 16}))
    assert "diagnosis.json belongs to another run" in " ".join(read_records(run).trouble)
    assert "No diagnosis of the model" in said()


def test_local_runs_show_what_each_step_was_to_bring_beside_what_it_brought(tmp_path):
    run = write_run(tmp_path / "r", kind="Local", episodes=0)
    lines = [
        {"env_steps": 10 * i, "local_kl": [float(i)], "local_epsilon": [9.0], "local_multiplier": [0.1], "return": -1.0}
        | {
            "local_predicted": [10.0 * i],
            "local_actual": [None if i == 1 else 7.0 * (i - 1)],
            "local_status": ["solved"],
        }
        for i in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = panels(run)["local"]
    assert traces(found, "kl")["KL of the step"]["y"] == [1.0, 2.0, 3.0]
    assert traces(found, "improvement")["predicted"]["y"] == [10.0, 20.0, 30.0]
    assert traces(found, "improvement")["actual, by the next rollouts"]["y"] == [7.0, 14.0, None]
    assert "there is no checkpoint yet" in " ".join(found["missing"])


def test_gains_come_from_the_newest_checkpoint_if_it_is_whole(tmp_path):
    import hashlib

    gains = np.random.default_rng(0).normal(size=(2, 5, 1, 3))
    for number, factor in ((1, 0.0), (2, 1.0)):
        folder = tmp_path / "checkpoints" / f"{number:06d}"
        folder.mkdir(parents=True)
        data = save_safetensors({"fitted.gains.K": factor * gains})
        (folder / "arrays.safetensors").write_bytes(data)
        files = {"arrays.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
        (folder / "manifest.json").write_bytes(seal({"files": files, "notes": {"finished": True}}))
    np.testing.assert_array_equal(newest_gains(tmp_path), gains)
    (folder / "arrays.safetensors").write_bytes(data[:-1] + b"!")
    with pytest.raises(Damaged, match="SHA-256"):
        newest_gains(tmp_path)


def test_large_gains_are_thinned_and_that_is_said():
    gains = np.random.default_rng(0).normal(size=(4, 500, 10, 50))
    gains[:, 300, 7, 33] = 100.0
    found, missing = _gains(gains, ["a", "b", "c", "d"], NUMBERS)
    assert len(json.dumps(found)) < 1_500_000
    (drawn,) = found["choices"][0]["traces"]
    assert "u7, x33" in drawn["y"]
    assert len(drawn["y"]) == len(drawn["z"]) == 64
    assert len(drawn["x"]) == len(drawn["z"][0]) == 250
    assert missing == ["Of 500 gains the 64 that become largest are drawn.", "Of the gains one of 2 steps is drawn."]
    assert _gains(gains[:, :5, :1, :3], ["a", "b", "c", "d"], NUMBERS)[1] == []


def test_a_run_without_conditions_has_nothing_to_choose_from(tmp_path):
    """A list without an entry is nothing that the page can draw."""
    found = panels(write_run(tmp_path / "r", kind="Local", lines={"local_kl": []}))["local"]
    assert not found["figures"]
    assert "No improvement has been made yet" in " ".join(found["missing"])


def test_v20_runs_show_their_gradient(tmp_path):
    line = {"improve_cost": 3.0, "improve_began": 5.0, "improve_snr": -0.1, "improve_adjoint": [100.0, 10.0, 1.0]}
    found = panels(write_run(tmp_path / "r", kind="V20", lines=line | {"improve_growth": 100.0, "improve_lost": 1}))
    gradient = found["gradient"]
    assert "exploded so far: 3" in gradient["caption"]
    assert traces(gradient, "improve-snr")["signal-to-noise ratio"]["y"] == [-0.1] * 3
    (adjoint,) = next(f for f in gradient["figures"] if f["id"] == "adjoint")["traces"]
    np.testing.assert_array_equal(adjoint["z"], [[2.0] * 3, [1.0] * 3, [0.0] * 3])


def test_faults_and_failures_are_events(tmp_path):
    run = write_run(tmp_path / "r", broken=True)
    with (run / "metrics.jsonl").open("a") as out:
        out.write(
            json.dumps(
                {"env_steps": 61, "fault": "X, step 3: reward is NaN.", "fault_field": "reward", "fault_step": 3}
            )
        )
        out.write("\n")
    rows = panels(run)["events"]["table"]["rows"]
    assert ["61", "guard: reward, step 3 of the episode", "X, step 3: reward is NaN."] in rows
    assert ["20", "plans failed", "1 time in this episode so far."] in rows


def test_one_failure_is_one_event_and_hides_no_fault(tmp_path):
    run = write_run(tmp_path / "r", episodes=0)
    lines = [{"env_steps": 1, "fault": "reward is NaN", "fault_field": "reward"}]
    lines += [{"env_steps": 2 + i, "plan_failures": 1 + (i > 90)} for i in range(250)]
    lines += [{"env_steps": 300, "plan_failures": 1}, {"env_steps": 301, "local_status": ["solved", "inactive"]}]
    lines += [{"env_steps": 302, "local_status": ["inactive", "limited"]}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = panels(run)["events"]
    assert [row[:2] for row in found["table"]["rows"]] == [
        ["1", "guard: reward"],
        ["2", "plans failed"],
        ["93", "plans failed"],
        ["300", "plans failed"],
        ["302", "KL step"],
    ]
    with (run / "metrics.jsonl").open("a") as out:
        out.write("".join(json.dumps({"env_steps": 400 + i, "fit_says": "slow"}) + "\n" for i in range(300)))
    found = panels(run)["events"]
    assert [len(found["table"]["rows"]), found["table"]["rows"][0][1]] == [200, "guard: reward"]
    assert "Of 305 events the newest 200 are listed" in " ".join(found["missing"])


def test_several_workers_have_rounds_and_count_their_episodes(tmp_path):
    run = write_run(tmp_path / "r", workers=4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(line | {"episodes": 4 * line["episodes"]}) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    found = contents([read_records(run)], [Beside()])["runs"][0]
    said = " ".join(found["sentences"])
    assert "12 whole training episodes" in said
    assert "The last 3 rounds of 4 training episodes returned" in said
    assert "rounds of 4 training episodes" in traces(panels(run)["returns"], "returns")


def test_saturation_stands_at_the_number_of_its_episode(tmp_path):
    run = write_run(tmp_path / "r", episodes=4)
    (run / "episodes" / "000000.safetensors").write_text("damaged")
    (trace,) = traces(panels(run)["planner"], "plan-limit").values()
    assert trace["x"] == [1, 2, 3]


def test_what_is_cut_is_said(tmp_path):
    run = write_run(tmp_path / "r", lines={"never": None, "blown": "Infinity"}, note=["x" * 60] * 2000)
    start = {"command": "forethought train " + "a" * 5000 + " --seed 9"}
    (run / "run.json").write_bytes(seal({"run": "r", "starts": [start]}))
    found = panels(run)
    assert found["provenance"]["table"]["rows"][0][1].endswith("--seed 9")
    assert any("config.json has all of it" in m for m in found["provenance"]["missing"])
    assert "Never a finite number: blown, never." in found["other"]["missing"]
    (run / "run.json").write_bytes(seal({"run": "r", "starts": [{"command": "a" * 50_000}]}))
    assert any("run.json has all of them" in m for m in panels(run)["provenance"]["missing"])


def test_returns_of_any_size_have_a_page(tmp_path):
    runs = [write_run(tmp_path / f"r{i}", seed=i) for i in range(3)]
    facts = json.loads((runs[0] / "evaluations" / "000000060.json").read_text())
    facts = {k: v for k, v in facts.items() if k in KEYS}
    for run in runs:
        write_evaluation(run, facts | {"returns": [1e200, -1.7e308], "starts": [1, 2]})
    records = [read_records(run) for run in runs]
    found = contents(records, [Beside()] * 3)
    json.dumps(found, allow_nan=False)
    assert found["runs"][0]["verdict"] == "not solved, not certain"
    assert found["together"][0]["id"] == "together"
    # What nobody expected costs a panel, and not the page.
    records[0].evaluations.append({"env_steps": 90, "returns": []})
    broken = contents(records, [Beside()] * 3)
    assert "do not fit the summary" in broken["runs"][0]["sentences"][0]
    assert "do not fit this panel" in broken["together"][0]["missing"][0]


def test_the_command_versions_and_seed_are_there(tmp_path):
    rows = dict(panels(write_run(tmp_path / "r", seed=7))["provenance"]["table"]["rows"])
    assert rows["command"] == "forethought train Pendulum-v1 --seed 7"
    assert rows["seed"] == "7"
    assert "jax 0.10.2" in rows["versions"]


@pytest.mark.parametrize("junk", ["x", -(2**63), [], {"a": [None]}, [[[1.0]]], True])
def test_files_that_no_run_has_written_do_not_break_the_page(tmp_path, junk):
    run = write_run(tmp_path / "r", kind="Local")
    names = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    names |= dict.fromkeys(
        ["fault", "fit_says", "local_kl", "local_status", "improve_cost", "improve_adjoint", "fit_model"]
    )
    with (run / "metrics.jsonl").open("a") as out:
        out.write(json.dumps(dict.fromkeys(names, junk) | {"env_steps": 61}) + "\n")
    found = diagnosis(n=3)
    ahead = [a | {"error": junk, "coverage": dict.fromkeys(("50", "80", "95"), junk)} for a in found["ahead"]]
    (run / "diagnosis.json").write_bytes(seal(found | {"ahead": ahead, "noise_floor": junk, "judged_episodes": junk}))
    recipe = {
        "task": junk,
        "algorithm": {"kind": "Local", "learner": junk, "planner": junk},
        "seed": junk,
        "steps": junk,
    }
    (run / "config.json").write_bytes(seal({"format": 2, "run": "0123456789abcdef", "experiment": recipe}))
    for kind in ("Local", "V20", "V15"):
        records = read_records(run)
        records.config["algorithm"]["kind"] = kind
        text = json.dumps(contents([records, records], [Beside()] * 2), allow_nan=False)
        assert len(json.loads(text)["runs"][0]["panels"]) >= 9


def test_a_long_series_keeps_its_extremes():
    values = np.sin(np.arange(10_000) / 50.0)
    values[7777], values[1234], values[5000:5100] = 40.0, -40.0, np.nan
    x, y = thinned(list(range(10_000)), values.tolist(), 200)
    assert len(x) <= 200
    assert x == sorted(x)
    assert y[x.index(7777)] == 40.0
    assert y[x.index(1234)] == -40.0
    assert np.isnan(y).any()  # a gap stays one


def test_gaps_stay_when_a_series_is_thinned():
    values = np.arange(6000.0)
    values[::2] = np.nan
    x, y = thinned(list(range(6000)), values.tolist())
    assert len(x) <= 1500
    assert np.isnan(y).sum() >= 400
    assert max(v for v in y if not math.isnan(v)) == 5999.0


def test_numbers_with_an_offset_keep_what_tells_them_apart():
    values = [300.012, 300.044, math.nan, 300.0301234]
    assert series("s", [0, 1, 2, 3], values, "@1")["y"] == [300.012, 300.044, None, 300.03012]
    assert series("s", [0, 1], [300.012345678, 300.012345678], "@1")["y"] == [300.012346] * 2
    assert rounded(np.array([1e-9, 12345.678]), 1e4) == [1e-9, 12346.0]  # and the small ones, of a logarithmic axis
    assert rounded([1.79769e308, np.array([-1.79769e308])]) == [1.79769e308, [-1.79769e308]]  # not up to infinity
    assert shown(300.0278, digits_for(300.012, 300.044)) == "300.028"
    assert shown(12345.678, digits_for(12345.0, 12346.0)) == "12345.7"
    assert shown(-180.4, digits_for(-205.0, -155.0)) == "-180"


def test_what_is_not_finite_is_null_and_digits_are_few():
    assert rounded([1.23456789, math.nan, [math.inf, 2]]) == [1.235, None, [None, 2]]
    assert series("s", [1, 2], [math.nan, -math.inf], "@1")["y"] == [None, None]
    json.dumps(figure("f", [level("l", 1.0, [])], "x", "y", log=True), allow_nan=False)


def test_arrays_are_rounded_as_numbers_are():
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 20)) * 10.0 ** random.integers(-12, 12, size=(50, 20))
    values[0, :6] = 0.0, np.nan, np.inf, -np.inf, 1e-320, 123456.0
    found = rounded(values)
    assert found[1:] == [rounded(row) for row in values[1:].tolist()]
    assert found[0][:4] == [0.0, None, None, None]
    assert found[0][5] == 123500.0


def test_names_are_no_markup():
    assert series("<b>&x</b>", [1], [1], "@1")["name"] == "&lt;b&gt;&amp;x&lt;/b&gt;"
    assert plain("<a href='x'>&b</a>") == "&lt;a href='x'&gt;&amp;b&lt;/a&gt;"
    assert plain("é" * 100) == "é" * 39 + "…"


def test_plans_are_timed_with_their_tail(tmp_path):
    """Where each was timed; otherwise the means of turns, which have none."""
    run = write_run(tmp_path / "r")
    (trace, *_) = traces(panels(run)["planner"], "plan-time").items()
    assert trace[0] == "mean of a turn"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {"act_seconds": [0.01, 0.02, 0.5]} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = traces(panels(run)["planner"], "plan-time")
    assert {name: set(trace["y"]) for name, trace in found.items()} == {
        "median of a turn": {10.0},
        "95% of a turn": {20.0},
        "slowest of a turn": {500.0},
    }
