"""What the panels say of a run, against what is in its files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors
from scipy.stats import t as student

from forethought.reporting.charts import figure, level, plain, rounded, series, thinned
from forethought.reporting.contents import Beside, contents, panels_of
from forethought.reporting.local_panel import newest_gains
from forethought.reporting.records import read_records
from forethought.reporting.returns import together
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


def test_seeds_of_one_recipe_have_an_interval_over_seeds(tmp_path):
    runs = [read_records(write_run(tmp_path / f"s{i}", seed=i, evaluated=[30, 60])) for i in range(3)]
    other = read_records(write_run(tmp_path / "other", steps=500, evaluated=[60]))
    trace = traces(together([*runs, other])[0], "together-0")["v1.5, mean over 3 seeds"]
    means = np.array([np.mean(returns_at(r.path, 60)) for r in runs])
    half = student.ppf(0.975, 2) * means.std(ddof=1) / math.sqrt(3)
    assert trace["x"] == [30, 60]
    assert trace["y"][1] == pytest.approx(means.mean(), rel=1e-3)
    assert trace["error_y"]["array"][1] == pytest.approx(half, rel=1e-2)
    # Two seeds are no sample, and another recipe is not a seed.
    names = traces(together([*runs[:2], other])[0], "together-0")
    assert {"s0, evaluated", "s1, evaluated", "other, evaluated"} <= set(names)
    assert not [n for n in names if "seeds" in str(n)]


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
    assert plain("<a href='x'>&b</a>") == "&lt;a href='x'&gt;&amp;b&lt;/a&gt;"
    assert plain("é" * 100) == "é" * 39 + "…"
