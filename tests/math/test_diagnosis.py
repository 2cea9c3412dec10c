"""How wrong a model is, against systems of which everything is known."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from fakes import A, B, Linear, as_trajectory
from forethought.core import AbstractCost, AbstractDynamics
from forethought.math.calibration import average, inside, share_interval
from forethought.math.diagnosis import HORIZON, Model, break_even, data_scale, while_training
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.hindsight import outcomes, roll_out
from forethought.math.judgement import PARTICLES, judge
from forethought.types import Spec

SIGMA = np.array([0.05, 0.1], np.float32)
M = np.array([[0.9, 0.2], [-0.2, 0.9]], np.float32)
"""A stable rotation: states stay of one size."""
SPEC = Spec(2, 1)


class Noisy(AbstractDynamics):
    """y = A x + B u + offset + sigma eps; beliefs differ by a shift of standard deviation `doubt`."""

    a: jax.Array
    sigma: jax.Array
    offset: jax.Array
    doubt: jax.Array

    def predict(self, x, u, t):
        dtype = self.sigma.dtype
        y = self.a.astype(dtype) @ x.astype(dtype) + jnp.asarray(B, dtype) @ u.astype(dtype) + self.offset
        return DiagonalGaussian(y, self.sigma)

    def draw(self, key, particles):
        repeat = lambda v: jnp.broadcast_to(v, (particles, *v.shape))
        shift = self.doubt * jr.normal(key, (particles, 2), self.sigma.dtype)
        return Noisy(repeat(self.a), repeat(self.sigma), self.offset + shift, repeat(self.doubt))


def noisy(sigma=SIGMA, offset=(0.0, 0.0), doubt=(0.0, 0.0), dtype=np.float32, a=M) -> Noisy:
    return Noisy(*(jnp.asarray(v, dtype) for v in (a, sigma, offset, doubt)))


class Position(AbstractCost):
    """c = x[0] of the next state, and no end."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return y[0]

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return y[0] < 1e9


def real(steps: int, seed: int = 0, a=M, b=B, sigma=SIGMA):
    """An episode of the noisy linear system."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-1, 1, (steps, 1))
    x = np.zeros((steps + 1, 2))
    for t in range(steps):
        x[t + 1] = a @ x[t] + b @ u[t] + sigma * rng.normal(size=2)
    return as_trajectory(x[:-1], u, x[1:])


EPISODES = [real(250, seed) for seed in range(4)]
SCALE = np.array([0.5, 2.0])


def judged(model, episodes=EPISODES, horizon=5, planned=5, cost=None, spec=SPEC, scale=SCALE):
    return judge(Model(model, cost or Position(), spec, scale), episodes, horizon, planned, [1, 2])


@pytest.fixture(scope="module")
def true_model():
    return judged(noisy())


# What is measured while training


def training(model, trajectory, scale, spec=SPEC, horizon=5, cost=None, seed=7):
    it = Model(model, cost or Position(), spec, np.asarray(scale, float))
    return while_training(it, trajectory, horizon, [seed])


def quiet(steps: int):
    return real(steps, a=A, sigma=np.zeros(2))


def test_the_true_model_has_no_error() -> None:
    found = training(Linear(A, B), quiet(40), np.ones(2))
    assert found["model_error_1"] < 1e-5
    assert found[f"model_error_{HORIZON}"] < 1e-4
    assert found["break_even"] == HORIZON
    assert (found["epistemic_std"], found["aleatoric_std"]) == (0.0, 0.0)


def test_errors_equal_a_plain_loop() -> None:
    wrong = np.array([[1.0, 0.35], [0.0, 0.98]], np.float32)
    trajectory, scale = quiet(30), np.array([2.0, 0.5])
    found = training(Linear(wrong, B), trajectory, scale)
    for steps, name in ((1, "model_error_1"), (HORIZON, f"model_error_{HORIZON}")):
        squares = []
        for i in range(30 - steps + 1):
            x = trajectory.x[i]
            for u in trajectory.u[i : i + steps]:
                x = wrong @ x + B @ u
            squares.append(((x - trajectory.y[i + steps - 1]) / scale) ** 2)
        np.testing.assert_allclose(found[name], np.sqrt(np.mean(squares)), rtol=1e-4)
        if steps == 1:
            by_component = np.sqrt(np.mean(squares, axis=0))
            np.testing.assert_allclose(found["model_error_by_component"], by_component, rtol=1e-4)


def test_a_short_piece_has_no_error_at_twenty_steps() -> None:
    found = training(Linear(A, B), quiet(HORIZON - 1), np.ones(2))
    assert np.isfinite(found["model_error_1"])
    assert np.isnan(found[f"model_error_{HORIZON}"])


def test_a_piece_of_one_step() -> None:
    found = training(noisy(), real(1), np.ones(2))
    assert np.isfinite([found[k] for k in ("model_error_1", "coverage_95_1", "log_likelihood_1")]).all()
    assert np.isnan([found[k] for k in ("coverage_95_5", "log_likelihood_5")]).all()
    assert found["exploitation_steps"] == 1


def test_means_over_many_turns_are_those_of_the_true_model() -> None:
    """Coverage with few rollouts is unbiased, and the likelihood and the noise are exact."""
    pieces = [training(noisy(), real(32, seed), np.ones(2), horizon=32, seed=seed) for seed in range(100, 130)]
    mean = lambda name: np.mean([p[name] for p in pieces])
    # 30 x 64 points one step ahead, 30 x 12 five steps ahead
    for level in (50, 80, 95):
        for far, count in ((1, 1920), (5, 360)):
            error = math.sqrt(level / 100 * (1 - level / 100) / count)
            assert abs(mean(f"coverage_{level}_{far}") - level / 100) < 4 * error
    entropy = -np.sum(np.log(SIGMA)) - math.log(2 * math.pi) - 1.0
    assert abs(mean("log_likelihood_1") - entropy) < 4 / math.sqrt(960)
    assert mean("aleatoric_std") == pytest.approx(math.sqrt(np.mean(SIGMA.astype(float) ** 2)), rel=0.02)
    assert mean("epistemic_std") == 0.0


def test_the_gap_of_an_optimistic_model_by_hand() -> None:
    """Every step it is off by -0.5 in the first component, which counts: with a = 1 the costs are off by 0.5, 1, 1.5,
    ... in each window of 5 steps."""
    found = training(noisy(offset=(-0.5, 0.0), a=np.eye(2)), real(20, a=np.eye(2), sigma=0 * SIGMA), np.ones(2))
    # four windows; noise of 19 rollouts
    assert found["exploitation_gap"] == pytest.approx(0.5 * (1 + 2 + 3 + 4 + 5), abs=0.15)
    assert found["exploitation_steps"] == 5


def test_nothing_recompiles_from_piece_to_piece() -> None:
    before = roll_out._cached._cache_size() if hasattr(roll_out, "_cached") else None
    training(noisy(), real(20), SCALE)
    first = None if before is None else roll_out._cached._cache_size()
    for steps in (1, 7, 32):
        training(noisy(sigma=2 * SIGMA), real(steps), SCALE, horizon=steps)
    assert before is not None
    assert roll_out._cached._cache_size() == first


class Broken(AbstractDynamics):
    """Says NaN in one component."""

    def predict(self, x, u, t):
        y = jnp.array([jnp.nan, 0.0], x.dtype) + 0.0 * x
        return DiagonalGaussian(y, jnp.ones_like(y))

    def draw(self, key, particles):
        return self


def test_a_broken_model_gives_nothing_and_no_error() -> None:
    found = training(Broken(), real(20), np.ones(2))
    for name in ("model_error_1", "model_error_20", "log_likelihood_1", "epistemic_std", "exploitation_gap"):
        assert np.isnan(found[name]), name
    assert found["break_even"] == 0
    assert np.isnan(found["model_error_by_component"][0])
    assert np.isfinite(found["model_error_by_component"][1])


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert training(noisy(), real(20), SCALE) == training(noisy(), real(20), SCALE)


class Turned(AbstractDynamics):
    """Always predicts an angle just above -pi, and so do its beliefs, on either side."""

    std: float = 0.0

    def predict(self, x, u, t):
        y = jnp.full_like(x, -np.pi + 0.01)
        return DiagonalGaussian(y, jnp.full_like(y, self.std))

    def draw(self, key, particles):
        return self


@pytest.mark.parametrize(("angles", "expected"), [((), 2 * np.pi - 0.02), ((0,), 0.02)])
def test_angles_are_compared_the_short_way_round(angles, expected) -> None:
    seen = np.full((3, 1), np.pi - 0.01)
    found = training(Turned(), as_trajectory(seen, seen, seen), np.ones(1), spec=Spec(1, 1, angles=angles))
    np.testing.assert_allclose(found["model_error_1"], expected, rtol=1e-3)


def test_bands_and_likelihood_across_the_turn() -> None:
    """Imagined angles lie on both sides of pi, and the real one 0.02 from their mean, at 0.2 standard deviations."""
    seen = np.full((40, 1), np.pi - 0.01)
    found = judged(Turned(0.1), [as_trajectory(seen, seen, seen)], spec=Spec(1, 1, angles=(0,)), scale=np.ones(1))
    assert found["ahead"][0]["coverage"]["50"]["share"] == 1.0
    expected = stats.norm(0.0, 0.1).logpdf(0.02)
    # half of the density has the variance of 79 samples
    np.testing.assert_allclose(found["ahead"][0]["log_likelihood"], expected, atol=0.02)
    np.testing.assert_allclose(found["one_step"]["aleatoric"], 0.1, rtol=0.05)
    assert found["one_step"]["bias"][0] == pytest.approx(0.02, rel=1e-3)


# What a diagnosis says


def test_the_true_model_is_calibrated(true_model) -> None:
    for at in true_model["ahead"]:
        for level, held in at["coverage"].items():
            p = int(level) / 100
            for share, effective, low, high in zip(
                held["by_component"], held["effective"], held["low"], held["high"], strict=True
            ):
                assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / effective)
                assert low < p < high
    shares = true_model["ahead"][0]["coverage"]
    # 250 starting points with 2 components each
    assert shares["50"]["share"] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 500))
    assert shares["95"]["share"] == pytest.approx(0.95, abs=4 * math.sqrt(0.0475 / 500))


def test_errors_against_the_horizon_are_the_analytic_ones(true_model) -> None:
    """E error^2 = trace of sum_{k<h} M^k S M^kT over components; the noise floor is S itself."""
    covariance = np.zeros((2, 2))
    for at in true_model["ahead"]:
        covariance = M @ covariance @ M.T + np.diag(SIGMA.astype(float) ** 2)
        expected = math.sqrt(np.mean(np.diag(covariance) / SCALE**2))
        assert at["error"] == pytest.approx(expected, rel=0.15)
    assert true_model["noise_floor"] == pytest.approx(math.sqrt(np.mean((SIGMA / SCALE) ** 2)), rel=0.03)
    np.testing.assert_allclose(true_model["one_step"]["aleatoric"], SIGMA / SCALE, rtol=0.03)


def test_persistence_by_hand(true_model) -> None:
    squares = [
        ((e.x[i] - e.y[i + 2]) / SCALE) ** 2 for e in EPISODES for i in range(0, e.length, 4) if i + 2 < e.length
    ]
    assert true_model["stride"] == 4
    assert true_model["ahead"][2]["count"] == len(squares)
    assert true_model["ahead"][2]["persistence"] == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-4)


def test_the_likelihood_is_the_closed_form(true_model) -> None:
    """But for the sampling error of its smooth half; five steps ahead of all of it."""
    exact = lambda x, u, y: stats.norm(M @ x + B @ u, SIGMA).logpdf(y).sum()
    each = [exact(e.x[i], e.u[i], e.y[i]) for e in EPISODES for i in range(0, e.length, 4)]
    assert true_model["ahead"][0]["log_likelihood"] == pytest.approx(np.mean(each), abs=0.02)
    covariance = sum(
        np.linalg.matrix_power(M, k) @ np.diag(SIGMA**2) @ np.linalg.matrix_power(M, k).T for k in range(5)
    )
    far = []
    for e in EPISODES:
        for i in range(0, e.length - 4, 4):
            x = e.x[i]
            for u in e.u[i : i + 5]:
                x = M @ x + B @ u
            far.append(stats.multivariate_normal(x, covariance).logpdf(e.y[i + 4]))
    assert true_model["ahead"][4]["log_likelihood"] == pytest.approx(np.mean(far), abs=0.1)


def test_the_likelihood_of_much_doubt_and_little_noise_is_no_artefact_of_sampling() -> None:
    """Beliefs are needles, a thousandth of their distance wide: what happened lies between them, and is likely."""
    doubt = np.array([0.5, 0.3])
    found = judged(noisy(doubt=doubt, sigma=1e-3 * doubt))
    exact = lambda x, u, y: stats.norm(M @ x + B @ u, doubt).logpdf(y).sum()
    each = [exact(e.x[i], e.u[i], e.y[i]) for e in EPISODES for i in range(0, e.length, 4)]
    assert found["ahead"][0]["log_likelihood"] == pytest.approx(np.mean(each) - np.log(2), abs=0.3)


def test_a_certain_model_has_no_doubt(true_model) -> None:
    assert true_model["one_step"]["epistemic"] == [0.0, 0.0]
    assert true_model["ahead"][0]["epistemic_share"] == 0.0
    assert true_model["ahead"][4]["epistemic_share"] < 0.05


def test_doubt_apart_from_noise() -> None:
    """Beliefs are shifted by N(0, doubt^2) at every step: after h steps the shift has grown as sum_{k<h} M^k."""
    doubt = np.array([0.1, 0.05])
    found = judged(noisy(doubt=doubt))
    np.testing.assert_allclose(found["one_step"]["epistemic"], doubt / SCALE, rtol=0.25)  # 79 beliefs
    np.testing.assert_allclose(found["one_step"]["aleatoric"], SIGMA / SCALE, rtol=0.03)
    grown, noise = np.zeros((2, 2)), np.zeros((2, 2))
    for k in range(5):
        grown = grown + np.linalg.matrix_power(M, k)
        noise = M @ noise @ M.T + np.diag(SIGMA.astype(float) ** 2)
    of_beliefs = np.diag(grown @ np.diag(doubt**2) @ grown.T) / SCALE**2
    share = of_beliefs.sum() / (of_beliefs + np.diag(noise) / SCALE**2).sum()
    assert found["ahead"][4]["epistemic_share"] == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize(("factor", "inside_95"), [(0.5, 2 * stats.norm.cdf(0.98) - 1), (2.0, 0.9999)])
def test_wrong_widths_show(factor, inside_95) -> None:
    share = judged(noisy(sigma=factor * SIGMA))["ahead"][0]["coverage"]["95"]["share"]
    assert share == pytest.approx(inside_95, abs=0.06)


def test_a_bias_shows() -> None:
    found = judged(noisy(offset=(0.3, 0.0)))["one_step"]
    assert found["bias"][0] == pytest.approx(0.3 / SCALE[0], abs=4 * SIGMA[0] / SCALE[0] / math.sqrt(250))
    assert abs(found["bias"][1]) < 4 * found["bias_standard_error"][1]
    assert found["bias_standard_error"][0] == pytest.approx(SIGMA[0] / SCALE[0] / math.sqrt(250), rel=0.6)


def test_the_gap_over_windows() -> None:
    """As above; and real costs cancel, so that only noise is left of a model that is right."""
    still = [real(22, seed, a=np.eye(2), sigma=0 * SIGMA) for seed in range(6)]
    off = judged(noisy(offset=(-0.5, 0.0), a=np.eye(2)), still)["exploitation"]
    assert (off["windows"], off["steps"]) == (24, 5)
    assert off["gap"] == pytest.approx(7.5, abs=0.05)
    assert off["real_return"] == pytest.approx(
        -np.mean([e.y[i : i + 5, 0].sum() for e in still for i in (0, 5, 10, 15)])
    )
    assert abs(judged(noisy(a=np.eye(2)), still)["exploitation"]["gap"]) < 0.05


def test_a_longer_plan_than_the_horizon() -> None:
    found = judged(noisy(offset=(-0.5, 0.0), a=np.eye(2)), [real(8, a=np.eye(2), sigma=0 * SIGMA)], 2, 100)
    assert (found["exploitation"]["windows"], found["exploitation"]["steps"]) == (1, 8)
    assert found["exploitation"]["gap"] == pytest.approx(0.5 * 36, abs=0.3)
    assert math.isnan(found["exploitation"]["standard_error"])


class Doomed(AbstractCost):
    """1 per step; the imagined episode ends when x[0] exceeds 10."""

    extras: int = 0

    def stage(self, x, u, y, t):
        return jnp.ones((), x.dtype)

    def terminal(self, x):
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        return y[0] < 10.0


def test_an_episode_that_ends_in_the_model_costs_no_more() -> None:
    """The model leaves at its first step, which still costs 1: of five steps four are not charged.  A window that the
    real episode ended early counts too."""
    episode = real(13)
    ends = dataclasses.replace(episode, terminated=np.arange(13) == 12)
    gone = noisy(offset=(100.0, 0.0))
    for e, windows, gap in ((episode, 2, 4.0), (ends, 3, (4.0 + 4.0 + 2.0) / 3)):
        found = judged(gone, [e], cost=Doomed())["exploitation"]
        assert (found["windows"], found["gap"]) == (windows, pytest.approx(gap))


def test_a_model_in_float64_and_episodes_of_one_step() -> None:
    found = judged(noisy(dtype=np.float64), [real(1, s) for s in range(3)])
    assert [a["count"] for a in found["ahead"]] == [3, 0, 0, 0, 0]
    assert math.isfinite(found["ahead"][0]["log_likelihood"])
    assert math.isnan(found["ahead"][1]["error"])
    assert found["exploitation"]["steps"] == 1


def test_a_broken_model_is_judged() -> None:
    found = judged(Broken())
    assert [a["finite"] for a in found["ahead"]] == [0.0] * 5
    assert found["break_even"] == 0
    assert math.isnan(found["exploitation"]["gap"])
    assert found["ahead"][0]["wins"]["share"] == 0.0


class Rewarding(AbstractDynamics):
    """Knows the state, says that the reward is 1 and that nothing ever ends."""

    inner: Noisy

    def predict(self, x, u, t):
        p = self.inner.predict(x, u, t)
        return DiagonalGaussian(jnp.concatenate([p.mean, jnp.array([1.0, 0.1])]), jnp.concatenate([p.std, jnp.ones(2)]))

    def draw(self, key, particles):
        return eqx.tree_at(lambda m: m.inner, self, self.inner.draw(key, particles))


def test_learned_reward_and_termination() -> None:
    episode = real(40)
    episode = dataclasses.replace(episode, reward=np.tile([0.0, 2.0], 20), terminated=np.arange(40) >= 30)
    found = judged(Rewarding(noisy()), [episode], spec=Spec(2, 1, extras=2))["extras"]
    assert found["reward_error"] == pytest.approx(1.0)
    assert found["reward_scale"] == pytest.approx(1.0)
    assert found["termination_accuracy"] == pytest.approx(0.75)
    assert found["termination_log_loss"] == pytest.approx(-0.75 * math.log(0.9) - 0.25 * math.log(0.1), rel=1e-4)
    assert found["terminations"] == 10
    assert outcomes(episode, Spec(2, 1, extras=2)).shape == (40, 4)


# Counting


def test_break_even_by_hand() -> None:
    still = np.array([1.0, 1.0, 1.0, 1.0])
    assert break_even(np.array([0.5, 0.9, 1.1, 1.2]), still) == 2
    assert break_even(np.array([0.5, 1.1, 0.9, 1.2]), still) == 3
    assert break_even(np.array([1.5, 1.1, 1.9, 1.2]), still) == 0
    assert break_even(np.array([0.5, 0.6, 0.7, 0.8]), still) == 4
    assert break_even(np.full(4, np.nan), still) is None
    assert break_even(np.array([0.5, np.inf, np.nan, np.nan]), still) == 1


@pytest.mark.parametrize("particles", [4, 19, 39, 50, PARTICLES])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_a_band_holds_what_it_should_whatever_the_rollouts(particles, level) -> None:
    """A further draw is equally likely to have each of the P+1 ranks."""
    rank = np.arange(particles + 1)
    assert inside(np.minimum(rank, particles - rank).astype(float), particles, level).mean() == pytest.approx(level)


def test_a_point_that_equals_all_rollouts_is_inside() -> None:
    assert inside(np.array([39.0]), 39, 0.5) == 1.0
    assert np.isnan(inside(np.array([np.nan]), 39, 0.5))


def test_correlated_points_count_for_less() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=4000)
    walk = np.zeros(4000)
    for t in range(1, 4000):
        walk[t] = 0.8 * walk[t - 1] + noise[t]
    free, bound = average([noise[:2000], noise[2000:]]), average([walk])
    assert free.effective == pytest.approx(4000, rel=0.15)
    assert free.error == pytest.approx(1 / math.sqrt(4000), rel=0.1)
    assert bound.effective == pytest.approx(4000 * (1 - 0.8) / (1 + 0.8), rel=0.3)
    assert average([noise], overlap=20.0).effective == pytest.approx(200)


def test_averages_of_little() -> None:
    assert math.isnan(average([]).mean)
    assert average([np.array([np.nan, 3.0])]).mean == 3.0
    assert math.isnan(average([np.array([3.0])]).error)


@pytest.mark.parametrize(("share", "count"), [(0.0, 20), (0.3, 50), (1.0, 7)])
def test_bounds_are_wilsons(share, count) -> None:
    expected = stats.binomtest(round(share * count), count).proportion_ci(2 * stats.norm.cdf(2.0) - 1, "wilson")
    assert share_interval(share, float(count), 2.0) == pytest.approx(tuple(expected), abs=1e-9)
    assert share_interval(share, 0.0, 2.0) == (0.0, 1.0)


def test_the_unit_of_a_component() -> None:
    x = np.array([[1.0, 5.0, 1e9], [3.0, 5.0, 1e9 + 1.0]])
    assert data_scale(x).tolist() == [1.0, 1.0, 1.0]
    assert data_scale(2 * x)[0] == 2.0
    assert data_scale(np.zeros((0, 2))).tolist() == [1.0, 1.0]
