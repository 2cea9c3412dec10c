"""A run to look at, and one to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """A finished run of three episodes of ten steps, which nobody changes."""
    # forethought is imported late: see the conftest above this one.
    from small import recipe

    return recipe(out=tmp_path_factory.mktemp("runs") / "run").run().run


@pytest.fixture
def run(original, tmp_path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def fragile():
    """The environment in which things happen, healthy before and after."""
    from small import Fragile

    Fragile.plan_fault(None)
    yield Fragile
    Fragile.plan_fault(None)
