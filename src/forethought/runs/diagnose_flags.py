"""The flags of `forethought diagnose`."""

from __future__ import annotations

import dataclasses

from forethought.runs.flags import OnRun


@dataclasses.dataclass(frozen=True)
class Diagnose(OnRun):
    """What `diagnose` takes."""

    held_out: float = 0.2
    """Share of the steps that the model is judged on, in whole episodes, the last ones; it is fitted to the others."""
    fresh: int | None = None
    """Judge the saved model instead, on so many new episodes from the task's fixed starts."""
    horizon: int = 20
    """Steps ahead, at most."""
