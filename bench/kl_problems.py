"""Random KL-bounded control problems."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from forethought.math.kl_step import Start
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost

T, n, m = 30, 4, 2


def problem(seed: int, indefinite: bool) -> tuple[Any, ...]:
    """Random dynamics (spectral radius up to 1.2), cost (scales 1e-3 to 1e3), old controller and bound."""
    random = np.random.default_rng(seed)
    A = np.eye(n) + 0.2 * random.standard_normal((T, n, n))
    A *= random.uniform(0.7, 1.2) / np.max(np.abs(np.linalg.eigvals(A)), axis=1)[:, None, None]
    F = np.concatenate([A, 0.5 * random.standard_normal((T, n, m))], axis=2)
    root = random.standard_normal((T, n + m, n + m))
    C = root @ np.swapaxes(root, 1, 2) / (n + m) + 0.05 * np.eye(n + m)
    if indefinite:
        C = C - random.uniform(0.3, 1.5) * np.eye(n + m)
    scale = 10.0 ** random.uniform(-3, 3)
    dynamics = LinearDynamics(
        *map(jnp.asarray, (F, 0.1 * random.standard_normal((T, n)), np.tile(1e-3 * np.eye(n), (T, 1, 1))))
    )
    c, zeros = scale * random.standard_normal((T, n + m)), np.zeros(T)
    cost = QuadraticCost(*map(jnp.asarray, (scale * C, c, zeros, scale * np.eye(n), np.zeros(n), 0.0)))
    L = np.tril(0.3 * random.standard_normal((T, m, m)), -1) + np.eye(m) * 10.0 ** random.uniform(-1.5, 0.5)
    old = LinearGaussianPolicy(
        *map(jnp.asarray, (0.2 * random.standard_normal((T, m, n)), 0.3 * random.standard_normal((T, m)), L))
    )
    start = Start(jnp.asarray(random.standard_normal(n)), 0.1 * jnp.eye(n))
    return dynamics, cost, start, old, jnp.asarray(T * 10.0 ** random.uniform(-2, 0.3))
