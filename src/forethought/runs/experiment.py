"""An experiment: everything that says what a run does; and the runs that are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.random as jr

from forethought.algorithms.globally import V15
from forethought.core import AbstractAlgorithm, AbstractPolicy, RunState, Task
from forethought.costs.learned import LearnedCost
from forethought.policies.excitation import ColouredPolicy
from forethought.runs import codec, directory
from forethought.runs.checkpoint import load_newest, save
from forethought.runs.directory import RunDirectory
from forethought.runs.log import Display, Quiet
from forethought.runs.logged import read_logged
from forethought.runs.loop import Loop
from forethought.runs.stopping import Until, check_until
from forethought.runs.validate import check
from forethought.tasks import task as make_task
from forethought.types import Action, RandomKey, State, Time, UserError

NAMES = {"V05": "v0.5", "V10": "v1.0", "V15": "v1.5"}
"""Class of an algorithm to its name on the command line."""


class Result(NamedTuple):
    """What a run came to."""

    run: Path
    """The run directory."""
    env_steps: int
    """Steps in the environment, the first random ones included."""
    episodes: list[float]
    """Returns of the finished training episodes."""
    seconds: float
    stopped_by: str
    """"steps", "solved" or "plateau"."""


@dataclass(frozen=True)
class Experiment:
    """A recipe for a run: the task, the algorithm, and when to stop."""

    task: str | Task
    """A Gymnasium id, module:id, the name of a classic task, or a `Task`."""
    algorithm: AbstractAlgorithm = field(default_factory=V15)
    """The loop, with its planner and its learner."""
    steps: int = 1000
    """Budget of environment steps, the first random ones included (with action_repeat, of decisions)."""
    seed: int = 0
    """The one seed of the run."""
    out: Path | None = None
    """The run directory; None: runs/TASK-ALGORITHM-SEED-TIME in the current folder."""
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for gymnasium.make."""
    limit: int | None = None
    """Steps after which an episode is truncated; None: the task's own."""
    action_repeat: int = 1
    """How often each action is executed."""
    history: int = 1
    """How many of the last observations make up the state."""
    base: str = "random"
    """Who collects the first data: random, coloured (smooth random actions), or a run directory, whose controller
    does it.  A policy object goes to the algorithm's own `base`."""
    data: Path | None = None
    """Logged data to begin with: an episode file, a CSV or an NPZ (see forethought/runs/logged.py)."""
    until: Until = field(default_factory=Until)
    """Reasons to stop before the budget is spent."""

    def run(self, show: Display | None = None, command: str | None = None) -> Result:
        """Train in a new run directory.  Raises `UserError` for a mistake in the recipe; an interrupt, or an error of
        the environment, is raised again after everything that was finished has been saved."""
        check(self)
        show = show or Quiet()
        if self.steps == 0 and self.data is None:
            raise UserError("steps is 0 and there are no logged data: there is nothing to learn from.")
        task = self.make_task()
        check_until(self.until, task.threshold, task.name)
        logged = None if self.data is None else read_logged(Path(self.data), task)
        algorithm = with_base(self.algorithm, self.base, task)
        state = algorithm.init(task, jr.key(self.seed))
        if logged is not None:
            state = dataclasses.replace(state, data=logged)
        run = directory.create(
            None if self.out is None else Path(self.out), f"{task.name}-{algorithm_name(self.algorithm)}-{self.seed}"
        )
        run.write_config(self.config())
        run.note_start(command)
        if isinstance(task.cost, LearnedCost):
            show.say(f"{task.name}: reward and termination are learned with the model.")
        # Logged data are in the first checkpoint already: a resumed run does not need the file again.
        save(run.checkpoints, state, {"returns": [], "turns": 0, "seconds": 0.0, "finished": False})
        loop = Loop(algorithm, task, self.steps, self.until, run, show, state)
        return _finish(loop)

    def make_task(self) -> Task:
        """The task with its options.  Raises `UserError` if there is no such task."""
        if isinstance(self.task, Task):
            return self.task
        return make_task(self.task, self.env, self.limit, self.action_repeat, self.history)

    def config(self) -> dict[str, Any]:
        """The recipe as JSON; paths are absolute, so that it means the same from any folder."""
        fixed = dataclasses.replace(
            self,
            out=None,
            data=None if self.data is None else Path(self.data).absolute(),
            base=self.base if self.base in BASES else str(Path(self.base).absolute()),
        )
        return codec.encode_fields(fixed)


BASES = ("random", "coloured")


class Held(eqx.Module):
    """What another run's controller remembers."""

    carry: Any


class SavedController(AbstractPolicy[Held]):
    """The controller of another run, as a base policy: an algorithm must not take its plans for its own."""

    policy: AbstractPolicy

    def init(self, x: State, key: RandomKey) -> Held:
        """The carry of the wrapped policy."""
        return Held(self.policy.init(x, key))

    def act(self, carry: Held, x: State, t: Time) -> tuple[Action, Held]:
        """The action of the wrapped policy."""
        u, inner = self.policy.act(carry.carry, x, t)
        return u, Held(inner)


def with_base(algorithm: AbstractAlgorithm, base: str, task: Task) -> AbstractAlgorithm:
    """The algorithm with the policy that collects the first data put in."""
    if base == "random":
        return algorithm
    if getattr(algorithm, "base", None) is not None or "base" not in {f.name for f in dataclasses.fields(algorithm)}:
        raise UserError(f"base is {base!r}, but {type(algorithm).__name__} has a base policy of its own or takes none.")
    if base == "coloured":
        policy: AbstractPolicy = ColouredPolicy(task.world.actions, steps=task.limit)
    elif not Path(base).is_dir():
        raise UserError(f'base is {base!r}; it must be "random", "coloured", or a run directory.')
    else:
        saved = open_run(Path(base))
        if (saved.task.spec.n, saved.task.spec.m) != (task.spec.n, task.spec.m):
            raise UserError(
                f"base is the run {base}, whose controller is for {saved.task.name} with {saved.task.spec.n} states "
                f"and {saved.task.spec.m} actions; {task.name} has {task.spec.n} and {task.spec.m}."
            )
        policy = SavedController(saved.algorithm.policy(saved.task, saved.state))
    return dataclasses.replace(algorithm, base=policy)  # pyright: ignore[reportCallIssue]


def algorithm_name(algorithm: AbstractAlgorithm) -> str:
    """The name of an algorithm, as the command line has it."""
    return NAMES.get(type(algorithm).__name__, type(algorithm).__name__)


class OpenRun(NamedTuple):
    """A run read back from its directory."""

    directory: RunDirectory
    experiment: Experiment
    task: Task
    algorithm: AbstractAlgorithm
    state: RunState
    notes: dict[str, Any]


def read_experiment(run: RunDirectory, task: str | Task | None, own: Experiment | None) -> Experiment:
    """The recipe of a run.

    Nothing that a file names is imported.  So a task given as module:id, a `Task` object and classes of the user's own
    have to be named again: the first two as `task`, the last as the whole experiment `own`.
    """
    config = run.read_config()
    if own is not None:
        # What is not code stays as the run began.
        mine = dataclasses.replace(own, out=None)
        return mine if task is None else dataclasses.replace(mine, task=task)
    named = config.get("task")
    if task is not None:
        config = config | {"task": "named again"}
    elif isinstance(named, str) and ":" in named:
        raise UserError(
            f"{run.path} is a run on {named}, which needs an import, and nothing that a file names is ever imported: "
            f"name it again, with --task {named} (in Python: task={named!r})."
        )
    elif isinstance(named, dict):
        raise UserError(
            f"{run.path} is a run on a Task object of your own: name it again, with --experiment FILE "
            "(in Python: task=... or experiment=...)."
        )
    experiment = codec.decode_fields(Experiment, config, "config.json")
    if task is not None:
        experiment = dataclasses.replace(experiment, task=task)
    check(experiment)
    return experiment


def open_run(
    path: Path,
    task: str | Task | None = None,
    experiment: Experiment | None = None,
    say: Callable[[str], None] | None = None,
) -> OpenRun:
    """Read a run back, from the newest valid checkpoint.  Raises `UserError` if that cannot be."""
    run = directory.existing(path)
    recipe = read_experiment(run, task, experiment)
    real = recipe.make_task()
    template = recipe.algorithm.init(real, jr.key(recipe.seed))
    state, notes = load_newest(run.checkpoints, template, say or Quiet().say)
    return OpenRun(run, recipe, real, recipe.algorithm, state, notes)


def resume(
    path: Path,
    steps: int | None = None,
    task: str | Task | None = None,
    experiment: Experiment | None = None,
    show: Display | None = None,
    command: str | None = None,
) -> Result:
    """Go on with a run, to its own budget or to `steps` in all.  Raises as `Experiment.run` does."""
    show = show or Quiet()
    run = open_run(path, task, experiment, show.say)
    recipe = run.experiment if steps is None else dataclasses.replace(run.experiment, steps=steps)
    check(recipe)
    notes, taken = run.notes, int(run.state.steps)
    if taken >= recipe.steps and notes["finished"]:
        show.say(f"{path} has taken its {taken} steps already; give more with --steps N.")
        return Result(run.directory.path, taken, notes["returns"], notes["seconds"], "steps")
    if steps is not None:
        run.directory.write_config(run.directory.read_config() | {"steps": steps})
    run.directory.note_start(command)
    run.directory.keep_metrics(notes["turns"])
    missing = getattr(run.algorithm, "base_steps", 0) - int(run.state.data.count)
    algorithm = with_base(run.algorithm, recipe.base, run.task) if missing > 0 else run.algorithm
    loop = Loop(algorithm, run.task, recipe.steps, recipe.until, run.directory, show, run.state)
    loop.returns, loop.turns, loop.seconds_before = list(notes["returns"]), notes["turns"], notes["seconds"]
    return _finish(loop)


def _finish(loop: Loop) -> Result:
    """Run the loop to its end; an error says which run it broke off."""
    try:
        with loop.show:
            reason = loop.run()
    except BaseException as error:
        error.run = loop.directory.path  # pyright: ignore[reportAttributeAccessIssue]
        raise
    return Result(loop.directory.path, int(loop.state.steps), loop.returns, round(loop.seconds(), 3), reason)
