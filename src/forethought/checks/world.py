"""Worlds."""

from __future__ import annotations

from typing import Any

import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, require_allowed, said, short
from forethought.core import AbstractPolicy, AbstractWorld
from forethought.math.act import start
from forethought.policies.excitation import RandomPolicy
from forethought.types import Cursor, Spec, Trajectory


def check_world(world: AbstractWorld, *, repeatable: bool = True) -> None:
    """Act at random for an episode or 300 steps: resets, shapes, dtypes, flags, time, and independence of `fresh`.

    A machine, which never does the same twice, is checked with repeatable=False.
    """
    name = name_of(world, AbstractWorld)
    spec, actions = world.spec, world.actions
    expect(actions.m == spec.m, f"{name}.actions.m is {actions.m} and spec.m is {spec.m}; expected the same number")
    policy, keys = RandomPolicy(actions), jr.split(jr.key(0), 4)
    drawn = attempt(f"{name}.reset without a condition", lambda: world.reset(keys[0]))
    _check_start(name, drawn, spec)
    at = _reset(name, world, keys[0], 7)
    if repeatable:
        again = _reset(name, world, keys[1], 7)
        seen = f"{short(at.x)} and then {short(again.x)}"
        expect(np.array_equal(at.x, again.x), f"{name}.reset with condition 7 gave {seen}; expected the same start")
        at = again
    _walk(name, world, policy, at, keys[2])
    _check_rollouts(name, world, policy, keys[3], repeatable)
    if repeatable:
        plain, beside = (_two_pieces(name, world, policy, keys[3], disturb) for disturb in (False, True))
        again = _two_pieces(name, world, policy, keys[3], False)
        same = lambda one, two: one.y.shape == two.y.shape and np.array_equal(one.y, two.y)
        expect(
            same(plain, again),
            f"{name}.collect gave two different episodes for the same condition, policy and key; expected the same "
            "(repeatable=False if that cannot be)",
        )
        expect(
            same(plain, beside),
            f"{name}.fresh is not independent: the copy changed an open episode; expected no difference",
        )


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


def _check_rollouts(name: str, world: AbstractWorld, policy: AbstractPolicy, key: Any, repeatable: bool) -> None:
    """Whether each condition has its own short episode, in order."""
    what, conditions = f"{name}.rollouts", [12, 11]
    episodes = attempt(what, lambda: world.fresh().rollouts(policy, key, conditions, 7))
    right = isinstance(episodes, list) and len(episodes) == 2
    expect(right, f"{what} returned {said(episodes)}; expected a list of one trajectory per condition")
    for condition, episode in zip(conditions, episodes, strict=True):
        first = _reset(name, world.fresh(), key, condition).x if repeatable else episode.x[0]
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
