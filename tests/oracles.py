"""Closed forms that share no code with the library: NumPy only."""

from __future__ import annotations

import numpy as np


def riccati_gains(A, B, Q, R, Qf, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K [steps, m, n] with u = K x, R + B'PB [steps, m, m] and the P of step 0, by the Riccati recursion."""
    P, gains, curvatures = Qf, [], []
    for _ in range(steps):
        curvature = R + B.T @ P @ B
        gain = -np.linalg.solve(curvature, B.T @ P @ A)
        P = Q + A.T @ P @ A + A.T @ P @ B @ gain
        gains.append(gain)
        curvatures.append(curvature)
    return np.array(gains[::-1]), np.array(curvatures[::-1]), P


def lqr_cost(A, B, Q, R, Qf, x0, steps: int) -> float:
    """min_u sum_t x'Qx + u'Ru (t < steps) + x_T' Qf x_T under x+ = Ax + Bu, by the Riccati recursion."""
    return float(x0 @ riccati_gains(A, B, Q, R, Qf, steps)[2] @ x0)


def lqr_actions(A, B, Q, R, Qf, x0, steps: int) -> np.ndarray:
    """The optimal open-loop actions [steps, m] of the same problem, by one dense least-squares solve."""
    n, m = B.shape
    powers = [np.linalg.matrix_power(A, k) for k in range(steps + 1)]
    free = np.concatenate([powers[t] @ x0 for t in range(1, steps + 1)])
    forced = np.zeros((n * steps, m * steps))
    for t in range(1, steps + 1):
        for s in range(t):
            forced[(t - 1) * n : t * n, s * m : (s + 1) * m] = powers[t - 1 - s] @ B
    weight = np.kron(np.eye(steps), Q)
    weight[-n:, -n:] = Qf
    hessian = forced.T @ weight @ forced + np.kron(np.eye(steps), R)
    return np.linalg.solve(hessian, -forced.T @ weight @ free).reshape(steps, m)
