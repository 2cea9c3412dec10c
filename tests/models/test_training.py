"""What bad data do to each network learner: a finite fit, a failed fit that says so, or an error with a sentence."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought import UserError
from forethought.models.ensemble import EnsembleLearner
from forethought.models.mdn import MDNLearner
from forethought.models.plain import NetworkLearner
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
SPEC = Spec(2, 1)
BRIEF = {"width": 8, "depth": 1, "gradient_steps": 30}
LEARNERS = {
    "ensemble": EnsembleLearner(members=2, **BRIEF),
    "network": NetworkLearner(**BRIEF),
    "mdn": MDNLearner(components=3, **BRIEF),
    "mdn-full": MDNLearner(components=2, full=True, **BRIEF),
}
BEGUN = {name: learner.init(SPEC, jr.key(0)) for name, learner in LEARNERS.items()}
each_learner = pytest.mark.parametrize("name", list(LEARNERS))


def rows(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, u = rng.normal(size=(count, 2)), rng.uniform(-1, 1, (count, 1))
    return x, u, x + 0.1 * np.concatenate([x[:, 1:], u], 1)


def scaled(by):
    x, u, y = rows(40)
    return x * by, u, y * by


def repeated(conflict: float):
    x, u, y = (np.repeat(v[:1], 20, axis=0) for v in rows(20))
    return x, u, y + conflict * np.random.default_rng(1).normal(size=y.shape)


def constant(column: int):
    x, u, y = rows(30)
    x, y = x.copy(), y.copy()
    x[:, column] = y[:, column] = 3.0
    return x, u, y


POOR = {
    "one row": rows(1),
    "two rows": rows(2),
    "duplicates": repeated(0.0),
    "conflicting duplicates": repeated(1.0),
    "a constant dimension": constant(0),
    "constant targets": (rows(30)[0], rows(30)[1], rows(30)[0] + 0.25),
    "everything constant": (np.ones((9, 2)), np.zeros((9, 1)), np.ones((9, 2))),
    "constant and huge": (np.full((9, 2), 1e8), np.zeros((9, 1)), np.full((9, 2), 1e8)),
    "scale 1e-8": scaled(1e-8),
    "scale 1e8": scaled(1e8),
    "both scales": scaled(np.array([1e-8, 1e8])),
    "actions of scale 1e8": (rows(30)[0], 1e8 * rows(30)[1], rows(30)[2]),
    "no action": (rows(30)[0], np.zeros((30, 1)), rows(30)[2]),
    "one outlier": (rows(30)[0], rows(30)[1], rows(30)[2] + 1e6 * (np.arange(30) == 7)[:, None]),
}


@eqx.filter_jit
def said(model, x, u, y):
    p = model.predict(x, u, ZERO)
    return p.mean, p.std, p.log_prob(y), jax.vmap(p.sample)(jr.split(jr.key(0), 20))


def everything_finite(fitted, x, u, y) -> bool:
    arrays = [v for v in jax.tree.leaves((fitted.model, fitted.optimiser)) if eqx.is_inexact_array(v)]
    arrays += said(fitted.model, *(jnp.asarray(v, jnp.float32) for v in (x, u, y)))
    return all(np.isfinite(v).all() for v in arrays)


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, (a.model, a.optimiser), (b.model, b.optimiser))))


@each_learner
@pytest.mark.parametrize("case", list(POOR))
def test_poor_data_give_a_finite_model(name, case) -> None:
    x, u, y = POOR[case]
    fitted, metrics = LEARNERS[name].fit(BEGUN[name], as_dataset(SPEC, as_trajectory(x, u, y)), jr.key(1))
    assert not bool(metrics["failed"])
    assert everything_finite(fitted, x[0], u[0], y[0])
    assert everything_finite(fitted, np.zeros(2), np.zeros(1), np.zeros(2))
    assert np.all(np.asarray(said(fitted.model, *(jnp.asarray(v, jnp.float32) for v in (x[0], u[0], y[0])))[1]) > 0)
    assert not same(fitted, BEGUN[name])


def spoilt(which: int, value: float, where: slice = slice(None)):
    given = [v.copy() for v in rows(30)]
    given[which][where, 0] = value
    return given


@each_learner
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["state", "action", "next"])
def test_data_that_are_no_numbers_fail_and_the_old_model_stays(name, which, value) -> None:
    learner = LEARNERS[name]
    good, _ = learner.fit(BEGUN[name], as_dataset(SPEC, as_trajectory(*rows(30))), jr.key(1))
    after, metrics = learner.fit(good, as_dataset(SPEC, as_trajectory(*spoilt(which, value))), jr.key(2))
    assert bool(metrics["failed"])
    assert same(after, good)
    assert everything_finite(after, np.zeros(2), np.zeros(1), np.zeros(2))
    again, metrics = learner.fit(after, as_dataset(SPEC, as_trajectory(*rows(30))), jr.key(3))
    assert not bool(metrics["failed"])
    assert not same(again, good)


@each_learner
@pytest.mark.parametrize("value", [np.nan, 1e300])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["state", "action", "next"])
def test_one_row_that_is_no_number_is_left_out(name, which, value) -> None:
    """As if it had not been: nothing of it is in the scalers either."""
    learner, seen = LEARNERS[name], []
    for bad in (value, -value):
        data = as_dataset(SPEC, as_trajectory(*spoilt(which, bad, slice(7, 8))))
        after, metrics = learner.fit(BEGUN[name], data, jr.key(1))
        assert not bool(metrics["failed"])
        assert int(metrics["left_out"]) == 1
        assert everything_finite(after, np.zeros(2), np.zeros(1), np.zeros(2))
        seen.append(after)
    assert same(*seen)


@each_learner
def test_what_moves_by_tiny_amounts_is_learned(name) -> None:
    """In units in which states are 1e-9: errors and spread are of their size, as in any other unit."""
    x, u, y = rows(200)
    learner = dataclasses.replace(LEARNERS[name], gradient_steps=300)
    fitted, _ = learner.fit(BEGUN[name], as_dataset(SPEC, as_trajectory(1e-9 * x, u, 1e-9 * y)), jr.key(1))
    found = jax.vmap(lambda x, u: fitted.model.predict(x, u, ZERO).mean)(*(v.astype(np.float32) for v in (1e-9 * x, u)))
    error = np.asarray(found, float) * 1e9 - y
    assert np.sqrt(np.mean(error**2)) < 0.5 * np.std(y - x)


@each_learner
def test_without_data_there_is_no_fit(name) -> None:
    data = as_dataset(SPEC, as_trajectory(np.zeros((0, 2)), np.zeros((0, 1)), np.zeros((0, 2))))
    after, metrics = LEARNERS[name].fit(BEGUN[name], data, jr.key(1))
    assert bool(metrics["failed"])
    assert same(after, BEGUN[name])
    assert everything_finite(after, np.zeros(2), np.zeros(1), np.zeros(2))


@each_learner
@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("value", [77.0, np.nan])
def test_padding_is_never_looked_at(name, count, value) -> None:
    data = as_dataset(SPEC, as_trajectory(*rows(count)))
    dirty = eqx.tree_at(lambda d: (d.x, d.u, d.y, d.reward), data, replace_fn=lambda v: v.copy())
    for v in (dirty.x, dirty.u, dirty.y, dirty.reward):
        v[count:] = value
    clean, metrics = LEARNERS[name].fit(BEGUN[name], data, jr.key(1))
    after, metrics_ = LEARNERS[name].fit(BEGUN[name], dirty, jr.key(1))
    assert same(after, clean)
    for key in metrics:
        np.testing.assert_array_equal(metrics[key], metrics_[key])


@each_learner
@pytest.mark.parametrize(
    ("n", "m", "sentence"),
    [
        (2, 2, "the data have actions of size 2, and the model was made for actions of size 1: call init"),
        (3, 1, "the data have states of size 3, and the model was made for states of size 2: call init"),
    ],
)
def test_data_of_another_system_are_refused(name, n, m, sentence) -> None:
    data = as_dataset(Spec(n, m), as_trajectory(np.zeros((5, n)), np.zeros((5, m)), np.zeros((5, n))))
    with pytest.raises(UserError, match=sentence):
        LEARNERS[name].fit(BEGUN[name], data, jr.key(0))


@each_learner
@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 1), (1, 2)])
def test_points_of_another_system_are_refused(name, n, m) -> None:
    match = rf"states of size 2 and actions of size 1 was asked about a state of shape \({n},\) and an action of .*{m}"
    model = BEGUN[name].model
    with pytest.raises(UserError, match=match):
        model.predict(jnp.zeros(n), jnp.zeros(m), ZERO)
    belief = jax.tree.map(lambda v: v[0], model.draw(jr.key(0), 1))
    with pytest.raises(UserError, match=match):
        belief.predict(jnp.zeros(n), jnp.zeros(m), ZERO)


@each_learner
def test_refits_on_growing_data_compile_once(name) -> None:
    learner, fitted = LEARNERS[name], BEGUN[name]
    fit = __import__(type(learner).__module__, fromlist=["_fit"])._fit
    fitted, _ = learner.fit(fitted, as_dataset(SPEC, as_trajectory(*rows(10))), jr.key(0))
    programs = fit._cached._cache_size()
    for count in (11, 60, 200, 511):
        fitted, _ = learner.fit(fitted, as_dataset(SPEC, as_trajectory(*rows(count))), jr.key(count))
    assert fit._cached._cache_size() == programs
