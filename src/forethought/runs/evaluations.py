"""What was found when a run's controller was evaluated: evaluations/STEPS.json, one sealed file per number of steps.

Only evaluations of the newest controller, from the task's own fixed starts, are kept, so that those of different runs
can be compared.  A later one at the same number of steps takes the place of the earlier one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from forethought.runs.files import Damaged, read_sealed, replace_durably, seal

FORMAT = 1
FOLDER = "evaluations"
KEYS = {"run", "env_steps", "which", "returns", "starts", "successes", "seconds", "task", "threshold"}


def write_evaluation(run: Path, found: dict[str, Any]) -> Path:
    """Keep an evaluation; `found` has the keys of `KEYS`.  Raises `OSError`."""
    assert found.keys() == KEYS, found.keys() ^ KEYS
    (run / FOLDER).mkdir(exist_ok=True)
    path = run / FOLDER / f"{found['env_steps']:09d}.json"
    replace_durably(path, seal({"format": FORMAT, **found}))
    return path


def read_evaluation(path: Path, run: str | None = None) -> dict[str, Any]:
    """An evaluation, of the run of this name if it is given.  Raises `Damaged`."""
    found = read_sealed(path)
    returns, starts = found.get("returns"), found.get("starts")
    right = (
        found.keys() == KEYS | {"format"}
        and found["format"] == FORMAT
        and isinstance(returns, list)
        and isinstance(starts, list)
        and len(returns) == len(starts) > 0
        and all(type(r) in (int, float) for r in returns)
        and type(found["env_steps"]) is int
        and f"{found['env_steps']:09d}" == path.stem
        and type(found["seconds"]) in (int, float)
        and type(found["successes"]) in (int, type(None))
        and type(found["threshold"]) in (int, float, type(None))
    )
    if not right:
        raise Damaged(f"{path.name} is not as this version writes it.")
    if run is not None and found["run"] != run:
        raise Damaged(f"{path.name} belongs to another run ({found['run']!r}, and this one is {run!r}).")
    return found


def evaluation_files(run: Path) -> dict[int, Path]:
    """Environment steps to file, of every evaluation of a run."""
    folder = run / FOLDER
    if not folder.is_dir() or folder.is_symlink():
        return {}
    found = {int(p.stem): p for p in folder.iterdir() if re.fullmatch(r"[0-9]{9,12}\.json", p.name)}
    return dict(sorted(found.items()))
