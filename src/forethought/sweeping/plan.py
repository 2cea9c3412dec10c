"""From a command line to jobs: every combination of the varied settings, with every seed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from forethought.errors import UserError
from forethought.runs.command_line import Common, as_said, flags_of, parse_plain, quoted, split
from forethought.runs.directory import to_name_again
from forethought.runs.files import Damaged, read_sealed, remove, replace_durably, seal, storing
from forethought.sweeping.job import Job
from forethought.sweeping.sweep import LOCK

if TYPE_CHECKING:
    from forethought.runs.experiment import Experiment

FORMAT = 1
PLAN = "sweep.json"
MOST = 10_000
"""Runs of a sweep."""
MOST_AT_ONCE = 1024
PYTHON = (sys.executable, "-P", "-m", "forethought")
"""The command of this installation; -P: nothing in the current folder takes the place of what is installed."""
ABOUT = (
    "Train with every seed and every combination of settings, each run a process of its own in DIR. Everything that "
    "'forethought train' takes goes to each of them ('forethought train --help'), but for --seed and --out. The same "
    "command again goes on: what is done is not done again, and what was broken off is resumed."
)


@dataclasses.dataclass(frozen=True)
class Sweep(Common):
    """What `sweep` takes beside the flags of `train`."""

    seeds: str = "0-4"
    """Seeds: whole numbers and ranges with commas between them, as in 0-4,7."""
    vary: str | None = None
    """FLAG=VALUE,VALUE: a flag of train and its values; may be given several times, and every combination is run."""
    jobs: int = 1
    """Runs at the same time."""
    time_limit: float | None = None
    """Seconds that a run may take, each time it is started; None: any."""
    memory_limit: float | None = None
    """MB (10^6 bytes) that a run and what it starts may hold in memory; None: any."""
    out: Path | None = None
    """The folder of the sweep; it must be given."""
    launcher: Literal["processes", "ray"] = "processes"
    """Where runs are started: here, or on the Ray cluster of RAY_ADDRESS (needs the extra [ray])."""


class Varied(NamedTuple):
    """A flag of train, and the values that it takes in turn."""

    flag: str
    values: tuple[str, ...]


class Plan(NamedTuple):
    """A sweep as it was asked for."""

    asked: Sweep
    train: tuple[str, ...]
    """What goes to each run: the task and flags."""
    varied: tuple[Varied, ...]
    seeds: tuple[int, ...]
    out: Path


def parse_sweep(argv: Sequence[str]) -> Plan:
    """The sweep of a command line.  Raises `UserError`; nothing is written yet, and no task is made."""
    own, varied, train = _sorted_out(argv)
    asked = parse_plain(Sweep(), own, "forethought sweep TASK --out DIR", ABOUT)
    if asked.out is None:
        raise UserError("sweep needs a folder of its own, and none was given: --out DIR.")
    if not 1 <= asked.jobs <= MOST_AT_ONCE:
        raise UserError(f"--jobs is {asked.jobs}; it must be a whole number, at least 1 and at most {MOST_AT_ONCE}.")
    seeds = parse_seeds(asked.seeds)
    plan = Plan(asked, tuple(train), tuple(map(_parse_vary, varied)), seeds, asked.out.absolute())
    count = len(seeds)
    for each in plan.varied:
        count *= len(each.values)
    if count > MOST:
        raise UserError(f"These are {count} runs; a sweep must have at most {MOST}.")
    return plan


def _sorted_out(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """(sweep's own flags with their values, the values of --vary, everything else)."""
    known, tokens = flags_of(Sweep()), list(argv)
    own: list[str] = []
    varied: list[str] = []
    train: list[str] = []
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        name = name.replace("_", "-")
        if name in ("-h", "--help"):
            own.append(token)
        elif name not in known:
            train.append(token)
        elif known[name].switch:
            own.append(token)
        elif name == "--vary":
            if not equals and not tokens:
                raise UserError("--vary needs a value: FLAG=VALUE,VALUE.")
            varied.append(value if equals else tokens.pop(0))
        else:
            own += [token] if equals else [token, *tokens[:1]]
            tokens = tokens if equals else tokens[1:]
    return own, varied, train


def parse_seeds(text: str) -> tuple[int, ...]:
    """'0-2,7' as (0, 1, 2, 7).  Raises `UserError`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})(?:-([0-9]{1,10}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first + len(found) >= MOST:
            raise UserError(
                f"--seeds is {quoted(text)}; it must be whole numbers and ranges with commas between them, such as "
                f"0-4,7, and at most {MOST}."
            )
        found += range(first, last + 1)
    twice = [seed for seed, count in Counter(found).items() if count > 1]
    if twice:
        raise UserError(f"--seeds is {quoted(text)}; each seed must be there once, and {twice[0]} is there twice.")
    return tuple(found)


def _parse_vary(text: str) -> Varied:
    """FLAG=VALUE,VALUE.  Raises `UserError`."""
    flag, equals, values = text.partition("=")
    flag = flag.strip().lstrip("-")
    flag = flag if flag.startswith("env.") else flag.replace("_", "-")
    found = tuple(value.strip() for value in values.split(","))
    if not flag or not equals or not all(found) or len(set(found)) < len(found):
        raise UserError(
            f"--vary is {quoted(text)}; it must be FLAG=VALUE,VALUE with a flag of train and different values, such as "
            "planner.samples=64,256."
        )
    if flag in ("seed", "out") or f"--{flag}" in flags_of(Sweep()):
        raise UserError(f"--vary is {quoted(text)}; it must be a flag of train other than seed and out: see --seeds.")
    return Varied(flag, found)


class Run(NamedTuple):
    """One run of a sweep: its name, and the words that go to `train` for it."""

    name: str
    words: tuple[str, ...]


def runs_of(plan: Plan) -> list[Run]:
    """Every run: all settings of one seed before the next seed.  Raises `UserError` for two that would be one."""
    found = []
    combinations = list(itertools.product(*(each.values for each in plan.varied)))
    for seed in plan.seeds:
        for values in combinations:
            chosen = [f"{each.flag}={value}" for each, value in zip(plan.varied, values, strict=True)]
            name = _name(chosen, seed)
            words = (*plan.train, *(f"--{each}" for each in chosen), f"--seed={seed}", f"--out={plan.out / name}")
            found.append(Run(name, words))
    names = [run.name for run in found]
    if len(set(names)) < len(names):
        raise UserError(
            "Two of the varied settings would have the same folder: they differ in characters that none has."
        )
    return found


def _name(chosen: Sequence[str], seed: int) -> str:
    """The folder of a run, of which a file system can make a name."""
    said = "_".join(chosen)
    label = re.sub(r"[^A-Za-z0-9._+=-]+", "-", said)[:150]
    if label != said:
        # Whatever is left out would otherwise be another run's, too, of this sweep or of a later one.
        label = f"{label}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    return f"{label}-seed{seed}" if label else f"seed{seed}"


def jobs_of(plan: Plan, runs: Sequence[Run]) -> list[Job]:
    """The processes: `train`, or `resume` where a run was broken off."""
    from forethought.runs.train_flags import switches

    common = [flag for flag, given in (("--debug", plan.asked.debug), ("--no-cache", not plan.asked.cache)) if given]
    (task, *_), _ = split(plan.train, switches())
    jobs = []
    for run in runs:
        folder = plan.out / run.name
        config = folder / "config.json"
        if folder.is_dir() and {path.name for path in folder.iterdir()} == {".config.json.part"}:
            remove(folder)  # killed in its very first moment
        again = [task if word == "FILE" else word for word in shlex.split(to_name_again(folder, resume=True))]
        resume = (*PYTHON, "resume", str(folder), *again, *common)
        jobs.append(Job(run.name, (*PYTHON, "train", *run.words, *common), config, resume, config))
    return jobs


def refuse_other(plan: Plan) -> None:
    """Raise `UserError` for a folder that is no sweep's; nothing is written into it."""
    try:
        others = [path.name for path in plan.out.iterdir() if path.name not in (LOCK, f".{PLAN}.part")]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{plan.out} cannot be the folder of a sweep ({error.strerror}); give another one.") from error
    if others and PLAN not in others:
        raise UserError(f"{plan.out} holds something else ({as_said(others[0])}); give a new or an empty folder.")


def prepare(plan: Plan) -> None:
    """Write down what the folder is for, or check that it is for this.  Raises `UserError`."""
    file = plan.out / PLAN
    if not file.exists():
        with storing(str(file)):
            replace_durably(file, seal({"format": FORMAT, "train": list(plan.train)}))
        return
    try:
        before = read_sealed(file).get("train")
    except Damaged as error:
        raise UserError(f"{plan.out} cannot be gone on with: {error}") from error
    if before != list(plan.train):
        said = shlex.join(map(str, before)) if isinstance(before, list) else "something else"
        raise UserError(
            f"{plan.out} was begun with 'train {said}', and now it is 'train {shlex.join(plan.train)}'; give another "
            "folder, or the same flags."
        )


def check_runs(plan: Plan, runs: Sequence[Run]) -> None:
    """Let train's own parser read every run.  Raises `UserError` for the first that it would refuse."""
    from forethought.tasks import CLASSIC
    from forethought.worlds.source import find

    _refuse_twice(plan)
    # Runs of one seed differ in all that is varied; of the others only the largest seed may be refused.
    each = runs[: len(runs) // len(plan.seeds)]
    seen: dict[str, str] = {}
    for run in each:
        experiment = _read(run)
        if not seen and isinstance(experiment.task, str) and experiment.task not in CLASSIC:
            find(experiment.task, tuple(CLASSIC))
        settings = json.dumps(experiment.config(), sort_keys=True)
        if settings in seen:
            raise UserError(f"{seen[settings]} and {run.name} are the same settings; what is varied must differ.")
        seen[settings] = run.name
    _read(runs[plan.seeds.index(max(plan.seeds)) * len(each)])


def _read(run: Run) -> Experiment:
    """What train makes of the words of a run."""
    from forethought.runs.train_flags import parse_train
    from forethought.runs.validate import check

    try:
        experiment = parse_train(run.words).experiment
    except UserError as error:
        if "There is no flag" in str(error):
            raise UserError(f"{error} Those of sweep itself are {' '.join(flags_of(Sweep()))}.") from error
        raise
    check(experiment)
    return experiment


def _refuse_twice(plan: Plan) -> None:
    """Raise `UserError` for a flag that is both given and varied, or varied twice, also under its short name."""
    from forethought.runs.train_flags import SETTINGS, SHORT

    def in_full(flag: str) -> str:
        short = next((short for short in SHORT if flag.startswith(short)), None)
        return SETTINGS.get(flag, flag) if short is None else flag.replace(short, SHORT[short], 1)

    given = [word.partition("=")[0].replace("_", "-") for word in plan.train if word.startswith("--")]
    if "--seed" in given:
        raise UserError("--seed was given; sweep must be given --seeds, and gives each run one of them.")
    taken = {in_full(flag) for flag in given}
    for each in plan.varied:
        flag = in_full(f"--{each.flag}")
        if flag in taken:
            raise UserError(f"{each.flag} is varied, and given once more; it must be one of the two.")
        taken.add(flag)
