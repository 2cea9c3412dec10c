from __future__ import annotations

import csv

import numpy as np
import pytest

from fakes import as_trajectory
from forethought import Experiment, UserError
from forethought.runs.episodes import read_episode, write_episode
from forethought.runs.logged import read_logged


@pytest.fixture(scope="module")
def pendulum():
    """Three states, one action, a known reward."""
    return Experiment("pendulum").make_task()


@pytest.fixture(scope="module")
def cartpole():
    """Four states, two choices."""
    return Experiment("CartPole-v1").make_task()


@pytest.fixture(scope="module")
def learned():
    """A task whose reward is learned."""
    return Experiment("Pendulum-v1", action_repeat=2).make_task()


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def columns(data, name):
    """The rows in use."""
    return np.asarray(getattr(data, name))[: int(data.count)]


def test_csv_without_next_states(tmp_path, pendulum):
    """Episodes of three and two rows give two transitions and one; rows are put in the order of t."""
    rows = [
        [7, 1, 10, 11, 12, 0.5],
        [7, 0, 0, 1, 2, -0.5],
        [7, 2, 20, 21, 22, 0.0],
        [3, 0, 5, 5, 5, 1.0],
        [3, 1, 6, 6, 6, 2.0],
    ]
    data = read_logged(write_csv(tmp_path / "d.csv", ["episode", "t", "x0", "x1", "x2", "u0"], rows), pendulum)
    assert columns(data, "x").tolist() == [[0, 1, 2], [10, 11, 12], [5, 5, 5]]
    assert columns(data, "y").tolist() == [[10, 11, 12], [20, 21, 22], [6, 6, 6]]
    assert columns(data, "u").tolist() == [[-0.5], [0.5], [1.0]]
    assert columns(data, "t").tolist() == [0, 1, 0]
    assert columns(data, "episode").tolist() == [-2, -2, -1], "the run's own episodes begin at 0"


def test_csv_with_everything(tmp_path, pendulum):
    names = ["x0", "x1", "x2", "u0", "y0", "y1", "y2", "reward", "terminated", "truncated"]
    data = read_logged(
        write_csv(tmp_path / "d.csv", names, [[1, 2, 3, 0, 4, 5, 6, -1.5, "True", 0], [4, 5, 6, 0, 7, 8, 9, 2, 0, 1]]),
        pendulum,
    )
    assert columns(data, "y").tolist() == [[4, 5, 6], [7, 8, 9]]
    assert columns(data, "reward").tolist() == [-1.5, 2.0]
    assert columns(data, "terminated").tolist() == [True, False]
    assert columns(data, "truncated").tolist() == [False, True]


def test_npz_with_discrete_actions(tmp_path, cartpole):
    x = np.arange(12.0).reshape(3, 4)
    np.savez(tmp_path / "d.npz", x=x, u=np.array([1, 0, 1]), y=x + 1.0)
    data = read_logged(tmp_path / "d.npz", cartpole)
    assert columns(data, "u").tolist() == [[0, 1], [1, 0], [0, 1]]
    assert columns(data, "y").tolist() == (x + 1.0).tolist()


def test_more_rows_than_the_smallest_capacity(tmp_path, pendulum):
    x = np.arange(2100.0).reshape(700, 3)
    np.savez(tmp_path / "d.npz", x=x, u=np.zeros(700))
    data = read_logged(tmp_path / "d.npz", pendulum)
    assert (int(data.count), data.capacity) == (699, 1024)


def test_our_own_episode_file(tmp_path, pendulum):
    random = np.random.default_rng(0)
    x, u, y = random.normal(size=(5, 3)), random.normal(size=(5, 1)), random.normal(size=(5, 3))
    path = write_episode(tmp_path, 3, as_trajectory(x, u, y, reward=np.arange(5.0)), {"complete": True})
    again, about = read_episode(path)
    assert np.array_equal(again.x, x)
    assert about == {"episode": 3, "complete": True}
    data = read_logged(path, pendulum)
    assert columns(data, "y").tolist() == y.tolist()
    assert columns(data, "reward").tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


GOOD = {"x": np.zeros((3, 3)), "u": np.zeros((3, 1))}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": GOOD["x"]}, "no column u0"),
        ({"u": GOOD["u"]}, "no column x0"),
        (GOOD | {"x": np.zeros((3, 4))}, r"x has the shape \(3, 4\), and for pendulum it must be \(3, 3\)"),
        (GOOD | {"u": np.zeros((2, 1))}, r"u has the shape \(2, 1\)"),
        (GOOD | {"x": np.full((3, 3), np.nan)}, "x is not finite in row 0"),
        (GOOD | {"rewards": np.zeros(3)}, "a column 'rewards'"),
        (GOOD | {"reward": np.zeros((3, 1))}, "reward has the shape"),
        (GOOD | {"x": np.array(["a", "b", "c"])}, "the array x is of dtype <U1"),
        ({"x0": np.zeros(3), "x2": np.zeros(3), "u": GOOD["u"]}, "has x2, but no column x1"),
        ({"x0": np.zeros(3), "x1": np.zeros(2), "u": GOOD["u"]}, "vectors of one length"),
        ({"x": np.zeros((1, 3)), "u": np.zeros((1, 1))}, "holds no transition"),
    ],
)
def test_a_bad_npz_is_one_sentence(tmp_path, pendulum, arrays, sentence):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        read_logged(tmp_path / "d.npz", pendulum)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no rows"),
        ("x0,x1,x2,u0\n", "holds no rows"),
        ("x0,x1,x2,u0\n1,2,3\n", "row 2: there are 3 values, and the header names 4"),
        ("x0,x1,x2,u0\n1,2,3,zero\n", "row 2, column u0: 'zero' is no number"),
        ("1,2,3,4\n1,2,3,4\n", "a column '1'"),
    ],
)
def test_a_bad_csv_is_one_sentence(tmp_path, pendulum, text, sentence):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_logged(tmp_path / "d.csv", pendulum)


@pytest.mark.parametrize("name", ["d.npz", "d.safetensors"])
def test_rubbish_is_one_sentence(tmp_path, pendulum, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(UserError, match="cannot be read as"):
        read_logged(tmp_path / name, pendulum)


def test_object_arrays_are_refused(tmp_path, pendulum):
    """They are pickles."""
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object), u=np.zeros(1))
    with pytest.raises(UserError, match="cannot be read as an NPZ of plain arrays"):
        read_logged(tmp_path / "d.npz", pendulum)


def test_missing_file_and_strange_ending(tmp_path, pendulum):
    with pytest.raises(UserError, match="there is no such file"):
        read_logged(tmp_path / "d.csv", pendulum)
    (tmp_path / "d.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="must be an episode file"):
        read_logged(tmp_path / "d.parquet", pendulum)


def test_an_action_that_is_none(tmp_path, cartpole):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 4)), u=np.array([0, 2]))
    with pytest.raises(UserError, match="the action 2 is none of CartPole-v1, which has 0 to 1"):
        read_logged(tmp_path / "d.npz", cartpole)


def test_a_reward_that_is_learned_must_be_there(tmp_path, learned):
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 3)), u=np.zeros(3))
    with pytest.raises(UserError, match="the reward has to be learned"):
        read_logged(tmp_path / "d.npz", learned)
