"""Policies."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, pair, require_allowed, require_same_tree
from forethought.core import AbstractPolicy
from forethought.types import Actions, Spec


def check_policy(policy: AbstractPolicy, spec: Spec, actions: Actions) -> None:
    """Take a few steps: actions are finite and allowed, the carry keeps its tree, equal keys give equal actions."""
    name = name_of(policy, AbstractPolicy)
    carry = attempt(f"{name}.init", lambda: _start(policy, jnp.ones((spec.n,), jnp.float32), jr.key(0)))
    taken = []
    for t, k in enumerate(jr.split(jr.key(1), 4)):
        x = jr.normal(k, (spec.n,), jnp.float32)
        result = attempt(f"{name}.act", lambda c=carry, x=x, t=t: _act(policy, c, x, jnp.int32(t)))
        u, after = pair(f"{name}.act", result, "(action, carry)")
        require_allowed(f"{name}.act at step {t}", u, actions)
        require_same_tree(f"{name}.act", after, carry, "the carry it was given")
        taken.append((carry, x, u))
        carry = after
    for t, (before, x, u) in enumerate(taken):
        again, _ = _act(policy, before, x, jnp.int32(t))
        seen = f"{np.asarray(u).tolist()} and then {np.asarray(again).tolist()}"
        expect(
            np.array_equal(u, again), f"{name}.act gave {seen} for the same carry, state and time; expected the same"
        )
    xs = jax.ShapeDtypeStruct((2, spec.n), jnp.float32)
    run = lambda x, k: policy.act(policy.init(x, k), x, jnp.zeros((), jnp.int32))
    attempt(f"{name} under vmap", lambda: eqx.filter_eval_shape(jax.vmap(run), xs, jr.split(jr.key(0), 2)))


@eqx.filter_jit
def _start(policy: Any, x: Any, key: Any) -> Any:
    return policy.init(x, key)


@eqx.filter_jit
def _act(policy: Any, carry: Any, x: Any, t: Any) -> Any:
    return policy.act(carry, x, t)
