"""The flags: what a slip of the finger, and what a fuzzer, gets for an answer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from small import call

BENCH = Path(__file__).parents[1] / "bench"
PENDULUM = ["train", "pendulum"]

TYPOS = [
    # Commands.
    (["tain", "pendulum"], "There is no command tain. The nearest is train."),
    (["Train", "pendulum"], "There is no command Train. The nearest is train."),
    (["TRAIN", "pendulum"], "There is no command TRAIN."),
    (["eval", "r"], "There is no command eval."),
    (["evalute", "r"], "The nearest is evaluate."),
    (["resum", "r"], "The nearest is resume."),
    (["continue", "r"], "There is no command continue. 'forethought --help' lists all."),
    (["tsks"], "The nearest is tasks."),
    (["task"], "The nearest is tasks."),
    (["chek", "Pendulum-v1"], "The nearest is check."),
    (["--versoin"], "The nearest is --version."),
    (["-help"], "The nearest is --help."),
    (["train-pendulum"], "There is no command train-pendulum."),
    # Tasks.
    (["train", "Pendulum"], "The nearest names are pendulum"),
    (["train", "pendulum-v1"], "Pendulum-v1"),
    (["train", "Pendulum-v2"], "Pendulum-v1"),
    (["train", "pendulm"], "The nearest names are pendulum"),
    (["train", "CartPole-v2"], "CartPole-v1"),
    (["train", "cartpole"], "cartpole-swingup"),
    (["train", "Cartpole-v1"], "CartPole-v1"),
    (["train", "double_integrator"], "double-integrator"),
    (["train", "cartpole_swingup"], "cartpole-swingup"),
    (["train", "InvertedPendulum"], "InvertedPendulum-v5"),
    (["train", "mine.py"], "There is no file mine.py."),
    (["train", ""], "train takes one task, and '' was given"),
    (["train", "a\nb"], r"train takes one task, and 'a\nb' was given"),
    (["train", "Pendulum-v1", "v1.5"], "2 were given: Pendulum-v1 v1.5"),
    (["train", "--task", "pendulum"], "train takes one task, and none was given"),
    # Names of flags.
    ([*PENDULUM, "--seeds", "3"], "There is no flag --seeds. The nearest is --seed."),
    ([*PENDULUM, "--sed", "3"], "The nearest is --seed."),
    ([*PENDULUM, "--step=5"], "There is no flag --step. The nearest is --steps."),
    ([*PENDULUM, "--Steps", "5"], "There is no flag --Steps. The nearest is --steps."),
    ([*PENDULUM, "-steps", "5"], "There is no flag -steps. The nearest is --steps."),
    ([*PENDULUM, "--planner.sample", "5"], "The nearest is --algorithm.planner.samples."),
    ([*PENDULUM, "--samples", "5"], "There is no flag --samples. The nearest is --algorithm.planner.samples."),
    ([*PENDULUM, "--horizon", "5"], "There is no flag --horizon. The nearest is --algorithm.horizon."),
    (
        [*PENDULUM, "--model", "ensemble", "--model.gradient-step", "5"],
        "The nearest is --algorithm.learner.gradient-steps.",
    ),
    ([*PENDULUM, "--worker", "2"], "The nearest is --workers."),
    ([*PENDULUM, "--output", "r"], "There is no flag --output."),
    ([*PENDULUM, "--no-json"], "There is no flag --no-json."),
    ([*PENDULUM, "--until.slved"], "The nearest is --until.solved."),
    ([*PENDULUM, "--guard.rewardbound", "1"], "The nearest is --guard.reward-bound."),
    ([*PENDULUM, "--algorithm", "v1.0", "--algorithm.refit-every", "5"], "There is no flag --algorithm.refit-every."),
    ([*PENDULUM, "--planner", "mppi", "--planner.elites", "5"], "There is no flag --algorithm.planner.elites."),
    (["demo", "--output", "r"], "There is no flag --output."),
    (["demo", "Pendulum-v1"], "There is no further argument Pendulum-v1."),
    # Values.
    (
        [*PENDULUM, "--algorithm", "1.5"],
        "--algorithm is '1.5'; it must be v0.5 or v1.0 or v1.5 or v2.0 or local or dyna or trpo. The nearest is v1.5.",
    ),
    ([*PENDULUM, "--algorithm", "V15"], "--algorithm is 'V15'; it must be"),
    (
        [*PENDULUM, "--planner", "ICEM"],
        "--planner is 'ICEM'; it must be shooting or cem or icem or mppi or ilqr or mcts.",
    ),
    ([*PENDULUM, "--planner="], "--planner is ''; it must be"),
    ([*PENDULUM, "--planner"], "--planner needs a value."),
    ([*PENDULUM, "--steps", "1k"], "--steps is '1k'; it must be a whole number."),
    ([*PENDULUM, "--steps", "1e3"], "--steps is '1e3'; it must be a whole number."),
    ([*PENDULUM, "--steps", "1,000"], "--steps is '1,000'; it must be a whole number."),
    ([*PENDULUM, "--steps="], "--steps is ''; it must be a whole number."),
    ([*PENDULUM, "--steps", "=", "5"], "2 were given: pendulum 5"),
    ([*PENDULUM, "--steps", "--seed", "0"], "--steps needs a value: a whole number. '--seed' looks like a flag"),
    ([*PENDULUM, "--seed", "-1"], "seed is -1; it must be a whole number, at least 0"),
    ([*PENDULUM, "--seed", "0-4"], "--seed is '0-4'; it must be a whole number."),
    ([*PENDULUM, "--limit", "10s"], "--limit is '10s'; it must be a whole number or None."),
    ([*PENDULUM, "--algorithm.discount", "99%"], "--algorithm.discount is '99%'; it must be a number."),
    ([*PENDULUM, "--algorithm.discount", "99"], "algorithm.discount is 99.0; it must be"),
    ([*PENDULUM, "--algorithm.safe", "none"], "--algorithm.safe is 'none'; it must be zero or hold."),
    ([*PENDULUM, "--guard.on-fault", "continue"], "--guard.on-fault is 'continue'; it must be stop or go-on."),
    ([*PENDULUM, "--guard.deadline", "1min"], "--guard.deadline is '1min'; it must be a number."),
    ([*PENDULUM, "--base", "colored"], "base is 'colored'; it must be"),
    ([*PENDULUM, "--base", "x" * 300], "base is 'xxx"),
    ([*PENDULUM, "--workers", "2"], "workers is 2, but pendulum is simulated in this process"),
    ([*PENDULUM, "--workers", "0"], "workers is 0; it must be a whole number, at least 1"),
    ([*PENDULUM, "--quiet", "yes"], "2 were given: pendulum yes"),
    ([*PENDULUM, "--out", "--quiet"], "--out needs a value: a path or None. '--quiet' looks like a flag"),
    ([*PENDULUM, "--out", "x" * 300], "--out is 'xxx"),
    ([*PENDULUM, "--out="], "--out is ''; it must be a path or None."),
    (["evaluate", "r", "--experiment", " "], "--experiment is ' '; it must be a path or None."),
    (["evaluate", "a\nb"], r"evaluate takes one run directory, and 'a\nb' was given."),
    ([*PENDULUM, "--data", "d.xlsx"], "data is d.xlsx; there is no such file."),
    ([*PENDULUM, "--model", "ensemble", "--model.width", "9" * 400], "algorithm.learner.width is 999"),
    # Run directories.
    (["evaluate", "Pendulum-v1"], "Pendulum-v1 is no run directory: there is no such folder."),
    (["evaluate", ""], "evaluate takes one run directory, and '' was given."),
    (["evaluate", "r", "s"], "2 were given: r s"),
    (["resume"], "resume takes one run directory, and none was given."),
    (["resume", "--steps", "100"], "resume takes one run directory, and none was given."),
    (["resume", "x" * 300], "resume takes one run directory, and 'xxx"),
    (["resume", "."], ". is no run directory: it has neither config.json nor checkpoints."),
    (["evaluate", "r", "--episodes", "ten"], "--episodes is 'ten'; it must be a whole number or None."),
    (["evaluate", "r", "--seeds", "3"], "There is no flag --seeds. The nearest is --seed."),
]


@pytest.mark.parametrize(("words", "says"), TYPOS, ids=[" ".join(words)[:40].replace("\n", "_") for words, _ in TYPOS])
def test_a_typical_typo_is_one_sentence_and_status_2(capsys, tmp_path, monkeypatch, words, says) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, *words)
    assert (answer.status, answer.out) == (2, ""), answer.err
    assert answer.err.startswith("forethought: ")
    assert answer.err.count("\n") == 1, answer.err
    assert "Traceback" not in answer.err
    assert "Unexpected" not in answer.err
    assert len(answer.err) < 600
    assert says in answer.err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.fixture(scope="module")
def fuzz():
    """The fuzzer, which is run for longer as a script."""
    sys.path.insert(0, str(BENCH))
    try:
        import fuzz_flags  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(BENCH))
    return fuzz_flags


def test_any_command_line_works_or_is_refused_in_a_sentence(fuzz, tmp_path, monkeypatch) -> None:
    """100 of them, read and validated; bench/fuzz_flags.py reads 2,000 and carries 100 out."""
    monkeypatch.chdir(tmp_path)
    fuzz.furnish(tmp_path, run=False)
    random = np.random.default_rng(7)
    lines = [fuzz.random_line(random) for _ in range(100)]
    verdicts = [(line, fuzz.judge(line)) for line in lines]
    kinds = [verdict.kind for _, verdict in verdicts]
    assert not [(line.words, verdict.said) for line, verdict in verdicts if verdict.kind == "fault"]
    assert kinds.count("works") > 20, "some work"
    assert kinds.count("sentence") > 20, "some do not"


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("--steps is 'many'; it must be a whole number.", None),
        ("steps is many; it must be a whole\nnumber.", "not one line"),
        ("Unexpected ValueError: steps is many; it must be.", "unexpected"),
        ("steps is many.", "does not say what is allowed"),
        ("seed is 0; it must be larger.", "names no path and no value"),
        ("steps is wrong; it must be a whole number.", "does not name the value"),
        ("steps is many; it must be " + "very " * 200, "too long"),
    ],
)
def test_the_fuzzer_tells_a_good_sentence_from_a_bad_one(fuzz, sentence, wrong) -> None:
    line = fuzz.Line(["train", "pendulum", "--steps", "many"], [("--steps", "many")])
    assert fuzz.fault_of(sentence, line) == wrong


@pytest.mark.parametrize("raised", [ValueError("x"), KeyError("x"), RecursionError(), SystemExit(2), OSError("x")])
def test_the_fuzzer_takes_any_other_exception_for_a_fault(fuzz, raised) -> None:
    def fail(line):
        raise raised

    assert fuzz.judge(fuzz.Line(["train"], []), fail).kind == "fault"
