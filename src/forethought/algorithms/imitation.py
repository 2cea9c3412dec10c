"""The supervised half of guided policy search: one network that does what all local controllers do."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Float

from forethought.math.linear_quadratic import LinearGaussianPolicy
from forethought.math.scaling import fit_scaler
from forethought.policies.neural import Network, mean_action, seen
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
    wanted = scaled.outputs.scale(lessons.u.astype(jnp.float32))
    optimiser = optax.adam(LEARNING_RATE)

    def loss(layers: tuple, rows: Array) -> Array:
        said = jax.vmap(lambda x: scaled.outputs.scale(mean_action(scaled._replace(layers=layers), spec, x)))(x32[rows])
        off = jnp.einsum("bij,bj->bi", root[rows], said - wanted[rows])
        return 0.5 * jnp.mean(jnp.sum(off**2, axis=1))

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        layers, memory = carry
        rows = jr.categorical(key, jnp.log(share).astype(jnp.float32), shape=(BATCH,))
        value, slope = jax.value_and_grad(loss)(layers, rows)
        change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(layers, change), memory), value

    start = (scaled.layers, optimiser.init(scaled.layers))  # pyright: ignore[reportArgumentType]
    (layers, _), losses = jax.lax.scan(step, start, jr.split(key, steps))
    trained = scaled._replace(layers=layers, L=L)
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trained)]))
    kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), trained, network)
    return kept, {"imitation_loss": jnp.mean(losses[-100:]), "imitation_failed": ~sound}


def linearised(network: Network, spec: Spec, xs: Float[Array, "T n"]) -> LinearGaussianPolicy:
    """The network's policy along a path, to first order: what the local controllers must not leave too far."""
    one = lambda x: mean_action(network, spec, x).astype(jnp.float64)
    u, K = jax.vmap(lambda x: (one(x), jax.jacfwd(one)(x)))(xs)
    k = u - jnp.sum(K * xs[:, None, :], axis=2)
    L = jnp.broadcast_to(network.L.astype(jnp.float64), (xs.shape[0], *network.L.shape))
    return LinearGaussianPolicy(K, k, L)
