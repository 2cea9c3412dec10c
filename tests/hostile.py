"""What tests of hostile files share."""

from __future__ import annotations

import os
from pathlib import Path

from forethought import UserError
from forethought.runs.directory import existing
from forethought.runs.experiment import open_run
from forethought.runs.files import seal
from forethought.runs.verify import problems


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return os.mkdir, (BOMB,)


BOMB = "/tmp/forethought-test-bomb"


def look(run: Path) -> list[str]:
    """Everything that reads a run; the sentences."""
    said: list[str] = []
    try:
        said += problems(existing(run))
        open_run(run, say=said.append)
    except UserError as error:
        said.append(str(error))
    return said


def sealed(path: Path, value: dict) -> None:
    """Whoever can write a file can also write its SHA-256."""
    path.write_bytes(seal({k: v for k, v in value.items() if k != "sha256"}))
