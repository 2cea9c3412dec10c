"""`forethought sweep`: what is refused before anything starts, and two real runs up to a comparison."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from forethought.cli import guarded
from forethought.comparing.comparison import compare
from forethought.runs.directory import RunDirectory
from forethought.sweeping import command as commanding
from forethought.sweeping.command import command
from forethought.sweeping.job import Job, Outcome
from forethought.sweeping.plan import Varied, jobs_of, parse_seeds, parse_sweep, prepare, refuse_other, runs_of
from small import PACE, TINY, Answer

TASK = ["pendulum", *TINY, *PACE, "--steps", "20", "--limit", "10"]


def ask(capsys, *words: str | Path) -> Answer:
    """`forethought sweep` in this process."""
    capsys.readouterr()
    status = guarded(command, [str(word) for word in words])
    said = capsys.readouterr()
    return Answer(status, said.out, said.err)


def test_two_real_runs_one_of_which_was_broken_off(capsys, tmp_path) -> None:
    """The first is trained; the second is there as a kill in its first second leaves it, and is resumed."""
    out = tmp_path / "s"
    first = ask(capsys, *TASK, "--evaluate-every", "20", "--seeds", "0", "--out", out, "--time-limit", "300")
    assert first.status == 0, first.err
    assert "1 of 1 runs are done." in first.out
    _, recipe = RunDirectory(out / "seed0").read_config()
    (out / "seed1").mkdir()
    RunDirectory(out / "seed1").write_config("0123456789abcdef", recipe | {"seed": 1})
    again = ask(capsys, *TASK, "--evaluate-every", "20", "--seeds", "0-1", "--out", out, "--json")
    assert again.status == 0, again.err
    assert [(run["name"], run["earlier"]) for run in again.json["runs"]] == [("seed0", True), ("seed1", False)]
    log = (out / "logs" / "seed1.log").read_text()
    assert "Stopped by steps: 20 steps" in log
    starts = json.loads((out / "seed1" / "run.json").read_text())["starts"]
    assert [start["command"].split()[1] for start in starts] == ["resume"]
    assert starts[0]["machine"]["xla_flags"], "one thread"
    (table,) = compare(sorted(out.glob("*seed*"))).tables
    (group,) = table.groups
    assert table.evaluated
    assert group.seeds == [0, 1]
    assert group.name == "V15 ICEM EnsembleLearner"
    assert all(entry.record.episodes == 2 for entry in group.entries)
    assert [point.steps for point in group.entries[0].curve] == [20]
    # Without the evaluations: training returns, as the episode files have them.
    for file in out.glob("*/evaluations/*"):
        file.unlink()
    (table,) = compare(sorted(out.glob("*seed*"))).tables
    returns = json.loads((out / "seed0" / "checkpoints" / "000003" / "manifest.json").read_text())["notes"]["returns"]
    assert table.groups[0].scores[0] == pytest.approx(sum(returns) / 2)


REFUSED = [
    ([], "sweep needs a folder of its own, and none was given: --out DIR."),
    (["--out"], "--out needs a value"),
    (["--out", "d", "--seeds", ""], "--seeds is ''; it must be whole numbers and ranges"),
    (["--out", "d", "--seeds=-3"], "--seeds is '-3'; it must be whole numbers"),
    (["--out", "d", "--seeds", "3-1"], "--seeds is '3-1'; it must be"),
    (["--out", "d", "--seeds", "0-2,1"], "each seed must be there once, and 1 is there twice."),
    (["--out", "d", "--seeds", "0-1000000"], "and at most 10000."),
    (["--out", "d", "--seeds", "2147483648"], "seed is 2147483648; it must be a whole number"),
    (["--out", "d", "--seed", "3"], "--seed was given; sweep must be given --seeds"),
    (["--out", "d", "--sedes", "3"], "There is no flag --sedes. The nearest is --seed."),
    (["--out", "d", "--sedes", "3"], "Those of sweep itself are --json --quiet --debug --no-cache --seeds --vary"),
    (["--out", "d", "--jobs", "0"], "--jobs is 0; it must be a whole number, at least 1"),
    (["--out", "d", "--jobs", "two"], "--jobs is 'two'; it must be a whole number."),
    (["--out", "d", "--time-limit", "0"], "--time-limit is 0; it must be a finite number, larger than 0."),
    (["--out", "d", "--memory-limit", "inf"], "--memory-limit is inf; it must be a finite number"),
    (["--out", "d", "--launcher", "slurm"], "--launcher is 'slurm'; it must be processes or ray."),
    (["--out", "d", "--vary"], "--vary needs a value: FLAG=VALUE,VALUE."),
    (["--out", "d", "--vary", "planner.samples"], "it must be FLAG=VALUE,VALUE"),
    (["--out", "d", "--vary", "planner.samples=8,"], "it must be FLAG=VALUE,VALUE"),
    (["--out", "d", "--vary", "planner.samples=8,8"], "and different values"),
    (["--out", "d", "--vary", "planner.kept=2,02"], "are the same settings; what is varied must differ."),
    (["--out", "d", "--vary", "planner.smaples=8,9"], "There is no flag --algorithm.planner.smaples. The nearest is"),
    (["--out", "d", "--vary", "planner.kept=1,many"], "--algorithm.planner.kept is 'many'; it must be a whole number."),
    (["--out", "d", "--vary", "workers=1,-5"], "workers is -5; it must be a whole number, at least 1"),
    (["--out", "d", "--vary", "seed=1,2"], "it must be a flag of train other than seed and out"),
    (["--out", "d", "--vary", "jobs=1,2"], "it must be a flag of train"),
    (["--out", "d", "--vary", "algorithm.planner.samples=8,9"], "is varied, and given once more; it must be one of"),
    (["--out", "d", "--vary", "quiet=a,b"], "it must be a flag of train"),
    (["--out", "d", "--launcher", "ray", "--vary", "history=1,2x"], "--history is '2x'"),
    (["--out", "full"], "full holds something else (x); give a new or an empty folder."),
    (["--out", "full/x"], "full/x cannot be the folder of a sweep (Not a directory)"),
    (["--out", "d", "cartpole-swingup"], "train takes one task, and 2 were given"),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[" ".join(words) or "nothing" for words, _ in REFUSED])
def test_what_is_wrong_is_refused_before_anything_starts(capsys, tmp_path, monkeypatch, words, says) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    answer = ask(capsys, *TASK, *words)
    assert (answer.status, answer.out) == (2, "")
    assert says in answer.err
    assert answer.err.startswith("forethought: ")
    assert answer.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "x"], "nothing is left behind"


def test_a_task_that_is_not_there_is_refused(capsys, tmp_path) -> None:
    answer = ask(capsys, "Pendulam-v1", "--out", tmp_path / "d")
    assert answer.status == 2
    assert "There is no task or environment Pendulam-v1" in answer.err
    assert not (tmp_path / "d").exists()


@pytest.fixture
def recorded(monkeypatch) -> list[list[Job]]:
    """What would be run: nothing is, and the first job of each sweep fails."""
    seen: list[list[Job]] = []

    def launch(jobs, at_once, setting):
        seen.append(list(jobs))
        for i, job in enumerate(jobs):
            outcome = Outcome(job.name, "done" if i else "failed", "" if i else "memory limit", 1.0, 2.0)
            if i:
                job.result.parent.mkdir(parents=True)
                job.result.touch()
            setting.place.write(outcome)
            yield outcome

    monkeypatch.setattr(commanding, "run_processes", launch)
    return seen


def test_every_combination_is_run_with_every_seed(capsys, tmp_path, recorded) -> None:
    words = [
        "pendulum",
        "--steps",
        "20",
        "--vary",
        "planner=cem,mppi",
        "--vary=algorithm.horizon=5,10",
        "--seeds",
        "3,1",
    ]
    answer = ask(capsys, *words, "--no-cache", "--out", tmp_path / "a b")
    assert answer.status == 1, "one has failed"
    (jobs,) = recorded
    assert [job.name for job in jobs] == [
        f"planner={planner}_algorithm.horizon={horizon}-seed{seed}"
        for seed in (3, 1)
        for planner in ("cem", "mppi")
        for horizon in (5, 10)
    ]
    out = tmp_path / "a b" / "planner=cem_algorithm.horizon=10-seed3"
    train = ("pendulum", "--steps", "20", "--planner=cem", "--algorithm.horizon=10", "--seed=3", f"--out={out}")
    assert jobs[1].argv == (sys.executable, "-P", "-m", "forethought", "train", *train, "--no-cache")
    assert "planner=cem_algorithm.horizon=5-seed3    FAILED, memory limit" in answer.out
    assert "7 of 8 runs are done.\n1 failed: what they said is in " in answer.out
    assert answer.out.endswith(f"Compare: forethought compare {shlex.quote(str(tmp_path / 'a b'))}/*seed*\n")
    assert answer.err.count("\n") == 8
    again = ask(capsys, *words, "--no-cache", "--out", tmp_path / "a b", "--quiet")
    assert [job.name for job in recorded[1]] == [jobs[0].name]
    assert again.err == ""


def test_a_sweep_that_was_killed_in_its_first_moment_can_be_begun_again(tmp_path) -> None:
    plan = parse_sweep(["pendulum", "--out", str(tmp_path), "--seeds", "0"])
    (tmp_path / ".sweep.json.part").write_text("{")
    refuse_other(plan)
    prepare(plan)
    assert (tmp_path / "sweep.json").exists()


def test_a_folder_is_for_one_sweep(capsys, tmp_path, recorded) -> None:
    """More seeds may be added; another setting would be mixed in under the same names."""
    assert ask(capsys, "pendulum", "--steps", "20", "--seeds", "0-1", "--out", tmp_path / "d").status == 1
    ask(capsys, "pendulum", "--steps", "20", "--seeds", "0-3", "--out", tmp_path / "d")
    assert [len(jobs) for jobs in recorded] == [2, 3]
    other = ask(capsys, "pendulum", "--steps", "30", "--seeds", "0-1", "--out", tmp_path / "d")
    assert other.status == 2
    assert "was begun with 'train pendulum --steps 20', and now it is 'train pendulum --steps 30'" in other.err


def test_what_was_broken_off_is_resumed_with_what_has_to_be_named_again(tmp_path) -> None:
    """A file of the user's, and an argument of the environment that may name a file."""
    plan = parse_sweep(["mine.py", "--seeds", "0-1", "--out", str(tmp_path)])
    (tmp_path / "seed0").mkdir()
    env = {"kind": "dict", "items": {"xml_file": "ant.xml", "g": 9.8}}
    algorithm = {"kind": "V15", "planner": {"kind": "own", "class": "mine.Mine"}}
    RunDirectory(tmp_path / "seed0").write_config("0123", {"task": "Ant-v5", "env": env, "algorithm": algorithm})
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / ".config.json.part").touch()
    jobs = jobs_of(plan, runs_of(plan))
    resume = ("resume", str(tmp_path / "seed0"), "--experiment", "mine.py", "--env.xml_file", '"ant.xml"')
    assert jobs[0].command[4:] == resume
    assert jobs[1].command == jobs[1].argv
    assert not (tmp_path / "seed1").exists(), "it was killed before it had written anything"


def test_help_says_what_there_is(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command(["--help"])
    assert not stop.value.code
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--seeds", "--vary", "--jobs", "--time-limit", "--memory-limit", "--launcher"))


def test_seeds_are_read() -> None:
    assert parse_seeds("0-2,7, 5") == (0, 1, 2, 7, 5)
    assert parse_seeds("100-109") == tuple(range(100, 110))


def test_a_long_value_still_makes_a_name(tmp_path) -> None:
    plan = parse_sweep(["pendulum", "--out", str(tmp_path), "--seeds", "0"])
    values = ("x" * 300, "x" * 299 + "y", "a/b c")
    names = [run.name for run in runs_of(plan._replace(varied=(Varied("env.file", values),)))]
    assert len(set(names)) == 3
    assert all(len(name) < 200 and "/" not in name and " " not in name for name in names)
    one, two = (runs_of(plan._replace(varied=(Varied("env.goal", (value,)),)))[0].name for value in ("a/b", "a-b"))
    assert one != two, "asked for one after the other, too"
