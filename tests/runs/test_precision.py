"""Runs compute with 64-bit numbers whatever the program around them is set to, and leave that as it is."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import forethought
from forethought import ICEM, V15, AutoLearner, GPLearner, Imagination, UserError, evaluate
from forethought.runs.checkpoint import numbered
from forethought.runs.precision import in_64_bit
from small import recipe

PLANNER = ICEM(Imagination(particles=2), samples=8, elites=4, iterations=1)
LEARNER = AutoLearner(GPLearner(functions=2, waves=4, restarts=0, evaluations=5))


def experiment(out: Path, **settings):
    """A small run with the model that is the default."""
    algorithm = V15(PLANNER, LEARNER, base_steps=10, refit_every=10, horizon=3)
    return recipe(**{"algorithm": algorithm, "steps": 20, "out": out} | settings)


@pytest.fixture
def narrow():
    """As jax is where nobody has asked for more."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    yield
    assert jnp.zeros(()).dtype == np.float32, "what a run did to the program around it"
    assert not jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", before)


def arrays(run: Path) -> dict[str, np.ndarray]:
    return load_file(numbered(run / "checkpoints")[-1] / "arrays.safetensors")


def alike(one: Path, two: Path) -> None:
    a, b = arrays(one), arrays(two)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].tobytes() != b[name].tobytes()] == []
    assert a["fitted.gp.model.weights"].dtype == np.float64


def models(run: Path) -> set:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["fit_model"] for line in lines if "fit_model" in line}


def actions(run: Path, count: int = 4) -> list[np.ndarray]:
    """Of the saved controller, in an episode of a user's own loop."""
    policy = forethought.load(run)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=3)
    found = []
    for _ in range(count):
        found.append(np.asarray(policy.act(observation)))
        observation = env.step(found[-1])[0]
    return found


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """The run with 64-bit numbers everywhere."""
    assert jax.config.read("jax_enable_x64")
    return experiment(tmp_path_factory.mktemp("wide") / "run").run().run


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Path:
    """The same with more steps."""
    return experiment(tmp_path_factory.mktemp("longer") / "run", steps=30).run().run


def test_a_run_is_the_same_bit_for_bit(wide, narrow, tmp_path) -> None:
    run = experiment(tmp_path / "run").run().run
    alike(run, wide)
    assert models(run) == {"gp"}


def test_a_run_in_another_thread_is_too(wide, narrow, tmp_path) -> None:
    thread = threading.Thread(target=lambda: experiment(tmp_path / "run").run())
    thread.start()
    thread.join()
    alike(tmp_path / "run", wide)


def test_a_run_with_two_workers_is_too(tmp_path) -> None:
    """Each world is in a thread of its own."""
    again = lambda name: experiment(tmp_path / name, task="Pendulum-v1", workers=2, steps=40).run().run
    wide = again("wide")
    jax.config.update("jax_enable_x64", False)
    try:
        narrow = again("narrow")
    finally:
        jax.config.update("jax_enable_x64", True)
    alike(wide, narrow)


def test_going_on_is_the_same_bit_for_bit(longer, narrow, tmp_path) -> None:
    run = experiment(tmp_path / "run").run().run
    forethought.resume(run, steps=30)
    alike(run, longer)


def test_a_saved_controller_gives_the_same_actions(wide, request) -> None:
    before = actions(wide)
    request.getfixturevalue("narrow")
    np.testing.assert_array_equal(actions(wide), before)
    found = []
    thread = threading.Thread(target=lambda: found.extend(actions(wide)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found, before)


def test_an_evaluation_gives_the_same_returns(wide, request) -> None:
    def returns():
        run = forethought.load(wide)
        return evaluate(run.task, run.policy, jax.random.key(0), [1, 2]).returns

    before = returns()
    request.getfixturevalue("narrow")
    assert returns() == before


def test_an_error_leaves_it_as_it_was(narrow, tmp_path) -> None:
    with pytest.raises(UserError, match="steps is 0"):
        experiment(tmp_path / "run", steps=0).run()


@pytest.mark.parametrize("around", [True, False])
def test_the_setting_is_back_afterwards(around) -> None:
    @in_64_bit
    def inside(fail: bool) -> bool:
        """What it is."""
        if fail:
            raise KeyError("on purpose")
        return bool(jax.config.read("jax_enable_x64"))

    assert inside.__doc__ == "What it is."
    with jax.enable_x64(around):
        assert inside(False)
        with pytest.raises(KeyError, match="on purpose"):
            inside(True)
        assert jax.config.read("jax_enable_x64") == around
