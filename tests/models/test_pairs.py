"""Any model works with any planner and any algorithm, box or discrete actions, known or learned cost; what cannot work
is refused with a sentence."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought import (
    CEM,
    ICEM,
    MPPI,
    V05,
    V10,
    V15,
    AutoLearner,
    EnsembleLearner,
    GMMLearner,
    GPLearner,
    Imagination,
    LinearLearner,
    MDNLearner,
    NetworkLearner,
    PhysicsLearner,
    RandomShooting,
    UserError,
    task,
)
from forethought.worlds.classic import Pendulum

GP = GPLearner(restarts=0, evaluations=10, functions=4, waves=8)
ENSEMBLE = EnsembleLearner(members=2, width=8, depth=1, gradient_steps=10)


def law(x, u, theta):
    """The pendulum's own step, with one constant to be found."""
    return Pendulum()(x, u * theta["gain"])


LEARNERS = {
    "auto": AutoLearner(GP, ENSEMBLE),
    "gp": GP,
    "ensemble": ENSEMBLE,
    "network": NetworkLearner(width=8, depth=1, gradient_steps=10),
    "mdn": MDNLearner(components=2, width=8, depth=1, gradient_steps=10),
    "gmm": GMMLearner(components=2, starts=1, rounds=10),
    "linear": LinearLearner(),
    "physics": PhysicsLearner(law, {"gain": 0.7}),
    "physics-gp": PhysicsLearner(law, {"gain": 0.7}, residual=GP),
}
HOW = {"mean": Imagination(propagation="auto"), "ts-inf": Imagination(2, "ts-inf"), "ts-1": Imagination(2, "ts-1")}


def planners(how: Imagination):
    return {
        "shooting": RandomShooting(how, samples=6),
        "cem": CEM(how, samples=6, elites=2, iterations=1),
        "icem": ICEM(how, samples=6, elites=2, iterations=1, kept=1),
        "mppi": MPPI(how, samples=6, iterations=1),
    }


def algorithm(name: str, planner, learner):
    if name == "v1.5":
        return V15(planner, learner, base_steps=12, refit_every=3, horizon=2)
    return {"v0.5": V05, "v1.0": V10}[name](planner, learner, base_steps=12)


def turned(target, recipe) -> tuple[list[dict], np.ndarray]:
    """Base data, a fit, and a planned piece; the metrics of each turn, and the actions."""
    state = recipe.init(target, jr.key(0))
    found = []
    while not any(metrics.get("planned") for metrics in found):
        state, metrics = recipe.step(target, state, 30)
        found.append(metrics)
        assert len(found) < 9
    return found, np.asarray(state.data.u)[: int(state.data.count)]


EVERY = [(m, p, a, h) for m in LEARNERS for p in planners(HOW["mean"]) for a in ("v0.5", "v1.0", "v1.5") for h in HOW]
"""Of which a few, with each value of each kind at least twice, are for every day."""
DAILY = {
    (model, list(planners(HOW["mean"]))[i % 4], ("v1.5", "v1.0", "v0.5")[i % 3], ("mean", "ts-inf", "ts-1")[i % 3])
    for i, model in enumerate(LEARNERS)
}


@pytest.mark.parametrize(
    "combination",
    [pytest.param(c, id="-".join(c), marks=[] if c in DAILY else [pytest.mark.slow]) for c in EVERY],
)
def test_every_model_plans_with_every_planner_in_every_algorithm(combination) -> None:
    model, planner, name, how = combination
    target = task("pendulum", limit=6)
    found, actions = turned(target, algorithm(name, planners(HOW[how])[planner], LEARNERS[model]))
    assert not found[-1]["fit_failed"]
    assert found[-1]["plan_failures"] == 0
    assert np.isfinite(actions).all()
    assert np.all(np.abs(actions) <= 2.0)


OTHERS = {"auto": "of two that are asked themselves", "network": "one member of an ensemble"}
LEARN = [pytest.param(m, marks=[pytest.mark.slow] if m in OTHERS else []) for m in LEARNERS if "physics" not in m]


@pytest.mark.parametrize("model", LEARN)
def test_discrete_actions_and_a_learned_cost(model) -> None:
    """CartPole-v1 by its observations alone: reward and termination are outputs of the model."""
    target = task("CartPole-v1", action_repeat=2)
    assert target.spec.extras == 2
    found, actions = turned(target, algorithm("v1.5", planners(HOW["mean"])["icem"], LEARNERS[model]))
    assert not found[-1]["fit_failed"]
    assert set(map(tuple, actions)) <= {(1.0, 0.0), (0.0, 1.0)}


def test_equations_cannot_predict_a_learned_cost() -> None:
    target = task("CartPole-v1", action_repeat=2)
    with pytest.raises(UserError, match="the cost has to be learned from data"):
        algorithm("v1.5", ICEM(), LEARNERS["physics"]).init(target, jr.key(0))


def test_equations_with_a_residual_model_can() -> None:
    """The residual model supplies reward and termination."""
    target = task("CartPole-v1", action_repeat=2)
    same = PhysicsLearner(lambda x, u, theta: theta["keep"] * x, {"keep": 0.9}, residual=GP)
    found, _ = turned(target, algorithm("v1.5", planners(HOW["mean"])["icem"], same))
    assert not found[-1]["fit_failed"]


def test_the_wrong_number_of_outputs_of_an_equation_is_a_sentence() -> None:
    wrong = dataclasses.replace(LEARNERS["physics"], f=lambda x, u, theta: jnp.zeros(2))
    with pytest.raises(UserError, match="2"):
        algorithm("v1.5", ICEM(), wrong).init(task("pendulum"), jr.key(0))
