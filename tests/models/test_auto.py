from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought import AutoLearner, EnsembleLearner, GPLearner, UserError
from forethought.models.auto import MOST, FittedAuto, _scored
from forethought.models.ensemble import Ensemble
from forethought.models.gp import GaussianProcess
from forethought.testing import check_model
from forethought.types import Spec

SPEC = Spec(2, 1)
GP = GPLearner(functions=2, waves=4, restarts=0, evaluations=10)
ENSEMBLE = EnsembleLearner(members=2, width=8, depth=1, gradient_steps=20)
SMALL = AutoLearner(GP, ENSEMBLE, few=20, many=100, trial=15)
ZERO = jnp.zeros((), jnp.int32)


def rows(count: int, seed: int = 0, extras: int = 0):
    random = np.random.default_rng(seed)  # always 128 of them, so that fewer rows are the first ones of more
    x, u = random.normal(size=(128, 2))[:count], random.uniform(-1.0, 1.0, (128, 1))[:count]
    y = 0.9 * x + 0.3 * u + 0.01 * random.normal(size=(128, 2))[:count]
    return (x, u, y, -np.sum(x**2, axis=1)) if extras else (x, u, y)


def data(count: int, change=None, spec: Spec = SPEC):
    columns = rows(count, extras=spec.extras)
    if change is not None:
        change(*columns)
    return as_dataset(spec, as_trajectory(*columns))


def fits(learner: AutoLearner, *counts: int, spec: Spec = SPEC):
    """State and metrics after fits to so many rows, one after the other."""
    fitted, found = learner.init(spec, jr.key(0)), []
    for i, count in enumerate(counts):
        fitted, metrics = learner.fit(fitted, data(count, spec=spec), jr.key(i + 1))
        found.append(metrics)
    return fitted, found


@pytest.fixture
def judged(monkeypatch):
    """Lets a test say by how many nats per output and row the ensemble leads; the rest is as it is."""

    def set_to(gap) -> None:
        fake = lambda models, x, u, y: np.broadcast_to(np.asarray(gap, float), y.shape)
        monkeypatch.setattr("forethought.models.auto._gaps", fake)

    return set_to


@pytest.fixture
def broken(monkeypatch):
    """Lets a test say whose fits fail."""

    def set_to(*learners, after: int = 0) -> None:
        for learner in learners:
            real = learner.fit

            def fit(self, fitted, data, key, real=real):
                if int(data.count) < after:
                    return real(self, fitted, data, key)
                return fitted, {"failed": True, "rows": int(data.count), "status": "made to fail"}

            monkeypatch.setattr(learner, "fit", fit)

    return set_to


@pytest.mark.parametrize(
    ("few", "spec"),
    [(20, Spec(2, 1)), pytest.param(20, None, marks=pytest.mark.slow), pytest.param(300, None, marks=pytest.mark.slow)],
)
def test_it_is_a_good_citizen(few, spec) -> None:
    """With few=20 both are fitted, and compete, in what is checked."""
    check_model(dataclasses.replace(SMALL, few=few, ensemble=dataclasses.replace(ENSEMBLE, gradient_steps=300)), spec)


def test_it_begins_with_the_gaussian_process() -> None:
    fitted, (first, second) = fits(SMALL, 10, 20)
    assert isinstance(fitted, FittedAuto)
    assert isinstance(fitted.model, GaussianProcess)
    assert (first["model"], second["model"]) == ("gp", "gp")
    assert first["says"] == (
        "Model: the Gaussian process, as there are 10 rows of data; the ensemble competes from 20 on."
    )
    assert "says" not in second
    assert "lead" not in second
    assert not np.any(fitted.ensemble.model.healthy), "nobody fits the ensemble yet"
    begun = ENSEMBLE.init(SPEC, jr.split(jr.key(0))[1])
    assert jax.tree.structure(fitted.ensemble) == jax.tree.structure(begun)
    assert (int(fitted.seen), bool(fitted.both)) == (20, False)


def test_rows_are_scored_before_anybody_has_learned_from_them(monkeypatch) -> None:
    """By the models from before the fit, on the new rows only."""
    seen = []

    def watch(models, x, u, y):
        seen.append((models, np.asarray(x), np.asarray(y)))
        return np.zeros(y.shape)

    monkeypatch.setattr("forethought.models.auto._gaps", watch)
    before, _ = fits(SMALL, 15, 25)
    assert seen == [], "the ensemble has not learned from the first 15 until the second fit"
    assert bool(before.both)
    after, metrics = SMALL.fit(before, data(32), jr.key(9))
    ((models, x, y),) = seen
    assert models[0] is before.gp.model
    assert models[1] is before.ensemble.model
    np.testing.assert_array_equal(x[:7], rows(32)[0][25:])
    np.testing.assert_array_equal(y[:7], rows(32)[2][25:])
    assert not x[7:].any(), "padding"
    assert (int(after.contested), metrics["lead"]) == (7, 0.0)


def test_the_score_is_the_difference_of_log_likelihoods() -> None:
    before, _ = fits(SMALL, 15, 25)
    after, _ = SMALL.fit(before, data(32), jr.key(9))
    x, u, y = (v[25:] for v in rows(32))

    def says(model, x, u, y) -> float:
        found = model.predict(jnp.asarray(x), jnp.asarray(u), ZERO)
        each = -0.5 * ((y - np.asarray(found.mean)) / found.std) ** 2 - np.log(found.std)
        assert np.isclose(each.sum() - np.log(2 * np.pi), found.log_prob(jnp.asarray(y, found.mean.dtype)), atol=1e-3)
        return np.asarray(each)

    gaps = [says(before.ensemble.model, *row) - says(before.gp.model, *row) for row in zip(x, u, y, strict=True)]
    np.testing.assert_allclose(float(after.lead), np.clip(gaps, -MOST, MOST).sum(), rtol=1e-4)


@pytest.mark.parametrize(("gap", "chosen"), [(0.5, "ensemble"), (0.0, "gp"), (-0.5, "gp")])
def test_the_ensemble_is_chosen_if_it_predicts_better_and_stays(judged, gap, chosen) -> None:
    judged(gap)
    fitted, found = fits(SMALL, 15, 25, 32, 39, 41)
    assert [m["model"] for m in found] == ["gp"] * 4 + [chosen], "decided after 15 rows: 7, 14 and 16 of them"
    assert isinstance(fitted.model, Ensemble if chosen == "ensemble" else GaussianProcess)
    assert [("says" in m) for m in found] == [True, False, False, False, chosen == "ensemble"]
    judged(-9.0)
    fitted, last = SMALL.fit(fitted, data(50), jr.key(7))
    assert last["model"] == chosen
    assert "says" not in last
    if chosen == "ensemble":
        assert found[4]["says"] == (
            "Model: the ensemble from now on (41 rows of data): it predicted 16 new rows better than the Gaussian "
            "process, by 1.00 nats a row."
        )
        assert found[4]["lead"] == pytest.approx(1.0)
        assert int(fitted.contested) == 16, "nobody competes any more"
        assert int(fitted.gp.chosen) <= 41, "the Gaussian process is not fitted any more"


@pytest.mark.parametrize(
    ("gap", "lead", "contested"),
    [
        (1e9, 2 * MOST, 7),
        (-np.inf, -2 * MOST, 7),
        (np.nan, 0.0, 0),
        ([np.nan, 1.0], 0.0, 0),
        ([3.0, -1e9], 3 - MOST, 7),
    ],
)
def test_one_row_says_only_so_much_and_nan_nothing(judged, gap, lead, contested) -> None:
    judged(gap)
    fitted, _ = fits(SMALL, 15, 25, 32)
    assert int(fitted.contested) == contested
    assert float(fitted.lead) == pytest.approx(lead * contested)


def test_a_row_that_is_not_credible_has_no_say(judged) -> None:
    judged(1.0)
    before, _ = fits(SMALL, 15, 25)
    after, _ = SMALL.fit(before, data(32, lambda x, u, y: y.__setitem__((28, 0), 1e13)), jr.key(9))
    assert (int(after.contested), float(after.lead)) == (6, 12.0)


def competing(spec: Spec) -> FittedAuto:
    """As if both had learned from the first 25 rows."""
    seen = {"seen": np.asarray(25, np.int64), "both": np.ones((), bool)}
    return dataclasses.replace(SMALL.init(spec, jr.key(0)), ensemble=ENSEMBLE.init(spec, jr.key(1)), **seen)


def test_an_output_that_never_varies_has_no_say(judged) -> None:
    """Termination, where there is none: how certain a model is of it says nothing of its worth."""
    judged([0.0, 0.0, 1.0, 5.0])
    spec = Spec(2, 1, extras=2)
    fitted = _scored(competing(spec), data(32, spec=spec))
    assert (int(fitted.contested), float(fitted.lead)) == (7, 7.0)


def test_an_angle_is_compared_the_short_way_round() -> None:
    """A next state may be given in any turn."""
    spec = Spec(2, 1, angles=(0,))
    turned = lambda x, u, y: y.__setitem__((slice(None), 0), y[:, 0] + 2.0 * np.pi)
    one, two = (_scored(competing(spec), data(32, change, spec)) for change in (None, turned))
    assert float(one.lead) == pytest.approx(float(two.lead), rel=1e-6)
    assert float(one.lead) != 0.0


def test_from_many_rows_on_it_is_the_ensemble() -> None:
    _, found = fits(SMALL, 15, 100, 110)
    assert [m["model"] for m in found] == ["gp", "ensemble", "ensemble"]
    assert found[1]["says"] == (
        "Model: the ensemble, as there are 100 rows of data, and its cost does not grow with them."
    )
    assert "says" not in found[2]


@pytest.mark.parametrize(("gap", "chosen"), [(0.5, "ensemble"), (-0.5, "gp")])
def test_a_run_that_begins_with_many_rows_has_a_rehearsal(judged, gap, chosen) -> None:
    judged(gap)
    fitted, (first,) = fits(SMALL, 90)
    assert (first["model"], int(fitted.contested)) == (chosen, 18), "the last fifth"
    assert first["says"].startswith(f"Model: the {'ensemble from now on' if chosen == 'ensemble' else 'Gaussian'}")


@pytest.mark.parametrize("count", [20, 100])
def test_there_is_no_rehearsal_where_nothing_is_to_be_decided(count) -> None:
    fitted, (first,) = fits(SMALL, count)
    assert int(fitted.contested) == 0
    assert "says" in first


@pytest.mark.parametrize("counts", [(15,), (25,), (15, 25)])
def test_a_gaussian_process_that_cannot_be_fitted_gives_way(broken, counts) -> None:
    broken(GPLearner, after=counts[-1])
    fitted, found = fits(SMALL, *counts)
    assert (found[-1]["model"], bool(found[-1].get("failed", False))) == ("ensemble", False)
    assert found[-1]["says"] == (
        f"Model: the ensemble from now on, as the Gaussian process cannot be fitted to the {counts[-1]} rows of data."
    )
    assert isinstance(fitted.model, Ensemble)


def test_where_neither_can_be_fitted_it_says_that_it_failed(broken) -> None:
    before, _ = fits(SMALL, 15)
    broken(GPLearner, EnsembleLearner)
    after, metrics = SMALL.fit(before, data(25), jr.key(5))
    assert (metrics["model"], metrics["failed"], bool(after.both)) == ("gp", True, False)
    assert after.model is before.model


def test_an_ensemble_that_cannot_be_fitted_is_not_chosen(broken) -> None:
    broken(EnsembleLearner)
    fitted, found = fits(SMALL, 15, 100)
    assert (found[1]["model"], found[1]["failed"]) == ("gp", False)
    assert found[1]["says"] == (
        "Model: the Gaussian process, though there are 100 rows of data: the ensemble cannot be fitted to them."
    )
    assert isinstance(fitted.model, GaussianProcess)
    assert found[1]["rows"] == 100, "it has learned from all of them"


def test_nobody_is_scored_who_has_not_learned_from_the_earlier_rows(judged, broken) -> None:
    judged(1.0)
    broken(EnsembleLearner, after=30)
    fitted, _ = fits(SMALL, 15, 25, 32)
    assert int(fitted.contested) == 7, "both had learned from 25"
    fitted, _ = SMALL.fit(fitted, data(39), jr.key(7))
    assert int(fitted.contested) == 7, "the ensemble has not learned from 32"


def test_without_rows_it_stays_with_the_gaussian_process() -> None:
    fitted, (first,) = fits(SMALL, 0)
    assert (first["model"], first["failed"]) == ("gp", True)
    bad = data(15, lambda x, u, y: y.__imul__(np.nan))
    fitted, metrics = SMALL.fit(fitted, bad, jr.key(1))
    assert (metrics["model"], metrics["failed"]) == ("gp", True)


@pytest.mark.parametrize("what", ["init", "fit"])
def test_without_64_bits_it_says_so(what) -> None:
    begun, some = SMALL.init(SPEC, jr.key(0)), data(5)
    with jax.enable_x64(False), pytest.raises(UserError, match="The model auto computes in float64"):
        SMALL.init(SPEC, jr.key(0)) if what == "init" else SMALL.fit(begun, some, jr.key(0))


def paths(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.shape(v) for p, v in found}


def test_a_blank_state_takes_the_sizes_of_a_file() -> None:
    fitted, _ = fits(SMALL, 70)
    room = SMALL.init(SPEC, jr.key(3)).resized(paths(fitted))
    assert jax.tree.structure(room) == jax.tree.structure(fitted)
    assert paths(room) == paths(fitted) != paths(SMALL.init(SPEC, jr.key(3)))
    dtypes = lambda tree: [v.dtype for v in jax.tree.leaves(eqx.filter(tree, eqx.is_array_like))]
    assert dtypes(room) == dtypes(fitted)


@pytest.mark.parametrize("shapes", [{}, {"gp.model.centres": (2, 3, 64)}, {"model.centres": (2, 3, 64)}])
def test_a_file_without_centres_is_refused(shapes) -> None:
    with pytest.raises(KeyError, match=r"model\.(frame\.)?centres"):
        SMALL.init(SPEC, jr.key(0)).resized(shapes)


def test_sizes_that_no_fit_gives_are_refused() -> None:
    with pytest.raises(ValueError, match="expected powers of two from 64 on"):
        SMALL.init(SPEC, jr.key(0)).resized({"gp.model.centres": (2, 3, 70), "gp.model.frame.centres": (2, 3, 64)})
