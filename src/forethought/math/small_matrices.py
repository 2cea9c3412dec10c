"""Products and Cholesky factors of small matrices, written so that a compiled loop around them stays one program.

A call of LAPACK or of a matrix product costs more than the arithmetic of a tiny matrix, and on a CPU one custom call
keeps XLA from compiling the loop around it as one function.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from forethought.types import Array

MOST_TERMS = 32
"""Inner dimension up to which `product` is written out; beyond it the program grows and the gain is gone."""
MOST_PIVOTS = 6
"""Rows up to which a Cholesky factor is written out."""
FEW = 4
"""Inner dimension up to which `transposed_product` is written out (see there)."""

BARE = 5
"""Inner dimension up to which `small_product` is written out."""
TINY = 8
"""Inner dimension up to which `small_product` and `small_transposed_product` are reductions."""


def product(a: Float[Array, "i k"], b: Float[Array, "k j"]) -> Float[Array, "i j"]:
    """a b, as a sum of outer products where k <= `MOST_TERMS`."""
    if not 0 < b.shape[0] <= MOST_TERMS:
        return jnp.matmul(a, b, precision="highest")
    return sum((a[:, k, None] * b[k] for k in range(1, b.shape[0])), a[:, 0, None] * b[0])


def transposed_product(a: Float[Array, "k i"], b: Float[Array, "k j"]) -> Float[Array, "i j"]:
    """a^T b: a matrix product unless k <= `FEW`.

    XLA computes a sum of outer products again inside everything that reads it.  Where many things do (the blocks of a
    value function's Hessian) one matrix product is faster: on a Riccati recursion with n = 20 by 1.3 to 1.7 times.
    The product names the dimensions: with a transposed first, that recursion takes twice as long in an inlined loop.
    """
    if 0 < b.shape[0] <= FEW:
        return sum((a[k, :, None] * b[k] for k in range(1, b.shape[0])), a[0, :, None] * b[0])
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision="highest")


def small_product(a: Float[Array, "i k"], b: Float[Array, "k j"]) -> Float[Array, "i j"]:
    """a b where k <= `TINY` as one reduction, which is the fastest inside a loop that is compiled as one function; but
    where k <= `BARE`, written out, since that halves the time of a loop that is not, at no cost to one that is."""
    if not BARE < b.shape[0] <= TINY:
        return product(a, b)
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)


def small_transposed_product(a: Float[Array, "k i"], b: Float[Array, "k j"]) -> Float[Array, "i j"]:
    """a^T b, likewise."""
    if b.shape[0] > TINY:
        return transposed_product(a, b)
    return jnp.sum(a[:, :, None] * b[:, None, :], axis=0)


def gram(a: Float[Array, "k i"]) -> Float[Array, "i i"]:
    """a^T a for few rows: exactly symmetric, which a matrix product need not be."""
    if not 0 < a.shape[0] <= MOST_TERMS:
        both = jnp.matmul(a.T, a, precision="highest")
        return 0.5 * (both + both.T)
    return sum((a[k, :, None] * a[k] for k in range(1, a.shape[0])), a[0, :, None] * a[0])


class Factored(NamedTuple):
    """What a Cholesky factor M = L L^T does to a right-hand side G."""

    lower: Float[Array, "m m"]
    """L, lower triangular."""
    half: Float[Array, "m j"]
    """L^-1 G."""
    whole: Float[Array, "m j"]
    """M^-1 G."""
    definite: Bool[Array, ""]
    """Whether M is positive definite beyond rounding; the arrays mean nothing if it is not."""


def cholesky_solve(matrix: Float[Array, "m m"], right: Float[Array, "m j"], tolerance: float) -> Factored:
    """Factor a symmetric M and solve M X = G with it.

    M counts as positive definite if every squared pivot exceeds `tolerance` times the diagonal entry that it began as:
    a test that does not depend on the units of the rows.  Only the lower triangle of M is read.
    """
    written_out = matrix.shape[0] <= MOST_PIVOTS
    return (_by_rows if written_out else _by_library)(matrix, right, tolerance)


def _by_rows(matrix: Array, right: Array, tolerance: float) -> Factored:
    m = matrix.shape[0]
    lower = [[jnp.zeros((), matrix.dtype)] * m for _ in range(m)]
    squares = []
    for j in range(m):
        squared = matrix[j, j] - sum(lower[j][k] ** 2 for k in range(j))
        squares.append(squared)
        # A safe number goes on where there is no pivot, so that gradients do not become NaN.  The test of all pivots
        # comes at the end: between these lines it would take a third of a Riccati step's time.
        lower[j][j] = jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0))
        for i in range(j + 1, m):
            lower[i][j] = (matrix[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))) / lower[j][j]
    half: list[Array] = []
    for j in range(m):
        half.append((right[j] - sum(lower[j][k] * half[k] for k in range(j))) / lower[j][j])
    whole: list[Array] = [half[0]] * m
    for j in reversed(range(m)):
        whole[j] = (half[j] - sum(lower[k][j] * whole[k] for k in range(j + 1, m))) / lower[j][j]
    definite = jnp.all(jnp.stack(squares) > tolerance * jnp.abs(jnp.diagonal(matrix)))  # NaN is not
    return Factored(jnp.stack([jnp.stack(row) for row in lower]), jnp.stack(half), jnp.stack(whole), definite)


def _by_library(matrix: Array, right: Array, tolerance: float) -> Factored:
    pivots = lambda lower: jnp.diagonal(lower) ** 2
    tried = jax.lax.stop_gradient(jnp.linalg.cholesky(matrix, symmetrize_input=False))
    definite = jnp.all(pivots(tried) > tolerance * jnp.abs(jnp.diagonal(matrix)))  # NaN is not
    safe = jnp.where(definite, matrix, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
    lower = jnp.linalg.cholesky(safe, symmetrize_input=False)
    half = jax.lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)
    whole = jax.lax.linalg.triangular_solve(lower, half, left_side=True, lower=True, transpose_a=True)
    return Factored(lower, half, whole, definite)
