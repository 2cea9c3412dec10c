"""The command line of `check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from forethought.runs.command_line import Common, flags_of, one_place, split
from forethought.runs.flags import parse, reach, take_env
from forethought.types import UserError
from forethought.worlds.guard import Guard


@dataclasses.dataclass(frozen=True)
class Check(Common):
    """What `check` takes."""

    steps: int = 1000
    """Random steps."""
    seed: int = 0
    """The first reset seed, and the seed of the actions."""
    guard: Guard = dataclasses.field(default_factory=Guard)


class AskedCheck(NamedTuple):
    """What is to be checked, and how."""

    target: str
    env: dict[str, Any]
    flags: Check


ABOUT = """Act at random in the environment of a Gymnasium id or module:id, and say what is wrong and how to mend it:
spaces, shapes, dtypes, bounds, rewards, flags, seeding, determinism under a seed, the time limit, the time that a
step takes, and whether two instances disturb each other. The exit status is 0 if nothing is wrong, and 1 otherwise.
For a run directory: whether every file of it is as it was written.

--env.NAME VALUE passes keyword arguments to gymnasium.make (JSON, or a text): --env.g 9.81"""


def parse_check(argv: Sequence[str]) -> AskedCheck:
    """What a command line asks for.  Raises `UserError`."""
    known = {name for name, flag in flags_of(Check()).items() if flag.switch} | {"-h", "--help"}
    places, rest = split(argv, known)
    env, rest = take_env(rest)
    example = "; for example: forethought check Pendulum-v1."
    target = "" if {"-h", "--help"} & set(rest) else one_place(places, "check", "environment", example)
    flags = parse(Check(), rest, "forethought check TASK", ABOUT)
    for name, value in (("--steps", flags.steps), ("--seed", flags.seed + 1)):
        if value < 1:
            raise UserError(f"{name} is {value - (name == '--seed')}; it must be {int(name == '--steps')} or larger.")
    reach(target)
    return AskedCheck(target, env, flags)
