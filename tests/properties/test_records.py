"""Laws of what is kept: data in order, files that come back as they were, steps that are shared out."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fakes import as_trajectory
from forethought import CEM, ICEM, MPPI, V05, V10, V15, EnsembleLearner, Experiment, Guard, Imagination, RandomShooting
from forethought.algorithms.turn import share
from forethought.core import RunState
from forethought.math.dataset import append, empty, latest
from forethought.runs import checkpoint
from forethought.runs.codec import decode_fields, encode_fields
from forethought.runs.directory import strict
from forethought.runs.episodes import read_episode, write_episode
from forethought.runs.files import Damaged, parse_json, seal, unseal
from forethought.runs.metrics import MetricsFile, intact
from forethought.runs.rules import Number, OneOf
from forethought.runs.stopping import Until, convergence
from forethought.runs.validate import RULES, problems
from forethought.types import Spec, Trajectory
from forethought.worlds.recorder import Recorder, joined

CHECKED = settings(max_examples=60, deadline=None, derandomize=True)
FEW = settings(max_examples=15, deadline=None, derandomize=True)
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)

# JSON that files hold.
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FINITE = PLAIN | st.floats(allow_nan=False, allow_infinity=False)


def nested(leaves):
    """Objects of them, a few levels deep."""
    deeper = lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part, max_size=3)
    inside = st.recursive(leaves, deeper, max_leaves=8)
    return st.dictionaries(NAMES.filter(lambda name: name != "sha256"), inside, max_size=4)


# The dataset against a plain list.


@CHECKED
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=8), st.integers(1, 4), st.integers(1, 16))
def test_a_dataset_is_a_list_of_rows(pieces, wanted, capacity) -> None:
    """(step to the next episode number, rows) of each piece; pieces of one episode follow each other."""
    data, rows, number, most = empty(Spec(1, 1), capacity), [], 0, 0
    first = data.capacity
    for step, length in pieces:
        number += step
        x = len(rows) + np.arange(length, dtype=float)[:, None]
        data = append(data, as_trajectory(x, -x, x + 1), number)
        rows += [(number, float(v)) for v in x[:, 0]]
        most = max(most, len(rows))
    count = int(data.count)
    assert count == len(rows)
    assert list(zip(data.episode[:count].tolist(), data.x[:count, 0].tolist(), strict=True)) == rows
    assert data.capacity == max(first, first * 2 ** math.ceil(math.log2(max(count, 1) / first))), "it only doubles"
    order = list(dict.fromkeys(n for n, _ in rows))[-wanted:]
    found = [piece.x[:, 0].tolist() for piece in latest(data, wanted)]
    assert found == [[v for n, v in rows if n == i] for i in order]


@CHECKED
@given(st.integers(0, 10**6), st.lists(st.booleans(), max_size=12))
def test_steps_are_shared_out_evenly_among_the_open_episodes(steps, is_open) -> None:
    parts = share(steps, is_open)
    assert all(part == 0 for part, each in zip(parts, is_open, strict=True) if not each)
    mine = [part for part, each in zip(parts, is_open, strict=True) if each]
    assert sum(mine) == (steps if mine else 0)
    assert not mine or max(mine) - min(mine) <= 1
    assert mine == sorted(mine, reverse=True), "the first ones get the rest"


ROWS = st.lists(st.tuples(ANY, ANY, ANY, st.booleans(), st.booleans()), max_size=6)


@CHECKED
@given(ROWS, st.integers(0, 100), st.integers(0, 2**31), st.integers(0, 5))
def test_a_recorder_gives_back_what_it_was_given(rows, t, condition, cut) -> None:
    record = Recorder(np.array([7.0]), 1, t, condition)
    for u, y, reward, terminated, truncated in rows:
        record.add(np.array([u]), np.array([y]), reward, terminated, truncated)
    if cut < 4:  # an interrupt in the middle of `add`: what has no reward yet is no transition
        half: list[tuple[list[Any], Any]] = [(record.u, np.ones(1)), (record.y, np.ones(1)), (record.terminated, True)]
        for column, value in half[:cut]:
            column.append(value)
    found = record.trajectory()
    columns = list(zip(*rows, strict=True)) or [[]] * 5
    assert np.array_equal(found.u[:, 0], columns[0], equal_nan=True)
    assert np.array_equal(found.y[:, 0], columns[1], equal_nan=True)
    assert np.array_equal(found.x[:, 0], [7.0, *columns[1]][: len(rows)], equal_nan=True)
    assert np.array_equal(found.reward, columns[2], equal_nan=True)
    assert found.terminated.tolist() == list(columns[3])
    assert found.truncated.tolist() == list(columns[4])
    assert found.t.tolist() == list(range(t, t + len(rows)))
    assert found.condition.tolist() == [condition] * len(rows)
    both = joined([found, found])
    assert both is not None
    assert np.array_equal(both.y, np.concatenate([found.y, found.y]), equal_nan=True)


# When a run ends.


RETURNS = st.lists(st.integers(-3, 3).map(float), max_size=25)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(RETURNS, st.integers(1, 4), st.integers(1, 6), st.sampled_from([-3.0, 0.0, 2.0]), st.booleans(), st.booleans())
def test_a_run_stops_when_it_is_solved_or_gets_no_better(returns, window, patience, threshold, solved, plateau) -> None:
    """The oracle walks through the episodes."""
    best, since, mean, expected = -math.inf, 0, None, None
    for i in range(window, len(returns) + 1):
        mean = sum(returns[i - window : i]) / window
        best, since = (mean, 0) if mean > best else (best, since + 1)
    if mean is not None and plateau and since >= patience:
        expected = "plateau"
    if mean is not None and solved and mean >= threshold:
        expected = "solved"
    until = Until(solved=solved, plateau=plateau, window=window, patience=patience, threshold=threshold)
    assert convergence(until, 100.0, returns) == expected
    own = dataclasses.replace(until, threshold=None)
    assert convergence(own, threshold, returns) == expected, "the task's own threshold counts where none is given"


# Files.


@CHECKED
@given(nested(FINITE))
def test_unseal_is_the_inverse_of_seal(value) -> None:
    assert unseal(seal(value), "f") == value


@CHECKED
@given(nested(FINITE), st.integers(0, 10**6), st.integers(0, 7))
@example({"a": 1e300}, seal({"a": 1e300}).index(b"e+300"), 5)  # 1E+300 is the same number, and another file
def test_no_bit_of_a_sealed_file_can_flip_unseen(value, place, bit) -> None:
    data = bytearray(seal(value))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(Damaged, match=r"^f is "):
        unseal(bytes(data), "f")


@CHECKED
@given(nested(PLAIN | ANY))
def test_metrics_are_strict_json_in_which_only_nan_and_infinities_change(line) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = MetricsFile(Path(folder) / "metrics.jsonl")
        file.append(line)
        file.append({"last": 1})
        first, second = intact(file.path, file.seal()).splitlines()
    again = parse_json(first, "metrics.jsonl")
    assert json.loads(second) == {"last": 1}
    named = {"NaN": None, "Infinity": "Infinity", "-Infinity": "-Infinity"}
    assert again == json.loads(json.dumps(line), parse_constant=named.__getitem__) == strict(line)


def same(one: Trajectory, two: Trajectory) -> bool:
    """Bit for bit, dtypes included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@CHECKED
@given(st.integers(0, 9), st.integers(0, 10**7), st.data())
def test_an_episode_file_comes_back_bit_for_bit(length, number, data) -> None:
    column = lambda *shape: data.draw(hnp.arrays(np.float64, (length, *shape), elements=ANY))
    flags = data.draw(hnp.arrays(bool, length))
    episode = as_trajectory(column(2), column(1), column(2), reward=column(), terminated=flags)
    with tempfile.TemporaryDirectory() as folder:
        path = write_episode(Path(folder), number, episode, {"complete": bool(number % 2)})
        again, about = read_episode(path)
    assert same(again, episode)
    assert about == {"episode": number, "complete": bool(number % 2)}


ZERO = jnp.zeros((), jnp.int32)
FITTED = (jnp.zeros((3, 2), jnp.float64), np.zeros(2), 0.5)
STATE = RunState(jr.key(0), ZERO, ZERO, ZERO, empty(Spec(2, 1), 8), FITTED)


@FEW
@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3),
    st.integers(0, 40),
    hnp.arrays(np.float64, 8, elements=ANY),
    ANY,
)
def test_a_checkpoint_comes_back_bit_for_bit(seed, counters, length, numbers, number) -> None:
    x = numbers[np.arange(2 * length) % 8].reshape(length, 2)
    data = append(STATE.data, as_trajectory(x, x[:, :1], -x), 3)
    fitted = (jnp.asarray(numbers[:6].reshape(3, 2), STATE.fitted[0].dtype), numbers[6:], number)
    fits, episodes, steps = (jnp.asarray(c, jnp.int32) for c in counters)
    state = RunState(jr.key(seed), fits, episodes, steps, data, fitted)
    about = checkpoint.About("r", {"a": 1}, {"b": [2]}, True, None)
    with tempfile.TemporaryDirectory() as folder:
        stored = checkpoint.read(checkpoint.save(Path(folder), state, about), "r")
        again = checkpoint.restore(stored, STATE)
    assert stored.about == about
    bits = lambda s: [np.asarray(jr.key_data(v) if checkpoint._is_key(v) else v) for v in jax.tree.leaves(s)]
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for a, b in zip(bits(again), bits(state), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    assert np.array_equal(jr.normal(again.key, (2,)), jr.normal(jr.key(seed), (2,))), "the key goes on as it would"


# Recipes.


def allowed(rule):
    """Values that a rule accepts."""
    if isinstance(rule, OneOf):
        return st.sampled_from(rule.values)
    low, high = max(rule.low, -1e6), min(rule.high, 1e6)
    numbers = st.integers(int(low), int(high)) if rule.whole else st.floats(low, high, exclude_min=rule.open_low)
    return numbers | st.none() if rule.none else numbers


def recipes(cls, **fixed):
    """Instances of a class whose plain fields have any allowed value."""
    rules = {name: rule for name, rule in RULES[cls.__name__].items() if isinstance(rule, (Number, OneOf))}
    fields = {f.name for f in dataclasses.fields(cls)}
    drawn = {name: allowed(rule) for name, rule in rules.items() if name in fields}
    return st.builds(cls, **(drawn | fixed)).filter(lambda recipe: not list(problems(recipe)))


IMAGINATIONS = recipes(Imagination)
PLANNERS = st.one_of(
    recipes(RandomShooting, imagination=IMAGINATIONS),
    recipes(CEM, imagination=IMAGINATIONS, elites=st.just(1)),
    recipes(ICEM, imagination=IMAGINATIONS, elites=st.just(1), kept=st.just(0)),
    recipes(MPPI, imagination=IMAGINATIONS),
)
LEARNERS = recipes(EnsembleLearner)
PARTS = {"planner": PLANNERS, "learner": LEARNERS, "safe": st.sampled_from(["zero", "hold"])}
EXPERIMENTS = recipes(
    Experiment,
    task=st.sampled_from(["pendulum", "Pendulum-v1", "a:b"]),
    algorithm=st.one_of(recipes(V05, **PARTS), recipes(V10, **PARTS), recipes(V15, **PARTS)),
    until=recipes(Until),
    guard=recipes(Guard),
    env=st.dictionaries(NAMES, FINITE | st.lists(FINITE, max_size=2), max_size=2),
    base=st.sampled_from(["random", "coloured"]),
)


# Without shrinking, which takes minutes for a value as large as this.
@settings(max_examples=80, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(EXPERIMENTS)
@example(Experiment("pendulum"))
def test_any_valid_recipe_comes_back_from_its_file(experiment) -> None:
    """Through sealed bytes, as config.json, and equal in every field and type of a field."""
    written = unseal(seal(encode_fields(experiment)), "config.json")
    again = decode_fields(Experiment, written, "config.json")
    assert bool(again == experiment)
    assert type(again.algorithm.planner) is type(experiment.algorithm.planner)
    assert json.dumps(encode_fields(again)) == json.dumps(encode_fields(experiment)), "1 is neither 1.0 nor True"
    assert not list(problems(again))
