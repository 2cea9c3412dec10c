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

POINTS = 1500
"""Points that a series has at most; of a longer one the least and the largest of each stretch are drawn."""
DIGITS = 4
"""Significant digits of a number on the page."""
QUIET, TEXT = "@quiet", "@text"


def number(value: Any) -> float:
    """A number of strict JSON as a float: null is NaN, and infinities are words there; NaN for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, math.nan) if isinstance(value, str) else math.nan


def rounded(value: Any) -> Any:
    """An array, or numbers, as nested lists with a few digits; what is not finite is None."""
    if isinstance(value, np.ndarray):
        return _rounded_array(np.asarray(value, float))
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _rounded_array(value: np.ndarray) -> list[Any]:
    """The same in one go: a page may have a hundred thousand numbers."""
    finite = np.isfinite(value)
    size = np.abs(np.where(finite & (value != 0.0), value, 1.0))
    places = np.clip(DIGITS - 1 - np.floor(np.log10(size)), -300, 300)
    # Each a division or a product of whole numbers, whose result is the float that is nearest to few digits.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    near = np.round(np.where(finite, value, 0.0) * up / down) / up * down
    found = near.astype(object)
    found[~finite] = None
    return found.tolist()


def shown(value: Any, digits: int = 3) -> str:
    """A number in a sentence."""
    found = number(value)
    if not math.isfinite(found):
        return "not a number" if math.isnan(found) else "infinite"
    if abs(found) >= 1000.0 and abs(found) < 1e7:
        return f"{found:,.0f}".replace(",", " ")
    return f"{found:.{digits}g}"


def plural(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def plain(text: str, most: int = 40) -> str:
    """A name that plotly.js must not read as markup."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def thinned(x: Numbers, y: Numbers, most: int = POINTS) -> tuple[list[float | int], list[float | int]]:
    """At most `most` points of a series, its extremes among them."""
    if len(x) <= most:
        return list(x), list(y)
    keep: list[int] = []
    values = np.asarray(y, float)
    for part in np.array_split(np.arange(len(values)), max(most // 2, 1)):
        real = part[~np.isnan(values[part])]
        ends = (
            {int(part[0])}
            if len(real) == 0
            else {int(f) for f in (real[values[real].argmin()], real[values[real].argmax()])}
        )
        keep += sorted(ends)
    return [x[i] for i in keep], [y[i] for i in keep]


def series(name: str, x: Numbers, y: Numbers, color: str, **more: Any) -> Trace:
    """A line through points.  `mode`, `dash`, `size`, `width` and `most` (points) may be given."""
    mode, dash, size = more.get("mode", "lines"), more.get("dash", "solid"), more.get("size", 5)
    x, y = thinned(x, y, more.get("most", POINTS))
    heights = rounded(np.asarray(y, float))
    trace: Trace = {"type": "scatter", "name": name, "mode": mode, "x": rounded_steps(x), "y": heights}
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
    span = math.log10(max(values) / min(values)) if values else 0.0
    return {"dtick": math.ceil(span / 6.0)} if span >= 1.5 else {"dtick": "D2", "tickformat": "~g"}


def chosen(ident: str, what: str, choices: Sequence[tuple[str, Figure]], label: str = "") -> Figure:
    """One of several figures, by a list to choose from."""
    found: Figure = {"id": ident, "choose": what, "choices": [{"name": n, **f} for n, f in choices]}
    return found | ({"label": label} if label else {})


def panel(ident: str, title: str, caption: str, figures: Sequence[Figure] = (), missing: Sequence[str] = ()) -> Panel:
    """A section of the page; `missing` says what is not there, and why."""
    return {"id": ident, "title": title, "caption": caption, "figures": list(figures), "missing": list(missing)}
