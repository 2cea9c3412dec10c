"""Linear-quadratic problems and what they come to by dense linear algebra: NumPy only, states eliminated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """The arguments of `forethought.lqr`, in order."""

    F: np.ndarray
    f: np.ndarray
    C: np.ndarray
    c: np.ndarray
    C_T: np.ndarray
    c_T: np.ndarray


def case(n=3, m=2, T=7, seed=0, scale=1.0, spread=1.0) -> Case:
    """Random, with cross terms, linear terms and offsets; C is positive definite."""
    rng = np.random.default_rng(seed)
    z = n + m
    root, last = rng.standard_normal((T, z, z)), rng.standard_normal((n, n))
    C = root @ np.swapaxes(root, 1, 2) / z + 0.1 * np.eye(z)
    F = spread * rng.standard_normal((T, n, z)) / np.sqrt(z)
    f, c, c_T = rng.standard_normal((T, n)), rng.standard_normal((T, z)), rng.standard_normal(n)
    return Case(F, f, scale * C, scale * c, scale * last @ last.T / n, scale * c_T)


def constant(A, B, Q, R, C_T, T) -> Case:
    """A problem that does not vary in time."""
    n, m = np.shape(B)
    C = np.zeros((n + m, n + m))
    C[:n, :n], C[n:, n:] = Q, R
    F = np.hstack([A, B])
    tile = lambda a: np.tile(np.asarray(a, float), (T, 1, 1))
    return Case(tile(F), np.zeros((T, n)), tile(C), np.zeros((T, n + m)), np.asarray(C_T, float), np.zeros(n))


def total(p: Case, xs, us) -> float:
    """The cost of a trajectory."""
    z = np.concatenate([xs[:-1], us], axis=1)
    stages = sum(0.5 * z[t] @ p.C[t] @ z[t] + p.c[t] @ z[t] for t in range(len(us)))
    return float(stages + 0.5 * xs[-1] @ p.C_T @ xs[-1] + p.c_T @ xs[-1])


def simulate(p: Case, us, x0) -> np.ndarray:
    """States under given actions."""
    xs = [np.asarray(x0, float)]
    for t, u in enumerate(us):
        xs.append(p.F[t] @ np.concatenate([xs[-1], u]) + p.f[t])
    return np.array(xs)


def condensed(p: Case, x0) -> tuple[np.ndarray, np.ndarray]:
    """Hessian and gradient at U = 0 of the cost as a function of all actions [T m]."""
    T, n, z = p.F.shape
    m = z - n
    states = np.zeros((T + 1, n, T * m))  # dx_t / dU
    for t in range(T):
        states[t + 1] = p.F[t][:, :n] @ states[t]
        states[t + 1][:, t * m : (t + 1) * m] += p.F[t][:, n:]
    free = simulate(p, np.zeros((T, m)), x0)
    hessian = states[T].T @ p.C_T @ states[T]
    gradient = states[T].T @ (p.C_T @ free[T] + p.c_T)
    for t in range(T):
        J = np.zeros((z, T * m))
        J[:n], J[n:, t * m : (t + 1) * m] = states[t], np.eye(m)
        hessian += J.T @ p.C[t] @ J
        gradient += J.T @ (p.C[t] @ np.concatenate([free[t], np.zeros(m)]) + p.c[t])
    return hessian, gradient


def best(p: Case, x0) -> tuple[np.ndarray, np.ndarray, float]:
    """The optimal states, actions and cost, by one dense solve."""
    T, n, z = p.F.shape
    hessian, gradient = condensed(p, x0)
    us = -np.linalg.solve(hessian, gradient).reshape(T, z - n)
    xs = simulate(p, us, x0)
    return xs, us, total(p, xs, us)


def value(solution, x0, t=0) -> float:
    """V_t(x0) of a solution."""
    P, p, v = (np.asarray(a[t]) for a in (solution.P, solution.p, solution.v))
    return float(0.5 * x0 @ P @ x0 + p @ x0 + v)
