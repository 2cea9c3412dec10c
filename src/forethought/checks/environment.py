"""What is wrong with a Gymnasium environment, found by acting in it at random, and how to mend it.

Nothing of the environment is trusted: what it raises, wherever, is one more finding.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from forethought.checks.findings import Findings, Report, Stopwatch
from forethought.errors import UserError
from forethought.worlds.guard import Guard
from forethought.worlds.gym import gym_world
from forethought.worlds.source import Guarded, Source, clock, find

PROBE = 100
"""Steps of the episode that is repeated to see whether it comes out the same."""

FRUITLESS = 3
"""Episodes in a row without one finished step, after which no more are begun."""

OWN_RANDOM = (
    "draw every random number from self.np_random, which super().reset(seed=seed) seeds, and none from numpy.random, "
    "random or the clock"
)


class Row(NamedTuple):
    """What a reset (reward None) or a step gave."""

    observation: Any
    reward: Any
    done: bool


def check_environment(
    id: str, kwargs: Mapping[str, Any] | None = None, steps: int = 1000, seed: int = 0, guard: Guard | None = None
) -> Report:
    """Act at random for `steps` steps in the environment of a Gymnasium id or module:id, and look at what comes back.

    After a fault it goes on with a fresh episode, until about ten different ones are found.  What the environment
    prints goes to standard error.  Raises `UserError` for an id that does not exist, and for nothing else; a process
    that the environment ends, or a call that hangs outside Python, cannot be helped.
    """
    source = Source(id, dict(kwargs or {}), None, 1, 1, Guard() if guard is None else guard)
    found = Findings(id, seed, source.guard.deadline)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            find(id)
        except SystemExit as error:
            raise UserError(f"The module of {id} ends the program when it is imported.") from error
        try:
            _look(found, source, steps)
        except Exception as error:
            found.problem(f"{id}: the check could not go on after {type(error).__name__}: {error}")
    return found.report()


def _look(found: Findings, source: Source, steps: int) -> None:
    """Everything, in the order in which it builds on each other."""
    bare = found.attempt("its __init__", source.bare)
    if bare is None:
        return
    watch = Stopwatch(bare)
    env = found.attempt("its spaces", lambda: Guarded(watch, source.id, 1, source.guard, found.note))
    if env is None:
        return
    found.observations = found.attempt("its observation_space", lambda: str(env.observation_space))
    found.actions = found.attempt("its action_space", lambda: str(env.action_space))
    _supported(found, source, env)
    _act(found, env, steps)
    found.seconds = list(watch.seconds)
    if not found.hung and found.steps:
        _repeat(found, env, source)
    found.attempt("close", env.close)


def _supported(found: Findings, source: Source, env: Guarded) -> None:
    """Whether a controller can be learned for it; the sentence about its spaces is the one that `train` says."""

    def as_train_does() -> None:
        gym_world(source.id, source.kwargs, limit=1).env.close()

    found.attempt("a second instance, beside the first,", as_train_does)
    found.limit = found.attempt("its wrappers", lambda: clock(env))
    if found.limit is None:
        found.problem(
            f"{source.id} has no time limit, and an episode must end somewhere: register it with "
            "max_episode_steps=..., or say --limit to train."
        )


def _act(found: Findings, env: Guarded, steps: int) -> None:
    """Episodes of random actions, with another reset seed each, until `steps` steps are finished."""
    found.attempt("action_space.seed", lambda: env.action_space.seed(found.seed))
    excess, fruitless, seed = 0.0, 0, found.seed
    while found.steps < steps and fruitless < FRUITLESS and not found.enough:
        before = found.steps
        excess = max(excess, _episode(found, env, seed, steps))
        fruitless = 0 if found.steps > before else fruitless + 1
        seed += 1
    if excess > 0.0:
        found.note(
            f"observations left the limits of observation_space by up to {excess:.3g}, not far enough to be a fault. "
            "Declare wider limits if that is no rounding error."
        )
    if found.steps and not found.terminated and not found.truncated:
        found.note(f"no episode ended within {found.steps} steps.")


def _episode(found: Findings, env: Guarded, seed: int, budget: int) -> float:
    """One episode; returns how far its observations were outside the box."""
    begun = found.attempt("reset", lambda: env.reset(seed=seed))
    if begun is None:
        return 0.0
    found.episodes += 1
    excess = _excess(env.observation_space, begun[0])
    while found.steps < budget:
        action = found.attempt("action_space.sample", env.action_space.sample)
        if action is None:
            return excess
        given = copy.deepcopy(action)
        # The lambda is called at once.
        result = found.attempt("step", lambda: env.step(action))  # noqa: B023
        if not same(action, given):
            found.problem(
                f"{found.environment}, at step {env.steps - 1}: step changed the action that it was given in place; "
                "it must work on a copy, action = numpy.clip(action, low, high) without out=.",
                "action",
            )
        if result is None:
            return excess
        found.steps += 1
        excess = max(excess, _excess(env.observation_space, result[0]))
        found.terminated += bool(result[2])
        found.truncated += bool(result[3])
        if result[2] or result[3]:
            break
    return excess


def _repeat(found: Findings, env: Guarded, source: Source) -> None:
    """Seeding, determinism under a seed, and the independence of two instances, from repetitions of one episode."""
    found.attempt("action_space.seed", lambda: env.action_space.seed(found.seed + 1))
    actions = found.attempt("action_space.sample", lambda: [env.action_space.sample() for _ in range(PROBE)])
    if actions is None:
        return
    first, again = (_record(found, env, found.seed, actions) for _ in range(2))
    if first is None or again is None:
        return
    i = difference(first, again)
    if i == 0:
        found.problem(
            f"{found.environment}: two resets with the seed {found.seed} began with {_differ(first[0], again[0])}; "
            f"{OWN_RANDOM}."
        )
    elif i is not None:
        found.problem(
            f"{found.environment}: the same seed and the same actions gave, at step {i - 1}, "
            f"{_differ(first[i], again[i])}; {OWN_RANDOM}, and let reset set back all that step changes."
        )
    starts = [_record(found, env, found.seed + k, []) for k in range(1, 4)]
    if i != 0 and all(start is not None and same(start[0].observation, first[0].observation) for start in starts):
        found.note("every reset seed begins with the same observation.")
    found.attempt("reset without a seed", env.reset)
    if i is None:
        _beside(found, env, source, first, actions)


def _beside(found: Findings, env: Guarded, source: Source, first: list[Row], actions: Sequence[Any]) -> None:
    """Whether a new instance does the same, and whether it disturbs the one that is there."""
    other = found.attempt(
        "another instance, beside the first,", lambda: Guarded(source.bare(), source.id, 1, source.guard, found.note)
    )
    if other is None:
        return
    fresh = _record(found, other, found.seed, actions)
    if fresh is not None and (i := difference(first, fresh)) is not None:
        found.problem(
            f"{found.environment}: a new instance, with the same seed and the same actions, gave "
            f"{_at(i)} {_differ(first[i], fresh[i])}; keep no state from one episode or instance to the next."
        )
    mixed = _record(found, env, found.seed, actions, other)
    if mixed is not None and (i := difference(first, mixed)) is not None:
        found.problem(
            f"{found.environment}: two instances disturb each other: while another one was run beside it, the same "
            f"seed and the same actions gave {_at(i)} {_differ(first[i], mixed[i])}; keep all state on self, none in "
            "the class, the module or a shared array."
        )
    found.attempt("close", other.close)


def _record(
    found: Findings, env: Guarded, seed: int, actions: Sequence[Any], beside: Guarded | None = None
) -> list[Row] | None:
    """The rows of an episode with these actions; None after a fault.

    With `beside`, that environment is reset and stepped in between, with another seed and the actions backwards.
    """

    def run() -> list[Row]:
        rows = [Row(copy.deepcopy(env.reset(seed=seed)[0]), None, False)]
        others = list(reversed(actions))
        if beside is not None:
            beside.reset(seed=seed + 1)
        for action, another in zip(actions, others, strict=True):
            observation, reward, terminated, truncated, _ = env.step(copy.deepcopy(action))
            rows.append(Row(copy.deepcopy(observation), reward, bool(terminated or truncated)))
            if rows[-1].done:
                break
            if beside is not None and any(beside.step(copy.deepcopy(another))[2:4]):
                beside.reset(seed=seed + 1)
        return rows

    return found.attempt("an episode that is repeated", run)


def difference(a: Sequence[Row], b: Sequence[Row]) -> int | None:
    """The first row in which two episodes differ; None: in none."""
    for i, (one, two) in enumerate(zip(a, b, strict=False)):
        if not all(same(x, y) for x, y in zip(one, two, strict=True)):
            return i
    return None


def same(a: Any, b: Any) -> bool:
    """Whether two observations or actions of a space are equal, number by number; what cannot be compared is not."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    try:
        return bool(np.all(np.asarray(a == b)))
    except Exception:
        return False


def _at(i: int) -> str:
    return "in reset" if i == 0 else f"at step {i - 1}"


def _differ(a: Row, b: Row) -> str:
    """What is different, once and then."""
    name = next(name for name in Row._fields if not same(getattr(a, name), getattr(b, name)))
    one, two = (" ".join(repr(getattr(row, name)).split())[:80] for row in (a, b))
    return f"the {'end' if name == 'done' else name} {one} and then {two}"


def _excess(space: spaces.Space, observation: Any) -> float:
    """How far an observation, which the guard has passed, is outside a box."""
    if not isinstance(space, spaces.Box):
        return 0.0
    value = np.asarray(observation, np.float64)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return float(np.maximum(np.maximum(low - value, value - high), 0.0).max(initial=0.0))
