"""Damage every file of a run, in every way that a disk or a stranger can, and see whether it is said.

    python bench/flips.py --count 1000 --seed 0      # writes results/reliability/flips.json
    python bench/flips.py --count 200 --strict       # as --strict reads: every damage has to be refused
    python bench/flips.py --count 60 --dry           # a few, and nothing is written

Two small runs, one finished and one broken off in the middle of an episode, are damaged in a fresh copy each: single
bits (a few in every file, the others uniform over all bytes), then every file cut to 0, 1, 50 and 99.9 %, deleted,
exchanged with each other one of its kind, and replaced by the file of the same name of another run.  Then the copy is
read as `check`, `resume` and `evaluate` read it.  It is

    named     a sentence names the file, and what is loaded is what was written, or an older valid state of the run
    refused   a sentence names the file, and nothing is loaded, because no valid checkpoint is left (or --strict)
    spare     nothing is said, and nothing is missing: of a journal that was put aside there need be none
    silent    nothing names the file
    wrong     something was loaded that was never written

The status is 1 if anything is silent or wrong, or if any reading function raises anything but a sentence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.random as jr

from forethought import ICEM, V15, EnsembleLearner, Experiment, Imagination, UserError
from forethought.core import RunState
from forethought.runs.checkpoint import Stored, newest, restore
from forethought.runs.directory import existing
from forethought.runs.experiment import Named, identity, read_experiment
from forethought.runs.files import Damaged
from forethought.runs.journal import journals, read_journal
from forethought.runs.log import Quiet, Turn
from forethought.runs.progress import from_notes
from forethought.runs.verify import problems, refuse_damage

CUTS = (0.0, 0.01, 0.5, 0.999)
SETTINGS = {"task": "pendulum", "steps": 40, "limit": 10, "refit_every": 5, "broken_off_at": 25}


def experiment(out: Path, seed: int) -> Experiment:
    """Four episodes of ten steps, with a turn in the middle of each."""
    planner = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
    learner = EnsembleLearner(members=2, width=8, gradient_steps=10)
    algorithm = V15(planner, learner, base_steps=10, refit_every=5, horizon=3)
    return Experiment("pendulum", algorithm, steps=40, limit=10, out=out, seed=seed)


class BreakOff(Quiet):
    """Takes a copy of the directory in the middle of an episode: it is what a kill would leave there."""

    def __init__(self, run: Path, copy: Path):
        self.run, self.copy = run, copy

    def turn(self, turn: Turn) -> None:
        """After each turn."""
        if turn.env_steps == SETTINGS["broken_off_at"]:
            shutil.copytree(self.run, self.copy)
            journal = next((self.copy / "journal").iterdir())
            shutil.copy(journal, journal.with_suffix(".before"))  # as if it had been broken off once before


class Runs(NamedTuple):
    """The originals, and what each is when it is read undamaged."""

    folder: Path
    template: RunState
    pictures: dict[str, Picture]

    def path(self, name: str) -> Path:
        """A run."""
        return self.folder / name

    def foreign(self, name: str) -> Path:
        """The run of another seed of which a file is taken."""
        return self.folder / f"foreign-{name}"


class Picture(NamedTuple):
    """What was written: digests of everything that may be loaded."""

    states: frozenset[str]
    """Of each checkpoint, state and notes."""
    config: Any
    rows: dict[int, list[bytes]]
    """The rows of each journal."""


def make_runs(folder: Path) -> Runs:
    """Two runs and two foreign ones, in two trainings."""
    for seed, prefix in ((0, ""), (1, "foreign-")):
        run = folder / f"{prefix}whole"
        experiment(run, seed).run(BreakOff(run, folder / f"{prefix}broken"))
    recipe = experiment(folder / "whole", 0)
    template = recipe.algorithm.init(recipe.make_task(), jr.key(0))
    runs = Runs(folder, template, {})
    for name in ("whole", "broken"):
        runs.pictures[name] = picture(runs.path(name), template)
    return runs


def digest(stored: Stored) -> str:
    """Of every bit of a state, and of what a checkpoint says about itself."""
    found = hashlib.sha256(json.dumps(stored.about._asdict(), sort_keys=True).encode())
    for name, value in sorted(stored.arrays.items()):
        found.update(f"{name} {value.dtype} {value.shape}".encode())
        found.update(value.tobytes())
    return found.hexdigest()


def rows(run: Path, name: str) -> dict[int, list[bytes]]:
    """The rows of each journal, as bytes."""
    found = {}
    for number, path in journals(existing(run).journal).items():
        try:
            t = read_journal(path, name).trajectory
        except Damaged:
            continue
        columns = (t.x, t.u, t.y, t.reward, t.terminated, t.truncated)
        found[number] = [b"".join(c[i].tobytes() for c in columns) for i in range(t.length)]
    return found


def picture(run: Path, template: RunState) -> Picture:
    """What is in an undamaged run."""
    directory = existing(run)
    name, config = directory.read_config()
    states = set()
    folders = sorted((run / "checkpoints").iterdir())
    for i in range(len(folders)):
        with tempfile.TemporaryDirectory() as temporary:
            only = Path(shutil.copytree(folders[i], Path(temporary) / "checkpoints" / folders[i].name)).parent
            stored = newest(only, name, print)
            restore(stored, template)  # what it gives depends on the arrays alone
            states.add(digest(stored))
    assert not list(problems(directory)), "an undamaged run has problems"
    return Picture(frozenset(states), config, rows(run, name))


class Seen(NamedTuple):
    """What came of reading a copy."""

    said: list[str]
    refused: bool
    wrong: list[str]


def look(run: Path, original: Picture, template: RunState, *, strict: bool) -> Seen:
    """Read a run as `check`, `resume` and `evaluate` do, and compare it with what was written."""
    said: list[str] = []
    wrong: list[str] = []
    try:
        directory = existing(run)
        said += problems(directory)
        if strict:
            refuse_damage(directory)
        name, config = identity(directory, said.append)
        recipe = read_experiment(directory.path, config, Named())
        if config != original.config:
            wrong.append("config")
        for resumable in (True, False):
            wanted = lambda about, resumable=resumable: about.resumable or not resumable
            stored = newest(directory.checkpoints, name, said.append, wanted)
            from_notes(stored.about.notes, str(run))
            if digest(stored) not in original.states:
                restore(stored, template)
                wrong.append(f"the state of {stored.path.name}")
        if recipe.steps != SETTINGS["steps"]:
            wrong.append("steps")
        for number, found in rows(run, str(name)).items():
            if found != original.rows.get(number, [])[: len(found)]:
                wrong.append(f"the journal of episode {number}")
    except UserError as error:
        return Seen([*said, str(error)], True, wrong)
    return Seen(said, False, wrong)


def is_named(file: Path, said: list[str]) -> bool:
    """Whether a sentence names the file: by its name and its folder."""
    place = file.parts[-2] if len(file.parts) > 1 else ""
    return any(file.name in sentence and place in sentence for sentence in said)


def files_of(run: Path) -> list[Path]:
    """Every file, relative to the run."""
    return sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file())


Case = tuple[str, Path, str, Callable[[Path], None]]
"""Which run, which file of it, in which way, and what damages a copy."""


def flips(runs: Runs, count: int, seed: int) -> Iterator[Case]:
    """Single bits: a few in every file, the others anywhere."""
    draw = random.Random(seed)
    every = [(name, file) for name in runs.pictures for file in files_of(runs.path(name))]
    sizes = [(runs.path(name) / file).stat().st_size for name, file in every]
    few = [i for i in range(len(every)) for _ in range(max(count // (4 * len(every)), 1))][:count]
    for i in few + draw.choices(range(len(every)), sizes, k=count - len(few)):
        (name, file), at, bit = every[i], draw.randrange(sizes[i]), draw.randrange(8)
        yield name, file, "flip", lambda copy, file=file, at=at, bit=bit: _flip(copy / file, at, bit)


def _flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def others(runs: Runs) -> Iterator[Case]:
    """Every other damage, to every file."""
    for name in runs.pictures:
        files = files_of(runs.path(name))
        for file in files:
            size = (runs.path(name) / file).stat().st_size
            for part in CUTS:
                length = min(int(size * part), size - 1)
                yield name, file, f"cut to {part:.1%}", lambda copy, f=file, n=length: _cut(copy / f, n)
            yield name, file, "deleted", lambda copy, f=file: (copy / f).unlink()
            foreign = runs.foreign(name) / file
            if foreign.exists():
                yield name, file, "foreign", lambda copy, f=file, o=foreign: _put(o, copy / f)
            for other in files:
                if other > file and _kind(other) == _kind(file):
                    yield name, file, "swapped", lambda copy, a=file, b=other: _swap(copy / a, copy / b)
        yield from _folders(runs, name)


def _folders(runs: Runs, name: str) -> Iterator[Case]:
    """Whole checkpoints, exchanged with each other and with a foreign one."""
    found = sorted(p.relative_to(runs.path(name)) for p in (runs.path(name) / "checkpoints").iterdir())
    for i, folder in enumerate(found):
        for other in found[i + 1 :]:
            yield name, folder / "manifest.json", "swapped", lambda copy, a=folder, b=other: _swap(copy / a, copy / b)
        foreign = runs.foreign(name) / folder
        if foreign.exists():
            yield name, folder / "manifest.json", "foreign", lambda copy, f=folder, o=foreign: _put(o, copy / f)


def _kind(file: Path) -> str:
    """Files of one kind could be taken for each other."""
    if file.parts[0] == "checkpoints":
        return file.name
    return "journal" if file.parts[0] == "journal" else file.suffix + "/".join(file.parts[:-1])


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


def _swap(a: Path, b: Path) -> None:
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


def _put(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def judge(runs: Runs, case: Case, *, strict: bool) -> tuple[str, list[str]]:
    """One of the words above, and the sentences, or what is wrong."""
    name, file, how, damage = case
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(runs.path(name), Path(temporary) / "run"))
        before = {f: (copy / f).read_bytes() for f in files_of(copy)}
        damage(copy)
        if {f: (copy / f).read_bytes() for f in files_of(copy)} == before:
            return "unchanged", []
        try:
            seen = look(copy, runs.pictures[name], runs.template, strict=strict)
        except Exception as error:
            return "wrong", [f"{type(error).__name__}: {error}"]
    if seen.wrong:
        return "wrong", seen.wrong
    if not is_named(file, seen.said) and not (how == "deleted" and is_named(file.parent, seen.said)):
        return ("spare" if how == "deleted" and file.suffix == ".before" else "silent"), seen.said
    return "refused" if seen.refused else "named", seen.said


def measure(runs: Runs, cases: Iterator[Case], *, strict: bool) -> dict[str, Any]:
    """Judge each case; counts by way and by file, and every one that is silent or wrong."""
    by_way: dict[str, Counter[str]] = {}
    by_file: dict[str, Counter[str]] = {}
    failures = []
    for case in cases:
        name, file, how, _ = case
        word, said = judge(runs, case, strict=strict)
        by_way.setdefault(how, Counter())[word] += 1
        by_file.setdefault(f"{name}: {file}", Counter())[word] += 1
        if word in ("silent", "wrong"):
            failures.append({"run": name, "file": str(file), "how": how, "outcome": word, "said": said})
    return {"by_way": by_way, "by_file": by_file, "failures": failures}


def main() -> int:
    """The command line."""
    from runner import RESULTS, commit, machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="single bits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strict", action="store_true", help="read as --strict does")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # as the command line sets it
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        single = measure(runs, flips(runs, arguments.count, arguments.seed), strict=arguments.strict)
        other = measure(runs, others(runs), strict=arguments.strict)
    result = {
        "figure": "flips",
        "flips": single["by_way"].get("flip", {}),
        "damages": other["by_way"],
        "failures": single["failures"] + other["failures"],
        "by_file": {"flips": single["by_file"], "damages": other["by_file"]},
        "settings": SETTINGS | {"count": arguments.count, "seed": arguments.seed, "strict": arguments.strict},
        "target": {"silent": 0, "wrong": 0},
        "met": not single["failures"] and not other["failures"],
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit(),
        "machine": machine(),
    }
    if not arguments.dry:
        arguments.out.mkdir(parents=True, exist_ok=True)
        file = arguments.out / ("flips-strict.json" if arguments.strict else "flips.json")
        file.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("by_file", "machine")}, indent=1))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
