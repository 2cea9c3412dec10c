from __future__ import annotations

import dataclasses

import pytest

from forethought import (
    CEM,
    ICEM,
    MPPI,
    V05,
    V10,
    V15,
    EnsembleLearner,
    Guard,
    Imagination,
    RandomShooting,
    Until,
    UserError,
)
from forethought.models.auto import AutoLearner
from forethought.models.gmm import GMMLearner
from forethought.runs.codec import KINDS
from forethought.runs.validate import RULES, check, problems
from small import recipe

RECIPES = [V05(), V10(), V15(), CEM(), ICEM(), MPPI(), RandomShooting(), EnsembleLearner(), Imagination(), Until()]
RECIPES.append(Guard())


@pytest.mark.parametrize("default", RECIPES, ids=lambda r: type(r).__name__)
def test_defaults_are_allowed(default):
    assert list(problems(default)) == []


def test_every_field_of_every_shipped_recipe_has_a_rule():
    """A field that somebody adds cannot be forgotten."""
    for default in [recipe(), *RECIPES]:
        for field in dataclasses.fields(default):
            assert field.name in RULES[type(default).__name__], f"{type(default).__name__}.{field.name}"
    assert {type(r).__name__ for r in RECIPES} < set(KINDS)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (recipe(steps=-1), "steps is -1; it must be a whole number, at least 0"),
        (recipe(seed=-1), "seed is -1"),
        (recipe(limit=0), "limit is 0; it must be a whole number, at least 1 .*, or None"),
        (recipe(algorithm=V15(ICEM(samples=0))), r"algorithm\.planner\.samples is 0"),
        (
            recipe(algorithm=V15(ICEM(elites=257))),
            r"algorithm\.planner\.elites is 257; it must be at most .*samples.* 256",
        ),
        (recipe(algorithm=V15(ICEM(kept=11))), r"kept is 11; it must be at most .*elites"),
        (recipe(algorithm=V15(CEM(elites=300))), "elites is 300"),
        (recipe(algorithm=V15(learner=AutoLearner(few=9, many=8))), r"learner\.few is 9; it must .*many.* 8"),
        (recipe(algorithm=V15(learner=GMMLearner(floor=1e-16))), r"floor is 1e-16; .* at least"),
        (
            recipe(algorithm=V15(ICEM(Imagination(propagation="mean", risk=1.0)))),
            r"imagination\.risk is 1\.0; with .*propagation mean, .* it must be 0",
        ),
        (recipe(algorithm=V15(discount=float("nan"))), "discount is nan; it must be a finite number, larger than 0"),
        (recipe(algorithm=V15(discount=1.5)), "discount is 1.5; .* at most 1"),
        (recipe(algorithm=V15(MPPI(effective=0.0))), "effective is 0.0"),
        (recipe(algorithm=V15(MPPI(scale=float("inf")))), "scale is inf"),
        (recipe(algorithm=V15(learner=EnsembleLearner(learning_rate=0.0))), "learning_rate is 0.0; .* larger than 0"),
        (recipe(algorithm=V15(learner=EnsembleLearner(width=10**9))), "width is 1000000000; .* at most 100000"),
        (recipe(algorithm=V15(ICEM(Imagination(risk=float("nan"))))), "risk is nan; it must be a finite number.$"),
        (recipe(until=Until(threshold=float("inf"))), "threshold is inf; it must be a finite number, or None.$"),
        (recipe(until=Until(window=0)), r"until\.window is 0"),
        (recipe(workers=0), "workers is 0; it must be a whole number, at least 1"),
        (recipe(workers=257), "workers is 257; .* at most 256"),
        (recipe(guard=Guard(deadline=0.0)), r"guard\.deadline is 0.0; it must be .*larger than 0"),
        (recipe(guard=Guard(reward_bound=float("inf"))), r"guard\.reward_bound is inf"),
        (recipe(guard=Guard(observation_bound=-1.0)), r"guard\.observation_bound is -1.0"),
        (recipe(guard=Guard(most_faults=-1)), r"guard\.most_faults is -1; it must be a whole number, at least 0"),
    ],
)
def test_a_bad_value_gets_path_value_and_what_is_allowed(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        check(wrong)


def test_true_is_no_number_and_one_is_no_flag():
    bad = dataclasses.replace(Until(), window=3)
    object.__setattr__(bad, "window", True)
    object.__setattr__(bad, "solved", 1)
    assert [p.split(" is ")[0] for p in problems(bad)] == ["solved", "window"]
