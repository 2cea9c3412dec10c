"""A run that plans by tree search, from the command line: cut short and resumed it is the run that was not."""

from __future__ import annotations

from forethought import MCTS, resume
from forethought.runs.experiment import open_run
from kept import require_same_run
from small import PACE, TINY, call

SEARCH = [
    *("--planner", "mcts", "--planner.search", "gumbel", "--planner.simulations", "4", "--planner.rollouts", "2"),
    *("--planner.sequences", "8", "--planner.candidates", "3", "--planner.draws", "2", "--planner.hold", "2"),
    *("--planner.imagination.particles", "2", "--planner.imagination.propagation", "ts-inf"),
    *TINY[6:-2],
]


def test_it_resumes_bit_for_bit(tmp_path, capsys) -> None:
    for name, steps in (("straight", "30"), ("short", "15")):
        where = ["--steps", steps, "--limit", "10", "--seed", "3", "--out", tmp_path / name, "--quiet"]
        answer = call(capsys, "train", "pendulum", *SEARCH, *PACE, *where)
        assert answer.status == 0, answer.err
    assert resume(tmp_path / "short", steps=30).env_steps == 30
    require_same_run(tmp_path / "short", tmp_path / "straight")
    planner = open_run(tmp_path / "short").experiment.algorithm.planner
    assert isinstance(planner, MCTS)
    assert (planner.search, planner.simulations, planner.hold) == ("gumbel", 4, 2)


def test_its_settings_are_checked(tmp_path, capsys) -> None:
    where = ["--steps", "20", "--out", tmp_path / "r"]
    for words, says in (
        (["--planner.simulations", "0"], "simulations is 0; it must be a whole number, at least 1"),
        (["--planner.search", "uct"], "search is 'uct'; it must be puct or gumbel"),
        (
            ["--planner.candidates", "65"],
            "candidates is 65; it must be at most",
        ),
        (["--planner.samples", "5"], "There is no flag --algorithm.planner.samples."),
    ):
        answer = call(capsys, "train", "pendulum", "--planner", "mcts", *words, *where)
        assert answer.status == 2
        assert says in answer.err
