"""The tables of the actor-critics on the page of figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from text import interval, markdown, provenance

MARKS = (4000, 10_000, 20_000)
NAMES = {"dyna": "with a model", "plain": "without"}


def locomotion_lines(folder: Path) -> list[str]:
    """Return against environment steps, and the wall clock."""
    places = sorted(path for path in folder.glob("*") if path.is_dir())
    tasks = sorted({place.name.rpartition("-")[0] for place in places})
    lines: list[str] = []
    for task in tasks:
        rows, runs, made = [], [], []
        for variant, name in NAMES.items():
            found = [json.loads(path.read_text()) for path in sorted((folder / f"{task}-{variant}").glob("*.json"))]
            if not found:
                continue
            runs += found
            made = made or found
            at = [{row["steps"]: float(np.mean(row["returns"])) for row in run["rows"]} for run in found]
            cells = [interval([each[mark] for each in at if mark in each]) for mark in MARKS]
            last = ", ".join(f"{list(each.values())[-1]:.0f}" for each in at)
            seconds = float(np.median([run["rows"][-1]["seconds"] for run in found]))
            rows.append((name, *cells, last, f"{seconds:.0f}"))
        if not rows:
            continue
        asked = f"{min(run['seed'] for run in runs)}-{max(run['seed'] for run in runs)}"
        head = ("", *(f"return at {mark:,} steps" for mark in MARKS), "at the end, each seed", "seconds (median)")
        lines += [f"### {task}", "", *markdown(head, rows), ""]
        lines += [f"Command: `python bench/locomotion.py {task} --seeds {asked}`", "", *provenance(made)]
    about = (
        "Means over seeds, of each seed's mean over four fixed starts with the mean action, with 95% bootstrap "
        "intervals over seeds; the controller is the one held at that step, not the best so far. Without a model there "
        "are as many gradient steps, all on real transitions (the same settings with real_ratio = 1)."
    )
    return ["## Locomotion by an actor-critic", "", about, "", *lines] if lines else []
