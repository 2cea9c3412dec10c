"""A policy that proposes, a planner that decides."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractDynamics, AbstractPlanner, AbstractPolicy, Plan, Problem
from forethought.math.rollout import Imagination, appraise, needed
from forethought.types import Array, RandomKey, State, Time, UserError


class Proposed(AbstractPlanner[Any]):
    """A sampling planner whose search begins at the cheaper of its own warm start and what a policy would do.

    The policy is followed through the model's mean from the state at hand; both plans are scored under the same random
    numbers.  What is not finite is not proposed.
    """

    planner: AbstractPlanner
    policy: AbstractPolicy

    def init(self, problem: Problem) -> Any:
        """The planner's.  Raises `UserError` for a planner that does not search around a mean."""
        warm = self.planner.init(problem)
        if not hasattr(warm, "mean"):
            raise UserError(
                f"{type(self.planner).__name__} has no mean to begin a search at; a policy proposes to cem, icem or "
                "mppi."
            )
        return warm

    def plan(self, problem: Problem, warm: Any, key: RandomKey) -> tuple[Plan, Any]:
        """The planner's, from the better start; `proposal_used` says whether it was the policy's."""
        k_policy, k_score, k_plan = jr.split(key, 3)
        how: Imagination = getattr(self.planner, "imagination", Imagination())
        z = problem.actions.clip(followed(self.policy, needed(how, problem.dynamics), problem, k_policy))
        own = problem.actions.clip(warm.mean)
        costs = appraise(how, problem, jnp.stack([own, jnp.where(jnp.isfinite(z), z, own)]), k_score).costs
        better = costs[1] < costs[0]
        warm = eqx.tree_at(lambda w: w.mean, warm, jnp.where(better, z, warm.mean))
        plan, warm = self.planner.plan(problem, warm, k_plan)
        metrics = plan.metrics | {"proposal_used": better}
        return eqx.tree_at(lambda p: p.metrics, plan, metrics, is_leaf=lambda v: isinstance(v, dict)), warm

    def shift(self, warm: Any) -> Any:
        """The planner's."""
        return self.planner.shift(warm)


def followed(
    policy: AbstractPolicy, dynamics: AbstractDynamics, problem: Problem, key: RandomKey
) -> Float[Array, "H d"]:
    """The actions of a policy along the model's mean, in search coordinates."""
    n = problem.x0.shape[0]

    def step(now: tuple[State, Any], h: Time) -> tuple[tuple[State, Any], Array]:
        x, carry = now
        u, carry = policy.act(carry, x, problem.t0 + h)
        y = dynamics.predict(x, u, problem.t0 + h).mean[:n].astype(x.dtype)
        return (y, carry), problem.actions.encode(u).astype(jnp.float32)

    began = (problem.x0, policy.init(problem.x0, key))
    return jax.lax.scan(step, began, jnp.arange(problem.horizon, dtype=jnp.int32))[1]
