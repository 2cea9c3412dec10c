"""`forethought sweep TASK`"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from forethought.console import print_json, shown
from forethought.errors import printable
from forethought.sweeping.job import LOGS, Caps, Outcome
from forethought.sweeping.plan import Plan, check_runs, jobs_of, parse_sweep, prepare, refuse_other, runs_of
from forethought.sweeping.processes import run_processes
from forethought.sweeping.ray_launcher import connected, run_on_ray
from forethought.sweeping.sweep import locked, sweep, told


def command(argv: list[str]) -> int:
    """Train with many seeds and settings, and say what came of each run."""
    plan = parse_sweep(argv)
    caps = Caps(plan.asked.time_limit, plan.asked.memory_limit)
    caps.check()
    runs = runs_of(plan)
    refuse_other(plan)
    check_runs(plan, runs)
    on_ray = plan.asked.launcher == "ray"
    if on_ray:
        connected()
    with locked(plan.out) as held:
        prepare(plan)
        try:
            outcomes = sweep(
                jobs_of(plan, runs),
                plan.out,
                at_once=plan.asked.jobs,
                caps=caps,
                launch=run_on_ray if on_ray else run_processes,
                tell=None if plan.asked.quiet else Progress(len(runs)).tell,
                held=held,
            )
        except KeyboardInterrupt:
            _say("The runs that were going on were ended; the same command again goes on with them.")
            raise
    if plan.asked.json:
        rows = [outcome._asdict() | {"run": str(plan.out / outcome.name)} for outcome in outcomes]
        print_json({"out": str(plan.out), "runs": rows})
    else:
        print("\n".join(report(plan, outcomes)))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


class Progress:
    """A line for each run that has ended, on standard error."""

    def __init__(self, count: int) -> None:
        self.count, self.ended = count, 0

    def tell(self, outcome: Outcome) -> None:
        """Say it."""
        self.ended += 1
        _say(f"[{self.ended}/{self.count}] {outcome.name}: {told(outcome)}")


def report(plan: Plan, outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each run, and what can be done next."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [f"{outcome.name:<{width}}  {printable(told(outcome))}" for outcome in outcomes]
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    lines.append(f"\n{len(outcomes) - failed} of {len(outcomes)} runs are done.")
    if failed:
        logs = shown(plan.out / LOGS)
        lines.append(f"{failed} failed: what they said is in {logs}. The same command again goes on with them.")
    # Not DIR/*: there are logs and states in it, too.
    lines.append(f"Compare: forethought compare {shown(plan.out)}/*seed*")
    return lines


def _say(sentence: str) -> None:
    print(printable(sentence), file=sys.stderr, flush=True)
