"""Runs that were broken off, cut short, or had something of theirs damaged: how they go on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from forethought import Experiment, UserError, resume
from forethought.runs.checkpoint import numbered
from forethought.runs.directory import RunDirectory
from forethought.runs.experiment import Named, open_run, read_experiment
from forethought.runs.files import read_sealed, seal
from forethought.runs.loop import Loop
from forethought.runs.verify import problems
from kept import episodes, equal_states, lines, require_same_run
from small import Fragile, recipe


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
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            with_pace("tests/Fragile-v0", 10, out=out, steps=50, **settings).run()
    fragile.plan_fault(None)


@pytest.mark.parametrize("at", [1, 7, 11, 17, pytest.param(41, marks=pytest.mark.slow), 50])
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
    assert "000001.differs" in said
    assert "--no-replayable" in said
    assert (tmp_path / "r" / "journal" / "000001.differs").exists(), "what was really tried is not lost"


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


def test_what_is_done_again_is_not_there_twice(tmp_path, monkeypatch, fragile):
    """A file of half an episode that a resumed run will write anew goes before it begins."""
    interrupted(fragile, tmp_path / "r")
    monkeypatch.setattr("forethought.runs.resume.finish", lambda loop, first: first(loop) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        resume(tmp_path / "r")
    assert [(t.length, a["complete"]) for t, a in episodes(tmp_path / "r")] == [(10, True)]
    assert len((tmp_path / "r" / "episodes" / "SHA256SUMS").read_text().splitlines()) == 1


def test_after_ctrl_c_a_machine_begins_a_new_episode(tmp_path, fragile):
    interrupted(fragile, tmp_path / "r", replayable=False)
    result = resume(tmp_path / "r", steps=30)
    assert (result.env_steps, len(result.episodes)) == (30, 2)
    data = open_run(tmp_path / "r").state.data
    assert np.bincount(data.episode[:30]).tolist() == [10, 6, 10, 4]
    conditions = np.asarray(data.condition)[:30]
    assert len(set(conditions.tolist())) == 4, "no episode is begun twice from the same start"


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
        # What says it first under the tests is the type check, and elsewhere the table of allowed values.
        ({"experiment": {"task": "pendulum", "steps": "many"}}, "steps is 'many'|no complete Experiment: Type-check"),
        ({"experiment": {"task": 3}}, "task is 3|no complete Experiment: Type-check"),
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
    with pytest.raises(UserError, match=r"--strict refuses that.*000001\.safetensors is not what was written"):
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
