"""Section 2, version 2.0: its gradient, and what it comes to, where the world is stochastic."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.algorithms.improve import Imagined, Improve, Improvement, improve, trained_leaves
from forethought.core import AbstractDynamics, AbstractPolicy
from forethought.costs.quadratic import Quadratic
from forethought.lecture.apparatus import cost_of
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.closed_loop import Health, Parts, Stretch, pathwise
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import copies
from forethought.planners.icem import ICEM
from forethought.planners.mpc import MPC, Planning
from forethought.policies.actor import Actor, ActorPolicy, init_actor, placed
from forethought.types import Action, Array, Box, RandomKey, State, Time
from forethought.worlds.classic import CartPole, cartpole_balance
from forethought.worlds.simulated import GaussianStart, SimulatedWorld

LIMIT, LONG, SHORT, PARTICLES, EPISODES = 60, 60, 10, 512, 8
NOISE = np.asarray([0.0, 0.03, 0.0, 0.1])
"""Standard deviations of the cart-pole's process noise per step of 0.02 s, of the velocities."""
FAINT = 0.1
"""A signal-to-noise ratio below this counts as this: it is noise anyway."""


class NoisyCart(AbstractDynamics):
    """The cart-pole's true equations, with noise."""

    std: Float[Array, " n"]

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """N(next state, diag(std^2))."""
        del t
        y = CartPole()(x, u)
        return DiagonalGaussian(y, jnp.asarray(self.std, y.dtype))

    def draw(self, key: RandomKey, particles: int) -> NoisyCart:
        """Copies: there is no doubt."""
        del key
        return copies(self, particles)


class Setting(NamedTuple):
    """A cart-pole with a quadratic cost, and what a policy is improved in."""

    world: SimulatedWorld
    at: Imagined


def setting(noise: float, seed: int) -> Setting:
    """With so much of NOISE."""
    cost = Quadratic(np.zeros(4), np.asarray([1.0, 0.1, 10.0, 0.1]), np.asarray([0.001]))
    begin = GaussianStart(np.zeros(4), np.asarray([0.2, 0.1, 0.1, 0.1]))
    world = dataclasses.replace(cartpole_balance(cost), limit=LIMIT, start=begin, process_std=noise * NOISE)
    pool = begin.std * np.random.default_rng(seed).standard_normal((256, 4))
    length, one = jnp.asarray(LONG, jnp.int32), jnp.ones((), jnp.float32)
    stretch = Stretch(length, one, jnp.asarray(begin.std, jnp.float32))
    model = NoisyCart(jnp.asarray(noise * NOISE, jnp.float32))
    return Setting(world, Imagined(model, cost, jnp.asarray(pool, jnp.float32), stretch))


class Keys(NamedTuple):
    """Of one seed, one per use."""

    actor: RandomKey
    place: RandomKey
    gradients: RandomKey
    world: RandomKey


def keys_of(seed: int) -> Keys:
    """The same for every side of a comparison."""
    return Keys(*jr.split(jr.key(seed), len(Keys._fields)))


def untrained(it: Setting, seed: int) -> Actor:
    """v2.0's radial basis functions before their first improvement."""
    k_actor, k_place, *_ = keys_of(seed)
    box = it.world.actions
    assert isinstance(box, Box)
    actor = init_actor(it.world.spec, box, "rbf", (100, 2), k_actor)
    return placed(actor, np.asarray(it.at.pool, np.float64), k_place)


@eqx.filter_jit
def _health(actor: Actor, at: Imagined, key: RandomKey) -> Health:
    k_start, k_belief, k_noise = jr.split(key, 3)
    trained, fixed = eqx.partition(actor, trained_leaves(actor))
    starts = at.pool[jr.randint(k_start, (PARTICLES,), 0, at.pool.shape[0])]
    beliefs = at.model.draw(k_belief, PARTICLES)
    return pathwise(Parts(trained, fixed), beliefs, at.cost, starts, jr.split(k_noise, (PARTICLES, LONG)), at.stretch)[
        1
    ]


def ratio(noise: float, horizon: int, seed: int) -> float:
    """Signal-to-noise ratio of the gradient of an untrained policy's cost over so many steps."""
    it = setting(noise, seed)
    at = it.at._replace(stretch=it.at.stretch._replace(length=jnp.asarray(horizon, jnp.int32)))
    return max(float(_health(untrained(it, seed), at, keys_of(seed).gradients).snr), FAINT)


def long(seed: int, full: bool) -> Outcome:
    """How much better the gradient through few steps is than that through many."""
    del full
    found = {f"signal to noise, {steps} steps": ratio(1.0, steps, seed) for steps in (SHORT, LONG)}
    return Outcome(log_ratio(*found.values()), found)


def noisy(seed: int, full: bool) -> Outcome:
    """How much better the gradient is without noise."""
    del full
    found = {f"signal to noise, {name}": ratio(noise, LONG, seed) for name, noise in (("quiet", 0.0), ("noisy", 1.0))}
    return Outcome(log_ratio(*found.values()), found)


def _costs(noise: float, seed: int) -> tuple[float, float]:
    """Of v1.5 and v2.0 in a world with so much noise, both of which know it."""
    it, starts = setting(noise, seed), [10 * seed + i for i in range(EPISODES)]
    plans = Planning(ICEM(), it.at.model, it.at.cost, it.world.actions, 20)
    now = Improvement(untrained(it, seed), None, it.at.stretch.length)
    how = Improve(gradient_steps=300, horizon=LONG)
    better = improve(how, now, it.at, LIMIT, keys_of(seed).gradients)[0].actor
    policies: tuple[AbstractPolicy, ...] = (MPC(plans), ActorPolicy(better, jnp.zeros((), jnp.float32)))
    planned, learned = (cost_of(it.world.rollouts(p, keys_of(seed).world, starts, LIMIT)) for p in policies)
    return planned, learned


def suffering(seed: int, full: bool) -> Outcome:
    """By what factor noise makes v2.0 dearer, over the same for v1.5."""
    del full
    (p_quiet, l_quiet), (p_noisy, l_noisy) = _costs(0.0, seed), _costs(1.0, seed)
    told = {"v1.5, quiet and noisy": [p_quiet, p_noisy], "v2.0, quiet and noisy": [l_quiet, l_noisy]}
    return Outcome(log_ratio(l_noisy, l_quiet) - log_ratio(p_noisy, p_quiet), told)


CART = (
    f"CartPole-v1's cart with a continuous force and a quadratic cost, {LIMIT} steps, from random starts near upright, "
    "with known equations; noise of 0.03 m/s and 0.1 rad/s per step."
)


LONGER = Claim(
    name="gradient-horizon",
    section="2, version 2.0",
    sentence="Backpropagation into the policy can be numerically unstable.",
    prediction=f"The gradient through {LONG} steps has a smaller signal-to-noise ratio than that through {SHORT}.",
    how=f"{CART} The pathwise gradient of an untrained policy of radial basis functions, {PARTICLES} rollouts; ratio "
    f"of signal-to-noise ratios, {SHORT} over {LONG} steps.",
    measure=long,
    unit=TIMES,
    seeds=tuple(range(100, 110)),
    full_seeds=tuple(range(100, 130)),
)
NOISIER = dataclasses.replace(
    LONGER,
    name="gradient-noise",
    sentence="Backpropagation into the policy is unstable especially in stochastic domains.",
    prediction=f"The gradient through {LONG} steps has a smaller signal-to-noise ratio with process noise than "
    "without.",
    how=f"{CART} The pathwise gradient of an untrained policy of radial basis functions, {PARTICLES} rollouts; ratio "
    "of signal-to-noise ratios, without noise over with.",
    measure=noisy,
    note="Hypothesis: an untrained policy lets the pole fall in either world, and how it falls depends on the start "
    "more than on the noise.",
)
SUFFERING = dataclasses.replace(
    LONGER,
    name="v20-noise",
    sentence="Version 2.0 suffers in stochastic domains, where MPC is robust.",
    prediction="Noise makes v2.0's policy dearer by a larger factor than v1.5's plans.",
    how=f"{CART} Both know the noise. Ratio of mean costs of {EPISODES} episodes, noisy over quiet: v2.0's (300 "
    "gradient steps) over v1.5's (replanning by iCEM, 20 steps ahead).",
    measure=suffering,
    note="Seeds differ much: in the first five, noise made v2.0's policy 7 to 27 times as dear in four, and in one the "
    "descent had ended in a bad policy without noise already.",
    seeds=tuple(range(100, 105)),
    full_seeds=tuple(range(100, 110)),
)
CLAIMS = (SUFFERING, LONGER, NOISIER)
