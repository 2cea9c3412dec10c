"""Rows that are appended to a posterior say the same as if all had been conditioned on."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.models.gp_learner import GPLearner
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
SPEC = Spec(2, 1)
LARGE = GPLearner(functions=4, waves=8, restarts=0, evaluations=30, refit_every=1000)


def rows(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, u = rng.uniform(-2, 2, (count, 2)), rng.uniform(-1, 1, (count, 1))
    y = x + 0.1 * np.stack([x[:, 1], np.sin(2 * x[:, 0]) + u[:, 0]], 1) + 0.003 * rng.normal(size=(count, 2))
    return x, u, y


ALL = rows(300)


def refit(learner, fitted, columns, key=1):
    return learner.fit(fitted, as_dataset(SPEC, as_trajectory(*columns)), jr.key(key))


def fresh(learner=LARGE):
    return learner.init(SPEC, jr.key(0))


def first(count: int):
    """Fewer rows are the first ones of more."""
    return [v[:count].copy() for v in ALL]


@pytest.fixture(scope="module")
def grown_from():
    """A posterior of 140 distinct rows in room for 256."""
    return refit(LARGE, fresh(LARGE), first(140))[0]


def predictions(fitted):
    x, u, _ = rows(40, seed=4)
    found = jax.vmap(lambda x, u: fitted.model.predict(x, u, ZERO))(1.5 * x, u)
    return np.asarray(found.mean), np.asarray(found.std)


def afresh(fitted, columns, learner=LARGE):
    """The same fit without what it was told of earlier rows."""
    return refit(learner, eqx.tree_at(lambda f: f.conditioned, fitted, jnp.zeros((), jnp.int64)), columns)


def agree(one, two, tolerance=1e-9) -> None:
    for a, b in zip(predictions(one), predictions(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("kind", ["se", "matern32", "matern52"])
def test_appended_rows_are_conditioned_on(kind) -> None:
    learner = dataclasses.replace(LARGE, kernel=kind)
    fitted, metrics = refit(learner, learner.init(SPEC, jr.key(0)), first(140))
    assert (metrics["appended"], int(fitted.conditioned)) == (0, 140)
    for count, new in ((141, 1), (141, 0), (200, 59)):
        fitted, metrics = refit(learner, fitted, first(count))
        assert (metrics["appended"], metrics["status"]) == (new, "hyperparameters kept")
    other, metrics = afresh(fitted, first(200), learner)
    assert metrics["appended"] == 0
    agree(fitted, other)
    np.testing.assert_allclose(
        fitted.model.root, other.model.root, rtol=0.0, atol=1e-8 * np.abs(other.model.root).max()
    )
    assert np.abs(predictions(fitted)[0] - predictions(refit(learner, fresh(learner), first(140))[0])[0]).max() > 1e-6


def repeated(at):
    """200 rows of which the last repeats another one's input."""
    columns = first(200)
    for v in columns[:2]:
        v[199] = v[at]
    return columns


def changed(column):
    """200 rows of which an early one is not what it was."""
    columns = first(200)
    columns[column][70] += 0.1
    return columns


FALLBACKS = {
    "a new row repeats an old one": repeated(3),
    "an old state is another": changed(0),
    "an old action is another": changed(1),
    "an old outcome is another": changed(2),
    "more rows than there is room for": first(257),
    "the order is another": [v[::-1] for v in first(200)],
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_cannot_be_appended_is_conditioned_on_afresh(grown_from, name) -> None:
    fitted, metrics = refit(LARGE, grown_from, FALLBACKS[name])
    assert (metrics["failed"], metrics["appended"], metrics["status"]) == (False, 0, "hyperparameters kept")
    assert int(fitted.conditioned) == metrics["distinct"]
    agree(fitted, afresh(grown_from, FALLBACKS[name])[0], 0.0)


def test_new_rows_may_repeat_each_other(grown_from) -> None:
    columns = repeated(198)
    fitted, metrics = refit(LARGE, grown_from, columns)
    assert (metrics["distinct"], metrics["appended"]) == (199, 59)
    agree(fitted, afresh(grown_from, columns)[0])


def test_a_row_that_is_known_already_needs_jitter_and_all_rows(grown_from) -> None:
    """Next to no noise, and a new row that is next to an old one."""
    columns = [np.concatenate([v, v[3:4]]) for v in first(140)]
    columns[0][140] += 1e-13
    start, _ = afresh(eqx.tree_at(lambda f: f.model.noise, grown_from, jnp.full(2, 1e-9)), first(140))
    fitted, metrics = refit(LARGE, start, columns)
    assert (metrics["failed"], metrics["appended"]) == (False, 0)
    assert metrics["jitter"] > 0.0
    assert int(fitted.conditioned) == 0, "nothing is appended to a posterior with jitter"


@pytest.mark.parametrize(("inducing", "above", "appended"), [(64, 512, 10), (64, 64, 0)])
def test_rows_are_appended_to_exact_posteriors_only(inducing, above, appended) -> None:
    learner = dataclasses.replace(LARGE, inducing=inducing, sparse_above=above)
    fitted, _ = refit(learner, fresh(learner), first(150))
    assert int(fitted.conditioned) == (150 if appended else 0)
    assert refit(learner, fitted, first(160))[1]["appended"] == appended


def test_few_rows_are_conditioned_on_afresh() -> None:
    fitted, _ = refit(LARGE, fresh(), first(30))
    assert refit(LARGE, fitted, first(40))[1]["appended"] == 0


def test_appending_compiles_nothing(grown_from) -> None:
    refit(LARGE, grown_from, first(150))
    heard = []
    listen = lambda event, seconds, **_: heard.append(event) if event.endswith("backend_compile_duration") else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert refit(LARGE, grown_from, first(190))[1]["appended"] == 50
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not heard
