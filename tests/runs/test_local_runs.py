"""Runs of the local method, broken off and gone on with: the same run to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import small  # registers tests/Fragile-v0
from forethought import Experiment, Guide, Local, resume
from forethought.models.linear import LinearLearner
from forethought.runs.loaded import load
from forethought.runs.loop import Loop
from kept import lines, require_same_run

LOCAL = Local(LinearLearner(), conditions=(3, 4), rollouts=2, guide=Guide(on=True, width=8, depth=1, gradient_steps=50))
STEPS = 100
"""Ten episodes of ten steps: two improvements, and the rollouts of a third iteration."""


def local(out, algorithm=LOCAL, steps=STEPS) -> Experiment:
    assert small.Fragile
    return Experiment("tests/Fragile-v0", algorithm, steps=steps, out=out)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return local(tmp_path_factory.mktemp("local") / "run").run().run


@pytest.mark.parametrize("at", [7, 41, 55])
def test_a_killed_run_is_the_same_run(straight, tmp_path, monkeypatch, fragile, at):
    """In the first rollouts, in the first after an improvement, and in mid-episode."""
    fragile.plan_fault(at, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            local(tmp_path / "r").run()
    fragile.plan_fault(None)
    assert resume(tmp_path / "r").env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


@pytest.mark.parametrize("budget", [40, 63])
def test_a_budget_that_grew_later_makes_no_difference(straight, tmp_path, budget):
    local(tmp_path / "r", steps=budget).run()
    assert resume(tmp_path / "r", steps=STEPS).env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


def test_its_metrics_say_what_a_step_did(straight):
    improved = [m for m in lines(straight) if "local_status" in m]
    assert len(improved) >= 2
    for m in improved:
        assert m["local_status"] == ["solved", "solved"]
        assert 0.0 <= m["local_clip_rate"] <= 1.0
        for name in ("kl", "epsilon", "multiplier", "predicted", "least_quu", "cost", "solves"):
            assert len(m[f"local_{name}"]) == 2, name
            assert np.isfinite(m[f"local_{name}"]).all(), name
    assert improved[0]["local_actual"] == [None, None]
    assert np.isfinite(improved[1]["local_actual"]).all()


def test_what_it_learned_can_be_evaluated_and_loaded(straight, tmp_path):
    policy = load(straight)
    policy.reset()
    action = policy.act(np.zeros(2))
    assert np.all(np.abs(action) <= 1.0)
    # Without the guide it is the controllers.
    plain = local(tmp_path / "plain", dataclasses.replace(LOCAL, guide=Guide())).run().run
    policy = load(plain)
    policy.reset()
    assert np.all(np.abs(policy.act(np.zeros(2))) <= 1.0)
