from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.math.layers import Layer
from forethought.math.scaling import identity_scaler
from forethought.models.ensemble import EnsembleLearner
from forethought.models.ensemble import _loss as gaussian_loss
from forethought.models.mdn import (
    HIGH,
    LOW,
    Heads,
    MDNLearner,
    _loss,
    init_mixture_network,
    negative_log_likelihood,
)
from forethought.models.network import GaussianNetwork
from forethought.models.plain import NetworkLearner
from forethought.testing import check_model
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
SPEC = Spec(2, 1)
KINDS = ["diagonal", "full"]


def heads(kind: str, count: int = 3, k: int = 2, dtype=np.float64, logits=None) -> Heads:
    rng = np.random.default_rng(0)
    below = np.tril(rng.normal(size=(count, k, k)), -1) if kind == "full" else None
    given = rng.normal(size=count) if logits is None else logits
    arrays = (given, rng.normal(size=(count, k)), rng.uniform(0.3, 1.0, (count, k)))
    return Heads(*(jnp.asarray(v, dtype) for v in arrays), None if below is None else jnp.asarray(below, dtype))


def naive(h: Heads, y: np.ndarray) -> float:
    """-log sum_c softmax(a)_c N(y; mu_c, L_c L_c^T), as it is written, in float64."""
    weights = np.exp(np.asarray(h.logits, float))
    total = 0.0
    for w, mean, factor in zip(weights / weights.sum(), np.asarray(h.means), np.asarray(h.factors), strict=True):
        lower = np.diag(factor) if factor.ndim == 1 else factor
        cov, away = lower @ lower.T, y - mean
        norm = np.sqrt(np.linalg.det(2.0 * np.pi * cov))
        total += w * np.exp(-0.5 * away @ np.linalg.solve(cov, away)) / norm
    return -np.log(total)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "k"), [(1, 1), (1, 3), (3, 2), (5, 4)])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_is_the_naive_sum(kind, count, k, beta) -> None:
    h, y = heads(kind, count, k), np.random.default_rng(1).normal(size=k)
    found = eqx.filter_jit(negative_log_likelihood)(h, jnp.asarray(y), beta)
    np.testing.assert_allclose(found, naive(h, y), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("logits", [(1e3, -1e3, 0.0), (-1e3, -1e3, -1e3), (1e3, 1e3, -1e3), (0.0, 0.0, 1e3)], ids=str)
@pytest.mark.parametrize("away", [0.0, 1e3])
def test_loss_and_gradient_are_finite_at_extreme_logits(kind, logits, away) -> None:
    h = heads(kind, dtype=np.float32, logits=np.asarray(logits))
    y = jnp.full((2,), away, jnp.float32)
    value, slope = eqx.filter_jit(jax.value_and_grad(negative_log_likelihood))(h, y)
    assert np.isfinite(value)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(slope))
    best = h.means[int(np.argmax(logits))]
    assert np.isfinite(negative_log_likelihood(h, best))


def test_with_beta_the_gradient_is_weighted_by_each_variance() -> None:
    """For one component: mean and scale slopes are those of the likelihood times sigma^(2 beta), the logit's is its."""
    h, y = heads("diagonal", 1, 3), jnp.array([0.1, -0.4, 2.0])
    plain, weighted = (jax.grad(negative_log_likelihood)(h, y, beta) for beta in (0.0, 0.5))
    np.testing.assert_allclose(weighted.means, plain.means * h.scales, rtol=1e-12)
    np.testing.assert_allclose(weighted.scales, plain.scales * h.scales, rtol=1e-12)


def test_full_is_diagonal_when_off_diagonals_are_zero() -> None:
    h, y = heads("diagonal", 3, 4), jnp.asarray(np.random.default_rng(1).normal(size=4))
    whole = eqx.tree_at(lambda v: v.below, h, jnp.zeros((3, 4, 4)), is_leaf=lambda v: v is None)
    np.testing.assert_allclose(negative_log_likelihood(whole, y), negative_log_likelihood(h, y), rtol=1e-14)
    np.testing.assert_allclose(whole.factors, jax.vmap(jnp.diag)(h.factors))


def twins() -> tuple:
    """A mixture network of one component, and the Gaussian network with the same layers."""
    learner = MDNLearner(components=1, width=16)
    one = init_mixture_network(learner, SPEC, jr.key(0))
    last = Layer(one.layers[-1].weight[:, 1:], one.layers[-1].bias[1:])  # without the logit
    low, high = jnp.full((2,), LOW, jnp.float32), jnp.full((2,), HIGH, jnp.float32)
    layers = (*one.layers[:-1], last)
    return learner, one, GaussianNetwork(layers, low, high, identity_scaler(3), identity_scaler(2), SPEC)


def test_one_component_is_the_gaussian_network() -> None:
    _, one, gaussian = twins()
    x, u, y = jnp.array([0.3, -0.8]), jnp.array([0.5]), jnp.array([0.1, -0.2], jnp.float32)
    a, b = one.predict(x, u, ZERO), gaussian.predict(x, u, ZERO)
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_array_equal(a.factors[0], b.std)
    np.testing.assert_allclose(a.log_prob(y), b.log_prob(y), rtol=1e-6)


def test_one_component_learns_as_a_member_of_the_ensemble_does() -> None:
    """Loss and gradient of the layers, but for what is constant and for the ensemble's price of its bounds."""
    learner, one, gaussian = twins()
    rng = np.random.default_rng(0)
    z, y = (jnp.asarray(rng.normal(size=(32, k)), jnp.float32) for k in (3, 2))
    value, slope = jax.jit(jax.value_and_grad(lambda m: _loss(learner, m, z, y)))(one)
    slope_ = jax.jit(jax.grad(lambda m: gaussian_loss(EnsembleLearner(), m, z, y)))(gaussian)
    for a, b in zip(slope.layers[:-1], slope_.layers[:-1], strict=True):
        np.testing.assert_allclose(a.weight, b.weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slope.layers[-1].weight[:, 1:], slope_.layers[-1].weight, rtol=1e-4, atol=1e-6)
    mean, variance = jax.vmap(gaussian.heads)(z)
    decay = 0.5e-3 * sum(np.sum(np.asarray(layer.weight) ** 2) for layer in one.layers)
    nll = jnp.mean((mean - y) ** 2 / variance + jnp.log(variance))
    np.testing.assert_allclose(value, nll + np.log(2 * np.pi) + decay, rtol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_scales_stay_within_their_bounds(full) -> None:
    network = init_mixture_network(MDNLearner(full=full), SPEC, jr.key(0))
    scales = jax.jit(jax.vmap(lambda z: network.heads(z).scales))(1e4 * jr.normal(jr.key(1), (64, 3), jnp.float32))
    assert np.all(np.asarray(scales) >= 1e-3 * (1 - 1e-5))
    assert np.all(np.asarray(scales) <= np.exp(HIGH / 2) * (1 + 1e-5))
    assert np.asarray(scales).min() < 2e-3, "the bound is reached"


@pytest.mark.parametrize("count", [2, 3, 8])
def test_components_begin_apart_in_every_output(count) -> None:
    network = init_mixture_network(MDNLearner(components=count), Spec(3, 1), jr.key(0))
    means = np.asarray(network.heads(jnp.zeros(4, jnp.float32)).means)
    strata = np.sort(np.floor((means + 1.0) / 2.0 * count), axis=0)
    np.testing.assert_array_equal(strata, np.arange(count)[:, None] * np.ones(3))


def ridge(rng, count):
    """A ball on a ridge falls to the right or to the left, the more probably to the side where it lies."""
    x, u = np.stack([rng.uniform(-1, 1, count), rng.normal(0, 0.1, count)], 1), rng.uniform(-1, 1, (count, 1))
    right = rng.uniform(size=count) < 1.0 / (1.0 + np.exp(-(4.0 * x[:, 0] + u[:, 0])))
    side = np.where(right, 1.0, -1.0)[:, None]
    return x, u, x + side * [0.5, 1.0] + 0.02 * rng.normal(size=(count, 2))


def ridge_ways(x, u):
    return np.stack([x + side * np.array([0.5, 1.0]) for side in (-1, 1)])


def switch(rng, count):
    """A position that a switch moves up or down; the switch flips at random."""
    s, u = rng.choice([-1.0, 1.0], count), rng.uniform(-1, 1, (count, 1))
    x = np.stack([rng.normal(size=count), s], 1)
    s = np.where(rng.uniform(size=count) < 0.5 + 0.2 * u[:, 0], -s, s)
    y = np.stack([x[:, 0] + 0.1 * s + 0.1 * u[:, 0], s], 1)
    return x, u, y + 0.01 * rng.normal(size=(count, 2))


def switch_ways(x, u):
    return np.stack([np.stack([x[:, 0] + 0.1 * s + 0.1 * u[:, 0], np.full(len(x), s)], 1) for s in (-1.0, 1.0)])


SYSTEMS = {"ridge": (ridge, ridge_ways, [0.1, 0.2]), "switch": (switch, switch_ways, [0.06, 0.15])}


@eqx.filter_jit
def landed(model, x, u, keys):
    each = jax.vmap(lambda x, u, k: (lambda p: (p.sample(k), p.mean))(model.predict(x, u, ZERO)))
    return each(x, u, keys)


def shares(model, name: str) -> tuple[float, float, float]:
    """Where samples land: near a way, near the first; and the share of means near a way.  Where both are possible."""
    make, ways, tolerance = SYSTEMS[name]
    x, u, _ = make(np.random.default_rng(7), 3000)
    middle = np.abs(x[:, 0]) < 0.3
    x, u = x[middle][:600], u[middle][:600]  # one shape, and one program, for all systems
    sample, mean = landed(model, jnp.asarray(x), jnp.asarray(u), jr.split(jr.key(5), len(x)))
    near = lambda v: np.all(np.abs(np.asarray(v) - ways(x, u)) < np.asarray(tolerance), axis=-1)
    return near(sample).any(0).mean(), near(sample)[0].mean(), near(mean).any(0).mean()


def train(learner, name: str, seed: int = 0):
    data = as_dataset(SPEC, as_trajectory(*SYSTEMS[name][0](np.random.default_rng(seed), 400)))
    return learner.fit(learner.init(SPEC, jr.key(seed)), data, jr.key(1))


TWO_WAYS = [
    pytest.param(MDNLearner(width=32), id="4"),
    pytest.param(MDNLearner(width=32, components=2), id="2", marks=pytest.mark.slow),  # as with four
    pytest.param(MDNLearner(width=32, full=True), id="full"),
    pytest.param(MDNLearner(width=32, members=2), id="two members"),
]


@pytest.mark.parametrize("learner", TWO_WAYS)
def test_samples_go_both_ways_and_means_nowhere(learner) -> None:
    for name in SYSTEMS:
        fitted, metrics = train(learner, name)
        near, first, means = shares(fitted.model, name)
        assert near > 0.95, name
        assert 0.3 < first < 0.7, f"{name}: both ways are as probable"
        assert means < 0.05, f"{name}: the mean lies between the ways"
        assert np.all(np.asarray(metrics["least_used"]) > 1e-4), f"{name}: every component is alive"
        drawn = jax.tree.map(lambda v: v[2], fitted.model.draw(jr.key(0), 3))
        assert shares(drawn, name)[0] > 0.95, f"{name}: so does a belief"


@pytest.mark.parametrize("learner", [EnsembleLearner(members=2, width=32), NetworkLearner(width=32)], ids=["e", "n"])
def test_models_with_one_way_put_their_mean_where_nothing_lands(learner) -> None:
    for name in SYSTEMS:
        near, _, means = shares(train(learner, name)[0].model, name)
        assert means < 0.05, name
        assert near < 0.4, name


def test_no_component_dies_out() -> None:
    """Of six components on a system with one way, five have nothing to do; with a price they stay in reach."""
    rng = np.random.default_rng(0)
    x, u = rng.uniform(-1, 1, (300, 2)), rng.uniform(-1, 1, (300, 1))
    data = as_dataset(SPEC, as_trajectory(x, u, x + 0.1 * np.concatenate([x[:, 1:], u], 1)))
    used = []
    for price in (0.0, 0.02):
        learner = MDNLearner(components=6, width=16, gradient_steps=2000, usage=price, variance_weight=0.0)
        _, metrics = learner.fit(learner.init(SPEC, jr.key(0)), data, jr.key(1))
        used.append(float(metrics["least_used"][0]))
    assert used[1] > 1e-3
    assert used[1] > 3.0 * used[0]


@pytest.mark.parametrize("learner", [MDNLearner(), MDNLearner(full=True), MDNLearner(members=2)], ids=str)
@pytest.mark.slow
def test_it_keeps_what_a_learner_promises(learner) -> None:
    check_model(learner)


def test_a_small_one_keeps_what_a_learner_promises() -> None:
    """With an angle, and a learned reward and termination; what is plain is checked with -m slow, too."""
    check_model(MDNLearner(components=2, width=16, gradient_steps=300, members=2), Spec(3, 2, extras=2, angles=(2,)))


@eqx.filter_jit
def said(model, x, u, y):
    """Mean, log probability and samples."""
    whole = model.predict(x, u, ZERO)
    return whole.mean, whole.log_prob(y), jax.vmap(whole.sample)(jr.split(jr.key(0), 50))


said_each = eqx.filter_jit(eqx.filter_vmap(said, in_axes=(eqx.if_array(0), None, None, None)))


@pytest.mark.parametrize("mask", [(True, False, True), (False, False, True)], ids=str)
def test_only_healthy_members_speak(mask) -> None:
    learner = MDNLearner(components=2, members=3, width=4)
    model = learner.init(SPEC, jr.key(0)).model
    spoil = lambda v: v.at[jnp.asarray([i for i in range(3) if not mask[i]])].set(jnp.nan)
    model = eqx.tree_at(lambda m: m.members.layers[0].weight, model, spoil(model.members.layers[0].weight))
    model = eqx.tree_at(lambda m: m.healthy, model, jnp.asarray(mask))
    x, u, y = jnp.array([0.5, -0.4]), jnp.array([0.5]), jnp.array([0.4, 0.1], jnp.float32)
    mean, log_prob = (np.asarray(v, float)[list(mask)] for v in said_each(model.members, x, u, y)[:2])
    found = said(model, x, u, y)
    np.testing.assert_allclose(found[0], mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found[1], np.log(np.exp(log_prob).mean()), rtol=1e-5)
    assert np.all(np.isfinite(found[2]))


def test_if_nobody_is_healthy_nothing_is_said() -> None:
    model = MDNLearner(components=2, members=3, width=4).init(SPEC, jr.key(0)).model
    model = eqx.tree_at(lambda m: m.healthy, model, jnp.zeros(3, bool))
    for found in said(model, jnp.zeros(2), jnp.zeros(1), jnp.zeros(2, jnp.float32)):
        assert np.all(np.isnan(found))
