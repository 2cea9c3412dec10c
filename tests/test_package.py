"""What installing the package brings."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DEPENDENCIES = {"jax", "numpy", "equinox", "optax", "jaxtyping", "gymnasium", "safetensors", "tyro", "rich"} | {
    "scipy",
    "threadpoolctl",
}
MAX_PACKAGES = 36


def requirements(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What a distribution asks for on this machine, with these extras."""
    asked = [Requirement(line) for line in metadata.requires(name) or []]
    return [r for r in asked if not r.marker or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]


def closure(name: str) -> set[str]:
    """Every distribution that installing one brings, itself included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(canonicalize_name(name), frozenset[str]())]
    while todo:
        item = todo.pop()
        if item not in seen:
            seen.add(item)
            todo += [(canonicalize_name(r.name), frozenset(r.extras)) for r in requirements(*item)]
    return {found for found, _ in seen}


def test_dependencies_are_the_agreed_ones() -> None:
    """No more and no fewer, and MuJoCo comes through Gymnasium."""
    asked = requirements("forethought")
    assert {canonicalize_name(r.name) for r in asked} == DEPENDENCIES
    assert {r.name: r.extras for r in asked if r.extras} == {"gymnasium": {"mujoco"}}


def test_the_closure_is_small() -> None:
    """`pip install .` brings at most 36 packages."""
    packages = closure("forethought")
    assert packages >= DEPENDENCIES | {"mujoco", "jaxlib", "forethought"}
    assert len(packages) <= MAX_PACKAGES, sorted(packages)


def test_the_version_is_written_once() -> None:
    """The installed version is the source's, and the changelog and the citation know it."""
    from forethought._version import __version__

    assert metadata.version("forethought") == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_constraints_pin_what_is_declared() -> None:
    """constraints.txt holds name==version lines, and one for every declared dependency."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), lines
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {canonicalize_name(Requirement(line).name) for line in declared} <= pinned
    assert closure("forethought") - {"forethought"} <= pinned
