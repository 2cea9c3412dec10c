"""Whether a run is as it was written: every file of it, one sentence for each that is not.

Every byte of config.json, run.json, the checkpoints, metrics.jsonl (and metrics.crc), the episodes, SHA256SUMS, the
evaluations and the journals counts, those that were put aside as .before too.  Nothing reads error.txt, files that end
in .damaged, names that begin with a dot (what a kill left of a file that was being written), and whatever else lies in
the folder.  A folder that is empty, or missing, is only wrong where something of it has to be there: episodes that the
newest checkpoint learned from, its metrics, a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from forethought.runs.checkpoint import Stored, numbered, read, read_about
from forethought.runs.directory import PARTS, RunDirectory
from forethought.runs.episodes import SUMS, checked_episode, episode_files, parse_episode, read_sums
from forethought.runs.evaluations import FOLDER, evaluation_files, read_evaluation
from forethought.runs.files import Damaged, largest, parse_json, read_bytes, read_sealed
from forethought.runs.journal import journals, put_aside, read_journal
from forethought.runs.metrics import check_lines, intact
from forethought.types import Trajectory, UserError


def problems(run: RunDirectory) -> Iterator[str]:
    """A sentence for each file that is not as it was written, is missing, or belongs to another run."""
    name: str | None = None
    try:
        name, _ = run.read_config()
    except (Damaged, UserError) as error:
        yield f"{run.path / 'config.json'}: {error}"
    yield from _links(run)
    yield from _attempt(run, "run.json", lambda: _of_run(read_sealed(run.path / "run.json"), name))
    newest = yield from _checkpoints(run, name)
    began = run.metrics.exists() or bool(episode_files(run.episodes)) or bool(journals(run.journal))
    if newest is None and not numbered(run.checkpoints) and not began:
        return  # broken off before anything was tried: a resumed run begins
    if newest is None:
        yield f"{run.checkpoints}: there is no valid checkpoint."
        return
    name = newest.about.run
    seal = newest.about.notes.get("metrics")
    yield from _attempt(run, "metrics.jsonl", lambda: _metrics(run, seal if isinstance(seal, dict) else {}))
    yield from _episodes(run, name, newest)
    yield from _journals(run, name)
    yield from _tried(run, name, newest)
    for path in evaluation_files(run.path).values():
        yield from _attempt(run, f"{FOLDER}/{path.name}", lambda path=path: read_evaluation(path, name))


def _checkpoints(run: RunDirectory, name: str | None) -> Generator[str, None, Stored | None]:
    """A sentence for each that is not right; then the newest that is.  Where neither they nor run.json are of the run
    that config.json names, it is config.json that is of another run."""
    abouts = []
    for path in numbered(run.checkpoints):
        with suppress(Damaged, UserError):  # it is named below
            abouts.append(read_about(path).run)
    if name is not None and abouts and name not in abouts and not run.is_named(name):
        yield f"{run.path / 'config.json'}: it belongs to another run ({name!r}, not {abouts[-1]!r})."
        name = abouts[-1]
    newest: Stored | None = None
    for path in numbered(run.checkpoints):
        try:
            newest = read(path, name)
        except (Damaged, UserError) as error:
            yield f"{path}: {error}"
    return newest


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


def _tried(run: RunDirectory, name: str, newest: Stored) -> Iterator[str]:
    """Steps after the checkpoint that metrics.jsonl tells of must be in journals, or in episode files."""
    saved, first = newest.about.notes.get("env_steps"), newest.arrays.get("episodes")
    try:
        lines = read_bytes(run.metrics, largest()).split(b"\n")[:-1]
        told = parse_json(lines[-1], "the last line of metrics.jsonl").get("env_steps") if lines else None
    except (Damaged, AttributeError):
        return  # it has been named
    if type(saved) is not int or type(told) is not int or first is None or first.size != 1 or told <= saved:
        return
    rows: dict[int, int] = {}
    readers = (
        (journals(run.journal), lambda p: read_journal(p, name).trajectory),
        (episode_files(run.episodes), _rows),
    )
    for files, rows_of in readers:
        for number, path in files.items():
            with suppress(Damaged):
                if number >= int(first.reshape(())) and number not in rows:
                    rows[number] = rows_of(path).length
    missing = told - saved - sum(rows.values())
    if missing > 0:
        yield f"{run.journal}: {missing} steps that metrics.jsonl tells of are in no journal, and in no episode."


def _rows(path: Path) -> Trajectory:
    return parse_episode(read_bytes(path, largest()), path.name)[0]


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
