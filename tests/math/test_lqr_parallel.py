"""The backward pass that is parallel in time against the sequential one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought import LQRStatus
from forethought.math import lqr as module
from forethought.math import riccati_parallel as parallel
from forethought.math.linear_quadratic import LinearDynamics, QuadraticCost
from forethought.math.lqr import lqr
from forethought.math.riccati import riccati
from lqr_cases import Case, case, constant

FRESH = True
"""What is traced is replaced."""


def noise(T, n, seed=0):
    root = np.random.default_rng(seed).standard_normal((T, n, n))
    return root @ np.swapaxes(root, 1, 2)


def compare(got, expected):
    """To 1e-9 of each array's largest finite entry."""
    for name, a, b in zip(got._fields, got, expected, strict=True):
        scale = np.abs(np.where(np.isfinite(b), b, 0.0)).max(initial=0.0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def same(p: Case, W=None):
    got = lqr(*p, W=W, passes="parallel")
    compare(got, lqr(*p, W=W, passes="sequential"))
    return got


def problem(p: Case, W=None):
    F, f, C, c, C_T, c_T = map(jnp.asarray, p)
    W = None if W is None else jnp.asarray(W)
    return LinearDynamics(F, f, W), QuadraticCost(C, c, jnp.zeros(len(C)), C_T, c_T, jnp.zeros(()))


@pytest.mark.parametrize("T", [0, 1, 3, 7, *(pytest.param(T, marks=pytest.mark.slow) for T in (2, 64))])
def test_both_passes_agree(T):
    """Cross terms, linear terms, offsets, noise."""
    assert same(case(3, 2, T, seed=T), noise(T, 3)).status == LQRStatus.SOLVED


@pytest.mark.parametrize("T", [7, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_scan_needs_no_help(T, monkeypatch):
    """The sequential pass would give zeros here, so what agrees was computed by the scan."""
    p, W = case(3, 2, T, seed=1), noise(T, 3)
    expected = riccati(*problem(p, W))
    monkeypatch.setattr(parallel, "riccati", lambda *_: jax.tree.map(jnp.zeros_like, expected))
    compare(jax.jit(parallel.riccati_parallel)(*problem(p, W)), expected)


def spans(seed, count=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        A, b, h = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
        C, J = (root @ root.T for root in rng.standard_normal((2, 3, 3)))
        yield parallel.Span(*map(jnp.asarray, (A, b, C, h, J)))


def test_joining_is_associative_and_has_an_identity():
    first, second, third = spans(0)
    left = parallel.join(parallel.join(first, second), third)
    right = parallel.join(first, parallel.join(second, third))
    zero = jnp.zeros((3, 3))
    nothing = parallel.Span(jnp.eye(3), zero[0], zero, zero[0], zero)
    for a, b in ((left, right), (parallel.join(first, nothing), first), (parallel.join(nothing, first), first)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def broken(kind) -> Case:
    """Problems that the scan alone cannot answer."""
    p = case(3, 2, 7, seed=3)
    if kind == "free":  # Cuu = 0, but Quu is positive definite
        p = constant(np.eye(3), np.eye(3)[:, :2], np.eye(3), 0.0, np.eye(3), 7)
    elif kind == "indefinite":
        p.C[4, 3:, 3:] -= 50.0 * np.eye(2)
    elif kind == "hidden":  # Cuu is positive definite, Quu is not: the scan finds the saddle and does not see it
        p.C[:, :3, :3] -= 20.0 * np.eye(3)
    elif kind == "zero":
        p.C[:] = 0.0
    elif kind == "stiff":  # so little cost of control that the scan loses its digits
        p.C[:, 3:, :], p.C[:, :, 3:] = 0.0, 0.0
        p.C[:, 3:, 3:] = 1e-13 * np.eye(2)
    return p


@pytest.mark.parametrize("kind", ["free", "indefinite", "hidden", "zero", "stiff"])
def test_where_the_scan_has_no_answer_the_sequential_pass_gives_it(kind):
    s = same(broken(kind))
    assert s.status == (LQRStatus.SOLVED if kind in {"free", "stiff"} else LQRStatus.NOT_POSITIVE_DEFINITE)


def test_numbers_that_are_not_finite():
    p = case(3, 2, 7)
    p.F[2, 0, 0] = np.nan
    got, expected = (jax.jit(lqr, static_argnames="passes")(*p, passes=passes) for passes in ("parallel", "sequential"))
    compare(got, expected)
    assert got.status == LQRStatus.NOT_FINITE
    assert got.failed_at == 2


def test_a_batch_is_a_loop():
    many = [case(3, 2, 7, seed=seed) for seed in range(3)]
    many[1] = broken("indefinite")
    solve = jax.vmap(lambda *p: lqr(*p, passes="parallel"))
    batch = solve(*map(np.stack, zip(*many, strict=True)))
    assert batch.status.tolist() == [0, 1, 0]
    for i, p in enumerate(many):
        compare(jax.tree.map(lambda a, i=i: a[i], batch), lqr(*p, passes="sequential"))


def test_auto_is_sequential_on_a_cpu_and_looks_into_the_table(monkeypatch):
    assert module._choose("auto", 10**6) == "sequential" or jax.default_backend() != "cpu"
    monkeypatch.setitem(module.PARALLEL_FROM, jax.default_backend(), 100)
    assert [module._choose("auto", T) for T in (99, 100)] == ["sequential", "parallel"]
    assert [module._choose(passes, 200) for passes in ("sequential", "parallel")] == ["sequential", "parallel"]
