"""Runs of v2.0, broken off and gone on with: the same run to the bit."""

from __future__ import annotations

import numpy as np
import pytest

import small  # registers tests/Fragile-v0
from forethought import V20, Experiment, GPLearner, Improve, RandomShooting, ValueLearner, resume
from forethought.models.linear import LinearLearner
from forethought.runs.loaded import load
from forethought.runs.loop import Loop
from kept import lines, require_same_run

QUICK = Improve(
    horizon=6, particles=4, gradient_steps=50, terminal="value", value=ValueLearner(width=8, depth=1, gradient_steps=5)
)
ALGORITHM = V20(
    LinearLearner(),
    base_steps=15,
    every=7,
    form="network",
    width=8,
    depth=1,
    planner=RandomShooting(samples=8),
    plans=2,
    improve=QUICK,
    noise=0.1,
    discount=0.95,
)
MOMENTS = V20(
    GPLearner(functions=2, waves=8),
    base_steps=10,
    form="rbf",
    width=3,
    planner=None,
    imagine="moments",
    iterations=3,
    improve=Improve(horizon=4),
)
STEPS = 50


def experiment(out, algorithm=ALGORITHM, steps=STEPS) -> Experiment:
    assert small.Fragile
    return Experiment("tests/Fragile-v0", algorithm, steps=steps, out=out)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("v20") / "run").run().run


@pytest.mark.parametrize("at", [5, 26])
def test_a_killed_run_is_the_same_run(straight, tmp_path, monkeypatch, fragile, at):
    """In the first episode, and after an improvement in mid-episode."""
    fragile.plan_fault(at, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path / "r").run()
    fragile.plan_fault(None)
    assert resume(tmp_path / "r").env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


def test_a_budget_that_grew_later_makes_no_difference(straight, tmp_path):
    experiment(tmp_path / "r", steps=29).run()
    assert resume(tmp_path / "r", steps=STEPS).env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


def test_its_metrics_say_how_the_gradient_was(straight):
    improved = [m for m in lines(straight) if "improve_cost" in m]
    assert len(improved) >= 3
    for m in improved:
        assert m["improve_students"] == 2
        for name in ("began", "plan", "heart", "cost", "snr", "gradient", "growth", "exponent", "saturated", "mixture"):
            assert np.isfinite(m[f"improve_{name}"]), name
        assert len(m["improve_adjoint"]) == m["improve_length"] == 6


def test_moments_resume_with_the_rows_that_a_process_keeps(tmp_path):
    known = lambda out, steps: Experiment("double-integrator", MOMENTS, steps=steps, limit=10, out=out)
    straight = known(tmp_path / "a", 30).run().run
    known(tmp_path / "b", 20).run()
    assert resume(tmp_path / "b", steps=30).env_steps == 30
    require_same_run(tmp_path / "b", straight)
    policy = load(straight)
    policy.reset()
    assert np.all(np.abs(policy.act(np.zeros(2))) <= 1.0)


def test_the_policy_is_evaluated_without_noise(straight):
    policy = load(straight)
    actions = []
    for _ in range(2):
        policy.reset()
        actions.append(policy.act(np.array([0.3, -0.2])))
    np.testing.assert_array_equal(*actions)
