"""Kill a run at a random moment, resume it, and compare it with the run that was never killed.

    python bench/kills.py --count 200            # writes results/reliability/kills.json
    python bench/kills.py --count 8 --dry        # a few, and nothing is written

Each kill is SIGKILL: at the k-th step of the environment, before or after it ("collect"); at the k-th change of a file
("save"); or after a random time, most of which is spent fitting ("train").  A third of the resumed runs are killed
again.  Then every array of the last checkpoint, every episode file, and every line of metrics but its clocks must be
that of the run that was never killed, bit for bit; and every episode whose end was in a journal must still be there.
In every fifth case the world says that it cannot be replayed: then every step that was in a file must be in the data.

The status is 1 if anything differs or is lost.  What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from runner import RESULTS, commit, machine
from safetensors.numpy import load_file

from forethought.runs.checkpoint import numbered
from forethought.runs.directory import existing
from forethought.runs.episodes import episode_files, read_episode
from forethought.runs.experiment import Experiment
from forethought.runs.journal import journals, read_journal
from forethought.runs.resume import resume
from forethought.runs.verify import problems

TASKS = ("Pendulum-v1", "InvertedPendulum-v5")
PLACES = ("collect", "save", "train")
CLOCKS = {"seconds", "act_seconds", "step_seconds", "fit_seconds"}
STEPS, LIMIT = 100, 25


def experiment(task: str, out: Path, replayable: bool) -> Experiment:
    """A small run: four episodes and more, refits inside them."""
    from forethought import ICEM, V15, EnsembleLearner, Imagination

    planner = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
    learner = EnsembleLearner(members=2, width=8, gradient_steps=20)
    algorithm = V15(planner, learner, base_steps=20, refit_every=10, horizon=3)
    return Experiment(task, algorithm, steps=STEPS, limit=LIMIT, out=out, replayable=replayable)


def child(job: Callable[[], None], prepare: Callable[[], None], seconds: float | None = None) -> int:
    """Run the job in a fork of this process, which has imported everything and started nothing; how it ended.

    After so many seconds it is killed.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            if not os.environ.get("KILLS_SHOW"):
                os.dup2(null, 2)
            import jax

            jax.config.update("jax_enable_x64", True)
            # jax has been imported: it does not look at the environment any more.
            jax.config.update("jax_compilation_cache_dir", os.environ["KILLS_CACHE"])
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            prepare()
            job()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG if end is not None else 0)
        if done:
            return status
        if end is not None and time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = None
        time.sleep(0.002)


def nothing() -> None:
    """No trap."""


def trap_steps(k: int, after: bool) -> Callable[[], None]:
    """Die at the k-th step of the environment."""

    def prepare() -> None:
        from forethought.worlds.source import Guarded

        original, left = Guarded.step, [k]

        def step(self: Any, action: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(self, action)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Guarded.step = step

    return prepare


CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def trap_changes(folder: Path, k: int | None, counted: Path | None = None) -> Callable[[], None]:
    """Die at the k-th change of something in the folder, or, without a k, write down how many there were."""

    def prepare() -> None:
        seen = [0]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in CHANGES or str(folder) not in str(arguments[0]):
                return
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            seen[0] += 1
            if seen[0] == k:
                os.kill(os.getpid(), signal.SIGKILL)
            if counted is not None:
                handle = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(handle, str(seen[0]).encode())
                os.close(handle)

        sys.addaudithook(hook)

    return prepare


class Run:
    """What a finished run came to, without its clocks."""

    def __init__(self, path: Path):
        last = numbered(path / "checkpoints")[-1]
        self.arrays = load_file(last / "arrays.safetensors")
        manifest = json.loads((last / "manifest.json").read_bytes())
        drop = ("seconds", "metrics")
        self.notes = {k: v for k, v in manifest["notes"].items() if k not in drop} | {"score": manifest["score"]}
        lines = (path / "metrics.jsonl").read_text().splitlines()
        self.metrics = [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]
        self.episodes = {n: read_episode(file) for n, file in episode_files(path / "episodes").items()}
        self.damage = list(problems(existing(path)))

    def differences(self, other: Run) -> list[str]:
        """What is not bit for bit the same."""
        found = [f"damage: {sentence}" for sentence in self.damage]
        if self.arrays.keys() != other.arrays.keys():
            return [*found, "the checkpoints hold different arrays"]
        found += [f"array {k}" for k, v in self.arrays.items() if not same(v, other.arrays[k])]
        found += ["notes"] if self.notes != other.notes else []
        found += ["metrics"] if self.metrics != other.metrics else []
        if self.episodes.keys() != other.episodes.keys():
            return [*found, "the numbers of the episodes"]
        for n, (trajectory, about) in self.episodes.items():
            theirs, words = other.episodes[n]
            equal = all(same(getattr(trajectory, f), getattr(theirs, f)) for f in trajectory.__dataclass_fields__)
            found += [] if equal and about | {"run": 0} == words | {"run": 0} else [f"episode {n}"]
        return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def in_files(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """(episodes that were finished, rows of unfinished ones) by number, as the files of a killed run have them."""
    if not (path / "config.json").exists():
        return {}, {}
    name = json.loads((path / "config.json").read_bytes())["run"]
    finished = {n: t for n, file in episode_files(path / "episodes").items() for t in [read_episode(file)[0]]}
    opened: dict[int, Any] = {}
    for n, file in journals(path / "journal").items():
        if file.stat().st_size == 0:
            continue
        read = read_journal(file, name)
        (finished if read.ended else opened)[n] = read.trajectory
    return finished, opened


def lost(before: dict[int, Any], path: Path) -> list[str]:
    """Which of these episodes do not begin an episode of the run."""
    after = {n: read_episode(file)[0] for n, file in episode_files(path / "episodes").items()}
    found = []
    for n, t in before.items():
        now = after.get(n)
        if now is None or not all(same(getattr(t, f), getattr(now, f)[: t.length]) for f in ("x", "u", "y", "reward")):
            found.append(f"lost: episode {n}, {t.length} steps")
    return found


def one(i: int, seed: int, home: Path, references: dict[str, tuple[Run, int, float]]) -> dict[str, Any]:
    """One run, killed once or twice, resumed, compared."""
    chance = random.Random(f"{seed} {i}")
    task, place, replayable = TASKS[i % 2], PLACES[(i // 2) % 3], chance.random() >= 0.2
    reference, changes, seconds = references[task]
    path = home / f"run{i}"
    expected: list[tuple[dict[int, Any], dict[int, Any]]] = []
    begin = lambda: experiment(task, path, replayable).run()
    kills, job = 0, begin
    times = 2 if chance.random() < 1 / 3 else 1
    for _ in range(times):
        trap, limit = nothing, None
        if place == "collect":
            trap = trap_steps(chance.randint(1, STEPS), chance.random() < 0.5)
        elif place == "save":
            trap = trap_changes(path, chance.randint(1, changes))
        else:
            limit = chance.uniform(0.0, seconds)
        status = child(job, trap, limit)
        kills += os.WIFSIGNALED(status)
        expected.append(in_files(path))
        job = (lambda: resume(path)) if (path / "config.json").is_file() else begin
        if not (path / "config.json").is_file():
            shutil.rmtree(path, ignore_errors=True)  # killed before there was anything to go on with
    again = child(job, nothing)
    wrong = [] if again == 0 else [f"the resumed run ended with {again}"]
    if again == 0:
        if replayable:
            wrong += Run(path).differences(reference)
        else:
            wrong += [f"damage: {sentence}" for sentence in problems(existing(path))]
            wrong += [w for _, opened in expected for w in lost(opened, path)]
        wrong += [w for finished, _ in expected for w in lost(finished, path)]
    if wrong:
        print(f"{i}: {task} {place}: {wrong}; kept in {path}", file=sys.stderr)
    else:
        shutil.rmtree(path)
    return {"kill": i, "task": task, "place": place, "replayable": replayable, "kills": kills, "wrong": wrong}


def reference(task: str, home: Path) -> tuple[Run, int, float]:
    """The run that is never killed, the changes of files in it, and its seconds with a warm cache."""
    counted = home / f"{task}.count"
    for turn in ("cold", "warm"):
        path = home / f"{task}-{turn}"
        began = time.monotonic()
        status = child(lambda p=path: experiment(task, p, True).run(), trap_changes(path, None, counted))
        if status != 0:
            raise RuntimeError(f"The run of {task} that nobody kills ended with {status}.")
    seconds = time.monotonic() - began
    first, second = Run(home / f"{task}-cold"), Run(home / f"{task}-warm")
    if different := first.differences(second):
        raise RuntimeError(f"Two runs of {task} that nobody killed differ: {different}.")
    return second, int(counted.read_text()), seconds


def main() -> int:
    """Kill, resume, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    asked = parser.parse_args()
    file = RESULTS / "reliability" / "kills.json"
    here = {"commit": commit(), "seed": asked.seed}
    known = json.loads(file.read_text()) if file.exists() and not asked.dry else {}
    done = known["each"] if {k: known.get(k) for k in here} == here else []
    home = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["KILLS_CACHE"] = str(home / "cache")
    references = {task: reference(task, home) for task in TASKS}
    for i in range(len(done), asked.count):
        done.append(one(i, asked.seed, home, references))
        if not asked.dry:
            write(file, here, done)
    bad = [d for d in done if d["wrong"]]
    print(f"{len(done)} runs, {sum(d['kills'] for d in done)} kills: {len(bad)} differ or lost something.")
    if not bad:
        shutil.rmtree(home)
    return 1 if bad else 0


def write(file: Path, here: dict[str, Any], done: list[dict[str, Any]]) -> None:
    """The results so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    summary = {"runs": len(done), "kills": sum(d["kills"] for d in done), "wrong": sum(bool(d["wrong"]) for d in done)}
    settings = {"steps": STEPS, "limit": LIMIT, "tasks": TASKS, "places": PLACES}
    value = {**here, "machine": machine(), "settings": settings, **summary, "each": done}
    file.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
