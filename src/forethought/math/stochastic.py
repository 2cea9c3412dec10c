"""Distributions over actions: what a stochastic policy says in one state, for continuous and discrete actions.

Continuous actions are Gaussian and then clipped to the limits, so that an action at a limit stands for everything
beyond it: it has a probability instead of a density.  The likelihood says so (Fujita and Maeda, Clipped action policy
gradient, ICML 2018); it needs only what was executed, and no action is too far out to be learned from.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import log_ndtr
from jaxtyping import Float

from forethought.types import Action, Actions, Array, Box, RandomKey, Scalar


class Said(NamedTuple):
    """The distribution in one state."""

    center: Float[Array, " k"]
    """Of continuous actions the mean before clipping, in their units; of choices one score (logit) each."""
    log_std: Float[Array, " s"]
    """Of continuous actions log standard deviations, one each; of choices nothing."""


EDGE = 1e-6
"""What is that close to a limit, in shares of the range, is at it."""


def sample(actions: Actions, said: Said, key: RandomKey, noise: Scalar) -> Action:
    """One action, float32; with `noise` = 0 the most likely one, with 1 a draw."""
    if isinstance(actions, Box):
        low, high = _limits(actions)
        off = noise * jnp.exp(said.log_std) * jr.normal(key, said.center.shape, jnp.float32)
        return jnp.clip(said.center + off, low, high)
    # The largest of logits with Gumbel noise is a draw from them.
    return actions.decode(said.center + noise * jr.gumbel(key, said.center.shape, jnp.float32))


def log_prob(actions: Actions, said: Said, u: Action) -> Scalar:
    """log p(u): of an action inside the limits its log density, of one at a limit the log of all that lies beyond."""
    if not isinstance(actions, Box):
        return jax.nn.log_softmax(said.center)[jnp.argmax(actions.encode(u))]
    low, high = _limits(actions)
    std, edge = jnp.exp(said.log_std), EDGE * (high - low)
    z = (u - said.center) / std
    inside = -0.5 * z**2 - said.log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    below, above = log_ndtr((low - said.center) / std), log_ndtr((said.center - high) / std)
    each = jnp.where(u <= low + edge, below, jnp.where(u >= high - edge, above, inside))
    return jnp.sum(each)


def kl(actions: Actions, old: Said, new: Said) -> Scalar:
    """KL(old || new) in nats; of continuous actions that before clipping, which is never less than that of what is
    executed (no map brings two distributions farther apart), so that a bound on it bounds both."""
    if not isinstance(actions, Box):
        one, two = jax.nn.log_softmax(old.center), jax.nn.log_softmax(new.center)
        return jnp.sum(jnp.exp(one) * (one - two))
    wider = new.log_std - old.log_std
    off = (new.center - old.center) * jnp.exp(-new.log_std)
    # Without a difference of two numbers of size 1: near 0 that would be rounding.
    return jnp.sum(0.5 * (jnp.expm1(-2.0 * wider) + 2.0 * wider) + 0.5 * off**2)


def entropy(actions: Actions, said: Said) -> Scalar:
    """In nats; of continuous actions that before clipping."""
    if not isinstance(actions, Box):
        logs = jax.nn.log_softmax(said.center)
        return -jnp.sum(jnp.exp(logs) * logs)
    return jnp.sum(said.log_std + 0.5 * (1.0 + jnp.log(2.0 * jnp.pi)))


def _limits(actions: Box) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    return jnp.asarray(actions.low, jnp.float32), jnp.asarray(actions.high, jnp.float32)
