"""Advantages and targets of a value function, in costs: lambda-weighted sums of one-step errors.

Costs are minimised: V(x) is the expected discounted cost-to-go, and a negative advantage is good news.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from forethought.types import Array


class Estimate(NamedTuple):
    """What an episode says about its actions and its states."""

    advantage: Float[Array, " T"]
    """How much more the action at each step cost than was expected there."""
    target: Float[Array, " T"]
    """TD(lambda): what V should have been at each step; the advantage added to V."""


def advantages(
    cost: Float[Array, " T"],
    value: tuple[Float[Array, " T"], Float[Array, " T"]],
    terminated: Bool[Array, " T"],
    ended: Bool[Array, " T"],
    discount: float,
    trace: float,
) -> Estimate:
    """A_t = d_t + g l A_{t+1},  d_t = c_t + g V(y_t) - V(x_t);  target_t = A_t + V(x_t).

    `value` is V at the states x_t in which the steps began and at the states y_t that they led to.  The two ends of an
    episode differ: where it `terminated` there is no further cost, and V(y_t) counts as 0; where it was cut short (by
    the clock, or because the rows end here) the cost goes on and V(y_t) stands for it.  `ended` says after which steps
    the next row belongs to another episode, or to none; a step that terminated ends its episode in any case, and the
    last row ends too.  Several episodes may follow each other, and what lies behind the last one, NaN too, has no
    influence on those before it.

    `discount` is g and `trace` l, both in [0, 1]: with l = 0 the target is the one-step bootstrap, with l = 1 the whole
    discounted cost of the episode.  Cost and values are in the same units.  Advantages by generalised advantage
    estimation (Schulman et al., High-dimensional continuous control using generalized advantage estimation, ICLR
    2016); targets by TD(lambda) (Sutton, Learning to predict by the methods of temporal differences, 1988).
    """
    here, there = value
    error = cost + discount * jnp.where(terminated, jnp.zeros_like(there), there) - here
    ended = ended | terminated

    def back(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        error, last = inputs
        # Not a product with 0: what follows an end may be NaN.
        now = error + jnp.where(last, jnp.zeros_like(later), discount * trace * later)
        return now, now

    _, advantage = jax.lax.scan(back, jnp.zeros((), error.dtype), (error, ended), reverse=True)
    return Estimate(advantage, advantage + here)
