"""Comparisons of runs that were written by hand: who counts with what, who does not, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from forethought.cli import guarded
from forethought.comparing.command import command, scales_of
from forethought.comparing.comparison import compare
from forethought.errors import UserError
from small import Answer

SOLVED, BETTER, WORSE = [-150.0, -160.0], [-120.0, -110.0], [-250.0, -300.0]


def ask(capsys, *words: str | Path) -> Answer:
    """`forethought compare` in this process."""
    capsys.readouterr()
    status = guarded(command, [str(word) for word in words])
    said = capsys.readouterr()
    return Answer(status, said.out, said.err)


@pytest.fixture
def ten(make_run) -> list[Path]:
    """Two configurations, five seeds each; 256 samples are better by 30, and one of its seeds fails."""
    found = []
    for seed in range(5):
        for samples, gain in ((64, 0.0), (256, 30.0)):
            last = -300.0 if (samples, seed) == (256, 4) else -190.0 - 2 * seed + gain
            curve = {200: [-400.0], 400: [last, last + 1.0]}
            found.append(make_run(f"{samples}-{seed}", curve, algorithm__planner__samples=samples, seed=seed))
    return found


def test_runs_are_grouped_and_judged_by_their_last_evaluation(ten) -> None:
    (table,) = compare(ten).tables
    assert table.evaluated
    assert table.threshold == -200.0
    assert [group.name for group in table.groups] == ["planner.samples=64", "planner.samples=256"]
    small, large = table.groups
    assert small.seeds == large.seeds == [0, 1, 2, 3, 4]
    assert small.scores == [-189.5 - 2 * seed for seed in range(5)]
    # The middle half of five: three whole values and a quarter of each neighbour's half, here by symmetry the median.
    assert small.iqm == pytest.approx(-193.5)
    assert small.interval is not None
    assert min(small.scores) <= small.interval.low <= small.iqm <= small.interval.high <= max(small.scores)
    (pair,) = table.pairs
    assert pair.all_pairs.value == pytest.approx(5 / 25)
    assert pair.paired is not None
    assert pair.paired.value == pytest.approx(1 / 5)
    assert small.to_threshold == (5, 5, 400)
    assert large.to_threshold == (4, 5, 400)


def test_the_text_says_it_all(capsys, ten) -> None:
    answer = ask(capsys, *ten)
    assert answer.status == 0
    assert "Pendulum-v1: 10 runs, 2 configurations (solved: -200)" in answer.out
    assert "expanded percentile of a stratified bootstrap over seeds" in answer.out
    rows = [line.split("  ") for line in answer.out.splitlines() if line.startswith("planner.samples=")]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0][:3] == ["planner.samples=64", "5", "-193.5"]
    assert cells[0][4:] == ["5 of 5", "400 (5 of 5)", "12 (10 to 14)"]
    assert cells[1][4:] == ["4 of 5", "400 (4 of 5)", "12 (10 to 14)"]
    assert "0: -189.5  1: -191.5" in answer.out
    assert "planner.samples=64 over planner.samples=256: 0.20 (" in answer.out
    assert "paired by seed 0.20 (" in answer.out
    assert all(len(line) <= 120 for line in answer.out.splitlines())


def test_json_has_recipes_seeds_and_curves(capsys, ten) -> None:
    found = ask(capsys, *ten, "--json").json
    (table,) = found["tables"]
    small = table["groups"][0]
    assert small["recipe"]["algorithm"]["planner"]["samples"] == 64
    assert "seed" not in small["recipe"]
    assert [run["seed"] for run in small["runs"]] == [0, 1, 2, 3, 4]
    assert small["runs"][0]["curve"] == [[200, -400.0], [400, -189.5]]
    assert small["interval"]["kind"] == "bootstrap"
    assert [point["steps"] for point in small["band"]] == [200, 400]
    assert small["steps_to_threshold"] == {"solved": 5, "of": 5, "median": 400}
    assert table["pairs"][0]["paired"]["probability"] == pytest.approx(0.2)


def test_never_the_best_so_far(make_run) -> None:
    """A run that was good and is not any more counts with what it is; the first time it was good is told as that."""
    run = make_run("fell", {200: SOLVED, 400: WORSE})
    (table,) = compare([run]).tables
    (group,) = table.groups
    assert group.scores == [-275.0]
    assert group.to_threshold == (1, 1, 200)
    assert [point.iqm for point in group.band] == [-155.0, -275.0]


def test_an_evaluation_of_the_best_controller_is_none(make_run) -> None:
    """It was chosen by its returns."""
    run = make_run("best", {400: BETTER}, which="best")
    (table,) = compare([run]).tables
    assert not table.evaluated
    assert table.groups[0].scores == [-300.0]


def test_evaluations_and_training_returns_are_never_mixed(make_run) -> None:
    """One run without an evaluation at its end, and all count with their training returns; the remedy is named."""
    training = [-900.0] * 5 + [-100.0, -110.0, -120.0, -130.0, -140.0]
    evaluated = make_run("evaluated", {400: SOLVED}, training, seed=0)
    lacking = make_run("lacking", {200: BETTER}, training, seed=1)
    (table,) = compare([evaluated, lacking]).tables
    assert not table.evaluated
    assert table.groups[0].scores == [-120.0, -120.0], "the mean of the last five"
    assert table.threshold == -200.0, "which the evaluations knew"
    assert table.groups[0].to_threshold == (2, 2, 500), "when the last five reach it on average"
    said = " ".join(table.notes)
    assert "1 of 2 runs have no evaluation at the end" in said
    assert f"forethought evaluate {lacking}" in said or "forethought evaluate ../" in said


def test_few_training_episodes_are_said(make_run) -> None:
    run = make_run("short", training=[-100.0, -50.0])
    (table,) = compare([run], threshold=-200.0).tables
    assert table.groups[0].scores == [-75.0]
    assert table.groups[0].to_threshold == (0, 1, None), "two episodes are too much luck"
    assert any("1 of 1 finished fewer than 5 training episodes (the least: 2)" in note for note in table.notes)


def spoil_config(run: Path) -> None:
    (run / "config.json").write_text((run / "config.json").read_text().replace("64", "65"))


def spoil_manifest(run: Path) -> None:
    (run / "checkpoints" / "000003" / "manifest.json").write_text("{")


def spoil_metrics(run: Path) -> None:
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace("50", "51", 1))


def spoil_evaluation(run: Path) -> None:
    (file,) = (run / "evaluations").iterdir()
    file.write_text(file.read_text().replace("-150", "-15"))


@pytest.mark.parametrize("spoil", [spoil_config, spoil_manifest, spoil_metrics, spoil_evaluation])
def test_a_damaged_run_is_listed_with_its_reason(capsys, make_run, spoil) -> None:
    good, bad = make_run("good", {400: SOLVED}), make_run("bad", {400: SOLVED}, seed=1)
    spoil(bad)
    found = compare([good, bad])
    assert [group.seeds for group in found.tables[0].groups] == [[0]]
    (left_out,) = found.left_out
    assert left_out.path == bad
    assert left_out.reason.startswith("damaged: ")
    assert "forethought check" in left_out.reason
    answer = ask(capsys, good, bad)
    assert "Not counted:" in answer.out
    assert "damaged: " in answer.out


def test_what_does_not_count_is_listed(capsys, make_run, tmp_path) -> None:
    """Unfinished runs, a number that is none, a copy, a seed twice, and a folder that is no run."""
    runs = [
        make_run("first", {400: SOLVED}),
        make_run("unfinished", {400: SOLVED}, seed=1, finished=False, env_steps=250),
        make_run("again", {400: SOLVED}),
    ]
    (tmp_path / "logs").mkdir()
    found = compare([*runs, runs[0], tmp_path / "logs"])
    reasons = {path.name: reason for path, reason in found.left_out}
    assert "unfinished: 250 of 400 steps; go on by: forethought resume" in reasons["unfinished"]
    assert "has a run with seed 0" in reasons["again"]
    assert "it is the same run as" in reasons["first"]
    assert "neither config.json nor checkpoints" in reasons["logs"]
    alone = ask(capsys, tmp_path / "logs")
    assert alone.status == 1, "nothing was compared"
    assert "No run can be compared." in alone.out


@pytest.mark.parametrize(("value", "reason"), [("Infinity", "not a finite number"), (None, "not a"), (1e300, "1e+300")])
def test_a_return_that_is_no_number_is_not_counted(make_run, value, reason) -> None:
    run = make_run("odd", training=[-100.0, value, -100.0])
    (left_out,) = compare([run]).left_out
    assert reason in left_out.reason


def test_a_run_with_nothing_to_count_does_not_decide_for_the_others(make_run) -> None:
    """It has neither an evaluation nor a finished training episode."""
    found = compare([make_run("a", {400: SOLVED}), make_run("b", training=[], seed=1)])
    assert found.tables[0].evaluated
    assert found.left_out[0].reason == "it has no evaluation at its end, and it has no finished training episode."


def test_many_configurations_are_not_compared_pair_by_pair(make_run) -> None:
    runs = [make_run(f"h{i}", {400: SOLVED}, algorithm__horizon=i) for i in range(21)]
    found = compare(runs)
    assert len(found.tables[0].groups) == 21
    assert found.tables[0].pairs == ()
    assert "not compared pair by pair" in found.text()
    assert "U: horizon=" not in found.text(), "letters are for long names"
    assert found.html().count("dashed") > 10, "beyond eight, colours come again with dashes"


def test_different_tasks_and_thresholds_are_different_tables(make_run) -> None:
    runs = [
        make_run("a", {400: SOLVED}),
        make_run("b", {400: SOLVED}, task="CartPole-v1", threshold=475.0),
        make_run("c", {400: SOLVED}, limit=100, threshold=None, seed=1),
        make_run("d", {400: SOLVED}, threshold=-100.0, seed=2),
        make_run("e", {400: SOLVED}, env={"kind": "dict", "items": {"g": 9.81}}, threshold=None),
    ]
    tables = compare(runs).tables
    assert [(table.title, table.threshold) for table in tables] == [
        ("CartPole-v1", 475.0),
        ("Pendulum-v1", -200.0),
        ("Pendulum-v1", -100.0),
        ("Pendulum-v1 (env.g=9.81)", None),
        ("Pendulum-v1 (limit=100)", None),
    ]
    assert any("--threshold RETURN" in note for note in tables[3].notes)
    assert {table.threshold for table in compare(runs, threshold=5.0).tables} == {5.0}


def test_over_tasks_each_is_a_stratum(capsys, make_run) -> None:
    """The probability of improvement is averaged; an IQM needs to be told what the returns are worth."""
    runs, gains = [], {"Pendulum-v1": (-900.0, 1.0), "CartPole-v1": (0.0, 100.0)}
    for task, (base, unit) in gains.items():
        for seed in range(3):
            for samples in (64, 256):
                better = unit * (seed + (samples == 256) * 0.5)
                settings = {"task": task, "seed": seed, "algorithm__planner__samples": samples}
                runs.append(make_run(f"{task}-{samples}-{seed}", {400: [base + better]}, **settings))
    plain = compare(runs).overall
    assert plain is not None
    assert plain.iqms == ()
    assert "--scale" in plain.notes[0]
    (pair,) = plain.pairs
    assert pair.all_pairs.value == pytest.approx(3 / 9)
    assert pair.paired is not None
    assert pair.paired.value == 0.0
    scaled = compare(runs, scales={"Pendulum-v1": (-900.0, -898.0), "CartPole-v1": (0.0, 200.0)}).overall
    assert scaled is not None
    assert scaled.names == ("planner.samples=64", "planner.samples=256")
    assert [value for value, _ in scaled.iqms] == pytest.approx([0.5, 0.75])
    assert "IQM of scaled returns" in ask(capsys, *runs, "--scale", "Pendulum-v1=-900:-898,CartPole-v1=0:200").out


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{}, {"algorithm__planner__samples": 256}], ["planner.samples=64", "planner.samples=256"]),
        (
            [{}, {"algorithm__learner": {"kind": "GPLearner", "kernel": "se"}}],
            ["model=EnsembleLearner", "model=GPLearner"],
        ),
        (
            [{}, {"algorithm__planner": {"kind": "CEM", "samples": 8}}, {"algorithm__planner__kept": 5}],
            ["planner=CEM", "planner=ICEM planner.kept=3", "planner=ICEM planner.kept=5"],
        ),
        ([{}, {"env": {"kind": "dict", "items": {}}, "workers": 2}], ["workers=2", "workers=not-said"]),
        ([{}], ["V15 ICEM EnsembleLearner"]),
        ([{}, {"evaluate_every": 50}], ["V15 ICEM EnsembleLearner"]),
        ([{}, {"algorithm__planner": {"kind": "own", "class": "mine.Mine"}}], ["planner=ICEM", "planner=Mine"]),
    ],
)
def test_configurations_have_short_names(make_run, settings, names) -> None:
    """Of what differs: settings of another class do not, and an older version may not have written one down."""
    runs = [make_run(f"r{i}", {400: SOLVED}, seed=i, **each) for i, each in enumerate(settings)]
    (table,) = compare(runs).tables
    assert sorted(group.name for group in table.groups) == sorted(names)


def test_a_run_that_is_left_out_decides_nothing(make_run) -> None:
    """Of two runs of one seed the one with an evaluation counts, whichever was named first."""
    runs = [make_run(f"a{seed}", {400: [-150.0 - seed]}, seed=seed) for seed in range(3)]
    twice = make_run("twice", None, seed=0)
    for given in ([*runs, twice], [twice, *runs]):
        found = compare(given)
        assert found.tables[0].evaluated
        assert [group.scores for group in found.tables[0].groups] == [[-150.0, -151.0, -152.0]]
        assert [left.path for left in found.left_out] == [twice]
        assert not [note for note in found.tables[0].notes if "training episodes" in note]


def test_numbers_are_the_same_setting_however_they_are_written(make_run) -> None:
    runs = [make_run("a", {400: [-1.0]}, seed=0, algorithm__horizon=20)]
    runs += [make_run("b", {400: [-1.0]}, seed=1, algorithm__horizon=20.0)]
    assert len(compare(runs).tables[0].groups) == 1


def test_names_are_never_empty_and_stay_on_their_line(make_run) -> None:
    one = make_run("a", {400: [-1.0]}, seed=0, algorithm__extra={})
    two = make_run("b", {400: [-1.0]}, seed=0, algorithm__extra="x\nNot counted:")
    three = make_run("c", {400: [-1.0]}, seed=0)
    found = compare([one, two, three])
    names = [group.name for group in found.tables[0].groups]
    assert set(names) == {"extra={}", "extra=not-said", r'extra="x\nNot counted:"'}
    assert all(name and name.isprintable() for name in names)
    assert "\nNot counted" not in found.text()


def test_a_class_of_the_users_own_is_said(make_run) -> None:
    planner = {"kind": "own", "class": "mine.Mine", "settings": {}}
    runs = [make_run(f"o{i}", {400: [-1.0]}, seed=i, algorithm__planner=planner) for i in range(2)]
    assert any("only plain settings" in note for note in compare(runs).tables[0].notes)


def test_few_seeds_and_other_seeds_are_said(make_run) -> None:
    runs = [make_run(f"a{seed}", {400: SOLVED}, seed=seed) for seed in range(3)]
    runs += [make_run(f"b{seed}", {400: SOLVED}, seed=seed, algorithm__horizon=5) for seed in range(2)]
    (table,) = compare(runs).tables
    said = " ".join(table.notes)
    assert "No interval for horizon=5 (2): fewer than 3 seeds" in said
    assert "With 3 seeds the interval is the range of the values: it covers about 75%" in said
    assert "nothing is paired by seed" in said
    assert table.pairs[0].paired is None


def test_a_rule_that_stops_runs_is_said(make_run) -> None:
    (table,) = compare([make_run("a", {400: SOLVED}, until={"kind": "Until", "solved": True})]).tables
    assert any("end at a moment chosen by returns" in note for note in table.notes)


def test_the_page_is_well_formed_and_alone(capsys, ten, tmp_path) -> None:
    """No script, nothing from elsewhere; every drawing parses; what a file says is text."""
    file = tmp_path / "page.html"
    assert ask(capsys, *ten, "--html", file).status == 0
    page = file.read_text()
    assert "<script" not in page
    assert "http" not in page
    drawings = [part.split("</svg>")[0] for part in page.split("<svg")[1:]]
    assert len(drawings) == 2
    for drawing in drawings:
        tree = ElementTree.fromstring(f"<svg{drawing}</svg>")
        places = [
            float(v) for e in tree.iter() for k, v in e.attrib.items() if k in ("cx", "x1", "x2", "cy", "y1", "y2")
        ]
        assert len(places) > 20
        assert all(0 <= place <= 760 for place in places)
    assert drawings[0].count("<circle") == 10
    assert "seed 4: -299.5" in drawings[0]
    assert page.count("<details>") == 2


def test_a_strangers_words_are_harmless(capsys, make_run, tmp_path) -> None:
    """In a page they are text, and they do not command a terminal."""
    evil = "<script>alert(1)</script>\x1b[2J"
    settings = [{"seed": i, "task": evil, "algorithm__note": note} for i, note in enumerate(["a", evil])]
    found = compare([make_run(f"r{i}", {400: SOLVED}, **each) for i, each in enumerate(settings)])
    assert "\x1b" not in found.text()
    assert "\x1b" not in found.html()
    assert "<script" not in found.html()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "compare takes one run directory or more, and none was given."),
        (["nowhere"], "nowhere is no run directory: there is no such folder."),
        (["RUN", "--thresold", "3"], "There is no flag --thresold. The nearest is --threshold."),
        (["RUN", "--threshold", "high"], "--threshold is 'high'; it must be a number or None."),
        (["RUN", "--threshold", "nan"], "--threshold is nan; it must be a finite number."),
        (["RUN", "--scale", "Pendulum-v1"], "--scale is 'Pendulum-v1'; it must be TASK=LOW:HIGH, once for each task."),
        (["RUN", "--scale", "Pendulum-v1=0:inf"], "it must be TASK=LOW:HIGH"),
        (["RUN", "--scale", "Pendulum-v1=1:0"], "The scale of Pendulum-v1 is 1:0; the second must be larger"),
        (["RUN", "--scale", "Acrobot=0:1"], "A scale is given for Acrobot; it must be for one of Pendulum-v1."),
    ],
)
def test_mistakes_are_one_sentence(capsys, make_run, words, says) -> None:
    run = make_run("run", {400: SOLVED})
    answer = ask(capsys, *[run if word == "RUN" else word for word in words])
    assert (answer.status, answer.out) == (2, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_scales_are_read() -> None:
    assert scales_of("mod:Env-v0=-1e3:5,b=0:1") == {"mod:Env-v0": (-1000.0, 5.0), "b": (0.0, 1.0)}
    with pytest.raises(UserError):
        scales_of("a=0:1,a=0:2")


def test_a_page_that_cannot_be_written_is_a_sentence(capsys, make_run, tmp_path) -> None:
    answer = ask(capsys, make_run("run", {400: SOLVED}), "--html", tmp_path / "missing" / "page.html")
    assert answer.status == 1
    assert "could not be saved: No such file or directory." in answer.err


def test_compare_never_imports_jax(ten, tmp_path) -> None:
    """In a process of its own: text, JSON and page."""
    code = f"""
import json, sys
from forethought.cli import guarded
from forethought.comparing.command import command
runs = {[str(run) for run in ten]!r}
assert guarded(command, [*runs, "--html", {str(tmp_path / "p.html")!r}]) == 0
assert guarded(command, [*runs, "--json"]) == 0
heavy = [name for name in ("jax", "equinox", "scipy", "matplotlib", "plotly") if name in sys.modules]
print(json.dumps(heavy), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == []
