"""Data as they should not be, for every model: a finite fit, or a failed one that says so, or a sentence.

Never a silent NaN: whatever a fit returns, the model that a planner sees afterwards predicts finite numbers.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import forethought
from forethought.core import AbstractLearner
from forethought.math.dataset import append, empty
from forethought.types import Dataset, Spec, Trajectory, UserError

SPEC = Spec(2, 1)
GP = forethought.GPLearner(restarts=0, evaluations=20, functions=4, waves=8)
ENSEMBLE = forethought.EnsembleLearner(members=2, width=8, depth=1, gradient_steps=20)


def pushed(x, u, theta):
    """y = a x + b u."""
    return theta["a"] * x + theta["b"] * u[0]


LEARNERS: dict[str, AbstractLearner] = {
    "gp": GP,
    "gp-sparse": forethought.GPLearner(restarts=0, evaluations=20, functions=4, waves=8, sparse_above=6, inducing=4),
    "ensemble": ENSEMBLE,
    "auto": forethought.AutoLearner(GP, ENSEMBLE, few=10, trial=5),
    "network": forethought.NetworkLearner(width=8, depth=1, gradient_steps=20),
    "mdn": forethought.MDNLearner(components=2, width=8, depth=1, gradient_steps=20),
    "gmm": forethought.GMMLearner(components=2, starts=1, rounds=20),
    "linear": forethought.LinearLearner(),
    "physics": forethought.PhysicsLearner(pushed, {"a": 1.0, "b": 0.0}),
    "physics+gmm": forethought.PhysicsLearner(
        pushed, {"a": 1.0, "b": 0.0}, residual=forethought.GMMLearner(components=2, starts=1, rounds=20)
    ),
}


def rows(count: int) -> dict[str, np.ndarray]:
    """Transitions of a linear system, in one episode."""
    random = np.random.default_rng(0)
    x, u = random.normal(size=(count, 2)), random.uniform(-1.0, 1.0, (count, 1))
    return {"x": x, "u": u, "y": 0.9 * x + 0.3 * u, "reward": -np.sum(x**2, axis=1)}


def dataset(columns: dict[str, np.ndarray]) -> Dataset:
    count, zero = len(columns["x"]), np.zeros(len(columns["x"]))
    trajectory = Trajectory(
        **columns,
        terminated=zero > 0,
        truncated=np.arange(count) == count - 1,
        t=np.arange(count),
        log_prob=zero,
        condition=np.zeros(count, np.int64),
    )
    return append(empty(SPEC, 32), trajectory, 0)


def changed(count: int = 20, **columns) -> Dataset:
    """Good rows, with some columns made anew from what they were."""
    good = rows(count)
    return dataset(good | {name: make(good[name].copy()) for name, make in columns.items()})


def put(row: int, value: float):
    """A column with one number replaced."""

    def replace(column):
        column[(row, *[0] * (column.ndim - 1))] = value
        return column

    return replace


def same_inputs(y_too: bool) -> Dataset:
    """Twenty times the same state and action; the next states differ, or do not."""
    good = rows(20)
    first = {name: np.repeat(column[:1], 20, axis=0) for name, column in good.items()}
    return dataset(first | ({} if y_too else {"y": good["y"]}))


CASES: dict[str, Dataset] = {
    "no rows": empty(SPEC, 32),
    "one row": changed(1),
    "two rows": changed(2),
    "duplicates": same_inputs(True),
    "conflicting duplicates": same_inputs(False),
    "constant state component": changed(x=lambda x: x * [1.0, 0.0], y=lambda y: y * [1.0, 0.0]),
    "constant action": changed(u=lambda u: 0.0 * u + 0.5),
    "nothing ever changes": dataset(rows(20) | {"y": rows(20)["x"]}),
    "everything zero": dataset({name: 0.0 * column for name, column in rows(20).items()}),
    "scale 1e-8": changed(x=lambda x: 1e-8 * x, y=lambda y: 1e-8 * y, u=lambda u: 1e-8 * u),
    "scale 1e8": changed(x=lambda x: 1e8 * x, y=lambda y: 1e8 * y, u=lambda u: 1e8 * u),
    "mixed scales": changed(x=lambda x: x * [1e-8, 1e8], y=lambda y: y * [1e-8, 1e8]),
    "NaN in a state": changed(x=put(3, np.nan)),
    "NaN in a next state": changed(y=put(3, np.nan)),
    "NaN in an action": changed(u=put(3, np.nan)),
    "infinite next state": changed(y=put(3, np.inf)),
    "infinite state": changed(x=put(3, -np.inf)),
    "all NaN": changed(y=lambda y: np.nan * y),
    "one enormous outlier": changed(y=put(3, 1e11)),
}


@eqx.filter_jit
def everything_said(model, x, u):
    """What a model says about one point: the mean, one sample, and the means of four beliefs."""
    at = (x, u, jnp.zeros((), jnp.int32))
    whole = model.predict(*at)
    each = eqx.filter_vmap(lambda belief: belief.predict(*at).mean, in_axes=eqx.if_array(0), axis_size=4)
    return whole.mean, whole.sample(jr.key(1)), each(model.draw(jr.key(0), 4))


def nan_free(tree) -> bool:
    """Whether no array holds a NaN."""
    return not any(np.isnan(np.asarray(leaf)).any() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


def same(first, second) -> bool:
    """Whether two trees hold the same numbers."""
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        if eqx.is_inexact_array(a)
    )


def begun(learner: AbstractLearner):
    return learner.init(SPEC, jr.key(0))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_first_fit_is_finite_or_says_that_it_failed(name, case) -> None:
    learner, data = LEARNERS[name], CASES[case]
    before = begun(learner)
    try:
        fitted, metrics = learner.fit(before, data, jr.key(1))
    except UserError:  # whose sentences have tests of their own
        return
    assert nan_free(fitted)
    if bool(np.asarray(metrics.get("failed", False))):
        assert same(fitted.model, before.model)
    finite = np.isfinite(data.x).all() and np.isfinite(data.u).all()
    row = 0 if int(data.count) and finite else None
    x, u = (np.zeros(2), np.zeros(1)) if row is None else (data.x[row], data.u[row])
    for found in everything_said(fitted.model, jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)):
        assert np.isfinite(np.asarray(found)).all()


FATAL = ("no rows", "all NaN")


@pytest.mark.parametrize("case", FATAL)
@pytest.mark.parametrize("name", LEARNERS)
def test_after_a_good_fit_a_hopeless_one_leaves_the_model(name, case) -> None:
    """What was learned is not lost to data that say nothing, and the failure is said."""
    learner = LEARNERS[name]
    good, _ = learner.fit(begun(learner), changed(20), jr.key(1))
    try:
        after, metrics = learner.fit(good, CASES[case], jr.key(2))
    except UserError:
        return
    assert bool(np.asarray(metrics["failed"]))
    assert same(after.model, good.model)


@pytest.mark.parametrize("name", LEARNERS)
def test_rows_of_another_size_are_refused(name) -> None:
    """Two actions where the model was made for one."""
    learner, wide = LEARNERS[name], changed(20)
    wide = dataclasses.replace(wide, u=np.concatenate([wide.u, wide.u], axis=1))
    with pytest.raises(UserError, match="2"):
        learner.fit(begun(learner), wide, jr.key(1))


@pytest.mark.parametrize("name", LEARNERS)
def test_one_bad_row_does_not_spoil_the_others(name) -> None:
    """The same data with one NaN in it: the fit fails and says so, or predicts nearly as without it."""
    learner = LEARNERS[name]
    clean, _ = learner.fit(begun(learner), changed(20), jr.key(1))
    fitted, metrics = learner.fit(begun(learner), CASES["NaN in a next state"], jr.key(1))
    if not bool(np.asarray(metrics.get("failed", False))):
        x, u = jnp.asarray(rows(20)["x"][5], jnp.float32), jnp.asarray(rows(20)["u"][5], jnp.float32)
        found, wanted = (np.asarray(everything_said(f.model, x, u)[0]) for f in (fitted, clean))
        np.testing.assert_allclose(found, wanted, atol=0.5)


def test_there_are_at_least_seventy_cases() -> None:
    assert len(LEARNERS) * len(CASES) >= 70
