"""How wrong a model was about what then really happened."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from forethought.core import AbstractDynamics
from forethought.math.angles import wrap_components
from forethought.math.rollout import predict_ahead
from forethought.types import Metrics, Spec, Trajectory

HORIZON = 20


def model_error(model: AbstractDynamics, trajectory: Trajectory, spec: Spec, rows: int, scale: np.ndarray) -> Metrics:
    """Root mean squared error of mean predictions at 1 and 20 steps on one piece of an episode.

    Errors are in units of `scale` [n] (the data's standard deviation per state component) and averaged over
    components and starting points, angles taken the short way round; NaN where the piece is too short.  `rows` is the
    padded length: one per run, so that nothing recompiles.
    """
    count = trajectory.length
    pad = lambda v: np.concatenate([v, np.zeros((rows - count, *v.shape[1:]), v.dtype)])
    x, u, y = (pad(np.asarray(v, np.float32)) for v in (trajectory.x, trajectory.u, trajectory.y))
    one, many = _errors(model, spec, (x, u, y), np.int32(count), np.asarray(scale, np.float32))
    return {"model_error_1": float(one), f"model_error_{HORIZON}": float(many)}


@eqx.filter_jit
def _errors(model, spec, data, count, scale):
    x, u, y = data
    start = jnp.arange(x.shape[0])
    padded = jnp.concatenate([u, jnp.zeros((HORIZON, u.shape[1]), u.dtype)])

    def from_row(i):
        us = jax.lax.dynamic_slice_in_dim(padded, i, HORIZON)
        path = predict_ahead(model, x[i], us, jnp.zeros((), jnp.int32))
        ahead = jnp.stack([path[0], path[-1]])
        seen = jnp.stack([y[i], y[jnp.minimum(i + HORIZON - 1, y.shape[0] - 1)]])
        error = jax.vmap(lambda e: wrap_components(e, spec.angles))(ahead - seen)
        return jnp.mean((error / scale) ** 2, axis=1)

    square = jax.vmap(from_row)(start)
    inside = jnp.stack([start < count, start + HORIZON <= count], axis=1)
    mean = jnp.sum(jnp.where(inside, square, 0.0), axis=0) / jnp.sum(inside, axis=0)
    root = jnp.sqrt(mean)
    return root[0], root[1]
