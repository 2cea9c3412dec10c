"""What panels are made of: plain data that page.js draws with plotly.js.  Nothing is drawn, or imported for it, here.

A colour is a word that the page looks up in its theme: "@1" to "@6" (series), "@quiet" (what is only to compare with),
"@text"; "@1/25" has an opacity of 25%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Figure = dict[str, Any]
Trace = dict[str, Any]
Panel = dict[str, Any]
Numbers = Sequence[float | int]

LONGEST = 100
"""Characters of the name of a series."""
POINTS = 1500
"""Points that a series has at most; of a longer one the least and the largest of each stretch are drawn."""
DIGITS = 4
"""Significant digits of a number on the page; of one that stands beside others as many as tell it from them."""
MOST_DIGITS = 15
"""More a float does not have."""
PARTS = 2000
"""Parts of the range of a series, or of an axis, that can be told from each other at least."""
QUIET, TEXT = "@quiet", "@text"


def number(value: Any) -> float:
    """A number of strict JSON as a float: null is NaN, and infinities are words there; NaN for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, math.nan) if isinstance(value, str) else math.nan


def rounded(value: Any, spread: Any = 0.0) -> Any:
    """An array, or numbers, as nested lists with a few digits; what is not finite is None.

    `spread` (of arrays: a number, or an array that broadcasts against it) is the range of the numbers that these are
    seen beside: they are as fine as a power of ten of at most 1 / `PARTS` of it, however far from zero they lie.
    """
    if isinstance(value, np.ndarray):
        return _rounded_array(np.asarray(value, float), np.asarray(spread, float))
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        near = float(f"{value:.{DIGITS}g}")
        return near if math.isfinite(near) else value if math.isfinite(value) else None
    return value


def _rounded_array(value: np.ndarray, spread: np.ndarray) -> list[Any]:
    """The same in one go: a page may have a hundred thousand numbers."""
    finite = np.isfinite(value)
    size = np.floor(np.log10(np.abs(np.where(finite & (value != 0.0), value, 1.0))))
    wide = np.isfinite(spread) & (spread > 0.0)
    fine = np.where(wide, np.ceil(math.log10(PARTS) - np.log10(np.where(wide, spread, 1.0))), -np.inf)
    places = np.clip(np.minimum(np.maximum(DIGITS - 1 - size, fine), MOST_DIGITS - 1 - size), -300, 300)
    # Each a division or a product of whole numbers, whose result is the float that is nearest to few digits.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    with np.errstate(over="ignore"):
        near = np.round(np.where(finite, value, 0.0) * up / down) / up * down
    found = np.where(np.isfinite(near), near, value).astype(object)
    found[~finite] = None
    return found.tolist()


def spread_of(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The range of what is finite, along an axis or of all; of equal numbers a part of their size, so that they keep
    digits enough to be told from others."""
    finite = np.isfinite(values)
    low, high = (f(np.where(finite, values, e), axis=axis, initial=e) for f, e in ((np.min, np.inf), (np.max, -np.inf)))
    with np.errstate(all="ignore"):
        return np.where(high > low, high - low, 1e-5 * np.abs(high))


def shown(value: Any, digits: int = 3) -> str:
    """A number in a sentence."""
    found = number(value)
    if not math.isfinite(found):
        return "not a number" if math.isnan(found) else "infinite"
    if 1000.0 <= abs(found) < 1e7 and digits <= len(str(int(abs(found)))):
        return f"{found:,.0f}".replace(",", " ")
    return f"{found:.{digits}g}"


def digits_for(*values: float) -> int:
    """Digits that tell these numbers from each other, for `shown`: 3 at least."""
    finite = [v for v in values if math.isfinite(v)]
    size, spread = max(map(abs, finite), default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    if not 0.0 < spread < math.inf:
        return 3
    return min(max(math.floor(math.log10(size)) - math.floor(math.log10(spread)) + 2, 3), MOST_DIGITS)


def plural(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def short(text: str, most: int = 40) -> str:
    """A name that may be long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(text: str, most: int = 40) -> str:
    """A name that plotly.js must not read as markup: the title of an axis; `series` does it to its own name."""
    return short(text, most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def thinned(x: Numbers, y: Numbers, most: int = POINTS) -> tuple[list[float | int], list[float | int]]:
    """At most `most` points of a series, its extremes and a gap of each stretch that has one among them."""
    if len(x) <= most:
        return list(x), list(y)
    keep: list[int] = []
    values = np.asarray(y, float)
    gaps = np.isnan(values)
    for part in np.array_split(np.arange(len(values)), max(most // (3 if gaps.any() else 2), 1)):
        real, gap = part[~gaps[part]], part[gaps[part]]
        ends = {int(f) for f in (real[values[real].argmin()], real[values[real].argmax()])} if len(real) else set()
        keep += sorted(ends | {int(g) for g in gap[:1]})
    return [x[i] for i in keep], [y[i] for i in keep]


def series(name: str, x: Numbers, y: Numbers, color: str, **more: Any) -> Trace:
    """A line through points; its name may be anybody's text.  `mode`, `dash`, `size`, `width` and `most` (points) may
    be given."""
    mode, dash, size = more.get("mode", "lines"), more.get("dash", "solid"), more.get("size", 5)
    x, y = thinned(x, y, more.get("most", POINTS))
    values = np.asarray(y, float)
    heights = rounded(values, spread_of(values))
    trace: Trace = {"type": "scatter", "name": plain(name, LONGEST), "mode": mode, "x": rounded_steps(x), "y": heights}
    trace["line"] = {"color": color, "dash": dash, "width": more.get("width", 2)}
    if "markers" in mode:
        trace["marker"] = {"color": color, "size": size}
    if more.get("hidden"):
        trace["showlegend"] = False
    return trace


def rounded_steps(x: Numbers) -> list[float | int]:
    """Whole numbers stay whole: two steps must not become one."""
    return [int(v) if float(v).is_integer() else rounded(float(v)) for v in x]


def with_interval(trace: Trace, low: Numbers, high: Numbers) -> Trace:
    """The same points with the ends of their intervals."""
    y = [number(v) for v in trace["y"]]
    up = rounded([end - v for end, v in zip(high, y, strict=True)])
    down = rounded([v - end for end, v in zip(low, y, strict=True)])
    color = trace["line"]["color"]
    trace["error_y"] = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": color, "width": 3}
    return trace


def level(name: str, value: float | int, x: Numbers, color: str = TEXT, dash: str = "dash") -> Trace:
    """A horizontal line over the range of x."""
    ends = [min(x, default=0), max(x, default=1)]
    return series(name, ends, [value, value], color, dash=dash, width=1.5)


def figure(ident: str, traces: Sequence[Trace], x: str, y: str, **more: Any) -> Figure:
    """Traces with titles for their axes.  `label` stands above it, `log` is for the y axis, `layout` plotly's own."""
    layout: dict[str, Any] = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    if more.get("log"):
        layout["yaxis"] |= {"type": "log"} | _decades(traces)
    for axis, extra in more.get("layout", {}).items():
        layout[axis] = {**layout.get(axis, {}), **extra} if isinstance(extra, dict) else extra
    found: Figure = {"id": ident, "traces": list(traces), "layout": layout, "height": more.get("height", 280)}
    if more.get("label"):
        found["label"] = more["label"]
    return found


def _decades(traces: Sequence[Trace]) -> dict[str, Any]:
    """Ticks of a logarithmic axis: powers of ten, or 1, 2, 5 where there are too few of those."""
    values = [v for t in traces for v in t["y"] if isinstance(v, (int, float)) and v > 0.0]
    span = math.log10(max(values)) - math.log10(min(values)) if values else 0.0
    return {"dtick": math.ceil(span / 6.0)} if span >= 1.5 else {"dtick": "D2", "tickformat": "~g"}


def chosen(ident: str, what: str, choices: Sequence[tuple[str, Figure]], label: str = "") -> Figure:
    """One of several figures, by a list to choose from."""
    found: Figure = {"id": ident, "choose": what, "choices": [{"name": n, **f} for n, f in choices]}
    return found | ({"label": label} if label else {})


def panel(ident: str, title: str, caption: str, figures: Sequence[Figure] = (), missing: Sequence[str] = ()) -> Panel:
    """A section of the page; `missing` says what is not there, and why."""
    return {"id": ident, "title": title, "caption": caption, "figures": list(figures), "missing": list(missing)}
