"""Finished runs written by hand: what a comparison reads, and nothing of what training would take."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPE: dict[str, Any] = {
    "task": "Pendulum-v1",
    "algorithm": {
        "kind": "V15",
        "planner": {"kind": "ICEM", "samples": 64, "kept": 3},
        "learner": {"kind": "EnsembleLearner", "width": 8},
        "horizon": 20,
    },
    "steps": 400,
    "seed": 0,
    "out": None,
    "env": {"kind": "dict", "items": {}},
    "limit": None,
    "action_repeat": 1,
    "resets": [],
    "evaluate_every": 0,
    "until": {"kind": "Until", "solved": False, "plateau": False},
    "on_save_error": "stop",
}

MakeRun = Callable[..., Path]


def recipe(**settings: Any) -> dict[str, Any]:
    """The recipe with some settings, by their path: planner__samples=256."""
    made = copy.deepcopy(RECIPE)
    for name, value in settings.items():
        *path, last = name.split("__")
        place = made
        for part in path:
            place = place[part]
        place[last] = value
    return made


@pytest.fixture
def make_run(tmp_path) -> MakeRun:
    """Write a run: `evaluations` are {steps: returns}, `training` the returns of episodes of 50 steps."""
    # forethought is imported late: see tests/conftest.py.
    from forethought.runs.directory import RunDirectory
    from forethought.runs.evaluations import write_evaluation
    from forethought.runs.files import replace_durably, seal

    def make(
        name: str,
        evaluations: dict[int, list[float]] | None = None,
        training: list[float] | None = None,
        *,
        threshold: float | None = -200.0,
        finished: bool = True,
        which: str = "newest",
        env_steps: int | None = None,
        **settings: Any,
    ) -> Path:
        said, training = recipe(**settings), training if training is not None else [-300.0] * 8
        steps = said["steps"] if env_steps is None else env_steps
        path = tmp_path / name
        path.mkdir()
        run = RunDirectory(path)
        run.write_config(f"id-{name}", said)
        lines = b"".join(
            json.dumps({"turn": i + 1, "env_steps": 50 * (i + 1), "episodes": i + 1}).encode() + b"\n"
            for i in range(len(training))
        )
        run.metrics.write_bytes(lines)
        checks = b"".join(b"%08x\n" % zlib.crc32(line + b"\n") for line in lines.split(b"\n")[:-1])
        run.metrics.with_name("metrics.crc").write_bytes(checks)
        from hashlib import sha256

        notes = {"returns": training, "turns": len(training), "seconds": 10.0 + said["seed"], "env_steps": steps}
        notes |= {"metrics": {"bytes": len(lines), "sha256": sha256(lines).hexdigest()}, "finished": finished}
        folder = run.checkpoints / "000003"
        folder.mkdir(parents=True)
        replace_durably(folder / "manifest.json", seal({"run": f"id-{name}", "notes": notes}))
        for at, returns in (evaluations or {}).items():
            facts = {"env_steps": at, "which": which, "returns": returns, "starts": list(range(len(returns)))}
            about = {"run": f"id-{name}", "seconds": 1.0, "task": said["task"], "threshold": threshold}
            write_evaluation(path, about | facts | {"successes": None})
        return path

    return make
