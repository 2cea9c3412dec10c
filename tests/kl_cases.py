"""KL-bounded control problems, and what a controller comes to by textbook formulas: NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lqr_cases import case, constant

DT = 0.1


class Controller(NamedTuple):
    """u ~ N(K x + k, cov)."""

    K: np.ndarray
    k: np.ndarray
    cov: np.ndarray


class KLCase(NamedTuple):
    """The arguments of `forethought.kl_lqr`, in order, but for the bound."""

    F: Any
    f: Any
    W: Any
    C: Any
    c: Any
    C_T: Any
    c_T: Any
    m0: Any
    P0: Any
    old_policy: Any


def kl_case(n=2, m=1, T=4, seed=0, scale=1.0, lift=0.0) -> KLCase:
    """Random, with everything; `lift` < 0 takes that share of the identity from the cost: it becomes indefinite."""
    rng = np.random.default_rng(1000 + seed)
    p = case(n, m, T, seed=seed, scale=scale)
    root, noise, start = rng.standard_normal((T, m, m)), rng.standard_normal((T, n, n)), rng.standard_normal((n, n))
    old = Controller(
        0.4 * rng.standard_normal((T, m, n)),
        0.5 * rng.standard_normal((T, m)),
        root @ np.swapaxes(root, 1, 2) / m + 0.2 * np.eye(m),
    )
    C = p.C + lift * scale * np.eye(n + m)
    W = 0.05 * noise @ np.swapaxes(noise, 1, 2)
    return KLCase(p.F, p.f, W, C, p.c, p.C_T, p.c_T, rng.standard_normal(n), 0.2 * start @ start.T, old)


def scalar(r: float) -> KLCase:
    """One step of cost r/2 (u - 3)^2 without its constant, old N(0, 1), and a state that is of no account."""
    old = Controller(np.zeros((1, 1, 1)), np.zeros((1, 1)), np.ones((1, 1, 1)))
    C, c = np.diag([0.0, r])[None], np.array([[0.0, -3.0 * r]])
    none, zero = np.zeros((1, 1)), np.zeros(1)
    return KLCase(np.array([[[1.0, 0.0]]]), none, none[None], C, c, none, zero, zero, none, old)


def integrator(T=20) -> KLCase:
    """The double integrator of the design note's case C4."""
    A, B = np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.5 * DT**2], [DT]])
    p = constant(A, B, np.eye(2), 0.1, 10.0 * np.eye(2), T)
    old = Controller(np.zeros((T, 1, 2)), np.zeros((T, 1)), np.ones((T, 1, 1)))
    W = np.tile(1e-4 * np.eye(2), (T, 1, 1))
    return KLCase(p.F, p.f, W, p.C, p.c, p.C_T, p.c_T, np.array([1.0, 0.0]), 0.01 * np.eye(2), old)


def states(p: KLCase, policy) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Means and covariances of x_0 .. x_T under a controller."""
    mean, cov = np.asarray(p.m0), np.asarray(p.P0)
    means, covs = [mean], [cov]
    n = mean.shape[0]
    for t in range(len(p.F)):
        A, B, K = p.F[t][:, :n], p.F[t][:, n:], np.asarray(policy.K[t])
        mean = A @ mean + B @ (K @ mean + policy.k[t]) + p.f[t]
        noise = 0.0 if p.W is None else p.W[t]
        cov = (A + B @ K) @ cov @ (A + B @ K).T + B @ np.asarray(policy.cov[t]) @ B.T + noise
        means.append(mean)
        covs.append(cov)
    return means, covs


def expected(p: KLCase, policy) -> float:
    """E[cost] of a controller, from second moments."""
    means, covs = states(p, policy)
    total = 0.0
    for t in range(len(p.F)):
        K, k = np.asarray(policy.K[t]), np.asarray(policy.k[t])
        both = np.vstack([np.eye(len(means[t])), K])
        z = np.concatenate([means[t], K @ means[t] + k])
        second = both @ covs[t] @ both.T + np.outer(z, z)
        second[len(means[t]) :, len(means[t]) :] += policy.cov[t]
        total += 0.5 * np.sum(p.C[t] * second) + p.c[t] @ z
    return float(total + 0.5 * np.sum(p.C_T * (covs[-1] + np.outer(means[-1], means[-1]))) + p.c_T @ means[-1])


def entropies(policy) -> np.ndarray:
    """H_t in nats."""
    m = np.shape(policy.k)[1]
    return 0.5 * (np.linalg.slogdet(policy.cov)[1] + m * (1.0 + np.log(2.0 * np.pi)))


def divergences(p: KLCase, new, old=None) -> np.ndarray:
    """E[KL_t] in the states of the new controller, as E[-log old(u|x)] - H(new)."""
    old = p.old_policy if old is None else old
    means, covs = states(p, new)
    found = -entropies(new)
    for t in range(len(p.F)):
        inverse = np.linalg.inv(old.cov[t])
        gain = np.asarray(new.K[t]) - old.K[t]
        offset = gain @ means[t] + np.asarray(new.k[t]) - old.k[t]
        second = np.asarray(new.cov[t]) + gain @ covs[t] @ gain.T + np.outer(offset, offset)
        found[t] += 0.5 * (np.sum(inverse * second) + np.linalg.slogdet(2.0 * np.pi * np.asarray(old.cov[t]))[1])
    return found
