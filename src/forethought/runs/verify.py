"""Whether a run is as it was written: every file of it, one sentence for each that is not.

Every byte of config.json, run.json, the checkpoints, metrics.jsonl (and metrics.crc), the episodes, SHA256SUMS and the
journals counts, those that were put aside as .before too.  Nothing reads error.txt, files that end in .damaged, names
that begin with a dot (what a kill left of a file that was being written), and whatever else lies in the folder.  A
folder that is empty, or missing, is only wrong where something of it has to be there: episodes that the newest
checkpoint learned from, its metrics, a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from forethought.runs.checkpoint import Stored, numbered, read
from forethought.runs.directory import PARTS, RunDirectory
from forethought.runs.episodes import SUMS, checked_episode, episode_files, read_sums
from forethought.runs.files import Damaged, read_sealed
from forethought.runs.journal import journals, put_aside, read_journal
from forethought.runs.metrics import check_lines, intact
from forethought.types import UserError


def problems(run: RunDirectory) -> Iterator[str]:
    """A sentence for each file that is not as it was written, is missing, or belongs to another run."""
    name: str | None = None
    try:
        name, _ = run.read_config()
    except (Damaged, UserError) as error:
        yield f"{run.path / 'config.json'}: {error}"
    yield from _links(run)
    yield from _attempt(run, "run.json", lambda: _of_run(read_sealed(run.path / "run.json"), name))
    newest: Stored | None = None
    for path in numbered(run.checkpoints):
        try:
            newest = read(path, name)
        except (Damaged, UserError) as error:
            yield f"{path}: {error}"
    if newest is None:
        yield f"{run.checkpoints}: there is no valid checkpoint."
        return
    name = newest.about.run if name is None else name
    seal = newest.about.notes.get("metrics")
    yield from _attempt(run, "metrics.jsonl", lambda: _metrics(run, seal if isinstance(seal, dict) else {}))
    yield from _episodes(run, name, newest)
    yield from _journals(run, name)


def _metrics(run: RunDirectory, seal: dict[str, object]) -> None:
    intact(run.metrics, seal)
    check_lines(run.metrics)


def _links(run: RunDirectory) -> Iterator[str]:
    """What is a link is not read, and was not written by a run."""
    for folder in (run.path, *(run.path / part for part in PARTS)):
        if folder.is_dir() and not (folder.is_symlink() and folder != run.path):
            for path in sorted(folder.iterdir()):
                if path.is_symlink():
                    yield f"{path}: it is a link, and links are not followed."


def _journals(run: RunDirectory, name: str) -> Iterator[str]:
    for path in [*journals(run.journal).values(), *put_aside(run.journal).values()]:
        try:
            damage = read_journal(path, name).damage
        except Damaged as error:
            damage = str(error)
        if damage is not None:
            yield f"{path}: {damage}"


def _episodes(run: RunDirectory, name: str, newest: Stored) -> Iterator[str]:
    """Episode files and their sums; those of the checkpoint's data must be there."""
    folder = run.episodes
    try:
        sums = read_sums(folder)
    except Damaged as error:
        yield f"{folder / SUMS}: {error}"
        return
    for number in sorted({*_learned(newest), *episode_files(folder), *sums}):
        try:
            checked_episode(folder, number, name, sums)
        except Damaged as error:
            yield f"{folder / f'{number:06d}.safetensors'}: {error}"


def _learned(stored: Stored) -> set[int]:
    """Numbers of the run's own episodes that the checkpoint's data came from (logged ones are negative)."""
    ids, count = stored.arrays.get("data.episode"), stored.arrays.get("data.count")
    if ids is None or count is None or ids.ndim != 1 or count.size != 1 or ids.dtype.kind != "i":
        return set()
    return {int(i) for i in np.unique(ids[: max(int(count.reshape(())), 0)]) if i >= 0}


def _of_run(value: dict[str, object], name: str | None) -> None:
    if name is not None and value.get("run") != name:
        raise Damaged(f"it belongs to another run ({value.get('run')!r}, and this one is {name!r}).")


def _attempt(run: RunDirectory, file: str, read: Callable[[], object]) -> Iterator[str]:
    """The sentence of a file that cannot be read, if it cannot."""
    try:
        read()
    except Damaged as error:
        yield f"{run.path / file}: {error}"


def refuse_damage(run: RunDirectory) -> None:
    """Raise `UserError` if anything in the run is not as it was written."""
    found = list(problems(run))
    if found:
        more = f" There are {len(found) - 1} more: 'forethought check {run.path}' lists them." if len(found) > 1 else ""
        raise UserError(f"The run is damaged, and --strict refuses that. {found[0]}{more}")
