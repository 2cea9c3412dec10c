"""The predicted fan beside what happened: which episodes and steps are drawn, and how they are packed.

NumPy alone: what a model imagines is asked in fan.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from forethought.math.calibration import LEVELS
from forethought.reporting.charts import Panel, panel, plural, rounded, shown, spread_of
from forethought.reporting.episode_notes import EpisodeNote

EPISODES, STARTS, COMPONENTS = 8, 20, 8
"""Episodes, steps of each from which a fan begins, and state components that are drawn at most."""
PARTICLES = 39
"""Imagined rollouts: with so many, every band ends at one of them (the ranks 1, 4, 10 and 30, 36, 39)."""
HORIZON = 30
"""Steps that a fan looks ahead at most."""
NUMBERS = 110_000
"""Numbers that the fans of a page hold at most, about six bytes each."""
REAL = 60_000
"""The same for what really happened."""


class Fan(NamedTuple):
    """The fans of one episode."""

    number: int
    label: str
    real: np.ndarray
    """States [T+1 n], angles without jumps."""
    starts: np.ndarray
    """Steps at which fans begin."""
    imagined: np.ndarray
    """[S H P n], angles near what happened; NaN beyond the end of the episode."""


def choose_episodes(notes: Sequence[EpisodeNote], most: int = EPISODES) -> dict[int, str]:
    """Number of an episode to why it is shown: the newest, the best, the worst, and others evenly between."""
    rows = [n for n in notes if n.rows > 0]
    if not rows:
        return {}
    scored = [n for n in rows if n.complete and math.isfinite(n.score)]
    found = {rows[-1].number: ["newest"]}
    if len(scored) > 1:
        found.setdefault(max(scored, key=lambda n: n.score).number, []).append("best")
        found.setdefault(min(scored, key=lambda n: n.score).number, []).append("worst")
    for i in np.linspace(0, len(rows) - 1, most).round().astype(int):
        if len(found) < most:
            found.setdefault(rows[int(i)].number, [])
    by_number = {n.number: n for n in rows}
    return {k: _label(by_number[k], found[k]) for k in sorted(found)}


def _label(one: EpisodeNote, why: Sequence[str]) -> str:
    said = [*why, f"return {shown(one.score)}" if math.isfinite(one.score) else "return not finite"]
    said += [] if one.complete else ["broken off"]
    return f"episode {one.number} ({', '.join(said)})"


def choose_starts(rows: int, most: int) -> np.ndarray:
    """Steps of an episode at which fans begin, evenly spread."""
    return np.unique(np.linspace(0, max(rows - 2, 0), min(most, rows)).round().astype(int))


def bands(imagined: np.ndarray) -> np.ndarray:
    """[S H n 7]: the lower ends of the 95%, 80% and 50% bands, the median, and the upper ends, of P imagined values
    [S H P n]; NaN where one of them is not finite."""
    P = imagined.shape[2]
    ordered = np.sort(imagined, axis=2)
    low = [round((P + 1) * (1 - k / 100) / 2) for k in reversed(LEVELS)]
    ranks = [*low, (P + 1) // 2, *(P + 1 - r for r in reversed(low))]
    found = np.moveaxis(ordered[:, :, [r - 1 for r in ranks]], 2, 3)
    finite = np.all(np.isfinite(imagined), axis=2, keepdims=True)  # [S H 1 n]
    return np.where(np.moveaxis(finite, 2, 3), found, np.nan)


def inside(fan: Fan) -> np.ndarray:
    """[S H] whether the episode has so many steps after a start."""
    return fan.starts[:, None] + 1 + np.arange(fan.imagined.shape[1]) < len(fan.real)


def worst_components(fans: Sequence[Fan], most: int = COMPONENTS) -> list[int]:
    """The components whose median is furthest from what happened, in units of their own spread; before all others those
    with an imagined value that is not finite."""
    real = np.concatenate([f.real for f in fans])
    with np.errstate(all="ignore"):
        spread = np.array([np.std(v[np.isfinite(v)]) if np.isfinite(v).any() else 0.0 for v in real.T])
    spread = np.where(np.isfinite(spread), np.maximum(spread, 1e-9), 1e-9)
    total = np.zeros(real.shape[1])
    for fan in fans:
        after = fan.real[np.minimum(fan.starts[:, None] + 1 + np.arange(fan.imagined.shape[1]), len(fan.real) - 1)]
        known = inside(fan)[:, :, None] & np.isfinite(after)
        with np.errstate(all="ignore"):
            off = ((np.median(fan.imagined, axis=2) - after) / spread) ** 2
            lost = ~np.isfinite(fan.imagined).all(axis=2)
            total += np.where(known, np.where(lost, np.inf, off), 0.0).sum(axis=(0, 1))
    order = np.argsort(-total, kind="stable")[:most]
    return sorted(int(i) for i in order)


def _broken(fan: Fan) -> np.ndarray:
    """[S] whether a rollout is not finite although the episode goes on."""
    return np.any(inside(fan) & ~np.isfinite(fan.imagined).all(axis=(2, 3)), axis=1)


def packed(fans: Sequence[Fan], names: Sequence[str], share: float = 1.0) -> dict[str, Any]:
    """The fans as JSON; `share` of a page's numbers may be used, and starts are left out beyond that."""
    shown_components = worst_components(fans)
    H = max(f.imagined.shape[1] for f in fans)
    per_start = H * len(shown_components) * 7
    keep = max(int(NUMBERS * share / per_start / len(fans)), 2)
    episodes, broken, steps = [], [], 0
    for fan in fans:
        index = np.unique(np.linspace(0, len(fan.starts) - 1, min(keep, len(fan.starts))).round().astype(int))
        found = bands(fan.imagined[index][..., shown_components])
        real = fan.real[:, shown_components]
        broken += _broken(fan)[index].tolist()
        steps += max(len(fan.real) - 2, 1)
        stride = max(math.ceil(len(fans) * real.size / (REAL * share)), 1)
        spread = spread_of(real, axis=0)
        episodes.append(
            {
                "label": fan.label,
                "starts": fan.starts[index].tolist(),
                "steps": list(range(0, len(real), stride)),
                "real": rounded(real[::stride].T, spread[:, None]),
                "near": _near(real, fan.starts[index], H, spread) if stride > 1 else None,
                "bands": rounded(np.moveaxis(found, 2, 1), spread[:, None, None]),
            }
        )
    return {
        "components": [names[i] for i in shown_components],
        "horizon": H,
        "episodes": episodes,
        "steps": steps,
        "broken": sum(broken),
    }


def _near(real: np.ndarray, starts: np.ndarray, horizon: int, spread: np.ndarray) -> list[Any]:
    """What happened around each start, [start][component][step], where the whole episode is drawn in big steps."""
    parts = [real[max(s - horizon // 2, 0) : s + horizon + 1] for s in starts]
    return [rounded(part.T, spread[:, None]) for part in parts]


CAPTION = (
    "What the model imagines from a real state under the actions that were really executed, and what happened (line): "
    "bands hold 50%, 80% and 95% of {particles} rollouts. Good: the line stays inside the bands, and the bands are "
    "narrow. {origin}"
)
SEEN = (
    "The newest model is asked about episodes that it has learned from, which flatters it; how wrong it is on others "
    "is under Model error."
)


def fan_panel(fan: dict[str, Any] | None, components: int, episodes: int, missing: Sequence[str] = ()) -> Panel:
    """The panel, or why there is nothing to scrub through.  `episodes` are those of the run that have a step."""
    caption = CAPTION.format(particles=PARTICLES, origin=SEEN)
    found = panel("fan", "Predicted fan", caption, missing=missing)
    if fan is not None:
        found["fan"] = {k: v for k, v in fan.items() if k not in ("steps", "broken")}
        found["missing"] += _left_out(fan, components, episodes)
    return found


def _left_out(fan: dict[str, Any], components: int, episodes: int) -> Iterator[str]:
    """What of the run, and of the model's rollouts, is not drawn."""
    drawn, starts = len(fan["episodes"]), sum(len(e["starts"]) for e in fan["episodes"])
    if fan["broken"]:
        yield f"From {fan['broken']} of {plural(starts, 'start')} a rollout is not finite; the fan ends there."
    if drawn < episodes:
        yield f"Of {plural(episodes, 'episode')} {drawn} are drawn: the newest, the best, the worst, and some between."
    if starts < fan["steps"]:
        yield f"Of their {plural(fan['steps'], 'step')} {starts} can be chosen to begin a fan at."
    if len(fan["components"]) < components:
        many = plural(len(fan["components"]), "component")
        yield f"Of {components} state components the {many} with the largest errors are drawn."
