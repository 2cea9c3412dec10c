"""Random linear systems with quadratic costs, and the lecture's three controllers in them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost, linear_marginals
from forethought.math.lqr import lqr_backward, max_entropy_policy, optimal_policy

STEPS, N, M = 25, 3, 1
NOISE = 0.05
"""Standard deviation of the process noise, in every state."""


class System(NamedTuple):
    """A random linear system, as likely stable as not, with a quadratic cost."""

    dynamics: LinearDynamics
    cost: QuadraticCost
    x0: Float[np.ndarray, " n"]


def system(seed: int) -> System:
    """x+ = A x + B u + w, spectral radius of A in [0.9, 1.1]; costs 50 |x|^2 + 5 |u|^2, and 500 |x|^2 at the end."""
    random = np.random.default_rng([seed, 0])
    A = random.standard_normal((N, N))
    A *= random.uniform(0.9, 1.1) / np.max(np.abs(np.linalg.eigvals(A)))
    F = np.concatenate([A, random.standard_normal((N, M))], axis=1)
    repeat = lambda a: np.tile(a, (STEPS, *[1] * a.ndim))
    dynamics = LinearDynamics(repeat(F), np.zeros((STEPS, N)), repeat(NOISE**2 * np.eye(N)))
    C = np.diag([100.0] * N + [10.0] * M)
    zero = np.zeros(STEPS)
    cost = QuadraticCost(repeat(C), np.zeros((STEPS, N + M)), zero, 1000.0 * np.eye(N), np.zeros(N), np.zeros(()))
    dynamics, cost = jax.tree.map(jnp.asarray, (dynamics, cost))
    return System(dynamics, cost, random.standard_normal(N))


def controllers(it: System) -> dict[str, LinearGaussianPolicy]:
    """The lecture's versions 0.5, 1.0 and 2.0."""
    solution = lqr_backward(it.dynamics, it.cost)
    best = optimal_policy(solution)
    reference = linear_marginals(it.dynamics._replace(W=None), best, jnp.asarray(it.x0), jnp.zeros((N, N)))
    held = best._replace(K=jnp.zeros_like(best.K), k=reference.mean[:, N:])
    return {"open loop": held, "feedback": best, "gaussian": max_entropy_policy(solution, 1.0)}


def rollouts(it: System, policy: LinearGaussianPolicy, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States [count T+1 n] and actions [count T m]; controllers with the same seed meet the same noise."""
    random = np.random.default_rng([seed, 1])
    w = NOISE * random.standard_normal((STEPS, count, N))
    e = random.standard_normal((STEPS, count, M))
    F = np.asarray(it.dynamics.F)
    K, k, L = (np.asarray(part) for part in policy)
    x, xs, us = np.tile(it.x0, (count, 1)), [], []
    for t in range(STEPS):
        u = x @ K[t].T + k[t] + e[t] @ L[t].T
        xs.append(x)
        us.append(u)
        x = np.concatenate([x, u], axis=1) @ F[t].T + w[t]
    return np.stack([*xs, x], axis=1), np.stack(us, axis=1)


def mean_cost(it: System, xs: np.ndarray, us: np.ndarray) -> float:
    """Of rollouts."""
    z = np.concatenate([xs[:, :-1], us], axis=2)
    stage = 0.5 * np.einsum("rti,tij,rtj->r", z, np.asarray(it.cost.C), z)
    return float(np.mean(stage + 0.5 * np.einsum("ri,ij,rj->r", xs[:, -1], np.asarray(it.cost.C_T), xs[:, -1])))
