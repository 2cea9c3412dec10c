"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiling import FLAGS
from forethought import Experiment, UserError
from forethought._version import __version__
from forethought.runs.command_line import flags_of
from forethought.runs.experiment import Named, open_run
from forethought.runs.files import read_sealed, seal
from forethought.runs.train_flags import ALGORITHMS, PLANNERS, choose, parse_train
from forethought.runs.validate import check
from small import PACE, TINY, Fragile, call

SMALL = ["--limit", "10", "--steps", "30", *TINY, *PACE]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run that the command line made."""
    out = tmp_path_factory.mktemp("cli") / "run"
    parse_train(["pendulum", "--out", str(out), *SMALL]).experiment.run()
    return out


@pytest.fixture
def run(original, tmp_path):
    """A copy to be spoiled."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_help_and_version(capsys):
    answer = call(capsys, "--help")
    assert answer.status == 0
    assert all(
        f"  {name}" in answer.out for name in ("demo", "train TASK", "evaluate DIR", "resume DIR", "tasks", "info")
    )
    assert call(capsys, "--version").out == f"forethought {__version__}\n"
    nothing = call(capsys)
    assert (nothing.status, nothing.out) == (2, "")
    assert nothing.err == answer.out


@pytest.mark.parametrize("command", ["train", "evaluate", "resume", "demo", "tasks", "info"])
def test_every_command_has_help(capsys, command):
    answer = call(capsys, command, "--help")
    assert answer.status == 0
    assert f"usage: forethought {command}" in answer.out
    assert "--json" in answer.out


def test_help_of_train_is_narrowed_to_the_choice(capsys):
    assert "--algorithm.planner.momentum" in call(capsys, "train", "--help").out
    answer = call(capsys, "train", "--planner", "mppi", "--algorithm", "v1.0", "--help").out
    assert "--algorithm.planner.effective" in answer
    assert "--algorithm.planner.momentum" not in answer
    assert "--algorithm.refit-every" not in answer


def test_train_says_what_it_made(capsys, tmp_path):
    answer = call(capsys, "train", "pendulum", *SMALL)
    assert answer.status == 0
    assert "Stopped by steps: 30 steps, 3 episodes" in answer.out
    made = next((tmp_path / "runs").iterdir())
    assert f"Evaluate: forethought evaluate runs/{made.name}" in answer.out
    assert "step 30/30  episode 3" in answer.err
    start = read_sealed(made / "run.json")["starts"][0]
    assert start["command"].startswith("forethought train pendulum --limit 10")


def test_json_is_all_of_standard_output(capsys, tmp_path):
    answer = call(capsys, "train", "pendulum", "--json", "--out", tmp_path / "r", *SMALL)
    found = answer.json
    assert found["run"] == str(tmp_path / "r")
    assert (found["env_steps"], len(found["episodes"]), found["stopped_by"]) == (30, 3, "steps")
    assert found["seconds"] > 0.0
    values = call(capsys, "evaluate", tmp_path / "r", "--json", "--episodes", "2").json
    assert values["starts"] == [1000, 1001]
    assert values["env_steps"] == 20
    assert values["mean_return"] == pytest.approx(sum(values["returns"]) / 2)
    assert values["interval"][0] < values["mean_return"] < values["interval"][1]
    assert "Pendulum-v1" in call(capsys, "tasks", "--json").json["tasks"]
    assert call(capsys, "info", "--json").json["versions"]["forethought"] == __version__


def test_evaluate_is_deterministic_and_seeds_are_starts(capsys, run):
    first, again = (call(capsys, "evaluate", run, "--json", "--seed", "7", "--episodes", "2").json for _ in range(2))
    assert first["returns"] == again["returns"]
    assert first["starts"] == [7, 8]
    text = call(capsys, "evaluate", run, "--episodes", "2")
    assert text.status == 0
    assert "pendulum, 2 episodes from fixed starts" in text.out
    assert "(95% interval " in text.out


def test_resume(capsys, run):
    answer = call(capsys, "resume", run, "--steps", "40", "--json")
    assert (answer.status, answer.json["env_steps"], len(answer.json["episodes"])) == (0, 40, 4)
    done = call(capsys, "resume", run)
    assert done.status == 0
    assert "give more with --steps N" in done.err


def test_a_damaged_checkpoint_is_skipped_aloud(capsys, run):
    newest = max((run / "checkpoints").iterdir())
    (newest / "arrays.safetensors").write_bytes(b"")
    answer = call(capsys, "evaluate", run, "--json", "--episodes", "2")
    assert answer.status == 0
    assert "is damaged and skipped: arrays.safetensors" in answer.err
    assert answer.json["env_steps"] == 20


@pytest.mark.parametrize("command", [["evaluate", "--episodes", "1"], ["resume", "--steps", "40"]])
@pytest.mark.parametrize("part", ["config.json", "run.json", "metrics.jsonl", "episodes/000000.safetensors"])
def test_strict_refuses_a_damaged_run(capsys, run, command, part):
    name, *words = command
    assert call(capsys, "evaluate", run, "--strict", "--json", "--episodes", "1").status == 0, "it is whole"
    data = bytearray((run / part).read_bytes())
    data[len(data) // 2] ^= 1
    (run / part).write_bytes(data)
    answer = call(capsys, name, run, *words, "--strict")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("forethought: The run is damaged, and --strict refuses that. ")
    assert Path(part).name in answer.err
    assert answer.err.count("\n") == 1
    assert call(capsys, name, run, *words).status == 0, "otherwise it goes on with what is whole"


def test_resume_says_what_is_damaged(capsys, run):
    (run / "episodes" / "000001.safetensors").unlink()
    answer = call(capsys, "resume", run, "--steps", "40", "--json")
    assert (answer.status, answer.json["env_steps"]) == (0, 40)
    assert "Damaged: " in answer.err
    assert "000001.safetensors cannot be read: No such file" in answer.err


def test_the_best_controller_is_the_one_with_the_best_returns(capsys, run):
    """The checkpoints say which that is; here the first one is made to be it."""
    first, *_ = sorted((run / "checkpoints").iterdir())
    manifest = read_sealed(first / "manifest.json")
    assert manifest["counters"]["steps"] < 30
    (first / "manifest.json").write_bytes(seal(manifest | {"score": 1e9}))
    opened = open_run(run, which="best")
    assert int(opened.state.steps) == manifest["counters"]["steps"]
    newest, best = (call(capsys, "evaluate", run, "--json", "--episodes", "2", *w).json for w in ([], ["--best"]))
    assert newest["returns"] != best["returns"]


def test_an_evaluation_of_the_best_controller_is_not_kept(capsys, run, monkeypatch):
    """At the end it would take the place of the newest one's."""
    from forethought.runs.evaluation import Evaluation

    kept = []
    monkeypatch.setattr("forethought.runs.evaluation.keep", lambda *given: kept.append(given[-1]["which"]))
    monkeypatch.setattr("forethought.runs.evaluation.starts_for", lambda task, episodes, seed: list(task.starts))
    monkeypatch.setattr(
        "forethought.runs.evaluation.evaluate", lambda *given: Evaluation([1.0], 1.0, None, 2, [0], None)
    )
    for words in ([], ["--best"]):
        assert call(capsys, "evaluate", run, "--json", *words).status == 0
    assert kept == ["newest"]


def test_a_machine_is_declared_on_the_command_line():
    assert parse_train(["x"]).experiment.replayable
    assert not parse_train(["x", "--no-replayable"]).experiment.replayable


MISTAKES = [
    (["trian", "pendulum"], "There is no command trian. The nearest is train."),
    (["train"], "train takes one task, and none was given"),
    (["train", "pendulum", "acrobot"], "2 were given: pendulum acrobot"),
    (["train", "Pendlum-v1"], "Pendulum-v1"),
    (["train", "no_such_module:Thing-v0"], "no_such_module"),
    (["train", "pendulum", "--step", "5"], "There is no flag --step. The nearest is --steps."),
    (["train", "pendulum", "--algorithm.planer.samples", "5"], "The nearest is --algorithm.planner.samples."),
    (["train", "pendulum", "--planner.smaples", "5"], "The nearest is --algorithm.planner.samples."),
    (["train", "pendulum", "--algoritm", "v1.0"], "There is no flag --algoritm."),
    (
        ["train", "pendulum", "--algorithm", "v1.6"],
        "--algorithm is 'v1.6'; it must be v0.5 or v1.0 or v1.5 or v2.0 or local or dyna or trpo.",
    ),
    (
        ["train", "pendulum", "--planner", "icme"],
        "it must be shooting or cem or icem or mppi or ilqr or mcts. The nearest is icem.",
    ),
    (["train", "pendulum", "--model", "forest"], "--model is 'forest'; it must be auto or gp or ensemble"),
    (["train", "pendulum", "--steps", "many"], "--steps is 'many'; it must be a whole number."),
    (["train", "pendulum", "--steps=1.5"], "--steps is '1.5'; it must be a whole number."),
    (["train", "pendulum", "--steps"], "--steps needs a value: a whole number."),
    (["train", "pendulum", "--steps", "-1"], "steps is -1; it must be a whole number, at least 0"),
    (["train", "pendulum", "--seed", "-3"], "seed is -3"),
    (["train", "pendulum", "--algorithm.planner.samples", "0"], "algorithm.planner.samples is 0; it must be"),
    (["train", "pendulum", "--planner.elites", "257"], "elites is 257; it must be at most algorithm.planner.samples"),
    (["train", "pendulum", "--algorithm.discount", "nan"], "algorithm.discount is nan; it must be a finite number"),
    (
        ["train", "pendulum", "--planner.imagination.propagation", "ts"],
        "'ts'; it must be auto or mean or ts-inf or ts-1",
    ),
    (["train", "pendulum", "--json=yes"], "--json is a switch and takes no value"),
    (["train", "pendulum", "--limit", "x"], "--limit is 'x'; it must be a whole number or None."),
    (["train", "pendulum", "--env.g", "3"], "takes no environment arguments"),
    (["train", "Pendulum-v1", "--env.gee", "3"], "gee"),
    (["train", "pendulum", "--data", "nowhere.csv"], "there is no such file"),
    (["train", "pendulum", "--base", "nowhere"], "base is 'nowhere'"),
    (["train", "pendulum", "--steps", "0"], "there is nothing to learn from"),
    (["train", "double-integrator", "--until.solved"], "no known threshold"),
    (["train", "nowhere.py"], "There is no file nowhere.py."),
    (["evaluate"], "evaluate takes one run directory, and none was given."),
    (["evaluate", "nowhere"], "nowhere is no run directory: there is no such folder."),
    (["evaluate", "."], "it has neither config.json nor checkpoints"),
    (["evaluate", "nowhere", "--episode", "3"], "There is no flag --episode. The nearest is --episodes."),
    (["resume", "nowhere"], "there is no such folder"),
    (["tasks", "more"], "There is no further argument more."),
    (["info", "--jsn"], "The nearest is --json."),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "")
def test_a_mistake_is_one_sentence_and_status_2(capsys, tmp_path, words, sentence):
    answer = call(capsys, *words)
    assert answer.status == 2, answer.err
    assert sentence in answer.err
    assert answer.err.startswith("forethought: ")
    assert answer.err.count("\n") == 1, answer.err
    assert answer.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["--episodes", "0"], ["--seed", "-1"], ["--episodes", "x"]])
def test_mistakes_in_evaluate(capsys, run, words):
    answer = call(capsys, "evaluate", run, *words)
    assert (answer.status, answer.out) == (2, "")
    assert words[0].strip("-") in answer.err


def test_a_run_is_not_overwritten(capsys, run):
    answer = call(capsys, "train", "pendulum", "--out", run, *SMALL)
    assert answer.status == 2
    assert "already holds a run; go on with it by 'forethought resume" in answer.err


def test_flags_reach_the_recipe():
    words = ["--algorithm", "v1.0", "--planner=cem", "--planner.samples", "33", "--model=ensemble", "--model.width=17"]
    more = ["--env.g", "9.81", "--env.render_mode", "None", "--steps", "5"]
    more += ["--until.solved", "--until.threshold", "-3.5"]
    asked = parse_train([*words, "Pendulum-v1", *more, "--limit", "None", "--json"])
    experiment = asked.experiment
    assert type(experiment.algorithm).__name__ == "V10"
    assert experiment.algorithm.planner.samples == 33
    assert experiment.algorithm.learner.width == 17
    assert experiment.algorithm.learner.gradient_steps == 2000, "v1.0's own default stays"
    assert experiment.env == {"g": 9.81, "render_mode": None}
    assert (experiment.task, experiment.steps, experiment.limit) == ("Pendulum-v1", 5, None)
    assert (experiment.until.solved, experiment.until.threshold) == (True, -3.5)
    assert asked.common.json
    assert parse_train(
        ["x", "--model.ensemble.bootstrap", "--no-cache"]
    ).experiment.algorithm.learner.ensemble.bootstrap
    assert not parse_train(["x", "--model", "ensemble"]).experiment.algorithm.learner.bootstrap


WORDS = ["0", "-1", "0.5", "nan", "-inf", "1e400", "", "None", "True", "abc", "--", "-", "9" * 21, "0x10", "é", "{"]


def test_any_flag_with_any_value_works_or_ends_in_a_sentence():
    """Every flag of every class with every one of these values, spoiled names among them; parsed and validated."""
    random = np.random.default_rng(0)
    sentences = []
    for _ in range(75):
        algorithm, planner = random.choice(list(ALGORITHMS)), random.choice(list(PLANNERS))
        chosen = {"--planner": planner} if algorithm in ("v0.5", "v1.0", "v1.5") else {}  # the others do not plan
        known = flags_of(Experiment("x", choose(ALGORITHMS[algorithm](), chosen)))
        flag, word = random.choice(list(known)), random.choice(WORDS)
        if random.random() < 0.2:
            flag = flag[:-2] + flag[-1]
        names = [token for name, value in chosen.items() for token in (name, value)]
        words = ["pendulum", "--algorithm", algorithm, *names, *[flag, word][: random.integers(1, 3)]]
        try:
            check(parse_train(words).experiment)
        except UserError as error:
            sentences.append(((flag.rsplit(".", 1)[-1].strip("-").replace("-", "_"), f"flag {word}."), str(error)))
    assert 0 < len(sentences) < 75, "some work, some do not"
    told = lambda names, said: any(name in said.replace("-", "_") or name in said for name in names)
    wrong = [said for names, said in sentences if not told((*names, "2 were given"), said)]
    assert not wrong, "the flag is named, or a word too many"
    assert not [said for _, said in sentences if "\n" in said or len(said) > 250]


MINE = '''
from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from forethought import V15, AbstractPlanner, EnsembleLearner, Experiment
from forethought.core import Plan
from forethought.policies.open_loop import OpenLoop


class Lazy(AbstractPlanner):
    """Does the same thing at every step."""

    u: float = 0.25

    def init(self, problem):
        return jnp.zeros((), jnp.float32)

    def plan(self, problem, warm, key):
        us = jnp.full((problem.horizon, problem.actions.m), self.u, jnp.float32)
        return Plan(OpenLoop(us, problem.t0), jnp.zeros((), jnp.float32), jnp.ones((), bool), {}), warm

    def shift(self, warm):
        return warm


experiment = Experiment(
    "pendulum",
    V15(Lazy(), EnsembleLearner(members=2, width=8, gradient_steps=10), base_steps=10, refit_every=10, horizon=3),
    steps=20,
    limit=10,
)
'''


def test_a_users_own_file(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    answer = call(capsys, "train", "mine.py", "--out", "r", "--planner.u", "0.5", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["env_steps"] == 20
    shown = call(capsys, "resume", "r", "--experiment", "mine.py")
    assert "Evaluate: forethought evaluate r --experiment FILE\n" in shown.out
    refused = call(capsys, "evaluate", "r")
    assert refused.status == 2
    assert "a class of your own ('forethought_experiment.Lazy')" in refused.err
    assert "--experiment FILE" in refused.err
    assert call(capsys, "evaluate", "r", "--experiment", "mine.py", "--json", "--episodes", "1").json["env_steps"] == 10
    state = open_run(tmp_path / "r", Named(experiment=parse_train(["mine.py"]).experiment)).state
    assert state.data.u[10:20].ravel().tolist() == [0.5] * 10
    more = call(capsys, "resume", "r", "--experiment", "mine.py", "--steps", "30", "--json")
    assert more.json["env_steps"] == 30


def test_a_users_own_module(capsys, tmp_path):
    """It is found in the current folder, and has to be named again."""
    name = f"envs_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('tests/Mine-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv',\n"
        "                   max_episode_steps=10)\n"
    )
    task = f"{name}:tests/Mine-v0"
    answer = call(capsys, "train", task, "--steps", "10", "--out", "r", *TINY, *PACE)
    assert answer.status == 0, answer.err
    assert "reward and termination are learned with the model" in answer.err
    assert f"Evaluate: forethought evaluate r --task {task}\n" in answer.out
    refused = call(capsys, "resume", "r", "--steps", "20")
    assert refused.status == 2
    assert f"name it again, with --task {task}" in refused.err
    assert call(capsys, "resume", "r", "--steps", "20", "--task", task, "--json").json["env_steps"] == 20


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\n", "must define experiment = Experiment(...)"),
        ("a = 1\nb = a / 0\n", "line 2: ZeroDivisionError"),
        ("def\n", "line 1: SyntaxError"),
        ("experiment = 3\n", "it defines int"),
    ],
)
def test_a_wrong_file_is_one_sentence(capsys, tmp_path, text, sentence):
    (tmp_path / "mine.py").write_text(text)
    answer = call(capsys, "train", "mine.py")
    assert answer.status == 2
    assert sentence in answer.err
    assert answer.err.count("\n") == 1


@pytest.fixture
def fragile():
    """The environment in which things happen."""
    yield Fragile
    Fragile.plan_fault(None)


FRAGILE = ["train", "tests/Fragile-v0", "--out", "r", "--steps", "30", *TINY, *PACE]


def test_ctrl_c_saves_and_says_how_to_go_on(capsys, fragile):
    fragile.plan_fault(17, KeyboardInterrupt())
    answer = call(capsys, *FRAGILE, "--json")
    assert (answer.status, answer.out) == (130, "")
    assert answer.err.count("Interrupted.") == 1
    assert "Interrupted. What was finished is saved; go on by: forethought resume r\n" in answer.err
    assert "reward and termination are learned with the model" in answer.err
    fragile.plan_fault(None)
    assert call(capsys, "resume", "r", "--json").json["env_steps"] == 30


def test_a_broken_environment_is_status_1(capsys, fragile):
    fragile.plan_fault(17, None)
    answer = call(capsys, *FRAGILE)
    assert answer.status == 1
    assert "tests/Fragile-v0, at step 6: observation" in answer.err
    assert "forethought resume r" in answer.err


def test_an_unexpected_error_is_status_1_without_a_traceback(capsys, monkeypatch):
    from forethought.runs import experiment

    def fail(*_, **__):
        raise RuntimeError("the sky\nfell.")

    monkeypatch.setattr(experiment, "make_task", fail)
    answer = call(capsys, "train", "pendulum")
    assert answer.status == 1
    assert answer.err == "forethought: Unexpected RuntimeError: the sky fell; --debug shows where.\n"
    assert "Traceback" in call(capsys, "train", "pendulum", "--debug").err


def test_as_a_program(tmp_path):
    """In a process of its own: pure JSON, a private cache, and logged data without a step in the world."""
    (tmp_path / "d.csv").write_text("x0,x1,x2,u0\n" + "".join(f"1,0,0.{i},0\n" for i in range(9)))
    words = ["train", "Pendulum-v1", "--algorithm", "v0.5", "--steps", "0", "--data", "d.csv", "--out", "r", "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": FLAGS}  # compiled in a third of the time
    done = subprocess.run(
        [sys.executable, "-m", "forethought.cli", *words, *TINY],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["env_steps"] == 0
    assert "Traceback" not in done.stderr
    cache = tmp_path / "forethought"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert any(cache.iterdir()), "programs are kept"
    machine = read_sealed(tmp_path / "r" / "run.json")["starts"][0]["machine"]
    assert machine["jax_enable_x64"] is True


@pytest.mark.slow
def test_the_demo(tmp_path, capsys):
    answer = call(capsys, "demo", "--json")
    assert answer.status == 0
    assert answer.json["env_steps"] == 300
    assert answer.json["mean_return"] > -300.0 > answer.json["random_return"]
