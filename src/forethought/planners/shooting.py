"""Random shooting: try many plans in the model, keep the best."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from forethought.core import AbstractPlanner, Plan, Problem
from forethought.math.noise import coloured
from forethought.math.rollout import Imagination, appraise
from forethought.planners.search import Searched, finish, seen, shift_plan
from forethought.types import RandomKey


class RandomShooting(AbstractPlanner[Searched]):
    """The best of `samples` plans drawn at random: the baseline that every other planner must beat."""

    imagination: Imagination = Imagination()
    samples: int = 1000
    beta: float = 0.0
    """Colour of the noise: spectrum f^-beta; 0 is white."""
    scale: float = 1.0
    """Standard deviation in half ranges of the action."""

    def init(self, problem: Problem) -> Searched:
        """The middle of the action range."""
        return Searched(jnp.zeros((problem.horizon, problem.actions.d), jnp.float32))

    def plan(self, problem: Problem, warm: Searched, key: RandomKey) -> tuple[Plan, Searched]:
        """Score fresh samples and the shifted last plan."""
        k_sample, k_score = jr.split(key)
        z = self.scale * coloured(k_sample, (self.samples, *warm.mean.shape), self.beta)
        z = problem.actions.clip(jnp.concatenate([z, warm.mean[None]]))
        scored = appraise(self.imagination, problem, z, k_score)
        best = jnp.argmin(scored.costs)
        return finish(problem, z[best], scored.costs[best], seen(scored)), Searched(z[best])

    def shift(self, warm: Searched) -> Searched:
        """Drop the executed action, repeat the last one."""
        return eqx.tree_at(lambda w: w.mean, warm, shift_plan(warm.mean))
