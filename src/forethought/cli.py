"""The command line.  Help and version answer without importing jax; every command imports what it needs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forethought._version import __version__
from forethought.console import addressed, begin, complain, print_json, shown, spoken

if TYPE_CHECKING:
    from forethought.core import Task
    from forethought.runs.command_line import Common
    from forethought.runs.evaluation import Evaluation
    from forethought.runs.experiment import Experiment, Result

HELP = f"""\
Forethought {__version__}: learn how a system moves, then plan with it.

usage: forethought COMMAND ...

  demo             train a Pendulum controller in well under a minute
  train TASK       learn a controller for a Gymnasium id, module:id, a classic task, or a file of your own
  evaluate DIR     run a saved controller from fixed starts
  diagnose DIR     say how wrong a run's model is, and where
  resume DIR       go on with a run
  report RUN...    write what runs did into one page that opens anywhere
  watch RUN        serve that page while the run goes on, on this machine only
  compare RUN...   say which settings are better, and how sure that is
  sweep TASK       train with several seeds and settings, one process each
  lecture          measure what the lecture says, claim by claim
  check TASK       act at random in an environment, and say what is wrong with it and how to mend it
  tasks            list tasks
  info             versions and platform, for bug reports

  --version        print the version
  --help           print this; 'forethought COMMAND --help' tells more about a command

For example:  forethought train Pendulum-v1 --algorithm v1.5 --steps 400 --seed 0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 only if its job was done, and 2 for a mistake in what was asked."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(HELP, file=sys.stderr, end="")
        return 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if name in ("-V", "--version", "version"):
        print(f"forethought {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version"], n=1)
        hint = f" The nearest is {near[0]}." if near else ""
        return complain(f"There is no command {name}.{hint} 'forethought --help' lists all.", 2)
    return guarded(COMMANDS[name], rest)


def guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command and turn what it raises into a sentence and an exit status."""
    from forethought.errors import UserError
    from forethought.runs.files import StorageError
    from forethought.runs.signals import Stopped
    from forethought.worlds.guard import TransitionError

    try:
        status = command(argv)
        sys.stdout.flush()
        return status
    except UserError as error:
        return complain(str(error), 2)
    except TransitionError as error:
        return complain(f"{error}{_kept(error)}", 1)
    except StorageError as error:
        return complain(f"{error}{_kept(error)}", 1)
    except Stopped as error:
        return complain(f"Stopped by {error.signal.name}.{_kept(error)}", 128 + error.signal)
    except KeyboardInterrupt as error:
        return complain(f"Interrupted.{_kept(error)}", 130)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        words = " ".join(str(error).split())
        words = words if len(words) <= 300 else words[:297] + "..."
        run = getattr(error, "run", None)
        where = "--debug shows where" if run is None else f"{shown(run / 'error.txt')} says where"
        return complain(f"Unexpected {type(error).__name__}: {words.rstrip('.')}; {where}.{_kept(error)}", 1)


def _kept(error: BaseException) -> str:
    """What is left of the run that was going on, if any."""
    run = getattr(error, "run", None)
    if run is None or not run.is_dir():
        return ""
    saved = " What was finished is saved;" if getattr(error, "saved", True) else " What was saved before stays;"
    return f"{saved} go on by: forethought resume {addressed(run, resume=True)}"


def train(argv: list[str]) -> int:
    """Learn a controller."""
    from forethought.runs.log import display
    from forethought.runs.train_flags import parse_train

    asked = parse_train(argv)
    begin(asked.common, asked.experiment)
    result = asked.experiment.run(display(asked.common.quiet), spoken(["train", *argv]))
    report_training(asked.experiment, result, asked.common)
    return 0


def resume(argv: list[str]) -> int:
    """Go on with a run."""
    from forethought.runs.flags import Resume, parse_on_run, read_file
    from forethought.runs.log import display
    from forethought.runs.resume import resume as go_on

    path, asked, env = parse_on_run(argv, Resume(), "resume", "Go on with a run, from its newest valid checkpoint.")
    begin(asked, path)
    own = None if asked.experiment is None else read_file(asked.experiment)
    result = go_on(
        path,
        asked.steps,
        asked.task,
        own,
        display(asked.quiet),
        command=spoken(["resume", *argv]),
        base=asked.base,
        env=env,
        strict=asked.strict,
    )
    report_training(None, result, asked)
    return 0


def report_training(experiment: Experiment | None, result: Result, common: Common) -> None:
    """What a run came to, for machines or for people."""
    if common.json:
        fields = result._asdict() | {"run": str(result.run)}
        if experiment is not None:
            fields["task"] = experiment.task if isinstance(experiment.task, str) else experiment.task.name
        print_json(fields)
        return
    last = result.episodes[-5:]
    mean = f"; mean return of the last {len(last)}: {sum(last) / len(last):.1f}" if last else ""
    steps, seconds = result.env_steps, result.seconds
    print(f"Stopped by {result.stopped_by}: {steps} steps, {len(result.episodes)} episodes, {seconds:.1f} s{mean}.")
    print(f"Run:      {shown(result.run)}")
    print(f"Evaluate: forethought evaluate {addressed(result.run)}")


def evaluate(argv: list[str]) -> int:
    """Run a saved controller from fixed starts."""
    import time

    import jax.random as jr

    from forethought.runs.evaluation import evaluate as run_policy
    from forethought.runs.evaluation import keep, starts_for
    from forethought.runs.experiment import Named, open_run
    from forethought.runs.flags import Evaluate, parse_on_run, read_file

    about = "Run a saved controller, without exploration or learning, from the task's fixed starts."
    path, asked, env = parse_on_run(argv, Evaluate(), "evaluate", about)
    begin(asked, path)
    began = time.monotonic()
    own = None if asked.experiment is None else read_file(asked.experiment)
    named, which = Named(asked.task, own, None, env), "best" if asked.best else "newest"
    run = open_run(path, named, which=which, strict=asked.strict)
    starts = starts_for(run.task, asked.episodes, asked.seed)
    policy = run.algorithm.policy(run.task, run.state)
    found = run_policy(run.task, policy, jr.key(asked.seed or 0), starts)
    seconds = round(time.monotonic() - began, 3)
    # The best controller was chosen by its returns, and at the end it would take the place of the newest one's.
    if which == "newest" and starts == list(run.task.starts) and int(run.state.fits):
        about = {"run": run.name, "env_steps": int(run.state.steps), "which": which, "seconds": seconds}
        with suppress(OSError):  # a folder that may only be read
            keep(found, run.task, run.directory.path, about)
    if asked.json:
        extra = {"run": str(run.directory.path), "task": run.task.name, "threshold": run.task.threshold}
        print_json(found._asdict() | extra | {"seconds": seconds})
    else:
        report_evaluation(run.task, found)
        print(f"{found.env_steps} steps, {seconds:.1f} s{'' if int(run.state.fits) else '; no model was fitted yet'}")
    return 0


def diagnose(argv: list[str]) -> int:
    """Say how wrong a run's model is."""
    from forethought.runs.diagnose import diagnose_run, write
    from forethought.runs.diagnose_flags import Diagnose
    from forethought.runs.diagnosis_text import text
    from forethought.runs.experiment import Named, open_run
    from forethought.runs.flags import parse_on_run, read_file

    about = "Say how wrong a run's model is, on episodes that it has not seen; diagnosis.json in the run has it all."
    path, asked, env = parse_on_run(argv, Diagnose(), "diagnose", about)
    begin(asked, path)
    own = None if asked.experiment is None else read_file(asked.experiment)
    run = open_run(path, Named(asked.task, own, None, env), strict=asked.strict)
    found = diagnose_run(run, asked.held_out, asked.fresh, asked.horizon)
    try:
        print_json(found) if asked.json else print(text(found))
    finally:  # also where nobody reads all that is printed
        write(run, found)
    return 0


def report_evaluation(task: Task, found: Evaluation) -> None:
    """Returns, their mean and interval, and whether that solves the task."""
    print(f"{task.name}, {len(found.returns)} episodes from fixed starts")
    print("returns: " + "  ".join(f"{r:.1f}" for r in found.returns))
    low_high = f"  (95% interval {found.interval[0]:.1f} to {found.interval[1]:.1f})" if found.interval else ""
    print(f"mean:    {found.mean_return:.1f}{low_high}")
    if found.successes is not None:
        print(f"success: {found.successes} of {len(found.returns)}")
    if task.threshold is not None:
        verdict = "solved" if found.mean_return >= task.threshold else "not solved"
        print(f"{verdict}: the threshold is {task.threshold:g}")


DEMO_STEPS = 50
DEMO_STARTS = 3


def demo(argv: list[str]) -> int:
    """Train a Pendulum controller, and say what to do with it."""
    import jax.random as jr

    from forethought.policies.excitation import RandomPolicy
    from forethought.runs.evaluation import evaluate as run_policy
    from forethought.runs.experiment import Experiment, open_run
    from forethought.runs.flags import Demo, parse
    from forethought.runs.log import display

    asked = parse(Demo(), argv, "forethought demo", "Train a Pendulum controller in well under a minute.")
    begin(asked)
    experiment = Experiment("Pendulum-v1", steps=DEMO_STEPS, out=asked.out)
    if not asked.json:
        print(f"Pendulum-v1: a controller from {DEMO_STEPS} steps, then {DEMO_STARTS} trials ...", flush=True)
    result = experiment.run(display(asked.quiet), spoken(["demo", *argv]))
    run = open_run(result.run)
    starts, key = run.task.starts[:DEMO_STARTS], jr.key(0)
    before = run_policy(run.task, RandomPolicy(run.task.world.actions), key, starts)
    after = run_policy(run.task, run.algorithm.policy(run.task, run.state), key, starts)
    if asked.json:
        returns = {"random_return": before.mean_return, "mean_return": after.mean_return, "returns": after.returns}
        print_json(result._asdict() | {"run": str(result.run)} | returns)
        return 0
    where = shown(result.run)
    print(
        f"\nMean return of {DEMO_STARTS} episodes: random actions {before.mean_return:.0f}, "
        f"now {after.mean_return:.0f} (solved: {run.task.threshold:.0f}).\n"
        f"It was learned from {result.env_steps} steps in {result.seconds:.1f} s. Everything is in {where}\n\n"
        f"What next?\n"
        f"  forethought evaluate {where}\n"
        f"  forethought train CartPole-v1 --steps 1000\n"
        f"  forethought tasks\n\n"
        f"Or in your own Python:\n"
        f"  import forethought\n"
        f"  policy = forethought.load({str(Path(where.strip(chr(39))))!r})\n"
        f"  policy.reset()\n"
        f"  action = policy.act(observation)"
    )
    return 0


def check(argv: list[str]) -> int:
    """Say what is wrong with an environment."""
    from forethought.checks.environment import check_environment
    from forethought.runs.check_flags import parse_check
    from forethought.tasks import CLASSIC
    from forethought.types import UserError

    asked = parse_check(argv)
    begin(asked.flags)
    try:
        report = check_environment(asked.target, asked.env, asked.flags.steps, asked.flags.seed, asked.flags.guard)
    except UserError:
        # There is no such environment: it may be another task, or a folder.
        if asked.target in CLASSIC:
            raise UserError(f"{asked.target} is simulated by Forethought itself; check takes a Gymnasium id.") from None
        if Path(asked.target).is_dir():
            return check_directory(Path(asked.target), asked.flags)
        raise
    if asked.flags.json:
        print_json(report.as_dict())
    else:
        print(report.text())
    return 0 if report.ok else 1


def check_directory(path: Path, flags: Common) -> int:
    """Say what in a run directory is not as it was written."""
    from forethought.runs.directory import existing
    from forethought.runs.verify import problems

    found = list(problems(existing(path)))
    if flags.json:
        print_json({"run": str(path.absolute()), "ok": not found, "problems": found})
        return 1 if found else 0
    for i, sentence in enumerate(found, start=1):
        print(f"{i}. {sentence}")
    print(f"{len(found)} problems." if found else "Every file is as it was written.")
    return 1 if found else 0


def tasks(argv: list[str]) -> int:
    """List tasks."""
    from forethought.runs.command_line import Common
    from forethought.runs.command_line import parse_plain as parse
    from forethought.tasks import catalogue

    asked = parse(Common(), argv, "forethought tasks", "List tasks. Every other Gymnasium id can be learned too.")
    found = catalogue()
    if asked.json:
        print_json({"tasks": found})
        return 0
    width = max(map(len, found))
    for name, about in found.items():
        print(f"{name:<{width}}  {about}")
    print("\nEvery other Gymnasium id works too: its reward and termination are learned with the model.")
    return 0


def info(argv: list[str]) -> int:
    """Versions and platform."""
    from forethought.runs.command_line import Common
    from forethought.runs.command_line import parse_plain as parse
    from forethought.runs.machine import cache_folder, machine, versions

    asked = parse(Common(), argv, "forethought info", "Versions and platform, for bug reports.")
    begin(asked)
    found = {"versions": versions(), **machine(), "cache": str(cache_folder()) if asked.cache else None}
    if asked.json:
        print_json(found)
        return 0
    print("versions  " + ", ".join(f"{name} {version}" for name, version in found.pop("versions").items()))
    for name, value in found.items():
        print(f"{name:<16}{', '.join(value) if isinstance(value, list) else value}")
    return 0


def elsewhere(module: str) -> Callable[[list[str]], int]:
    """The function `command` of a module that is imported when it is asked for."""
    return lambda argv: importlib.import_module(f"forethought.{module}").command(argv)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "diagnose": diagnose,
    "resume": resume,
    "report": elsewhere("reporting.report"),
    "watch": elsewhere("reporting.watch"),
    "compare": elsewhere("comparing.command"),
    "sweep": elsewhere("sweeping.command"),
    "lecture": elsewhere("lecture.command"),
    "check": check,
    "tasks": tasks,
    "info": info,
}


if __name__ == "__main__":
    sys.exit(main())
