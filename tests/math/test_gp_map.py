"""Hyperparameters of a Gaussian process: found again where they are known, finite where there is nothing to find."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from forethought.math import gp_host, gp_map
from forethought.math.gp import Hyper, Rows
from forethought.math.gp_map import Found, Search, curb, fit_hyper, fit_sparse, initial, minimise, random_start, search
from forethought.math.kernels import Kind

KINDS: list[Kind] = ["se", "matern32", "matern52"]
KEY = jax.random.key(0)
QUICK = Search(restarts=1, evaluations=60)


def rows_of(z: np.ndarray, y: np.ndarray) -> Rows:
    """Rows that were each seen once."""
    return Rows(z.astype(np.float64), y.astype(np.float64), np.ones(len(y)), np.zeros(()))


def drawn(n: int = 60, noise: float = 0.1, seed: int = 0) -> Rows:
    """Scaled rows of a function of the first two of three inputs."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, 3))
    y = np.sin(1.5 * z[:, 0]) + 0.5 * z[:, 1] + noise * random.normal(size=n)
    return rows_of((z - z.mean(0)) / z.std(0), (y - y.mean()) / y.std())


def finite(found: Found) -> bool:
    """Whether everything in the answer is a number."""
    return bool(np.all(np.isfinite(gp_host.pack(found.hyper))) and np.isfinite(found.value))


@pytest.mark.parametrize("kind", KINDS)
def test_what_made_the_data_is_found(kind: Kind):
    random = np.random.default_rng(3)
    z = random.normal(size=(150, 2))
    truth = Hyper(np.log([0.7, 3.0]), np.log(np.asarray(1.0)), np.log(np.asarray(0.2)))
    half, rho, rate = (np.empty((150, 150)) for _ in range(3))
    half[:] = -0.5 * np.sum(((z[:, None] - z[None]) / np.exp(truth.log_lengths)) ** 2, axis=-1)
    gp_host.profile_and_slope(kind, half, rho, rate)
    y = np.linalg.cholesky(rho + 0.04 * np.eye(150)) @ random.normal(size=150)
    found = fit_hyper(kind, rows_of(z, y), None, Search(), KEY)
    assert found.status == "converged"
    at_truth = gp_host.exact(kind, gp_host.in_use(rows_of(z, y)))(gp_host.pack(truth))
    assert at_truth is not None
    assert found.value < at_truth[0] + curb(gp_host.pack(truth))[0]
    assert float(found.hyper.log_noise) == pytest.approx(np.log(0.2), abs=0.15)
    np.testing.assert_allclose(found.hyper.log_lengths, truth.log_lengths, atol=0.6)


def test_an_input_that_does_not_matter_gets_a_long_length_scale_inside_the_curb():
    lengths = np.exp(fit_hyper("se", drawn(), None, QUICK, KEY).hyper.log_lengths)
    assert lengths[2] > 5 * lengths[0]
    assert lengths[2] < 130.0


def test_data_without_noise_stop_at_the_curb_of_signal_to_noise():
    z = np.linspace(-2, 2, 50)[:, None]
    rows = rows_of(z, np.sin(2 * z[:, 0]))
    found = fit_hyper("se", rows, None, QUICK, KEY)
    start = gp_host.pack(initial(gp_host.in_use(rows)))
    free = minimise(gp_host.exact("se", gp_host.in_use(rows)), start, 60, curbed=False)
    ratio = lambda hyper: np.exp(float(hyper.log_signal - hyper.log_noise))
    assert finite(found)
    # Where the curbed objective is least, along the noise: rounding may stop a search short of it, nothing beyond it.
    length, signal = float(found.hyper.log_lengths[0]), float(found.hyper.log_signal)
    objective = lambda theta: gp_host.exact("se", gp_host.in_use(rows))(theta)[0] + curb(theta)[0]
    ratios = np.geomspace(1e4, 2e6, 100)
    best = ratios[np.argmin([objective(np.array([length, signal, signal - np.log(r)])) for r in ratios])]
    assert 2e4 < ratio(found.hyper) < 1.5 * best < ratio(free.hyper) / 10.0


def test_the_gradient_of_the_curb_agrees_with_differences():
    for theta in (np.array([4.5, -4.7, 0.1, 1.0, -6.2]), np.zeros(5)):
        step = 1e-6
        expected = [(curb(theta + step * e)[0] - curb(theta - step * e)[0]) / (2 * step) for e in np.eye(5)]
        np.testing.assert_allclose(curb(theta)[1], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("theta", "high"),
    [
        ([0.0, 0.0, -2.0], False),
        ([4.3, 0.0, -10.0], False),
        ([5.5, 0.0, -2.0], True),
        ([-5.5, 0.0, -2.0], True),
        ([0.0, 1.0, -12.0], True),
    ],
)
def test_the_curb_is_flat_inside_and_a_wall_outside(theta: list[float], high: bool):
    assert (curb(np.asarray(theta))[0] > 10.0) == high


def test_the_start_is_pilcos():
    rows = drawn(60)
    start = initial(gp_host.in_use(rows._replace(z=rows.z * np.array([1.0, 4.0, 0.0]), y=rows.y * 3)))
    np.testing.assert_allclose(start.log_lengths, np.log([1.0, 4.0, 1.0]), atol=1e-12)
    assert float(start.log_signal) == pytest.approx(np.log(3.0))
    assert float(start.log_signal - start.log_noise) == pytest.approx(np.log(10.0))


def test_merged_duplicates_start_as_all_observations_would():
    plain = rows_of(np.array([[0.0], [0.0], [1.0]]), np.array([1.0, 3.0, -1.0]))
    merged = Rows(np.array([[0.0], [1.0]]), np.array([2.0, -1.0]), np.array([2.0, 1.0]), np.asarray(2.0))
    one, other = initial(gp_host.in_use(plain)), initial(gp_host.in_use(merged))
    np.testing.assert_allclose(gp_host.pack(one), gp_host.pack(other), rtol=1e-12)


def test_the_best_of_several_starts_is_returned_and_it_is_a_copy():
    targets = [np.array([2.0, 0.0, 0.0]), np.array([-2.0, 0.0, 0.0])]
    heights = [1.0, 0.0]

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        near = int(np.argmin([np.sum((theta - t) ** 2) for t in targets]))
        return float(np.sum((theta - targets[near]) ** 2)) + heights[near], 2 * (theta - targets[near])

    starts = [Hyper(np.array([s]), np.zeros(()), np.zeros(())) for s in (-1.5, 1.5, 3.0)]
    found = search(objective, starts, 50)
    np.testing.assert_allclose(gp_host.pack(found.hyper), targets[1], atol=1e-3)
    assert found.evaluations >= 3
    kept = gp_host.pack(found.hyper)
    for start in starts:
        start.log_lengths[:] = 99.0
    np.testing.assert_array_equal(gp_host.pack(found.hyper), kept)


def test_a_search_never_ends_worse_than_it_began():
    rows = gp_host.in_use(drawn())
    objective = gp_host.exact("se", rows)
    for seed in range(5):
        start = gp_host.pack(random_start(initial(rows), np.random.default_rng(seed)))
        at_start = objective(start)
        assert at_start is not None
        for budget in (1, 3, 10):
            found = minimise(objective, start, budget)
            assert found.value <= at_start[0] + curb(start)[0]
            assert found.evaluations <= budget + 20  # the last line search is finished


def test_the_best_point_that_was_looked_at_is_the_answer_not_the_last():
    start = np.array([0.5, 0.0, -1.0])
    uphill = lambda theta: (float(np.sum(theta**2)), -2 * theta)  # a gradient that leads the wrong way
    found = minimise(uphill, start, 50, curbed=False)
    assert found.status == "stalled"
    assert found.evaluations > 1
    np.testing.assert_array_equal(gp_host.pack(found.hyper), start)
    assert found.value == 1.25


def test_a_warm_start_is_where_the_search_begins():
    rows = drawn()
    cold = fit_hyper("se", rows, None, Search(), KEY)
    warm = fit_hyper("se", rows, cold.hyper, Search(restarts=0), KEY)
    assert warm.value <= cold.value + 1e-9
    assert warm.evaluations < cold.evaluations


def test_the_same_key_gives_the_same_answer_and_another_key_other_starts():
    rows = drawn(40)
    one, two = (fit_hyper("se", rows, None, QUICK, jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(gp_host.pack(one.hyper), gp_host.pack(two.hyper))
    assert one.evaluations == two.evaluations
    first = initial(gp_host.in_use(rows))
    some, others = (gp_host.pack(random_start(first, gp_map._generator(jax.random.key(k)))) for k in (1, 2))
    assert not np.allclose(some, others)


def test_padding_changes_nothing():
    rows = drawn(40)
    more = Rows(np.full((9, 3), np.nan), np.full(9, np.nan), np.zeros(9), np.zeros(()))
    wide = Rows(*(np.concatenate([a, b]) for a, b in zip(rows[:3], more[:3], strict=True)), rows.within)  # pyright: ignore
    one, other = (fit_hyper("se", r, None, QUICK, KEY) for r in (rows, wide))
    np.testing.assert_array_equal(gp_host.pack(one.hyper), gp_host.pack(other.hyper))


def test_the_budget_is_a_typed_status():
    assert minimise(gp_host.exact("se", gp_host.in_use(drawn())), np.array([3.0, 3.0, 3.0, 2.0, 1.0]), 2).status == (
        "iteration limit"
    )


@pytest.mark.parametrize("answer", [None, (np.nan, np.zeros(3)), (np.inf, np.zeros(3)), (1.0, np.full(3, np.nan))])
def test_an_objective_that_has_no_value_anywhere_fails_at_its_start(answer: tuple[float, np.ndarray] | None):
    found = minimise(lambda theta: answer, np.array([0.5, 0.0, -1.0]), 30)
    assert found.status == "failed"
    np.testing.assert_array_equal(gp_host.pack(found.hyper), [0.5, 0.0, -1.0])


def test_holes_in_the_objective_are_gone_around():
    def objective(theta: np.ndarray) -> tuple[float, np.ndarray] | None:
        if theta[0] > 1.2:
            return None
        return float(np.sum((theta - 1.0) ** 2)), 2 * (theta - 1.0)

    found = minimise(objective, np.array([-3.0, 0.0, 0.0]), 100, curbed=False)
    assert found.value < 1e-4
    assert found.status != "failed"


AWKWARD = {
    "no rows": rows_of(np.zeros((0, 2)), np.zeros(0)),
    "one row": rows_of(np.zeros((1, 2)), np.zeros(1)),
    "one row that is not zero": rows_of(np.ones((1, 2)), np.ones(1)),
    "two rows": rows_of(np.array([[-1.0, 1.0], [1.0, -1.0]]), np.array([-1.0, 1.0])),
    "two equal rows": rows_of(np.zeros((2, 2)), np.array([0.5, 0.5])),
    "conflicting duplicates": rows_of(np.zeros((6, 2)), np.array([1.0, -1, 1, -1, 1, -1])),
    "constant target": rows_of(np.random.default_rng(0).normal(size=(30, 2)), np.zeros(30)),
    "constant target that is not zero": rows_of(np.random.default_rng(0).normal(size=(30, 2)), np.full(30, 7.0)),
    "constant input": rows_of(np.c_[np.linspace(-2, 2, 30), np.zeros(30)], np.sin(np.linspace(-2, 2, 30))),
    "all inputs constant": rows_of(np.zeros((30, 2)), np.sin(np.arange(30.0))),
    "tiny": rows_of(1e-8 * np.random.default_rng(0).normal(size=(30, 2)), 1e-8 * np.sin(np.arange(30.0))),
    "huge": rows_of(1e8 * np.random.default_rng(0).normal(size=(30, 2)), 1e8 * np.sin(np.arange(30.0))),
    "exactly linear": rows_of(np.linspace(-1, 1, 30)[:, None] * np.ones(2), np.linspace(-1, 1, 30)),
    "pure noise": rows_of(np.random.default_rng(0).normal(size=(30, 2)), np.random.default_rng(1).normal(size=30)),
    "one outlier": rows_of(np.random.default_rng(0).normal(size=(30, 2)), np.eye(30)[0] * 30.0),
    "NaN": rows_of(np.random.default_rng(0).normal(size=(30, 2)), np.where(np.arange(30) == 3, np.nan, 1.0)),
    "inf": rows_of(np.where(np.arange(60).reshape(30, 2) == 7, np.inf, 0.5), np.sin(np.arange(30.0))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_data_end_in_finite_hyperparameters(name: str, kind: Kind):
    found = fit_hyper(kind, AWKWARD[name], None, QUICK, KEY)
    assert np.all(np.isfinite(gp_host.pack(found.hyper)))
    assert (found.status == "failed") == (name in ("NaN", "inf"))
    if found.status != "failed":
        assert np.isfinite(found.value)


@pytest.mark.parametrize("name", ["no rows", "one row", "constant target", "constant target that is not zero"])
def test_where_there_is_nothing_to_learn_the_signal_is_small(name: str):
    found = fit_hyper("se", AWKWARD[name], None, QUICK, KEY)
    assert (found.status, found.evaluations) == ("converged", 0)
    assert np.exp(float(found.hyper.log_signal)) == pytest.approx(gp_map.LEAST_SIGNAL)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_data_end_in_finite_hyperparameters_of_a_sparse_process(name: str):
    found, chosen = fit_sparse("se", AWKWARD[name], None, QUICK, KEY, 4)
    assert np.all(np.isfinite(gp_host.pack(found.hyper)))
    assert chosen.shape == (4,)
    assert (found.status == "failed") == (name in ("NaN", "inf"))


def test_many_rows_are_looked_at_once_from_the_best_place():
    rows = drawn(300)
    found = fit_hyper("se", rows, None, QUICK, KEY)
    alone = minimise(gp_host.exact("se", gp_host.in_use(rows)), gp_host.pack(initial(gp_host.in_use(rows))), 200)
    assert found.status == "converged"
    assert found.value < alone.value + 0.1


def test_the_sparse_fit_comes_near_the_exact_one():
    rows = drawn(300)
    found, chosen = fit_sparse("se", rows, None, QUICK, KEY, 60)
    best = fit_hyper("se", rows, None, QUICK, KEY)
    assert len(set(chosen.tolist())) == 60
    assert found.status == "converged"
    assert best.value < found.value < best.value + 5.0
    assert float(found.hyper.log_noise) == pytest.approx(float(best.hyper.log_noise), abs=0.1)


@pytest.mark.parametrize("old", [[9.0, -9.0, 0.0, 50.0, -50.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
def test_a_warm_start_from_anywhere_is_survived(old: list[float]):
    found = fit_hyper("se", drawn(40), gp_host.unpack(np.asarray(old)), QUICK, KEY)
    assert finite(found)
    assert found.status != "failed"
