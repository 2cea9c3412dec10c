"""RELIABILITY.md: what was tested that could lose something or keep silent, made from the results.

    python bench/reliability.py                    # write it
    python bench/reliability.py --tests FILE       # first count the tests of a run (pytest --junitxml=FILE)
    python bench/reliability.py --check            # status 1 if it is not what the results give

Reads results/reliability/TEST.json, which the script of each test writes.  What has not been measured is said to be so.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reliability_rows import (
    Found,
    Row,
    Test,
    counted,
    damages_details,
    damages_row,
    faults_details,
    faults_others,
    faults_row,
    flags_row,
    flips_row,
    guard_row,
    hang_row,
    kills_details,
    kills_row,
    negatives_details,
    negatives_row,
    soak_details,
    soak_row,
    storage_details,
    storage_row,
    tests_details,
    tests_row,
)
from runner import HERE, RESULTS, commit, machine
from text import describe, markdown, read

PAGE = HERE.parent / "RELIABILITY.md"
HEAD = """# Reliability

<!-- made by bench/reliability.py, do not edit -->

What was tried in order to lose something, or to get a wrong result without a word. Each figure comes from the script
that is named with it, by way of `bench/results`. Those of other libraries were taken once, when this project was
designed, and not by these scripts, unless it says *here*.
"""


TESTS = (
    Test(
        "Kill and resume",
        "A run is killed (SIGKILL) at a random moment while it collects, saves or trains, and resumed; a third of them "
        "twice. A failure is one bit of the parameters, optimiser, data, keys, counters, episodes or metrics (their "
        "clocks aside) that is not that of the run which nobody killed, or a finished episode that is gone.",
        "python bench/kills.py --count 200",
        "kills",
        kills_row,
        lambda found: "none of those looked at resumes bit for bit",
        kills_details,
    ),
    Test(
        "Single flipped bits",
        "One bit of one file of a run is flipped. A failure is damage that no sentence names, or anything loaded that "
        "was never written.",
        "python bench/flips.py --count 1000",
        "flips",
        flips_row,
        lambda found: "loaded as something else in silence, of 300: orbax 293, equinox 298, safetensors alone 299",
    ),
    Test(
        "Files cut, deleted, swapped, foreign",
        "Every file of a run is cut to 0, 1, 50 and 99.9%, deleted, exchanged with each other of its kind, and "
        "replaced by that of another run. A failure is as above.",
        "python bench/flips.py --count 1000",
        "flips",
        damages_row,
        details=damages_details,
    ),
    Test(
        "Faulty environments",
        "Twenty faults, in reset, at steps 1 and 30 and the last one, in this process and in a worker process. A "
        "failure is a fault that is not found, a sentence that does not say environment, step, field and value, or a "
        "transition before it that is not kept.",
        "python bench/faults.py",
        "faults",
        faults_row,
        faults_others,
        faults_details,
    ),
    Test(
        "Environments that hang",
        "A reset or a step does not end. A failure is a worker process that is not ended at its deadline, or finished "
        "data lost with it. In this process nothing can end a step that hangs. These cases are among those above.",
        "python bench/faults.py",
        "faults",
        hang_row,
        lambda found: (
            "the vector environments of Gymnasium and SB3 wait for ever; where a worker process is killed, standard "
            "pools lose 14 of 16 runs, one process for each run loses 1"
        ),
    ),
    Test(
        "Command lines",
        "Random flags with random values, read and validated; others carried out for two steps. A failure is anything "
        "but success or one sentence with the flag, the value and what is allowed.",
        "python bench/fuzz_flags.py --count 2000 --run 100",
        "flags",
        flags_row,
    ),
    Test(
        "Tests that expect an error",
        "Places in the tests that ask for a specific error, and their cases with all parameters; and properties: tests "
        "whose cases Hypothesis makes up. The script says what counts.",
        "python bench/negatives.py",
        "negatives",
        negatives_row,
        lambda found: "Gymnasium 208 places (459 cases), SB3 84 (176), every model-based library 0",
        negatives_details,
    ),
    Test(
        "Growth over a long run",
        "One process trains without a pause, with data that are cut to a fixed size, so that nothing has a reason to "
        "grow. The slope of the resident memory is fitted after the first third.",
        "python bench/soak.py --minutes 30",
        "soak",
        soak_row,
        details=soak_details,
    ),
    Test(
        "Time of a checkpoint",
        "The state of a default run of 300 steps on Pendulum-v1, to files that are flushed to the disk and renamed.",
        "python bench/storage.py",
        "storage",
        storage_row,
        details=storage_details,
    ),
    Test(
        "Time of the guard",
        "What checking a transition adds to each step of each run.",
        "python bench/guard.py",
        "guard",
        guard_row,
    ),
    Test(
        "The test suite",
        "All tests, the slow ones too. What is counted are cases: each set of parameters is one.",
        'python -m pytest -m "slow or not slow" --junitxml=tests.xml && python bench/reliability.py --tests tests.xml',
        "tests",
        tests_row,
        details=tests_details,
    ),
)


def results_in(folder: Path) -> dict[str, Found]:
    """Every file of results by its stem; that of the guard may lie one folder above."""
    above = folder.parent / "guard.json"
    return ({"guard": json.loads(above.read_text())} if above.exists() else {}) | read(folder)


def summary(results: dict[str, Found]) -> list[str]:
    """The table."""
    rows = []
    for test in TESTS:
        found = results.get(test.file)
        row = Row("*not measured yet*", "", "") if found is None else test.row(found)
        rows.append([test.title, *row, test.others(found)])
    head = ["test", "cases", "failures, or figure", "target", "best comparable libraries"]
    lines = markdown(head, rows)
    return [lines[0], "| --- " * len(head) + "|", *lines[2:], ""]


def section(test: Test, found: Found | None, first: bool) -> list[str]:
    """What was done, and where the figures come from; the origin of a file is told once."""
    lines = [f"## {test.title}", "", test.about, ""]
    if found is None:
        return [*lines, f"*Not measured yet: run* `{test.command}`", ""]
    lines += [*test.details(found), f"Command: `{test.command}`", ""]
    return [*lines, *origin(found)] if first else lines


def origin(found: Found) -> list[str]:
    """Settings, commit and machine."""
    lines = []
    if "settings" in found:
        lines.append(f"- settings: `{json.dumps(found['settings'])}`")
    lines.append(f"- commit: {found['commit'][:12] + found['commit'][40:]}")
    return [*lines, f"- machine: {describe(found['machine'])}", ""]


def page(results: dict[str, Found]) -> str:
    """The whole page."""
    lines, told = [HEAD, *summary(results)], set[str]()
    for test in TESTS:
        lines += section(test, results.get(test.file), test.file not in told)
        told.add(test.file)
    return "\n".join(lines).rstrip() + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--tests", type=Path, help="a JUnit XML, which is counted first")
    parser.add_argument("--results", type=Path, default=RESULTS / "reliability")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(words)
    if arguments.tests is not None:
        result = counted(arguments.tests) | {"commit": commit(), "machine": machine()}
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / "tests.json").write_text(json.dumps(result, indent=1) + "\n")
    old = arguments.page.read_text(encoding="utf-8") if arguments.page.exists() else ""
    new = page(results_in(arguments.results))
    if not arguments.check:
        arguments.page.write_text(new, encoding="utf-8")
        return 0
    changes = difflib.unified_diff(old.splitlines(), new.splitlines(), "the page", "what the results give", lineterm="")
    print("\n".join(changes))
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
