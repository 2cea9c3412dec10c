"""Total propagation: at every step the better of two gradient estimates, weighed by how noisy each is.

Where a model amplifies small differences the pathwise gradient's variance grows exponentially with the horizon; that of
the likelihood ratio does not, but it is large where there is little noise.  Parmas, Rasmussen, Peters and Doya, PIPPS:
Flexible model-based policy search robust to the curse of chaos, ICML 2018.  Here each particle's likelihood ratio is of
its own prediction; the paper's weights, by which all particles learn from each other, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, Key, PyTree

from forethought.core import AbstractCost, AbstractDynamics
from forethought.math.angles import wrap_components
from forethought.math.closed_loop import Health, Parts, Stretch, averaged, each_particle
from forethought.math.gaussian import DiagonalGaussian, Wrapped
from forethought.types import Array, State, Time, UserError


class _Path(NamedTuple):
    """Forward: [H P ...] or [P H ...]."""

    x: Array
    eta: Array
    counts: Array
    """The step is one of the rollout."""
    lives: Array
    """The rollout goes on after it."""
    charge: Array


class _Given(NamedTuple):
    """What is the same at every step."""

    parts: Parts
    cost: AbstractCost
    stretch: Stretch
    angles: tuple[int, ...]

    def zeta(self, belief: AbstractDynamics, trained: PyTree, x: State, h: Time) -> tuple[Array, Array, Array]:
        """(mean, std, action) at a state."""
        u = self.parts.whole(trained)(x)
        mean, std = _gaussian(belief.predict(x, u, h))
        return mean.astype(x.dtype), std.astype(x.dtype), u

    def stage(self, x: Array, u: Array, y: Array, h: Time) -> Array:
        """g^h c(x, u, y)."""
        return self.stretch.discount ** h.astype(jnp.float32) * self.cost.stage(x, u, y, h).astype(jnp.float32)

    def reached(self, mean: Array, std: Array, eta: Array) -> Array:
        """y."""
        return wrap_components(mean + std * eta, self.angles)


def total_propagation(
    parts: Parts,
    beliefs: AbstractDynamics,
    cost: AbstractCost,
    starts: Float[Array, "P n"],
    keys: Key[jax.Array, "P H"],
    stretch: Stretch,
    *,
    angles: Sequence[int] = (),
) -> tuple[PyTree, Health]:
    """The gradient of `pathwise`, by total propagation.

    With zeta_h = (mean, std) of what the model predicts for one particle at step h, G_h its cost from h on and b the
    others' average: the pathwise estimate of dG_h/dzeta_h comes from the step's cost and the next step's adjoint, the
    likelihood ratio's is (G_h - b) d log N(y; zeta_h)/dzeta_h, and with the variances over particles of the parameter
    gradients that they lead to they are mixed by k = var_path / (var_path + var_ratio), the share of the ratio.

    `angles` are the components of the state that are angles.  Raises `UserError` for a model whose predictions are not
    Gaussian.
    """
    given = _Given(parts, cost, stretch, tuple(angles))
    last, alive, path = each_particle(lambda b, x0, k: _forward(given, b, x0, k), beliefs, starts, keys)
    weight = stretch.discount ** stretch.length.astype(jnp.float32)
    end = lambda x: weight * cost.terminal(x).astype(jnp.float32)
    final, adjoint = jax.vmap(jax.value_and_grad(end))(last)
    final, adjoint = jnp.where(alive, final, 0.0), jnp.where(alive[:, None], adjoint, 0.0)
    # Cost from each step on, [P H].
    to_go = jnp.cumsum(path.charge[:, ::-1], axis=1)[:, ::-1] + final[:, None]
    zeros = jax.tree.map(lambda leaf: jnp.zeros((starts.shape[0], *leaf.shape), leaf.dtype), parts.trained)
    by_step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), path)
    steps = jnp.arange(keys.shape[1], dtype=jnp.int32)
    back = lambda carry, inputs: _backward(given, beliefs, carry, inputs)
    (_, slopes), (adjoints, k) = jax.lax.scan(back, (adjoint, zeros), (by_step, to_go.T, steps), reverse=True)
    return averaged(to_go[:, 0], slopes, jnp.swapaxes(adjoints, 0, 1), stretch, k.astype(jnp.float32))


def _forward(given: _Given, belief: AbstractDynamics, x0: State, keys: Array) -> tuple[State, Array, _Path]:
    """One rollout: its last state, whether it goes on there, and all that was on the way."""
    n = x0.shape[0]

    def step(now: tuple, inputs: tuple) -> tuple[tuple, _Path]:
        (x, alive), (key, h) = now, inputs
        mean, std, u = given.zeta(belief, given.parts.trained, x, h)
        eta = jr.normal(key, mean.shape, mean.dtype)
        y = given.reached(mean, std, eta)
        inside = h < given.stretch.length
        counts = alive & inside
        lives = alive & (given.cost.alive(y) | ~inside)
        charge = jnp.where(counts, given.stage(x, u, y, h), 0.0)
        return (jnp.where(counts, y[:n], x), lives), _Path(x, eta, counts, counts & lives, charge)

    steps = jnp.arange(keys.shape[0], dtype=jnp.int32)
    (x, alive), path = jax.lax.scan(step, (x0, jnp.ones((), bool)), (keys, steps))
    return x, alive, path


def _backward(given: _Given, beliefs: AbstractDynamics, carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
    """All particles one step back: their adjoints, their parameters' gradients so far, and the share of the ratio."""
    (adjoint, slopes), (at, go, h) = carry, inputs
    known = jnp.where(jnp.isfinite(go), go, 0.0)
    # Of the others that are finite: one that is not says nothing about anybody else.
    others = (jnp.sum(known) - known) / jnp.maximum(jnp.sum(jnp.isfinite(go)) - 1, 1)
    one = lambda belief, x, eta, counts, lives, a, advantage: _one_step(
        given, belief, (x, eta, h), (counts, lives), (a, advantage)
    )
    path_way, ratio = each_particle(one, beliefs, at.x, at.eta, at.counts, at.lives, adjoint, go - others)
    noise = [_variance(each[0]) for each in (path_way, ratio)]
    # What is not finite has no share, nor has a ratio that does not vary: particles that all paid the same, to the last
    # digit, say nothing by it.
    k = jnp.where(jnp.isfinite(noise[1]), noise[0] / jnp.maximum(noise[0] + noise[1], 1e-30), 0.0)
    k = jnp.where(noise[1] == 0.0, 0.0, k)
    k = jnp.where(jnp.isfinite(noise[0]), k, 1.0)
    mix = lambda a, b: jnp.where(k > 0.0, k * b, 0.0) + jnp.where(k < 1.0, (1.0 - k) * a, 0.0)
    moved, back = jax.tree.map(mix, path_way, ratio)
    # A step that does not count passes on what came.
    back = jnp.where(at.counts[:, None], back, adjoint)
    return (back, jax.tree.map(jnp.add, slopes, moved)), (back, k)


def _one_step(
    given: _Given, belief: AbstractDynamics, at: tuple, flags: tuple, later: tuple
) -> tuple[tuple[Any, Array], tuple[Any, Array]]:
    """(gradients of the parameters, adjoint of x) of one particle at one step, pathwise and by the likelihood ratio."""
    (x, eta, h), (counts, lives), (adjoint, advantage) = at, flags, later
    n = x.shape[0]
    zeta = lambda trained, x: given.zeta(belief, trained, x, h)
    (mean, std, u), pull = jax.vjp(zeta, given.parts.trained, x)
    by_x, by_u, by_y = jax.grad(given.stage, argnums=(0, 1, 2))(x, u, given.reached(mean, std, eta), h)
    onward = by_y.at[:n].add(jnp.where(lives, adjoint, 0.0))
    ratio = advantage.astype(mean.dtype) / jnp.maximum(std, 1e-30)
    safe = lambda v: jnp.where(counts, v, jnp.zeros_like(v))

    def through(mean: Array, std: Array) -> tuple[Any, Array]:
        moved, back = pull((safe(mean), safe(std), safe(by_u)))
        return moved, back + safe(by_x)

    return through(onward, onward * eta), through(ratio * eta, ratio * (eta**2 - 1.0))


def _variance(slopes: PyTree) -> Array:
    """Trace of the covariance over the particles that are finite."""
    leaves = [leaf.astype(jnp.float32).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(slopes)]
    flat = jnp.concatenate(leaves, axis=1)
    sound = jnp.all(jnp.isfinite(flat), axis=1, keepdims=True)
    flat, count = jnp.where(sound, flat, 0.0), jnp.maximum(jnp.sum(sound), 1)
    off = jnp.where(sound, flat - jnp.sum(flat, axis=0) / count, 0.0)
    return jnp.sum(off**2) / count


def _gaussian(prediction: Any) -> tuple[Array, Array]:
    inner = prediction.unwrapped if isinstance(prediction, Wrapped) else prediction
    if not isinstance(inner, DiagonalGaussian):
        raise UserError(
            f"total propagation needs predictions that are single Gaussians, and the model's are "
            f"{type(inner).__name__}: use --algorithm.improve.estimator pathwise."
        )
    return inner.mean, inner.std
