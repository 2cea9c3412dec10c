"""Runs of the actor-critic with a model, broken off and gone on with: the same run to the bit."""

from __future__ import annotations

import pytest

import small  # registers tests/Fragile-v0
from forethought import ICEM, V15, Dyna, EnsembleLearner, Experiment, SoftActorCritic, resume
from forethought.runs.loaded import load
from forethought.runs.loop import Loop
from kept import lines, require_same_run

DYNA = Dyna(
    learner=EnsembleLearner(members=2, width=8, depth=1, gradient_steps=5, batch=8),
    agent=SoftActorCritic(width=8, depth=1, batch=8, actor_every=2),
    base_steps=12,
    every=8,
    updates=2,
    refit_every=16,
    rollouts=2,
    beliefs=2,
    places=64,
)
STEPS = 60


def dyna(out, steps=STEPS) -> Experiment:
    assert small.Fragile
    return Experiment("tests/Fragile-v0", DYNA, steps=steps, out=out)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return dyna(tmp_path_factory.mktemp("dyna") / "run").run().run


@pytest.mark.parametrize("at", [7, 34])
def test_a_killed_run_is_the_same_run(straight, tmp_path, monkeypatch, fragile, at):
    """While the first data are collected, and in the middle of an episode between two turns of learning."""
    fragile.plan_fault(at, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            dyna(tmp_path / "r").run()
    fragile.plan_fault(None)
    assert resume(tmp_path / "r").env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


def test_a_budget_that_grew_later_makes_no_difference(straight, tmp_path):
    dyna(tmp_path / "r", steps=33).run()
    assert resume(tmp_path / "r", steps=STEPS).env_steps == STEPS
    require_same_run(tmp_path / "r", straight)


def test_what_it_learned_can_be_loaded(straight):
    policy = load(straight)
    policy.reset()
    assert abs(float(policy.act([0.1, 0.2])[0])) <= 1.0


def test_a_planner_with_the_policys_proposal_and_value_is_resumed_to_the_bit(tmp_path, monkeypatch, fragile):
    algorithm = V15(
        ICEM(samples=8, iterations=1, elites=3, kept=1),
        DYNA.learner,
        base_steps=12,
        refit_every=8,
        horizon=3,
        proposal="policy",
        terminal="value",
        agent=DYNA.agent,
    )
    planned = lambda out: Experiment("tests/Fragile-v0", algorithm, steps=40, out=out)
    straight = planned(tmp_path / "a").run().run
    said = [m for m in lines(straight) if "agent_cost_to_go" in m]
    assert len(said) >= 2
    fragile.plan_fault(27, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "rescue", lambda self, error: None)
        with pytest.raises(KeyboardInterrupt):
            planned(tmp_path / "b").run()
    fragile.plan_fault(None)
    assert resume(tmp_path / "b").env_steps == 40
    require_same_run(tmp_path / "b", straight)
