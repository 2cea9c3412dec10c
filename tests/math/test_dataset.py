from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import as_trajectory
from forethought.math.dataset import append, empty, latest
from forethought.types import Spec


def episode(first: float, length: int):
    x = first + np.arange(length, dtype=float)[:, None]
    return as_trajectory(x, -x, x + 1, reward=10 * x[:, 0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_rows_stay_in_order_and_memory_is_at_most_twice_the_data(lengths) -> None:
    data, first = empty(Spec(1, 1), capacity=4), 0.0
    for number, length in enumerate(lengths):
        data = append(data, episode(first, length), number)
        first += length
    total = sum(lengths)
    assert int(data.count) == total
    np.testing.assert_array_equal(data.x[:total, 0], np.arange(total))
    np.testing.assert_array_equal(data.reward[:total], 10.0 * np.arange(total))
    np.testing.assert_array_equal(data.episode[:total], np.repeat(np.arange(len(lengths)), lengths))
    assert np.all(data.x[total:] == 0)
    assert data.capacity <= max(4, 2 * total)
    last = latest(data, 2)
    assert [piece.length for piece in last] == lengths[-2:]
    assert last[-1].x[-1, 0] == total - 1


def test_append_leaves_the_old_dataset_alone() -> None:
    old = append(empty(Spec(1, 1)), episode(0.0, 3), 0)
    append(old, episode(100.0, 3), 1)
    assert int(old.count) == 3
    assert np.all(old.x[3:] == 0)


def test_pieces_of_one_episode_are_joined() -> None:
    data = append(empty(Spec(1, 1)), episode(0.0, 3), 0)
    data = append(data, episode(3.0, 2), 0)
    assert [piece.length for piece in latest(data, 5)] == [5]


@pytest.mark.parametrize("name", ["x", "u", "y", "reward"])
def test_values_are_kept_in_float64(name) -> None:
    data = append(empty(Spec(1, 1)), episode(0.1, 1), 0)
    assert getattr(data, name).dtype == np.float64
    assert data.x[0, 0] == 0.1
