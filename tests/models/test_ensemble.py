from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from fakes import as_dataset, as_trajectory
from forethought.models.ensemble import EnsembleLearner, _fit
from forethought.models.training import lower_median, row_weights, sample_rows
from forethought.testing import check_model
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)


def pendulum_like(count: int, seed: int = 0):
    """A smooth nonlinear system in 2-D with known noise."""
    rng = np.random.default_rng(seed)
    x, u = rng.uniform(-2, 2, (count, 2)), rng.uniform(-1, 1, (count, 1))
    y = x + 0.1 * np.stack([x[:, 1], np.sin(2 * x[:, 0]) + u[:, 0]], 1)
    return x, u, y


@pytest.fixture(scope="module")
def fitted():
    x, u, y = pendulum_like(400)
    learner = EnsembleLearner(gradient_steps=1500)
    spec = Spec(2, 1)
    before = learner.init(spec, jr.key(0))
    after, metrics = learner.fit(before, as_dataset(spec, as_trajectory(x, u, y)), jr.key(1))
    return before, after, metrics


def test_it_learns_the_change_of_state(fitted) -> None:
    x, u, y = pendulum_like(200, seed=9)
    mean = jax.jit(jax.vmap(lambda a, b: fitted[1].model.predict(a, b, ZERO).mean))(x, u)
    error, change = np.abs(np.asarray(mean) - y).mean(), np.abs(y - x).mean()
    assert error < 0.05 * change


def test_members_disagree_where_there_are_no_data(fitted) -> None:
    model = fitted[1].model
    spread = lambda x: jnp.std(
        jax.vmap(lambda member: member.predict(x, jnp.zeros(1), ZERO).mean)(model.members), axis=0
    )
    inside = np.mean([spread(jnp.asarray(v)) for v in ([0.0, 0.0], [1.0, -1.0], [-1.0, 0.5])])
    outside = np.mean([spread(jnp.asarray(v)) for v in ([8.0, 8.0], [-8.0, 8.0], [8.0, -8.0])])
    assert outside > 10 * inside


def test_the_state_keeps_its_tree_shapes_and_dtypes(fitted) -> None:
    before, after, _ = fitted
    shape = lambda tree: [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in jax.tree.leaves(tree)]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert shape(before) == shape(after)
    arrays = [leaf for leaf in jax.tree.leaves(after) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    assert not any(leaf.dtype == jnp.float64 for leaf in arrays), "64-bit is on in the tests, and networks are float32"


def test_refits_on_growing_data_compile_once() -> None:
    learner, spec = EnsembleLearner(gradient_steps=3, members=2, width=7), Spec(2, 1)
    fitted = learner.init(spec, jr.key(0))
    compiled = []
    for count in (10, 60, 200, 400, 511):
        x, u, y = pendulum_like(count)
        fitted, _ = learner.fit(fitted, as_dataset(spec, as_trajectory(x, u, y)), jr.key(count))
        compiled.append(_fit._cached._cache_size())
    assert compiled == [compiled[0]] * 5


def test_log_prob_of_a_member_is_scipys(fitted) -> None:
    member = jax.tree.map(lambda v: v[2], fitted[1].model.members)
    prediction = member.predict(jnp.array([0.3, -0.4]), jnp.array([0.1]), ZERO)
    y = np.array([0.31, -0.36])
    expected = stats.norm(np.asarray(prediction.mean), np.asarray(prediction.std)).logpdf(y).sum()
    np.testing.assert_allclose(prediction.log_prob(jnp.asarray(y)), expected, rtol=1e-5)


def test_mixture_moments_are_those_of_the_members(fitted) -> None:
    model, x, u = fitted[1].model, jnp.array([5.0, -4.0]), jnp.array([0.5])
    whole = model.predict(x, u, ZERO)
    each = jax.vmap(lambda member: member.predict(x, u, ZERO))(model.members)
    rng = np.random.default_rng(0)
    draws = rng.normal(each.mean, each.std, (200_000, *each.mean.shape)).reshape(-1, 2)
    np.testing.assert_allclose(whole.mean, draws.mean(0), atol=5e-3 * np.asarray(whole.std).max())
    np.testing.assert_allclose(whole.std, draws.std(0), rtol=0.02)


def test_draw_takes_every_member_equally_often(fitted) -> None:
    model = fitted[1].model
    for particles in (5, 10, 7):
        drawn = model.draw(jr.key(3), particles)
        member_of = [
            int(np.argmin([np.abs(b - c).sum() for c in np.asarray(model.members.layers[0].weight)]))
            for b in np.asarray(drawn.layers[0].weight)
        ]
        counts = np.bincount(member_of, minlength=5)
        assert counts.max() - counts.min() <= 1
    orders = {tuple(np.asarray(model.draw(jr.key(k), 5).low[:, 0])) for k in range(5)}
    assert len(orders) > 1


def test_bootstrap_weights_are_poisson_and_differ_between_members() -> None:
    use = jnp.arange(4096) < 3000
    weight = np.asarray(row_weights(jr.key(0), use, members=5, holdout=0.0, bootstrap=True))
    assert np.all(weight[3000:] == 0)
    for value in range(4):
        share = np.mean(weight[:3000] == value)
        assert share == pytest.approx(stats.poisson(1).pmf(value), abs=0.015)
    assert abs(np.corrcoef(weight[:3000, 0], weight[:3000, 1])[0, 1]) < 0.06


def test_rows_are_sampled_in_proportion_to_their_weights() -> None:
    weight = jnp.zeros((64, 2)).at[jnp.array([3, 7, 9]), 0].set(jnp.array([1.0, 2.0, 1.0])).at[5, 1].set(3.0)
    rows = np.asarray(sample_rows(weight, jr.key(0), (200, 50)))
    counts = np.bincount(rows[..., 0].ravel(), minlength=64) / rows[..., 0].size
    np.testing.assert_allclose(counts[[3, 7, 9]], [0.25, 0.5, 0.25], atol=0.02)
    assert counts[[3, 7, 9]].sum() == 1.0
    assert np.all(rows[..., 1] == 5)


def test_heteroscedastic_noise_is_found() -> None:
    """y = x + |x| eps / 4: the learned standard deviation must follow |x|."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3000, 1))
    y = x + 0.25 * np.abs(x) * rng.normal(size=x.shape)
    learner, spec = EnsembleLearner(gradient_steps=3000, members=2, width=32, batch=64), Spec(1, 1)
    data = as_dataset(spec, as_trajectory(x, np.zeros_like(x), y))
    fitted, _ = learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))
    grid = np.linspace(-0.9, 0.9, 61)[:, None]
    std = jax.vmap(lambda v: fitted.model.predict(v, jnp.zeros(1), ZERO).std[0])(grid)
    assert np.corrcoef(np.asarray(std), 0.25 * np.abs(grid[:, 0]))[0, 1] > 0.9
    np.testing.assert_allclose(np.asarray(std)[[5, -6]], 0.25 * np.abs(grid[[5, -6], 0]), rtol=0.35)


def test_variances_stay_within_their_bounds(fitted) -> None:
    members = fitted[1].model.members
    z = 100.0 * jr.normal(jr.key(0), (64, 3), jnp.float32)
    _, variance = jax.vmap(lambda member: jax.vmap(member.heads)(z))(members)
    low, high = np.exp(np.asarray(members.low))[:, None], np.exp(np.asarray(members.high))[:, None]
    assert np.all(np.asarray(variance) <= (low + high) * (1 + 1e-6))
    assert np.all(np.asarray(variance) >= low * (1 - 1e-6))


def test_variance_bounds_are_those_of_two_softplus(fitted) -> None:
    member = jax.tree.map(lambda v: v[0], fitted[1].model.members)
    z = 3.0 * jr.normal(jr.key(1), (200, 3), jnp.float32)
    hidden = z
    for layer in member.layers[:-1]:
        hidden = jax.nn.silu(hidden @ layer.weight + layer.bias)
    v = np.asarray((hidden @ member.layers[-1].weight + member.layers[-1].bias)[:, 2:], float)
    low, high = np.asarray(member.low, float), np.asarray(member.high, float)
    v = high - np.logaddexp(0, high - v)
    v = low + np.logaddexp(0, v - low)
    np.testing.assert_allclose(jax.vmap(member.heads)(z)[1], np.exp(v), rtol=1e-4)


def test_angles_are_seen_through_sine_and_cosine() -> None:
    spec = Spec(2, 1, angles=(0,))
    learner = EnsembleLearner(gradient_steps=50)
    x = np.array([[3.1, 0.5], [-3.1, -0.5]])
    y = np.array([[-3.1, 0.5], [3.1, -0.5]])  # 0.083 rad the short way round
    fitted, _ = learner.fit(learner.init(spec, jr.key(0)), as_dataset(spec, as_trajectory(x, [[0], [0]], y)), jr.key(1))
    model = fitted.model
    np.testing.assert_allclose(np.abs(np.asarray(model.members.outputs.std)[:, 0]), 2 * np.pi - 6.2, rtol=1e-3)
    a = model.predict(jnp.array([0.4, 0.2]), jnp.zeros(1), ZERO)
    b = model.predict(jnp.array([0.4 + 2 * np.pi, 0.2]), jnp.zeros(1), ZERO)
    np.testing.assert_allclose(b.mean, a.mean, atol=1e-5)


def test_reward_and_termination_are_extra_outputs() -> None:
    rng = np.random.default_rng(0)
    x, u = rng.uniform(-1, 1, (400, 1)), rng.uniform(-1, 1, (400, 1))
    y = x + 0.1 * u
    spec = Spec(1, 1, extras=2)
    data = as_dataset(spec, as_trajectory(x, u, y, reward=3.0 * x[:, 0] - 1.0, terminated=x[:, 0] > 0.5))
    learner = EnsembleLearner(members=3, gradient_steps=2000)
    fitted, _ = learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))
    for point in (-0.7, 0.0, 0.9):
        mean = fitted.model.predict(jnp.array([point]), jnp.array([0.3]), ZERO).mean
        np.testing.assert_allclose(mean[0], point + 0.03, atol=0.02)
        np.testing.assert_allclose(mean[1], 3.0 * point - 1.0, atol=0.2)
        assert (float(mean[2]) > 0.5) == (point > 0.5)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((np.ones((1, 2)), np.zeros((1, 1)), np.ones((1, 2))), id="one row"),
        pytest.param((np.ones((9, 2)), np.zeros((9, 1)), np.ones((9, 2))), id="constant"),
        pytest.param((np.full((9, 2), 1e8), np.zeros((9, 1)), np.full((9, 2), 1e8)), id="constant and huge"),
        pytest.param((np.zeros((0, 2)), np.zeros((0, 1)), np.zeros((0, 2))), id="no row"),
    ],
)
def test_poor_data_give_a_finite_model(rows) -> None:
    learner, spec = EnsembleLearner(gradient_steps=20), Spec(2, 1)
    fitted, _ = learner.fit(learner.init(spec, jr.key(0)), as_dataset(spec, as_trajectory(*rows)), jr.key(1))
    prediction = fitted.model.predict(jnp.zeros(2), jnp.zeros(1), ZERO)
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(np.asarray(prediction.std) > 0)


def test_holdout_numbers_come_from_rows_a_member_never_saw() -> None:
    """With targets that are pure noise, a member may fit its own rows but not the others."""
    rng = np.random.default_rng(0)
    x, u, y = rng.normal(size=(100, 1)), rng.normal(size=(100, 1)), rng.normal(size=(100, 1))
    learner, spec = EnsembleLearner(gradient_steps=2000, weight_decay=0.0, bootstrap=True), Spec(1, 1)
    data = as_dataset(spec, as_trajectory(x, u, x + y))
    fitted, metrics = learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))
    assert metrics["holdout_mse"].shape == (5,)
    assert np.all(np.asarray(metrics["holdout_mse"]) > 0.9)
    without = dataclasses.replace(learner, bootstrap=False, holdout=0.0, gradient_steps=10)
    _, metrics = without.fit(fitted, data, jr.key(2))
    assert np.all(np.isnan(np.asarray(metrics["holdout_mse"]))), "every row was seen: no flattering number"


BRIEF = EnsembleLearner(gradient_steps=3, members=4, width=6, depth=1)
ROWS = as_dataset(Spec(2, 1), as_trajectory(*pendulum_like(80)))


def begun(learner=BRIEF):
    return learner.init(Spec(2, 1), jr.key(0))


def with_weights(fitted, member, value):
    """One member's first weights replaced."""
    where = lambda f: f.model.members.layers[0].weight
    return eqx.tree_at(where, fitted, where(fitted).at[member].set(value))


def with_offset(fitted, members, value):
    """What these members predict is off by this much, in scaled units."""
    where = lambda f: f.model.members.layers[-1].bias
    return eqx.tree_at(where, fitted, where(fitted).at[jnp.asarray(members), :2].set(value))


def all_finite(tree) -> bool:
    return all(np.isfinite(v).all() for v in jax.tree.leaves(tree) if eqx.is_inexact_array(v))


def rows_of(tree, members):
    return [np.asarray(v)[members] for v in jax.tree.leaves((tree.model.members, tree.optimiser))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sick", [[1], [0, 3], [0, 1, 2, 3]])
def test_a_member_that_is_not_finite_starts_anew(sick, value) -> None:
    fitted, _ = BRIEF.fit(begun(), ROWS, jr.key(1))
    programs = _fit._cached._cache_size()
    plain, _ = BRIEF.fit(fitted, ROWS, jr.key(2))
    after, metrics = BRIEF.fit(with_weights(fitted, jnp.asarray(sick), value), ROWS, jr.key(2))
    assert _fit._cached._cache_size() == programs
    assert all_finite(after)
    assert (int(metrics["dropped"]), bool(metrics["failed"])) == (0, False)
    assert bool(jnp.all(after.model.healthy))
    others = [i for i in range(4) if i not in sick]
    for a, b in zip(rows_of(after, others), rows_of(plain, others), strict=True):
        np.testing.assert_array_equal(a, b)
    first = np.asarray(after.model.members.layers[0].weight)
    assert len({first[i].tobytes() for i in range(4)}) == 4, "new members differ from each other and from the old"


def test_a_member_that_breaks_during_a_fit_is_dropped_and_starts_anew_in_the_next() -> None:
    fitted, _ = BRIEF.fit(begun(), ROWS, jr.key(1))
    broken = with_weights(fitted, 2, 1e30)  # finite, and its loss is not
    after, metrics = BRIEF.fit(broken, ROWS, jr.key(2))
    assert (int(metrics["dropped"]), bool(metrics["failed"])) == (1, False)
    assert after.model.healthy.tolist() == [True, True, False, True]
    assert all_finite(after)
    again, metrics = BRIEF.fit(after, ROWS, jr.key(3))
    assert int(metrics["dropped"]) == 0
    assert np.abs(np.asarray(again.model.members.layers[0].weight)).max() < 10.0


@pytest.mark.parametrize(
    ("members", "off", "healthy"),
    [
        ([1], 100.0, [True, False, True, True]),
        ([0, 1, 2], 100.0, [True, True, True, True]),  # most of them agree: nobody is the odd one
        ([0, 1], 100.0, [False, False, True, True]),
        ([1], 0.5, [True, True, True, True]),
        ([0, 1, 2, 3], 100.0, [True, True, True, True]),
    ],
)
def test_a_member_that_is_absurd_is_dropped(members, off, healthy) -> None:
    after, metrics = BRIEF.fit(with_offset(begun(), members, off), ROWS, jr.key(1))
    assert after.model.healthy.tolist() == healthy
    assert int(metrics["dropped"]) == 4 - sum(healthy)
    assert not bool(metrics["failed"])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_the_lower_median_of_some(count) -> None:
    values = np.random.default_rng(count).normal(size=8).astype(np.float32)
    values[3] = values[5]
    among = np.arange(8) < count
    expected = np.sort(values[:count])[(count - 1) // 2]
    assert float(lower_median(jnp.asarray(values), jnp.asarray(among))) == expected


def test_a_fit_in_which_all_members_break_changes_nothing() -> None:
    fitted, _ = BRIEF.fit(begun(), ROWS, jr.key(1))
    broken = with_weights(fitted, slice(None), 1e30)
    after, metrics = BRIEF.fit(broken, ROWS, jr.key(2))
    assert (int(metrics["dropped"]), bool(metrics["failed"])) == (4, True)
    same = jax.tree.map(np.array_equal, (after.model, after.optimiser), (broken.model, broken.optimiser))
    assert all(jax.tree.leaves(same))


MASKS = [[True, False, True, True], [False, False, False, True], [True, True, False, False], [True] * 4]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_only_healthy_members_speak(mask) -> None:
    model = with_weights(begun(), jnp.asarray([i for i in range(4) if not mask[i]] or [9]), np.nan).model
    model = eqx.tree_at(lambda m: m.healthy, model, jnp.asarray(mask))
    x, u = jnp.array([0.5, -0.4]), jnp.array([0.5])
    each = jax.vmap(lambda member: member.predict(x, u, ZERO))(model.members)
    mean, var = np.asarray(each.mean, float)[mask], np.asarray(each.std, float)[mask] ** 2
    whole = model.predict(x, u, ZERO)
    np.testing.assert_allclose(whole.mean, mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(whole.std, np.sqrt(var.mean(0) + mean.var(0)), rtol=1e-5)
    for particles in (1, 3, 5, 12):
        drawn = np.asarray(model.draw(jr.key(particles), particles).layers[0].weight)
        counts = [sum(np.array_equal(b, w) for b in drawn) for w in np.asarray(model.members.layers[0].weight)]
        heard = np.asarray(counts)[mask]
        assert heard.sum() == particles
        assert heard.max() - heard.min() <= 1


def test_if_nobody_is_healthy_every_belief_is_nan() -> None:
    model = eqx.tree_at(lambda m: m.healthy, begun().model, jnp.zeros(4, bool))
    x, u = jnp.array([0.5, -0.4]), jnp.array([0.5])
    drawn = model.draw(jr.key(0), 3)
    assert np.isnan(jax.vmap(lambda member: member.predict(x, u, ZERO).mean)(drawn)).all()
    assert np.isnan(model.predict(x, u, ZERO).mean).all()


@pytest.mark.parametrize("spec", [Spec(2, 1), pytest.param(None, marks=pytest.mark.slow)])
def test_it_keeps_what_a_learner_promises(spec) -> None:
    """With an angle and a learned reward it is checked in test_testing.py."""
    check_model(EnsembleLearner(members=3, width=16, gradient_steps=300), spec)
