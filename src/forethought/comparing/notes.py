"""The sentences that a reader of a table has to know to read it rightly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forethought.comparing.configurations import is_own
from forethought.comparing.records import RECENT, Record
from forethought.comparing.results import Group
from forethought.comparing.statistics import FEWEST
from forethought.console import shown

MEASURED = {3: 75, 4: 87}
"""Coverage in % of the interval where seeds are too few for what it states: see comparing/statistics.py."""


def notes_of(
    groups: Sequence[Group], records: Sequence[Record], goal: float | None, *, evaluated: bool
) -> Iterator[str]:
    """The sentences of a table with these groups, made of these records."""
    if not evaluated:
        yield from _why_training(records)
    yield from _few_seeds(groups)
    if len(groups) > 1 and any(group.seeds != groups[0].seeds for group in groups):
        yield "Where two configurations do not have the same seeds, nothing is paired by seed."
    yield from _threshold(groups, goal, evaluated)
    stopping = [group.name for group in groups if _stops_early(group)]
    if stopping:
        yield f"Runs of {' and of '.join(stopping)} stop when a rule is met, so they end at a moment chosen by returns."
    own = [group.name for group in groups if is_own(group.recipe)]
    if own:
        yield f"{' and '.join(own)}: of classes of your own only plain settings tell configurations apart."
    counted = [entry.record for group in groups for entry in group.entries]
    for what, values in (("machines", {r.machine for r in counted}), ("versions", {r.version for r in counted})):
        if len(values) > 1:
            yield f"These runs come from {len(values)} {what}: {'; '.join(sorted(values))}."
    if evaluated and len({entry.record.evaluations[-1].starts for group in groups for entry in group.entries}) > 1:
        yield "Not all runs were evaluated from the same starts."


def _why_training(records: Sequence[Record]) -> Iterator[str]:
    """Which runs have no evaluation of their last controller, and what to do about it."""
    lacking = [record for record in records if record.final is None]
    runs = f"{len(lacking)} of {len(records)} runs have" if len(records) > 1 else "the run has"
    yield (
        f"Runs count with the mean return of their last {RECENT} training episodes, in which they explore and learn, "
        f"because {runs} no evaluation at the end. Remedy: forethought evaluate {shown(lacking[0].path)}"
        f"{' and so on' if len(lacking) > 1 else ''}."
    )
    short = [record for record in records if 0 < record.episodes < RECENT]
    if short:
        fewest = min(record.episodes for record in short)
        yield f"{len(short)} of {len(records)} finished fewer than {RECENT} training episodes (the least: {fewest})."


def _few_seeds(groups: Sequence[Group]) -> Iterator[str]:
    """What so few seeds cannot tell."""
    none = [f"{group.name} ({len(group.entries)})" for group in groups if len(group.entries) < FEWEST]
    if none:
        yield f"No interval for {', '.join(none)}: fewer than {FEWEST} seeds bound almost nothing."
    for count, covered in MEASURED.items():
        if any(len(group.entries) == count for group in groups):
            yield (
                f"With {count} seeds the interval is the range of the values: it covers about {covered}%, not 95%; "
                "give 5 or more."
            )


def _threshold(groups: Sequence[Group], goal: float | None, evaluated: bool) -> Iterator[str]:
    """How steps to the threshold are to be read."""
    if goal is None:
        yield "No threshold is known for this task, so steps to it cannot be told; give one: --threshold RETURN."
    elif evaluated:
        times = {len(entry.curve) for group in groups for entry in group.entries}
        if times == {1}:
            yield (
                "Runs were evaluated at their end only, so that is the earliest at which a threshold can be seen "
                "reached; train with --evaluate-every STEPS for more."
            )
        elif len(times) > 1:
            yield (
                f"Runs were evaluated {min(times)} to {max(times)} times: where it was done more rarely, a threshold "
                "is seen reached later."
            )
    else:
        yield f"A threshold counts as reached when the last {RECENT} training episodes have it on average."


def _stops_early(group: Group) -> bool:
    until = group.recipe.get("until")
    return isinstance(until, dict) and bool(until.get("solved") or until.get("plateau"))
