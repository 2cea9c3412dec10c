"""Random command lines: each works, or ends in one sentence with the path, the value and what is allowed.

    python bench/fuzz_flags.py --count 2000 --run 100 --seed 0

`count` command lines of all commands, made from the real tables of flags with values from usual to absurd, are read in
this process as the commands read them: parsed, validated, their task and data made, their run directory opened.
Nothing is trained.  Then `run` others that have passed the same, with values that are cheap, are carried out for two
steps, and the files of their runs verified.  Whatever is neither done nor refused in a proper sentence (another
exception, more than one line, a sentence without the path, the value or what is allowed, more than a minute) is a fault
and is written down.  Written into results/reliability/flags.json; the status is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from runner import RESULTS, commit, machine

from forethought.cli import main as command_line
from forethought.core import AbstractAlgorithm
from forethought.runs.check_flags import Check, parse_check
from forethought.runs.command_line import Common, flags_of
from forethought.runs.evaluation import starts_for
from forethought.runs.experiment import Experiment, Named, open_run, with_base
from forethought.runs.flags import Demo, Evaluate, Resume, parse, parse_on_run, read_file
from forethought.runs.logged import read_logged
from forethought.runs.stopping import check_until
from forethought.runs.train_flags import ALGORITHMS, MODELS, PLANNERS, SHORT, choose, parse_train
from forethought.runs.validate import check
from forethought.runs.verify import problems
from forethought.types import UserError

SECONDS = 60
"""What a command line may take before it counts as hanging."""
TASKS = ["Pendulum-v1", "CartPole-v1", "pendulum", "double-integrator", "cartpole-swingup"]

NUMBERS = "0 1 -1 2 3 0.5 -0 -0.0 1.0 1e-300 2147483647 2147483648 1e9 1e400 -1e400 nan inf -inf 0x10 1_000 1,5 1. ٣"
TEXTS = """None none null True false abc é 日本 zero hold random coloured stop go-on ts-1 TS-INF icem {"a":1} { " ' \\
$HOME %s * . .. / nowhere/at/all /dev/null /dev/null/run spoiled data.csv empty.csv mine.py pendulum Pendulum-v1 a=b =
- -- --- -x --seed --no-such-flag -h0 1;2 os.system forethought no.such.module:X-v0 \udcff"""
PLACES = """CartPole-v2 Pendulum cartpole MountainCar-v0 run nowhere spoiled . - é mine.py broken.py nowhere.py : a:b:c
1 no_such_module:X-v0"""
ODD = ["", " ", " 3 ", "[1, 2]", "a\nb", "a\tb", "x" * 300, "x" * 3000]
VALUES = (
    [*NUMBERS.split(), "9" * 21, "-" + "9" * 400, "9" * 5000],
    [*TEXTS.split(), *ODD],
    [*PLACES.split(), *TASKS, *ODD],
)
"""Numbers, texts, and what may stand for a task or a folder."""

ALLOWED = re.compile(
    r"must be|needs a value|takes no value|takes one |lists all|There is no |there is no|allowed|known are|nearest|"
    r"it takes |cannot make|cannot be (read|imported|made)|must define|ids do|holds no|nothing to learn from|"
    r"no known threshold|has no column|cannot hold|have worker processes|is none of|at most|has neither|"
    r"give another|has the format|line \d+: |takes a Gymnasium id|Gymnasium environments|"
    r"whose controller is for"
)
"""How sentences say what is allowed or expected."""


class Line(NamedTuple):
    """A command line, and what was put into it: (flag or place, value)."""

    words: list[str]
    put_in: list[tuple[str, str]]


class Verdict(NamedTuple):
    """What a command line came to: works, sentence or fault; and what was said."""

    kind: str
    said: str


def algorithm_of(random: np.random.Generator) -> tuple[AbstractAlgorithm, list[str]]:
    """A choice of classes, and its words."""
    chosen = {}
    for flag, table in (("--algorithm", ALGORITHMS), ("--planner", PLANNERS), ("--model", MODELS)):
        if random.random() < 0.5:
            chosen[flag] = str(random.choice(list(table)))
    algorithm = ALGORITHMS[chosen["--algorithm"]] if "--algorithm" in chosen else None
    if algorithm is not None and "planner" not in {f.name for f in dataclasses.fields(algorithm)}:
        chosen.pop("--planner", None)  # it has none, and says so
    words = [part for pair in chosen.items() for part in pair]
    return choose(Experiment("").algorithm, chosen), words


def table_of(command: str, random: np.random.Generator) -> tuple[dict[str, Any], list[str]]:
    """The flags of a command, and words that make them so."""
    defaults = {"evaluate": Evaluate(), "resume": Resume(), "check": Check(), "demo": Demo()}
    if command != "train":
        return flags_of(defaults.get(command, Common())), []
    algorithm, words = algorithm_of(random)
    known = flags_of(Experiment("x", algorithm)) | flags_of(Common())
    return {name: flag for name, flag in known.items() if name not in ("--task", "--env")}, words


def spoiled_name(name: str, random: np.random.Generator) -> str:
    """A flag as people write it: short, with underscores, in capitals, with a slip."""
    short = next((name.replace(long, s, 1) for s, long in SHORT.items() if name.startswith(long)), name)
    i = int(random.integers(2, len(name)))
    ways = [short, name.replace("-", "_").replace("__", "--", 1), name.upper(), name[:i] + name[i + 1 :], name[1:]]
    return str(random.choice([name, *ways, name + "s", name.rsplit(".", 1)[0], "--env." + name.strip("-")]))


def random_line(random: np.random.Generator) -> Line:
    """Any command line."""
    command = str(random.choice(["train"] * 6 + ["evaluate", "resume", "check", "demo", "tasks"]))
    known, words = table_of(command, random)
    put_in = list(zip(words[::2], words[1::2], strict=True))
    pieces: list[list[str]] = []
    places = 1 if command in ("train", "evaluate", "resume", "check") else 0
    if random.random() < 0.05:
        places += int(random.integers(-1, 2))
    for _ in range(max(places, 0)):
        usual = ["run"] if command in ("evaluate", "resume") else TASKS
        place = str(random.choice(usual if random.random() < 0.8 else VALUES[2]))
        pieces.append([place])
        put_in.append(("TASK", place))
    for _ in range(int(random.choice([0, 1, 1, 1, 2, 3, 5]))):
        name = str(random.choice(list(known)))
        value = str(random.choice(VALUES[int(random.integers(2))]))
        if random.random() < 0.25:
            name = spoiled_name(name, random)
        switch = name in known and known[name].switch
        way = random.random()
        bare = way < 0.1 or (switch and way < 0.8)
        pieces.append([name] if bare else [f"{name}={value}"] if way < 0.4 else [name, value])
        put_in.append((name, value))
    order = random.permutation(len(pieces))
    return Line([command, *words, *(word for i in order for word in pieces[i])], put_in)


MILD: dict[str, list[str]] = {
    "--steps": ["2"],
    "--limit": ["1", "2", "5", "None"],
    "--seed": ["0", "1", "2147483647"],
    "--out": ["r", "a/b c", "é"],
    "--action-repeat": ["1", "2"],
    "--history": ["1", "2"],
    "--base": ["random", "coloured", "run", "nowhere"],
    "--data": ["data.csv", "None"],
    "--workers": ["1", "2"],
    "--until.window": ["1", "2147483647"],
    "--until.threshold": ["0", "-1e300", "None", "1e9"],
    "--guard.reward-bound": ["1e-9", "1e300", "5"],
    "--guard.observation-bound": ["1e-9", "1e300"],
    "--guard.deadline": ["30", "1e9"],
    "--algorithm.base-steps": ["0", "1", "2147483647"],
    "--algorithm.refit-every": ["1", "2147483647"],
    "--algorithm.horizon": ["1", "2"],
    "samples": ["4", "8"],
    "elites": ["1", "4"],
    "iterations": ["1", "2"],
    "kept": ["0", "1"],
    "particles": ["1", "2"],
    "members": ["1", "2"],
    "width": ["1", "4"],
    "depth": ["0", "1"],
    "gradient-steps": ["1", "2"],
    "batch": ["1", "4"],
}
"""Values of flags that cost time, or that few values fit."""
REAL = ["0", "1", "0.5", "1e-9", "1e-300", "1e9", "1e300", "0.9", "2", "-1"]


def mild_line(random: np.random.Generator) -> Line:
    """A training of two steps, most settings of which are allowed."""
    known, words = table_of("train", random)
    task = str(random.choice(TASKS))
    put_in = [("TASK", task), *zip(words[::2], words[1::2], strict=True)]
    said: dict[str, list[str]] = {}
    for name in ("samples", "elites", "iterations", "particles", "members", "width", "gradient-steps", "kept"):
        for flag in known:
            if flag.rsplit(".", 1)[-1] == name:
                said[flag] = [flag, MILD[name][0]]
    said |= {"--steps": ["--steps", "2"], "--algorithm.base-steps": ["--algorithm.base-steps", "1"]}
    if "--algorithm.horizon" in known:
        said["--algorithm.horizon"] = ["--algorithm.horizon", "2"]
    else:
        said["--limit"] = ["--limit", "2"]
    for name in random.choice(list(known), size=4, replace=False):
        flag = known[str(name)]
        leaf = str(name).rsplit(".", 1)[-1].removeprefix("--")
        choices = MILD.get(str(name), MILD.get(leaf, [*getattr(flag.hint, "__args__", ()), *REAL]))
        value = str(random.choice([str(c) for c in choices if isinstance(c, str)]))
        if str(name) not in ("--help", "--debug"):
            said[str(name)] = [str(name)] if flag.switch else [str(name), value]
            put_in.append((str(name), value))
    return Line(["train", *words, task, "--no-cache", *(word for pair in said.values() for word in pair)], put_in)


def validated(line: Line) -> None:
    """Read a command line as its command does, up to where work begins.  Raises `UserError`."""
    command, *argv = line.words
    if command == "train":
        asked = parse_train(argv)
        ready(asked.experiment)
    elif command == "check":
        parse_check(argv)
    elif command in ("evaluate", "resume"):
        default = Evaluate() if command == "evaluate" else Resume()
        path, asked, env = parse_on_run(argv, default, command, "")
        own = None if asked.experiment is None else read_file(asked.experiment)
        run = open_run(path, Named(asked.task, own, None, env), strict=asked.strict)
        if isinstance(asked, Evaluate) and (asked.episodes or 0) < 10**4:
            starts_for(run.task, asked.episodes, asked.seed)
    else:
        parse(Demo() if command == "demo" else Common(), argv, f"forethought {command}", "")


def ready(experiment: Experiment) -> None:
    """All that `Experiment.run` looks at before it makes its directory."""
    check(experiment)
    if experiment.steps == 0 and experiment.data is None:
        raise UserError("steps is 0 and there are no logged data: there is nothing to learn from.")
    if experiment.workers > 2:
        experiment = Experiment(**{**vars(experiment), "workers": 2})
    task = experiment.make_task()
    check_until(experiment.until, task.threshold, task.name)
    if experiment.data is not None:
        read_logged(Path(experiment.data), task)
    with_base(experiment.algorithm, experiment.base, task)
    json.dumps(experiment.config(), allow_nan=False)


def fault_of(sentence: str, line: Line) -> str | None:
    """What is wrong with a sentence that refuses a command line, if anything."""
    if len(sentence.splitlines()) != 1 or "\n" in sentence:
        return "not one line"
    if "Traceback" in sentence or "Unexpected " in sentence:
        return "unexpected"
    if len(sentence) > 700:
        return "too long"
    if not ALLOWED.search(sentence):
        return "does not say what is allowed"
    plain = sentence.replace("-", "_")
    if not any(_leaf(name) in plain or any(s in sentence for s in _spellings(value)) for name, value in line.put_in):
        return None if re.search("takes one|nothing to learn from", sentence) else "names no path and no value"
    no_value = re.search(r"needs a value|takes no value|There is no|takes one|takes no |no known threshold", sentence)
    values = [v for pair in line.put_in for value in pair for v in _spellings(value)]
    return None if no_value or any(v in sentence for v in values) else "does not name the value"


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1].strip("-").replace("-", "_") or name


def _spellings(value: str) -> Iterator[str]:
    """A value as it may stand in a sentence."""
    yield repr(value)
    yield repr(value)[:40]
    yield value[:40].strip() or repr(value)
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            yield str(kind(value))[:40]


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds; in the main thread of a process that is ours."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(line: Line, call: Callable[[Line], Any] = validated) -> Verdict:
    """What becomes of a command line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            with warnings.catch_warnings(), at_most(SECONDS):
                warnings.simplefilter("ignore")
                call(line)
        except UserError as error:
            wrong = fault_of(str(error), line)
            return Verdict("sentence" if wrong is None else "fault", f"{wrong or ''}: {error}".lstrip(": "))
        except SystemExit as stop:
            return Verdict("works" if not stop.code else "fault", f"exit {stop.code}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return Verdict("fault", f"{type(error).__name__}: {error}"[:500])
    return Verdict("works", "")


def carried_out(line: Line) -> Verdict:
    """What the command comes to when it is really run."""
    out, said = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), warnings.catch_warnings(), at_most(180):
            warnings.simplefilter("ignore")
            status = command_line([*line.words, "--json", "--quiet"])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Verdict("fault", f"{type(error).__name__}: {error}"[:500])
    text = [row for row in said.getvalue().splitlines() if "reward and termination are learned" not in row]
    if status == 0:
        damaged = list(problems_of(json.loads(out.getvalue())["run"]))
        return Verdict("fault", damaged[0]) if damaged else Verdict("works", "")
    one = len(text) == 1 and "Traceback" not in text[0] and status in (1, 2)
    wrong = fault_of(text[0], line) if one and status == 2 else None if one else f"status {status}, {len(text)} lines"
    if one and "Unexpected " in text[0]:
        wrong = "unexpected"
    return Verdict("sentence" if wrong is None else "fault", f"{wrong or ''}: {' | '.join(text)[:500]}".lstrip(": "))


def problems_of(path: str) -> Iterator[str]:
    """What is wrong with the files of a run."""
    from forethought.runs.directory import existing

    yield from problems(existing(Path(path)))


def furnish(folder: Path, *, run: bool) -> None:
    """Files that flags may name; `run`: a run too."""
    (folder / "mine.py").write_text("from forethought import Experiment\nexperiment = Experiment('pendulum')\n")
    (folder / "broken.py").write_text("a = 1 / 0\n")
    rows = "".join(f"1,0,0.{i},0\n" for i in range(9))
    (folder / "data.csv").write_text("x0,x1,x2,u0\n" + rows)
    (folder / "empty.csv").write_text("")
    (folder / "spoiled").mkdir()
    (folder / "spoiled" / "config.json").write_text("{")
    if run:
        words = "train pendulum --out run --steps 4 --limit 2 --algorithm.base-steps 2 --algorithm.horizon 2 --quiet"
        tiny = "--planner.samples 8 --planner.elites 4 --planner.iterations 1"
        tiny += " --model ensemble --model.gradient-steps 2 --model.width 4"
        with contextlib.redirect_stdout(io.StringIO()):
            assert command_line([*words.split(), *tiny.split()]) == 0


def rows_of(lines: list[Line], call: Callable[[Line], Verdict], name: str) -> dict[str, Any]:
    """Counts, and every fault with its command line."""
    found = []
    for i, line in enumerate(lines, start=1):
        found.append((line, call(line)))
        if i % 100 == 0 or found[-1][1].kind == "fault":
            print(f"{name} {i}/{len(lines)}: {found[-1][1].kind} {found[-1][1].said[:200]}", flush=True)
    faults = [{"line": shlex.join(line.words), "said": v.said} for line, v in found if v.kind == "fault"]
    return {"lines": len(lines), **Counter(v.kind for _, v in found), "faults": faults}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="command lines that are read")
    parser.add_argument("--run", type=int, default=100, help="command lines that are carried out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "flags.json")
    arguments = parser.parse_args()
    out, random = arguments.out.absolute(), np.random.default_rng(arguments.seed)
    lines = [random_line(random) for _ in range(arguments.count)]
    result = {"figure": "flags", "seed": arguments.seed, "commit": commit(), "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "cache")
        os.chdir(folder)
        furnish(Path(folder), run=True)
        result["read"] = rows_of(lines, judge, "read")
        valid = (line for line in iter(lambda: mild_line(random), None) if judge(line).kind == "works")
        mild = list(itertools.islice(valid, arguments.run))
        result["carried_out"] = rows_of(mild, carried_out, "run")
        os.chdir("/")
    result["met"] = not result["read"]["faults"] and not result["carried_out"]["faults"]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=True) + "\n")
    print({name: {k: v for k, v in result[name].items() if k != "faults"} for name in ("read", "carried_out")})
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
