"""The policy improved in beliefs instead of particles: moment matching through a Gaussian process, as PILCO does."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Float
from scipy.stats import norm, qmc

from forethought.algorithms.improve import Improvement
from forethought.core import AbstractCost, AbstractDynamics
from forethought.errors import UserError
from forethought.math.belief import Belief, advance
from forethought.math.closed_loop import Stretch
from forethought.math.moments_gp import SEPosterior, se_moments
from forethought.models.gp import GaussianProcess
from forethought.models.gp_moments import noise_variance, se_posterior
from forethought.policies.actor import Actor, need_moments
from forethought.types import Array, Metrics, Scalar

POINTS = 64
"""At which a cost is averaged over a belief."""
JITTER = 1e-9
"""Added to the variances, in squared units of the scale, so that a belief without spread has a root."""


class BeliefProblem(NamedTuple):
    """What the policy's expected cost depends on beside the policy."""

    posterior: SEPosterior
    noise: Float[Array, " n"]
    cost: AbstractCost
    start: Belief
    stretch: Stretch
    points: Float[Array, "p n"]
    """Of a standard normal."""


def expected(actor: Actor, problem: BeliefProblem, horizon: int) -> Scalar:
    """sum_{h<length} g^h E c(x_h, u_h, y_h) + g^length E c_T(x_length) under the beliefs that moment matching gives.

    The expectation is a mean over fixed points of each belief, m + L xi with the same xi before and after a step: exact
    in xi for costs of (x, u) and y apart, as all of ours are, up to the error of the points.
    """
    stretch, root = problem.stretch, lambda b: jnp.linalg.cholesky(b.cov + jnp.diag(JITTER * stretch.scale**2))
    spread = lambda b: b.mean + problem.points @ root(b).T
    change = Partial(se_moments, problem.posterior)

    @jax.checkpoint
    def step(now: tuple[Belief, Scalar], h: Array) -> tuple[tuple[Belief, Scalar], None]:
        belief, total = now
        then, _ = advance(actor.spec, change, actor.moments, problem.noise, belief, h)
        x, y = spread(belief), spread(then)
        each = jax.vmap(lambda x, y: problem.cost.stage(x, actor(x), y, h).astype(jnp.float64))(x, y)
        counts = h < stretch.length
        weight = stretch.discount.astype(jnp.float64) ** h
        then = jax.tree.map(lambda new, old: jnp.where(counts, new, old), then, belief)
        return (then, total + jnp.where(counts, weight * jnp.mean(each), 0.0)), None

    began = (problem.start, jnp.zeros((), jnp.float64))
    (belief, total), _ = jax.lax.scan(step, began, jnp.arange(horizon, dtype=jnp.int32))
    end = jax.vmap(lambda x: problem.cost.terminal(x).astype(jnp.float64))(spread(belief))
    return total + stretch.discount.astype(jnp.float64) ** stretch.length * jnp.mean(end)


@eqx.filter_jit
def value_and_slope(
    flat: Float[Array, " p"], actor: Actor, problem: BeliefProblem, horizon: int
) -> tuple[Scalar, Float[Array, " p"]]:
    """The expected cost and its derivative with respect to the flattened parameters, float64."""
    _, back = ravel_pytree(_wide(actor.body))
    price = lambda flat: expected(eqx.tree_at(lambda a: a.body, actor, back(flat)), problem, horizon)
    return jax.value_and_grad(price)(flat)


def _wide(body: object) -> object:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), body)


def belief_problem(
    model: AbstractDynamics, cost: AbstractCost, starts: Float[np.ndarray, "S n"], stretch: Stretch
) -> BeliefProblem:
    """From the states that episodes began in.  Raises `UserError` for a model that is no Gaussian process."""
    if not isinstance(model, GaussianProcess):
        raise UserError(
            f"imagine is moments, which takes a Gaussian process, and the model is {type(model).__name__}: use "
            "--model gp, or --algorithm.imagine particles."
        )
    n = starts.shape[1]
    if cost.extras:
        raise UserError("imagine is moments, and the cost is learned; it takes a known one: use particles.")
    mean, scale = starts.mean(axis=0), np.asarray(stretch.scale, np.float64)
    cov = np.cov(starts.T, ddof=0).reshape(n, n) + np.diag((1e-3 * scale) ** 2)
    sobol = qmc.Sobol(n, scramble=True, rng=np.random.default_rng(0)).random(POINTS)
    points = jnp.asarray(norm.ppf(sobol), jnp.float64)
    start = Belief(jnp.asarray(mean, jnp.float64), jnp.asarray(cov, jnp.float64))
    return BeliefProblem(se_posterior(model, n), noise_variance(model)[:n], cost, start, stretch, points)


def improve_moments(
    now: Improvement, problem: BeliefProblem, horizon: int, iterations: int
) -> tuple[Improvement, Metrics]:
    """L-BFGS on the expected cost, which is no random number; a policy that is not better is not taken.

    Deisenroth and Rasmussen, PILCO: a model-based and data-efficient approach to policy search, ICML 2011.
    """
    need_moments(now.actor)
    flat, back = ravel_pytree(_wide(now.actor.body))
    norms: list[float] = []

    def price(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = value_and_slope(jnp.asarray(flat), now.actor, problem, horizon)
        value, slope = float(value), np.asarray(slope)
        norms.append(float(np.linalg.norm(slope)))
        # Where a belief has no root any more the line search goes back.
        return (value, slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e10, np.zeros_like(slope))

    began = price(np.asarray(flat))[0]
    found = scipy.optimize.minimize(
        price, np.asarray(flat), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    better = np.isfinite(found.fun) and found.fun < began and np.isfinite(found.x).all()
    narrow = lambda new, old: jnp.asarray(new, old.dtype)
    body = jax.tree.map(narrow, back(jnp.asarray(found.x)), now.actor.body) if better else now.actor.body
    metrics: Metrics = {
        "improve_began": began,
        "improve_cost": float(min(found.fun, began)),
        "improve_gradient": norms[-1],
        "improve_evaluations": int(found.nfev),
        "improve_length": int(now.length),
    }
    return now._replace(actor=eqx.tree_at(lambda a: a.body, now.actor, body)), metrics
