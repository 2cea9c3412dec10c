"""Critics against the same network written in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.models.critics import init_critics


def test_they_are_the_networks_that_the_docstring_says():
    critics = init_critics(5, 8, 2, 3, jr.key(0))
    v = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    said = np.asarray(critics(jnp.asarray(v)))
    assert said.shape == (3, 4)
    for k in range(3):
        h = v.astype(np.float64)
        for layer in critics.layers[:-1]:
            h = h @ np.asarray(layer.weight[k]) + np.asarray(layer.bias[k])
            h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
            h = np.maximum(h, 0.0)
        last = critics.layers[-1]
        wanted = h @ np.asarray(last.weight[k]) + np.asarray(last.bias[k])
        np.testing.assert_allclose(said[k], wanted[:, 0], rtol=1e-4, atol=1e-5)
    assert np.ptp(said, axis=0).min() > 1e-3, "they begin apart from each other"
