"""Laws of the arithmetic: angles, noise, intervals, scalers, actions, plans.  Every oracle is plain NumPy, or SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forethought import Box, Choices
from forethought.math.angles import wrap, wrap_components
from forethought.math.finite import credible, nan_appeared, nan_free
from forethought.math.noise import coloured
from forethought.math.scaling import Scaler, features, fit_scaler, targets
from forethought.math.stats import mean_interval, student_cdf, student_quantile
from forethought.planners.search import elite_moments, elites, shift_plan
from forethought.types import Spec

CHECKED = settings(max_examples=25, deadline=None, derandomize=True)
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def reals(low: float, high: float, shape: tuple[int, ...] | int = ()):
    """Arrays of ordinary float32 numbers."""
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32, allow_subnormal=False))


# Angles.


turned = jax.jit(wrap)
components = jax.jit(wrap_components, static_argnums=1)
scaler_of = jax.jit(fit_scaler)


@CHECKED
@given(reals(-1000.0, 1000.0, 8))
def test_a_wrapped_angle_is_inside_and_the_same_angle(angle) -> None:
    wrapped = np.asarray(turned(angle), np.float64)
    assert np.all((wrapped >= np.float32(-np.pi)) & (wrapped < np.pi))
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angle.astype(np.float64)), atol=2e-4)
    inside = (angle >= -3.14) & (angle <= 3.14)
    assert np.array_equal(wrapped[inside], angle[inside]), "bit for bit"


@CHECKED
@given(reals(-20.0, 20.0, 4), st.sampled_from([(), (1,), (0, 2, 3)]))
def test_only_the_named_components_are_wrapped(x, angles) -> None:
    wrapped = np.asarray(components(x, angles))
    each = np.asarray(turned(x))
    for i in range(4):
        assert wrapped[i] == (each[i] if i in angles else x[i])


# Scalers.


@CHECKED
@given(reals(-100.0, 100.0, (16, 3)), hnp.arrays(bool, 16))
def test_a_scaler_is_the_mean_and_deviation_of_the_rows_in_use(values, use) -> None:
    assume(use.any())
    found = scaler_of(values.astype(np.float64), use)
    rows = values[use].astype(np.float64)
    std = rows.std(axis=0)
    varies = std > np.maximum(1e-6 * np.abs(rows).max(axis=0), 1e-8)
    assume(np.all((std == 0.0) | (std > 1e-3)))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.std, np.where(varies, std, 1.0), rtol=1e-4)


@CHECKED
@given(reals(-100.0, 100.0, 3), reals(-100.0, 100.0, 3), reals(2**-7, 100.0, 3))
def test_unscale_is_the_inverse_of_scale(v, mean, std) -> None:
    scaler = Scaler(mean, std)
    np.testing.assert_allclose(scaler.unscale(scaler.scale(v)), v, rtol=1e-4, atol=1e-3)


@CHECKED
@given(reals(-10.0, 10.0, (16, 2)), reals(0.125, 10.0, 2), reals(-10.0, 10.0, 2))
def test_scaled_data_do_not_depend_on_units(values, unit, offset) -> None:
    """Feet instead of metres, another origin: the same z."""
    assume(np.all(values.std(axis=0) > 0.1))
    use, values = np.ones(16, bool), values.astype(np.float64)
    other = values * unit + offset
    one, two = scaler_of(values, use), scaler_of(other, use)
    np.testing.assert_allclose(one.scale(values[3]), two.scale(other[3]), rtol=1e-3, atol=1e-3)


@CHECKED
@given(reals(-3.0, 3.0, 4), reals(-1.0, 1.0, 1), st.sampled_from([-2, -1, 1, 2]))
def test_features_do_not_see_full_turns_and_targets_take_the_short_way(x, u, turns) -> None:
    spec = Spec(4, 1, angles=(2,))
    turned = x.copy()
    turned[2] += np.float32(2.0 * np.pi * turns)
    np.testing.assert_allclose(features(spec, x, u), features(spec, turned, u), atol=1e-4)
    np.testing.assert_allclose(features(spec, x, u)[:3], x[[0, 1, 3]])
    change = np.asarray(targets(spec, x, turned, np.zeros(0, np.float32)))
    np.testing.assert_allclose(change, np.zeros(4), atol=1e-4)


# Actions.


BOXES = st.tuples(reals(-50.0, 50.0, 3), reals(0.0, 100.0, 3)).map(lambda lw: Box(lw[0], lw[0] + lw[1]))


@CHECKED
@given(BOXES, reals(-3.0, 3.0, 3))
def test_a_decoded_action_is_inside_and_encode_is_the_inverse_of_decode(box, z) -> None:
    low, high = np.asarray(box.low, np.float64), np.asarray(box.high, np.float64)
    u = np.asarray(box.decode(z), np.float64)
    tiny = 1e-5 * (1.0 + np.abs(low) + np.abs(high))
    assert np.all((u >= low - tiny) & (u <= high + tiny))
    expected = (low + high) / 2 + np.clip(z.astype(np.float64), -1, 1) * (high - low) / 2
    np.testing.assert_allclose(u, expected, rtol=1e-5, atol=1e-4)
    wide = high - low > 0.5
    again = np.asarray(box.encode(np.asarray(u, np.float32)))
    np.testing.assert_allclose(again[wide], np.clip(z, -1, 1)[wide], atol=1e-3)
    assert np.all(again[high == low] == 0.0), "an action without a choice has no coordinate"


@CHECKED
@given(BOXES)
def test_the_safe_action_is_the_allowed_one_nearest_to_zero(box) -> None:
    low, high, safe = (np.asarray(v) for v in (box.low, box.high, box.safe()))
    expected = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    assert np.array_equal(safe, expected)


@CHECKED
@given(st.sampled_from([2, 5]), st.integers(0, 5), reals(-5.0, 5.0, 6))
def test_choices_are_decoded_by_the_largest_score_and_encoded_by_the_nearest(count, index, scores) -> None:
    index, scores = index % count, scores[:count]
    choices = Choices(np.eye(count, dtype=np.float32))
    assert np.argmax(choices.decode(scores)) == int(np.argmax(scores))
    u = np.eye(count, dtype=np.float32)[index]
    assert np.array_equal(choices.decode(choices.encode(u)), u)
    assert np.array_equal(choices.clip(scores), scores), "scores have no limits"


# Plans.


@CHECKED
@given(reals(-1.0, 1.0, (2, 5, 3)))
def test_a_shifted_plan_is_one_step_later(z) -> None:
    assert np.array_equal(shift_plan(z), np.stack([[*plan[1:], plan[-1]] for plan in z]))
    long = z
    for _ in range(5):
        long = shift_plan(long)
    assert np.array_equal(long, np.repeat(z[:, -1:], 5, axis=1)), "in the end only the last action is left"


COSTS = hnp.arrays(
    np.float32, 8, elements=st.one_of(st.floats(-100, 100, width=32), st.sampled_from([np.inf])), unique=False
)


@CHECKED
@given(COSTS, reals(-1.0, 1.0, (8, 2, 1)))
def test_elites_are_the_cheapest_and_their_moments_are_of_the_finite_ones(costs, z) -> None:
    best, best_costs = elites(jnp.asarray(z), jnp.asarray(costs), 3)
    assert np.array_equal(best_costs, np.sort(costs)[:3])
    for plan, cost in zip(np.asarray(best), np.asarray(best_costs), strict=True):
        assert any(np.array_equal(plan, z[i]) and costs[i] == cost for i in range(8))
    mean, std = elite_moments(best, best_costs)
    finite = np.asarray(best, np.float64)[np.isfinite(np.asarray(best_costs))]
    expected = (finite.mean(axis=0), finite.std(axis=0)) if len(finite) else (np.zeros((2, 1)),) * 2
    np.testing.assert_allclose(mean, expected[0], atol=1e-5)
    np.testing.assert_allclose(std, expected[1], atol=2e-4)


# Noise, statistics, numbers that can be worked with.


@FEW
@given(st.sampled_from([0.0, 1.0, 3.5]), st.sampled_from([2, 7]), st.integers(0, 2**31 - 1))
def test_coloured_noise_has_unit_variance_at_every_step(beta, steps, seed) -> None:
    """3000 samples: five standard errors of the variance are 0.13."""
    noise = np.asarray(coloured(jr.key(seed), (1500, steps, 2), beta))
    assert noise.shape == (1500, steps, 2)
    assert noise.dtype == np.float32
    assert np.all(np.abs(noise.var(axis=(0, 2)) - 1.0) < 0.15)
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.15, "coordinates are independent"


@CHECKED
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_students(values, coverage) -> None:
    mean, interval = mean_interval(values, coverage)
    assert interval is not None
    half = scipy.stats.t.ppf(0.5 + coverage / 2, len(values) - 1) * scipy.stats.sem(values)
    size = max(map(abs, values)) + 1.0
    np.testing.assert_allclose([mean, *interval], np.mean(values) + np.array([0, -half, half]), atol=1e-9 * size)


@CHECKED
@given(st.floats(0.0, 30.0), st.integers(1, 60))
def test_students_distribution_and_its_quantile(t, freedom) -> None:
    covered = student_cdf(t, freedom)
    np.testing.assert_allclose(covered, 2 * scipy.stats.t.cdf(t, freedom) - 1, atol=1e-9)
    if 1e-6 < covered < 0.999:
        np.testing.assert_allclose(student_quantile(covered, freedom), t, rtol=1e-5, atol=1e-6)


WILD = hnp.arrays(np.float32, 4, elements=st.sampled_from([0.0, -1.5, 1e11, 1e13, -1e30, np.nan, np.inf, -np.inf]))


@CHECKED
@given(WILD, WILD)
def test_which_numbers_can_be_worked_with(new, old) -> None:
    believable = all(not np.isnan(v) and abs(float(v)) <= 1e12 for v in new)
    assert bool(credible(new)) == believable
    assert bool(nan_free({"a": new, "b": 3})) == (not any(np.isnan(v) for v in new))
    assert nan_appeared({"a": new}, {"a": old}) == (np.isnan(new).any() and not np.isnan(old).any())
    assert jax.numpy.isfinite(jnp.sum(jnp.where(credible(new), new, 0.0) ** 2)), "squares stay finite"
