"""Model predictive path integral control."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPlanner, Plan, Problem
from forethought.math.noise import coloured
from forethought.math.rollout import Imagination, appraise
from forethought.planners.search import Searched, finish, seen, shift_plan
from forethought.types import Array, RandomKey


class MPPI(AbstractPlanner[Searched]):
    """Move the mean to the softmax-weighted average of samples around it (Williams et al. 2017).

    w_i ~ exp(-S_i / lambda), mean <- sum_i w_i z_i, with the temperature lambda solved so that the effective sample
    size 1 / sum w_i^2 is a stated share of the samples: costs of any scale need no tuning.  The base measure is the
    current mean, so each update is a step of KL-proximal descent.
    """

    imagination: Imagination = Imagination()
    samples: int = 128
    iterations: int = 3
    beta: float = 2.0
    """Colour of the noise: spectrum f^-beta; 0 is white."""
    scale: float = 0.5
    """Standard deviation in half ranges of the action at the first iteration."""
    shrink: float = 0.6
    """Factor on the standard deviation from one iteration to the next."""
    effective: float = 0.1
    """Effective sample size that the temperature is set for, as a share of the samples."""

    def init(self, problem: Problem) -> Searched:
        """The middle of the action range."""
        return Searched(jnp.zeros((problem.horizon, problem.actions.d), jnp.float32))

    def plan(self, problem: Problem, warm: Searched, key: RandomKey) -> tuple[Plan, Searched]:
        """Iterate from the shifted mean; the cheaper of the final mean and the best last sample is the plan."""

        def iterate(mean, inputs):
            k, std = inputs
            k_sample, k_score = jr.split(k)
            noise = coloured(k_sample, (self.samples, *mean.shape), self.beta)
            z = problem.actions.clip(jnp.concatenate([mean[None], mean + std * noise]))
            scored = appraise(self.imagination, problem, z, k_score)
            weights = path_weights(scored.costs, self.effective)
            best = jnp.argmin(scored.costs)
            moved = jnp.einsum("n,nhd->hd", weights, z, precision="highest")
            mean = jnp.where(jnp.isfinite(scored.costs[best]), moved, mean)
            return mean, (z[best], 1.0 / jnp.sum(weights**2), scored)

        k_search, k_last = jr.split(key)
        stds = self.scale * self.shrink ** jnp.arange(self.iterations, dtype=jnp.float32)
        inputs = (jr.split(k_search, self.iterations), stds)
        mean, (best, ess, populations) = jax.lax.scan(iterate, warm.mean, inputs)
        z = problem.actions.clip(jnp.stack([mean, best[-1]]))
        last = appraise(self.imagination, problem, z, k_last)
        chosen = jnp.argmin(last.costs)
        metrics = {"effective_samples": ess[-1], **seen(populations, last)}
        return finish(problem, z[chosen], last.costs[chosen], metrics), Searched(mean)

    def shift(self, warm: Searched) -> Searched:
        """Drop the executed action, repeat the last one."""
        return eqx.tree_at(lambda w: w.mean, warm, shift_plan(warm.mean))


def path_weights(costs: Float[Array, " N"], effective: float) -> Float[Array, " N"]:
    """softmax(-costs / lambda) with 1 / sum w^2 = effective * N, lambda by bisection of its logarithm.

    Non-finite costs get weight zero; if none is finite the weights are uniform.  With several equal minima the
    effective size cannot fall below their number, and the coldest temperature is used.
    """
    finite = jnp.isfinite(costs)
    count = jnp.sum(finite)
    lowest = jnp.min(jnp.where(finite, costs, jnp.inf))
    excess = jnp.where(finite, costs - jnp.where(count > 0, lowest, 0.0), jnp.inf)
    spread = jnp.maximum(jnp.max(jnp.where(finite, excess, 0.0)), 1e-30)
    target = jnp.maximum(effective * count, 1.0)

    def weights_at(log_lambda):
        w = jnp.where(finite, jnp.exp(-excess / spread * jnp.exp(-log_lambda)), 0.0)
        return w / jnp.maximum(jnp.sum(w), 1e-30)

    def halve(bracket, _):
        low, high = bracket
        middle = 0.5 * (low + high)
        too_cold = 1.0 / jnp.sum(weights_at(middle) ** 2) < target
        return (jnp.where(too_cold, middle, low), jnp.where(too_cold, high, middle)), None

    bracket = (jnp.asarray(-12.0, costs.dtype), jnp.asarray(6.0, costs.dtype))
    (low, high), _ = jax.lax.scan(halve, bracket, None, length=24)
    return jnp.where(count > 0, weights_at(0.5 * (low + high)), 1.0 / costs.shape[0])
