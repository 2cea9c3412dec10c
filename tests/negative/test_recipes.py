"""Every field of every shipped recipe, with values that it must not have."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest

from forethought import (
    CEM,
    ICEM,
    ILQR,
    MCTS,
    MPPI,
    V05,
    V10,
    V15,
    V20,
    AutoLearner,
    Box,
    Dyna,
    EnsembleLearner,
    Experiment,
    GMMLearner,
    GPLearner,
    Guard,
    Guide,
    Imagination,
    Improve,
    InitialController,
    KnownLearner,
    LinearLearner,
    Local,
    MDNLearner,
    NetworkLearner,
    PhysicsLearner,
    RandomShooting,
    SoftActorCritic,
    TrustRegion,
    Until,
    UserError,
    ValueLearner,
)
from forethought.policies.excitation import ColouredPolicy
from forethought.runs.files import seal, unseal
from forethought.runs.rules import Number
from forethought.runs.validate import AT_MOST, RULES, check
from small import recipe


class Mine(eqx.Module):
    """No algorithm."""


LIMITS = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
DEFAULTS: dict[str, Any] = {
    type(each).__name__: each
    for each in (
        *(Experiment("pendulum"), Guard(), Until(), V05(), V10(), V15(), Imagination(), EnsembleLearner()),
        *(RandomShooting(), CEM(), ICEM(), MPPI(), ILQR(), MCTS(), Local(), ColouredPolicy(LIMITS)),
        *(AutoLearner(), GPLearner(), NetworkLearner(), MDNLearner(), GMMLearner(), LinearLearner()),
        *(V20(), Improve(), ValueLearner(), Dyna(), SoftActorCritic(), TrustRegion()),
        *(InitialController(), Guide(), KnownLearner(lambda x, u: x)),
        PhysicsLearner(lambda x, u, theta: theta["a"] * x, {"a": 1.0}),
    )
}


def wrong_values(rule: Any) -> list[Any]:
    """What a rule must refuse, at its bounds and beyond."""
    if not isinstance(rule, Number):
        return ["no such word", 3.5, "x" * 5000] if "str" not in repr(rule) else [3.5]
    found: list[Any] = ["1", True, [1], float("nan"), float("inf"), -float("inf"), 10**400, 10**5000, 1j]
    found += [0.5, 1.0, np.float32(2.0)] if rule.whole else [np.float64("nan")]
    found += [] if rule.none else [None]
    if rule.low > -np.inf:
        found += [rule.low if rule.open_low else rule.low - 1, -(10**9)]
    if rule.high < np.inf:
        found += [rule.high + 1, rule.high * 1000]
    return found


CASES = [
    (name, field, value)
    for name, rules in RULES.items()
    for field, rule in rules.items()
    for value in wrong_values(rule)
]


def spoiled(recipe: Any, field: str, value: Any) -> Any:
    """The recipe with one field set past every check of types."""
    assert hasattr(recipe, field)
    flat = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    other = object.__new__(type(recipe))
    for name, old in (flat | {field: value}).items():
        object.__setattr__(other, name, old)
    return other


@pytest.mark.parametrize("name", RULES)
def test_every_wrong_value_is_refused_with_path_value_and_what_is_allowed(name) -> None:
    """All values of all fields, in one test per class: some 700."""
    mine = [(field, value) for each, field, value in CASES if each == name]
    assert len(mine) > 2
    for field, value in mine:
        with pytest.raises(UserError, match=rf"^{field} is .+; it must be .+\.$") as caught:
            check(spoiled(DEFAULTS[name], field, value))
        said = str(caught.value)
        assert len(said) < 400
        assert said.count("\n") == 0
        assert RULES[name][field].allowed() in said
        if len(said) < 250 and not (isinstance(value, int) and value > 10**400):
            assert repr(value)[:60] in said


@pytest.mark.parametrize(("name", "small", "large"), AT_MOST)
def test_what_must_not_be_more_than_another_field(name, small, large) -> None:
    default = DEFAULTS[name]
    wrong = spoiled(default, small, getattr(default, large) + 1)
    sentence = rf"^planner\.{small} is \d+; it must be at most planner\.{large}, which is {getattr(default, large)}\.$"
    with pytest.raises(UserError, match=sentence):
        check(wrong, "planner.")


def test_the_path_leads_to_the_field_through_recipes_in_recipes() -> None:
    deep = recipe(algorithm=V15(ICEM(spoiled(Imagination(), "propagation", "ts"))))
    where = r"^algorithm\.planner\.imagination\.propagation is 'ts'; it must be auto or mean or ts-inf or ts-1\.$"
    with pytest.raises(UserError, match=where):
        check(deep)


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        (recipe(steps=0), "steps is 0 and there are no logged data"),
        (recipe(task="double-integrator", until=Until(solved=True)), "until.solved is True, but .* no known threshold"),
        (recipe(limit=5, until=Until(solved=True)), "pendulum has no known threshold"),
        (recipe(workers=2), "workers is 2, but pendulum is simulated in this process"),
        (recipe(history=2), "pendulum takes no environment arguments, action_repeat or history"),
        (recipe(action_repeat=3), "pendulum takes no environment arguments, action_repeat or history"),
        (recipe(env={"g": 1.0}), "pendulum takes no environment arguments"),
        (recipe(task="Pendulum-v1", env={"gravity": 1.0}), "Gymnasium cannot make Pendulum-v1 with .*gravity"),
        (recipe(task="Pendulum-v3"), "There is no task or environment Pendulum-v3 .*The nearest names are Pendulum-v1"),
        (recipe(task=""), "There is no task or environment"),
        (recipe(task="no.such.module:X-v0"), "The module no.such.module of .* cannot be imported"),
        (recipe(task="json:X-v0"), "There is no task or environment X-v0"),
        (recipe(task="FrozenLake-v1"), r"FrozenLake-v1 has observations in Discrete\(16\); allowed are Box"),
        (recipe(data=Path("nowhere.csv")), "data is nowhere.csv; there is no such file"),
        (recipe(base="nowhere"), 'base is .nowhere.; it must be "random", "coloured", or a run directory'),
        (recipe(base="coloured", algorithm=V15(base=ColouredPolicy(LIMITS))), "V15 has a base policy of its own"),
        (recipe(env={"g": float("nan")}, task="Pendulum-v1"), "env.g is nan; it must be a finite number to be saved"),
        (recipe(out=Path("/dev/null/run")), "The run directory /dev/null/run cannot be made: Not a directory"),
        (recipe(out=Path("/dev/null")), "/dev/null exists and is not an empty directory"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, monkeypatch, experiment, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        experiment.run()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_directory_that_is_not_empty_is_left_alone(tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} exists and is not an empty directory; give another")):
        recipe(out=tmp_path).run()
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("inf"), "env.a is inf; it must be a finite number to be saved"),
        ([1.0, float("nan")], r"env.a\[1\] is nan; it must be a finite number"),
        ({"b": {"c": -float("inf")}}, "env.a.b.c is -inf"),
        (2**63, "env.a is a whole number of 64 bits; it must have less than 64"),
        (-(10**5000), "env.a is a whole number of 16610 bits"),
        ("\udcff", r"env.a is '\\udcff'; it must be readable text"),
        (Path("\udcff/x"), "env.a is .*; it must be readable text"),
        ({"\udcff": 1}, "env.a is .*; it must be readable text"),
        ({1: 2}, "env.a has the key 1; keys must be texts"),
        (deep(100), "holds lists or dicts within each other; at most 16 levels"),
        (np.array([1.0, np.nan]), "env.a is an array with nan; its numbers must be finite"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_could_not_be_read_again_is_not_written(value, sentence) -> None:
    """Once such a run would have lost its recipe: it was written, and no reader took it."""
    with pytest.raises(UserError, match=sentence) as caught:
        recipe(task="Pendulum-v1", env={"a": value}).config()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", [2**63 - 1, -(2**63), deep(14), "é", Path("a/é"), 1e308, np.float32(0.5), {"a": [None]}]
)
def test_what_is_just_possible_is_written_and_read_again(value) -> None:
    written = recipe(task="Pendulum-v1", env={"a": value}).config()
    assert unseal(seal({"experiment": written}), "config.json")["experiment"] == written


def test_a_recipe_cannot_be_changed() -> None:
    """A slip such as experiment.steps = 5 does not go unseen."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="steps"):
        recipe().steps = 5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot"):
        ICEM().samples = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "cls", [ICEM, CEM, MPPI, RandomShooting, V05, V10, V15, EnsembleLearner, Guard, Until, Experiment]
)
def test_a_setting_that_does_not_exist_is_refused_by_name(cls) -> None:
    with pytest.raises(TypeError, match="smaples"):
        cls(*["pendulum"] * (cls is Experiment), smaples=3)


def test_an_equinox_module_is_no_experiment() -> None:
    with pytest.raises(UserError, match=r"^algorithm is Mine\(\); it must be an algorithm\.$"):
        check(spoiled(Experiment("pendulum"), "algorithm", Mine()))
