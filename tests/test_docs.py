"""What the documents show works: the blocks of each page are executed, in order, in one folder and one namespace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compiling import FLAGS
from documented import LIMIT, ROOT, SHELL, STEPS, blocks, commands, execute, parse_small
from forethought import CEM, GPLearner, Imagination

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COURSE = sorted((ROOT / "experiments" / "course").glob("*.py"))
LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:src|tests|docs|experiments|bench)/[\w./-]+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_code(page: Path) -> bool:
    return any(block.language in ("python", *SHELL) for block in blocks(page))


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory) -> dict[str, str | None]:
    """The outcome of each page that is asked for, all in one process."""
    names = ("test_blocks_are_executed", "test_the_course_is_executed")
    items = [item for item in request.session.items if getattr(item, "originalname", "") in names]
    pages = [str(item.callspec.params["page"]) for item in items]
    folder = tmp_path_factory.mktemp("documented")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"  # quick to compile
    words = [sys.executable, str(ROOT / "tests" / "documented.py"), str(folder / "outcomes.json"), *pages]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_FLAGS": flags}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.parametrize("page", [p for p in PAGES if has_code(p)], ids=name)
def test_blocks_are_executed(page, executed) -> None:
    assert executed[str(page)] is None, executed[str(page)]


@pytest.mark.parametrize("page", COURSE, ids=name)
def test_the_course_is_executed(page, executed) -> None:
    assert executed[str(page)] is None, executed[str(page)]


class TestTheCourse:
    @pytest.mark.parametrize("page", COURSE, ids=name)
    def test_it_opens_as_a_notebook_and_asks(self, page) -> None:
        """Cells of text and of code; questions in every section but the first and the last."""
        cells = re.split(r"^# %%", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert cells[0] == ""
        text = [cell for cell in cells[1:] if cell.startswith(" [markdown]")]
        assert len(text) >= 5
        assert len(re.findall(r"^# Question \d+:", "".join(cells), re.MULTILINE)) >= 2 * (len(text) - 2)
        assert all(line.startswith("#") for cell in text for line in cell.splitlines()[1:] if line)

    @pytest.mark.parametrize("page", COURSE, ids=name)
    def test_it_uses_what_is_public(self, page) -> None:
        """But for the one prediction that docs/extending.md shows, too."""
        source = page.read_text(encoding="utf-8")
        inner = set(re.findall(r"^from (forethought\.[\w.]+) import", source, re.MULTILINE))
        assert inner <= {"forethought.testing", "forethought.math.gaussian"}
        assert "matplotlib" not in source

    def test_there_are_three(self) -> None:
        assert len(COURSE) == 3


def test_there_are_blocks() -> None:
    """The test above would hold of pages without any."""
    count = lambda page, *languages: sum(block.language in languages for block in blocks(page))
    assert count(ROOT / "README.md", "python") >= 1
    assert count(ROOT / "README.md", *SHELL) >= 5
    assert count(ROOT / "docs" / "extending.md", "python") >= 6
    assert sum(count(page, *SHELL) for page in PAGES) >= 30


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


class TestTheRulesThemselves:
    """They can fail: each of these is a mistake that a page might have."""

    def page(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("```sh\nforethought train Pendulum-v1 --stepz 3\n```\n", "There is no flag --stepz"),
            ("```sh\nforethought tasks --no-such-flag\n```\n", "ended with status 2"),
            ("```sh\nsudo rm file\n```\n", "No rule"),
            ("```sh\npip install '.[nothing]'\n```\n", "no extra nothing"),
            ("```sh\npython bench/curves.py --nothing\n```\n", "no flag --nothing"),
            ("```python\nassert 1 == 2, 'wrong'\n```\n", "wrong"),
            ("```perl\nprint 1\n```\n", "no rule knows blocks of perl"),
        ],
    )
    def test_a_page_with_a_mistake_fails(self, text, sentence, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Exception, match=re.escape(sentence)):
            execute(self.page(tmp_path, text), tmp_path)

    def test_commands_are_split_as_a_shell_does(self) -> None:
        code = "a 'b c' \\\n    --d  # e\n\npython3 -m venv .venv && .venv/bin/pip install .\n"
        assert commands(code) == [["a", "b c", "--d"], ["python3", "-m", "venv", ".venv"], ["pip", "install", "."]]

    def test_what_is_read_is_made_small_and_nothing_is_made_larger(self) -> None:
        read = lambda *words: parse_small(["Pendulum-v1", *words]).experiment
        large = read("--planner", "cem", "--model", "gp", "--steps", "100000", "--algorithm.horizon", "2")
        assert (large.steps, large.limit, large.algorithm.horizon) == (STEPS, LIMIT, 2)
        assert large.algorithm.planner == CEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
        assert large.algorithm.learner == GPLearner(restarts=0, evaluations=10, refit_every=10, functions=4)
        assert read("--steps", "20").steps == 20
