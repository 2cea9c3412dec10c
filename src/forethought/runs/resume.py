"""Going on with a run, as if it had never been broken off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr

from forethought.core import RunState, Task
from forethought.math.dataset import append
from forethought.runs import metrics
from forethought.runs.checkpoint import newest, numbered, read_about
from forethought.runs.directory import RunDirectory
from forethought.runs.episodes import checked_episode, episode_files, keep_episodes, read_sums
from forethought.runs.experiment import Experiment, Named, OpenRun, Result, finish, open_run, with_base
from forethought.runs.files import Damaged, remove, replace_durably
from forethought.runs.journal import before_name, journals, put_aside, read_journal
from forethought.runs.log import Display, Quiet
from forethought.runs.loop import Loop, Rules, cut
from forethought.runs.metrics import MetricsFile
from forethought.runs.precision import in_64_bit
from forethought.runs.progress import Progress, from_notes
from forethought.runs.validate import check
from forethought.runs.verify import problems
from forethought.types import Trajectory, UserError


@in_64_bit
def resume(
    path: Path | str,
    steps: int | None = None,
    task: str | Task | None = None,
    experiment: Experiment | None = None,
    show: Display | None = None,
    *,
    command: str | None = None,
    base: str | None = None,
    env: dict[str, object] | None = None,
    strict: bool = False,
) -> Result:
    """Go on with a run, to its own budget or to `steps` in all.

    A run in a world that can be replayed goes on from its last whole episode, bit for bit as if it had not been broken
    off, and does the open one again.  In any other world what was tried is kept as data, and a new episode begins.
    `strict` refuses a run of which any file is damaged; otherwise each is named.  Raises as `Experiment.run` does.
    """
    show, path = show or Quiet(), Path(path)
    named: list[str] = []
    say = lambda sentence: (named.append(sentence), show.say(sentence))[1]
    run = open_run(path, Named(task, experiment, base, env), say, which="resumable", strict=strict)
    for sentence in problems(run.directory):
        if not any(sentence.split(": ")[0] in earlier for earlier in named):
            show.say(f"Damaged: {sentence}")
    progress = from_notes(run.about.notes, str(run.directory.path))
    recipe = run.experiment if steps is None else dataclasses.replace(run.experiment, steps=steps)
    check(recipe)
    if (done := _finished(run, recipe.steps, show)) is not None:
        return done
    missing = getattr(run.algorithm, "base_steps", 0) - int(run.state.data.count)
    if missing > 0 and base is None and run.about.experiment.get("base") not in ("random", None):
        base = _base_again(run)
    algorithm = with_base(run.algorithm, base or "random", run.task) if missing > 0 else run.algorithm
    for left in numbered(run.directory.checkpoints):
        # A look at an open episode, or at the end: the run goes back behind it, and so do its files.
        with suppress(Damaged):
            if not read_about(left).resumable:
                remove(left)
    config = run.about.experiment | ({} if steps is None else {"steps": steps})
    run.directory.write_config(run.name, config)
    run.directory.note_start(run.name, command)
    rules = Rules(recipe.steps, recipe.until, recipe.guard, recipe.on_save_error, recipe.evaluate_every)
    lines = _lines(run, progress, show)
    loop = Loop(algorithm, run.task, rules, run.directory, run.name, config, show, run.state, progress, lines)
    return finish(loop, _go_on)


def _finished(run: OpenRun, steps: int, show: Display) -> Result | None:
    """What the run came to, if it has taken its steps already."""
    if not numbered(run.directory.checkpoints):
        return None  # it was broken off before the first
    last = newest(run.directory.checkpoints, run.name, lambda sentence: None).about
    progress = from_notes(last.notes, str(run.directory.path))
    taken = last.notes.get("env_steps")
    if not last.notes.get("finished") or not isinstance(taken, int) or taken < steps:
        return None
    show.say(f"{run.directory.path} has taken its {taken} steps already; give more with --steps N.")
    return Result(run.directory.path, taken, progress.returns, progress.seconds, "steps")


def _base_again(run: OpenRun) -> str:
    """The base policy of a run whose base steps are not done: a plain name, or a sentence for another run's."""
    named = run.about.experiment.get("base")
    if named == "coloured":
        return named
    raise UserError(
        f"{run.directory.path} collects its first data with the controller of {named}, and nothing outside a run is "
        "opened because the run says so: name it again, with --base DIR."
    )


def _lines(run: OpenRun, progress: Progress, show: Display) -> MetricsFile:
    """The metrics up to the checkpoint, or all of them where nothing is done again; a damaged file is put aside."""
    found = run.about.notes.get("metrics")
    file, seal = run.directory.metrics, found if isinstance(found, dict) else {}
    if not all(world.replayable for world in run.task.worlds):
        with suppress(Damaged):
            lines, progress.turns = metrics.kept(file, seal)
            return lines
    try:
        return metrics.resumed(file, seal)
    except Damaged as error:
        aside = file.with_name("metrics.jsonl.damaged")
        show.say(f"{error} {f'It is put aside as {aside.name}, and a' if aside.exists() else 'A'} new one begins.")
        return MetricsFile(file)


def _go_on(loop: Loop) -> None:
    """Deal with what happened after the checkpoint: it is done again, or kept."""
    folder, first = loop.directory.journal, int(loop.state.episodes)
    written = episode_files(loop.directory.episodes)
    for number, file in journals(folder).items():
        if number < first and number in written:
            remove(file)  # part of the checkpoint
        elif number >= first:
            _copy_if_damaged(file, loop.run_name)
    if not loop.replayable:
        _salvage(loop)
        return
    for number, file in journals(folder).items():
        before = folder / before_name(number)
        if before.is_file() and before.stat().st_size > file.stat().st_size:
            remove(file)  # broken off again, earlier: what was tried first is the longer one
        elif number >= first:
            file.replace(before)
    expected: dict[int, Trajectory] = {}
    for number, before in put_aside(folder).items():
        with suppress(Damaged):  # it has been named
            expected |= {number: read_journal(before, loop.run_name).trajectory} if number >= first else {}
    for journal in loop.journals:
        journal.expected = expected
    if expected:
        done = sum(t.length for t in expected.values())
        loop.show.say(f"Going on from step {int(loop.state.steps)}; the {done} steps after it are done again.")
    keep_episodes(loop.directory.episodes, first)


def _copy_if_damaged(file: Path, name: str) -> None:
    """A journal that cannot be read to its end is kept beside: what can be read of it is taken over."""
    try:
        damage = read_journal(file, name).damage
    except Damaged as error:
        damage = str(error)
    if damage is not None and not file.is_symlink():
        replace_durably(file.with_name(f"{file.name}.damaged"), file.read_bytes())


def _salvage(loop: Loop) -> None:
    """Make data of the transitions after the checkpoint: nothing that was really tried is lost."""
    widths = loop.task.spec.n, loop.task.spec.m
    found = _tried(loop.directory, loop.run_name, int(loop.state.episodes), widths, loop.show.say)
    if not found:
        return
    kept = 0
    for number, (trajectory, whole) in sorted(found.items()):
        loop.state = _with_episode(loop.state, trajectory, number, grows=loop.algorithm.appends(loop.state))
        loop.progress.returns += loop.write_episode(number, trajectory, complete=whole)
        kept += trajectory.length
    loop.show.say(
        f"{kept} steps in {len(found)} episodes happened after the last checkpoint; they are kept as data, and a new "
        "episode begins."
    )
    loop.save()


def _tried(
    run: RunDirectory, name: str, first: int, widths: tuple[int, int], say: Callable[[str], None]
) -> dict[int, tuple[Trajectory, bool]]:
    """Episodes from this number on, from their files or their journals, and whether they are whole."""
    found: dict[int, tuple[Trajectory, bool]] = {}
    for number, file in journals(run.journal).items():
        try:
            read = read_journal(file, name)
        except Damaged:
            continue  # it has been named
        if number >= first and read.trajectory.length:
            found[number] = read.trajectory, read.ended
    try:
        sums = read_sums(run.episodes)
    except Damaged:
        sums = {}
    for number in episode_files(run.episodes):
        if number >= first:
            try:
                trajectory, about = checked_episode(run.episodes, number, name, sums)
            except Damaged:
                continue  # it has been named
            if number not in found or found[number][0].length < trajectory.length:
                found[number] = trajectory, bool(about.get("complete"))
    n, m = widths
    for number, (trajectory, _) in list(found.items()):
        if trajectory.x.shape[1:] != (n,) or trajectory.u.shape[1:] != (m,):
            say(f"Episode {number} has other states or actions than {run.path}, and is not taken over.")
            del found[number]
    return found


def _with_episode(state: RunState, trajectory: Trajectory, number: int, *, grows: bool) -> RunState:
    """The state after an episode that ended, or is ended here."""
    data = append(state.data, trajectory, number) if grows else state.data
    return dataclasses.replace(
        state,
        key=jr.fold_in(state.key, 1),
        episodes=jnp.asarray(max(int(state.episodes), number + 1), state.episodes.dtype),
        steps=state.steps + jnp.asarray(trajectory.length, state.steps.dtype),
        data=cut(data, number),
    )
