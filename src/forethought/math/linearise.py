"""Slopes of a model."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractDynamics
from forethought.types import Action, Array, State, Time


class Linearisation(NamedTuple):
    """mean(x + dx, u + du) = mean + A dx + B du + O(|dx|^2 + |du|^2), in the dtype of the model."""

    a: Float[Array, "k n"]
    """A = d mean / dx."""
    b: Float[Array, "k m"]
    """B = d mean / du."""
    mean: Float[Array, " k"]


def linearise(model: AbstractDynamics, x: State, u: Action, t: Time) -> Linearisation:
    """A, B and the mean itself at (x, u), by automatic differentiation, n + m directions at once.

    An angle that is wrapped has the slope that it has on the line: dx of an angle is a small angle, and the mean may be
    a turn away from that of a neighbouring point.  A model that wants another slope than that of its mean stops the
    gradient inside `predict`.
    """
    dtype = jax.eval_shape(lambda: model.predict(x, u, t).mean).dtype
    mean = lambda x, u: (model.predict(x, u, t).mean,) * 2
    (a, b), value = jax.jacfwd(mean, argnums=(0, 1), has_aux=True)(jnp.asarray(x, dtype), jnp.asarray(u, dtype))
    return Linearisation(a, b, value)
