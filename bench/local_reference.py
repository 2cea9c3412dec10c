"""One iteration of the local method as one would write it down: NumPy, a loop over conditions and a loop over time.

The same algorithm as `forethought.algorithms.local_improve.improve`, with its Bayesian fit, mixture prior and bound on
the sum; only what it does about bad input is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

RIDGE, LEAST_NOISE, LEAST_SPREAD = 1e-3, 1e-6, 1e-3
TOLERANCE = 0.1


class Mixture(NamedTuple):
    """Of [x; u; change] in standard units."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray
    centre: np.ndarray
    unit: np.ndarray


class Reaching(NamedTuple):
    """weight d^2 + log_weight log(1 + d^2/alpha) + effort |u|^2, with d^2 the sum of the first components' squares."""

    parts: int
    weight: float
    log_weight: float
    alpha: float
    effort: float


def responsibilities(mixture: Mixture, row: np.ndarray) -> np.ndarray:
    """Of the components for one row."""
    logs = np.empty(len(mixture.weights))
    for k, (weight, mean, cov) in enumerate(zip(mixture.weights, mixture.means, mixture.covs, strict=True)):
        off = row - mean
        logs[k] = np.log(weight) - 0.5 * np.linalg.slogdet(cov)[1] - 0.5 * off @ np.linalg.solve(cov, off)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def prior(mixture: Mixture, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of [z; y - x] at one step."""
    n = y.shape[1]
    shares = np.zeros(len(mixture.weights))
    for row, following in zip(z, y, strict=True):
        whole = np.concatenate([row, following - row[:n]])
        shares += responsibilities(mixture, (whole - mixture.centre) / mixture.unit) / len(z)
    mean = sum(w * m for w, m in zip(shares, mixture.means, strict=True))
    cov = np.zeros((len(mean), len(mean)))
    for w, m, c in zip(shares, mixture.means, mixture.covs, strict=True):
        cov += w * (c + np.outer(m - mean, m - mean))
    return mixture.centre + mixture.unit * mean, np.outer(mixture.unit, mixture.unit) * cov


def fit(z: np.ndarray, y: np.ndarray, mixture: Mixture, z_mean: Any) -> tuple[Any, ...]:
    """F, f and the widened W at each step; z [T, N, d], y [T, N, n].  `z_mean(F, f, W)` says where W is widened."""
    T, N, d = z.shape
    n, rows = y.shape[2], np.concatenate([z, y - z[:, :, : y.shape[2]]], axis=2)
    Psi, mus = np.empty((T, d + n, d + n)), np.empty((T, d + n))
    for t in range(T):
        mean0, cov0 = prior(mixture, z[t], y[t])
        mean = rows[t].mean(axis=0)
        away = rows[t] - mean
        shift = mean - mean0
        Psi[t] = cov0 + away.T @ away + N / (1.0 + N) * np.outer(shift, shift)
        mus[t] = mean0 + N / (1.0 + N) * shift
    usual = np.mean(np.diagonal(Psi, axis1=1, axis2=2), axis=0)
    F, f, W, spreads = np.empty((T, n, d)), np.empty((T, n)), np.empty((T, n, n)), []
    for t in range(T):
        s = np.sqrt(np.maximum(np.diag(Psi[t]), LEAST_SPREAD**2 * usual))
        unit = Psi[t] / np.outer(s, s)
        inverse = np.linalg.inv(unit[:d, :d] + RIDGE * np.eye(d))
        slope = unit[d:, :d] @ inverse
        rest = unit[d:, d:] - slope @ unit[:d, d:] + LEAST_NOISE**2 * np.eye(n)
        F[t] = np.outer(s[d:], 1.0 / s[:d]) * slope
        f[t] = mus[t, d:] - F[t] @ mus[t, :d]
        F[t] += np.eye(n, d)  # y = x + change
        inverse = inverse / np.outer(s[:d], s[:d])
        away = z[t] - z[t].mean(axis=0)
        decided = np.trace(away @ inverse @ away.T)
        W[t] = rest * np.outer(s[d:], s[d:]) / (1.0 + N - N / (1.0 + N) - decided)
        spreads.append(inverse)
    at = z_mean(F, f, W)
    for t in range(T):
        off = at[t] - mus[t, :d]
        W[t] = W[t] * (1.0 + 1.0 / (1.0 + N) + off @ spreads[t] @ off)
    return F, f, W


def expand(cost: Reaching, F: np.ndarray, f: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """C and c at each step, and all constants, by the formulas of the derivatives; the next state is F z + f."""
    T, N, d = z.shape
    n, k = F.shape[1], cost.parts
    C, c, constant = np.zeros((T, d, d)), np.zeros((T, d)), 0.0
    for t in range(T):
        G = F[t][:k]
        for i in range(N):
            off = G @ z[t, i] + f[t][:k]
            square, u = off @ off, z[t, i, n:]
            value = cost.weight * square + cost.log_weight * np.log1p(square / cost.alpha) + cost.effort * u @ u
            slope = cost.weight + cost.log_weight / (cost.alpha + square)
            bend = -cost.log_weight / (cost.alpha + square) ** 2
            gradient = 2.0 * slope * G.T @ off
            hessian = 2.0 * slope * G.T @ G + 4.0 * bend * np.outer(G.T @ off, G.T @ off)
            gradient[n:] += 2.0 * cost.effort * u
            hessian[n:, n:] += 2.0 * cost.effort * np.eye(d - n)
            C[t] += hessian / N
            c[t] += (gradient - hessian @ z[t, i]) / N
            constant += (value - gradient @ z[t, i] + 0.5 * z[t, i] @ hessian @ z[t, i]) / N
    return C, c, constant


def backward(F: np.ndarray, f: np.ndarray, C: np.ndarray, c: np.ndarray) -> Any:
    """K, k and Quu at each step, or None where Quu is not positive definite; no terminal cost."""
    T, n, d = F.shape
    K, k, Quu = np.empty((T, d - n, n)), np.empty((T, d - n)), np.empty((T, d - n, d - n))
    P, p = np.zeros((n, n)), np.zeros(n)
    for t in reversed(range(T)):
        Q = C[t] + F[t].T @ P @ F[t]
        q = c[t] + F[t].T @ (P @ f[t] + p)
        Quu[t] = 0.5 * (Q[n:, n:] + Q[n:, n:].T)
        try:
            np.linalg.cholesky(Quu[t])
        except np.linalg.LinAlgError:
            return None
        K[t], k[t] = -np.linalg.solve(Quu[t], Q[n:, :n]), -np.linalg.solve(Quu[t], q[n:])
        P = Q[:n, :n] + Q[:n, n:] @ K[t]
        p = q[:n] + Q[:n, n:] @ k[t]
        P = 0.5 * (P + P.T)
    return K, k, Quu


def forward(F: np.ndarray, f: np.ndarray, W: np.ndarray, policy: Any, m0: np.ndarray, P0: np.ndarray) -> Any:
    """Means and covariances of z at each step."""
    T, n, d = F.shape
    mean, cov = m0, P0
    means, covs = np.empty((T, d)), np.empty((T, d, d))
    for t in range(T):
        K, k, S = (part[t] for part in policy)
        both = np.concatenate([np.eye(n), K])
        means[t] = np.concatenate([mean, K @ mean + k])
        covs[t] = both @ cov @ both.T
        covs[t][n:, n:] += S
        mean, cov = F[t] @ means[t] + f[t], F[t] @ covs[t] @ F[t].T + W[t]
    return means, covs


def divergence(policy: Any, old: Any, means: np.ndarray, covs: np.ndarray) -> float:
    """E[KL(policy || old)] over all steps."""
    total, n = 0.0, old[0].shape[2]
    for t in range(len(means)):
        inverse = np.linalg.inv(old[2][t])
        dK, dk = policy[0][t] - old[0][t], policy[1][t] - old[1][t]
        off = dK @ means[t, :n] + dk
        logs = np.linalg.slogdet(old[2][t])[1] - np.linalg.slogdet(policy[2][t])[1]
        total += 0.5 * (np.trace(inverse @ policy[2][t]) - len(off) + logs + off @ inverse @ off)
        total += 0.5 * np.trace(dK.T @ inverse @ dK @ covs[t, :n, :n])
    return total


def expectation(C: np.ndarray, c: np.ndarray, constant: float, means: np.ndarray, covs: np.ndarray) -> float:
    """Expected cost."""
    total = constant
    for t in range(len(means)):
        total += 0.5 * means[t] @ C[t] @ means[t] + c[t] @ means[t] + 0.5 * np.sum(C[t] * covs[t])
    return total


def tilt(old: Any) -> tuple[np.ndarray, np.ndarray]:
    """-log old(u|x) as a quadratic cost."""
    K, k, S = old
    T, m, n = K.shape
    M, v = np.empty((T, n + m, n + m)), np.empty((T, n + m))
    for t in range(T):
        G = np.concatenate([-K[t], np.eye(m)], axis=1)
        inverse = np.linalg.inv(S[t])
        M[t], v[t] = G.T @ inverse @ G, -G.T @ inverse @ k[t]
    return M, v


def improve_one(x: np.ndarray, u: np.ndarray, old: Any, mixture: Mixture, cost: Reaching, kl: float) -> dict[str, Any]:
    """One condition: x [N, T+1, n], u [N, T, m]; old is (K, k, covariance).  The multiplier by bisection and secants of
    the logarithms."""
    N, T = u.shape[:2]
    z = np.swapaxes(np.concatenate([x[:, :-1], u], axis=2), 0, 1)
    y = np.swapaxes(x[:, 1:], 0, 1)
    m0 = x[:, 0].mean(axis=0)
    off = x[:, 0] - m0
    P0 = off.T @ off / (N - 1.0) + 1e-6 * np.diag((x.std(axis=(0, 1)) + 1e-12) ** 2)
    F, f, W = fit(z, y, mixture, lambda F, f, W: forward(F, f, W, old, m0, P0)[0])
    C, c, constant = expand(cost, F, f, z)
    M, v = tilt(old)
    epsilon, low, high, solves = kl * T, -np.inf, np.inf, 0
    points: list[tuple[float, float]] = []
    log = np.log(max(abs(expectation(C, c, constant, *forward(F, f, W, old, m0, P0))), 1e-300) / epsilon)
    while solves < 50:
        solves += 1
        multiplier = np.exp(log)
        found, value = backward(F, f, C + multiplier * M, c + multiplier * v), np.inf
        if found is not None:
            policy = (found[0], found[1], multiplier * np.linalg.inv(found[2]))
            means, covs = forward(F, f, W, policy, m0, P0)
            value = divergence(policy, old, means, covs)
            if abs(value / epsilon - 1.0) <= TOLERANCE:
                total = expectation(C, c, constant, means, covs)
                return {"policy": policy, "multiplier": multiplier, "kl": value, "cost": total, "solves": solves}
        low, high = (log, high) if value > epsilon else (low, log)
        points = [*points, (log, np.log(value / epsilon))][-2:]
        step = log + (np.log(4.0) if value > epsilon else -np.log(4.0))
        if len(points) == 2 and np.isfinite(points[0][1] + points[1][1]):
            (a, fa), (b, fb) = points
            step = b - fb * (b - a) / (fb - fa)
        log = step if low < step < high else 0.5 * (low + high)
    raise RuntimeError("no multiplier was found")
