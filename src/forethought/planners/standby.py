"""What is done when there is no plan to trust: nothing, the same as before, or what another policy says."""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.finite import credible, where_all
from forethought.types import Action, Actions, Array, Flag, RandomKey, State, Time, UserError

Safe = Literal["zero", "hold"] | AbstractPolicy
"""The safe action: the allowed one nearest to zero, the last executed one (zero before the first), or a policy's."""


class Ready(eqx.Module):
    """What the safe action needs to know.  Only what the setting asks for is kept; its tree never changes."""

    last: Float[Array, " m"] | None = None
    """The last executed action, for "hold"."""
    x: Float[Array, " n"] | None = None
    """The last credible observation, for a policy: zeros before the first."""
    inner: Any = None
    """The policy's own carry."""


def get_ready(safe: Safe | str, actions: Actions, x: State, key: RandomKey) -> Ready:
    """At the first state of an episode.  Raises `UserError` for a setting that does not exist."""
    if isinstance(safe, AbstractPolicy):
        x = jnp.where(credible(x), x, 0.0).astype(jnp.float32)
        return Ready(x=x, inner=safe.init(x, key))
    if safe not in ("zero", "hold"):
        raise UserError(f"safe is {safe!r}; it must be zero or hold or a policy.")
    return Ready(last=actions.safe()) if safe == "hold" else Ready()


def secured(
    safe: Safe, actions: Actions, ready: Ready, now: tuple[State, Time], planned: tuple[Action, Flag]
) -> tuple[Action, Flag, Ready]:
    """(the planned action if it is sound, the safe one if not; whether it was sound; what to remember).

    `planned` is the action with whether its plan can be trusted; a number that is not finite is never sound.  A policy
    is asked at every step, so that its carry is in time when it is needed.  It never sees an observation that is not
    credible but the last one that was, and what it says is not taken if it is not finite either: zero is.
    """
    u, trusted = planned
    sound = trusted & jnp.all(jnp.isfinite(u))
    if isinstance(safe, AbstractPolicy):
        x, t = now
        assert ready.x is not None
        x = jnp.where(credible(x), x, ready.x).astype(jnp.float32)
        other, inner = safe.act(ready.inner, x, t)
        usable = jnp.all(jnp.isfinite(other))
        spare = jnp.where(usable, other, actions.safe())
        ready = Ready(x=x, inner=where_all(usable, inner, ready.inner))
    else:
        spare = actions.safe() if ready.last is None else ready.last
    u = jnp.where(sound, u, spare.astype(u.dtype))
    return u, sound, ready if ready.last is None else Ready(last=u.astype(jnp.float32))
