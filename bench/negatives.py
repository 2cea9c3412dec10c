"""How many tests assert a specific error, and how many are properties.

    python bench/negatives.py

A place is one statement in tests/ that can only pass if a certain error comes with a certain sentence:

- pytest.raises(SomeError, match=...), with an error that is more specific than Exception;
- pytest.raises(SomeError) as name, where the same function then asserts something about str(name.value);
- an assert that looks for a sentence in what the command line wrote on standard error (answer.err), in a function that
  also asserts an exit status other than 0: one place per function, however many such asserts it has;
- an assert that looks for a sentence in what `refused(...)` returns: a helper of the tests around pytest.raises.

A place inside a helper that no test collects counts once, for no case.  The cases of a place are the collected tests
that run its function, so that parameters count and loops do not; those marked slow are collected too.  A property is a
test with @given, whatever its number of examples.  Written into results/reliability/negatives.json; the status is 1 if
there are fewer than 150 places, 400 cases or 20 properties.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runner import RESULTS, commit, machine

ROOT = Path(__file__).resolve().parents[1]
WANTED = {"places": 150, "cases": 400, "properties": 20}
OTHERS = {"stable-baselines3": {"places": 84, "cases": 176}, "Gymnasium": {"places": 208, "cases": 459}}
"""As this project's design has them; how they were counted is not recorded."""
VAGUE = {"Exception", "BaseException"}


class Place(NamedTuple):
    """One place: where it is, and in which test."""

    file: str
    line: int
    test: str
    """Class and function, as pytest names them."""


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of a module and its classes, not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{within}{node.name}::")


def places_in(function: ast.FunctionDef) -> list[int]:
    """The lines of its places."""
    found: list[int] = []
    asserts = [node for node in ast.walk(function) if isinstance(node, ast.Assert)]
    fails = any(_status_not_zero(node.test) for node in asserts)
    for node in ast.walk(function):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                found += _raises(item, asserts)
    found += [node.lineno for node in asserts if "refused(" in ast.unparse(node.test)]
    said = [node.lineno for node in asserts if _looks_in_stderr(node.test)]
    return sorted(set(found + (said[:1] if fails else [])))


def _looks_in_stderr(test: ast.expr) -> bool:
    """Whether it is SENTENCE in answer.err, or answer.err == SENTENCE."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    where = test.comparators[0] if isinstance(test.ops[0], ast.In) else test.left
    return isinstance(test.ops[0], (ast.In, ast.Eq)) and isinstance(where, ast.Attribute) and where.attr == "err"


def _raises(item: ast.withitem, asserts: list[ast.Assert]) -> list[int]:
    """The line of pytest.raises, if it is specific."""
    call = item.context_expr
    if not isinstance(call, ast.Call) or _name(call.func) != "raises" or not call.args:
        return []
    if {_name(part) for part in getattr(call.args[0], "elts", [call.args[0]])} & VAGUE:
        return []
    if any(word.arg == "match" for word in call.keywords):
        return [call.lineno]
    name = item.optional_vars.id if isinstance(item.optional_vars, ast.Name) else None
    read = name is not None and any(f"{name}.value" in ast.unparse(node.test) for node in asserts)
    return [call.lineno] if read else []


def _status_not_zero(test: ast.expr) -> bool:
    """Whether an assert says that an exit status is 1, 2 or more."""
    words = ast.unparse(test)
    if "status" not in words and "returncode" not in words:
        return False
    numbers = [part.value for part in ast.walk(test) if isinstance(part, ast.Constant) and type(part.value) is int]
    return any(number > 0 for number in numbers)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_property(function: ast.FunctionDef) -> bool:
    """Whether it has @given."""
    return any(_name(getattr(mark, "func", mark)) == "given" for mark in function.decorator_list)


def collected() -> Counter[tuple[str, str]]:
    """(file, test without parameters) to the number of its cases."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "slow or not slow",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, "tests"], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"pytest cannot collect the tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    ids = [line.split("::", 1) for line in done.stdout.splitlines() if "::" in line]
    return Counter((file, name.split("[", 1)[0]) for file, name in ids)


def survey() -> tuple[list[Place], int]:
    """(every place, how many properties)."""
    places, properties = [], 0
    for path in sorted((ROOT / "tests").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        for test, function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            places += [Place(file, line, test) for line in places_in(function)]
            properties += is_property(function)
    return places, properties


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "negatives.json")
    arguments = parser.parse_args()
    places, properties = survey()
    cases = collected()
    counts = {
        "places": len(places),
        "cases": sum(cases[place.file, place.test] for place in places),
        "properties": properties,
    }
    files = Counter(place.file for place in places)
    result = {
        "figure": "negatives",
        **counts,
        "wanted": WANTED,
        "others": OTHERS,
        "met": all(counts[name] >= least for name, least in WANTED.items()),
        "files": {
            file: {"places": count, "cases": sum(cases[p.file, p.test] for p in places if p.file == file)}
            for file, count in sorted(files.items())
        },
        "tests": sum(cases.values()),
        "commit": commit(),
        "machine": machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(", ".join(f"{count} {name} (wanted: {WANTED[name]})" for name, count in counts.items()))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
