"""Several runs beside each other: what is one recipe, what is one task, and what is said of the rest."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import t as student

from forethought.reporting.records import read_records
from forethought.reporting.together import together
from report_cases import write_run


def read(tmp_path, **recipes):
    return [read_records(write_run(tmp_path / name, **given)) for name, given in recipes.items()]


def names(panel, figure=0):
    return [t["name"] for t in panel["figures"][figure]["traces"] if t.get("showlegend", True)]


def traces(panel, ident):
    found = next(f for f in panel["figures"] if f["id"] == ident)
    return {t.get("name"): t for t in found["traces"]}


def returns_at(run, steps):
    return json.loads((run / "evaluations" / f"{steps:09d}.json").read_text())["returns"]


def test_seeds_of_one_recipe_have_an_interval_over_seeds(tmp_path):
    runs = [read_records(write_run(tmp_path / f"s{i}", seed=i, evaluated=[30, 60])) for i in range(3)]
    other = read_records(write_run(tmp_path / "other", steps=500, evaluated=[60]))
    trace = traces(together([*runs, other])[0], "together-0")["v1.5, mean over 3 seeds"]
    means = np.array([np.mean(returns_at(r.path, 60)) for r in runs])
    half = student.ppf(0.975, 2) * means.std(ddof=1) / math.sqrt(3)
    assert trace["x"] == [30, 60]
    assert trace["y"][1] == pytest.approx(means.mean(), rel=1e-3)
    assert trace["error_y"]["array"][1] == pytest.approx(half, rel=1e-2)
    runs[0].config["evaluate_every"] = 10  # how often one looks is no part of what is learned
    assert "v1.5, mean over 3 seeds" in traces(together(runs)[0], "together-0")
    # Two seeds are no sample, and another recipe is not a seed.
    names = traces(together([*runs[:2], other])[0], "together-0")
    assert {"s0, evaluated", "s1, evaluated", "other, evaluated"} <= set(names)
    assert not [n for n in names if "seeds" in str(n)]


def test_the_same_run_again_is_no_other_seed(tmp_path):
    (run,) = read(tmp_path, one={})
    (panel,) = together([run, run, run])
    assert not [n for n in names(panel) if "seeds" in n]
    assert "one, one, one have one recipe, but not all another seed: each is drawn by itself." in panel["missing"]


def test_recipes_that_cannot_be_read_are_not_the_same(tmp_path):
    kinds = ("V15", "V05", "V20")
    for i, kind in enumerate(kinds):
        (write_run(tmp_path / f"r{i}", kind=kind) / "config.json").write_text("damaged")
    (panel,) = together([read_records(tmp_path / f"r{i}") for i in range(3)])
    assert not [n for n in names(panel) if "seeds" in n]
    assert "r1 is drawn by itself: its recipe cannot be read." in panel["missing"]


def test_evaluations_that_not_all_seeds_have_are_said(tmp_path):
    runs = read(tmp_path, **{f"s{i}": {"seed": i, "evaluated": [30, 60, 90] if i < 2 else [30]} for i in range(3)})
    (panel,) = together(runs)
    assert traces(panel, "together-0")["v1.5, mean over 3 seeds"]["x"] == [30]
    assert any("at steps (of how many seeds): 60 (2), 90 (2)." in m for m in panel["missing"])


def test_two_recipes_of_one_algorithm_have_two_names(tmp_path):
    runs = read(tmp_path, **{f"g{g}{i}": {"seed": i, "steps": g} for g in (1, 2) for i in range(3)})
    found = [n for n in names(together(runs)[0]) if "seeds" in n]
    assert found == ["v1.5 (g10, g11, g12), mean over 3 seeds", "v1.5 (g20, g21, g22), mean over 3 seeds"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"task": {"kind": "own", "settings": 1}}, {"task": {"kind": "own", "settings": 2}}),
        ({"env": {"g": 9.81}}, {"env": {"g": 1.62}}),
    ],
)
def test_different_tasks_share_no_axis_and_no_threshold(tmp_path, one, two):
    runs = [*read(tmp_path, a=one | {"evaluated": [], "threshold": 1.0}), *read(tmp_path, b=two | {"evaluated": []})]
    (panel,) = together(runs)
    assert [len(f["traces"]) for f in panel["figures"]] == [1, 1]
    first, second = (f["label"] for f in panel["figures"])
    assert (first[-5:], second[-5:]) == (" of a", " of b")
