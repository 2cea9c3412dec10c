"""How RELIABILITY.md reads each file of results: one line of its table, and the tables below it."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from text import markdown, met

Found = dict[str, Any]
"""A file of results."""


class Row(NamedTuple):
    """One line of the table, as text."""

    cases: str
    failures: str
    target: str


class Test(NamedTuple):
    """One test: what is done, the command, its file of results, how to read it, and what others come to."""

    title: str
    about: str
    command: str
    file: str
    row: Callable[[Found], Row]
    others: Callable[[Found | None], str] = lambda found: "-"
    details: Callable[[Found], list[str]] = lambda found: []


def goal(cases: int, least: int, failures: int) -> str:
    """No failure in at least so many cases."""
    return f"0 of at least {least}: {met(failures == 0 and cases >= least)}"


def count(number: int, one: str) -> str:
    """A number of things."""
    return f"{number} {one}{'' if number == 1 else 's'}"


def kills_row(found: Found) -> Row:
    """`kills.py`."""
    cases = f"{count(found['runs'], 'run')}, {count(found['kills'], 'kill')}"
    return Row(cases, str(found["wrong"]), goal(found["runs"], 200, found["wrong"]))


def kills_details(found: Found) -> list[str]:
    """Runs by task, place, and whether the world can be replayed."""
    each = found["each"]
    kinds = dict.fromkeys((run["task"], run["place"], run["replayable"]) for run in sorted(each, key=str))
    rows = []
    for task, place, replayable in sorted(kinds):
        runs = [run for run in each if (run["task"], run["place"], run["replayable"]) == (task, place, replayable)]
        lost = sum(bool(run["wrong"]) for run in runs)
        rows.append([task, place, "yes" if replayable else "no", str(len(runs)), str(lost)])
    return [*markdown(["task", "killed in", "replayable", "runs", "differ or lost"], rows), ""]


def outcomes(counts: dict[str, int]) -> tuple[int, int]:
    """(damages that changed something, those that nobody named or that were loaded)."""
    cases = sum(number for word, number in counts.items() if word != "unchanged")
    return cases, counts.get("silent", 0) + counts.get("wrong", 0)


def flips_row(found: Found) -> Row:
    """Single bits of `flips.py`."""
    cases, failures = outcomes(found["flips"])
    return Row(count(cases, "bit"), str(failures), goal(cases, 1000, failures))


def damages_row(found: Found) -> Row:
    """Everything else of `flips.py`."""
    each = [outcomes(counts) for counts in found["damages"].values()]
    cases, failures = sum(c for c, _ in each), sum(f for _, f in each)
    return Row(count(cases, "damage"), str(failures), f"0: {met(failures == 0)}")


def damages_details(found: Found) -> list[str]:
    """What became of each kind of damage."""
    ways = {"flip": found["flips"], **found["damages"]}
    words = list(dict.fromkeys(word for counts in ways.values() for word in counts))
    rows = [[way, *(str(counts.get(word, 0)) for word in words)] for way, counts in ways.items()]
    return [*markdown(["", *words], rows), ""]


def faults_row(found: Found) -> Row:
    """`faults.py`."""
    return Row(
        f"{count(found['faults'], 'fault')}, {found['cases']} cases",
        str(found["wrong"]),
        f"0 of all 20: {met(found['wrong'] == 0 and found['faults'] == 20)}",
    )


def faults_others(found: Found | None) -> str:
    """Two checkers in mid-run; Gymnasium's is measured beside ours."""
    if found is None:
        return "found of 20 in mid-run: Gymnasium's checker 1, SB3's checker 0"
    theirs = found["gymnasium"]
    here = "; ".join(
        f"{name} {len(theirs[key]['found'])} ({', '.join(theirs[key]['found']) or 'none'})"
        for key, name in (("check_env", "`check_env`"), ("passive", "what `gymnasium.make` adds"))
    )
    return f"found of 20 that begin at step 30: SB3's checker 0; Gymnasium {theirs['version']}, here: {here}"


def faults_details(found: Found) -> list[str]:
    """Found, named and kept, by where the environment lives."""
    head = ["", "cases", "found", "named", "finished data kept"]
    rows = [[where, *(str(c[k]) for k in ("cases", "found", "named", "kept"))] for where, c in found["counts"].items()]
    return [*markdown(head, rows), ""]


def hang_row(found: Found) -> Row:
    """The hangs of `faults.py`."""
    hangs = [row for row in found["each"] if row["fault"] == "hang"]
    failures = sum(not (row["found"] and row["named"] and row["kept"]) for row in hangs)
    return Row(count(len(hangs), "place"), str(failures), f"0: {met(bool(hangs) and failures == 0)}")


def flags_row(found: Found) -> Row:
    """`fuzz_flags.py`."""
    reading, doing = found["read"], found["carried_out"]
    failures = len(reading["faults"]) + len(doing["faults"])
    enough = reading["lines"] >= 2000 and doing["lines"] >= 100
    return Row(
        f"{reading['lines']} command lines read, {doing['lines']} carried out",
        str(failures),
        f"0 of at least 2000 and 100: {met(failures == 0 and enough)}",
    )


def negatives_row(found: Found) -> Row:
    """`negatives.py`."""
    wanted = found["wanted"]
    text = ", ".join(f"{found[name]} {name}" for name in wanted)
    return Row(text, "-", f"at least {', '.join(str(least) for least in wanted.values())}: {met(found['met'])}")


def negatives_details(found: Found) -> list[str]:
    """By file."""
    rows = [[file, str(counts["places"]), str(counts["cases"])] for file, counts in found["files"].items()]
    return [*markdown(["file", "places", "cases"], rows), ""]


def soak_row(found: Found) -> Row:
    """`soak.py`."""
    minutes, good = found["settings"]["minutes"], found["met"]
    descriptors, compilations = (low if low == high else f"{low} to {high}" for low, high in ranges(found))
    figure = f"{found['megabytes_per_10_minutes']:+.2f} MB in 10 minutes; {descriptors} descriptors, "
    figure += f"{compilations} compilations"
    word = met(all(good.values())) if minutes >= 30 else "**not yet that long**"
    cases = f"{minutes:g} minutes: {found['episodes']} episodes and checkpoints, {found['turns']} turns"
    return Row(cases, figure, f"below 1 MB, the others constant, over 30 minutes: {word}")


def ranges(found: Found) -> tuple[Sequence[int], Sequence[int]]:
    """Least and most after the warm-up."""
    return found["descriptors"], found["compilations"]


def soak_details(found: Found) -> list[str]:
    """The memory, once a minute or so."""
    samples = found["samples"]
    some = samples[:: max(len(samples) // 15, 1)]
    head = ["minute", "MB", "descriptors", "compilations", "steps", "episodes"]
    keys = ("descriptors", "compilations", "steps", "episodes")
    rows = [[f"{s['seconds'] / 60:.1f}", f"{s['megabytes']:.1f}", *(str(s[k]) for k in keys)] for s in some]
    return [f"The first {found['warm_up_seconds'] / 60:.1f} minutes warm up.", "", *markdown(head, rows), ""]


def storage_row(found: Found) -> Row:
    """`storage.py`."""
    case = found["seconds"]["checkpoint"]
    good = f"at most {1e3 * found['target']:.0f} ms: {met(found['met'])}"
    return Row(count(case["count"], "checkpoint"), f"{1e3 * case['median']:.1f} ms (median)", good)


def storage_details(found: Found) -> list[str]:
    """What else it costs."""
    names = {
        "checkpoint": "a checkpoint, flushed to the disk",
        "row": "a transition in the journal",
        "end": "the end of an episode in the journal, flushed",
        "opened": "the journal of a new episode",
        "read": "the newest checkpoint read back",
        "verify": "every file of the run verified",
        "flush": "a few bytes flushed: the disk itself",
    }
    rows = []
    for key, name in names.items():
        case = found["seconds"][key]
        rows.append([name, *(f"{1e3 * case[which]:.3f} ms" for which in ("median", "p95", "max"))])
    case = found["seconds"]["checkpoint"]
    note = f"A checkpoint flushes {case['flushes']} times and takes {1e3 * case['processor_median']:.1f} ms of the "
    note += f"processor (median); the load before was {found['load_before']:.1f}."
    return [*markdown(["", "median", "95th percentile", "worst"], rows), "", note, ""]


def guard_row(found: Found) -> Row:
    """`guard.py`: its slowest case."""
    each = {name: case["median"] for name, case in found["microseconds"].items()}
    worst = max(each, key=lambda name: each[name])
    good = f"at most {found['target']:.0f} us: {met(found['met'])}"
    return Row(count(len(each), "space"), f"{each[worst]:.1f} us a transition ({worst}, the slowest)", good)


def tests_row(found: Found) -> Row:
    """The test suite."""
    whole = found["whole"]
    bad = whole["failures"] + whole["errors"]
    return Row(f"{whole['tests']} cases, {whole['skipped']} of them skipped", str(bad), f"0: {met(bad == 0)}")


def tests_details(found: Found) -> list[str]:
    """By folder."""
    keys = ("tests", "failures", "errors", "skipped")
    rows = [[folder, *(str(counts[k]) for k in keys)] for folder, counts in found["folders"].items()]
    return [f"Run at {found['when']}.", "", *markdown(["folder", *keys], rows), ""]


def counted(file: Path) -> Found:
    """Tests, failures, errors and skipped ones by folder, of a JUnit XML as pytest writes it."""
    root = xml.parse(file).getroot()
    suites = list(root.iter("testsuite"))
    folders: dict[str, dict[str, int]] = {}
    for case in root.iter("testcase"):
        parts = case.get("classname", "").split(".")
        module = next((i for i, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
        counts = folders.setdefault("/".join(parts[:module]) or ".", dict.fromkeys(COUNTED, 0))
        counts["tests"] += 1
        for tag, name in COUNTED_TAGS.items():
            counts[name] += case.find(tag) is not None
    if not folders:
        raise SystemExit(f"{file} holds no test; make it with pytest --junitxml={file}.")
    whole = {name: sum(counts[name] for counts in folders.values()) for name in COUNTED}
    when = suites[0].get("timestamp", "") if suites else ""
    return {"figure": "tests", "when": when, "whole": whole, "folders": dict(sorted(folders.items()))}


COUNTED_TAGS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
COUNTED = ("tests", *COUNTED_TAGS.values())
