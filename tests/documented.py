"""What a document shows, and how a test does it: every block is executed, in order, in one folder and one namespace.

    python tests/documented.py OUTCOMES PAGE ...        # each page's traceback, or null, as one JSON object

The scripts of the course are executed as they are, with the small budget that they have themselves.

One process does all pages, as a user's would: without checks of shapes, which would take half of the time again.

Commands are carried out as they are printed, with one thing changed: of what `train` has read, every number whose name
is in SMALL is lowered to what is there, and other commands are given flags that bound what they do.  What cannot be
executed here is in ELSEWHERE, with the reason, and with what of it is looked at instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import tomllib
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jax

from forethought import cli
from forethought.runs import train_flags
from forethought.runs.flags import Demo, parse
from forethought.sweeping.plan import check_runs, parse_sweep, runs_of

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash")
SHOWN = ("", "text", "json", "{toctree}", "{eval-rst}")
"""Fences that hold nothing to execute: drawings, output, data, and what Sphinx reads."""

SHORTER = {"V15(), steps=300": "V15(base_steps=10, refit_every=10, horizon=3), steps=30, limit=10"}
"""What a page shows in Python in full and the test does in less time."""

STEPS, LIMIT, EPISODES = 30, 10, 2
"""Of a run, of an episode, and of `diagnose --fresh` and `evaluate --episodes`."""
SMALL: dict[str, int] = {
    "steps": STEPS,
    "workers": 2,
    # algorithms
    "base_steps": 10,
    "refit_every": 10,
    "every": 10,
    "horizon": 3,
    "updates": 2,
    "check_every": 2,
    "rollouts": 2,
    "places": 256,
    "plans": 1,
    # planners
    "particles": 2,
    "samples": 8,
    "elites": 4,
    "iterations": 1,
    "long_iterations": 1,
    "simulations": 4,
    "candidates": 4,
    "sequences": 8,
    # models and policies
    "members": 2,
    "width": 8,
    "batch": 8,
    "gradient_steps": 1,
    "evaluations": 10,
    "restarts": 0,
    "functions": 4,
    "components": 2,
    "starts": 1,
}
"""The most that a field of a recipe may be here, wherever it is in the recipe."""
BOUNDED = {
    "resume": ["--steps", str(STEPS + LIMIT)],
    "check": ["--steps", "50"],
    "evaluate": ["--episodes", str(EPISODES)],
    "diagnose": ["--horizon", "3"],
}
"""Flags that are added to other commands."""


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start("code")), m["language"].strip(), m["code"]) for m in FENCE.finditer(text)]


def commands(code: str) -> list[list[str]]:
    """The commands of a shell block as words, without comments and without the folder that programs are in."""
    lines = code.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for words in split:
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found.append(words)
    return [[words[0].removeprefix(".venv/bin/"), *words[1:]] for words in found if words]


def small(recipe: Any) -> Any:
    """A recipe, and the recipes in it, with no number above those of SMALL."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = small(value)
        elif field.name in SMALL and isinstance(value, int) and field.init:
            changes[field.name] = min(value, SMALL[field.name])
    return dataclasses.replace(recipe, **changes)


def parse_small(argv: Sequence[str]) -> train_flags.Train:
    """What a command line of `train` asks for, made small."""
    asked = READ(argv)
    experiment = small(asked.experiment)
    return asked._replace(experiment=dataclasses.replace(experiment, limit=min(experiment.limit or LIMIT, LIMIT)))


READ = train_flags.parse_train


def run_command(words: Sequence[str], run: Path) -> None:
    """One command of a page.  Raises AssertionError where it does not end as a reader expects: without an error."""
    if words[0] == "forethought" and words[1:2] and words[1] not in NOT_DONE:
        bounds = BOUNDED.get(words[1], []) + (["--fresh", str(EPISODES)] if "--fresh" in words else [])
        status, said = call([*there(words[1:], run), *bounds])
        assert status == 0, f"{shlex.join(words)} ended with status {status}: {said}"
        return
    for begins, look in ELSEWHERE.items():
        if " ".join(words).startswith(begins):
            look(words)
            return
    raise AssertionError(f"No rule of tests/documented.py knows the command {shlex.join(words)}.")


def there(words: Sequence[str], run: Path) -> list[str]:
    """The words, with a run in every folder that a command is to look at, and * as a shell reads it."""
    if words[0] == "train":
        return list(words)
    found = []
    for word in words:
        if word.startswith("runs/"):
            place = Path(word.replace("*", "YOUR-RUN"))
            if not place.exists():
                shutil.copytree(run, place)
            found += sorted(map(str, Path().glob(word)))
        else:
            found.append(word)
    return found


def call(words: Sequence[str]) -> tuple[int, str]:
    """(exit status, output) of the command line in this process."""
    said = io.StringIO()
    with (
        patch.object(train_flags, "parse_train", parse_small),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        status = cli.main(list(words))
    return status, said.getvalue()


def execute(page: Path, run: Path) -> None:
    """All blocks of a page, in the current folder.  `run` is a finished run, for commands that look at one."""
    module = types.ModuleType("documented_page")
    with patch.dict(sys.modules, {"documented_page": module}):  # dataclasses look up their module by name
        for line, language, code in blocks(page):
            if language == "python":
                for full, short in SHORTER.items():
                    code = code.replace(full, short)
                # Empty lines in front: a traceback then shows the line of the page.
                exec(compile("\n" * line + code, str(page), "exec"), vars(module))  # noqa: S102
            elif language in SHELL:
                for words in commands(code):
                    run_command(words, run)
            elif language == "json":
                json.loads(code)
            else:
                assert language in SHOWN, f"{page.name}, line {line}: no rule knows blocks of {language}."


def execute_script(path: Path) -> None:
    """A script of the course, with its small budget."""
    with patch.dict(os.environ, {"FORETHOUGHT_COURSE": "quick"}), contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(path), run_name="__main__")
    assert len(said.getvalue().splitlines()) >= 5, "It prints nothing to look at."


def outcomes(pages: Sequence[Path]) -> dict[str, str | None]:
    """Each page's traceback, or script's; None where all went well."""
    from small import recipe

    # As in the tests' own process: less time for collecting short-lived objects, and for noting lines of code.
    gc.set_threshold(20_000, 10, 5)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = recipe(out=Path(folder) / "run").run().run
        for number, page in enumerate(pages):
            place = Path(folder) / f"page-{number}"
            place.mkdir()
            jax.config.update("jax_enable_x64", False)  # as Python starts; the command line switches it on
            found[str(page)] = None
            with contextlib.chdir(place), patch.object(sys, "path", [*sys.path]), patch.dict(os.environ):
                try:
                    execute_script(page) if page.suffix == ".py" else execute(page, run)
                except BaseException:
                    found[str(page)] = traceback.format_exc()
    return found


# What is not executed, and why; each looks at what it can.


def anything(words: Sequence[str]) -> None:
    """Nothing to look at."""


def pip(words: Sequence[str]) -> None:
    """Needs the package index; .ci/run installs.  Extras and files exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
        assert extra in extras, f"There is no extra {extra}."
    for flag, value in itertools.pairwise(words):
        assert flag != "-c" or (ROOT / value).is_file()


def script(words: Sequence[str]) -> None:
    """Benches take minutes to hours.  The script is there and has the flags."""
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    for word in words[2:]:
        assert not word.startswith("--") or f'"{word.partition("=")[0]}"' in source, f"{words[1]} has no flag {word}."


def course(words: Sequence[str]) -> None:
    """`execute_script` runs them."""
    assert (ROOT / words[1]).is_file()


def setting(words: Sequence[str]) -> None:
    """A variable of the process: it must be set before jax starts."""
    assert re.fullmatch(r"\w+=\S+", words[1])


def site(words: Sequence[str]) -> None:
    """.ci/run builds the site."""
    assert (ROOT / words[-2] / "conf.py").is_file()


def demo(words: Sequence[str]) -> None:
    """.ci/run runs it from the wheel, within its time limit.  Its flags are read."""
    parse(Demo(), words[2:], "forethought demo", "")
    assert "readme_command demo-command" in (ROOT / ".ci" / "run").read_text()


def flags_alone(words: Sequence[str]) -> None:
    """Takes minutes, or goes on until it is ended, and has tests of its own.  It has the flags that are printed."""
    status, said = call([words[1], "--help"])
    assert status == 0
    for word in words[2:]:
        assert not word.startswith("--") or word.partition("=")[0] in said, f"{words[1]} has no flag {word}."


def many(words: Sequence[str]) -> None:
    """One process for each run, which tests/sweeping starts.  What is to be run is read, each run's flags too."""
    plan = parse_sweep(words[2:])
    check_runs(plan, runs_of(plan))


NOT_DONE = ("demo", "lecture", "sweep", "watch")
"""Commands of forethought that are not executed, but read."""
ELSEWHERE: dict[str, Callable[[Sequence[str]], None]] = {
    "python3 -m venv": anything,
    ". .venv/bin/activate": anything,
    "pip install": pip,
    "pytest": anything,
    ".ci/run": anything,
    "python bench/": script,
    "python experiments/course/": course,
    "sphinx-build": site,
    "export": setting,
    "forethought demo": demo,
    "forethought lecture": flags_alone,
    "forethought sweep": many,
    "forethought watch": flags_alone,
}


def exported() -> set[str]:
    """Every public name."""
    return {name for name in importlib.import_module("forethought").__all__ if not name.startswith("_")}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(outcomes([Path(word) for word in sys.argv[2:]])))
