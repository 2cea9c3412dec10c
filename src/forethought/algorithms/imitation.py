"""The supervised half of guided policy search: one network that does what all local controllers do."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float

from forethought.algorithms.local_improve import Rollouts
from forethought.math.angles import wrap_components
from forethought.math.linear_kl import lower_inverse
from forethought.math.linear_quadratic import LinearGaussianPolicy
from forethought.math.scaling import fit_scaler
from forethought.policies.linear_gaussian import Gains
from forethought.policies.neural import Network, init_policy, mean_action, seen
from forethought.types import Array, Metrics, RandomKey, Spec

LEARNING_RATE = 1e-3
BATCH = 256


class Lessons(NamedTuple):
    """States, what the local controllers do there on average, and how much an error matters there."""

    x: Float[Array, "B n"]
    u: Float[Array, "B m"]
    root: Float[Array, "B m m"]
    """R with R^T R the precision of the controller's noise: its inverse Cholesky factor."""
    weight: Float[Array, " B"]


class Guide(eqx.Module):
    """Guided policy search in its mirror-descent form: the local controllers improve within a KL bound of the network,
    and the network is trained to do what they do.

    Montgomery and Levine, Guided policy search via approximate mirror descent, NIPS 2016.  The rollouts are those of
    the local controllers, whose noise explores.
    """

    on: bool = False
    width: int = 64
    depth: int = 2
    gradient_steps: int = 3000
    """Per iteration."""

    def init(self, spec: Spec, key: RandomKey) -> Network | None:
        """The network before training; none if this is not on."""
        return init_policy(spec, self.width, self.depth, key) if self.on else None

    def follow(
        self, network: Network, spec: Spec, rollouts: Rollouts, gains: Gains, key: RandomKey
    ) -> tuple[Network, Metrics]:
        """Train it to do what these controllers do in the states of these rollouts (a leading axis of conditions)."""
        trained, told = imitate(network, spec, _lessons(rollouts, gains, spec), self.gradient_steps, key)
        return trained, {f"local_{name}": np.asarray(value).tolist() for name, value in told.items()}


@eqx.filter_jit
def _lessons(rollouts: Rollouts, gains: Gains, spec: Spec) -> Lessons:
    """Every state of every rollout; states that are not finite do not count."""
    x, weight = rollouts.x, rollouts.weight
    x = x[:, :, :-1]
    off = x - gains.xs[:, None]
    off = jax.vmap(lambda v: wrap_components(v, spec.angles))(off.reshape(-1, spec.n)).reshape(x.shape)
    u = gains.us[:, None] + jnp.sum(gains.K[:, None] * off[..., None, :], axis=4)
    root = jnp.broadcast_to(lower_inverse(gains.L)[:, None], (*x.shape[:3], spec.m, spec.m))
    sound = jnp.all(jnp.isfinite(x), axis=3) & jnp.all(jnp.isfinite(u), axis=3)
    sound = sound & jnp.all(jnp.isfinite(root), axis=(3, 4)) & (weight > 0.0)
    flat = lambda v, k: jnp.where(sound.reshape(sound.shape + (1,) * k), v, 0.0).reshape(-1, *v.shape[3:])
    return Lessons(flat(x, 1), flat(u, 1), flat(root, 2), flat(weight, 0))


@eqx.filter_jit
def imitate(network: Network, spec: Spec, lessons: Lessons, steps: int, key: RandomKey) -> tuple[Network, Metrics]:
    """minimise  mean_i 1/2 (pi(x_i) - u_i)^T Sigma_i^-1 (pi(x_i) - u_i),  and  Sigma = (mean_i Sigma_i^-1)^-1

    That is the KL divergence from the network to the local controllers, in their states, by its two parts (Montgomery
    and Levine, Guided policy search via approximate mirror descent, NIPS 2016).  Adam on batches, from the last
    weights; a network that would not be finite is not taken.
    """
    use = lessons.weight > 0.0
    x32 = lessons.x.astype(jnp.float32)
    z = jax.vmap(lambda x: seen(spec, x))(x32)
    scaled = network._replace(inputs=fit_scaler(z, use), outputs=fit_scaler(lessons.u, use))
    share = lessons.weight / jnp.maximum(jnp.sum(lessons.weight), 1e-30)
    precision = jnp.einsum("b,bij,bik->jk", share, lessons.root, lessons.root, precision="highest")
    flipped = jnp.linalg.cholesky(precision[::-1, ::-1])
    eye = jnp.eye(precision.shape[0], dtype=precision.dtype)
    inverse = jax.lax.linalg.triangular_solve(flipped, eye, left_side=True, lower=True)
    L = inverse[::-1, ::-1].T.astype(jnp.float32)
    # In units of the average precision: the size of the loss does not depend on how sure the controllers are.
    unit = jnp.sqrt(jnp.maximum(jnp.trace(precision) / precision.shape[0], 1e-30))
    root = (lessons.root / unit).astype(jnp.float32) * scaled.outputs.std
    wanted = jax.vmap(scaled.outputs.scale)(lessons.u.astype(jnp.float32))
    # Row i is drawn for numbers from below[i-1] up to below[i]; of those without weight there are none.
    below = jnp.minimum(jnp.cumsum(share).astype(jnp.float32), 1.0)
    below = jnp.where(below >= below[-1], 1.0, below)
    optimiser = optax.adam(LEARNING_RATE)

    def loss(layers: tuple, rows: Array) -> Array:
        said = jax.vmap(lambda x: scaled.outputs.scale(mean_action(scaled._replace(layers=layers), spec, x)))(x32[rows])
        off = jnp.einsum("bij,bj->bi", root[rows], said - wanted[rows])
        return 0.5 * jnp.mean(jnp.sum(off**2, axis=1))

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        layers, memory = carry
        rows = jnp.searchsorted(below, jr.uniform(key, (BATCH,), jnp.float32), side="right")
        value, slope = jax.value_and_grad(loss)(layers, rows)
        change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(layers, change), memory), value

    start = (scaled.layers, optimiser.init(scaled.layers))  # pyright: ignore[reportArgumentType]
    (layers, _), losses = jax.lax.scan(step, start, jr.split(key, steps))
    trained = scaled._replace(layers=layers, L=L)
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trained)]))
    kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), trained, network)
    return kept, {"imitation_loss": jnp.mean(losses[-100:]), "imitation_failed": ~sound}


@eqx.filter_jit
def linearised(network: Network, spec: Spec, xs: Float[Array, "c T n"]) -> LinearGaussianPolicy:
    """The network's policy along paths, to first order: what the local controllers must not leave too far."""
    one = lambda x: mean_action(network, spec, x).astype(jnp.float64)
    u, K = jax.vmap(jax.vmap(lambda x: (one(x), jax.jacfwd(one)(x))))(xs)
    k = u - jnp.sum(K * xs[:, :, None, :], axis=3)
    L = jnp.broadcast_to(network.L.astype(jnp.float64), (*xs.shape[:2], *network.L.shape))
    return LinearGaussianPolicy(K, k, L)
