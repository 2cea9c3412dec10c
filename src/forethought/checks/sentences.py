"""What all checks share: expectations, and the sentences in which they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from forethought.types import Actions, Box


class CheckFailed(AssertionError):
    """A class does not keep its interface's promises; the message is one sentence that says which."""


def expect(holds: Any, sentence: str) -> None:
    """Raise `CheckFailed` with the sentence unless it holds."""
    if not bool(holds):
        raise CheckFailed(sentence + ".")


def name_of(thing: Any, kind: type) -> str:
    """The name of its class; it must be an instance of the right interface."""
    if isinstance(thing, type):
        raise CheckFailed(f"{thing.__name__} is a class; expected an object of it: {thing.__name__}(...).")
    name = type(thing).__name__
    expect(isinstance(thing, kind), f"{name} is no {kind.__name__}; expected class {name}({kind.__name__})")
    return name


def attempt(what: str, call: Callable[[], Any]) -> Any:
    """The result of a call; what it raises becomes a sentence."""
    try:
        return call()
    except CheckFailed:
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0][:200].rstrip(".")
        hint = ""
        if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
            hint = ": it must work on traced arrays (jnp instead of np, jnp.where instead of if)"
        raise CheckFailed(f"{what} raised {type(error).__name__} ({first}); expected no error{hint}.") from error


def said(value: Any) -> str:
    """A value's type, with shape and dtype if it is an array."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return " ".join(f"{type(value).__name__} {value!r}"[:400].split())[:120]


def short(value: Any) -> str:
    """Numbers in a sentence."""
    array = np.asarray(value)
    return str((array.round(4) if array.dtype.kind == "f" else array).tolist())[:120]


def pair(what: str, value: Any, form: str) -> tuple[Any, Any]:
    """The value, which must be a tuple of two."""
    expect(isinstance(value, tuple) and len(value) == 2, f"{what} returned {said(value)}; expected a tuple {form}")
    return value


def require_same_tree(what: str, new: Any, old: Any, which: str) -> None:
    """Whether two states have the same tree, shapes and dtypes: otherwise every compiled program is compiled again."""
    (now, tree), (before, old_tree) = (jax.tree_util.tree_flatten_with_path(v) for v in (new, old))
    reason = "expected the same tree, or every program is compiled again"
    expect(tree == old_tree, f"{what} returned another tree than {which} ({_differ(tree, old_tree)}); {reason}")
    for (path, a), (_, b) in zip(now, before, strict=True):
        where = f"{what} returned {jax.tree_util.keystr(path)[:80] or 'it'} as"
        if eqx.is_array(a) and eqx.is_array(b):
            weak = [getattr(v, "weak_type", False) for v in (a, b)]
            same = a.shape == b.shape and a.dtype == b.dtype and weak[0] == weak[1]
            marks = ["" if weak[0] == weak[1] else f" (weakly typed: {w})" for w in weak]
            expect(same, f"{where} {said(a)}{marks[0]}; {which} had {said(b)}{marks[1]}: {reason}")
        else:
            kept = not eqx.is_array(a) and not eqx.is_array(b) and a == b
            expect(kept, f"{where} {said(a)}; {which} had {said(b)}; expected the same, or an array")


def _differ(a: Any, b: Any) -> str:
    """Where two descriptions begin to differ."""
    one, two = str(a), str(b)
    i = next((i for i, (p, q) in enumerate(zip(one, two, strict=False)) if p != q), min(len(one), len(two)))
    return f"'{one[max(i - 20, 0) : i + 40]}' instead of '{two[max(i - 20, 0) : i + 40]}'"


def require_allowed(what: str, u: Any, actions: Actions) -> None:
    """Whether an action has the right shape, is finite, and is one of the allowed ones."""
    u = np.asarray(u)
    expect(u.shape == (actions.m,), f"{what} gave {said(u)}; expected an action of shape ({actions.m},)")
    expect(u.dtype.kind == "f" and np.isfinite(u).all(), f"{what} gave {short(u)} ({u.dtype}); expected finite floats")
    if isinstance(actions, Box):
        low, high = np.asarray(actions.low), np.asarray(actions.high)
        inside = np.all(u >= low - 1e-5 * (high - low)) and np.all(u <= high + 1e-5 * (high - low))
        expect(inside, f"{what} gave {short(u)}; expected an action from {short(low)} to {short(high)}")
    else:
        found = np.abs(np.asarray(actions.values) - u).max(axis=1).min() < 1e-6
        expect(found, f"{what} gave {short(u)}; expected one of the choices {short(actions.values)}")
