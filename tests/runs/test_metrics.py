"""metrics.jsonl and SHA256SUMS: a line is there, and in the sum, or it is not."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest

from forethought.runs import files as module
from forethought.runs.episodes import read_sums, write_episode
from forethought.runs.files import Damaged
from forethought.runs.metrics import MetricsFile, check_lines, intact, resumed
from forethought.types import Trajectory


@pytest.mark.parametrize("fails", [1, 2])
def test_metrics_on_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, fails):
    """The sum of a line is written before it, and either may fail."""
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.append({"turn": 0})
    write, calls = os.write, []

    def fail(handle, data):
        calls.append(data)
        if len(calls) == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(module.os, "write", fail)
    with pytest.raises(OSError, match="No space"):
        lines.append({"turn": -1})
    lines.append({"turn": 2})
    intact(lines.path, lines.seal())
    check_lines(lines.path)
    assert b"-1" not in lines.path.read_bytes()
    assert len((tmp_path / "metrics.crc").read_bytes().splitlines()) == 2


def test_metrics_go_back_to_the_checkpoint(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.append({"turn": 1, "x": float("nan")})
    seal_then = lines.seal()
    lines.append({"turn": 2})
    again = resumed(lines.path, seal_then)
    assert again.seal() == seal_then
    again.append({"turn": 2})
    assert again.seal() == lines.seal()
    check_lines(lines.path)


@pytest.mark.parametrize(
    "seal_of", [{}, {"bytes": "1"}, {"bytes": -1}, {"bytes": True}, {"bytes": 1.0}, {"bytes": None}]
)
def test_a_seal_that_is_none(tmp_path, seal_of):
    with pytest.raises(Damaged, match="does not say what"):
        intact(tmp_path / "metrics.jsonl", seal_of)


def episode(rows: int) -> Trajectory:
    z = np.zeros(rows)
    return Trajectory(
        *(np.zeros((rows, 2)), np.zeros((rows, 1)), np.zeros((rows, 2)), z, z > 0, z > 0),
        **{"t": np.arange(rows), "log_prob": z, "condition": np.arange(rows)},
    )


def test_an_episode_that_is_written_again_has_one_sum(tmp_path):
    for number, rows in ((0, 3), (1, 3), (0, 4)):
        write_episode(tmp_path, number, episode(rows), {"run": "r"})
    assert sorted(read_sums(tmp_path)) == [0, 1]


def test_metrics_that_were_changed_with_their_sums(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.append({"turn": 1})
    other = MetricsFile(tmp_path / "other" / "metrics.jsonl")
    other.path.parent.mkdir()
    other.append({"turn": 2})
    for file in other.path.parent.iterdir():
        shutil.copy(file, tmp_path)
    check_lines(lines.path)
    with pytest.raises(Damaged, match="SHA-256 differs"):
        intact(lines.path, lines.seal())


def test_metrics_without_their_sums(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.append({"turn": 1})
    (tmp_path / "metrics.crc").unlink()
    with pytest.raises(Damaged, match="line 1 of metrics"):
        check_lines(lines.path)


def test_half_a_line_of_metrics(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.append({"turn": 1})
    lines.path.write_bytes(lines.path.read_bytes()[:-1])
    with pytest.raises(Damaged, match="ends in half a line"):
        check_lines(lines.path)
