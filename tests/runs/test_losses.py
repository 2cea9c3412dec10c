"""Ways in which a run once lost something, or became another run, without a word."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any, ClassVar

import gymnasium
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought import V05, Box, Guard, Spec, Task, TransitionError, UserError, resume
from forethought.console import addressed
from forethought.core import AbstractPlanner, AbstractWorld
from forethought.costs.learned import LearnedCost
from forethought.math.act import act, start
from forethought.planners.icem import ICEM
from forethought.runs import loop as loop_module
from forethought.runs.checkpoint import numbered
from forethought.runs.directory import existing
from forethought.runs.episodes import read_episode
from forethought.runs.experiment import Named, open_run
from forethought.runs.journal import journals
from forethought.runs.verify import problems
from forethought.tasks import equip
from forethought.types import Cursor, Trajectory
from forethought.worlds.gym import gym_world
from forethought.worlds.recorder import Recorder
from small import Fragile, call, recipe


class Rig(AbstractWorld):
    """A machine: it never does the same twice, and nobody checks what it says but the run."""

    spec: Spec = Spec(n=2, m=1)
    actions: Box = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    replayable: bool = False
    witness: Any = None
    taken: ClassVar[int] = 0
    fault: ClassVar[tuple[int, Any] | None] = None
    """(step over all episodes, what happens there: an error, or (y, reward))."""

    def reset(self, key, condition=None):
        Rig.x = np.random.default_rng().normal(size=2)
        self.witness and self.witness.began(Rig.x, 0)
        return Cursor(Rig.x, np.asarray(0), np.asarray(False))

    def collect(self, policy, carry, at, key, steps):
        t = int(at.t)
        record = Recorder(np.asarray(at.x), 1, t, 0)
        done = False
        try:
            while len(record.reward) < steps and not done:
                u, carry = act(policy, carry, Rig.x.astype(np.float32), np.asarray(t, np.int32))
                u = np.asarray(u, np.float64)
                Rig.x, reward = np.array([0.9 * Rig.x[0] + 0.1 * u[0], 0.9 * Rig.x[1]]), -float(Rig.x @ Rig.x)
                Rig.taken, t = Rig.taken + 1, t + 1
                if Rig.fault is not None and Rig.fault[0] == Rig.taken:
                    if isinstance(Rig.fault[1], BaseException):
                        raise Rig.fault[1]
                    Rig.x, reward = Rig.fault[1]
                done = t == 10
                row = (u, Rig.x, reward, False, done)
                self.witness and self.witness.happened(*row)
                record.add(*row)
        except BaseException as error:
            error.trajectory = record.trajectory()
            raise
        return record.trajectory(), carry, Cursor(Rig.x, np.asarray(t), np.asarray(done))

    def rollouts(self, policy, key, conditions, steps):
        out: list[Trajectory] = []
        for _ in conditions:
            at = self.reset(key)
            out.append(self.collect(policy, start(policy, at.x, key), at, key, steps)[0])
        return out

    def fresh(self):
        return dataclasses.replace(self, witness=None)

    def watched(self, witness):
        return dataclasses.replace(self, witness=witness)

    def close(self):
        pass


RIG = Task("rig", Rig(), LearnedCost(2), 10)


@pytest.fixture(autouse=True)
def healthy():
    Rig.taken, Rig.fault = 0, None
    Fragile.plan_fault(None)
    yield
    Rig.taken, Rig.fault = 0, None
    Fragile.plan_fault(None)


def rows(run) -> int:
    """Transitions in the data."""
    return int(open_run(run, Named(RIG)).state.data.count)


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ((np.zeros(2), float("nan")), "reward"),
        ((np.zeros(2), -1e30), "reward"),
        ((np.array([np.nan, 0.0]), 0.0), "observation"),
        ((np.array([np.inf, 0.0]), 0.0), "observation"),
        ((np.array([1e20, 0.0]), 0.0), "observation"),
        ((np.zeros(3), 0.0), "observation"),
    ],
)
def test_a_machine_of_ones_own_is_guarded_too(tmp_path, what, field):
    Rig.fault = (15, what)
    with pytest.raises(TransitionError, match=f"rig, at step 4: {field} must"):
        recipe(task=RIG, out=tmp_path / "r", limit=None).run()
    assert rows(tmp_path / "r") == 14
    assert resume(tmp_path / "r", task=RIG).env_steps == 30
    assert list(problems(existing(tmp_path / "r"))) == []


def test_an_interrupt_of_a_machine_loses_no_step_that_was_taken(tmp_path):
    """It comes after the step was taken, and before anybody was shown it."""

    class Late(Rig):
        def collect(self, policy, carry, at, key, steps):
            trajectory, carry, now = dataclasses.replace(Rig(), witness=None).collect(policy, carry, at, key, steps)
            if Rig.taken >= 15:
                error = KeyboardInterrupt()
                error.trajectory = trajectory
                raise error
            for i in range(trajectory.length):
                row = (
                    trajectory.u[i],
                    trajectory.y[i],
                    float(trajectory.reward[i]),
                    False,
                    bool(trajectory.truncated[i]),
                )
                self.witness.happened(*row)
            return trajectory, carry, now

    with pytest.raises(KeyboardInterrupt):
        recipe(task=dataclasses.replace(RIG, world=Late()), out=tmp_path / "r", limit=None).run()
    assert rows(tmp_path / "r") == Rig.taken == 20


@pytest.mark.parametrize("place", [30, -40])
def test_a_journal_of_a_machine_that_is_damaged_is_kept(tmp_path, monkeypatch, capsys, place):
    Rig.fault = (16, SystemError("power"))
    monkeypatch.setattr(loop_module.Loop, "rescue", lambda self, error: None)
    with pytest.raises(SystemError):
        recipe(task=RIG, out=tmp_path / "r", limit=None).run()
    monkeypatch.undo()
    Rig.fault = None
    (journal,) = journals(tmp_path / "r" / "journal").values()
    data = bytearray(journal.read_bytes())
    data[place] ^= 1
    journal.write_bytes(data)
    assert resume(tmp_path / "r", task=RIG).env_steps >= 30
    kept = tmp_path / "r" / "journal" / f"{journal.name}.damaged"
    assert kept.read_bytes() == bytes(data), "somebody may still make something of it"
    assert journal.name in capsys.readouterr().err


def test_what_a_machine_did_stays_told_and_the_longer_record_counts(tmp_path, monkeypatch):
    """Killed in the middle of an episode whose file had been written, and whose journal lost its end."""
    Rig.fault = (18, SystemError("power"))
    calm = dataclasses.replace(recipe().algorithm, refit_every=5)

    def half(self, error):
        self.finish_episodes(int(self.state.episodes))  # and killed before the checkpoint

    monkeypatch.setattr(loop_module.Loop, "rescue", half)
    with pytest.raises(SystemError):
        recipe(task=RIG, algorithm=calm, out=tmp_path / "r", limit=None).run()
    monkeypatch.undo()
    Rig.fault = None
    run = tmp_path / "r"
    told = [json.loads(line)["env_steps"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert told == [10, 15]
    (journal,) = journals(run / "journal").values()
    journal.write_bytes(journal.read_bytes()[:-100])
    assert resume(run, task=RIG, steps=40).env_steps == 40
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in told][:3] == [10, 15, 22], "seven steps, and then five more"
    assert [line["turn"] for line in told] == list(range(1, len(told) + 1))
    assert read_episode(run / "episodes" / "000001.safetensors")[0].length == 7
    assert list(problems(existing(run))) == []


def test_v05_does_not_learn_from_a_planned_episode_that_was_broken_off(tmp_path):
    algorithm = V05(recipe().algorithm.planner, recipe().algorithm.learner, base_steps=10)
    assert algorithm.appends(algorithm.init(RIG, jr.key(0)))
    Rig.fault = (15, (np.zeros(2), float("nan")))
    with pytest.raises(TransitionError):
        recipe(task=RIG, algorithm=algorithm, out=tmp_path / "r", limit=None).run()
    state = open_run(tmp_path / "r", Named(RIG)).state
    assert (int(state.data.count), int(state.steps)) == (10, 14)
    assert not algorithm.appends(state)
    assert read_episode(tmp_path / "r" / "episodes" / "000001.safetensors")[0].length == 4, "but it is kept"


class Mine(AbstractPlanner):
    """A planner of the user's own."""

    samples: int = 8

    def init(self, problem):
        return ICEM(samples=self.samples, elites=3, iterations=1).init(problem)

    def plan(self, problem, warm, key):
        return ICEM(samples=self.samples, elites=3, iterations=1).plan(problem, warm, key)

    def shift(self, warm):
        return ICEM().shift(warm)


def test_a_named_experiment_does_not_make_it_another_run(tmp_path):
    mine = recipe(out=tmp_path / "r", algorithm=dataclasses.replace(recipe().algorithm, planner=Mine()))
    began = dataclasses.replace(
        mine,
        seed=7,
        guard=Guard(reward_bound=50.0),
        algorithm=dataclasses.replace(mine.algorithm, planner=Mine(samples=4), refit_every=5),
    )
    began.run()
    opened = open_run(tmp_path / "r", Named(experiment=mine))
    found = opened.experiment
    assert (found.seed, found.guard.reward_bound, found.algorithm.refit_every) == (7, 50.0, 5)
    assert found.algorithm.planner == Mine(samples=4)
    assert resume(tmp_path / "r", steps=40, experiment=mine).env_steps == 40


def test_a_world_that_cannot_be_replayed_stays_one():
    task = Task("m", dataclasses.replace(gym_world("tests/Fragile-v0"), replayable=False), LearnedCost(2), 10)
    assert not equip(task, Guard(), 1, replayable=True).world.replayable
    assert not equip(RIG, Guard(), 1, replayable=True).world.replayable
    assert not equip(recipe().make_task(), Guard(), 1, replayable=False).world.replayable
    always = dataclasses.replace(RIG, world=Rig(replayable=True))
    with pytest.raises(UserError, match="replayable is False, but the world of rig says that it is replayable"):
        equip(always, Guard(), 1, replayable=False)


def test_a_folder_that_goes_away_is_a_sentence(tmp_path, capsys, monkeypatch):
    def vanish(self, *arguments, **named):
        shutil.rmtree(tmp_path / "r")
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("forethought.runs.loop.save", vanish)
    words = ["train", "pendulum", "--limit", "10", "--steps", "20", "--algorithm.base-steps", "10"]
    answer = call(capsys, *words, "--out", tmp_path / "r", "--quiet")
    assert answer.status == 1
    assert "could not be saved" in answer.err
    assert "Traceback" not in answer.err
    assert "go on by" not in answer.err


def test_an_episode_whose_file_fails_once_keeps_its_number(tmp_path, monkeypatch):
    real, calls = loop_module.write_episode, []

    def fails_once(folder, number, *rest):
        calls.append(number)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(folder, number, *rest)

    monkeypatch.setattr(loop_module, "write_episode", fails_once)
    with pytest.raises(Exception, match="Episode 1 could not be saved"):
        recipe(out=tmp_path / "r").run()
    assert calls == [0, 1, 1]
    assert sorted(p.stem for p in (tmp_path / "r" / "episodes").glob("*.safetensors")) == ["000000", "000001"]
    monkeypatch.undo()
    resume(tmp_path / "r")
    recipe(out=tmp_path / "straight").run()
    one, two = (open_run(tmp_path / name).state.data for name in ("r", "straight"))
    assert np.array_equal(one.y, two.y)
    assert list(problems(existing(tmp_path / "r"))) == []


def test_a_journal_stays_while_its_episode_has_no_file(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop_module, "write_episode", full)
    recipe(out=tmp_path / "r", steps=20, on_save_error="go-on").run()
    assert sorted(journals(tmp_path / "r" / "journal")) == [0, 1]
    assert "Episode 1 could not be saved" in capsys.readouterr().err


def test_lost_checkpoints_do_not_cost_the_episodes(tmp_path):
    recipe(out=tmp_path / "r").run()
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    with pytest.raises(UserError, match="there is no checkpoint, so there is nothing to go on from"):
        resume(tmp_path / "r")
    assert len(list((tmp_path / "r" / "episodes").glob("*.safetensors"))) == 3


def test_the_hint_has_all_that_must_be_named_again(tmp_path):
    env = {"fault": "none", "xml_file": "ant.xml", "weights": [1, 2]}
    gymnasium.register("tests/Named-v0", entry_point=lambda **kwargs: Fragile(), max_episode_steps=10)
    recipe(task="tests/Named-v0", out=tmp_path / "r", env=env, steps=10).run()
    hint = addressed(tmp_path / "r", resume=True)
    assert hint.endswith(""" --env.xml_file '"ant.xml"' --env.weights '[1, 2]'""")
    assert json.loads((tmp_path / "r" / "config.json").read_text())["experiment"]["base"] == "random"
    with pytest.raises(UserError, match=r"xml_file='ant\.xml', which may name a file"):
        open_run(tmp_path / "r")
    assert open_run(tmp_path / "r", Named(env={k: env[k] for k in ("xml_file", "weights")})).experiment.env == env
    assert len(numbered(tmp_path / "r" / "checkpoints")) >= 1
    assert jnp.isfinite(open_run(tmp_path / "r", Named(env=env)).state.data.y).all()
