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

from forethought import V05, V10, Experiment, Guard, Until, UserError, resume
from forethought.runs.checkpoint import numbered
from forethought.runs.directory import RunDirectory
from forethought.runs.episodes import read_episode
from forethought.runs.experiment import Named, open_run, read_experiment
from forethought.runs.files import read_sealed, seal
from forethought.runs.loop import Loop
from forethought.runs.verify import problems
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
    return [read_episode(p) for p in sorted((run / "episodes").glob("*.safetensors"))]


CLOCKS = {"seconds", "step_seconds", "fit_seconds"}


def without_clocks(run: Path) -> list[dict]:
    """The metrics, but for what a clock said."""
    return [{k: v for k, v in m.items() if k not in CLOCKS} for m in lines(run)]


def start(run: Path) -> dict:
    """How the run was last started."""
    return read_sealed(run / "run.json")["starts"][-1]


def require_same_run(one: Path, two: Path) -> None:
    """Everything but the clocks and the name of the run, bit for bit; and nothing of either is damaged."""
    for which in ("newest", "resumable", "best"):
        a, b = open_run(one, which=which), open_run(two, which=which)
        assert equal_states(a.state, b.state), which
        assert a.about.resumable == b.about.resumable
        assert a.about.score == b.about.score
        assert a.about.experiment == b.about.experiment
        left = [{k: v for k, v in run.about.notes.items() if k not in ("seconds", "metrics")} for run in (a, b)]
        assert left[0] == left[1]
    assert without_clocks(one) == without_clocks(two)
    first, second = episodes(one), episodes(two)
    assert len(first) == len(second)
    for (p, said), (q, told) in zip(first, second, strict=True):
        assert said | {"run": ""} == told | {"run": ""}
        for column in ("x", "u", "y", "reward", "terminated", "truncated", "t", "log_prob", "condition"):
            assert np.array_equal(getattr(p, column), getattr(q, column)), column
    for run in (one, two):
        assert list(problems(RunDirectory(run))) == []
        assert list((run / "journal").iterdir()) == []


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


def test_resume_goes_on_to_the_requested_steps(run, capsys):
    result = resume(run, steps=50)
    assert (result.env_steps, result.stopped_by, len(result.episodes)) == (50, "steps", 5)
    assert [m["env_steps"] for m in lines(run)] == [10, 20, 30, 40, 50, 50], "the last fit of the shorter run is gone"
    assert len(read_sealed(run / "run.json")["starts"]) == 2
    assert open_run(run).experiment.steps == 50


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """By (task, steps between two fits): a run of 50 steps that nobody broke off."""
    made: dict[tuple, Path] = {}

    def get(task, every):
        if (task, every) not in made:
            out = tmp_path_factory.mktemp("straight") / "run"
            made[task, every] = with_pace(task, every, out=out, steps=50).run().run
        return made[task, every]

    return get


def with_pace(task, every, **settings) -> Experiment:
    """A small recipe that refits so often; tests/Fragile-v0 has its own limit of ten steps."""
    algorithm = dataclasses.replace(recipe().algorithm, refit_every=every)
    return recipe(task=task, limit=None if "/" in task else 10, algorithm=algorithm, **settings)


@pytest.mark.parametrize("budget", [10, 30, 35])
@pytest.mark.parametrize(("task", "every"), [("pendulum", 4), ("tests/Fragile-v0", 10)])
def test_a_budget_that_grew_later_makes_no_difference(straight, tmp_path, task, every, budget):
    """A shorter run, after base data, an episode, or half of one, equals the longer one once it is resumed."""
    short = with_pace(task, every, out=tmp_path / "r", steps=budget).run()
    assert short.env_steps == budget
    assert resume(tmp_path / "r", steps=50).env_steps == 50
    require_same_run(tmp_path / "r", straight(task, every))


def test_a_run_that_grows_twice_is_the_same_run(straight, tmp_path):
    with_pace("pendulum", 4, out=tmp_path / "r", steps=12).run()
    for steps in (13, 27, 50):
        resume(tmp_path / "r", steps=steps)
    require_same_run(tmp_path / "r", straight("pendulum", 4))
    assert len(read_sealed(tmp_path / "r" / "run.json")["starts"]) == 4


def killed(monkeypatch, fragile, out, at, **settings) -> None:
    """A run that is gone at this step, with nothing written down after it."""
    fragile.plan_fault(at, KeyboardInterrupt())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with_pace("tests/Fragile-v0", 10, out=out, steps=50, **settings).run()
    fragile.plan_fault(None)


@pytest.mark.parametrize("at", [1, 7, 11, 17, 41, 50])
def test_a_run_that_was_killed_is_the_same_run(straight, tmp_path, monkeypatch, fragile, capsys, at):
    killed(monkeypatch, fragile, tmp_path / "r", at)
    open_one = (at - 1) // 10
    journal = tmp_path / "r" / "journal" / f"{open_one:06d}.journal"
    assert journal.exists()
    capsys.readouterr()
    resume(tmp_path / "r")
    said = capsys.readouterr().err
    again = f"Going on from step {10 * open_one}; the {(at - 1) % 10} steps after it are done again."
    assert again in said
    assert "did not repeat" not in said
    require_same_run(tmp_path / "r", straight("tests/Fragile-v0", 10))


def test_a_killed_run_of_a_machine_keeps_what_was_tried(tmp_path, monkeypatch, fragile, capsys):
    killed(monkeypatch, fragile, tmp_path / "r", 17, replayable=False)
    assert int(open_run(tmp_path / "r").state.steps) == 10
    capsys.readouterr()
    assert resume(tmp_path / "r", steps=30).env_steps == 30
    assert "6 steps in 1 episodes happened after the last checkpoint; they are kept as data" in capsys.readouterr().err
    data = open_run(tmp_path / "r").state.data
    assert np.bincount(data.episode[:30]).tolist() == [10, 6, 10, 4]
    assert np.asarray(data.truncated)[:30].nonzero()[0].tolist() == [9, 15, 25, 29]
    assert [(t.length, a["complete"]) for t, a in episodes(tmp_path / "r")] == [
        (10, True),
        (6, False),
        (10, True),
        (4, False),
    ]
    assert np.array_equal(episodes(tmp_path / "r")[1][0].x, np.asarray(data.x)[10:16])
    assert list(problems(RunDirectory(tmp_path / "r"))) == []


def test_a_world_that_does_not_repeat_itself_is_told(tmp_path, monkeypatch, fragile, capsys):
    killed(monkeypatch, fragile, tmp_path / "r", 17)
    monkeypatch.setattr(Fragile, "step", drifting(Fragile.step))
    capsys.readouterr()
    resume(tmp_path / "r", steps=20)
    said = capsys.readouterr().err
    assert said.count("the world did not repeat episode 1: step 0 differs") == 1
    assert "000001.before" in said
    assert "--no-replayable" in said
    assert (tmp_path / "r" / "journal" / "000001.before").exists(), "what was really tried is not lost"


def drifting(step):
    """As a machine that has worn out."""

    def worn(self, action):
        y, *rest = step(self, action)
        return y + np.float32(0.5), *rest

    return worn


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
    require_same_run(run, original)


def test_a_budget_within_an_episode_is_kept_to(tmp_path):
    result = recipe(out=tmp_path / "r", steps=15).run()
    assert (result.env_steps, len(result.episodes)) == (15, 1)
    state = open_run(result.run).state
    assert state.open is None
    assert np.asarray(state.data.truncated)[:15].nonzero()[0].tolist() == [9, 14], "the clock's end, and ours"
    assert [a["complete"] for _, a in episodes(result.run)] == [True, False]
    assert int(open_run(result.run, which="resumable").state.steps) == 10
    more = resume(result.run, steps=30)
    ids = np.asarray(open_run(result.run).state.data.episode)[:30]
    assert (more.env_steps, len(more.episodes)) == (30, 3)
    assert np.bincount(ids).tolist() == [10, 10, 10], "the episode that the budget cut was done again in full"
    assert [a["complete"] for _, a in episodes(result.run)] == [True] * 3


def test_a_budget_within_an_episode_of_a_machine(tmp_path, fragile):
    """What was tried is data, and a new episode begins."""
    with_pace("tests/Fragile-v0", 10, out=tmp_path / "r", steps=15, replayable=False).run()
    assert int(open_run(tmp_path / "r", which="resumable").state.steps) == 15
    assert resume(tmp_path / "r", steps=30).env_steps == 30
    data = open_run(tmp_path / "r").state.data
    assert np.bincount(data.episode[:30]).tolist() == [10, 5, 10, 5]
    assert [a["complete"] for _, a in episodes(tmp_path / "r")] == [True, False, True, False]
    assert len(set(np.asarray(data.condition)[:30].tolist())) == 4, "no episode is begun twice from the same start"


def interrupted(fragile, out, **settings) -> None:
    """A run with Ctrl-C at its 17th step."""
    fragile.plan_fault(17, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        with_pace("tests/Fragile-v0", 10, out=out, steps=50, **settings).run()
    assert caught.value.run == out
    fragile.plan_fault(None)


@pytest.mark.parametrize("replayable", [True, False])
def test_ctrl_c_within_an_episode_keeps_every_step(tmp_path, fragile, replayable):
    interrupted(fragile, tmp_path / "r", replayable=replayable)
    opened = open_run(tmp_path / "r")
    assert opened.about.resumable == (not replayable)
    assert int(opened.state.steps) == int(opened.state.data.count) == 16
    assert opened.state.open is None
    whole, part = episodes(tmp_path / "r")
    assert (whole[0].length, whole[1]["complete"]) == (10, True)
    assert (part[0].length, part[1]["complete"]) == (6, False)
    assert np.array_equal(np.asarray(opened.state.data.x)[10:16], part[0].x)
    assert np.asarray(opened.state.data.truncated)[:16].nonzero()[0].tolist() == [9, 15]
    assert not (tmp_path / "r" / "error.txt").exists()
    assert list(problems(RunDirectory(tmp_path / "r"))) == []


def test_after_ctrl_c_the_open_episode_is_done_again(straight, tmp_path, fragile):
    interrupted(fragile, tmp_path / "r")
    assert int(open_run(tmp_path / "r", which="resumable").state.steps) == 10
    part = episodes(tmp_path / "r")[1][0]
    result = resume(tmp_path / "r")
    assert (result.env_steps, len(result.episodes)) == (50, 5)
    again = episodes(tmp_path / "r")[1][0]
    assert np.array_equal(again.y[:6], part.y)
    require_same_run(tmp_path / "r", straight("tests/Fragile-v0", 10))


def test_after_ctrl_c_a_machine_begins_a_new_episode(tmp_path, fragile):
    interrupted(fragile, tmp_path / "r", replayable=False)
    result = resume(tmp_path / "r", steps=30)
    assert (result.env_steps, len(result.episodes)) == (30, 2)
    data = open_run(tmp_path / "r").state.data
    assert np.bincount(data.episode[:30]).tolist() == [10, 6, 10, 4]
    conditions = np.asarray(data.condition)[:30]
    assert len(set(conditions.tolist())) == 4, "no episode is begun twice from the same start"


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


def rewrite(run: Path, **changes) -> None:
    """Change the recipe, and seal it again."""
    name, experiment = RunDirectory(run).read_config()
    RunDirectory(run).write_config(name, experiment | changes)


def test_a_module_must_be_named_again(run):
    rewrite(run, task="os:pendulum")
    with pytest.raises(UserError, match="nothing that a file names is ever imported: name it again, with --task os:p"):
        open_run(run)
    assert open_run(run, Named(task="pendulum")).task.name == "pendulum"


def test_a_task_object_must_be_named_again(tmp_path):
    task = recipe().make_task()
    result = recipe(out=tmp_path / "r", task=task, steps=10).run()
    with pytest.raises(UserError, match="a Task object of your own"):
        open_run(result.run)
    with pytest.raises(UserError, match="a Task object of your own"):
        resume(result.run)
    assert int(open_run(result.run, Named(task=task)).state.steps) == 10
    assert resume(result.run, steps=20, experiment=recipe(task=task, steps=20)).env_steps == 20


@pytest.mark.parametrize(
    "env", [{"xml_file": "ant.xml"}, {"xml_file": "/etc/passwd"}, {"wind": {"file": "x"}}, {"maps": ["a"]}]
)
def test_what_may_be_a_file_of_an_environment_must_be_named_again(env):
    config = recipe(task="Pendulum-v1", env=env).config()
    (name,) = env
    with pytest.raises(UserError, match=f"which may name a file.*name it again, with --env.{name} VALUE"):
        read_experiment(Path("r"), config, Named())
    assert read_experiment(Path("r"), config, Named(env={name: "mine"})).env == {name: "mine"}


def test_plain_arguments_of_an_environment_need_not_be_named_again():
    env = {"g": 9.81, "mode": "human", "on": True, "none": None}
    assert read_experiment(Path("r"), recipe(task="Pendulum-v1", env=env).config(), Named()).env == env


@pytest.mark.parametrize("base", ["coloured", "another run's"])
def test_base_data_that_are_not_complete_go_on_as_they_began(original, tmp_path, base):
    base = str(original) if base != "coloured" else base
    algorithm = dataclasses.replace(recipe().algorithm, base_steps=20)
    mine = recipe(algorithm=algorithm, base=base)
    mine_whole = dataclasses.replace(mine, out=tmp_path / "whole").run().run
    short = dataclasses.replace(mine, out=tmp_path / "short", steps=13).run().run
    if base != "coloured":
        with pytest.raises(UserError, match="nothing outside a run is opened because the run says so: name it again"):
            resume(short, steps=30)
    resume(short, steps=30, base=None if base == "coloured" else base)
    require_same_run(short, mine_whole)


SPOILED = {
    "nothing": b"",
    "half": b"{",
    "a list": b"[]",
    "NaN": b'{"format": 2, "run": "x", "experiment": {"steps": NaN}}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "unsealed": b'{"format": 2, "run": "x", "experiment": {}}',
    "bytes": bytes(range(256)),
    "missing": None,
}


@pytest.mark.parametrize("data", SPOILED.values(), ids=SPOILED)
def test_a_damaged_config_is_said_and_the_newest_checkpoint_asked(original, run, capsys, data):
    (run / "config.json").unlink()
    if data is not None:
        (run / "config.json").write_bytes(data)
    said = []
    opened = open_run(run, say=said.append)
    assert equal_states(opened.state, open_run(original).state)
    assert [sentence for sentence in said if "config.json is damaged" in sentence] == said
    assert len(said) == 1
    with pytest.raises(UserError, match=r"--strict refuses that. .*config\.json"):
        open_run(run, strict=True)
    with pytest.raises(UserError, match=r"--strict refuses that. .*config\.json"):
        resume(run, strict=True)
    assert resume(run, steps=40).env_steps == 40
    assert open_run(run, strict=True).experiment.steps == 40, "it is written anew"


@pytest.mark.parametrize("at", [0, 0.3, 0.6, 1])
def test_every_byte_of_the_config_counts(run, at):
    data = bytearray((run / "config.json").read_bytes())
    data[round(at * (len(data) - 1))] ^= 1
    (run / "config.json").write_bytes(data)
    said = []
    open_run(run, say=said.append)
    assert "config.json is damaged" in said[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 99}, "has the format 99; this version of forethought reads 2: use the version that wrote it"),
        ({"format": 1}, "has the format 1; this version of forethought reads 2"),
        ({"experiment": {"task": "pendulum", "stepz": 1}}, "'stepz', which Experiment does not know"),
        ({"experiment": {"task": "pendulum", "steps": -3}}, "steps is -3; it must be"),
        ({"experiment": {"task": "pendulum", "steps": "many"}}, "steps is 'many'"),
        ({"experiment": {"task": 3}}, "task"),
        ({"experiment": {"steps": 3}}, "no complete Experiment"),
        ({"experiment": {"task": "pendulum", "algorithm": {"kind": "os.system"}}}, "names the class 'os.system'"),
    ],
    ids=str,
)
def test_a_config_that_means_nothing_is_one_sentence(run, changes, sentence):
    """Sealed, so it is what somebody wrote."""
    path = run / "config.json"
    path.write_bytes(seal(read_sealed(path) | changes))
    with pytest.raises(UserError, match=sentence):
        open_run(run)


def test_a_damaged_episode_is_named_and_refused_if_strict(original, run, capsys):
    """A run goes on from its checkpoint, which has the data."""
    path = run / "episodes" / "000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 8
    path.write_bytes(data)
    with pytest.raises(UserError, match="--strict refuses that.*000001.safetensors is not what was written"):
        resume(run, steps=40, strict=True)
    assert lines(run) == lines(original), "refused before anything was changed"
    resume(run, steps=40)
    assert "Damaged: " in (said := capsys.readouterr().err)
    assert "000001.safetensors is not what was written" in said


def test_damaged_metrics_are_put_aside_aloud(run, capsys):
    with (run / "metrics.jsonl").open("r+b") as file:
        file.write(b"X")
    resume(run, steps=40)
    assert "It is put aside as metrics.jsonl.damaged, and a new one begins." in capsys.readouterr().err
    assert (run / "metrics.jsonl.damaged").read_bytes().startswith(b"X")
    assert [m["env_steps"] for m in lines(run)] == [40, 40]


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has neither config\.json nor checkpoints"):
        open_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="there is no checkpoint, so there is nothing to go on from"):
        open_run(tmp_path)


@pytest.mark.parametrize("part", ["config.json", "run.json", "metrics.jsonl", "checkpoints", "episodes", "journal"])
def test_a_link_in_a_run_is_refused(run, tmp_path, part):
    (run / part).rename(tmp_path / "elsewhere")
    (run / part).symlink_to(tmp_path / "elsewhere")
    for use in (open_run, resume):
        with pytest.raises(UserError, match=f"{part} is a link; links in a run directory are not followed"):
            use(run)


def test_every_field_of_the_recipe_is_written(original):
    _, written = RunDirectory(original).read_config()
    assert set(written) == {f.name for f in dataclasses.fields(Experiment)}
