"""What is known of a state, as a Gaussian, carried forward through a model step by step.

x' = x + f(features(x, u)) + noise.  The state's distribution is taken for the Gaussian that has its moments at every
step: one hump, and the model's doubt at one step is independent of that at the next (one function drawn per rollout,
as `draw` does, is not).  Angles are on the line, not wrapped: a mean may pass pi.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.math.moments import Moments, after, beside, linear, symmetric
from forethought.math.moments_features import Squash, feature_moments, squash_moments
from forethought.types import Array, Scalar, Spec, Time


class Belief(NamedTuple):
    """x ~ N(mean, cov), float64."""

    mean: Float[Array, " n"]
    cov: Float[Array, "n n"]


class Forecast(NamedTuple):
    """The beliefs after each of H steps."""

    mean: Float[Array, "H n"]
    cov: Float[Array, "H n n"]
    action: Float[Array, "H m"]
    """Mean actions."""
    least: Float[Array, " H"]
    """Smallest eigenvalue of each covariance: nothing is clipped, so rounding may leave it a little below zero."""


Change = Callable[[Float[Array, " f"], Float[Array, "f f"]], Moments]
"""Moments of the change of state [n] for Gaussian features; a pytree (jax.tree_util.Partial of a function, say)."""

Controller = Callable[[Belief, Time], Moments]
"""Moments of the action [m] for a Gaussian state, at a step; a pytree."""


class OpenLoopActions(eqx.Module):
    """The actions of a plan, whatever the state."""

    us: Float[Array, "H m"]

    def __call__(self, belief: Belief, t: Time) -> Moments:
        """u_t, which does not vary."""
        m, n = self.us.shape[1], belief.mean.shape[0]
        return Moments(self.us[t], jnp.zeros((m, m), self.us.dtype), jnp.zeros((m, n), self.us.dtype))


class LinearActions(eqx.Module):
    """u = gain x + offset; with limits, squashed into them (see `Squash`)."""

    gain: Float[Array, "m n"]
    offset: Float[Array, " m"]
    limits: tuple[Float[Array, " m"], Float[Array, " m"]] | None = None
    """(low, high); None: no squashing."""
    squash: Squash = eqx.field(static=True, default="flat")

    def __call__(self, belief: Belief, t: Time) -> Moments:
        """The moments of u."""
        del t
        raw = linear(self.gain, self.offset, belief.mean, belief.cov)
        if self.limits is None:
            return raw
        return after(raw, squash_moments(self.squash, *self.limits, raw.mean, raw.cov))


def advance(
    spec: Spec, change: Change, controller: Controller, noise: Float[Array, " n"], belief: Belief, t: Time
) -> tuple[Belief, Moments]:
    """The belief one step later, and the action's moments; `noise` is the variance that each step adds.

    S' = S + S_change + C + C^T + diag(noise), C = Cov[x, change].
    """
    action = controller(belief, t)
    both = beside(belief.mean, belief.cov, action)
    seen = after(both, feature_moments(spec, both.mean, both.cov))
    moved = after(seen, change(seen.mean, seen.cov))
    cross = moved.slope @ belief.cov
    cov = belief.cov + moved.cov + cross + cross.T + jnp.diag(noise)
    return Belief(belief.mean + moved.mean, symmetric(cov)), action


def forecast(
    spec: Spec, change: Change, controller: Controller, noise: Float[Array, " n"], belief: Belief, horizon: int
) -> Forecast:
    """The beliefs after 1 to `horizon` steps.  Differentiable; a step is recomputed for its gradient."""

    @jax.checkpoint
    def step(now: Belief, t: Time) -> tuple[Belief, Forecast]:
        then, action = advance(spec, change, controller, noise, now, t)
        return then, Forecast(*then, action.mean, least_eigenvalue(then.cov))

    return jax.lax.scan(step, belief, jnp.arange(horizon, dtype=jnp.int32))[1]


def least_eigenvalue(cov: Float[Array, "n n"]) -> Scalar:
    """For the record only: no gradient flows through it."""
    return jnp.linalg.eigvalsh(jax.lax.stop_gradient(cov))[0]
