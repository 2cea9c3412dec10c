"""Checkpoints of runs whose model keeps its data, in arrays that grow."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file

import forethought
from forethought import (
    ICEM,
    V15,
    V20,
    AutoLearner,
    Dyna,
    EnsembleLearner,
    GPLearner,
    Imagination,
    Local,
    TrustRegion,
    UserError,
    evaluate,
)
from forethought.runs.checkpoint import numbered, read, restore
from forethought.runs.experiment import open_run
from small import recipe

GP = GPLearner(functions=2, waves=4, restarts=0, evaluations=5)
ENSEMBLE = EnsembleLearner(members=2, width=8, gradient_steps=10)
LEARNERS = {"gp": GP, "auto": AutoLearner(GP, ENSEMBLE, few=40, trial=1000)}


def experiment(learner, **settings):
    """Episodes of ten steps, from fifty random ones on."""
    planner = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
    algorithm = V15(planner, learner, base_steps=50, refit_every=10, horizon=3)
    return recipe(**{"algorithm": algorithm, "steps": 80} | settings)


class Two:
    """A run of 80 steps, and one that was broken off at 60 and went on."""

    def __init__(self, learner, folder: Path):
        self.learner = learner
        self.whole = experiment(learner, out=folder / "whole").run().run
        self.first = experiment(learner, out=folder / "first", steps=60).run().run
        self.resumed = Path(shutil.copytree(self.first, folder / "resumed"))
        forethought.resume(self.resumed, steps=80)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By learner, and once each."""
    return functools.cache(lambda name: Two(LEARNERS[name], tmp_path_factory.mktemp(name)))


@pytest.fixture(params=LEARNERS)
def runs(request, made) -> Two:
    return made(request.param)


@pytest.fixture
def gp(made) -> Two:
    return made("gp")


def arrays(run: Path) -> dict[str, np.ndarray]:
    return load_file(numbered(run / "checkpoints")[-1] / "arrays.safetensors")


def centres(run: Path) -> int:
    """Room for rows in the last checkpoint."""
    found = arrays(run)
    (name,) = [name for name in found if name.endswith("model.centres") and "frame" not in name]
    return found[name].shape[-1]


def test_going_on_across_a_bucket_is_the_same_bit_for_bit(runs) -> None:
    assert (centres(runs.first), centres(runs.resumed), centres(runs.whole)) == (64, 128, 128)
    one, two = arrays(runs.resumed), arrays(runs.whole)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name].tobytes() != two[name].tobytes()] == []


def same(a, b) -> bool:
    plain = lambda v: np.asarray(jr.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(plain(v).dtype == plain(w).dtype and np.array_equal(plain(v), plain(w)) for v, w in pairs)


def test_a_larger_state_comes_back_bit_for_bit(runs) -> None:
    """Into the template of a run without data, which has room for 64 rows only."""
    again = experiment(runs.learner)
    template = again.algorithm.init(again.make_task(), jr.key(5))
    state = restore(read(numbered(runs.whole / "checkpoints")[-1]), template)
    opened = open_run(runs.whole, which="newest").state
    assert same(state, opened)
    assert type(state.fitted) is type(template.fitted)
    stored = arrays(runs.whole)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.fitted):
        name = "fitted." + jax.tree_util.keystr(path, simple=True, separator=".")
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert np.asarray(leaf).tobytes() == stored[name].tobytes(), name


def test_loading_gives_the_same_actions_and_returns(runs, tmp_path) -> None:
    """As the state in memory, from which a turn goes on, and as a copy of the run elsewhere."""
    state = open_run(runs.whole, which="newest")
    policy = state.algorithm.policy(state.task, state.state)
    elsewhere = Path(shutil.copytree(runs.whole, tmp_path / "copy"))
    loaded = [forethought.load(path) for path in (runs.whole, elsewhere, runs.resumed)]
    returns = [evaluate(each.task, each.policy, jr.key(0), [1, 2]).returns for each in loaded]
    returns.append(evaluate(state.task, policy, jr.key(0), [1, 2]).returns)
    assert returns.count(returns[0]) == len(returns)
    actions = [each.act(np.asarray([0.6, 0.8, -0.2], np.float32)) for each in loaded]
    assert all(np.array_equal(a, actions[0]) for a in actions)
    assert len(set(returns[0])) == 2


def reshaped(change):
    """The arrays of a file with some of them changed."""

    def make(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(found)
        for name, shape in change.items():
            found.pop("fitted.model." + name) if shape is None else found.update(
                {"fitted.model." + name: np.zeros(shape(found["fitted.model." + name].shape))}
            )
        return found

    return make


sized = lambda size: lambda shape: (*shape[:-1], size)
IMPOSSIBLE = {
    "no power of two": ({"centres": sized(100)}, "expected powers of two from 64 on"),
    "none": ({"centres": sized(0)}, "expected powers of two from 64 on"),
    "more for functions": ({"frame.centres": sized(256)}, "the second not larger than the first"),
    "another size of the root": ({"centres": sized(256)}, r"is float64\[\d+, 128\] and must be float64\[\d+, 256\]"),
    "no centres": ({"centres": None}, r"model\.centres"),
    "a number for centres": ({"centres": lambda shape: ()}, "has 0 centres"),
    "another number of outputs": ({"centres": lambda shape: (7, *shape[1:])}, r"must be float64"),
    "a root that is no square": ({"root": sized(64)}, r"fitted\.model\.root is float64"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_shapes_are_refused_with_a_sentence(gp, name) -> None:
    change, says = IMPOSSIBLE[name]
    stored = read(numbered(gp.whole / "checkpoints")[-1])
    again = experiment(GP)
    template = again.algorithm.init(again.make_task(), jr.key(0))
    restore(stored, template)
    with pytest.raises(UserError, match=says) as caught:
        restore(stored._replace(arrays=reshaped(change)(stored.arrays)), template)
    assert "does not fit this run's settings" in str(caught.value)


def test_a_file_of_another_learner_is_refused(gp) -> None:
    again = experiment(dataclasses.replace(GP, functions=3))
    template = again.algorithm.init(again.make_task(), jr.key(0))
    with pytest.raises(UserError, match=r"fitted\.model\.paths\.weights is float64\[2, .* must be float64\[3, "):
        restore(read(numbered(gp.whole / "checkpoints")[-1]), template)


@pytest.mark.parametrize(
    ("algorithm", "part"),
    [
        (Local(learner=GP), "prior"),
        (V20(learner=GP), "inner"),
        (TrustRegion(learner=GP), "inner"),
        (Dyna(learner=GP), "inner"),
    ],
)
def test_a_state_that_holds_a_growing_model_grows_with_it(algorithm, part) -> None:
    """Otherwise its checkpoint could be written, and never read again."""
    state = algorithm.init(forethought.task("pendulum"), jr.key(0)).fitted
    room = {"model.centres": (3, 4, 256), "model.frame.centres": (3, 4, 128)}
    wanted = getattr(state, part).resized(room)
    assert wanted.model.size == 256 != getattr(state, part).model.size
    grown = state.resized({f"{part}.{name}": shape for name, shape in room.items()} | {"gains.K": (4, 200, 1, 3)})
    shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
    assert shapes(getattr(grown, part)) == shapes(wanted)
