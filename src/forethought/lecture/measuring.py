"""One claim measured in this process, seed by seed, and the file that is kept of it."""

from __future__ import annotations

import importlib
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forethought.lecture.claim import Claim
from forethought.runs.directory import strict
from forethought.runs.files import Damaged, read_sealed, replace_durably, seal
from forethought.runs.machine import machine, versions

FORMAT = 1
FOLDER = "claims"


def claims_in(module: str) -> dict[str, Claim]:
    """The claims of a module, by name and in its order."""
    return {claim.name: claim for claim in importlib.import_module(module).CLAIMS}


def path_of(out: Path, name: str, full: bool) -> Path:
    """Where the measurement of a claim is kept: a short one never takes the place of a full one."""
    return out / FOLDER / f"{name}{'.full' * full}.json"


def measure(claim: Claim, full: bool) -> dict[str, Any]:
    """Every seed of a claim.  What goes wrong in a seed is told, and the others are still measured."""
    began, cpu, outcomes = time.monotonic(), time.process_time(), []
    for seed in claim.seeds_of(full):
        outcomes.append(_one(claim, seed, full))
    return {
        "format": FORMAT,
        **asked(claim, full),
        "outcomes": outcomes,
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def asked(claim: Claim, full: bool) -> dict[str, Any]:
    """What a measurement is of: it counts for nothing else."""
    words = {name: getattr(claim, name) for name in ("name", "sentence", "prediction", "how", "unit", "margin")}
    return words | {"full": full, "seeds": list(claim.seeds_of(full))}


def _one(claim: Claim, seed: int, full: bool) -> dict[str, Any]:
    """One seed: its effect, or why it has none."""
    began = time.monotonic()
    effect, details, error = None, {}, None
    try:
        outcome = claim.measure(seed, full)
        effect, details = float(outcome.effect), outcome.details
        if not math.isfinite(effect):
            effect, error = None, f"the effect is {effect}"
    except Exception as failure:
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    seconds = round(time.monotonic() - began, 3)
    return {"seed": seed, "effect": effect, "details": strict(details), "error": error, "seconds": seconds}


def keep(out: Path, found: dict[str, Any]) -> None:
    """Write a measurement down.  Raises `OSError`."""
    path = path_of(out, found["name"], found["full"])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, seal(found))


def kept(out: Path, claim: Claim, full: bool) -> tuple[dict[str, Any] | None, str | None]:
    """(the measurement that is there, if it can be used; why not, if one is there that cannot)."""
    path = path_of(out, claim.name, full)
    if not path.exists() and not path.is_symlink():
        return None, None
    try:
        found = read_sealed(path)
    except Damaged as damage:
        return None, str(damage)
    if found.get("format") != FORMAT or not isinstance(found.get("versions"), dict):
        return None, f"{path.name} is not as this version writes it."
    theirs, ours = found["versions"].get("forethought"), versions()["forethought"]
    if theirs != ours:
        return None, f"{path.name} was measured by forethought {theirs}, and this is {ours}."
    differ = [name for name, value in asked(claim, full).items() if found.get(name) != value]
    if differ:
        return None, f"{path.name} is a measurement of something else ({', '.join(differ)})."
    return found, None
