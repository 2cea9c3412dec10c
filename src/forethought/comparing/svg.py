"""Two drawings as SVG inside a page: seeds as points, and curves with bands.  Colours are those of the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from forethought.comparing.results import Group

COLOURS = 8
"""Colours of the page: c0 ... c7; beyond them lines are dashed."""
WIDTH, LEFT, RIGHT, BOTTOM, TOP = 760, 70, 16, 44, 12


class Axis(NamedTuple):
    """From values to places on a line."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float | int) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values from low to high: multiples of 1, 2 or 5 times a power of ten, `most` at most."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def around(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that has all values inside, and is never of no length."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(1.0, 0.05 * abs(low))
    return low - margin, high + margin


def strips(groups: Sequence[Group], labels: Sequence[str], goal: float | None) -> str:
    """One row per configuration: a point for each seed, the IQM as a stroke, the interval as a bar."""
    row, left = 34, 12 + 7 * min(max(map(len, labels)), 34)
    height = TOP + row * len(groups) + BOTTOM
    ends = [end for group in groups if group.interval for end in group.interval[:2]]
    everything = [*(score for group in groups for score in group.scores), *ends, *([] if goal is None else [goal])]
    x = Axis(*around(everything), left, WIDTH - RIGHT)
    parts = list(_across(x, TOP, height - BOTTOM, "return"))
    if goal is not None:
        parts.append(_goal(goal, f'x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="{TOP}" y2="{height - BOTTOM}"'))
    for i, (group, label) in enumerate(zip(groups, labels, strict=True)):
        y = TOP + row * (i + 0.5)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" class="end">{escape(_short(label))}</text>')
        parts += _strip(group, x, y, f"c{i % COLOURS}")
    return _drawing(height, "Return of each seed, its interquartile mean and interval", parts)


def _strip(group: Group, x: Axis, y: float, colour: str) -> Iterator[str]:
    """One configuration of `strips`."""
    if group.interval is not None:
        low, high = x(group.interval.low), x(group.interval.high)
        yield f'<rect x="{low:.1f}" y="{y - 5:.1f}" width="{high - low:.1f}" height="10" class="band {colour}"/>'
    for k, entry in enumerate(group.entries):
        said = f"seed {entry.record.seed}: {entry.score:g}"
        place = f'cx="{x(entry.score):.1f}" cy="{y + (k % 3 - 1) * 5:.1f}"'
        yield f'<circle {place} r="3.5" class="dot {colour}"><title>{said}</title></circle>'
    middle = x(group.iqm)
    yield f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 12:.1f}" y2="{y + 12:.1f}" class="iqm {colour}"/>'


def curves(groups: Sequence[Group], goal: float | None) -> str:
    """Return by environment steps: thin lines for the runs, a strong one for their IQM, a band for its interval."""
    height = 340
    points = [point for group in groups for entry in group.entries for point in entry.curve]
    ends = [end for group in groups for place in group.band if place.interval for end in place.interval[:2]]
    values = [*(point.value for point in points), *ends, *([] if goal is None else [goal])]
    steps = [float(point.steps) for point in points]
    x = Axis(*around(steps), LEFT, WIDTH - RIGHT)
    y = Axis(*around(values), height - BOTTOM, TOP)
    parts = [*_across(x, TOP, height - BOTTOM, "environment steps"), *_upward(y)]
    if goal is not None:
        parts.append(_goal(goal, f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(goal):.1f}" y2="{y(goal):.1f}"'))
    for i, group in enumerate(groups):
        parts += _curve(group, x, y, f"c{i % COLOURS}{' dashed' if i >= COLOURS else ''}")
    return _drawing(height, "Return by environment steps", parts)


def _curve(group: Group, x: Axis, y: Axis, colour: str) -> Iterator[str]:
    """One configuration of `curves`."""
    banded = [(x(p.steps), y(p.interval.low), y(p.interval.high)) for p in group.band if p.interval is not None]
    if len(banded) > 1:
        there, back = [(a, low) for a, low, _ in banded], [(a, high) for a, _, high in reversed(banded)]
        yield f'<polygon points="{_points([*there, *back])}" class="band {colour}"/>'
    for entry in group.entries:
        run = [(x(p.steps), y(p.value)) for p in entry.curve]
        if len(run) > 1:
            yield f'<polyline points="{_points(run)}" class="run {colour}"/>'
        for (a, b), point in zip(run, entry.curve, strict=True):
            if len(run) <= 12:
                said = f"seed {entry.record.seed}, {point.steps} steps: {point.value:g}"
                yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" class="dot {colour}"><title>{said}</title></circle>'
    middle = [(x(p.steps), y(p.iqm)) for p in group.band]
    if len(middle) > 1:
        yield f'<polyline points="{_points(middle)}" class="mean {colour}"/>'


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in places)


def _across(x: Axis, top: int, bottom: int, label: str) -> Iterator[str]:
    """The horizontal axis, its ticks, and what it shows."""
    yield f'<line x1="{x.start}" x2="{x.end}" y1="{bottom}" y2="{bottom}" class="axis"/>'
    for value in ticks(x.low, x.high):
        yield f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{bottom}" class="grid"/>'
        yield f'<text x="{x(value):.1f}" y="{bottom + 16}" class="middle">{_tick(value)}</text>'
    yield f'<text x="{0.5 * (x.start + x.end):.1f}" y="{bottom + 36}" class="middle">{label}</text>'


def _upward(y: Axis) -> Iterator[str]:
    """The vertical axis of returns."""
    yield f'<line x1="{LEFT}" x2="{LEFT}" y1="{y.end}" y2="{y.start}" class="axis"/>'
    for value in ticks(y.low, y.high):
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" class="end">{_tick(value)}</text>'
    middle = 0.5 * (y.start + y.end)
    yield f'<text x="14" y="{middle:.1f}" class="middle" transform="rotate(-90 14 {middle:.1f})">return</text>'


def _goal(goal: float, place: str) -> str:
    return f'<line {place} class="goal"><title>threshold {goal:g}</title></line>'


def _drawing(height: int, about: str, parts: Sequence[str]) -> str:
    """An SVG that is as wide as its place."""
    inside = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(about)}">\n{inside}\n</svg>'


def _tick(value: float) -> str:
    return f"{value:g}" if value else "0"


def _short(label: str) -> str:
    return label if len(label) <= 34 else label[:33] + "…"
