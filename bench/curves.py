"""The curves of the pages on algorithms: docs/curves/*.svg, drawn from the results.

    python bench/curves.py            # draw them
    python bench/curves.py --check    # status 1 if they are not what the results give

Each has the mean over the reported seeds with its 95% interval (Student's t; none for one seed), and every seed as a
thin line.  What lies beyond the axes is cut off.  A study of which nothing is there has no curve.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from learning import STUDIES
from runner import HERE, RESULTS
from tables import seeds_of
from trust_region import VARIANTS

from forethought.math.stats import mean_interval
from forethought.tasks import task

FOLDER = HERE.parent / "docs" / "curves"
WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 48
BOLD = 'font-weight="bold"'
GREY, COLOURS = "#808080", ("#2f86d6", "#d9772b")
"""Read on white as well as on black: none is lighter or darker than the middle."""


class Line(NamedTuple):
    """What is compared: each seed's (x, y), all at the same x."""

    name: str
    seeds: Sequence[Sequence[tuple[float, float]]]


class Chart(NamedTuple):
    """What one file shows."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    goal: tuple[float, str] | None = None
    """Where a task counts as solved, and how that is said."""
    span: tuple[float, float] | None = None
    """Of the y axis; None: that of the seeds and the goal."""


def marks_of(run: dict[str, Any], value: Callable[[dict[str, Any]], float]) -> list[tuple[float, float]]:
    """(steps, value) of each mark of one seed."""
    return [(mark["steps"], value(mark)) for mark in run["marks"]]


def by_return(name: str, title: str, span: tuple[float, float] | None = None) -> Callable[[Path], Chart | None]:
    """A study of `learning.py`, judged by its return."""

    def chart(results: Path) -> Chart | None:
        runs = seeds_of(name, STUDIES[name], results)
        line = Line("", [marks_of(run, lambda mark: mark["mean_return"]) for run in runs])
        threshold = task(STUDIES[name].task).threshold
        goal = None if threshold is None else (threshold, f"solved: {threshold:g}")
        return Chart(title, "steps in the environment", "return", [line], goal, span) if runs else None

    return chart


def by_success(name: str, title: str) -> Callable[[Path], Chart | None]:
    """A study of `learning.py`, judged by the share of starts that succeed."""

    def chart(results: Path) -> Chart | None:
        runs = seeds_of(name, STUDIES[name], results)
        line = Line("", [marks_of(run, lambda mark: 100.0 * mark["success_rate"]) for run in runs])
        goal = 100.0, "solved: every start"
        return Chart(title, "steps in the environment", "successful starts, %", [line], goal, (0.0, 100.0))

    return lambda results: chart(results) if (results / name).is_dir() else None


def rows_of(place: Path, x: str, value: Callable[[dict[str, Any]], float]) -> list[list[tuple[float, float]]]:
    """(x, value) of each row of each seed of a study that has files of its own."""
    runs = [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]
    return [[(row[x], value(row)) for row in run["rows"]] for run in runs]


def local(results: Path) -> Chart | None:
    """The local method on the task of contact."""
    mean = lambda row: 100.0 * sum(row["distance"]) / len(row["distance"])
    found = Line("", rows_of(results / "local" / "PegInsertion-v0-local", "rollouts", mean))
    goal, title = (1.0, "solved: 1 cm"), "Peg insertion: the local method"
    return Chart(title, "rollouts", "distance at the end, cm", [found], goal, (0.0, 20.0)) if found.seeds else None


def dyna(results: Path) -> Chart | None:
    """The actor-critic with a model, and without, at equal gradient steps."""
    mean = lambda row: sum(row["returns"]) / len(row["returns"])
    names = {"dyna": "with a model", "plain": "without"}
    found = [
        Line(say, rows_of(results / "locomotion" / f"HalfCheetah-v5-{v}", "steps", mean)) for v, say in names.items()
    ]
    title = "HalfCheetah-v5: soft actor-critic"
    return Chart(title, "steps in the environment", "return", found) if found[0].seeds else None


def trpo(results: Path) -> Chart | None:
    """Trust-region updates on imagined rollouts, and on the real ones."""
    found = [Line(say, rows_of(results / "trust-region" / say, "steps", lambda r: r["return"])) for say in VARIANTS]
    title, goal = "Pendulum-v1: trust-region updates", (task("Pendulum-v1").threshold or 0.0, "solved: -200")
    return Chart(title, "steps in the environment", "return", found, goal, (-1600.0, 0.0)) if found[0].seeds else None


MODELS = {
    "gp": "Gaussian process",
    "ensemble": "ensemble",
    "network": "network",
    "mdn": "mixture density network",
    "gmm": "Gaussian mixture",
    "physics": "equations, constants fitted",
}
CHARTS: dict[str, Callable[[Path], Chart | None]] = {
    "v0.5": by_return("ladder-v0.5", "Pendulum-v1: v0.5", (-1400.0, 0.0)),
    "v1.0": by_return("ladder-v1.0", "Pendulum-v1: v1.0", (-1400.0, 0.0)),
    "v1.5": by_return("pendulum", "Pendulum-v1: v1.5 on the ensemble", (-1400.0, 0.0)),
    "v1.5-swingup": by_success("swingup-auto", "Cart-pole swing-up: v1.5, today's default"),
    "v2.0": by_success("swingup-v2.0", "Cart-pole swing-up: v2.0"),
    "local": local,
    "dyna": dyna,
    "trpo": trpo,
    "mcts": by_return("mcts-mountain-car", "MountainCar-v0: v1.5 with tree search", (-200.0, -80.0)),
    **{
        f"{k}-pendulum": by_return(f"compare-pendulum-{k}", f"Pendulum-v1: {v}", (-1400.0, 0.0))
        for k, v in MODELS.items()
    },
    **{f"{k}-swingup": by_success(f"compare-swingup-{k}", f"Cart-pole swing-up: {v}") for k, v in MODELS.items()},
}


class Frame(NamedTuple):
    """Where the axes are."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the data on the page."""
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two others."""
    rough = (high - low) / count
    power = 10.0 ** next(p for p in range(-12, 13) if 10.0**p * 10.0 > rough)
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = -int(-low // step) if low % step else int(low // step)
    return [k * step for k in range(first, int(high // step + 1e-9) + 1)]


def frame_of(chart: Chart) -> Frame:
    """Axes that hold every seed, and the goal."""
    points = [point for line in chart.lines for seed in line.seeds for point in seed]
    ys = [y for _, y in points] + ([chart.goal[0]] if chart.goal else [])
    room = 0.05 * (max(ys) - min(ys))
    return Frame((0.0, max(x for x, _ in points) * 1.03), chart.span or (min(ys) - room, max(ys) + room))


def path(frame: Frame, points: Sequence[tuple[float, float]]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*point) for point in points))


def text(x: float, y: float, words: str, more: str = "") -> str:
    """A few words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:,.0f}" if abs(value) >= 1 or value == 0 else f"{value:g}"


def axes(chart: Chart, frame: Frame) -> list[str]:
    """Lines, ticks, labels and the goal."""
    left, right, low, high = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    drawn = [f'<path d="M{left},{high} V{low} H{right}" fill="none" stroke="{GREY}"/>']
    for value in ticks(*frame.x):
        x, _ = frame.at(value, frame.y[0])
        drawn += [
            f'<path d="M{x:.1f},{low} v4" stroke="{GREY}"/>',
            text(x, low + 17, number(value), 'text-anchor="middle"'),
        ]
    for value in ticks(*frame.y):
        _, y = frame.at(0.0, value)
        drawn += [
            f'<path d="M{left},{y:.1f} h-4" stroke="{GREY}"/>',
            text(left - 8, y + 4, number(value), 'text-anchor="end"'),
        ]
    middle = 0.5 * (low + high)
    drawn += [
        text(0.5 * (left + right), HEIGHT - 10, chart.x, 'text-anchor="middle"'),
        text(14, middle, chart.y, f'text-anchor="middle" transform="rotate(-90 14 {middle:.1f})"'),
    ]
    if chart.goal:
        _, y = frame.at(0.0, chart.goal[0])
        drawn += [
            f'<path d="M{left},{y:.1f} H{right}" stroke="{GREY}" stroke-dasharray="5 4"/>',
            text(left + 8, y + (14 if y < high + 16 else -5), chart.goal[1]),
        ]
    return drawn


def curve(line: Line, frame: Frame, colour: str) -> list[str]:
    """The seeds, the interval and the mean of one line."""
    xs = sorted({x for seed in line.seeds for x, _ in seed})
    at = {x: [y for seed in line.seeds for place, y in seed if place == x] for x in xs}
    found = {x: mean_interval(values) for x, values in at.items()}
    banded = [(x, interval) for x, (_, interval) in found.items() if interval is not None]
    drawn = []
    if banded:
        edge = [(x, high) for x, (_, high) in banded] + [(x, low) for x, (low, _) in reversed(banded)]
        drawn.append(f'<polygon points="{path(frame, edge)}" fill="{colour}" fill-opacity="0.18"/>')
    for seed in line.seeds:
        drawn.append(
            f'<polyline points="{path(frame, seed)}" fill="none" stroke="{colour}" stroke-opacity="0.45" '
            'stroke-width="0.9"/>'
        )
    means = [(x, mean) for x, (mean, _) in found.items()]
    drawn.append(f'<polyline points="{path(frame, means)}" fill="none" stroke="{colour}" stroke-width="2.4"/>')
    if len(means) <= 12:
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (frame.at(*p) for p in means)
        ]
    return drawn


def seeds(line: Line) -> str:
    """How many there are."""
    return f"{len(line.seeds)} seeds" if len(line.seeds) != 1 else "1 seed"


def svg(chart: Chart) -> str:
    """The file."""
    frame = frame_of(chart)
    about = f"{chart.y} against {chart.x}; thick: mean over seeds, band: its 95% interval, thin: each seed."
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="12" fill="{GREY}">',
        f"<title>{escape(chart.title)}</title>",
        f"<desc>{escape(about)}</desc>",
        f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        text(LEFT, 20, chart.title if chart.lines[0].name else f"{chart.title}, {seeds(chart.lines[0])}", BOLD),
        *axes(chart, frame),
        '<g clip-path="url(#inside)">',
    ]
    for line, colour in zip(chart.lines, COLOURS, strict=False):
        drawn += curve(line, frame, colour)
    drawn.append("</g>")
    for k, line in enumerate(chart.lines):
        if line.name:
            drawn.append(text(LEFT + 12, TOP + 16 + 16 * k, f"{line.name}, {seeds(line)}", f'fill="{COLOURS[k]}"'))
    return "\n".join([*drawn, "</svg>"]) + "\n"


def drawings(results: Path) -> dict[str, str]:
    """File name to content, of what was measured."""
    charts = {name: chart(results) for name, chart in CHARTS.items()}
    return {f"{name}.svg": svg(chart) for name, chart in charts.items() if chart is not None}


def differences(folder: Path, wanted: dict[str, str]) -> list[str]:
    """What is missing in a folder, what differs, and what should not be there."""
    there = {path.name: path.read_text() for path in folder.glob("*.svg")}
    told = [f"{name} is missing" for name in wanted if name not in there]
    told += [f"{name} is not what the results give" for name in wanted if name in there and there[name] != wanted[name]]
    return told + [f"{name} has no study any more" for name in there if name not in wanted]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    wanted = drawings(arguments.results)
    if arguments.check:
        found = differences(arguments.folder, wanted)
        print("\n".join(found))
        return min(len(found), 1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in {path.name for path in arguments.folder.glob("*.svg")} - set(wanted):
        (arguments.folder / name).unlink()
    for name, content in wanted.items():
        (arguments.folder / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
