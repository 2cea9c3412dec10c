"""Gaussian process posteriors made with NumPy alone, and their predictions at points."""

from __future__ import annotations

import numpy as np

from forethought.math.moments_gp import SEPosterior


def posterior(k=3, f=2, real=20, pad=None, noise=0.05, seed=0, known=False) -> SEPosterior:
    """k processes on `real` random points, and `pad` rows of padding; None: up to 60 rows, so that little compiles."""
    pad = 60 - real if pad is None else pad
    rng = np.random.default_rng(seed)
    origin, v = rng.normal(size=f), rng.normal(size=(real, f))
    lengths, signal = rng.uniform(0.6, 1.8, (k, f)), rng.uniform(0.5, 1.5, k)
    c = real + pad
    centres, weights, root = np.ones((k, f, c)), np.zeros((k, c)), np.zeros((k, c, c))
    for a in range(k):
        z = v / lengths[a]
        r2 = np.sum((z[:, None] - z[None]) ** 2, axis=-1)
        gram = signal[a] ** 2 * np.exp(-0.5 * r2) + noise**2 * np.eye(real)
        inverse_root = np.linalg.inv(np.linalg.cholesky(gram))
        y = np.sin(2.0 * v @ rng.normal(size=f)) + 0.3 * v[:, 0]
        root[a, :real, :real] = inverse_root
        weights[a, :real] = inverse_root.T @ (inverse_root @ y)
        centres[a, :, :real] = z.T
    inverse = np.einsum("kji,kjl->kil", root, root)
    pair = (None, None) if known else (root, inverse)
    return SEPosterior(centres, lengths, signal, weights, *pair, origin, rng.normal(size=k))


def predict(p: SEPosterior, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances [N k] of the functions at the points v [N f]."""
    means, variances = [], []
    for a in range(len(p.signal)):
        z = (v - p.origin) / p.lengths[a]
        r2 = sum((z[:, d, None] - p.centres[a, d]) ** 2 for d in range(v.shape[1]))
        near = p.signal[a] ** 2 * np.exp(-0.5 * r2)
        means.append(p.offset[a] + near @ p.weights[a])
        known = 0.0 if p.root is None else np.sum((near @ p.root[a].T) ** 2, axis=1)
        variances.append(np.zeros(len(v)) if p.root is None else p.signal[a] ** 2 - known)
    return np.stack(means, axis=1), np.stack(variances, axis=1)


def covariance(d: int, size: float, seed: int = 1) -> np.ndarray:
    """A random covariance with standard deviations of about `size`."""
    a = np.random.default_rng(seed).normal(size=(d, d))
    return size**2 * (a @ a.T / d + 0.1 * np.eye(d))


def quadrature(mean: np.ndarray, cov: np.ndarray, nodes: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Points [N d] and weights [N] of the tensor product of Gauss-Hermite rules for N(mean, cov)."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    d = len(mean)
    grid = np.stack([g.ravel() for g in np.meshgrid(*[x] * d, indexing="ij")], axis=1)
    weight = np.prod(np.stack([g.ravel() for g in np.meshgrid(*[w / w.sum()] * d, indexing="ij")], axis=1), axis=1)
    return mean + grid @ np.linalg.cholesky(cov).T, weight


def moments_of(
    points: np.ndarray, weight: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of outputs with conditional `mean` and `variance`, and their covariance with the points."""
    expected = weight @ mean
    off = mean - expected
    cov = (off * weight[:, None]).T @ off + np.diag(weight @ variance)
    return expected, cov, (off * weight[:, None]).T @ (points - weight @ points)
