"""The improved cross-entropy method."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float

from forethought.core import AbstractPlanner, Plan, Problem
from forethought.math.noise import coloured
from forethought.math.rollout import Imagination, appraise
from forethought.planners.search import elite_moments, elites, finish, seen, shift_plan
from forethought.types import Array, RandomKey


class ICEMWarm(eqx.Module):
    """The mean, the elites kept for the next solve, and whether there are any yet."""

    mean: Float[Array, "H d"]
    kept: Float[Array, "K H d"]
    any_kept: Bool[Array, ""]


class ICEM(AbstractPlanner[ICEMWarm]):
    """CEM with coloured noise and elites carried over iterations and steps (Pinneri et al. 2020).

    Deviations: the population does not shrink over iterations (one compiled loop body), kept elites and the mean are
    scored again with every population (their old scores belong to other noise), and all of them compete for the plan.
    """

    imagination: Imagination = Imagination()
    samples: int = 256
    elites: int = 10
    iterations: int = 6
    kept: int = 3
    """Elites that are carried over to the next iteration and the next step."""
    beta: float = 2.0
    """Colour of the noise: spectrum f^-beta; 0 is white."""
    scale: float = 1.0
    """Initial standard deviation in half ranges of the action."""
    narrowest: float = 0.1
    """Samples have widths from 1 down to this times the standard deviation, spaced geometrically.  Below 1 the search
    settles within a few iterations, as MPC needs it; for one long search from a cold start use 1."""
    momentum: float = 0.3
    """Share of the old mean and standard deviation that is kept at each iteration."""

    def init(self, problem: Problem) -> ICEMWarm:
        """The middle of the action range, no elites."""
        shape = (problem.horizon, problem.actions.d)
        return ICEMWarm(jnp.zeros(shape, jnp.float32), jnp.zeros((self.kept, *shape), jnp.float32), jnp.zeros((), bool))

    def plan(self, problem: Problem, warm: ICEMWarm, key: RandomKey) -> tuple[Plan, ICEMWarm]:
        """Search from the shifted mean and elites; the cheapest plan of the last population is the plan."""

        def iterate(carry, k):
            mean, std, kept, any_kept = carry
            k_sample, k_score = jr.split(k)
            noise = coloured(k_sample, (self.samples, *mean.shape), self.beta)
            # Wide samples find the swing, narrow ones hold the balance; a single width can do one of the two.
            widths = self.narrowest ** jnp.linspace(0.0, 1.0, self.samples, dtype=jnp.float32)
            z = problem.actions.clip(mean + widths[:, None, None] * std * noise)
            old = jnp.where(any_kept, kept, z[: self.kept])
            z = jnp.concatenate([z, old, problem.actions.clip(mean)[None]])
            scored = appraise(self.imagination, problem, z, k_score)
            best, best_costs = elites(z, scored.costs, self.elites)
            new_mean, new_std = elite_moments(best, best_costs)
            found = jnp.isfinite(best_costs[0])
            keep = jnp.where(found, self.momentum, 1.0)
            carry = (
                keep * mean + (1.0 - keep) * new_mean,
                keep * std + (1.0 - keep) * new_std,
                jnp.where(found, best[: self.kept], kept),
                any_kept | found,
            )
            return carry, scored

        k_search, k_last = jr.split(key)
        start = (warm.mean, jnp.full_like(warm.mean, self.scale), warm.kept, warm.any_kept)
        (mean, std, kept, any_kept), populations = jax.lax.scan(iterate, start, jr.split(k_search, self.iterations))
        # Best-of-noise is optimistic: the mean and the kept elites compete once more, under the same fresh noise.
        z = problem.actions.clip(jnp.concatenate([mean[None], kept]))
        last = appraise(self.imagination, problem, z, k_last)
        chosen = jnp.argmin(last.costs)
        metrics = {"spread": jnp.mean(std), **seen(populations, last)}
        plan = finish(problem, z[chosen], last.costs[chosen], metrics)
        return plan, ICEMWarm(mean, kept, any_kept)

    def shift(self, warm: ICEMWarm) -> ICEMWarm:
        """Drop the executed action from the mean and from every elite, repeat the last one."""
        return ICEMWarm(shift_plan(warm.mean), shift_plan(warm.kept), warm.any_kept)
