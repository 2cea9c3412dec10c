from __future__ import annotations

import pytest

from forethought import Until, UserError
from forethought.runs.stopping import check_until, convergence


def test_the_budget_alone_is_no_convergence():
    assert convergence(Until(), -200.0, [0.0] * 100) is None


@pytest.mark.parametrize(
    ("returns", "rule"),
    [
        ([-100.0], None),
        ([-300.0, -150.0], None),
        ([-240.0, -160.0], "solved"),
        ([-100.0, -100.0, -500.0], None),
    ],
)
def test_solved_is_a_mean_over_the_last_episodes(returns, rule):
    assert convergence(Until(solved=True, window=2), -200.0, returns) == rule


def test_the_users_threshold_goes_first():
    assert convergence(Until(solved=True, window=1, threshold=5.0), 1.0, [4.0]) is None
    assert convergence(Until(solved=True, window=1, threshold=3.0), 9.0, [4.0]) == "solved"


def test_plateau_counts_episodes_since_the_best_window():
    until = Until(plateau=True, window=1, patience=3)
    assert convergence(until, None, [1.0, 2.0, 2.0, 1.0]) is None
    assert convergence(until, None, [1.0, 2.0, 2.0, 1.0, 0.0]) == "plateau"
    assert convergence(until, None, [1.0, 2.0, 2.0, 1.0, 3.0]) is None


def test_solved_needs_a_threshold():
    with pytest.raises(UserError, match="no known threshold"):
        check_until(Until(solved=True), None, "some task")
    check_until(Until(solved=True, threshold=1.0), None, "some task")
