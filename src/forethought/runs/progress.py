"""What a run counts beside its state: kept in the notes of each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forethought.types import UserError


@dataclass(eq=False)
class Progress:
    """The run's own counters."""

    returns: list[float] = field(default_factory=list)
    """Returns of the finished training episodes."""
    turns: int = 0
    """Lines of metrics."""
    seconds: float = 0.0
    """Wall clock of the earlier parts of a resumed run."""
    faults: int = 0
    """What the guard has found so far."""
    failures: int = 0
    """Plans that failed in the open episode."""
    ties: int = 0
    """Plans of the open episode that had nothing to choose between."""
    blind: bool = False
    """Whether it was said already that plans see no difference."""

    def notes(self, seconds: float) -> dict[str, Any]:
        """As JSON, at this wall clock."""
        kept = {name: getattr(self, name) for name in KEPT}
        return kept | {"returns": list(self.returns), "seconds": round(seconds, 3)}


KEPT = ("returns", "turns", "faults", "seconds")


def from_notes(notes: dict[str, Any], where: str) -> Progress:
    """The counters of a checkpoint.  Raises `UserError` if they are none."""
    kinds = {"returns": list, "turns": int, "faults": int, "seconds": (int, float)}
    right = all(isinstance(notes.get(name), kind) for name, kind in kinds.items())
    if not right or not all(isinstance(r, (int, float)) and not isinstance(r, bool) for r in notes["returns"]):
        raise UserError(f"The notes of {where} are not as this version writes them.")
    kept = {name: notes[name] for name in KEPT}
    return Progress(**kept | {"returns": [float(r) for r in kept["returns"]], "seconds": float(kept["seconds"])})
