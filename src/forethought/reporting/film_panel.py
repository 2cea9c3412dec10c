"""The best, the median and the worst evaluation episode as moving pictures, or why there are none."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from forethought.reporting.charts import Numbers, Panel, panel, shown
from forethought.reporting.records import Records, to_type


class Picture(NamedTuple):
    """One episode, as animated WebP."""

    label: str
    data: bytes
    width: int
    height: int


class Film(NamedTuple):
    """What was filmed, and what was not."""

    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()


def film_panel(run: Records, film: Film | None) -> Panel:
    """The panel; None: nobody asked for it."""
    caption = (
        "The newest controller, tried again from the starts of the newest evaluation at which it was best, in the "
        "middle, and worst."
    )
    if film is None:
        return panel("film", "Video", "", missing=[f"No video was asked for: {to_type(run, 'report')} --video"])
    found = panel("film", "Video", caption if film.pictures else "", missing=film.missing)
    if film.pictures:
        found["videos"] = [_video(p) for p in film.pictures]
    return found


def _video(picture: Picture) -> dict[str, Any]:
    data = "data:image/webp;base64," + base64.b64encode(picture.data).decode()
    return {"label": picture.label, "data": data, "width": picture.width, "height": picture.height}


def starts_to_film(returns: Numbers, starts: Sequence[int]) -> list[tuple[str, int]]:
    """(which, index) of the best, the median and the worst evaluation episode, each episode once."""
    order = sorted(range(len(starts)), key=lambda i: -returns[i])
    wanted = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    found: dict[int, list[str]] = {}
    for which, index in wanted.items():
        found.setdefault(index, []).append(which)
    return [(" and ".join(which), index) for index, which in found.items()]


def label(which: str, start: int, score: float, before: float) -> str:
    """What is written under a picture."""
    again = f"; the evaluation had {shown(before)}" if abs(score - before) > 1e-6 * max(1.0, abs(before)) else ""
    return f"{which}: start {start}, return {shown(score)}{again}"
