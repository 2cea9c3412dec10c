"""`forethought lecture`: the lecture's claims, measured on this machine."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from forethought.console import print_json, shown, spoken
from forethought.errors import UserError, printable
from forethought.lecture import text
from forethought.lecture.claim import Claim
from forethought.lecture.measuring import FOLDER, claims_in, kept
from forethought.lecture.page import page
from forethought.lecture.results import Row, as_dict, effect, write
from forethought.lecture.running import run_all
from forethought.runs.command_line import Common, as_said, parse_plain
from forethought.runs.files import replace_durably, storing
from forethought.sweeping.job import Outcome

CLAIMS_IN = "forethought.lecture.catalogue"
"""The module whose `CLAIMS` are measured."""
ABOUT = "Measure the lecture's claims on this machine, and judge each: holds, does not hold, undecided."


@dataclasses.dataclass(frozen=True)
class Lecture(Common):
    """What `lecture` takes."""

    full: bool = False
    """Take the time for more seeds, and for the claims that are too dear otherwise."""
    only: str | None = None
    """Measure only these claims: names with commas between them, or the flag several times."""
    out: Path | None = None
    """Folder of the results; default: lecture-TIMESTAMP. What was measured there before is not measured again."""
    jobs: int | None = None
    """Claims that are measured at once, each in a process of its own; default: 2, or 1 on a single core."""
    deadline: float = 3600.0
    """Seconds that a claim may take before its process is ended."""
    list: bool = False
    """List the claims, and measure nothing."""
    markdown: bool = False
    """Print the table as Markdown."""


def command(argv: list[str]) -> int:
    """Measure what is not there yet, and show everything that is; 0 if every claim that was asked for has a result."""
    asked = parse_plain(Lecture(), gathered(argv), "forethought lecture", ABOUT)
    check(asked)
    claims = claims_in(CLAIMS_IN)
    chosen = choose(claims, asked)
    if asked.list:
        return show_list(list(chosen.values()), asked)
    out = asked.out or Path(f"lecture-{datetime.now():%Y%m%d-%H%M%S}")
    prepare(out)
    wrong = measure_missing(out, chosen, asked)
    rows = collect(out, claims, wrong, asked.full)
    if asked.only is not None:
        rows = [row for row in rows if row.claim.name in chosen or row.found is not None]
    found = as_dict(rows, asked.full, spoken(["lecture", *argv]))
    words = spoken(["lecture", *["--full"] * asked.full])
    with storing(str(out / "results.json")):
        write(out, found)
    with storing(str(out / "lecture.html")):
        replace_durably(out / "lecture.html", page(rows, words).encode())
    report(rows, found, out, asked, words)
    return 1 if any(row.failures for row in rows) else 0


def gathered(argv: list[str]) -> list[str]:
    """The command line with every --only in the first one."""
    rest, names, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        if word == "--only" and words and not words[0].startswith("--"):
            names.append(words.pop(0))
        elif word.startswith("--only="):
            names.append(word.removeprefix("--only="))
        else:
            rest.append(word)
    return [*rest, *([f"--only={','.join(names)}"] if names else [])]


def check(asked: Lecture) -> None:
    """Raise `UserError` for numbers that make no sense."""
    if asked.jobs is not None and asked.jobs < 1:
        raise UserError(f"--jobs is {asked.jobs}; it must be 1 or larger.")
    if not 0.0 < asked.deadline < math.inf:
        raise UserError(f"--deadline is {asked.deadline:g}; it must be a finite number of seconds, larger than 0.")


def choose(claims: dict[str, Claim], asked: Lecture) -> dict[str, Claim]:
    """The claims that were asked for.  Raises `UserError` for a name that there is not."""
    if asked.only is None:
        return claims if asked.list else {n: c for n, c in claims.items() if c.seeds_of(asked.full)}
    names = list(dict.fromkeys(name.strip() for name in asked.only.split(",")))
    for name in names:
        if name not in claims:
            near = difflib.get_close_matches(name.lower(), claims, n=1, cutoff=0.0)
            hint = f" The nearest is {near[0]}." if near else ""
            raise UserError(
                f"There is no claim {as_said(name)} in the lecture.{hint} 'forethought lecture --list' lists all."
            )
        if not asked.list and not claims[name].seeds_of(asked.full):
            raise UserError(f"The claim {name} takes too long without --full; give that, too.")
    return {name: claims[name] for name in names}


def show_list(claims: list[Claim], asked: Lecture) -> int:
    """The claims, before anything is measured."""
    if asked.json:
        words = ("name", "section", "sentence", "prediction", "how", "unit", "margin", "seeds", "full_seeds")
        print_json({"claims": [{word: getattr(claim, word) for word in words} for claim in claims]})
    else:
        print(text.catalogue(claims) if asked.markdown else text.listing(claims))
    return 0


def prepare(out: Path) -> None:
    """The folder.  Raises `UserError` where it cannot be made, or holds something else."""
    if out.is_dir() and any(out.iterdir()) and not (out / FOLDER).is_dir():
        raise UserError(f"{out} is not empty and holds no results of the lecture; give another folder.")
    if (out / FOLDER).is_symlink():
        raise UserError(f"{out / FOLDER} is a link, and links are not followed: put the folder there.")
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {out} cannot be made: {error.strerror}.") from error


def measure_missing(out: Path, chosen: dict[str, Claim], asked: Lecture) -> dict[str, str]:
    """Measure what is not there, or failed.  Name to what went wrong, of the claims that have no measurement now."""
    say = (lambda sentence: None) if asked.quiet else _say
    missing = []
    for name, claim in chosen.items():
        found, why = kept(out, claim, asked.full)
        if found is None or Row(claim, found, None).failures:
            missing.append(name)
        if why:  # it stays until there is a better one
            say(f"{why} It is measured again.")
    if len(missing) < len(chosen):
        say(f"{len(chosen) - len(missing)} of {len(chosen)} claims are there already.")
    settings = ("full" if asked.full else "quick", "cache" if asked.cache else "no-cache")
    wrong: dict[str, str] = {}
    done = [len(chosen) - len(missing)]

    def tell(outcome: Outcome) -> None:
        name = outcome.name
        done[0] += 1
        found, why = kept(out, chosen[name], asked.full)
        if found is None:
            wrong[name] = outcome.reason or why or "its process left no result"
        row = Row(chosen[name], found, wrong.get(name))
        result = f"{row.verdict}, {effect(row)}" if found else f"failed, {wrong[name]}"
        say(f"{done[0]}/{len(chosen)} {name}: {result} ({outcome.seconds:.0f} s)")

    at_once = asked.jobs or min(2, os.cpu_count() or 1)
    try:
        if missing:
            run_all(CLAIMS_IN, missing, out, settings, at_once=at_once, deadline=asked.deadline, tell=tell)
    except KeyboardInterrupt:
        say(f"What was measured is kept; go on by: forethought lecture --out {shown(out)}{' --full' * asked.full}")
        raise
    return wrong


def collect(out: Path, claims: dict[str, Claim], wrong: dict[str, str], full: bool) -> list[Row]:
    """A row for every claim, in the order of the lecture, with what is kept of it."""
    return [Row(claim, kept(out, claim, full)[0], wrong.get(name)) for name, claim in claims.items()]


def report(rows: list[Row], found: dict[str, Any], out: Path, asked: Lecture, words: str) -> None:
    """What it came to, for machines, for a document, or for people."""
    if asked.json:
        print_json({"out": str(out.absolute()), **found})
    elif asked.markdown:
        print(text.markdown(rows, words))
    else:
        print(printable(text.table(rows)))
        print(f"Page: {shown(out.absolute() / 'lecture.html')}")


def _say(sentence: str) -> None:
    print(printable(sentence), file=sys.stderr, flush=True)
