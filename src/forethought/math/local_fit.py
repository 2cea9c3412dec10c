"""Time-varying linear-Gaussian dynamics from a few rollouts (versions 1.0 and 2.0 of the lecture's section 3.1).

At each step, with z = [x; u] and y the next state, what is known of the joint of xi = [z; y] is a mean mu that kappa
rows stand behind and a scatter Psi.  Its conditional is the fit:

    F = Psi_yz Psi_zz^-1,   f = mu_y - F mu_z,   Psi_c = Psi_yy - F Psi_zy,   W = Psi_c / freedom
    freedom = n0 + N - d - N / kappa,   d = tr(S_zz Psi_zz^-1)

S is the scatter of the N rows around their mean, n0 the prior's pseudo-count, and d how many of the slopes of an output
the data have decided.  Without a prior W is the residual sum of squares over N - (n+m) - 1.  Dividing by n0 + N, or
taking the mean of the inverse Wishart, forgets what the slopes used up: with five rows that is 2 to 8 times too little.

One Cholesky factor of each Psi_zz gives everything, all steps at once.  Columns are scaled by their own spread first,
so that results do not depend on units.

Murphy, Machine learning: a probabilistic perspective, sections 4.6.3 and 7.6; Levine and Abbeel, NIPS 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from forethought.math.finite import need_x64
from forethought.math.linear_quadratic import LinearDynamics
from forethought.math.local_rows import LocalRows, Weight, local_rows, same_turn
from forethought.math.moments import symmetric
from forethought.math.small_matrices import gram
from forethought.types import Array

RIDGE = 1e-10
"""Added to the variance 1 of every standardised input: what rows do not decide is decided by it, not by rounding."""
LEAST_RIDGE = 1e-12
"""The same beside a prior, which decides what the rows do not: only against rounding."""
LEAST_NOISE = 1e-6
"""The least standard deviation of the noise, in units of the outputs' own."""
LEAST_SPREAD = 1e-3
"""A column that spreads less at one step than this part of its usual spread is scaled as if it did that."""
LEAST_DIGITS = 1e-12
"""Spread below this part of a column's magnitude is rounding."""
LEAST_FREEDOM = 1e-3
"""Degrees of freedom below which rows say nothing about the noise."""


class LocalFit(NamedTuple):
    """Linear-Gaussian dynamics, and how well each step is known."""

    dynamics: LinearDynamics
    """W is that of the noise alone; see `widened`."""
    centre: Float[Array, "T d"]
    """mu_z: where the fit is surest."""
    root: Float[Array, "T d d"]
    """R with Psi_zz^-1 = R^T R."""
    kappa: Float[Array, " T"]
    """How many rows, with the prior's, stand behind the mean."""
    freedom: Float[Array, " T"]
    """Degrees of freedom of W.  A prediction is a Student t of about as many."""
    rows: Float[Array, " T"]
    """N: rows that counted, those of neighbouring steps too where there is a window."""
    left_out: Float[Array, " T"]
    """Rows that should have counted, with a number that is not finite or beyond what any sensor says."""
    decided: Float[Array, " T"]
    """d: of the n + m slopes of each output, how many the rows decided.  The rest is the prior's, or the ridge's."""
    information: Float[Array, " T"]
    """The least part of any input's variance over the rows that the other inputs do not explain (1 / VIF), from 0 to 1.
    It is the least eigenvalue of the inputs' correlations, up to a factor of n + m.  About `RIDGE`, or 0: the rows are
    rank deficient, since they are too few, or since u is a function of x."""
    guessed: Bool[Array, " T"]
    """Whether no degree of freedom was left for the noise: then W is the covariance of the whole change y - x (or, with
    fewer than two rows, the floor alone)."""


class NIWPrior(NamedTuple):
    """A normal-inverse-Wishart prior of the mean and covariance of [z; y] at each step, by pseudo-counts."""

    mean: Float[Array, "T D"]
    cov: Float[Array, "T D D"]
    """The prior mean of the covariance: Psi0 = n0 cov."""
    strength_mean: Float[Array, " T"]
    """kappa0: how many rows the mean is worth."""
    strength_cov: Float[Array, " T"]
    """n0 = nu0 - D - 1: how many rows the covariance is worth, and with it slopes and noise."""


def fit_regression(
    z: Float[Array, "T N d"],
    y: Float[Array, "T N n"],
    weight: Weight,
    *,
    ridge: float = RIDGE,
    window: int = 0,
    angles: Sequence[int] = (),
) -> LocalFit:
    """Version 1.0: y = F z + f + w at each step, by least squares on the rows of that step alone.

    minimise  sum_i |y_i - F z_i - f|^2 + ridge N |(F - [I 0]) diag(s)|^2,  s the standard deviations of z

    It takes N >= n + m + 2 rows that excite every direction to know F and W.  What fewer do not decide is left at
    x+ = x by the ridge, and `guessed` says that W is only a bound.  `window` pools the rows of the steps t - window ..
    t + window, if dynamics change slowly.  Components of y at the indices `angles` are taken in the turn nearest to
    those of x.  With no row at all x+ = x.
    """
    need_x64("Fitting local dynamics")
    n = y.shape[2]
    rows = _changes(local_rows(z, y, weight, angles, window), n)
    mean = rows.mean
    away = rows.away(mean)
    scatter = _scatter(away)
    found = _condition(scatter, _scales(scatter, rows), n, ridge)
    count = rows.count
    fit = _assemble(found, mean, away, count, count - (count > 0.0))
    W = jnp.where(fit.guessed[:, None, None], _bound(scatter[:, -n:, -n:], count, found.floor), _noise(fit))
    F = fit.dynamics.F + jnp.eye(n, z.shape[2], dtype=jnp.float64)
    information = _smallest(found.root * found.scale[:, None, :-n])
    dynamics = LinearDynamics(F, fit.dynamics.f, W)
    return fit._replace(dynamics=dynamics, left_out=rows.left_out, information=information)


def fit_bayesian(
    z: Float[Array, "T N d"],
    y: Float[Array, "T N n"],
    weight: Weight,
    prior: NIWPrior,
    *,
    ridge: float = LEAST_RIDGE,
    window: int = 0,
    angles: Sequence[int] = (),
) -> LocalFit:
    """Version 2.0: Bayesian linear regression with a normal-inverse-Wishart prior of the joint of [z; y].

        kappa = kappa0 + N,   mu = (kappa0 mu0 + N mean) / kappa
        Psi = n0 cov0 + S + (kappa0 N / kappa) (mean - mu0)(mean - mu0)^T

    The slopes are those of regression on [z, 1] with the matrix-normal-inverse-Wishart prior of precision
    [[n0 cov0_zz + kappa0 mu0_z mu0_z^T, kappa0 mu0_z], [., kappa0]].  As n0 and kappa0 go to 0 it is `fit_regression`
    without a ridge; with no rows it is the prior.  `window` and `angles` are as there; the prior's angles should be in
    the turn of x.

    The `ridge` is added to the variance 1 of every standardised input, the prior's part included, and pulls towards
    x+ = x.  Where inputs depend on each other (sines and cosines of the same angle) the prior knows such directions as
    little as the rows do, and a slope that is decided by their curvature alone is amplified from step to step: 1e-3
    stops that.
    """
    need_x64("Fitting local dynamics")
    n = y.shape[2]
    rows = _changes(local_rows(z, y, weight, angles, window), n)
    prior = _prior_of_changes(prior, n)
    count, k0, n0 = rows.count, prior.strength_mean, prior.strength_cov
    mean = rows.mean
    away = rows.away(mean)
    kappa = k0 + count
    share = count / jnp.where(kappa > 0.0, kappa, 1.0)  # N / kappa
    shift = jnp.where(count[:, None] > 0.0, mean - prior.mean, 0.0)
    # As one more row of the data, which it is to the scatter.
    extra = jnp.sqrt(k0 * share)[:, None] * shift
    scatter = _scatter(jnp.concatenate([away, extra[:, None, :]], axis=1)) + n0[:, None, None] * prior.cov
    found = _condition(scatter, _scales(scatter, rows), n, ridge)
    fit = _assemble(found, prior.mean + share[:, None] * shift, away, count, n0 + count - share)
    W = jnp.where(fit.guessed[:, None, None], _bound(_scatter(away[:, :, -n:]), count, found.floor), _noise(fit))
    F = fit.dynamics.F + jnp.eye(n, z.shape[2], dtype=jnp.float64)
    dynamics = LinearDynamics(F, fit.dynamics.f, W)
    information = _information(away[:, :, :-n], rows._replace(xi=rows.xi[:, :, :-n]))
    return fit._replace(dynamics=dynamics, kappa=kappa, left_out=rows.left_out, information=information)


def widened(fit: LocalFit, t: Int[Array, ""] | int, z: Float[Array, " d"]) -> Float[Array, "n n"]:
    """Covariance of the next state predicted at z, with the doubt about F and f:

        W (1 + 1/kappa + (z - mu_z)^T Psi_zz^-1 (z - mu_z))

    It is the scale of a Student t with `fit.freedom` degrees of freedom.  After a regression of rank-deficient rows it
    grows beyond all use in directions where there were none: use a prior.
    """
    return _widening(fit.root[t], z - fit.centre[t], fit.kappa[t]) * _noise(fit)[t]


def widened_dynamics(fit: LocalFit, z: Float[Array, "T d"]) -> LinearDynamics:
    """The dynamics with W_t widened as at z_t, the mean of a trajectory for instance."""
    factor = jax.vmap(_widening)(fit.root, z - fit.centre, fit.kappa)
    return fit.dynamics._replace(W=factor[:, None, None] * _noise(fit))


def fit_initial(
    x0: Float[Array, "N n"],
    weight: Float[Array, " N"] | Bool[Array, " N"],
    *,
    floor: float = 1e-6,
    scale: Float[Array, " n"] | None = None,
    angles: Sequence[int] = (),
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Mean and covariance (over N - 1) of initial states, plus floor diag(scale^2).

    `scale` is what is usual for each component, its standard deviation along the rollouts for instance; if it is not
    given the spread of x0, or its magnitude where there is none.  Angles are taken in the turn of the first usable
    state, and their mean may lie outside [-pi, pi).  (0, floor) if no state is usable.
    """
    need_x64("Fitting initial states")
    x0 = jnp.asarray(x0, jnp.float64)
    empty = jnp.zeros((1, x0.shape[0], 0), jnp.float64)
    rows = local_rows(empty, x0[None], weight)
    x = rows.xi[0]
    first = x[jnp.argmax(rows.weight[0] > 0.0)]
    moved = jnp.where(rows.weight[0][:, None] > 0.0, same_turn(x, jnp.broadcast_to(first, x.shape), angles), 0.0)
    rows = rows._replace(xi=moved[None])
    mean = rows.mean
    cov = _scatter(rows.away(mean)) / jnp.maximum(rows.count - 1.0, 1.0)[:, None, None]
    usual = _scales(cov, rows)[0] if scale is None else jnp.asarray(scale, jnp.float64)
    return mean[0], symmetric(cov[0]) + floor * jnp.diag(usual**2)


class _Conditional(NamedTuple):
    """Of y given z, in the units of the data."""

    slope: Float[Array, "T n d"]
    root: Float[Array, "T d d"]
    rest: Float[Array, "T n n"]
    """Psi_c, at least the floor."""
    scale: Float[Array, "T D"]
    """What the columns were divided by."""
    floor: Float[Array, "T n"]
    """Least sum of squares of each output."""


def _changes(rows: LocalRows, n: int) -> LocalRows:
    """With the change instead of the next state: then what the ridge leaves undecided stays as it is, and nothing
    cancels in W."""
    change = rows.xi[:, :, -n:] - rows.xi[:, :, :n]
    return rows._replace(xi=jnp.concatenate([rows.xi[:, :, :-n], change], axis=2))


def _prior_of_changes(prior: NIWPrior, n: int) -> NIWPrior:
    """The prior of [z; y - x]."""
    less = lambda a: jnp.concatenate([a[..., :-n], a[..., -n:] - a[..., :n]], axis=-1)
    cov = jnp.swapaxes(less(jnp.swapaxes(less(prior.cov), 1, 2)), 1, 2)
    return prior._replace(mean=less(prior.mean), cov=cov)


def _scatter(away: Float[Array, "T R D"]) -> Float[Array, "T D D"]:
    """A^T A at each step."""
    return jax.vmap(gram)(away)


def _scales(scatter: Float[Array, "T D D"], rows: LocalRows) -> Float[Array, "T D"]:
    """Roots of the diagonal; of a column that hardly spreads at one step, of what is usual; of one that never does, its
    magnitude."""
    square = jnp.diagonal(scatter, axis1=1, axis2=2)
    usual = jnp.mean(square, axis=0)
    square = jnp.maximum(square, LEAST_SPREAD**2 * usual)
    size = rows.size
    constant = jnp.where(size > 0.0, size, 1.0) ** 2
    return jnp.sqrt(jnp.where(square > (LEAST_DIGITS * size) ** 2, square, constant))


def _condition(scatter: Float[Array, "T D D"], scale: Float[Array, "T D"], n: int, ridge: float) -> _Conditional:
    """The conditional of the last n columns given the others.

    With Psi_zz = L L^T and H = L^-1 Psi_zy, F = H^T L^-1 and Psi_c = Psi_yy - H^T H.  In units in which the diagonal is
    1 its rounding errors are far below the floor, so that nothing is left to be clipped.
    """
    d = scale.shape[1] - n
    standard = scatter / (scale[:, :, None] * scale[:, None, :])
    inner = standard[:, :d, :d] + ridge * jnp.eye(d, dtype=jnp.float64)
    lower = jnp.linalg.cholesky(inner, symmetrize_input=False)
    # Not of all columns at once: LAPACK takes four times as long from 33 on.
    eye = jnp.broadcast_to(jnp.eye(d, dtype=jnp.float64), inner.shape)
    inverse = jax.lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)
    half = jnp.matmul(inverse, standard[:, :d, d:], precision="highest")
    turned = jnp.swapaxes(half, 1, 2)
    slope = jnp.matmul(turned, inverse, precision="highest")
    least = LEAST_NOISE**2 * jnp.eye(n, dtype=jnp.float64)
    rest = standard[:, d:, d:] - jnp.matmul(turned, half, precision="highest") + least
    inputs, outputs = scale[:, :d], scale[:, d:]
    return _Conditional(
        slope=outputs[:, :, None] * slope / inputs[:, None, :],
        root=inverse / inputs[:, None, :],
        rest=symmetric(rest) * (outputs[:, :, None] * outputs[:, None, :]),
        scale=scale,
        floor=(LEAST_NOISE * outputs) ** 2,
    )


def _assemble(
    found: _Conditional,
    centre: Float[Array, "T D"],
    away: Float[Array, "T R D"],
    count: Float[Array, " T"],
    before: Float[Array, " T"],
) -> LocalFit:
    """The fit; `before` are the degrees of freedom before the slopes have used up theirs."""
    d = found.root.shape[1]
    white = jnp.matmul(away[:, :, :d], jnp.swapaxes(found.root, 1, 2), precision="highest")
    decided = jnp.sum(white**2, axis=(1, 2))
    freedom = before - decided
    guessed = ~(freedom > LEAST_FREEDOM)
    f = centre[:, d:] - jnp.sum(found.slope * centre[:, None, :d], axis=2)
    W = found.rest / jnp.where(guessed, 1.0, freedom)[:, None, None]
    none = jnp.zeros_like(count)
    dynamics = LinearDynamics(found.slope, f, W)
    freedom = jnp.maximum(freedom, 0.0)
    return LocalFit(dynamics, centre[:, :d], found.root, count, freedom, count, none, decided, none, guessed)


def _bound(change: Float[Array, "T n n"], count: Float[Array, " T"], floor: Float[Array, "T n"]) -> Array:
    """The covariance of the change, all of which may be noise, and the floor."""
    each = symmetric(change) / jnp.maximum(count - 1.0, 1.0)[:, None, None]
    return each + floor[:, :, None] * jnp.eye(floor.shape[1], dtype=floor.dtype)


def _information(away: Float[Array, "T R d"], rows: LocalRows) -> Float[Array, " T"]:
    """1 / VIF of the rows without a prior; 0 where they are too few, whatever they are."""
    if away.shape[1] <= away.shape[2]:
        return jnp.zeros(away.shape[:1], jnp.float64)
    scatter = _scatter(away)
    scale = _scales(scatter, rows)
    found = _condition(scatter, scale, 0, RIDGE)
    return _smallest(found.root * scale[:, None, :])


def _smallest(root: Float[Array, "T d d"]) -> Float[Array, " T"]:
    """The least 1 / (M^-1)_jj, for M^-1 = R^T R."""
    return 1.0 / jnp.max(jnp.sum(root**2, axis=1), axis=1, initial=1.0)


def _widening(root: Float[Array, "d d"], away: Float[Array, " d"], kappa: Float[Array, ""]) -> Float[Array, ""]:
    """1 + 1/kappa + |R (z - mu)|^2; a mean that no row stands behind counts as if one did, for want of a number."""
    of_mean = 1.0 / jnp.where(kappa > 0.0, kappa, 1.0)
    return 1.0 + of_mean + jnp.sum(jnp.sum(root * away, axis=1) ** 2)


def _noise(fit: LocalFit) -> Float[Array, "T n n"]:
    """W, which every fit has."""
    W = fit.dynamics.W
    return jnp.zeros((*fit.dynamics.f.shape, fit.dynamics.f.shape[1]), jnp.float64) if W is None else W
