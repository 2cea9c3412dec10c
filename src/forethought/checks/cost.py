"""Costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, said, short
from forethought.core import AbstractCost
from forethought.types import Spec


def check_cost(cost: AbstractCost, spec: Spec) -> None:
    """Evaluate at random states: scalars, finite, float32 kept with 64-bit on, `alive` boolean, jit and vmap agree."""
    name = name_of(cost, AbstractCost)
    extras = getattr(cost, "extras", None)
    expect(extras in (0, 2), f"{name}.extras is {extras!r}; expected 0, or 2 if reward and termination are learned")
    with jax.enable_x64(True):
        kx, ku, ky = jr.split(jr.key(0), 3)
        xs = jr.normal(kx, (8, spec.n), jnp.float32).at[0].set(0.0)
        us = jr.normal(ku, (8, spec.m), jnp.float32).at[0].set(0.0)
        ys = jnp.concatenate([xs, jnp.zeros((8, cost.extras), jnp.float32)], 1) + 0.1 * jr.normal(
            ky, (8, spec.n + cost.extras), jnp.float32
        )
        t = jnp.zeros((), jnp.int32)
        calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "stage": (lambda x, u, y: cost.stage(x, u, y, t), (xs, us, ys)),
            "terminal": (cost.terminal, (xs,)),
            "alive": (cost.alive, (ys,)),
        }
        for method, (f, points) in calls.items():
            _check_number(f"{name}.{method}", f, points, flag=method == "alive")


def _check_number(what: str, f: Callable[..., Any], points: tuple[Any, ...], *, flag: bool) -> None:
    """Whether a function of one point gives one finite float32 (or one boolean), the same under jit and vmap."""
    each = [attempt(what, lambda row=row: f(*row)) for row in zip(*points, strict=True)]
    kind = "a boolean array of shape ()" if flag else "a float32 array of shape ()"
    for value in each:
        right = isinstance(value, jax.Array | np.ndarray | np.generic) and value.shape == ()
        expect(right and (value.dtype.kind == "b") == flag, f"{what} returned {said(value)}; expected {kind}")
    if not flag:
        dtype = each[0].dtype
        expect(
            dtype == np.float32,
            f"{what} returned {dtype} for a float32 state with 64-bit on; expected float32, as x is",
        )
    values = np.stack([np.asarray(v) for v in each])
    expect(np.isfinite(values).all(), f"{what} returned {short(values)} at random states; expected finite numbers")
    jitted = np.stack(
        [np.asarray(attempt(f"{what} under jit", lambda r=r: jax.jit(f)(*r))) for r in zip(*points, strict=True)]
    )
    mapped = np.asarray(attempt(f"{what} under vmap", lambda: jax.vmap(f)(*points)))
    for way, found in (("jit", jitted), ("vmap", mapped)):
        same = found.shape == values.shape and np.allclose(found, values, rtol=1e-4, atol=1e-4)
        expect(same, f"{what} gave {short(found)} under {way} and {short(values)} without; expected the same")
