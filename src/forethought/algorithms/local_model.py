"""The step around iterative LQR: nonlinear dynamics, known or learned, followed and linearised where a policy leads."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost, AbstractDynamics
from forethought.math.angles import wrap_components
from forethought.math.kl_ilqr import Around, kl_ilqr
from forethought.math.kl_step import KLStep, Start
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy
from forethought.math.local_cost import Stage, expand_samples
from forethought.math.local_rows import same_turn
from forethought.models.local_prior import tangent
from forethought.types import Array, Scalar, State, Time


def tangents(
    model: AbstractDynamics, xs: Float[Array, "_ n"], us: Float[Array, "T m"], angles: Sequence[int]
) -> LinearDynamics:
    """The model along a path x_0 .. x_T, u_0 .. u_{T-1}: its slope, and the variance it predicts as the noise."""
    z = jnp.concatenate([xs[:-1], us], axis=1)
    steps = jnp.arange(us.shape[0], dtype=jnp.int32)
    mean, F, W = jax.vmap(lambda z, t: tangent(model, z, xs.shape[1], t, angles))(z, steps)
    return LinearDynamics(F, mean - jnp.sum(F * z[:, None, :], axis=2), W)


def follow(
    model: AbstractDynamics, policy: LinearGaussianPolicy, x0: Float[Array, " n"], angles: Sequence[int]
) -> tuple[Float[Array, "_ n"], Float[Array, "T m"]]:
    """States x_0 .. x_T and controls of the policy's mean, in the model's mean; angles run on without a jump."""
    n = x0.shape[0]

    def step(x: State, at: tuple[Array, Array, Time]) -> tuple[State, tuple[State, Array]]:
        K, k, t = at
        u = jnp.sum(K * x, axis=1) + k
        y = model.predict(wrap_components(x, angles), u, t).mean[:n].astype(x.dtype)
        return same_turn(y, x, angles), (x, u)

    steps = jnp.arange(policy.k.shape[0], dtype=jnp.int32)
    last, (xs, us) = jax.lax.scan(step, x0, (policy.K, policy.k, steps))
    return jnp.concatenate([xs, last[None]]), us


def stage_of(
    cost: AbstractCost, dynamics: LinearDynamics, model: AbstractDynamics, n: int, angles: Sequence[int]
) -> Stage:
    """The stage cost as a function of z = [x; u] alone: the next state is that of linear dynamics, and what a learned
    cost reads beside it comes from the global model."""

    def stage(z: Float[Array, " d"], t: Time) -> Scalar:
        x, u = wrap_components(z[:n], angles), z[n:]
        y = wrap_components(jnp.sum(dynamics.F[t] * z, axis=1) + dynamics.f[t], angles)
        if cost.extras:
            y = jnp.concatenate([y, model.predict(x, u, t).mean[n:].astype(y.dtype)])
        return jnp.asarray(cost.stage(x, u, y, t), z.dtype)

    return stage


def around(
    model: AbstractDynamics,
    cost: AbstractCost,
    xs: Float[Array, "_ n"],
    us: Float[Array, "T m"],
    angles: Sequence[int],
) -> Around:
    """Dynamics and cost to first and second order along a path."""
    dynamics = tangents(model, xs, us, angles)
    stage = stage_of(cost, dynamics, model, xs.shape[1], angles)
    end = lambda x: jnp.asarray(cost.terminal(wrap_components(x, angles)), x.dtype)
    z = jnp.concatenate([xs[:-1], us], axis=1)[:, None, :]
    return Around(dynamics, expand_samples(stage, end, z, xs[-1:], jnp.ones((xs.shape[0], 1), xs.dtype)))


def step_in_model(
    model: AbstractDynamics,
    cost: AbstractCost,
    start: Start,
    old: LinearGaussianPolicy,
    epsilon: Scalar,
    angles: Sequence[int],
) -> KLStep:
    """The KL-bounded step in the global model."""
    along = lambda xs, us: around(model, cost, xs, us, angles)
    return kl_ilqr(along, lambda policy: follow(model, policy, start.m0, angles), start, old, epsilon)
