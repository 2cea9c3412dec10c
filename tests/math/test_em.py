from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.cluster import kmeans_plusplus
from sklearn.mixture import GaussianMixture

from forethought.math.em import (
    Joint,
    Settings,
    _spread,
    bic,
    candidates,
    choose,
    clusters,
    em,
    expect,
    fit_count,
    log_densities,
    maximise,
    start_from,
)


def blobs(rows: int, count: int, d: int, apart: float = 3.0, seed: int = 0) -> np.ndarray:
    """Rows from `count` Gaussians of full covariance; which one is drawn."""
    random = np.random.default_rng(seed)
    centres = apart * random.normal(size=(count, d))
    mix = 0.4 * random.normal(size=(count, d, d)) + 0.3 * np.eye(d)
    label = random.integers(count, size=rows)
    return centres[label] + np.einsum("nij,nj->ni", mix[label], random.normal(size=(rows, d)))


def begin(points: np.ndarray, count: int, floor: float = 1e-6, seed: int = 0) -> Joint:
    return start_from(points, clusters(points, count, np.random.default_rng(seed)), count, floor)


def sklearns(points: np.ndarray, start: Joint, rounds: int, floor: float):
    """The same EM by scikit-learn."""
    theirs = GaussianMixture(
        len(start.means),
        tol=0.0,
        max_iter=rounds,
        reg_covar=floor,
        init_params="random_from_data",
        weights_init=np.exp(start.log_weights),
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covs),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of not having converged: the rounds are fixed
        return theirs.fit(points)


@pytest.mark.parametrize(("count", "d", "rounds", "floor"), [(1, 3, 3, 1e-6), (3, 2, 15, 1e-6), (5, 6, 25, 1e-3)])
def test_em_is_scikit_learns(count, d, rounds, floor) -> None:
    points = blobs(700, count + 1, d, apart=1.5)
    start = begin(points, count)
    ours = em(points, start, Settings(floor, tolerance=0.0, most=rounds))
    theirs = sklearns(points, start, rounds, floor)
    assert ours.reseeded == 0
    np.testing.assert_allclose(ours.joint.means, theirs.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.joint.covs, theirs.covariances_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.exp(ours.joint.log_weights), theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.history[-1], theirs.score(points), rtol=1e-9)
    np.testing.assert_allclose(bic(ours, len(points)), theirs.bic(points), rtol=1e-9)
    share, each = expect(points, ours.joint)
    np.testing.assert_allclose(share.T, theirs.predict_proba(points), atol=1e-9)
    np.testing.assert_allclose(each, theirs.score_samples(points), rtol=1e-9)


def test_densities_are_scipys_for_more_rows_than_a_block() -> None:
    points = blobs(1300, 3, 4)
    joint = begin(points, 3)
    found = log_densities(points, joint)
    for k in range(3):
        expected = stats.multivariate_normal(joint.means[k], joint.covs[k]).logpdf(points) + joint.log_weights[k]
        np.testing.assert_allclose(found[k], expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_floor_the_likelihood_never_falls(seed) -> None:
    points = blobs(400, 4, 3, apart=1.0, seed=seed)
    run = em(points, begin(points, 4, 0.0, seed), Settings(0.0, tolerance=0.0, most=60))
    assert run.reseeded == 0
    assert len(run.history) > 20
    assert np.diff(run.history).min() > -1e-8
    assert run.history[-1] > run.history[0]


@pytest.mark.parametrize("true", [1, 2, 4, 8])
def test_bic_finds_the_number_of_components(true) -> None:
    random = np.random.default_rng(true)
    centres = 10.0 * np.stack([np.arange(true) % 3, np.arange(true) // 3], axis=1)
    points = centres[random.integers(true, size=900)] + random.normal(size=(900, 2))
    chosen = choose(points, 16, Settings(), np.random.default_rng(0))
    assert len(chosen.run.joint.means) == true
    assert set(chosen.bic) == {1, 2, 4, 8, 16}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_stops_when_the_likelihood_settles_whatever_its_sign(scale) -> None:
    points = scale * blobs(500, 3, 2)
    run = em(points, begin(points, 3), Settings(floor=1e-12, tolerance=1e-4))
    assert run.converged
    assert len(run.history) < 100
    assert (run.history[-1] > 0) == (scale < 1e-2)
    assert abs(run.history[-1] - run.history[-2]) <= 1e-4 * abs(run.history[-1])


def test_the_history_ends_with_the_likelihood_of_the_result() -> None:
    points = blobs(300, 3, 2)
    for settings in (Settings(most=3, tolerance=0.0), Settings()):
        run = em(points, begin(points, 3), settings)
        np.testing.assert_allclose(run.history[-1], expect(points, run.joint)[1].mean(), rtol=1e-12)


def test_a_component_without_rows_moves_to_where_it_is_needed() -> None:
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(size=(200, 2)), random.normal((20.0, 0.0), 1.0, (60, 2))])
    lost = Joint(np.log([0.9, 0.1]), np.array([[0.0, 0.0], [1e6, 1e6]]), np.stack([np.eye(2)] * 2))
    run = em(points, lost)
    assert run.reseeded >= 1
    np.testing.assert_allclose(
        np.sort(run.joint.means[:, 0]), [points[:200, 0].mean(), points[200:, 0].mean()], atol=1e-6
    )


def test_a_component_that_finds_no_rows_is_taken_out() -> None:
    points = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 5, axis=0)
    run = fit_count(points, 8, Settings(), np.random.default_rng(0))
    assert 1 <= len(run.joint.means) <= 3
    assert all(np.isfinite(part).all() for part in run.joint)
    np.testing.assert_allclose(np.exp(run.joint.log_weights).sum(), 1.0)


@pytest.mark.parametrize("away", [0.0, 1e6])
def test_covariances_do_not_cancel_far_from_the_origin(away) -> None:
    points = away + 0.01 * blobs(200, 1, 3)
    joint = maximise(points, np.ones((1, 200)), 0.0)
    np.testing.assert_allclose(joint.covs[0], np.cov((points - away).T, bias=True), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("away", [1e3, 1e8, 1e15])
def test_responsibilities_far_away_are_those_of_the_nearest_component(away) -> None:
    joint = Joint(np.log([0.5, 0.5]), np.array([[-1.0, 0.0], [1.0, 0.0]]), np.stack([np.eye(2)] * 2))
    share, each = expect(np.array([[away, 0.0], [-away, 0.0]]), joint)
    np.testing.assert_allclose(share, [[0.0, 1.0], [1.0, 0.0]], atol=1e-12)
    assert np.isfinite(each).all()


def test_the_order_of_rows_does_not_matter() -> None:
    points = blobs(300, 3, 3)
    order = np.random.default_rng(5).permutation(300)
    one, two = (em(p, begin(points, 3), Settings(most=20)) for p in (points, points[order]))
    np.testing.assert_allclose(one.joint.covs, two.joint.covs, rtol=1e-8, atol=1e-12)


def test_clusters_find_what_is_apart() -> None:
    random = np.random.default_rng(0)
    true = np.repeat(np.arange(5), 40)
    points = 30.0 * np.eye(5)[true] + random.normal(size=(200, 5))
    hits = 0
    for seed in range(20):
        labels = clusters(points, 5, np.random.default_rng(seed))
        hits += all(len(set(labels[true == k])) == 1 for k in range(5)) and len(set(labels)) == 5
    # Five uniform draws hit five clusters of the same size in 5!/5^5 = 4% of cases.
    assert hits >= 18


def test_centres_are_spread_as_scikit_learn_spreads_them() -> None:
    points = blobs(400, 12, 3, apart=4.0)
    near = lambda centres: ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum()
    ours = [near(_spread(points, 12, np.random.default_rng(seed))) for seed in range(30)]
    theirs = [near(kmeans_plusplus(points, 12, random_state=seed)[0]) for seed in range(30)]
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(30)
    assert np.mean(ours) < np.mean(theirs) + 4.0 * error


@pytest.mark.parametrize("count", [1, 3, 7])
def test_clusters_of_points_that_coincide(count) -> None:
    labels = clusters(np.ones((6, 2)), count, np.random.default_rng(0))
    assert labels.shape == (6,)
    joint = start_from(np.ones((6, 2)), labels, count, 1e-6)
    assert all(np.isfinite(part).all() for part in joint)


@pytest.mark.parametrize(
    ("most", "rows", "d", "expected"),
    [
        (16, 1000, 3, [1, 2, 4, 8, 16]),
        (20, 1000, 3, [1, 2, 4, 8, 16, 20]),
        (1, 1000, 3, [1]),
        (3, 1000, 3, [1, 2, 3]),
        (16, 20, 3, [1, 2, 4]),
        (16, 2, 3, [1]),
    ],
)
def test_candidates(most, rows, d, expected) -> None:
    assert candidates(most, rows, d) == expected
