"""A comparison as one page of HTML: drawings and tables, no script, and nothing from anywhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape

from forethought.comparing.results import Findings, Overall, Pair, Table
from forethought.comparing.svg import COLOURS, curves, strips
from forethought.comparing.text import HEAD, MANY, STAR, interval, number, row_of, sentence_of_score, words_of_pair
from forethought.console import shown
from forethought.errors import printable

PALETTE = ("#0b63b5", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#475569")
PALETTE_DARK = ("#6cb6ff", "#ff9a5c", "#5fd38a", "#c99bff", "#e3bb4f", "#ff8dc0", "#4fd1c5", "#a9b7c9")

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #ffffff; --faint: #e3e3e3; --dim: #5a5a5a; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --back: #16181b; --faint: #33373c; --dim: #a3a8ae; DARK }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
.wide { overflow-x: auto; } .note { color: var(--dim); } pre { overflow-x: auto; font-size: 0.8rem; }
.key { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 50%; margin-right: 0.4rem; }
svg { width: 100%; height: auto; display: block; margin: 1rem 0; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.axis { stroke: var(--dim); } .grid { stroke: var(--faint); } .goal { stroke: var(--dim); stroke-dasharray: 5 4; }
.band { opacity: 0.22; stroke: none; } .run { fill: none; stroke-width: 1; opacity: 0.45; }
.mean { fill: none; stroke-width: 2.5; } .iqm { stroke-width: 3; } .dashed { stroke-dasharray: 6 3; }
@media print { body { max-width: none; margin: 0; } h2, svg, table { break-inside: avoid; } }
"""


def page(found: Findings) -> str:
    """The whole page."""
    body = [part for table in found.tables for part in _table(table)]
    if found.overall is not None:
        body += _overall(found.overall, len(found.tables))
    if not found.tables:
        body.append("<p>No run can be compared.</p>")
    if found.left_out:
        items = [f"{shown(path)}: {reason}" for path, reason in found.left_out]
        body += ["<h2>Not counted</h2>", _list(items)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Comparison of runs</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        "<h1>Comparison of runs</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _style() -> str:
    light, dark = (
        " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours)) for colours in (PALETTE, PALETTE_DARK)
    )
    classes = "\n".join(
        f".band.c{i}, .dot.c{i} {{ fill: var(--c{i}); }} .run.c{i}, .mean.c{i}, .iqm.c{i} {{ stroke: var(--c{i}); }} "
        f".key.c{i} {{ background: var(--c{i}); }}"
        for i in range(COLOURS)
    )
    return STYLE.replace("LIGHT", light).replace("DARK", dark) + classes


def _table(table: Table) -> Iterator[str]:
    """One task."""
    names = [group.name for group in table.groups]
    yield f"<h2>{_said(table.title)}</h2>"
    goal = "no threshold is known" if table.threshold is None else f"dashed line: the threshold, {table.threshold:g}"
    yield f'<p class="note">{_said(sentence_of_score(table))} Points: seeds; strokes: IQM; {goal}.</p>'
    yield strips(table.groups, [printable(name) for name in names], table.threshold)
    rows = [row_of(group, group.name, table.threshold) for group in table.groups]
    yield _rows(HEAD, rows, keys=True)
    yield "<h3>Learning curves</h3>"
    yield curves(table.groups, table.threshold)
    if table.pairs:
        yield "<h3>Probability that a run of the first is better than one of the second</h3>"
        yield _pairs(table.pairs)
    elif len(table.groups) > 1:
        yield _list([MANY])
    if table.notes:
        yield _list(table.notes)
    yield "<h3>Runs</h3>"
    head = ["run", "configuration", "seed", "return", "steps", "threshold reached at", "wall-clock, s"]
    yield _rows(head, [_run(table, i, k) for i, group in enumerate(table.groups) for k in range(len(group.entries))])
    for group in table.groups:
        recipe = escape(printable(json.dumps(group.recipe, indent=1)))
        yield f"<details><summary>Recipe of {_said(group.name)}</summary><pre>{recipe}</pre></details>"


def _run(table: Table, group: int, run: int) -> list[str]:
    """One run: the cells of its row."""
    entry = table.groups[group].entries[run]
    reached = "-" if table.threshold is None else "never" if entry.solved_at is None else str(entry.solved_at)
    record = entry.record
    cells = [shown(record.path), table.groups[group].name, str(record.seed), number(entry.score)]
    return [*cells, str(record.env_steps), reached, number(record.seconds)]


def _overall(found: Overall, tasks: int) -> Iterator[str]:
    """Over all tasks."""
    yield f"<h2>Over all {tasks} tasks, each a stratum</h2>"
    if found.iqms:
        both = zip(found.names, found.iqms, strict=True)
        rows = [[name, number(value), interval(each)] for name, (value, each) in both]
        yield _rows(["configuration", "IQM of scaled returns", "95% interval"], rows)
    if found.pairs:
        yield _pairs(found.pairs)
    yield _list(found.notes)


def _pairs(pairs: Sequence[Pair]) -> str:
    lines = [f"{pair.first} over {pair.second}: {words_of_pair(pair)}" for pair in pairs]
    return _list([*lines, STAR] if any("*" in line for line in lines) else lines)


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_said(sentence)}</li>" for sentence in sentences) + "</ul>"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], *, keys: bool = False) -> str:
    """A table; with `keys` each row has the colour of its drawing."""
    lines = ["<tr>" + "".join(f"<th>{_said(cell)}</th>" for cell in head) + "</tr>"]
    for i, row in enumerate(rows):
        key = f'<span class="key c{i % COLOURS}"></span>' if keys else ""
        cells = [f"<td>{key if k == 0 else ''}{_said(cell)}</td>" for k, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _said(text: str) -> str:
    """What comes from a file, as harmless text."""
    return escape(printable(text))
