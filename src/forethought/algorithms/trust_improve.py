"""One update of a stochastic policy and its value function from rows of experience, real or imagined."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float

from forethought.core import AbstractCost, AbstractDynamics, AbstractPolicy
from forethought.math.advantage import advantages
from forethought.math.finite import LARGEST
from forethought.math.imagined import Room, Starts, discounted, episodes
from forethought.math.layers import Layer, with_inputs
from forethought.math.scaling import Scaler, fit_scaler
from forethought.math.stochastic import Said, entropy, kl, log_prob
from forethought.math.trust_region import StepHow, Vector, trust_region_step
from forethought.models.value import FittedValue, Value, ValueLearner
from forethought.policies.neural import ChoosingPolicy, Network, NeuralPolicy, believed, init_policy, seen
from forethought.types import Actions, Array, Box, Metrics, RandomKey, Scalar, Spec, State

SMALL = 0.1
"""Factor of the last layer before training: the first policy hardly depends on the state."""


class Actor(NamedTuple):
    """What training changes of a policy; the network's own covariance is not used."""

    network: Network
    log_std: Float[Array, " s"]
    """Of continuous actions, in their units; of choices nothing."""


class Rows(NamedTuple):
    """B transitions, those of an episode after each other."""

    x: Float[Array, "B n"]
    u: Float[Array, "B m"]
    y: Float[Array, "B n"]
    cost: Float[Array, " B"]
    terminated: Bool[Array, " B"]
    ended: Bool[Array, " B"]
    """After which rows another episode follows, or nothing."""
    use: Bool[Array, " B"]


class Bounded(eqx.Module):
    """V(x), but never more or less than the costs that were seen allow."""

    value: Value
    low: Scalar
    high: Scalar

    def __call__(self, x: State) -> Scalar:
        """The value at one state."""
        return jnp.clip(self.value(x), self.low, self.high)


class Critic(NamedTuple):
    """A value function, and the range of what it may be believed.

    A network that is asked beyond what it was fitted to says anything, and what it says there comes back as a target:
    without a limit that can grow without end.
    """

    fitted: FittedValue
    low: Scalar
    high: Scalar

    @property
    def bounded(self) -> Bounded:
        """What stands for the cost beyond the last step."""
        return Bounded(self.fitted.value, self.low, self.high)


def critic_of(fitted: FittedValue, cost: Float[np.ndarray, " C"], discount: float) -> Critic:
    """With the range of a discounted sum of costs between the least and the largest of these, and 0 after an end."""
    ends = np.array([min(float(np.min(cost, initial=0.0)), 0.0), max(float(np.max(cost, initial=0.0)), 0.0)])
    low, high = ends / (1.0 - discount) if discount < 1.0 else (-np.inf, np.inf)
    return Critic(fitted, jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32))


class Ending(NamedTuple):
    """A cost, and what stands for it beyond the horizon."""

    stage: AbstractCost
    value: Bounded
    discount: float


@dataclasses.dataclass(frozen=True)
class Terms:
    """What an update is done by; cannot change without compiling anew."""

    spec: Spec
    kl: float
    discount: float
    trace: float
    value: ValueLearner
    step: StepHow


def init_actor(spec: Spec, actions: Actions, sizes: tuple[int, int], std: float, key: RandomKey) -> Actor:
    """A policy that does about the middle of the range, or any choice, whatever the state; `std` in half ranges.

    `sizes` are the network's width and depth.
    """
    network = init_policy(spec, *sizes, key, outputs=actions.d)
    last = network.layers[-1]
    network = network._replace(layers=(*network.layers[:-1], Layer(jnp.float32(SMALL) * last.weight, last.bias)))
    if not isinstance(actions, Box):
        return Actor(network, jnp.zeros((0,), jnp.float32))
    low, high = jnp.asarray(actions.low, jnp.float32), jnp.asarray(actions.high, jnp.float32)
    half = jnp.where(high > low, 0.5 * (high - low), 1.0)
    return Actor(network._replace(outputs=Scaler(0.5 * (low + high), half)), jnp.log(jnp.float32(std) * half))


def acting(actor: Actor, actions: Actions, spec: Spec, noise: float) -> NeuralPolicy | ChoosingPolicy:
    """The policy itself: with `noise` 1 it draws its actions, with 0 it takes the likeliest."""
    scale = jnp.asarray(noise, jnp.float32)
    if isinstance(actions, Box):
        network = actor.network._replace(L=jnp.diag(jnp.exp(actor.log_std)))
        return NeuralPolicy(network, scale, actions, spec)
    return ChoosingPolicy(actor.network, scale, actions, spec)


def said(actor: Actor, spec: Spec, x: State) -> Said:
    """The distribution of actions at one state."""
    return Said(believed(actor.network, spec, x), actor.log_std)


@eqx.filter_jit
def settle(actor: Actor, spec: Spec, x: Float[Array, "B n"], use: Bool[Array, " B"]) -> Actor:
    """The same policy, with inputs of unit scale in these states."""
    z = jax.vmap(lambda v: seen(spec, v))(jnp.where(use[:, None], x, 0.0).astype(jnp.float32))
    inputs = fit_scaler(z, use)
    layers = with_inputs(actor.network.layers, actor.network.inputs, inputs)
    return actor._replace(network=actor.network._replace(layers=layers, inputs=inputs))


@eqx.filter_jit
def update(
    actor: Actor, critic: Critic, rows: Rows, actions: Actions, terms: Terms, key: RandomKey
) -> tuple[Actor, FittedValue, Metrics]:
    """A trust-region step of the policy on these rows, then a fit of the value function to their TD(lambda) targets.

    minimise  mean_i p(u_i|x_i)/p_old(u_i|x_i) A_i  with  mean_i KL(p_old(.|x_i) || p(.|x_i)) <= kl

    with A_i the advantages (costs: negative is good) in units of their standard deviation, under the old value
    function.  Rows with a number that is not finite do not count.
    """
    rows, advantage, target = _estimated(critic.bounded, rows, terms)
    count = jnp.maximum(jnp.sum(rows.use), 1).astype(jnp.float32)
    mean_of = lambda v: jnp.sum(jnp.where(rows.use, v, 0.0)) / count
    old = jax.vmap(lambda x: said(actor, terms.spec, x))(rows.x)
    likelihood = jax.vmap(lambda s, u: log_prob(actions, s, u))
    base = likelihood(old, rows.u)
    theta, back = ravel_pytree((actor.network.layers, actor.log_std))

    def changed(theta: Vector) -> Actor:
        layers, log_std = back(theta)
        return Actor(actor.network._replace(layers=layers), log_std)

    def measure(theta: Vector) -> tuple[Scalar, Scalar]:
        new = jax.vmap(lambda x: said(changed(theta), terms.spec, x))(rows.x)
        ratio = jnp.exp(likelihood(new, rows.u) - base)
        moved = jax.vmap(lambda a, b: kl(actions, a, b))(old, new)
        return mean_of(ratio * advantage), mean_of(moved)

    step = trust_region_step(theta, measure, jnp.asarray(terms.kl, jnp.result_type(float)), terms.step)
    after = changed(step.theta)
    value, fit = terms.value.fit(critic.fitted, rows.x, target, rows.use, key)
    told: Metrics = {f"value_{name}": number for name, number in fit.items()}
    for name in ("kl", "status", "predicted", "actual", "evaluations", "residual"):
        told[f"policy_{name}"] = getattr(step, name)
    told["policy_entropy"] = mean_of(jax.vmap(lambda s: entropy(actions, s))(old))
    return after, value, told | {"policy_rows": jnp.sum(rows.use, dtype=jnp.int32)}


def _estimated(value: Bounded, rows: Rows, terms: Terms) -> tuple[Rows, Float[Array, " B"], Float[Array, " B"]]:
    """The rows that count, their advantages in standard units, and the targets of their values."""
    credible = lambda v: jnp.all((jnp.abs(v) <= LARGEST).reshape(v.shape[0], -1), axis=1)
    use = rows.use & credible(rows.x) & credible(rows.u) & credible(rows.y) & credible(rows.cost)
    clean = lambda v: jnp.where(use.reshape(-1, *[1] * (v.ndim - 1)), v, 0.0).astype(jnp.float32)
    x, u, y, cost = map(clean, (rows.x, rows.u, rows.y, rows.cost))
    # An episode ends before a row that does not count.
    ended = rows.ended | ~jnp.append(use[1:], False)
    value_of = jax.vmap(value)
    found = advantages(cost, (value_of(x), value_of(y)), rows.terminated, ended, terms.discount, terms.trace)
    use = use & jnp.isfinite(found.advantage)
    count = jnp.maximum(jnp.sum(use), 1).astype(jnp.float32)
    mean = jnp.sum(jnp.where(use, found.advantage, 0.0)) / count
    off = jnp.where(use, found.advantage - mean, 0.0)
    std = jnp.sqrt(jnp.sum(off**2) / count)
    return Rows(x, u, y, cost, rows.terminated, ended, use), off / jnp.where(std > 0.0, std, 1.0), found.target


@eqx.filter_jit
def drawn(model: AbstractDynamics, key: RandomKey, particles: int) -> AbstractDynamics:
    """Beliefs about the system."""
    return model.draw(key, particles)


@eqx.filter_jit
def imagine(
    beliefs: AbstractDynamics,
    policy: AbstractPolicy,
    cost: AbstractCost,
    starts: Starts,
    within: tuple[Room, int],
    key: RandomKey,
) -> Rows:
    """Rows of imagined episodes; `within` is the room of their states and their length."""
    room, horizon = within
    found = episodes(beliefs, policy, cost, starts, room, key, horizon=horizon)
    last = jnp.zeros(found.use.shape, bool).at[..., -1].set(True)
    flat = lambda v: v.reshape(-1, *v.shape[3:])
    return Rows(*map(flat, (found.x, found.u, found.y, found.cost, found.terminated, last, found.use)))


@eqx.filter_jit
def judge(
    beliefs: AbstractDynamics,
    policies: tuple[AbstractPolicy, AbstractPolicy],
    cost: Ending,
    starts: Starts,
    within: tuple[Room, int],
    key: RandomKey,
) -> Float[Array, "2 P"]:
    """Mean discounted cost of two policies in each belief, closed by the same value function, with the same starts and
    random numbers."""
    room, horizon = within
    both = [episodes(beliefs, policy, cost.stage, starts, room, key, horizon=horizon) for policy in policies]
    return jnp.stack([discounted(each, cost.discount, cost.value) for each in both])
