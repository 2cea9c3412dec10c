"""The cross-entropy method."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from forethought.core import AbstractPlanner, Plan, Problem
from forethought.math.rollout import Imagination, appraise
from forethought.planners.search import Searched, elite_moments, elites, finish, seen, shift_plan
from forethought.types import Box, RandomKey


class CEM(AbstractPlanner[Searched]):
    """Sample plans, refit a Gaussian to the best ones, repeat (Rubinstein 1999; in the form of Chua et al. 2018).

    Samples are normal truncated at 2 standard deviations, whose spread is corrected for the truncation; near a limit
    the standard deviation is at most half the distance to it.
    """

    imagination: Imagination = Imagination()
    samples: int = 200
    elites: int = 20
    iterations: int = 5
    scale: float = 0.5
    """Initial standard deviation in half ranges of the action."""
    momentum: float = 0.1
    """Share of the old mean and standard deviation that is kept at each iteration."""

    def init(self, problem: Problem) -> Searched:
        """The middle of the action range."""
        return Searched(jnp.zeros((problem.horizon, problem.actions.d), jnp.float32))

    def plan(self, problem: Problem, warm: Searched, key: RandomKey) -> tuple[Plan, Searched]:
        """Search from the shifted mean; the cheaper of the final mean and the best sample is the plan."""
        bounded = isinstance(problem.actions, Box)

        def iterate(carry, k):
            mean, std = carry
            k_sample, k_score = jr.split(k)
            near = jnp.minimum(std, 0.5 * (1.0 - jnp.abs(mean))) if bounded else std
            # A normal truncated at +-2 has standard deviation 0.8796: undone here, or CEM shrinks by 12% each time.
            noise = jr.truncated_normal(k_sample, -2.0, 2.0, (self.samples, *mean.shape), jnp.float32) / 0.8796
            z = problem.actions.clip(jnp.concatenate([mean[None], mean + near * noise]))
            scored = appraise(self.imagination, problem, z, k_score)
            best, best_costs = elites(z, scored.costs, self.elites)
            new_mean, new_std = elite_moments(best, best_costs)
            keep = jnp.where(jnp.isfinite(best_costs[0]), self.momentum, 1.0)
            carry = (keep * mean + (1.0 - keep) * new_mean, keep * std + (1.0 - keep) * new_std)
            return carry, (best[0], scored)

        k_search, k_last = jr.split(key)
        start = (warm.mean, jnp.full_like(warm.mean, self.scale))
        (mean, std), (best, populations) = jax.lax.scan(iterate, start, jr.split(k_search, self.iterations))
        # Best-of-noise is optimistic: mean and best are scored once more, under the same fresh noise.
        z = problem.actions.clip(jnp.stack([mean, best[-1]]))
        last = appraise(self.imagination, problem, z, k_last)
        chosen = jnp.argmin(last.costs)
        metrics = {"spread": jnp.mean(std), **seen(populations, last)}
        return finish(problem, z[chosen], last.costs[chosen], metrics), Searched(mean)

    def shift(self, warm: Searched) -> Searched:
        """Drop the executed action, repeat the last one."""
        return eqx.tree_at(lambda w: w.mean, warm, shift_plan(warm.mean))
