"""What the documents show works: the Python blocks of each page run, in order, in one namespace."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:src|tests|docs|experiments|bench)/[\w./-]+)`")


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line, code) of each Python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


TINY = (
    "V15(forethought.ICEM(forethought.Imagination(particles=2), samples=8, elites=4, iterations=1), "
    "forethought.EnsembleLearner(members=2, width=8, depth=1, gradient_steps=10), horizon=3)"
)
SHORTER = {"V15(), steps=300": f"{TINY}, steps=80"}
"""What a page shows in full and the test does in less time."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_python_blocks_run(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)  # dataclasses look up their module by name
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "unused")  # the command line leaves a cache that is set alone
    with patch.dict(os.environ, {"JAX_COMPILATION_CACHE_DIR": cache}):
        for line, code in blocks(page):
            for full, short in SHORTER.items():
                code = code.replace(full, short)
            # Empty lines in front: a traceback then shows the line of the page.
            exec(compile("\n" * line + code, str(page), "exec"), vars(module))  # noqa: S102


def test_there_are_blocks() -> None:
    """The test above would hold of pages without any."""
    assert len(blocks(ROOT / "README.md")) >= 1
    assert len(blocks(ROOT / "docs" / "extending.md")) >= 6


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(page) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / target for target in LINK.findall(text)]
    missing = [str(path) for path in [*links, *(ROOT / p for p in PATH.findall(text))] if not path.exists()]
    assert not missing


def test_the_loop_names_what_exists() -> None:
    """Every `file.py` that the-loop.md names is in the package."""
    text = (ROOT / "docs" / "the-loop.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:algorithms|math|models|planners|policies|runs|worlds)/\w+\.py)`", text))
    assert len(named) > 8
    assert not [path for path in named if not (ROOT / "src" / "forethought" / path).exists()]
