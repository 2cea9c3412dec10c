"""A policy unrolled in a model, and the gradient of what that costs with respect to the policy, with what shows its
health.

The random numbers are inputs: with them held, the cost of a rollout is a smooth function of the policy, and its
derivative an unbiased estimate of that of the expected cost (the pathwise, or reparameterised, gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int, Key, PyTree

from forethought.core import AbstractCost, AbstractDynamics
from forethought.types import Action, Array, Flag, RandomKey, Scalar, State, Time

LARGE = 1e15
"""A derivative beyond this is of no use, and its square overflows float32."""
Controller = Callable[[State], Action]
"""u = pi(x); a pytree whose arrays are what a gradient is taken of."""


class Parts(NamedTuple):
    """A controller taken apart by `equinox.partition`."""

    trained: PyTree
    """The arrays that a gradient is taken of."""
    fixed: PyTree

    def whole(self, trained: PyTree) -> Controller:
        """The controller, with these arrays."""
        return eqx.combine(trained, self.fixed)


class Stretch(NamedTuple):
    """How far a rollout goes, and what counts in it."""

    length: Int[Array, ""]
    """Steps that count, at most as many as there are keys: a number in an array, so that it can change from call to
    call without compiling anew."""
    discount: Float[Array, ""]
    scale: Float[Array, " n"]
    """What is usual for each component of the state, in whose units adjoints are told."""


class Rolled(NamedTuple):
    """One imagined rollout."""

    cost: Scalar
    """sum_{h<length} g^h c(x_h, u_h, y_h) + g^length c_T(x_length), nothing after the episode has ended."""
    x: Float[Array, "H n"]
    """The states that actions were chosen in."""
    y: Float[Array, "H n"]
    stage: Float[Array, " H"]
    """Stage costs, 0 where they do not count."""
    counts: Bool[Array, " H"]
    """Whether a step is one of the rollout."""
    ended: Bool[Array, " H"]
    """Whether the cost's `alive` said that the episode ended with this step."""


class Health(NamedTuple):
    """What says whether a gradient can be trusted."""

    cost: Scalar
    """Mean over the particles that are finite."""
    snr: Scalar
    """Signal-to-noise ratio of the mean of the particles' gradients: sqrt(max(0, |mean|^2 / (var / P) - 1)), with the
    norm of all parameters.  Of pure noise |mean|^2 is var / P, hence the -1; below 1 it is mostly noise, or that of
    a single particle."""
    norm: Scalar
    """Of the mean gradient."""
    adjoint: Float[Array, " H"]
    """Root mean square over particles of |dJ/dx_h|, in units of `Stretch.scale`; flat if all is well."""
    lost: Int[Array, ""]
    """Particles whose cost was not finite, or whose gradient had a number that is not, or above `LARGE`; they do not
    count."""
    mixture: Float[Array, " H"]
    """Share of the likelihood ratio in each step's gradient (total propagation); 0 of a pathwise one."""


class _Now(NamedTuple):
    x: Array
    alive: Array
    total: Array


def unroll(
    controller: Controller,
    belief: AbstractDynamics,
    cost: AbstractCost,
    x0: State,
    keys: Key[jax.Array, " H"],
    stretch: Stretch,
    *,
    bumps: Float[Array, "H n"] | None = None,
) -> Rolled:
    """One rollout of a policy in one belief, with the model's own noise.

    `bumps` are added to the states before the controller sees them: 0, and there for the derivative with respect to
    them, which is the adjoint.  A step is recomputed for its gradient, so that memory does not grow with what is inside
    of a step.
    """
    n, length = x0.shape[0], stretch.length
    steps = jnp.arange(keys.shape[0], dtype=jnp.int32)

    @jax.checkpoint
    def step(now: _Now, inputs: tuple) -> tuple[_Now, tuple]:
        key, h, bump = inputs
        x = now.x + bump
        u = controller(x)
        y = belief.predict(x, u, h).sample(key).astype(x.dtype)
        counts = now.alive & (h < length)
        weight = stretch.discount ** h.astype(jnp.float32)
        charge = jnp.where(counts, cost.stage(x, u, y, h).astype(jnp.float32), 0.0)
        lives = cost.alive(y)
        # After the end the state stays as it is, and nothing of what the model says there has a gradient.
        then = _Now(jnp.where(counts, y[:n], x), now.alive & (lives | (h >= length)), now.total + weight * charge)
        return then, (x, y[:n], charge, counts, counts & ~lives)

    none = jnp.zeros((keys.shape[0], n), x0.dtype) if bumps is None else bumps
    began = _Now(x0, jnp.ones((), bool), jnp.zeros((), jnp.float32))
    end, (x, y, charge, counts, ended) = jax.lax.scan(step, began, (keys, steps, none))
    terminal = stretch.discount ** length.astype(jnp.float32) * cost.terminal(end.x).astype(jnp.float32)
    return Rolled(end.total + jnp.where(end.alive, terminal, 0.0), x, y, charge, counts, ended)


def each_particle(function: Callable, beliefs: AbstractDynamics, *others: PyTree) -> PyTree:
    """`function(belief, *others)` of every particle; only arrays have a leading axis."""
    arrays, rest = eqx.partition(beliefs, eqx.is_array)
    return jax.vmap(lambda arrays, *each: function(eqx.combine(arrays, rest), *each))(arrays, *others)


def pathwise(
    parts: Parts,
    beliefs: AbstractDynamics,
    cost: AbstractCost,
    starts: Float[Array, "P n"],
    keys: Key[jax.Array, "P H"],
    stretch: Stretch,
) -> tuple[PyTree, Health]:
    """The gradient of the mean cost of P rollouts, one belief each (the result of `draw`), by backpropagation.

    What is not finite in one particle does not reach the mean.
    """
    bumps = jnp.zeros((keys.shape[1], starts.shape[1]), starts.dtype)

    def one(belief: AbstractDynamics, x0: State, keys: jax.Array) -> tuple:
        price = lambda trained, bumps: unroll(parts.whole(trained), belief, cost, x0, keys, stretch, bumps=bumps).cost
        return jax.value_and_grad(price, argnums=(0, 1))(parts.trained, bumps)

    value, (slopes, adjoints) = each_particle(one, beliefs, starts, keys)
    none = jnp.zeros(keys.shape[1:], jnp.float32)
    return averaged(value, slopes, adjoints, stretch, none)


def averaged(
    value: Float[Array, " P"],
    slopes: PyTree,
    adjoints: Float[Array, "P H n"],
    stretch: Stretch,
    mixture: Float[Array, " H"],
) -> tuple[PyTree, Health]:
    """The mean of what is finite, zeros if nothing is."""
    leaves = jax.tree.leaves(slopes)
    sound = jnp.isfinite(value)
    for leaf in leaves:
        sound = sound & jnp.all((jnp.abs(leaf) <= LARGE).reshape(leaf.shape[0], -1), axis=1)
    count = jnp.maximum(jnp.sum(sound), 1).astype(jnp.float32)
    keep = lambda v: jnp.where(sound.reshape((-1,) + (1,) * (v.ndim - 1)), v, 0.0)
    mean = jax.tree.map(lambda v: jnp.sum(keep(v), axis=0) / count.astype(v.dtype), slopes)
    square = sum(jnp.sum(v.astype(jnp.float32) ** 2) for v in jax.tree.leaves(mean))
    apart = jax.tree.map(lambda v, m: keep(v - m), slopes, mean)
    variance = sum(jnp.sum(v.astype(jnp.float32) ** 2) for v in jax.tree.leaves(apart)) / jnp.maximum(count - 1.0, 1.0)
    norm = jnp.sqrt(square)
    snr = jnp.sqrt(jnp.maximum(square / jnp.maximum(variance / count, 1e-30) - 1.0, 0.0))
    size = jnp.sum((keep(adjoints) * stretch.scale) ** 2, axis=2)
    # The mean was taken of costs as they are; adjoints are those of single rollouts.
    adjoint = jnp.sqrt(jnp.sum(size, axis=0) / count).astype(jnp.float32)
    price = jnp.where(jnp.any(sound), jnp.sum(keep(value)) / count, jnp.inf)
    lost = jnp.sum(~sound, dtype=jnp.int32)
    return mean, Health(price, snr, norm, adjoint, lost, mixture)


def lyapunov(
    controller: Controller, belief: AbstractDynamics, x0: State, key: RandomKey, steps: int, length: Int[Array, ""]
) -> Scalar:
    """The largest Lyapunov exponent along one rollout of the mean, per step: mean_h log |J_h v_h| with |v_h| = 1.

    J_h is the derivative of the closed loop's next state; above 0 small differences grow, and gradients with them.
    """
    n = x0.shape[0]
    closed = lambda x, h: belief.predict(x, controller(x), h).mean[:n].astype(x.dtype)

    def step(now: tuple[State, Array], h: Time) -> tuple[tuple[State, Array], Scalar]:
        x, v = now
        y, w = jax.jvp(lambda x: closed(x, h), (x,), (v,))
        size = jnp.sqrt(jnp.sum(w**2)) + 1e-30
        inside: Flag = h < length
        return (jnp.where(inside, y, x), jnp.where(inside, w / size, v)), jnp.where(inside, jnp.log(size), 0.0)

    v = jr.normal(key, (n,), x0.dtype)
    _, growth = jax.lax.scan(step, (x0, v / jnp.sqrt(jnp.sum(v**2))), jnp.arange(steps, dtype=jnp.int32))
    return (jnp.sum(growth) / jnp.maximum(length, 1)).astype(jnp.float32)
