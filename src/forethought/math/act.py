"""A policy's two verbs, compiled: worlds that are Python loops call these, once per episode and once per step.

They are module-level, and the policy is an argument: a policy around a freshly fitted model finds the program of the
last one.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from forethought.core import AbstractPolicy
from forethought.types import Action, RandomKey, State, Time


@eqx.filter_jit
def start(policy: AbstractPolicy, x: State, key: RandomKey) -> Any:
    """The carry when the policy takes over at state x; the policy sees x in float32."""
    return policy.init(jnp.asarray(x, jnp.float32), key)


@eqx.filter_jit
def act(policy: AbstractPolicy, carry: Any, x: State, t: Time) -> tuple[Action, Any]:
    """The action at state x, step t, and the carry after it; the policy sees x in float32 and t in int32."""
    return policy.act(carry, jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.int32))
