"""Runs that collect from several worker processes, and runs in which the environment does something impossible."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file

import faulty
from forethought import Experiment, Guard, TransitionError, UserError, resume
from forethought.runs.checkpoint import numbered
from forethought.runs.directory import existing
from forethought.runs.episodes import read_episode
from forethought.runs.experiment import Named, open_run
from forethought.runs.verify import problems
from kept import CLOCKS
from small import recipe


def experiment(out: Path, fault: str = "none", at: int | str = 3, **settings) -> Experiment:
    """A small run on the faulty environment, which does it once over all processes."""
    once = {"fault": fault, "at": at, "once": str(out) + ".done"} if fault != "none" else {}
    return recipe(**{"task": faulty.ID, "out": out, "steps": 60, "env": once} | settings)


def last(run: Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint."""
    return load_file(numbered(run / "checkpoints")[-1] / "arrays.safetensors")


def lines(run: Path) -> list[dict]:
    """The metrics without their clocks."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in found]


def episodes(run: Path) -> list[tuple]:
    """Length, and whether it is whole, of every episode."""
    read = [read_episode(p) for p in sorted((run / "episodes").glob("*.safetensors"))]
    return [(trajectory.length, about["complete"]) for trajectory, about in read]


def children() -> set[str]:
    """Processes that this one has started and that have not ended."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == os.getpid() and after[0] != "Z":
            found.add(stat.parent.name)
    return found


def test_two_workers_give_the_same_data_every_time_and_leave_no_process(tmp_path):
    before = children()
    for name in ("a", "b"):
        result = experiment(tmp_path / name, workers=2).run()
        assert (result.env_steps, len(result.episodes)) == (60, 6)
        assert children() == before
    one, two = last(tmp_path / "a"), last(tmp_path / "b")
    assert [k for k in one if one[k].tobytes() != two[k].tobytes()] == []
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert list(problems(existing(tmp_path / "a"))) == []
    assert episodes(tmp_path / "a") == [(10, True)] * 6
    firsts = one["data.x"][:60][one["data.t"][:60] == 0]
    assert len(np.unique(firsts, axis=0)) == 6, "no two episodes begin alike"


def test_a_run_with_workers_resumes_bit_for_bit(tmp_path):
    experiment(tmp_path / "straight", workers=2).run()
    experiment(tmp_path / "run", workers=2, steps=35).run()
    opened = open_run(tmp_path / "run", Named(faulty.ID), which="resumable")
    assert int(opened.state.steps) == 20, "the second pair of episodes began when the budget was less than both need"
    assert resume(tmp_path / "run", steps=60, task=faulty.ID).env_steps == 60
    one, two = last(tmp_path / "run"), last(tmp_path / "straight")
    assert [k for k in one if one[k].tobytes() != two[k].tobytes()] == []


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_worker_that_is_lost_is_replaced_and_its_steps_are_kept(tmp_path, capsys, fault):
    result = experiment(tmp_path / "run", fault, 7, workers=2, guard=Guard(deadline=0.5)).run()
    assert result.env_steps == 60
    said = capsys.readouterr().err
    assert "Faulty-v0, at step 7" in said
    assert "steps are kept; a fresh one begins (fault 1 of at most 10)" in said
    found = episodes(tmp_path / "run")
    assert (7, False) in found, "what the lost worker had finished"
    assert sum(length for length, _ in found) == 60
    assert int(last(tmp_path / "run")["data.count"]) == 60
    assert [line["fault_step"] for line in lines(tmp_path / "run") if "fault" in line] == [7]
    assert list(problems(existing(tmp_path / "run"))) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("fault", "at", "kept"), [("nan-reward", 7, 7), ("exception", -1, 0)])
def test_a_fault_stops_the_run_or_only_the_episode(tmp_path, capsys, workers, fault, at, kept):
    with pytest.raises(TransitionError, match="Faulty-v0"):
        experiment(tmp_path / "stops", fault, at, workers=workers).run()
    arrays = last(tmp_path / "stops")
    assert int(arrays["steps"]) == int(arrays["data.count"]) >= kept
    assert (kept == 0) or (kept, False) in episodes(tmp_path / "stops")
    env = json.loads((tmp_path / "stops" / "config.json").read_text())["experiment"]["env"]["items"]
    assert resume(tmp_path / "stops", task=faulty.ID, env=env).env_steps == 60
    assert list(problems(existing(tmp_path / "stops"))) == []
    result = experiment(tmp_path / "goes", fault, at, workers=workers, guard=Guard(on_fault="go-on")).run()
    assert result.env_steps == 60
    assert "(fault 1 of at most 10)" in capsys.readouterr().err
    if workers > 1:
        return  # which worker does it, the first that gets there, is a matter of time
    one, two = last(tmp_path / "stops"), last(tmp_path / "goes")
    assert [k for k in one if one[k].tobytes() != two[k].tobytes()] == [], "stopping and resuming is going on"


class Always(faulty.Faulty):
    """Every reset fails."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return np.full(3, np.nan, np.float32), {}


if "tests/Always-v0" not in gymnasium.registry:
    gymnasium.register("tests/Always-v0", entry_point=Always, max_episode_steps=50)


def test_a_run_does_not_go_on_for_ever(tmp_path, capsys):
    guard = Guard(on_fault="go-on", most_faults=3)
    with pytest.raises(TransitionError, match="in reset: observation"):
        recipe(task="tests/Always-v0", out=tmp_path / "run", guard=guard).run()
    assert capsys.readouterr().err.count("a fresh one begins") == 3


def test_only_gymnasium_environments_have_workers(tmp_path):
    with pytest.raises(UserError, match="workers is 2, but pendulum is simulated in this process"):
        recipe(out=tmp_path / "run", workers=2).run()
    assert not (tmp_path / "run").exists()
