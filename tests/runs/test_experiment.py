"""Whole runs, small ones: what is written, what is kept, and how they go on."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from forethought import V05, V10, Experiment, Guard, Until, UserError, resume
from forethought.runs.directory import RunDirectory
from forethought.runs.experiment import open_run
from forethought.runs.verify import problems
from forethought.worlds.guard import TransitionError
from kept import episodes, lines, start
from small import Fragile, recipe


def test_what_a_run_writes(original):
    opened = open_run(original)
    data = opened.state.data
    assert int(opened.state.steps) == int(data.count) == 30
    assert int(opened.state.episodes) == 3
    assert opened.about.notes["finished"]
    assert [a["complete"] for _, a in episodes(original)] == [True] * 3
    written = np.concatenate([t.x for t, _ in episodes(original)])
    assert np.array_equal(written, np.asarray(data.x)[:30]), "the files hold what was learned from"
    assert [a["return"] for _, a in episodes(original)] == opened.about.notes["returns"]
    assert [m["env_steps"] for m in lines(original)] == [10, 20, 30, 30]
    assert [m["turn"] for m in lines(original)] == [1, 2, 3, 4]
    assert "fit_loss" in lines(original)[-1], "the saved controller has learned from everything"
    assert int(opened.state.fits) == 3
    assert start(original)["versions"]["jax"] == jax.__version__
    assert {"began", "command", "machine"} <= set(start(original))
    parts = {"config.json", "run.json", "metrics.jsonl", "metrics.crc", "episodes", "checkpoints", "journal"}
    assert {p.name for p in original.iterdir()} == parts
    assert list((original / "journal").iterdir()) == [], "everything of it is in a checkpoint"
    assert list(problems(RunDirectory(original))) == []


def test_what_is_for_evaluation_and_what_a_run_goes_on_from(original):
    last, before = (open_run(original, which=which) for which in ("newest", "resumable"))
    assert not last.about.resumable
    assert before.about.resumable
    assert (int(last.state.fits), int(before.state.fits)) == (3, 2)
    assert np.array_equal(last.state.data.x, before.state.data.x)


def test_the_seed_decides(original, tmp_path):
    same, other = (recipe(out=tmp_path / str(s), seed=s).run() for s in (0, 1))
    assert same.episodes == open_run(original).about.notes["returns"]
    assert other.episodes != same.episodes


def test_a_run_is_not_overwritten(run, tmp_path):
    with pytest.raises(UserError, match="already holds a run; go on with it by 'forethought resume"):
        recipe(out=run).run()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not an empty directory"):
        recipe(out=tmp_path / "full").run()


def test_the_default_directory_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [recipe(steps=10).run().run for _ in range(2)]
    assert all(p.parent == tmp_path / "runs" and p.name.startswith("pendulum-v1.5-0-") for p in found)
    assert found[0] != found[1]


def test_a_broken_transition_keeps_what_was_finished(tmp_path, fragile):
    fragile.plan_fault(13, np.array([np.nan, 0.0], np.float32))
    with pytest.raises(TransitionError, match="at step 2: observation must be finite"):
        recipe(task="tests/Fragile-v0", limit=None, out=tmp_path / "r").run()
    opened = open_run(tmp_path / "r")
    state = opened.state
    assert int(state.steps) == int(state.data.count) == 12
    assert np.isfinite(np.asarray(state.data.y)).all()
    assert opened.about.resumable
    assert lines(tmp_path / "r")[-1]["fault_field"] == "observation"
    assert lines(tmp_path / "r")[-1]["fault_step"] == 2
    fragile.plan_fault(None)
    assert resume(tmp_path / "r").env_steps == 30
    assert np.bincount(open_run(tmp_path / "r").state.data.episode[:30]).tolist() == [10, 2, 10, 8]


def test_a_run_may_go_on_after_a_broken_transition(tmp_path, fragile, capsys):
    fragile.plan_fault(13, np.array([np.nan, 0.0], np.float32))
    guard = Guard(on_fault="go-on")
    result = recipe(task="tests/Fragile-v0", limit=None, out=tmp_path / "r", guard=guard).run()
    assert (result.env_steps, len(result.episodes)) == (30, 2)
    said = capsys.readouterr().err
    assert "its 2 steps are kept; a fresh one begins (fault 1 of at most" in said
    data = open_run(tmp_path / "r").state.data
    assert np.bincount(data.episode[:30]).tolist() == [10, 2, 10, 8]
    assert [a["complete"] for _, a in episodes(tmp_path / "r")] == [True, False, True, False]
    assert open_run(tmp_path / "r").about.notes["faults"] == 1
    assert len({*np.asarray(data.condition)[:30].tolist()}) == 4


def test_a_run_does_not_go_on_for_ever(tmp_path, monkeypatch):
    """An environment that always fails at its third step."""
    sound = Fragile.step

    def broken(self, action):
        self.count = 1 if getattr(self, "last", None) is not self.np_random else self.count + 1
        self.last = self.np_random
        return (sound(self, action)[0] * np.nan, 0.0, False, False, {}) if self.count == 3 else sound(self, action)

    monkeypatch.setattr(Fragile, "step", broken)
    guard = Guard(on_fault="go-on", most_faults=2)
    with pytest.raises(TransitionError, match="at step 2: observation must be finite"):
        recipe(task="tests/Fragile-v0", limit=None, out=tmp_path / "r", guard=guard).run()
    assert open_run(tmp_path / "r").about.notes["faults"] == 3
    assert int(open_run(tmp_path / "r").state.steps) == 6


def test_an_unexpected_error_is_written_down(tmp_path, monkeypatch):
    from forethought.runs import loop

    monkeypatch.setattr(loop, "convergence", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recipe(out=tmp_path / "r").run()
    assert "ZeroDivisionError" in (tmp_path / "r" / "error.txt").read_text()


def test_plateau_and_solved_stop_a_run(tmp_path):
    solved = recipe(out=tmp_path / "a", steps=100, until=Until(solved=True, window=2, threshold=-1e9)).run()
    assert (solved.stopped_by, solved.env_steps) == ("solved", 20)
    flat = recipe(out=tmp_path / "b", steps=200, until=Until(plateau=True, window=1, patience=1)).run()
    assert flat.stopped_by == "plateau"
    assert flat.episodes[-1] < max(flat.episodes)


def test_solved_without_a_threshold_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="no known threshold"):
        recipe(out=tmp_path / "r", until=Until(solved=True)).run()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("cls", [V05, V10])
def test_open_loop_algorithms_run(tmp_path, cls):
    small = recipe().algorithm
    algorithm = cls(small.planner, small.learner, base_steps=10)
    result = recipe(out=tmp_path / "r", algorithm=algorithm, steps=30).run()
    state = open_run(result.run).state
    assert (result.env_steps, len(result.episodes)) == (30, 3)
    assert int(state.data.count) == (10 if cls is V05 else 30)
    assert int(state.fits) == (1 if cls is V05 else 3)


def test_logged_data_alone_make_a_controller(original, tmp_path):
    """v0.5 with no step in the world."""
    small = recipe().algorithm
    algorithm = V05(small.planner, small.learner)
    result = recipe(
        out=tmp_path / "r", algorithm=algorithm, steps=0, data=original / "episodes" / "000001.safetensors"
    ).run()
    assert (result.env_steps, result.episodes, result.stopped_by) == (0, [], "steps")
    state = open_run(result.run).state
    assert (int(state.data.count), int(state.fits)) == (10, 1)
    assert np.asarray(state.data.episode)[:10].tolist() == [-1] * 10


def test_logged_data_take_the_place_of_random_steps(original, tmp_path):
    result = recipe(out=tmp_path / "r", steps=10, data=original / "episodes" / "000000.safetensors").run()
    assert [m["planned"] for m in lines(result.run) if "planned" in m] == [True]
    assert int(open_run(result.run).state.data.count) == 20


def test_no_steps_and_no_data_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="nothing to learn from"):
        recipe(out=tmp_path / "r", steps=0).run()


def test_another_runs_controller_collects_the_first_data(original, tmp_path):
    result = recipe(out=tmp_path / "r", steps=20, base=str(original)).run()
    assert [m["planned"] for m in lines(result.run) if "planned" in m] == [False, True]
    first = np.asarray(open_run(result.run).state.data.u)[:10]
    random = np.asarray(open_run(original).state.data.u)[:10]
    assert not np.array_equal(first, random)


def test_coloured_base_and_wrong_ones(tmp_path, original):
    assert recipe(out=tmp_path / "r", steps=10, base="coloured").run().env_steps == 10
    with pytest.raises(UserError, match='must be "random", "coloured", or a run directory'):
        recipe(out=tmp_path / "s", base="colored").run()
    with pytest.raises(UserError, match="is for pendulum with 3 states"):
        recipe(out=tmp_path / "t", task="tests/Fragile-v0", limit=None, base=str(original)).run()


def test_every_field_of_the_recipe_is_written(original):
    _, written = RunDirectory(original).read_config()
    assert set(written) == {f.name for f in dataclasses.fields(Experiment)}
