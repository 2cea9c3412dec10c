"""An experiment: everything that says what a run does; and the runs that are made of it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.random as jr

from forethought.algorithms.globally import V15
from forethought.core import AbstractAlgorithm, AbstractPolicy, RunState, Task
from forethought.costs.learned import LearnedCost
from forethought.policies.excitation import ColouredPolicy
from forethought.runs import checkpoint, codec, directory
from forethought.runs.checkpoint import About
from forethought.runs.directory import RunDirectory, may_be_file
from forethought.runs.episodes import episode_files
from forethought.runs.files import Damaged
from forethought.runs.journal import journals
from forethought.runs.log import Display, Quiet
from forethought.runs.logged import read_logged
from forethought.runs.loop import Loop, Rules
from forethought.runs.metrics import MetricsFile
from forethought.runs.precision import in_64_bit
from forethought.runs.progress import Progress
from forethought.runs.stopping import Until, check_until
from forethought.runs.validate import check
from forethought.runs.verify import refuse_damage
from forethought.tasks import equip
from forethought.tasks import task as make_task
from forethought.types import Action, RandomKey, State, Time, UserError
from forethought.worlds.guard import Guard

NAMES = {
    "V05": "v0.5",
    "V10": "v1.0",
    "V15": "v1.5",
    "V20": "v2.0",
    "Local": "local",
    "Dyna": "dyna",
    "TrustRegion": "trpo",
}
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
    angles: tuple[int, ...] = ()
    """Which observations are angles in rad, counted from 0: they are wrapped to [-pi, pi), and models see their sine
    and cosine.  Classic tasks know their own."""
    resets: tuple[dict[str, Any], ...] = ()
    """Options for the environment's reset: reset seed i comes with the i-th of them, any other without."""
    base: str = "random"
    """Who collects the first data: random, coloured (smooth random actions), or a run directory, whose controller
    does it.  A policy object goes to the algorithm's own `base`."""
    data: Path | None = None
    """Logged data to begin with: an episode file, a CSV or an NPZ (see forethought/runs/logged.py)."""
    evaluate_every: int = 0
    """Environment steps between evaluations from the task's fixed starts, which are not counted as steps of the run and
    from which nothing is learned; 0: none.  On a machine they are real trials."""
    until: Until = field(default_factory=Until)
    """Reasons to stop before the budget is spent."""
    workers: int = 1
    """Copies of the environment that episodes are collected from at the same time, each in a process of its own."""
    replayable: bool = True
    """Whether a Gymnasium environment repeats itself from its reset seed, so that a run that was killed can do its open
    episode again.  False for a machine: then what was tried is kept, and a new episode begins."""
    guard: Guard = field(default_factory=Guard)
    """What an environment may return, and what is done if it returns something else."""
    on_save_error: Literal["stop", "go-on"] = "stop"
    """Whether a run stops when something cannot be saved."""

    @in_64_bit
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
        name, config = secrets.token_hex(8), self.config()
        run = directory.create(
            None if self.out is None else Path(self.out), f"{task.name}-{algorithm_name(self.algorithm)}-{self.seed}"
        )
        run.write_config(name, config)
        run.note_start(name, command)
        if isinstance(task.cost, LearnedCost):
            show.say(f"{task.name}: reward and termination are learned with the model.")
        rules = Rules(self.steps, self.until, self.guard, self.on_save_error, self.evaluate_every)
        metrics = MetricsFile(run.metrics)
        loop = Loop(algorithm, task, rules, run, name, config, show, state, Progress(), metrics)
        # Logged data are in the first checkpoint already: a resumed run does not need the file again.
        return finish(loop, Loop.save)

    def make_task(self) -> Task:
        """The task with its options.  Raises `UserError` if there is no such task."""
        made = (
            self.task
            if isinstance(self.task, Task)
            else make_task(
                self.task, self.env, self.limit, self.action_repeat, self.history, self.angles, resets=self.resets
            )
        )
        return equip(made, self.guard, self.workers, replayable=self.replayable)

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
        raise UserError(
            f"base is {base!r}, but {type(algorithm).__name__} has a base policy of its own or takes none; it must be "
            "random."
        )
    if base == "coloured":
        policy: AbstractPolicy = ColouredPolicy(task.world.actions, steps=task.limit)
    elif not Path(base).is_dir():
        raise UserError(f'base is {base!r}; it must be "random", "coloured", or a run directory.')
    else:
        saved = open_run(Path(base), which="newest")
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
    name: str
    experiment: Experiment
    task: Task
    algorithm: AbstractAlgorithm
    state: RunState
    about: About


class Named(NamedTuple):
    """What the user named again, because no file may."""

    task: str | Task | None = None
    experiment: Experiment | None = None
    base: str | None = None
    env: dict[str, Any] | None = None


def read_experiment(path: Path, config: dict[str, Any], named: Named) -> Experiment:
    """The recipe of a run.

    Nothing that a file names is imported, or opened outside the run.  So a task given as module:id, a `Task` object, an
    environment's files, another run's controller and classes of the user's own have to be named again: the last as a
    whole experiment, of which only they are taken; everything else stays as the run began.
    """
    own = named.experiment
    task, again = config.get("task"), named.task
    if again is None and own is not None and (isinstance(task, dict) or task == own.task):
        again = own.task
    if again is not None:
        config = config | {"task": "named again"}
    elif isinstance(task, str) and ":" in task:
        raise UserError(
            f"{path} is a run on {task}, which needs an import, and nothing that a file names is ever imported: "
            f"name it again, with --task {task} (in Python: task={task!r})."
        )
    elif isinstance(task, dict):
        raise UserError(
            f"{path} is a run on a Task object of your own: name it again, with --experiment FILE "
            "(in Python: task=... or experiment=...)."
        )
    experiment = codec.decode_fields(Experiment, config, "config.json", own)
    if again is not None:
        experiment = dataclasses.replace(experiment, task=again)
    # The base controller of another run is opened only if base steps are missing, and then it is named again.
    experiment = dataclasses.replace(experiment, base=named.base or "random", data=None)
    check(experiment)
    known = {} if own is None else {k: v for k, v in own.env.items() if experiment.env.get(k) == v}
    return dataclasses.replace(experiment, env=_environment(path, experiment.env, known | (named.env or {})))


def _environment(path: Path, env: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the environment; what may be the name of a file has to be named again."""
    for name, value in env.items():
        if name not in again and may_be_file(name, value):
            raise UserError(
                f"{path} is a run whose environment was made with {name}={value!r}, which may name a file, and nothing "
                f"outside a run is opened because the run says so: name it again, with --env.{name} VALUE."
            )
    return env | again


def identity(run: RunDirectory, say: Callable[[str], None]) -> tuple[str | None, dict[str, Any]]:
    """Name and recipe of a run: from config.json, or, if that is damaged, from the newest valid checkpoint."""
    file, name, config = run.path / "config.json", None, {}
    try:
        name, config = run.read_config()
    except Damaged as error:
        say(f"{file} is damaged: {error} The newest valid checkpoint says what it said.")
    try:
        stored = checkpoint.newest(run.checkpoints, name, lambda sentence: None)
    except UserError:
        if name is not None and run.is_named(name):
            return name, config  # the checkpoints are wrong, and whoever reads on is told of each
        # There is none of its own, so perhaps the file is another run's.
        stored = checkpoint.newest(run.checkpoints, None, say)
        say(f"{file} belongs to another run ({name!r}; the checkpoints are of {stored.about.run!r}) and is skipped.")
        name = None
    return (stored.about.run, stored.about.experiment) if name is None else (name, config)


@in_64_bit
def open_run(
    path: Path,
    named: Named | None = None,
    say: Callable[[str], None] | None = None,
    *,
    which: Literal["newest", "best", "resumable"] = "newest",
    strict: bool = False,
) -> OpenRun:
    """Read a run back.

    `which` checkpoint: the newest valid one, the one with the best training returns, or the newest that a run goes on
    from.  What is damaged is said and passed over.  Raises `UserError` if there is nothing left, or, if `strict`, if
    anything is damaged.
    """
    run, say = directory.existing(path), say or Quiet().say
    if strict:
        refuse_damage(run)
    nothing = not (journals(run.journal) or episode_files(run.episodes) or run.metrics.exists())
    if which == "resumable" and nothing and not checkpoint.numbered(run.checkpoints):
        return _from_the_start(run, named or Named())
    name, config = identity(run, say)
    if which == "best":
        stored = checkpoint.best(run.checkpoints, name, say)
    else:
        wanted = lambda about: about.resumable or which == "newest"
        stored = checkpoint.newest(run.checkpoints, name, say, wanted)
    recipe = read_experiment(run.path, config, named or Named())
    # Worker processes are for collecting data; an evaluation needs none.
    task = (recipe if which == "resumable" else dataclasses.replace(recipe, workers=1)).make_task()
    if named is None or named.experiment is None:
        # What a stranger's recipe asks for is not allocated before it is known to be what the checkpoint holds.
        checkpoint.check_size(stored, jax.eval_shape(lambda key: recipe.algorithm.init(task, key), jr.key(recipe.seed)))
    template = recipe.algorithm.init(task, jr.key(recipe.seed))
    state = checkpoint.restore(stored, template)
    return OpenRun(run, stored.about.run, recipe, task, recipe.algorithm, state, stored.about)


def _from_the_start(run: RunDirectory, named: Named) -> OpenRun:
    """A run that was broken off before its first checkpoint: nothing was tried yet, and the recipe says how to begin.

    Raises `UserError` if that is damaged, or if the run began with logged data, which a checkpoint would have had.
    """
    try:
        name, config = run.read_config()
    except Damaged as error:
        raise UserError(f"{run.path} has no checkpoint, and {error} Train anew in another directory.") from error
    if config.get("data") is not None:
        raise UserError(
            f"{run.checkpoints}: there is no checkpoint, so there is nothing to go on from; train anew in another "
            f"directory, with --data {config['data']}."
        )
    recipe = read_experiment(run.path, config, named)
    task = recipe.make_task()
    notes = Progress().notes(0.0) | {"finished": False, "env_steps": 0, "metrics": MetricsFile(run.metrics).seal()}
    state = recipe.algorithm.init(task, jr.key(recipe.seed))
    return OpenRun(run, name, recipe, task, recipe.algorithm, state, About(name, notes, config))


def finish(loop: Loop, first: Callable[[Loop], None]) -> Result:
    """Do something first, and run the loop to its end; an error says which run it broke off."""
    try:
        first(loop)
        with loop.show:
            reason = loop.run()
    except BaseException as error:
        error.run = loop.directory.path  # pyright: ignore[reportAttributeAccessIssue]
        raise
    return Result(loop.directory.path, int(loop.state.steps), loop.progress.returns, round(loop.seconds(), 3), reason)
