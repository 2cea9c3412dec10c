"""The table for a terminal, and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from forethought.lecture.claim import Claim
from forethought.lecture.results import Row, counts, effect, needs, places, tally

WIDTH = 110


def table(rows: list[Row]) -> str:
    """What was measured, a few lines per claim."""
    head = ("claim", "verdict", "effect [95% interval]", "needs", "n", "s")
    lines = [(row.claim.name, row.verdict, effect(row), needs(row.claim), counts(row), _seconds(row)) for row in rows]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    aligned = lambda line: "  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)).rstrip()
    told = [aligned(head)]
    for row, line in zip(rows, lines, strict=True):
        told += ["", aligned(line), *_indented(row.claim.prediction)]
        told += [wrapped for sentence in remarks(row) for wrapped in _indented(sentence)]
    return "\n".join([*told, "", tally(rows)])


def remarks(row: Row) -> Iterator[str]:
    """What has to be said of a claim that does not simply hold."""
    for failure in row.failures:
        yield f"Failed: {failure}."
    if row.claim.note and not row.failures and row.verdict in ("does not hold", "undecided"):
        yield row.claim.note


def _indented(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _seconds(row: Row) -> str:
    return "-" if row.seconds is None else f"{row.seconds:.0f}"


def markdown(rows: list[Row], command: str) -> str:
    """The measured table for a document, with the command and the machine."""
    head = ("claim", "prediction", "effect [95% interval]", "needs", "seeds", "verdict", "s (of them computing)")
    lines = [
        (
            f"`{row.claim.name}`",
            row.claim.prediction,
            effect(row),
            needs(row.claim),
            counts(row),
            f"**{row.verdict}**" if row.verdict == "does not hold" else row.verdict,
            "-" if row.seconds is None else f"{row.seconds:.0f} ({row.cpu_seconds or 0.0:.0f})",
        )
        for row in rows
    ]
    told = [*_grid(head, lines), "", tally(rows)]
    notes = [f"- `{row.claim.name}`: {' '.join(remarks(row))}" for row in rows if list(remarks(row))]
    told += ["", *notes] if notes else []
    return "\n".join([*told, "", f"Command: `{command}`", "", *(f"- {place}" for place in places(rows))])


def catalogue(claims: Sequence[Claim]) -> str:
    """What the claims are, as Markdown, before anything is measured."""
    lines = [
        (
            f"`{claim.name}`",
            claim.section,
            claim.sentence,
            claim.prediction,
            f"{needs(claim)} {claim.unit}",
            claim.how if claim.seeds else f"{claim.how} Only with `--full`.",
        )
        for claim in claims
    ]
    return "\n".join(_grid(("claim", "section", "the lecture", "prediction", "needs", "how"), lines))


def listing(claims: Sequence[Claim]) -> str:
    """Names and predictions for a terminal."""
    told = []
    for claim in claims:
        told += [claim.name if claim.seeds else f"{claim.name} (only with --full)", *_indented(claim.prediction)]
    return "\n".join(told)


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    bar = lambda words: "| " + " | ".join(" ".join(word.replace("|", "\\|").split()) for word in words) + " |"
    return [bar(head), bar(["---"] * len(head)), *(bar(line) for line in lines)]
