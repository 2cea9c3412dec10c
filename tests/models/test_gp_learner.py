from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.errors import UserError
from forethought.math.dataset import append
from forethought.models import gp_posterior
from forethought.models.gp_learner import GPLearner, distinct
from forethought.models.gp_posterior import bucket
from forethought.testing import check_model
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
SPEC = Spec(2, 1)
FAST = GPLearner(functions=4, waves=8, restarts=0, evaluations=30)


def rows(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, u = rng.uniform(-2, 2, (count, 2)), rng.uniform(-1, 1, (count, 1))
    y = x + 0.1 * np.stack([x[:, 1], np.sin(2 * x[:, 0]) + u[:, 0]], 1) + 0.003 * rng.normal(size=(count, 2))
    return x, u, y


def data(*columns):
    return as_dataset(SPEC, as_trajectory(*columns))


def refit(learner, fitted, columns, key=1):
    return learner.fit(fitted, data(*columns), jr.key(key))


def fresh(learner=FAST):
    return learner.init(SPEC, jr.key(0))


def finite(tree) -> bool:
    return all(np.isfinite(np.asarray(v)).all() for v in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


def same(a, b) -> bool:
    return all(np.array_equal(v, w) for v, w in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("spec", [Spec(3, 2, extras=2, angles=(2,)), pytest.param(None, marks=pytest.mark.slow)])
def test_the_default_learner_is_a_good_citizen(spec) -> None:
    check_model(GPLearner(), spec)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["matern32", "matern52"])
def test_other_kernels_are_good_citizens_too(kind) -> None:
    check_model(GPLearner(kernel=kind))


@pytest.mark.parametrize(("count", "size"), [(0, 64), (1, 64), (64, 64), (65, 128), (128, 128), (129, 256), (257, 512)])
def test_sizes_are_powers_of_two(count, size) -> None:
    assert bucket(count) == size


def test_growing_data_compile_once_per_bucket() -> None:
    """What takes the model for an argument; its average keeps its size from 128 rows on."""
    learner, fitted = dataclasses.replace(FAST, inducing=128), fresh(dataclasses.replace(FAST, inducing=128))
    ask = lambda model: model.predict(jnp.zeros(2), jnp.zeros(1), jnp.zeros((), jnp.int32)).mean
    whole, average = jax.jit(ask), jax.jit(lambda model: ask(model))
    sizes = []
    for count in (10, 40, 64, 65, 128, 129, 200):
        fitted, metrics = refit(learner, fitted, rows(count))
        jax.block_until_ready((whole(fitted.model), average(fitted.model.average())))
        sizes.append((metrics["bucket"], whole._cache_size(), average._cache_size()))
    assert sizes == [(64, 1, 1), (64, 1, 1), (64, 1, 1), (128, 2, 2), (128, 2, 2), (256, 3, 2), (256, 3, 2)]


def test_a_fit_is_a_function_of_its_key() -> None:
    a, b, c = (refit(FAST, fresh(), rows(30), key)[0] for key in (1, 1, 2))
    assert same(a, b)
    assert not np.array_equal(a.model.paths.weights, c.model.paths.weights)


def test_it_predicts_what_it_has_not_seen() -> None:
    fitted, metrics = refit(GPLearner(), fresh(GPLearner()), rows(80))
    x, u, y = rows(100, seed=3)
    found = jax.vmap(lambda x, u: fitted.model.predict(x, u, ZERO))(x, u)
    assert np.abs(found.mean - y).mean() < 0.1 * np.abs(y - x).mean()
    z = (np.asarray(found.mean) - y) / np.asarray(found.std)
    assert 0.6 < np.sqrt(np.mean(z**2)) < 1.6
    assert not metrics["failed"]
    assert metrics["rows"] == 80
    np.testing.assert_allclose(metrics["noise"], [0.003, 0.003], rtol=0.4)


def test_a_motion_without_noise_is_known_beyond_the_data() -> None:
    """A product seen in one corner: what a wall of signal to noise at 1000 hides."""
    random = np.random.default_rng(0)
    law = lambda x, u: x + np.stack([0.1 * x[:, 1] * x[:, 0], 0.2 * x[:, 0] + 0.1 * u[:, 0]], axis=1)
    x, u = random.uniform(-0.5, 0.5, (60, 2)), random.uniform(-1, 1, (60, 1))
    model = refit(GPLearner(), fresh(GPLearner()), (x, u, law(x, u)))[0].model
    far, push = np.array([[1.0, 1.0], [-1.0, 1.0]]), np.ones((2, 1))
    found = jax.vmap(lambda x, u: model.predict(x, u, jnp.int32(0)).mean)(far, push)
    np.testing.assert_allclose(found, law(far, push), atol=0.01)


def test_hyperparameters_are_chosen_again_after_so_many_rows() -> None:
    learner = dataclasses.replace(FAST, refit_every=20)
    first, _ = refit(learner, fresh(learner), rows(30))
    second, kept = refit(learner, first, rows(49))
    third, anew = refit(learner, second, rows(50))
    assert kept["status"] == "hyperparameters kept"
    assert "evaluations" not in kept
    assert same((first.model.lengths, first.model.inputs), (second.model.lengths, second.model.inputs))
    assert (int(first.chosen), int(second.chosen), int(third.chosen)) == (30, 30, 50)
    assert anew["evaluations"] > 0
    assert not same(first.model.lengths, third.model.lengths)


def test_rows_in_between_are_learned_from() -> None:
    first, _ = refit(FAST, fresh(), rows(30))
    x, u, y = rows(10, seed=8)
    elsewhere = x + 4.0, u, y + 4.0
    columns = tuple(np.concatenate([a, b]) for a, b in zip(rows(30), elsewhere, strict=True))
    second, metrics = refit(FAST, first, columns)
    x, u, y = (v[-10:] for v in columns)
    error = [
        np.abs(jax.vmap(lambda x, u, m=m: m.predict(x, u, ZERO).mean)(x, u) - y).mean()
        for m in (first.model, second.model)
    ]
    assert metrics["distinct"] == 40
    assert error[1] < 0.7 * error[0]


def test_fewer_rows_than_before_are_a_new_beginning() -> None:
    first, _ = refit(FAST, fresh(), rows(40))
    second, metrics = refit(FAST, first, rows(20))
    assert "evaluations" in metrics
    assert int(second.chosen) == 20


def test_duplicates_are_one_row_with_less_noise() -> None:
    z = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [-0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    y = np.array([[1.0], [7.0], [2.0], [5.0], [5.0], [6.0]])
    found = distinct(z, y)
    np.testing.assert_array_equal(found.z, [[1, 2], [3, 4], [0, 0]])
    np.testing.assert_array_equal(found.count, [3, 1, 2])
    np.testing.assert_allclose(found.y, [[3, 7, 5]])
    np.testing.assert_allclose(found.within, [4 + 1 + 9])


def test_merging_duplicates_does_not_change_predictions() -> None:
    """Rows that differ by next to nothing are not merged, and must say the same as those that are."""
    columns = rows(15)
    twice = tuple(np.concatenate([v, v]) for v in columns)
    nearly = (twice[0] + np.repeat([0.0, 1e-9], 15)[:, None], *twice[1:])
    learner = dataclasses.replace(FAST, refit_every=1000)
    fitted, _ = refit(learner, fresh(learner), columns)
    merged, metrics = refit(learner, fitted, twice)
    apart, other = refit(learner, fitted, nearly)
    assert (metrics["distinct"], other["distinct"]) == (15, 30)
    x, u, _ = rows(10, seed=4)
    predict = lambda f: jax.vmap(lambda x, u: f.model.predict(x, u, ZERO))(x, u)
    np.testing.assert_allclose(predict(merged).mean, predict(apart).mean, atol=1e-6)
    np.testing.assert_allclose(predict(merged).std, predict(apart).std, rtol=1e-4)


def test_many_rows_are_seen_through_inducing_points() -> None:
    learner = dataclasses.replace(FAST, inducing=64, sparse_above=100)
    exact, _ = refit(learner, fresh(learner), rows(90))
    assert (exact.model.size, exact.model.frame.centres.shape[-1]) == (128, 64)
    sparse, metrics = refit(learner, exact, rows(150))
    assert (sparse.model.size, metrics["bucket"], metrics["failed"]) == (64, 64, False)
    x, u, y = rows(50, seed=3)
    error = np.abs(jax.vmap(lambda x, u: sparse.model.predict(x, u, ZERO).mean)(x, u) - y).mean()
    assert error < 0.1 * np.abs(y - x).mean()


def test_a_blank_state_takes_the_sizes_of_a_file() -> None:
    fitted, _ = refit(FAST, fresh(), rows(70))
    shapes = {
        jax.tree_util.keystr(p, simple=True, separator="."): v.shape
        for p, v in jax.tree_util.tree_leaves_with_path(fitted)
    }
    room = fresh().resized(shapes)
    assert jax.tree.structure(room) == jax.tree.structure(fitted)
    for a, b in zip(jax.tree.leaves(room), jax.tree.leaves(fitted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize(("centres", "own"), [(65, 64), (64, 128), (32, 32), (128, 100)])
def test_sizes_that_no_fit_gives_are_refused(centres, own) -> None:
    with pytest.raises(ValueError, match="expected powers of two from 64 on"):
        fresh().resized({"model.centres": (2, 3, centres), "model.frame.centres": (2, 3, own)})


def test_a_file_without_centres_is_refused() -> None:
    with pytest.raises(KeyError, match=r"model\.centres"):
        fresh().resized({})


AWKWARD = {
    "one row": rows(1),
    "two rows": rows(2),
    "three rows": rows(3),
    "the same row again and again": tuple(np.repeat(v, 20, axis=0) for v in rows(1)),
    "the same input with different outcomes": (np.ones((20, 2)), np.ones((20, 1)), rows(20)[2]),
    "every row twice": tuple(np.concatenate([v, v]) for v in rows(20)),
    "nothing changes": (rows(20)[0], rows(20)[1], rows(20)[0]),
    "all moves alike": (rows(20)[0], rows(20)[1], rows(20)[0] + 0.5),
    "an input that is constant": (rows(20)[0] * [1.0, 0.0], *rows(20)[1:]),
    "actions that are constant": (rows(20)[0], np.zeros((20, 1)), rows(20)[2]),
    "tiny": tuple(1e-8 * v for v in rows(30)),
    "huge": tuple(1e8 * v for v in rows(30)),
    "both": (rows(30)[0] * [1e-8, 1e8], rows(30)[1], rows(30)[2] * [1e-8, 1e8]),
    "far from the origin": (rows(30)[0] + 1e8, rows(30)[1], rows(30)[2] + 1e8),
    "almost the same inputs": (1.0 + 1e-13 * rows(30)[0], rows(30)[1], rows(30)[2]),
    "one outlier": (rows(30)[0], rows(30)[1], np.concatenate([rows(29)[2], [[1e6, -1e6]]])),
    "a line of points": (
        np.linspace(0, 1, 60)[:, None] * [1.0, 1.0],
        np.zeros((60, 1)),
        np.linspace(0, 1, 60)[:, None] * [1.1, 0.9],
    ),
}


WORST = ("one row", "the same row again and again", "both", "far from the origin", "almost the same inputs")
"""For another kernel these are enough for every day."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [("se", name) for name in AWKWARD]
    + [pytest.param("matern32", n, marks=[] if n in WORST else [pytest.mark.slow]) for n in AWKWARD],
)
def test_awkward_data_make_a_finite_model(kind, name) -> None:
    learner = dataclasses.replace(FAST, kernel=kind)
    fitted, metrics = refit(learner, fresh(learner), AWKWARD[name])
    assert not metrics["failed"], metrics["status"]
    assert finite(fitted)
    x, u = AWKWARD[name][0][0], AWKWARD[name][1][0]
    drawn = jax.tree.map(lambda v: v[0], fitted.model.draw(jr.key(0), 1))
    for belief in (fitted.model, drawn):
        found = belief.predict(x, u, ZERO)
        assert np.all(np.isfinite(found.mean))
        assert np.all(np.asarray(found.std) > 0.0)
    # It must not be surprised by the rows that it has learned from.
    found = jax.vmap(lambda x, u: fitted.model.predict(x, u, ZERO))(*AWKWARD[name][:2])
    assert np.sqrt(np.mean(((AWKWARD[name][2] - found.mean) / found.std) ** 2)) < 5.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_rows_that_are_not_credible_are_left_out(value, column) -> None:
    columns = [v.copy() for v in rows(25)]
    columns[column][7, 0] = value
    fitted, metrics = refit(FAST, fresh(), columns)
    clean, _ = refit(FAST, fresh(), [np.delete(v, 7, axis=0) for v in columns])
    assert (metrics["failed"], metrics["left_out"], metrics["rows"]) == (False, 1, 24)
    assert finite(fitted)
    np.testing.assert_allclose(fitted.model.weights, clean.model.weights)


def test_without_rows_the_model_stays() -> None:
    before, _ = refit(FAST, fresh(), rows(20))
    for columns in (rows(0), tuple(np.full_like(v, np.nan) for v in rows(5))):
        after, metrics = refit(FAST, before, columns)
        assert (metrics["failed"], metrics["status"]) == (True, "no rows")
        assert same(after, before)


def test_a_matrix_without_a_factor_fails_and_the_model_stays(monkeypatch) -> None:
    before, _ = refit(FAST, fresh(), rows(20))
    hopeless = lambda *a: (p := exact(*a))._replace(ok=~p.ok)
    exact = gp_posterior.exact
    monkeypatch.setattr("forethought.models.gp_learner.exact", hopeless)
    after, metrics = refit(FAST, before, rows(21))
    assert (metrics["failed"], metrics["status"]) == (True, "no positive definite matrix")
    assert same(after, before)


def test_numbers_beyond_all_bounds_fail_and_the_model_stays(monkeypatch) -> None:
    before, _ = refit(FAST, fresh(), rows(20))
    broken = lambda *a: eqx.tree_at(lambda m: m.paths.weights, assembled(*a), replace_fn=lambda v: v * np.inf)
    assembled = gp_posterior.assembled
    monkeypatch.setattr("forethought.models.gp_learner.assembled", broken)
    after, metrics = refit(FAST, before, rows(21))
    assert (metrics["failed"], metrics["status"]) == (True, "numbers beyond all bounds")
    assert same(after, before)


def test_an_action_of_the_wrong_size_is_refused() -> None:
    x, u, y = rows(10)
    wrong = append(as_dataset(Spec(2, 3)), as_trajectory(x, np.repeat(u, 3, axis=1), y), 0)
    with pytest.raises(UserError, match="actions of size 3"):
        FAST.fit(fresh(), wrong, jr.key(0))


def test_a_state_of_the_wrong_size_is_refused() -> None:
    x, u, y = rows(10)
    wrong = append(as_dataset(Spec(1, 1)), as_trajectory(x[:, :1], u, y[:, :1]), 0)
    with pytest.raises(UserError, match="states of size 1"):
        FAST.fit(fresh(), wrong, jr.key(0))


@pytest.mark.parametrize("what", ["init", "fit"])
def test_without_64_bits_it_says_so(what) -> None:
    begun, some = fresh(), data(*rows(5))
    with jax.enable_x64(False), pytest.raises(UserError, match="The Gaussian process computes in float64"):
        FAST.init(SPEC, jr.key(0)) if what == "init" else FAST.fit(begun, some, jr.key(0))
