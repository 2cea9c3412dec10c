"""Reading a run for its page: also one that still writes, and one that is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forethought.errors import UserError
from forethought.reporting import turns
from forethought.reporting.episode_notes import Limits, note, seen_limits, share_at
from forethought.reporting.records import Memory, column, read_records
from report_cases import write_episode, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", episodes=4)


def test_everything_is_read(run):
    found = read_records(run)
    assert (found.task, found.algorithm, found.seed, found.steps) == ("Pendulum-v1", "v1.5", 0, 80)
    assert len(found.lines) == len(found.episodes) == 4
    assert len(found.evaluations) == len(found.starts) == 1
    assert not found.trouble
    assert not found.finished  # there is no checkpoint that says so


def test_half_a_line_is_left_for_later_and_only_what_is_new_is_read(run):
    memory, file = Memory(), run / "metrics.jsonl"
    before = file.read_bytes()
    file.write_bytes(before[:-20])
    assert len(read_records(run, memory).lines) == 3
    first = memory.turns.lines[0]
    with file.open("ab") as out:
        out.write(before[-20:])
    found = read_records(run, memory)
    assert [line["turn"] for line in found.lines] == [1, 2, 3, 4]
    assert found.lines[0] is first  # which was not parsed again


def test_a_run_that_was_resumed_is_read_anew(run):
    memory, file = Memory(), run / "metrics.jsonl"
    read_records(run, memory)
    fewer = b"\n".join(file.read_bytes().split(b"\n")[:2]) + b"\n"
    (run / "new").write_bytes(fewer)
    (run / "new").replace(file)
    assert len(read_records(run, memory).lines) == 2


def test_what_is_damaged_is_said_and_the_rest_is_shown(run, tmp_path):
    with (run / "metrics.jsonl").open("ab") as out:
        out.write(b'{"env_steps": NaN}\nno json\n{"env_steps": "many"}\n')
    (run / "episodes" / "000001.safetensors").write_bytes(b"nothing")
    (run / "evaluations" / "000000080.json").write_bytes(b"{}")
    (run / "run.json").write_bytes(b"{}")
    (run / "diagnosis.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("secret")
    found = read_records(run)
    said = " ".join(found.trouble)
    for part in ("3 lines of metrics.jsonl", "000001.safetensors", "000000080.json", "run.json", "diagnosis.json"):
        assert part in said, part
    assert [e.number for e in found.episodes] == [0, 2, 3]
    assert len(found.lines) == 4
    assert "secret" not in said


def test_what_is_absurdly_long_is_cut(run):
    line = {"env_steps": 100, "fit_says": "x" * 10_000, "numbers": [1.0] * 10_000, "k" * 200: 1}
    with (run / "metrics.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")
    last = read_records(run).lines[-1]
    assert len(last["fit_says"]) == 500
    assert len(last["numbers"]) == 1024
    assert len(last) == 3


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(turns, "MOST_LINES", 100)
    monkeypatch.setattr(turns, "CHUNK", 2000)


def counted(first: int, last: int) -> str:
    return "".join(json.dumps({"env_steps": i}) + "\n" for i in range(first, last))


def test_of_very_many_lines_the_newest_are_kept_and_none_of_the_others_is_parsed(run, small, monkeypatch):
    parsed = []
    real = turns.parse_json
    monkeypatch.setattr(turns, "parse_json", lambda data, name: parsed.append(data) or real(data, name))
    (run / "metrics.jsonl").write_text(counted(0, 1000))
    found = read_records(run)
    assert [line["env_steps"] for line in found.lines] == list(range(900, 1000))
    assert len(parsed) == 100
    assert "Of metrics.jsonl the newest 100 lines are kept; 900 older ones are left out." in found.trouble


def test_of_a_very_large_file_the_newest_bytes_are_read(run, monkeypatch):
    monkeypatch.setattr(turns, "MOST_BYTES", 1000)
    text = counted(1000, 2000)
    (run / "metrics.jsonl").write_text(text)
    found = read_records(run)
    assert found.lines[-1]["env_steps"] == 1999
    kept = "".join(json.dumps(line) + "\n" for line in found.lines)
    assert 900 < len(kept) <= 1000
    assert f"{len(text) - len(kept)} bytes before them are not" in " ".join(found.trouble)


def test_who_looks_again_and_again_reads_a_part_each_time(run, small):
    (run / "metrics.jsonl").write_text(counted(0, 300))
    memory, seen = Memory(), []
    for _ in range(4):
        found = read_records(run, memory)
        seen.append((found.steps, any("still being read" in t for t in found.trouble)))
    assert seen[0][0] < seen[1][0] < seen[2][0] == seen[3][0] == 299
    assert [behind for _, behind in seen] == [True, True, False, False]


def test_a_line_of_very_many_names_is_cut(run):
    with (run / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({f"n{i}": 1.0 for i in range(5000)} | {"env_steps": 100}) + "\n")
    found = read_records(run)
    assert (len(found.lines[-1]), found.steps) == (301, 100)
    assert any("1 lines of metrics.jsonl have more than 300 names" in t for t in found.trouble)


def test_a_line_that_is_longer_than_any_may_be_is_broken(run, small):
    with (run / "metrics.jsonl").open("a") as out:
        out.write('{"env_steps": 90, "x": "' + "y" * 5000 + '"}\n' + counted(100, 101))
    found = read_records(run)
    assert found.steps == 100
    assert any("cannot be read" in t for t in found.trouble)


def test_numbers_that_are_none_are_gaps(tmp_path):
    run = write_run(tmp_path / "run", episodes=3, broken=True)
    steps, values = column(read_records(run).lines, "plan_cost")
    assert steps == [20, 40, 60]
    np.testing.assert_equal(values, [np.nan, 50.0, 100.0 / 3.0])


def test_no_run_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        read_records(tmp_path)


def test_the_share_of_actions_at_a_limit_is_what_counting_says(tmp_path):
    random = np.random.default_rng(3)
    for number in range(3):
        write_episode(tmp_path, number, random, rows=50, n=2, m=2)
    notes = [note(p) for p in sorted((tmp_path / "episodes").iterdir())]
    limits = seen_limits(notes)
    assert limits is not None
    np.testing.assert_array_equal([limits.low, limits.high], [[-2.0, -2.0], [2.0, 2.0]])
    random = np.random.default_rng(3)  # the same actions again
    for one in notes:
        random.normal(size=(51, 2))
        u = np.clip(random.normal(scale=1.5, size=(50, 2)), -2.0, 2.0)
        random.normal(size=50)
        assert share_at(one, limits) == pytest.approx(np.mean(np.abs(u) == 2.0))
        assert share_at(one, limits) > 0.05


def test_a_largest_value_that_was_seen_once_is_no_limit(tmp_path):
    write_episode(tmp_path, 0, np.random.default_rng(0), rows=4, n=1, m=1)
    one = note(tmp_path / "episodes" / "000000.safetensors")
    limits = seen_limits(
        [one._replace(low=np.array([-0.7]), high=np.array([0.9]), at_low=np.ones(1), at_high=np.ones(1))]
    )
    assert limits is not None
    assert np.isnan([*limits.low, *limits.high]).all()


def test_an_action_that_ends_on_one_side_only_is_not_always_at_its_limit(tmp_path):
    write_episode(tmp_path, 0, np.random.default_rng(0), rows=50, n=1, m=1)
    one = note(tmp_path / "episodes" / "000000.safetensors")
    at_low = int(one.at_low[0])
    assert share_at(one, Limits(np.array([-2.0]), np.array([np.inf]), named=True)) == at_low / 50
    assert share_at(one, Limits(np.array([-3.0]), np.array([np.inf]), named=True)) == 0.0
