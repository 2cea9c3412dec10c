"""The fit of a user's equations: residuals over one step or several, noise, and Laplace's posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, PyTree

from forethought.math.angles import wrap_components
from forethought.math.least_squares import Normal, is_finite, levenberg, root_of_inverse
from forethought.types import Action, Array, Dataset, Spec, State, UserError

BLOCK = 512
"""Stretches whose derivatives with respect to theta are in memory at the same time."""
FEW = 64
"""The same of those with respect to noise, of which there are more."""
TURNS = 6
"""How often, at most, theta and the noise are found in turn."""
LEAST_NOISE = 1e-6
"""The least standard deviation of the noise, in units of the changes' standard deviation."""
LEAST_FREEDOM = 0.5
"""Degrees of freedom below which the errors say nothing about the noise."""


class Law(eqx.Module):
    """The user's f: its arrays are leaves, so that they are arguments of programs; everything else is static."""

    arrays: PyTree
    rest: Any = eqx.field(static=True)

    def __call__(self, x: State, u: Action, theta: PyTree) -> Float[Array, " n"]:
        """f(x, u, theta), float64."""
        return jnp.asarray(eqx.combine(self.arrays, self.rest)(x, u, theta), jnp.float64)


def theta_of(like: PyTree, positive: tuple[bool, ...], p: Float[Array, " q"]) -> PyTree:
    """Parameters, in the tree of `like`, from the vector in which they are free."""
    mask = jnp.asarray(positive)
    # exp only of what is a logarithm: elsewhere it might overflow, and its derivative would be NaN.
    return ravel_pytree(like)[1](jnp.where(mask, jnp.exp(jnp.where(mask, p, 0.0)), p))


class Options(NamedTuple):
    """What the fit is to do, and the prior."""

    guess: Float[np.ndarray, " q"]
    sigma: Float[np.ndarray, " q"]
    positive: tuple[bool, ...]
    horizon: int
    rounds: int


class Found(NamedTuple):
    """What the fit came to."""

    ok: bool
    p: Float[np.ndarray, " q"]
    root: Float[np.ndarray, "q q"]
    noise: Float[np.ndarray, " n"]
    use: np.ndarray
    """Which rows [C] were used: f is finite there."""
    says: str = ""


class Rows(NamedTuple):
    """Transitions in order; a stretch begins at every row and goes on for `reach` of them."""

    x: Float[Array, "C n"]
    u: Float[Array, "C m"]
    y: Float[Array, "C n"]
    reach: Int[Array, " C"]
    """0 for rows that are not in use."""


def find(
    law: Law, spec: Spec, data: Dataset, use: np.ndarray, theta_and_last: tuple[PyTree, np.ndarray], options: Options
) -> Found | None:
    """The fit; None if there are too few rows.  Raises `UserError` if f gives nothing finite at the initial guess."""
    theta, last = theta_and_last
    if use.sum() < 2:
        return None
    finite = _finite_rows(law, theta, options.positive, _rows(data, use, options.horizon), options.guess)
    sound = use & np.asarray(finite)
    if not sound.any():
        i = int(np.argmax(use))
        raise UserError(
            f"f(x, u, theta) of the physics model gives no finite state for any of {int(use.sum())} rows of data: "
            f"for one, with x = {np.asarray(data.x)[i]}, u = {np.asarray(data.u)[i]} and theta as first guessed."
        )
    if sound.sum() < 2:
        return None
    rows = _rows(data, sound, options.horizon)
    return _Problem(law, spec, theta, options, rows).solved(last, _spread(spec, rows, sound), sound)


class _Problem(NamedTuple):
    """One least-squares problem."""

    law: Law
    spec: Spec
    theta: PyTree
    options: Options
    rows: Rows

    def solved(self, last: np.ndarray, spread: np.ndarray, use: np.ndarray) -> Found:
        """Theta and noise in turn, until the noise settles."""
        it = self.options
        variance = np.broadcast_to(spread**2, (it.horizon, len(spread)))
        starts = [(self.normal(p, variance), p) for p in (last, it.guess)]
        begun = [(at.cost, i) for i, (at, _) in enumerate(starts) if is_finite(at)]
        failed = Found(False, it.guess, np.zeros((len(last), len(last))), spread, use)
        if not begun:
            return failed._replace(says="The derivatives of f with respect to theta are not finite.")
        p, spent = starts[min(begun)[1]][1], np.zeros(variance.shape, bool)
        for _ in range(TURNS):
            before = variance
            p, at, _ = levenberg(lambda q, v=before: self.normal(q, v), p, it.rounds)
            if not is_finite(at):
                break
            square, freedom = self.left(p, at, before)
            # Once without freedom, always: wide noise gives the prior more to say, which would look like freedom.
            spent = spent | (freedom < LEAST_FREEDOM)
            known = square / np.maximum(freedom, LEAST_FREEDOM)
            # If theta has used up everything, nothing is known about the noise: all that changes may be noise.
            known = np.where(spent, np.maximum(known, spread**2), known)
            variance = np.maximum(known, (LEAST_NOISE * spread) ** 2)
            if np.all(np.abs(np.log(variance / before)) < 0.1):
                break
        at = self.normal(p, variance)
        if not is_finite(at):
            return failed._replace(says="The least-squares fit of theta ended where f is not finite.")
        return Found(True, p, self.root(p, at, variance), np.sqrt(variance[0]), use)

    def root(self, p: np.ndarray, at: Normal, variance: np.ndarray) -> Float[np.ndarray, "q q"]:
        """Root of the posterior's covariance: A^-1, Laplace's; A^-1 (B + P) A^-1 with a horizon, if that is wider.

        A is all the information, P the prior's and B = Cov sum_k g_k e_k, where e_k [n] is the noise at row k and g_k
        [q n] what it does to J^T W r in all stretches that pass there: with process noise their errors are nearly the
        same ones, and to divide by H takes too much for granted.  Noise of observations shows in neighbouring e, which
        are then of opposite sign; their correlations are counted beyond two standard errors.  White (1982).
        """
        it, root = self.options, root_of_inverse(at.information)
        if it.horizon == 1:
            return root
        found = _pushes(self.law, self.spec, self.theta, it.positive, self.rows, (p, 1.0 / (variance * it.horizon)))
        g, e = root.T @ (np.asarray(found[0]) * np.sqrt(variance[0])), np.asarray(found[1])
        first = np.flatnonzero(self.rows.reach > 1)
        across = np.einsum("kqc,cd,krd->qr", g[first], _related(e, first), g[first + 1], optimize=True)
        wide = np.einsum("kqc,krc->qr", g, g, optimize=True) + across + across.T + (root.T / it.sigma**2) @ root
        if not np.isfinite(wide).all():  # f need not have finite derivatives with respect to x
            return root
        values, vectors = np.linalg.eigh(wide)
        return root @ vectors * np.sqrt(np.maximum(values, 1.0))

    def normal(self, p: np.ndarray, variance: np.ndarray) -> Normal:
        """Sum of squares over all stretches and the prior, with derivatives."""
        it = self.options
        weight = 1.0 / (variance * it.horizon)
        found = _normal(self.law, self.spec, self.theta, it.positive, self.rows, (p, weight))
        cost, gradient, information = (np.asarray(v) for v in found)
        away = (p - it.guess) / it.sigma
        return Normal(float(cost + away @ away), gradient + away / it.sigma, information + np.diag(1.0 / it.sigma**2))

    def left(self, p: np.ndarray, at: Normal, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squared errors [H n] by steps ahead and state, and how many of them the fit of theta left free.

        Errors of state c, h steps ahead, with Jacobian J, are (I - J A^-1 J^T/v) times the noise where nothing else
        tells of theta: sum_i a_i are used up, a the eigenvalues of A^-1 J^T J/v, A all the information.  With a
        horizon H > 1 only 1/H of it is in A, and an a_i may be as large as H; but no direction is used up twice.
        """
        found = _by_state(self.law, self.spec, self.theta, self.options.positive, self.rows, (p, 1.0 / variance))
        square, information = (np.asarray(v) for v in found)
        root = root_of_inverse(at.information)
        used = np.minimum(np.linalg.eigvalsh(root.T @ information @ root), 1.0).sum(axis=-1)
        counts = np.asarray([(self.rows.reach > h).sum() for h in range(self.options.horizon)])
        return square * variance, counts[:, None] - used


def _related(e: Float[np.ndarray, "C n"], first: Int[np.ndarray, " k"]) -> Float[np.ndarray, "n n"]:
    """Correlations of errors at rows `first` with those at the rows after them; 0 within two standard errors of it."""
    here, there = e[first], e[first + 1]
    size = np.sqrt(np.sum(here**2, axis=0)[:, None] * np.sum(there**2, axis=0))
    found = here.T @ there / np.maximum(size, np.finfo(np.float64).tiny)
    return np.where(np.abs(found) > 2.0 / np.sqrt(max(len(first), 1)), found, 0.0)


def _spread(spec: Spec, rows: Rows, use: np.ndarray) -> Float[np.ndarray, " n"]:
    """Standard deviation of the changes of state, or what else there is of a scale: never 0."""
    changes = np.asarray(rows.y - rows.x)[use]
    for i in spec.angles:
        changes[:, i] = (changes[:, i] + np.pi) % (2.0 * np.pi) - np.pi
    spread, size = changes.std(axis=0), np.abs(rows.x[use]).max(axis=0)
    spread = np.where(spread > 0.0, spread, np.abs(changes).max(axis=0))
    return np.where(spread > 0.0, spread, np.where(size > 0.0, 1e-6 * size, 1.0))


def _rows(data: Dataset, use: np.ndarray, horizon: int) -> Rows:
    """The data with rows that are not in use filled by one that is: a NaN there must not reach any derivative."""
    some = int(np.argmax(use))
    fill = lambda column: np.where(use[:, None], np.asarray(column), np.asarray(column)[some])
    episode, t = np.asarray(data.episode), np.asarray(data.t)
    goes_on = np.zeros(len(use), bool)
    goes_on[:-1] = use[:-1] & use[1:] & (episode[1:] == episode[:-1]) & (t[1:] == t[:-1] + 1)
    reach = use.astype(np.int64)
    for _ in range(horizon - 1):
        reach[:-1] = np.where(goes_on[:-1], np.minimum(1 + reach[1:], horizon), reach[:-1])
    return Rows(fill(data.x), fill(data.u), fill(data.y), reach)


@eqx.filter_jit
def _finite_rows(law: Law, like: PyTree, positive: tuple[bool, ...], rows: Rows, p: Array) -> Array:
    theta = theta_of(like, positive, jnp.asarray(p))
    y = jax.vmap(lambda x, u: law(x, u, theta))(jnp.asarray(rows.x), jnp.asarray(rows.u))
    return jnp.all(jnp.isfinite(y), axis=1)


def _errors(
    law: Law, spec: Spec, theta: PyTree, rows: Rows, weight: Array, start: Array, *, push: Array | float = 0.0
) -> Float[Array, "H n"]:
    """sqrt(weight) times the errors of a rollout from one row, 0 beyond its reach; `push` [H n] is added on the way."""
    count, push = rows.x.shape[0], jnp.broadcast_to(jnp.asarray(push, jnp.float64), weight.shape)

    def step(x: Array, h: Array) -> tuple[Array, Array]:
        i = jnp.minimum(start + h, count - 1)
        y = law(x, rows.u[i], theta) + push[h]
        wrong = wrap_components(rows.y[i] - y, spec.angles)
        return y, jnp.where(h < rows.reach[start], wrong, 0.0)

    steps = jnp.arange(weight.shape[0])
    _, wrong = jax.lax.scan(step, rows.x[start], steps)
    return jnp.sqrt(weight) * wrong


def _blocks(rows: Rows, most: int = BLOCK) -> Int[Array, "b B"]:
    """The stretches' first rows, block by block.  Capacities are powers of two, so blocks are whole."""
    count = rows.x.shape[0]
    size = most if count % most == 0 else count
    return jnp.arange(count).reshape(-1, size)


@eqx.filter_jit
def _normal(
    law: Law, spec: Spec, like: PyTree, positive: tuple[bool, ...], rows: Rows, at: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """|r|^2, J^T r and J^T J over all stretches."""
    p, weight = (jnp.asarray(v) for v in at)
    rows = Rows(*(jnp.asarray(v) for v in rows))

    def errors(p: Array, start: Array) -> Array:
        return _errors(law, spec, theta_of(like, positive, p), rows, weight, start).ravel()

    def add(total: tuple[Array, Array, Array], starts: Array) -> tuple[tuple[Array, Array, Array], None]:
        r = jax.vmap(lambda s: errors(p, s))(starts)
        j = jax.vmap(lambda s: jax.jacfwd(errors)(p, s))(starts)
        cost, gradient, information = total
        gradient = gradient + jnp.einsum("br,brq->q", r, j)
        return (cost + jnp.sum(r**2), gradient, information + jnp.einsum("brq,brs->qs", j, j)), None

    zero = jnp.zeros((p.shape[0], p.shape[0]), jnp.float64)
    return jax.lax.scan(add, (jnp.zeros((), jnp.float64), zero[0], zero), _blocks(rows))[0]


@eqx.filter_jit
def _by_state(
    law: Law, spec: Spec, like: PyTree, positive: tuple[bool, ...], rows: Rows, at: tuple[Array, Array]
) -> tuple[Float[Array, "H n"], Float[Array, "H n q q"]]:
    """|r|^2 and J^T J over all stretches, by steps ahead and state."""
    p, weight = (jnp.asarray(v) for v in at)
    rows = Rows(*(jnp.asarray(v) for v in rows))
    errors = lambda p, start: _errors(law, spec, theta_of(like, positive, p), rows, weight, start)

    def add(total: tuple[Array, Array], starts: Array) -> tuple[tuple[Array, Array], None]:
        r = jax.vmap(lambda s: errors(p, s))(starts)
        j = jax.vmap(lambda s: jax.jacfwd(errors)(p, s))(starts)
        return (total[0] + jnp.sum(r**2, axis=0), total[1] + jnp.einsum("bhcq,bhcs->hcqs", j, j)), None

    zero = jnp.zeros((*weight.shape, p.shape[0], p.shape[0]), jnp.float64)
    return jax.lax.scan(add, (zero[..., 0, 0], zero), _blocks(rows))[0]


@eqx.filter_jit
def _pushes(
    law: Law, spec: Spec, like: PyTree, positive: tuple[bool, ...], rows: Rows, at: tuple[Array, Array]
) -> tuple[Float[Array, "C q n"], Float[Array, "C n"]]:
    """What noise at each row does to J^T r over all stretches; and the errors one step ahead."""
    p, weight = (jnp.asarray(v) for v in at)
    rows = Rows(*(jnp.asarray(v) for v in rows))
    steps, count = jnp.arange(weight.shape[0]), rows.x.shape[0]

    def each(start: Array) -> tuple[Array, Array]:
        errors = lambda p, push: _errors(law, spec, theta_of(like, positive, p), rows, weight, start, push=push)
        # Forwards: backwards, steps beyond the reach that are not finite would spoil the others.
        j, moved = jax.jacfwd(errors, argnums=(0, 1))(p, jnp.zeros_like(weight))
        one = _errors(law, spec, theta_of(like, positive, p), rows, jnp.ones_like(weight[:1]), start)
        return -jnp.einsum("hcq,hcid->iqd", j, moved), one[0]

    def add(total: jax.Array, starts: Array) -> tuple[jax.Array, Array]:
        pushed, one = jax.vmap(each)(starts)
        return total.at[starts[:, None] + steps].add(pushed), one

    # Stretches at the end reach no further than the data, but there must be room for their zeros.
    zero = jnp.zeros((count + len(steps), p.shape[0], spec.n), jnp.float64)
    total, one = jax.lax.scan(add, zero, _blocks(rows, FEW))
    return total[:count], one.reshape(count, spec.n)
