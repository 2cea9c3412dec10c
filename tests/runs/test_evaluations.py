"""What an evaluation leaves in a run: kept for comparisons, sealed, and no part of what is learned."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from forethought.runs.directory import existing
from forethought.runs.episode_columns import COLUMNS
from forethought.runs.evaluations import evaluation_files, read_evaluation, write_evaluation
from forethought.runs.files import Damaged
from forethought.runs.verify import problems
from forethought.types import Trajectory
from kept import episodes, without_clocks
from small import recipe


def test_evaluations_happen_when_asked_and_change_nothing(tmp_path, original) -> None:
    """At each multiple that a turn passes, once something was fitted, and at the end; the run itself is the same."""
    run = recipe(out=tmp_path / "r", evaluate_every=10).run().run
    found = {steps: read_evaluation(path) for steps, path in evaluation_files(run).items()}
    assert list(found) == [20, 30], "nothing was fitted after 10 steps"
    for steps, each in found.items():
        assert each["env_steps"] == steps
        assert len(each["returns"]) == len(each["starts"])
    assert without_clocks(run) == without_clocks(original)
    assert len(episodes(run)) == len(episodes(original)), "evaluation episodes are no data"
    assert not evaluation_files(original), "none was asked for"
    assert list(problems(existing(run))) == []


def test_a_damaged_evaluation_is_named(run) -> None:
    """By check; and one of another run is none of this one."""
    about = {"run": "another", "env_steps": 30, "which": "newest", "seconds": 1.0, "task": "t", "threshold": None}
    path = write_evaluation(run, about | {"returns": [1.0], "starts": [1000], "successes": None})
    assert [p for p in problems(existing(run)) if "another run" in p and path.name in p]
    path.write_text(path.read_text().replace("1.0", "2.0", 1))
    assert [p for p in problems(existing(run)) if "SHA-256" in p and path.name in p]
    with pytest.raises(Damaged):
        read_evaluation(path)


@pytest.mark.parametrize("change", [{"returns": [None]}, {"starts": []}, {"env_steps": 31}, {"seconds": "1"}])
def test_what_is_no_evaluation_is_refused(run, change) -> None:
    """Also if its seal is right."""
    about = {"run": "r", "env_steps": 30, "which": "newest", "seconds": 1.0, "task": "t", "threshold": None}
    path = write_evaluation(run, about | {"returns": [1.0], "starts": [1000], "successes": None} | change)
    moved = path.rename(path.with_name("000000030.json"))
    with pytest.raises(Damaged):
        read_evaluation(moved)


def test_episode_columns_are_the_trajectory() -> None:
    """They are named without jax, and have to stay the same."""
    assert tuple(f.name for f in dataclasses.fields(Trajectory)) == COLUMNS


def test_records_are_read_without_jax(original) -> None:
    """Comparisons start in no time."""
    code = f"""
import sys, json
import forethought.runs.directory, forethought.runs.metrics, forethought.runs.evaluations
import forethought.runs.episode_columns, forethought.runs.command_line, forethought.console
from pathlib import Path
from forethought.runs.directory import existing
existing(Path({str(original)!r})).read_config()
print(json.dumps([name for name in ("jax", "equinox") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
