"""Runs with trust-region updates, broken off and gone on with: the same run to the bit."""

from __future__ import annotations

import pytest

import small  # registers tests/Fragile-v0
from forethought import Experiment, TrustRegion, ValueLearner, resume
from forethought.models.linear import LinearLearner
from forethought.runs.loaded import load
from forethought.runs.loop import Loop
from kept import lines, require_same_run

TRUST = TrustRegion(
    learner=LinearLearner(),
    fresh=15,
    width=6,
    depth=1,
    value=ValueLearner(width=6, depth=1, gradient_steps=10, batch=16),
    updates=2,
    check_every=1,
    agree=0.0,
    models=2,
    rollouts=2,
    horizon=4,
)
REAL = TrustRegion(data="real", learner=LinearLearner(), fresh=15, width=6, depth=1, value=TRUST.value)
STEPS = 60
"""Six episodes of ten steps: improvements in mid-episode and between two."""


def experiment(algorithm, out, steps=STEPS) -> Experiment:
    assert small.Fragile
    return Experiment("tests/Fragile-v0", algorithm, steps=steps, out=out)


@pytest.mark.parametrize("algorithm", [TRUST, REAL], ids=["imagined", "real"])
def test_a_killed_run_and_one_with_a_budget_that_grew_are_the_same_run(algorithm, tmp_path, monkeypatch, fragile):
    straight = experiment(algorithm, tmp_path / "straight").run().run
    fragile.plan_fault(37, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            experiment(algorithm, tmp_path / "killed").run()
    fragile.plan_fault(None)
    assert resume(tmp_path / "killed").env_steps == STEPS
    require_same_run(tmp_path / "killed", straight)
    experiment(algorithm, tmp_path / "short", steps=24).run()
    assert resume(tmp_path / "short", steps=STEPS).env_steps == STEPS
    require_same_run(tmp_path / "short", straight)

    improved = [m for m in lines(straight) if "policy_kl" in m]
    assert len(improved) >= 3
    for m in improved:
        assert 0.0 <= m["policy_kl_most"] <= algorithm.kl * 1.001
        assert sum(m["policy_status"].values()) == m["policy_updates"]
    policy = load(straight)
    policy.reset()
    assert abs(policy.act([0.0, 0.0])[0]) <= 1.0
