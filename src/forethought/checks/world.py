"""Worlds."""

from __future__ import annotations

from typing import Any

import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, require_allowed, said, short
from forethought.core import AbstractPolicy, AbstractWitness, AbstractWorld
from forethought.math.act import start
from forethought.policies.excitation import RandomPolicy
from forethought.types import Cursor, Spec, Trajectory


def check_world(world: AbstractWorld) -> None:
    """Act at random for an episode or 300 steps: resets, shapes, dtypes, flags, time, witnesses, closing, and
    independence of `fresh`.

    Whether the same condition gives the same episode is looked at where the world says so: a machine, which never does
    the same twice, has replayable=False.
    """
    name = name_of(world, AbstractWorld)
    spec, actions, again = world.spec, world.actions, world.replayable
    expect(actions.m == spec.m, f"{name}.actions.m is {actions.m} and spec.m is {spec.m}; expected the same number")
    expect(isinstance(again, bool), f"{name}.replayable is {said(again)}; expected True or False")
    policy, keys = RandomPolicy(actions), jr.split(jr.key(0), 4)
    drawn = attempt(f"{name}.reset without a condition", lambda: world.reset(keys[0]))
    _check_start(name, drawn, spec)
    at = _reset(name, world, keys[0], 7)
    if again:
        at = _same_start(name, world, at, keys[1], "")
    _walk(name, world, policy, at, keys[2])
    _check_rollouts(name, world, policy, keys[3])
    _check_witness(name, world, policy, keys[3])
    if again:
        _check_replay(name, world, policy, keys[3])
    _check_close(name, world, policy, keys[3])


HOW = "declare replayable=False if that cannot be"


def _same_start(name: str, world: AbstractWorld, at: Cursor, key: Any, when: str) -> Cursor:
    """The start of the same episode once more, which another key must not change."""
    again = _reset(name, world, key, 7)
    seen = f"{short(at.x)} and then{when} {short(again.x)}"
    same = np.array_equal(at.x, again.x)
    expect(same, f"{name}.reset with condition 7 gave {seen}; expected the same start ({HOW})")
    return again


def _check_replay(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any) -> None:
    """Whether an episode is the same when it is done again, here, in a copy, and with a copy in use in between."""
    same = lambda one, two: all(_equal(getattr(one, f), getattr(two, f)) for f in Trajectory.__dataclass_fields__)
    plain, again, beside = (_two_pieces(name, world, policy, key, disturb) for disturb in (False, False, True))
    for trajectory, where in ((again, ""), (_two_pieces(name, world.fresh(), policy, key, False), " in a fresh copy")):
        expect(
            same(plain, trajectory),
            f"{name}.collect gave two different episodes for the same condition, policy and key{where}; expected the "
            f"same ({HOW})",
        )
    expect(
        same(plain, beside),
        f"{name}.fresh is not independent: the copy changed an open episode; expected no difference",
    )


def _equal(one: Any, two: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(two))


class _Notes(AbstractWitness):
    """Writes down all that it is shown."""

    def __init__(self) -> None:
        self.began_at: list[tuple[np.ndarray, int, int]] = []
        """(x, condition, transitions shown before) of each episode."""
        self.rows: list[tuple[Any, ...]] = []

    def began(self, x: np.ndarray, condition: int) -> None:
        """An episode."""
        self.began_at.append((np.array(x), int(condition), len(self.rows)))

    def happened(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """A transition."""
        self.rows.append((np.array(u), np.array(y), reward, terminated, truncated))


class _NoMore(Exception):
    """What the refusing witness raises."""


class _Refuses(_Notes):
    """Has no room for a single transition, like a full disk."""

    def happened(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """No."""
        raise _NoMore


def _watched(name: str, world: AbstractWorld, witness: AbstractWitness) -> AbstractWorld:
    watched = attempt(f"{name}.watched", lambda: world.watched(witness))
    expect(isinstance(watched, AbstractWorld), f"{name}.watched returned {said(watched)}; expected an AbstractWorld")
    return watched


def _check_witness(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any) -> None:
    """Whether a witness sees each reset and each transition once, in order, and can end the collection."""
    what, notes, shown = f"{name}.watched", _Notes(), 0
    watched = _watched(name, world, notes)
    for episode, condition in enumerate((7, 6)):
        at = _reset(name, watched, key, condition)
        x, first = np.array(at.x), shown
        carry = start(policy, np.asarray(at.x, np.float32), key)
        for _ in range(2):
            if bool(at.done):
                break
            piece, carry, at = _collect(name, watched, policy, carry, at, key)
            _check_shown(what, notes.rows[shown:], piece)
            shown += piece.length
        seen, wanted = notes.began_at[episode:], (short(x), condition, first)
        told = [(short(x), condition, before) for x, condition, before in seen]
        expect(
            told == [wanted] and _equal(seen[0][0], x),
            f"{what}: began was called with (x, condition, transitions before it) {told}; expected [{wanted}]",
        )
    _collect_apart(name, watched.fresh(), policy, key)
    unseen = len(notes.rows) == shown
    expect(unseen, f"{name}.fresh of a watched world is watched too; expected a copy that nobody watches")
    refusing = _watched(name, world, _Refuses())
    try:
        _collect_apart(name, refusing, policy, key, plain=True)
    except _NoMore:
        return
    expect(False, f"{what} hid an error of the witness; expected collect to end with it")


def _check_shown(what: str, rows: list[tuple[Any, ...]], piece: Trajectory) -> None:
    """Whether these rows are the transitions of the piece."""
    count = len(rows)
    expect(
        count == piece.length,
        f"{what}: the witness saw {count} transitions when collect returned {piece.length}; expected each of them once",
    )
    for i, row in enumerate(rows):
        for field, value in zip(("u", "y", "reward", "terminated", "truncated"), row, strict=True):
            returned = np.asarray(getattr(piece, field))[i]
            expect(
                _equal(value, returned),
                f"{what}: the witness saw {field} as {short(value)} at step {int(piece.t[i])}, and collect returned "
                f"{short(returned)}; expected the same",
            )


def _collect_apart(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any, *, plain: bool = False) -> None:
    """A few steps of an episode; `plain`: with whatever error there is."""
    at = _reset(name, world, key, 7)
    carry = start(policy, np.asarray(at.x, np.float32), key)
    if plain:
        world.collect(policy, carry, at, key, 7)
    else:
        _collect(name, world, policy, carry, at, key)


def _check_close(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any) -> None:
    """Whether a world can be closed, more than once, and begun again."""
    at = _reset(name, world, key, 7)
    for _ in range(2):
        attempt(f"{name}.close", world.close)
    if world.replayable:
        at = _same_start(name, world, at, key, " after close")
    attempt(f"{name} after close", lambda: _collect_apart(name, world, policy, key))


def _reset(name: str, world: AbstractWorld, key: Any, condition: int) -> Cursor:
    """The start of an episode, checked."""
    at = attempt(f"{name}.reset", lambda: world.reset(key, condition))
    _check_start(name, at, world.spec)
    return at


def _check_start(name: str, at: Any, spec: Spec) -> None:
    """Whether a cursor stands at the first step of an open episode."""
    expect(isinstance(at, Cursor), f"{name}.reset returned {said(at)}; expected a Cursor")
    x = np.asarray(at.x)
    right = x.shape == (spec.n,) and x.dtype.kind == "f" and bool(np.isfinite(x).all())
    expect(right, f"{name}.reset gave x as {said(at.x)}; expected finite floats of shape ({spec.n},)")
    expect(int(at.t) == 0, f"{name}.reset gave t = {int(at.t)}; expected 0")
    expect(not bool(at.done), f"{name}.reset gave an episode that is done; expected one that is open")


def _collect(name: str, world: AbstractWorld, policy: Any, carry: Any, at: Cursor, key: Any) -> Any:
    """At most seven more steps."""
    what = f"{name}.collect"
    result = attempt(what, lambda: world.collect(policy, carry, at, key, 7))
    right = isinstance(result, tuple) and len(result) == 3 and isinstance(result[0], Trajectory)
    expect(right, f"{what} returned {said(result)}; expected a tuple (trajectory, carry, cursor)")
    return result


def _walk(name: str, world: AbstractWorld, policy: AbstractPolicy, at: Cursor, key: Any) -> None:
    """An episode, or its first 300 steps, in pieces, each checked."""
    what, taken = f"{name}.collect", 0
    carry = start(policy, np.asarray(at.x, np.float32), key)
    while taken < 300 and not bool(at.done):
        before = np.array(at.x)
        piece, carry, now = _collect(name, world, policy, carry, at, jr.fold_in(key, taken))
        _check_piece(what, world, piece, before, taken)
        taken += piece.length
        expect(np.array_equal(now.x, piece.y[-1]), f"{what}: the cursor's x is not the last y; expected the same")
        expect(int(now.t) == taken, f"{what}: the cursor's t is {int(now.t)} after {taken} steps; expected {taken}")
        ended = bool(piece.terminated[-1]) or bool(piece.truncated[-1])
        seen = f"the cursor's done is {bool(now.done)} and the last flags say {ended}"
        expect(bool(now.done) == ended, f"{what}: {seen}; expected the same")
        full = piece.length == 7 or ended
        expect(full, f"{what} took {piece.length} of 7 steps though the episode did not end; expected 7")
        conditions = np.asarray(piece.condition)
        expect(np.all(conditions == 7), f"{what}: condition is {short(conditions)}; expected the reset's condition, 7")
        at = now


def _check_piece(what: str, world: AbstractWorld, piece: Trajectory, x: np.ndarray, t: int) -> None:
    """Shapes, dtypes and consistency of transitions that begin at x, step t."""
    spec, count = world.spec, piece.length
    expect(1 <= count <= 7, f"{what} took {count} steps and was asked for at most 7; expected 1 to 7")
    widths = {"x": (spec.n,), "u": (spec.m,), "y": (spec.n,)}
    kinds = {"terminated": "b", "truncated": "b", "t": "iu", "condition": "iu"}
    for field in ("x", "u", "y", "reward", "terminated", "truncated", "t", "log_prob", "condition"):
        value, shape = np.asarray(getattr(piece, field)), (count, *widths.get(field, ()))
        kind = kinds.get(field, "f")
        words = {"b": "booleans", "iu": "whole numbers", "f": "finite floats"}[kind]
        right = value.shape == shape and value.dtype.kind in kind and (kind != "f" or bool(np.isfinite(value).all()))
        expect(right, f"{what}: {field} is {said(value)}; expected {words} of shape {shape}")
    expect(np.array_equal(piece.x[0], x), f"{what}: x[0] is {short(piece.x[0])}; expected the cursor's {short(x)}")
    joined = np.array_equal(piece.y[:-1], piece.x[1:])
    expect(joined, f"{what}: y[t] is not x[t+1]; expected each step to begin where the last one ended")
    times = np.arange(t, t + count)
    expect(np.array_equal(piece.t, times), f"{what}: t is {short(piece.t)}; expected {short(times)}")
    early = np.any(np.asarray(piece.terminated)[:-1] | np.asarray(piece.truncated)[:-1])
    expect(not early, f"{what} went on after terminated or truncated; expected the episode to end there")
    for u in np.asarray(piece.u):
        require_allowed(what, u, world.actions)


def _check_rollouts(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any) -> None:
    """Whether each condition has its own short episode, in order."""
    what, conditions = f"{name}.rollouts", [12, 11]
    episodes = attempt(what, lambda: world.fresh().rollouts(policy, key, conditions, 7))
    right = isinstance(episodes, list) and len(episodes) == 2
    expect(right, f"{what} returned {said(episodes)}; expected a list of one trajectory per condition")
    for condition, episode in zip(conditions, episodes, strict=True):
        first = _reset(name, world.fresh(), key, condition).x if world.replayable else episode.x[0]
        _check_piece(f"{what} with condition {condition}", world, episode, np.asarray(first), 0)


def _two_pieces(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any, disturb: bool) -> Trajectory:
    """The second seven steps of an episode, with an episode of a copy in between, or the first if there are no more."""
    at = _reset(name, world, key, 7)
    carry = start(policy, np.asarray(at.x, np.float32), key)
    piece, carry, at = _collect(name, world, policy, carry, at, key)
    if disturb:
        copy = attempt(f"{name}.fresh", world.fresh)
        expect(isinstance(copy, AbstractWorld), f"{name}.fresh returned {said(copy)}; expected an AbstractWorld")
        other = _reset(name, copy, key, 8)
        _collect(name, copy, policy, start(policy, np.asarray(other.x, np.float32), key), other, key)
    return piece if bool(at.done) else _collect(name, world, policy, carry, at, key)[0]
