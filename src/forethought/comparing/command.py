"""`forethought compare RUN...`"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from forethought.comparing.comparison import compare
from forethought.console import print_json, shown
from forethought.errors import UserError
from forethought.runs.command_line import Common, flags_of, parse_plain, quoted, split
from forethought.runs.files import storing, write_durably

ABOUT = (
    "Compare runs: grouped by configuration, over seeds. RUN... are run directories; what a run is worth is the "
    "evaluation of the controller that it ended with ('forethought evaluate RUN'), or, where a run has none, the mean "
    "of the last training returns of all."
)


@dataclasses.dataclass(frozen=True)
class Compare(Common):
    """What `compare` takes."""

    html: Path | None = None
    """Also write one page with drawings to this file."""
    threshold: float | None = None
    """The return that counts as solved; None: each task's own."""
    scale: str | None = None
    """TASK=LOW:HIGH,TASK=LOW:HIGH: the returns that are 0 and 1, so that tasks can be averaged."""


def command(argv: list[str]) -> int:
    """Compare runs, and print what was found."""
    known = {name for name, flag in flags_of(Compare()).items() if flag.switch} | {"-h", "--help"}
    places, rest = split(argv, known)
    asked = parse_plain(Compare(), rest, "forethought compare RUN...", ABOUT)
    if asked.threshold is not None and not math.isfinite(asked.threshold):
        raise UserError(f"--threshold is {asked.threshold}; it must be a finite number.")
    found = compare(places, asked.threshold, scales_of(asked.scale))
    if asked.html is not None:
        with storing(str(asked.html)):
            write_durably(asked.html, found.html().encode())
    if asked.json:
        print_json(found.as_dict())
    else:
        print(found.text())
        if asked.html is not None:
            print(f"\nPage: {shown(asked.html.absolute())}")
    return 0 if found.tables else 1


def scales_of(text: str | None) -> dict[str, tuple[float, float]]:
    """--scale's tasks and their two returns.  Raises `UserError`."""
    found: dict[str, tuple[float, float]] = {}
    for part in [] if text is None else text.split(","):
        task, _, ends = part.rpartition("=")
        try:
            low, high = map(float, ends.split(":"))
        except ValueError:
            low = high = math.nan
        if not task or task in found or not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"--scale is {quoted(text or '')}; it must be TASK=LOW:HIGH, once for each task.")
        found[task] = low, high
    return found
