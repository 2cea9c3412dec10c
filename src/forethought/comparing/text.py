"""A comparison in words and a table, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from forethought.comparing.results import Findings, Group, Overall, Pair, Table
from forethought.comparing.statistics import Interval, Probability, StepsToThreshold
from forethought.console import shown
from forethought.errors import printable

WIDTH = 110
LONG = 34
"""Characters that the name of a configuration may have in a table; longer ones get a letter."""
MOST_PAIRS = 15
"""Pairs of configurations that are told; JSON has them all."""

MANY = "So many configurations are not compared pair by pair: give the runs of fewer."
STAR = "* Every pair ends alike, of which a bootstrap would be too sure: an exact bound in its place."


def text(found: Findings) -> str:
    """Everything that a person wants to know first; curves and recipes are in the JSON and on the page."""
    parts = [line for table in found.tables for line in [*_table(table), ""]]
    if found.overall is not None:
        parts += [*_overall(found.overall, len(found.tables)), ""]
    if not found.tables:
        parts += ["No run can be compared.", ""]
    if found.left_out:
        parts += ["Not counted:", *(f"  {shown(path)}: {reason}" for path, reason in found.left_out), ""]
    return printable("\n".join(parts).rstrip("\n"))


def _table(table: Table) -> Iterator[str]:
    groups = table.groups
    runs = sum(len(group.entries) for group in groups)
    goal = "no threshold known" if table.threshold is None else f"solved: {table.threshold:g}"
    yield f"{table.title}: {_count(runs, 'run')}, {_count(len(groups), 'configuration')} ({goal})"
    yield from _wrapped(sentence_of_score(table))
    yield ""
    labels = _labels([group.name for group in groups])
    yield from (f"{label}: {name}" for name, label in labels.items() if label != name)
    yield from aligned([HEAD, *(row_of(group, labels[group.name], table.threshold) for group in groups)])
    yield ""
    yield "Per seed:"
    for group in groups:
        points = "  ".join(f"{entry.record.seed}: {number(entry.score)}" for entry in group.entries)
        yield from _wrapped(f"{labels[group.name]}  {points}", "  ")
    if table.pairs:
        yield from ["", *_pairs(table.pairs, labels)]
    elif len(groups) > 1:
        yield from ["", MANY]
    if table.notes:
        yield ""
        for note in table.notes:
            yield from _wrapped(f"- {_relabelled(note, labels)}")


HEAD = ["configuration", "seeds", "IQM return", "95% interval", "solved at end", "to threshold", "wall-clock, s"]


def row_of(group: Group, label: str, goal: float | None) -> list[str]:
    """One configuration: the cells of its row."""
    seconds = sorted(entry.record.seconds for entry in group.entries)
    middle = 0.5 * (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2])
    return [
        label,
        str(len(group.entries)),
        number(group.iqm),
        interval(group.interval),
        "-" if goal is None else f"{sum(score >= goal for score in group.scores)} of {len(group.scores)}",
        _steps(group.to_threshold),
        number(middle) + (f" ({number(seconds[0])} to {number(seconds[-1])})" if len(seconds) > 1 else ""),
    ]


def _steps(found: StepsToThreshold | None) -> str:
    """The median, and how many runs it is made of."""
    if found is None:
        return "-"
    return f"{'-' if found.median is None else found.median} ({found.solved} of {found.of})"


def sentence_of_score(table: Table) -> str:
    """What the figures of a table are."""
    score = (
        "Return: the mean over the task's fixed starts, of the controller that each run ended with."
        if table.evaluated
        else "Return: the mean of each run's last training episodes; it was not evaluated."
    )
    return (
        f"{score} IQM over seeds; interval: expanded percentile of a stratified bootstrap over seeds. To threshold: "
        "environment steps, median of Kaplan and Meier (how many reached it; the others are censored). Wall-clock: "
        "median (range)."
    )


def _pairs(pairs: Sequence[Pair], labels: dict[str, str]) -> Iterator[str]:
    yield "Probability that a run of the first is better than one of the second (95% interval):"
    for pair in pairs[:MOST_PAIRS]:
        yield f"  {labels[pair.first]} over {labels[pair.second]}: {words_of_pair(pair)}"
    if any("*" in words_of_pair(pair) for pair in pairs[:MOST_PAIRS]):
        yield f"  {STAR}"
    if len(pairs) > MOST_PAIRS:
        yield f"  {len(pairs) - MOST_PAIRS} more are in --json and --html."


def words_of_pair(pair: Pair) -> str:
    """Both probabilities of a pair."""
    paired = "" if pair.paired is None else f"; paired by seed {_probability(pair.paired)}"
    return f"{_probability(pair.all_pairs)} over all pairs{paired}"


def _probability(found: Probability) -> str:
    if found.interval is None:
        return f"{found.value:.2f} (no interval)"
    low, high, kind = found.interval
    return f"{found.value:.2f} ({low:.2f} to {high:.2f}{'*' if kind == 'bound' else ''})"


def _overall(found: Overall, tasks: int) -> Iterator[str]:
    labels = _labels(found.names)
    yield f"Over all {tasks} tasks, each a stratum"
    yield from (f"{label}: {name}" for name, label in labels.items() if label != name)
    if found.iqms:
        rows = [
            [labels[name], number(value), interval(each)]
            for name, (value, each) in zip(found.names, found.iqms, strict=True)
        ]
        yield from aligned([["configuration", "IQM of scaled returns", "95% interval"], *rows])
    if found.pairs:
        yield from _pairs(found.pairs, labels)
    for note in found.notes:
        yield from _wrapped(f"- {note}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _relabelled(sentence: str, labels: dict[str, str]) -> str:
    """Long names in a sentence by their letters; the longest first, as it may contain another."""
    for name in sorted(labels, key=len, reverse=True):
        sentence = sentence.replace(name, labels[name])
    return sentence


def number(value: float) -> str:
    """A figure in about four digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval(found: Interval | None) -> str:
    """Its ends, or a dash."""
    return "-" if found is None else f"{number(found.low)} to {number(found.high)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    first, *others = widths
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], others, strict=True))])
        for row in rows
    ]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Name to what stands for it: the name, or a letter where one of them is long."""
    if all(len(name) <= LONG for name in names):
        return {name: name for name in names}
    letters = [chr(65 + i) if len(names) <= 26 else f"C{i + 1}" for i in range(len(names))]
    return dict(zip(names, letters, strict=True))


def _wrapped(sentence: str, indent: str = "") -> list[str]:
    """Lines of a terminal; a path or a command stays in one piece."""
    return textwrap.wrap(
        sentence,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
