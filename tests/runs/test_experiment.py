"""Whole runs, small ones: what is written, what is kept, and how they go on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest

from forethought import V05, V10, Experiment, Until, UserError, resume
from forethought.runs.checkpoint import numbered
from forethought.runs.episodes import read_episode
from forethought.runs.experiment import open_run
from forethought.worlds.guard import TransitionError
from small import Fragile, recipe


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished run of three episodes of ten steps."""
    return recipe(out=tmp_path_factory.mktemp("runs") / "run").run().run


@pytest.fixture
def run(original, tmp_path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def fragile():
    """The environment in which things happen, healthy before and after."""
    Fragile.plan_fault(None)
    yield Fragile
    Fragile.plan_fault(None)


def lines(run: Path) -> list[dict]:
    """The metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def episodes(run: Path) -> list[tuple]:
    """The episode files in order."""
    return [read_episode(p) for p in sorted((run / "episodes").iterdir())]


def equal_states(a, b) -> bool:
    """Bit for bit."""
    plain = lambda v: jr.key_data(v) if _is_key(v) else v
    one, two = ([np.asarray(plain(v)) for v in jax.tree.leaves(s)] for s in (a, b))
    return len(one) == len(two) and all(map(np.array_equal, one, two))


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_what_a_run_writes(original):
    opened = open_run(original)
    data = opened.state.data
    assert int(opened.state.steps) == int(data.count) == 30
    assert int(opened.state.episodes) == 3
    assert opened.notes["finished"]
    assert [a["complete"] for _, a in episodes(original)] == [True] * 3
    written = np.concatenate([t.x for t, _ in episodes(original)])
    assert np.array_equal(written, np.asarray(data.x)[:30]), "the files hold what was learned from"
    assert [a["return"] for _, a in episodes(original)] == opened.notes["returns"]
    assert [m["env_steps"] for m in lines(original)] == [10, 20, 30, 30]
    assert [m["turn"] for m in lines(original)] == [1, 2, 3, 4]
    assert "fit_loss" in lines(original)[-1], "the saved controller has learned from everything"
    assert int(opened.state.fits) == 3
    start = json.loads((original / "run.json").read_text())["starts"][0]
    assert start["versions"]["jax"] == jax.__version__
    assert {"began", "command", "machine"} <= set(start)
    assert {p.name for p in original.iterdir()} == {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "episodes",
        "checkpoints",
    }


def test_the_seed_decides(original, tmp_path):
    same, other = (recipe(out=tmp_path / str(s), seed=s).run() for s in (0, 1))
    assert same.episodes == open_run(original).notes["returns"]
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


def test_resume_goes_on_to_the_requested_steps(run, capsys):
    result = resume(run, steps=50)
    assert (result.env_steps, result.stopped_by, len(result.episodes)) == (50, "steps", 5)
    assert [m["env_steps"] for m in lines(run)] == [10, 20, 30, 30, 40, 50, 50]
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2
    assert open_run(run).experiment.steps == 50


def test_a_finished_run_has_nothing_to_resume(run, capsys):
    before = lines(run)
    assert resume(run).env_steps == 30
    assert "has taken its 30 steps already; give more with --steps N" in capsys.readouterr().err
    assert lines(run) == before


def test_resume_from_an_earlier_checkpoint_is_the_same_run(original, run):
    """As if it had been killed after the second episode: everything but the clock is equal, bit for bit."""
    for path in numbered(run / "checkpoints")[1:]:
        shutil.rmtree(path)
    assert int(open_run(run).state.steps) < 30
    resume(run)
    assert equal_states(open_run(run).state, open_run(original).state)
    clocks = {"seconds", "step_seconds", "fit_seconds"}
    strip = lambda path: [{k: v for k, v in m.items() if k not in clocks} for m in lines(path)]
    assert strip(run) == strip(original)
    assert all(np.array_equal(a.x, b.x) for (a, _), (b, _) in zip(episodes(run), episodes(original), strict=True))


def test_a_budget_within_an_episode_is_kept_to(tmp_path):
    result = recipe(out=tmp_path / "r", steps=15).run()
    assert (result.env_steps, len(result.episodes)) == (15, 1)
    state = open_run(result.run).state
    assert state.at is None
    assert np.asarray(state.data.truncated)[:15].nonzero()[0].tolist() == [9, 14], "the clock's end, and ours"
    assert [a["complete"] for _, a in episodes(result.run)] == [True, False]
    more = resume(result.run, steps=30)
    ids = np.asarray(open_run(result.run).state.data.episode)[:30]
    assert (more.env_steps, len(more.episodes)) == (30, 2)
    assert np.bincount(ids).tolist() == [10, 5, 10, 5]


def test_ctrl_c_within_an_episode_keeps_every_step(tmp_path, fragile):
    fragile.plan_fault(17, KeyboardInterrupt())
    recipe_ = recipe(task="tests/Fragile-v0", limit=None, out=tmp_path / "r")
    with pytest.raises(KeyboardInterrupt) as caught:
        recipe_.run()
    assert caught.value.run == tmp_path / "r"
    fragile.plan_fault(None)
    opened = open_run(tmp_path / "r")
    assert int(opened.state.steps) == int(opened.state.data.count) == 16
    assert opened.state.at is None
    whole, part = episodes(tmp_path / "r")
    assert (whole[0].length, whole[1]["complete"]) == (10, True)
    assert (part[0].length, part[1]["complete"]) == (6, False)
    assert np.array_equal(np.asarray(opened.state.data.x)[10:16], part[0].x)
    assert not (tmp_path / "r" / "error.txt").exists()
    result = resume(tmp_path / "r")
    assert (result.env_steps, len(result.episodes)) == (30, 2)
    conditions = np.asarray(open_run(tmp_path / "r").state.data.condition)[:30]
    assert len(set(conditions.tolist())) == 4, "no episode is begun twice from the same start"


def test_a_broken_transition_keeps_what_was_finished(tmp_path, fragile):
    fragile.plan_fault(13, np.array([np.nan, 0.0], np.float32))
    with pytest.raises(TransitionError, match="at step 2: observation must be finite"):
        recipe(task="tests/Fragile-v0", limit=None, out=tmp_path / "r").run()
    state = open_run(tmp_path / "r").state
    assert int(state.steps) == int(state.data.count) == 12
    assert np.isfinite(np.asarray(state.data.y)).all()


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


def test_a_module_must_be_named_again(run):
    config = json.loads((run / "config.json").read_text())
    config["experiment"]["task"] = "os:pendulum"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="nothing that a file names is ever imported: name it again, with --task os:p"):
        open_run(run)
    assert open_run(run, task="pendulum").task.name == "pendulum"


def test_a_task_object_must_be_named_again(tmp_path):
    task = recipe().make_task()
    result = recipe(out=tmp_path / "r", task=task, steps=10).run()
    with pytest.raises(UserError, match="a Task object of your own"):
        open_run(result.run)
    assert int(open_run(result.run, task=task).state.steps) == 10
    assert resume(result.run, steps=20, experiment=recipe(task=task, steps=20)).env_steps == 20


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ('{"format": 99}', "has the format 99"),
        ('{"format": 1, "experiment": {"task": "pendulum", "steps": NaN}}', "NaN is not JSON"),
        ('{"format": 1, "experiment": {"task": "pendulum", "stepz": 1}}', "'stepz', which Experiment does not know"),
        ('{"format": 1, "experiment": {"task": "pendulum", "steps": -3}}', "steps is -3; it must be"),
        ('{"format": 1, "experiment": {"steps": 3}}', "no complete Experiment"),
    ],
)
def test_a_spoiled_config_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_run(tmp_path)


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has no config\.json"):
        open_run(tmp_path)


def test_every_field_of_the_recipe_is_written(original):
    written = json.loads((original / "config.json").read_text())["experiment"]
    assert set(written) == {f.name for f in dataclasses.fields(Experiment)}
