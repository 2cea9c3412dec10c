"""The page: one file with everything in it, drawn as SVG, without a script and without anything from a network."""

from __future__ import annotations

from html import escape

from forethought.lecture.results import FAILED, ONLY_FULL, Row, counts, effect, needs, number, places, tally
from forethought.lecture.text import remarks

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #67707a; --rule: #d5dae0;
  --holds: #0b6e4f; --not: #a4262c; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #15181c; --faint: #98a2ad; --rule: #343b43;
  --holds: #5fd0a5; --not: #ff8a85; --open: #e0b554; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
article { border-top: 1px solid var(--rule); padding: 1rem 0; break-inside: avoid; }
p { margin: .3rem 0; } .faint { color: var(--faint); font-size: .88rem; }
.verdict { font-weight: 600; } .holds { color: var(--holds); } .not { color: var(--not); } .open { color: var(--open); }
svg { display: block; width: 100%; max-width: 44rem; height: auto; margin: .4rem 0; }
svg .rule { stroke: var(--rule); } svg .margin { stroke: var(--faint); }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); }
@media print { body { margin: 0; max-width: none; } }
"""
CLASSES = {"holds": "holds", "does not hold": "not", "undecided": "open", FAILED: "not"}
WIDTH, HEIGHT, LEFT, RIGHT = 700.0, 74.0, 30.0, 670.0


def page(rows: list[Row], command: str) -> str:
    """The whole file."""
    told = "\n".join(_article(row) for row in rows)
    made = "".join(f"<p class='faint'>{escape(place)}</p>" for place in places(rows))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The lecture, measured</title>
<style>{STYLE}</style>
</head>
<body>
<h1>The lecture, measured</h1>
<p>{escape(tally(rows))}</p>
<p class="faint">A claim holds if the whole 95% interval of its mean effect over seeds (Student's t) lies above its
margin, does not hold if it lies below, and is undecided otherwise. The margin was chosen before anything was measured.
In the drawings the dashed line is the margin, dots are seeds, and the bar is the interval.</p>
<p class="faint">Command: <code>{escape(command)}</code></p>
{made}
{told}
</body>
</html>
"""


def _article(row: Row) -> str:
    """One claim."""
    claim, verdict = row.claim, row.verdict
    kind = CLASSES.get(verdict, "faint")
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in remarks(row))
    seconds = "" if row.seconds is None else f", {row.seconds:.0f} s"
    numbers = "" if verdict == ONLY_FULL else f": {effect(row)}; it needs {needs(claim)}; seeds: {counts(row)}{seconds}"
    return f"""<article id="{escape(claim.name)}">
<h2>{escape(claim.name)}</h2>
<p class="faint">Section {escape(claim.section)}: {escape(claim.sentence)}</p>
<p>{escape(claim.prediction)}</p>
<p><span class="verdict {kind}">{escape(verdict)}</span>{escape(numbers)}</p>
{_drawing(row, kind)}{said}
<p class="faint">{escape(claim.how)}</p>
</article>"""


def _drawing(row: Row, kind: str) -> str:
    """Effects of the seeds, the mean with its interval, and the margin, on a line; nothing where nothing was found."""
    found, claim = row.judgement, row.claim
    points = [value for value in row.effects if value is not None]
    if found.mean is None:
        return ""
    ends = [*points, *(found.interval or ()), claim.margin]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    at = lambda value: f"{LEFT + (RIGHT - LEFT) * (value - low) / (high - low):.1f}"
    text = lambda value, y, words: f'<text x="{at(value)}" y="{y}" text-anchor="middle">{escape(words)}</text>'
    dots = "".join(f'<circle cx="{at(v)}" cy="22" r="3" fill="currentColor" opacity=".45"/>' for v in points)
    bar = ""
    if found.interval is not None:
        a, b = map(at, found.interval)
        bar = f'<path d="M{a} 40H{b}M{a} 35V45M{b} 35V45" stroke="currentColor" stroke-width="2" fill="none"/>'
    mean = f'<circle cx="{at(found.mean)}" cy="40" r="4.5" fill="currentColor"/>'
    words = escape(f"{claim.name}: {effect(row)}, it needs {needs(claim)}")
    line = f'<path d="M{at(claim.margin)} 8V56" class="margin" stroke-dasharray="4 3" fill="none"/>'
    axis = f'<path d="M{LEFT} 56H{RIGHT}" class="rule" fill="none"/>'
    margin = text(claim.margin, 70, needs(claim).removeprefix("> "))
    far = abs(found.mean - claim.margin) > 0.08 * (high - low)
    labelled = text(found.mean, 70, number(found.mean, claim.unit)) if far else ""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">{axis}{line}'
        f'<g class="{kind}">{dots}{bar}{mean}</g>{margin}{labelled}</svg>\n'
    )
