"""Twenty faults of an environment, at every place where each can occur: how many are found, and what is kept.

    python bench/faults.py            # writes results/reliability/faults.json

The faults are those of tests/faulty.py: in reset, at steps 1 and 30 and at the last one, in this process and in a
worker process.  A fault is *found* if it is told, *named* if that says the environment, the step, the field and the
value, and the data are *kept* if every transition before it comes with the error, bit for bit as in a healthy
environment.  A cast without loss is no error: it must be told once, and the whole episode kept.  A step that hangs
cannot be ended in this process: that is counted apart.

The same faults, at step 30, then meet what Gymnasium has: its `check_env` (run on the environment as it is) and the
checker that `gymnasium.make` puts around an environment.  There a fault counts as found if an error or a warning comes
that a healthy environment does not give; but the fault's own exception is no finding.

The status is 1 if anything was not found, not named or not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from gymnasium.utils.env_checker import check_env
from runner import HERE, RESULTS, commit, machine

sys.path.append(str(HERE.parent / "tests"))
from faulty import FAULTS, ID, IN_RESET, LAST, LIMIT, OBSERVATION, REWARD
from forethought.core import AbstractPolicy
from forethought.types import Trajectory
from forethought.worlds.guard import TransitionError
from forethought.worlds.gym import GymWorld, Live, gym_world
from forethought.worlds.remote import WorkerLost

KEY = jr.key(0)
PLACES = {"reset": -1, "step 1": 1, "step 30": 30, "last step": LAST}
WHERE = ("in process", "worker process")
DEADLINE = 20.0
HANG = 1.0
"""Seconds of a deadline that is meant to be missed."""
FIELDS = {
    **dict.fromkeys((*OBSERVATION, "far-out", "in-place", "lossless-dtype"), "observation"),
    **dict.fromkeys(REWARD, "reward"),
    "info-none": "info",
    "four-tuple": "result",
    "terminated-0.7": "terminated",
}
"""What each fault is a fault of; the others are of the step or the reset itself."""


class Push(AbstractPolicy):
    """The same small action always."""

    def init(self, x: Any, key: Any) -> None:
        return None

    def act(self, carry: Any, x: Any, t: Any) -> tuple[Any, None]:
        return jnp.full(1, 0.25, jnp.float32), None


def world(fault: str, at: int, where: str) -> GymWorld:
    """The environment with this fault; one in reset is in that of the second episode, so that one is finished."""
    made = gym_world(ID, {"fault": fault, "at": at, "episode": 1 if at == -1 else 0})
    made.close()
    deadline = None if where == "in process" else HANG if fault == "hang" else DEADLINE
    return dataclasses.replace(made, live=Live(), deadline=deadline)


def one(fault: str, place: str, where: str, healthy: list[Trajectory]) -> dict[str, Any]:
    """Collect two episodes with this fault in them."""
    at, said, error, episodes = PLACES[place], [], None, []
    made = world(fault, at, where)
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            episodes = made.rollouts(Push(), KEY, [5, 6], LIMIT)
        except TransitionError as raised:
            error = raised
        said = [str(warning.message) for warning in caught]
    made.close()
    row = {"fault": fault, "place": place, "where": where, "seconds": round(time.perf_counter() - began, 3)}
    if fault == "lossless-dtype":
        about = [sentence for sentence in said if "dtype" in sentence]
        start = f"{ID}, {'in reset' if at == -1 else f'at step {at}'}: observation is of dtype float64"
        kept = len(episodes) == 2 and all(equal(e, h) for e, h in zip(episodes, healthy, strict=True))
        named = len(about) == 1 and about[0].startswith(start)
        return row | {"found": len(about) > 0, "named": named, "kept": kept, "sentence": (about or [""])[0]}
    if error is None:
        return row | {"found": False, "named": False, "kept": False, "sentence": ""}
    before = healthy[0] if at == -1 else rows(healthy[0], at)
    kept = error.trajectory is not None and equal(error.trajectory, before)
    return row | {"found": True, "named": named_in(error, fault, at), "kept": kept, "sentence": str(error)}


def named_in(error: TransitionError, fault: str, at: int) -> bool:
    """Whether it says the environment, the step, the field and the value."""
    step, field = (None, "reset") if at == -1 else (at, "step")
    field, sentence = FIELDS.get(fault, field), str(error)
    right = (error.environment, error.step, error.field) == (ID, step, field)
    right &= sentence.startswith(f"{ID}, {'in reset' if step is None else f'at step {step}'}: ") and field in sentence
    if fault == "hang":
        return right and isinstance(error, WorkerLost) and f"within {HANG:g} s" in sentence
    return right and bool(sentence.rpartition("; it was ")[2].strip(" ."))


def rows(episode: Trajectory, count: int) -> Trajectory:
    """The first transitions."""
    return Trajectory(**{name: getattr(episode, name)[:count] for name in Trajectory.__dataclass_fields__})


def equal(a: Trajectory, b: Trajectory) -> bool:
    """Bit for bit."""
    pairs = [(np.asarray(getattr(a, f)), np.asarray(getattr(b, f))) for f in Trajectory.__dataclass_fields__]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


class Late(BaseException):
    """It waits for ever, and we do not."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `Late` here after so many seconds."""

    def ring(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(check: Callable[[str], None], fault: str) -> dict[str, Any]:
    """What a checker says of an environment: its error and its warnings."""
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with at_most(3):
                check(fault)
        except Late:
            error = "waited for ever"
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    return {"error": error, "warnings": sorted({str(warning.message) for warning in caught})}


def whole_check(fault: str) -> None:
    """Gymnasium's `check_env`."""
    check_env(gymnasium.make(ID, fault=fault, at=30).unwrapped, skip_render_check=True)


def episode_under_check(fault: str) -> None:
    """One episode through what `gymnasium.make` puts around an environment, its checker included."""
    env = gymnasium.make(ID, fault=fault, at=30)
    env.reset(seed=5)
    for _ in range(LIMIT):
        env.step(np.full(1, 0.25, np.float32))


def elsewhere(check: Callable[[str], None]) -> dict[str, Any]:
    """What a checker finds of the twenty at step 30."""
    healthy = outcome(check, "none")
    found, said = [], {}
    for fault in FAULTS:
        seen = outcome(check, fault)
        own = fault == "exception" and "the motor is off" in str(seen["error"])
        error = None if own or seen["error"] == "waited for ever" else seen["error"]
        news = [*([error] if error else []), *(w for w in seen["warnings"] if w not in healthy["warnings"])]
        said[fault] = news or ([seen["error"]] if seen["error"] else [])
        found += [fault] if news else []
    return {"of": len(FAULTS), "found": found, "said": said, "healthy": healthy}


def cases(faults: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Every fault at every place where it can occur, here and in a worker; a hang only there."""
    for where in WHERE:
        for place in PLACES:
            for fault in faults:
                if (place != "reset" or fault in IN_RESET) and not (fault == "hang" and where == "in process"):
                    yield fault, place, where


def guard(faults: tuple[str, ...]) -> dict[str, Any]:
    """What our guard finds of these faults."""
    healthy = world("none", 0, "in process").rollouts(Push(), KEY, [5, 6], LIMIT)
    each = [one(fault, place, where, healthy) for fault, place, where in cases(faults)]
    counts = {
        where: {"cases": len(there)} | {what: sum(row[what] for row in there) for what in ("found", "named", "kept")}
        for where in WHERE
        for there in [[row for row in each if row["where"] == where]]
    }
    wrong = sum(not (row["found"] and row["named"] and row["kept"]) for row in each)
    return {"faults": len(faults), "cases": len(each), "wrong": wrong, "counts": counts, "each": each}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "faults.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = guard(FAULTS)
    result = {
        "figure": "faults",
        "settings": {"places": list(PLACES), "where": list(WHERE), "deadline": DEADLINE, "hang_deadline": HANG},
        **found,
        "gymnasium": {
            "version": gymnasium.__version__,
            "check_env": elsewhere(whole_check),
            "passive": elsewhere(episode_under_check),
        },
        "met": found["wrong"] == 0,
        "commit": commit(),
        "machine": machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for where, count in found["counts"].items():
        print(f"{where}: " + ", ".join(f"{name} {value}" for name, value in count.items()))
    for name in ("check_env", "passive"):
        print(f"Gymnasium, {name}: {result['gymnasium'][name]['found']}")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
