"""Slopes of a model, and of any function of one point."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractDynamics
from forethought.types import Action, Array, State, Time

REVERSE_FROM = 16
"""Inputs from which `slopes` may go backward.  Below, forward mode is faster on a CPU whatever the shapes: it keeps
nothing, and a few directions at once fill the registers."""


FEW = 8
"""Inputs up to which `slopes` goes forward component by component: then XLA keeps every direction in registers, which
takes 0.6 to 1.0 times as long for equations of motion."""


class Linearisation(NamedTuple):
    """mean(x + dx, u + du) = mean + A dx + B du + O(|dx|^2 + |du|^2), in the dtype of the model."""

    a: Float[Array, "k n"]
    """A = d mean / dx."""
    b: Float[Array, "k m"]
    """B = d mean / du."""
    mean: Float[Array, " k"]


def slopes(function: Callable[[Array], Array], z: Float[Array, " d"]) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """(f(z), df/dz), all d inputs forward at once, or all k outputs backward where those are fewer and d is large."""
    k = jax.eval_shape(lambda z: function(z), z).shape[0]
    if 0 < z.shape[0] <= FEW and k > 0:
        return _by_components(function, z)
    backward = z.shape[0] >= REVERSE_FROM and k < z.shape[0]
    both = lambda z: (function(z),) * 2
    jacobian, value = (jax.jacrev if backward else jax.jacfwd)(both, has_aux=True)(z)
    return value, jacobian


def _by_components(function: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """Forward, with inputs and outputs as scalars."""
    parts = [z[i] for i in range(z.shape[0])]
    split = lambda *parts: tuple(function(jnp.stack(parts)))
    push = lambda *directions: jax.jvp(split, parts, list(directions))
    directions = np.eye(z.shape[0], dtype=z.dtype)  # known when it is compiled
    value, slope = jax.vmap(push, out_axes=(None, 0))(*directions)
    return jnp.stack(value), jnp.stack(slope)


def holds_products(function: Callable[..., Array], *args: Array) -> bool:
    """Whether a function holds matrix products, found by tracing it: then many points at once are faster than one after
    the other, whatever the device."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
    # Not the function itself: jax compares those that it has seen, and a Partial compares its arrays.
    return "dot_general" in str(jax.make_jaxpr(lambda *a: function(*a))(*shapes))


def linearise(model: AbstractDynamics, x: State, u: Action, t: Time) -> Linearisation:
    """A, B and the mean itself at (x, u), by automatic differentiation (see `slopes`).

    An angle that is wrapped has the slope that it has on the line: dx of an angle is a small angle, and the mean may be
    a turn away from that of a neighbouring point.  A model that wants another slope than that of its mean stops the
    gradient inside `predict`.
    """
    dtype = jax.eval_shape(lambda: model.predict(x, u, t).mean).dtype
    n = x.shape[0]
    z = jnp.concatenate([jnp.asarray(x, dtype), jnp.asarray(u, dtype)])
    mean, slope = slopes(lambda z: model.predict(z[:n], z[n:], t).mean, z)
    return Linearisation(slope[:, :n], slope[:, n:], mean)
