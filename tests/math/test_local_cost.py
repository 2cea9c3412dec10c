"""A cost expanded around samples: exact where it is quadratic, and never with negative curvature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from forethought.math.local_cost import expand_samples

T, N, n, m = 4, 3, 2, 1


def samples(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(T, N, n + m))), jnp.asarray(rng.normal(size=(N, n))), jnp.ones((T + 1, N))


def value(C, c, cc, z):
    return 0.5 * z @ C @ z + c @ z + cc


def test_a_convex_quadratic_is_reproduced() -> None:
    root = jnp.asarray(np.random.default_rng(1).normal(size=(n + m, n + m)))
    H, g = root @ root.T, jnp.asarray([1.0, -2.0, 0.5])
    stage = lambda z, t: 0.5 * z @ H @ z + g @ z + 1.0 * t
    form = expand_samples(stage, lambda x: x @ x, *samples())
    np.testing.assert_allclose(form.C, jnp.broadcast_to(H, form.C.shape), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(form.c, jnp.broadcast_to(g, form.c.shape), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(form.cc, np.arange(T), atol=1e-11)
    np.testing.assert_allclose(form.C_T, 2.0 * np.eye(n), rtol=1e-12, atol=1e-12)


def test_negative_curvature_is_left_out_and_nothing_else() -> None:
    """log(1 + d^2) bends down outside of the unit circle: value and slope at the mean sample stay those of the mean."""
    stage = lambda z, t: jnp.log1p(jnp.sum(z**2)) + 0.0 * t
    z, last, weight = samples(2)
    form = expand_samples(stage, lambda x: -(x @ x), 3.0 * z, last, weight)
    each = jax.vmap(jax.vmap(lambda z: (stage(z, 0), jax.grad(stage)(z, 0), jax.hessian(stage)(z, 0))))(3.0 * z)
    values, slopes, hessians = each
    lacking = jnp.linalg.eigvalsh(jnp.mean(hessians, axis=1))
    assert float(lacking.min()) < -1e-3  # so that there is something to leave out
    assert float(jnp.linalg.eigvalsh(form.C).min()) > -1e-12
    # The eigenvalues that are left are those that were positive.
    np.testing.assert_allclose(jnp.linalg.eigvalsh(form.C), jnp.maximum(lacking, 0.0), atol=1e-12)
    for t in range(T):
        centre = jnp.mean(3.0 * z[t], axis=0)
        off = centre - 3.0 * z[t]
        told = values[t] + jnp.sum(slopes[t] * off, axis=1) + 0.5 * jnp.einsum("ni,nij,nj->n", off, hessians[t], off)
        np.testing.assert_allclose(value(form.C[t], form.c[t], form.cc[t], centre), jnp.mean(told), rtol=1e-10)
        slope = jnp.mean(slopes[t] + jnp.einsum("nij,nj->ni", hessians[t], off), axis=0)
        np.testing.assert_allclose(form.C[t] @ centre + form.c[t], slope, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(form.C_T, np.zeros((n, n)), atol=1e-14)
