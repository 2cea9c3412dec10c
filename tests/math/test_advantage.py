"""Advantages and TD(lambda) targets beside the sums that define them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from forethought.math.advantage import advantages

rng = np.random.default_rng(3)
T = 12


def episode():
    """Three pieces: one that terminated, one that was truncated, and one that the rows cut."""
    terminated, ended = np.zeros(T, bool), np.zeros(T, bool)
    terminated[3] = ended[3] = ended[7] = True
    here, after = rng.normal(size=T), rng.normal(size=T)
    # Inside an episode a step leads to where the next one begins.
    there = np.where(ended | (np.arange(T) == T - 1), after, np.roll(here, -1))
    return rng.normal(size=T), here, there, terminated, ended


def lambda_return(t, cost, there, ends, g, trace):
    """(1 - l) sum_n l^(n-1) G_n, the rest of the weight on the longest: G_n is n costs and the value after them."""
    terminated, ended = ends
    found, weight, paid, n = 0.0, 1.0, 0.0, 0
    while True:
        i = t + n
        paid += g**n * cost[i]
        n += 1
        g_n = paid + (0.0 if terminated[i] else g**n * there[i])
        if ended[i] or terminated[i] or i == T - 1:
            return found + weight * g_n
        found += weight * (1.0 - trace) * g_n
        weight *= trace


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_targets_are_the_lambda_weighted_mean_of_n_step_costs(trace):
    cost, here, there, terminated, ended = episode()
    found = advantages(jnp.asarray(cost), (here, there), terminated, ended, 0.9, trace)
    wanted = [lambda_return(t, cost, there, (terminated, ended), 0.9, trace) for t in range(T)]
    np.testing.assert_allclose(found.target, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.advantage, np.array(wanted) - here, rtol=1e-12, atol=1e-12)


def test_the_clock_is_not_the_end_of_the_task():
    """Without an episode's end the cost goes on: a truncated step counts what follows, a terminated one does not."""
    one, two = np.ones(1), np.full(1, 10.0)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    assert float(advantages(one, (one, two), yes, yes, 0.5, 0.9).target[0]) == 1.0
    assert float(advantages(one, (one, two), no, yes, 0.5, 0.9).target[0]) == 6.0
    # A step that terminated is the last, even if nobody says so.
    cost, values = np.array([1.0, 100.0]), (np.zeros(2), np.zeros(2))
    found = advantages(cost, values, np.array([True, False]), np.zeros(2, bool), 1.0, 1.0)
    np.testing.assert_array_equal(found.target, [1.0, 100.0])


def test_what_lies_behind_the_end_has_no_influence():
    cost, here, there, terminated, ended = episode()
    whole = advantages(cost, (here, there), terminated, ended, 0.9, 0.8)
    cost[8:], here[8:], there[8:] = np.nan, np.nan, np.inf
    there[3] = np.nan  # where the episode terminated
    spoiled = advantages(cost, (here, there), terminated, ended, 0.9, 0.8)
    np.testing.assert_array_equal(spoiled.advantage[:8], whole.advantage[:8])


def test_the_true_value_has_no_advantage_on_a_chain():
    """c = 1 at every step and no end: V = 1 / (1 - g), of which every action is worth 0."""
    cost, value = np.ones(T, np.float32), np.full(T, 10.0, np.float32)
    no = np.zeros(T, bool)
    found = advantages(cost, (value, value), no, no, 0.9, 0.95)
    assert found.advantage.dtype == np.float32
    np.testing.assert_allclose(found.advantage, 0.0, atol=1e-5)
