"""forethought report: one page about one run or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from forethought.console import begin, print_json, shown
from forethought.errors import UserError, printable
from forethought.reporting.contents import Beside, contents
from forethought.reporting.film_panel import Film
from forethought.reporting.page import GENERATOR, checked, library, page
from forethought.reporting.records import Records, read_records, to_type
from forethought.runs.command_line import Common, as_said, flags_of, parse_plain, split
from forethought.runs.files import Damaged, read_bytes, replace_durably, storing
from forethought.runs.rules import nameable

if TYPE_CHECKING:
    from forethought.runs.experiment import OpenRun

MOST = 50
"""Runs on one page."""
FANS = 4
"""Runs of a page whose models are asked: each takes about two seconds."""


@dataclasses.dataclass(frozen=True)
class Report(Common):
    """What `report` takes."""

    out: Path | None = None
    """The file to write; None: report.html in the run directory, or, of several runs, in the current folder."""
    fan: bool = True
    """Whether the model is asked what it would have predicted; without it the report takes a second, and no jax."""
    video: bool = False
    """Act out the best, the median and the worst evaluation episode again, where the environment renders."""
    task: str | None = None
    """The run's task, which must be named again if it is a module:id."""
    experiment: Path | None = None
    """The user's file that the run was made from, which must be named again if its recipe has classes of its own."""


class Asked(NamedTuple):
    """Which runs, how, and the keyword arguments of the environment that are named again."""

    runs: list[Path]
    flags: Report
    env: dict[str, Any]


ABOUT = """Write one HTML file about a run, or about several: returns, what the model predicts beside what happened, its
errors and calibration, the planner, events, and how to do it again. It needs no network, and can be printed and sent.
Nothing in the run is changed but report.html.

--env.NAME VALUE names again what a run's environment was made with, where that may be a file."""


def parse(argv: Sequence[str]) -> Asked:
    """What a command line asks for.  Raises `UserError`."""
    env: dict[str, Any] = {}
    if any(word.startswith("--env.") for word in argv):
        from forethought.runs.flags import take_env

        env, argv = take_env(argv)
    known = {name for name, flag in flags_of(Report()).items() if flag.switch} | {"-h", "--help"}
    places, rest = split(argv, known)
    flags = parse_plain(Report(), rest, "forethought report RUN...", ABOUT)
    if not places:
        raise UserError("report takes at least one run directory, and none was given.")
    if len(places) > MOST:
        raise UserError(f"report takes at most {MOST} run directories, and {len(places)} were given.")
    strange = [p for p in places if not p.strip() or not nameable(p)]
    if strange:
        raise UserError(f"report takes run directories, and {as_said(strange[0])} is none.")
    if len(places) > 1 and (flags.video or flags.task or flags.experiment or env):
        raise UserError("--video, --task, --experiment and --env are for a report about one run; several were given.")
    return Asked([Path(p) for p in places], flags, env)


def command(argv: list[str]) -> int:
    """Write the page."""
    asked = parse(argv)
    library()  # before anything takes long
    out = destination(asked)
    runs = [read_records(path) for path in asked.runs]
    beside = [_beside(run, asked, i) for i, run in enumerate(runs)]
    data = contents(runs, beside)
    title = data["runs"][0]["title"] if len(runs) == 1 else f"{len(runs)} runs"
    made = checked(page(data, title), len(runs))
    with storing(str(out)):
        replace_durably(out, made)
    _say(out, made, data, asked)
    return 0


def destination(asked: Asked) -> Path:
    """Where the page goes.  Raises `UserError` for a file that no report wrote."""
    given = asked.flags.out
    if given is None:
        given = (asked.runs[0] if len(asked.runs) == 1 else Path.cwd()) / "report.html"
    elif not given.parent.is_dir():
        raise UserError(f"--out is {as_said(str(given))}; there is no folder {given.parent}.")
    if given.is_dir():
        raise UserError(f"--out is {as_said(str(given))}, which is a folder; give the name of a file.")
    if given.is_symlink() or (given.exists() and not _ours(given)):
        raise UserError(f"{given} exists and is no report of forethought's; give another file with --out.")
    return given


def _ours(path: Path) -> bool:
    """Whether a report wrote this file."""
    try:
        return f'name="generator" content="{GENERATOR}"'.encode() in read_bytes(path, 2**26)[:20_000]
    except Damaged:
        return False


def _beside(run: Records, asked: Asked, index: int) -> Beside:
    """What needs the run's model: the fan, and the film."""
    flags = asked.flags
    if not flags.fan and not flags.video:
        return Beside(no_fan=["No fan was asked for (--no-fan)."])
    if index >= FANS:
        return Beside(no_fan=[f"Of several runs the models of the first {FANS} are asked: {to_type(run, 'report')}"])
    begin(flags, run.path)
    try:
        opened = _open(run, asked)
    except Exception as error:  # a model of the user's own may raise anything, and the rest is worth seeing
        sentence = f"The run cannot be opened, so its model cannot be asked: {_words(error)}"
        return Beside(no_fan=[sentence], film=Film(missing=[sentence]) if flags.video else None)
    return _asked(opened, run, flags, 1.0 / min(len(asked.runs), FANS))


def _open(run: Records, asked: Asked) -> OpenRun:
    from forethought.runs.experiment import Named, open_run
    from forethought.runs.flags import reach, read_file

    reach(asked.flags.task)
    own = None if asked.flags.experiment is None else read_file(asked.flags.experiment)
    return open_run(run.path, Named(asked.flags.task, own, None, asked.env), run.trouble.append)


def _asked(opened: OpenRun, run: Records, flags: Report, share: float) -> Beside:
    from forethought.reporting.fan import imagine, named_limits

    run.limits = named_limits(opened) or run.limits
    run.threshold = opened.task.threshold
    film = _film(opened, run) if flags.video else None
    if not flags.fan:
        return Beside(no_fan=["No fan was asked for (--no-fan)."], film=film)
    try:
        found = imagine(opened, run, share)
    except Exception as error:
        return Beside(no_fan=[f"There is no fan: {_words(error)}"], film=film)
    return Beside(found.fan, found.components, found.seen, found.missing, film)


def _film(opened: OpenRun, run: Records) -> Film:
    from forethought.reporting.film import film

    try:
        return film(opened, run)
    except Exception as error:
        return Film(missing=[f"There is no video: {_words(error)}"])


def _words(error: Exception) -> str:
    """What went wrong: a sentence of ours, or the name of what nobody expected."""
    words = " ".join(str(error).split())
    return printable(words if isinstance(error, UserError) else f"unexpected {type(error).__name__}: {words[:300]}")


def _say(out: Path, made: bytes, data: dict[str, Any], asked: Asked) -> None:
    """Where the page is, and what is missing from it."""
    missing = {r["label"]: [m["says"] for m in r["missing"]] for r in data["runs"]}
    if asked.flags.json:
        print_json({"report": str(out), "bytes": len(made), "runs": [str(p) for p in asked.runs], "missing": missing})
        return
    print(f"Report: {printable(shown(out))} ({len(made) / 1e6:.1f} MB)")
    if asked.flags.quiet:
        return
    for label, sentences in missing.items():
        for sentence in sentences:
            said = f"{label}: {sentence}" if len(missing) > 1 else sentence
            # A stranger's run may have written a part of it: it must neither command the terminal nor look like a line.
            print("missing: " + printable(said).replace("\n", "\\n"))
