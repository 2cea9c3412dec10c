from __future__ import annotations

import dataclasses
import json

import equinox as eqx
import jax.numpy as jnp
import pytest

from forethought import (
    CEM,
    MPPI,
    V05,
    V10,
    V15,
    AbstractPlanner,
    Box,
    Experiment,
    Guard,
    RandomShooting,
    Until,
    UserError,
)
from forethought.policies.excitation import ColouredPolicy
from forethought.runs import codec
from forethought.runs.codec import decode, decode_fields, encode, encode_fields
from small import recipe


def there_and_back(experiment):
    """Through text, as on the disk."""
    return decode_fields(Experiment, json.loads(json.dumps(encode_fields(experiment))), "config.json")


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment("Pendulum-v1"),
        recipe(until=Until(solved=True, threshold=-3.5), seed=7, env={"g": 9.81, "list": [1, "a", None]}),
        recipe(algorithm=V05(CEM(samples=33))),
        recipe(algorithm=V10(MPPI(beta=0.25))),
        recipe(algorithm=V15(RandomShooting())),
        recipe(workers=3, replayable=False, on_save_error="go-on"),
        recipe(guard=Guard(reward_bound=5.0, on_fault="go-on", most_faults=2, deadline=0.5)),
    ],
)
def test_a_recipe_comes_back(experiment):
    again = there_and_back(experiment)
    assert bool(again == experiment)
    assert encode_fields(again) == encode_fields(experiment)


def test_a_base_policy_with_arrays_comes_back():
    policy = ColouredPolicy(Box(jnp.array([-1.0, -0.1], jnp.float32), jnp.array([2.0, 0.3], jnp.float32)), beta=2.0)
    again = decode(json.loads(json.dumps(encode(policy))), "base")
    assert eqx.tree_equal(again, policy, typematch=False)
    assert again.actions.low.dtype == jnp.float32


def test_a_missing_field_has_its_default():
    fields = encode_fields(Experiment("Pendulum-v1"))
    del fields["steps"]
    assert decode_fields(Experiment, fields, "config.json").steps == 1000


class MyPlanner(AbstractPlanner):
    width: int = 3

    def init(self, problem):
        return None

    def plan(self, problem, warm, key):
        raise NotImplementedError

    def shift(self, warm):
        return warm


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"kind": "os.system", "command": "true"}, "names the class 'os.system'; known are V05"),
        ({"kind": "forethought.cli.main"}, "names the class"),
        ({"kind": ["ICEM"]}, "names the class"),
        ({"samples": 3}, "names the class None"),
        ({"kind": "Guard", "make": "os"}, "a field 'make', which Guard does not know"),
        ({"kind": "Source", "id": "os:x"}, "names the class 'Source'"),
        ({"kind": "ICEM", "sampels": 3}, "a field 'sampels', which ICEM does not know; the nearest is samples"),
        ({"kind": "ICEM", "__class__": "int"}, "does not know"),
        ({"kind": "ColouredPolicy"}, "is no complete ColouredPolicy"),
        ({"kind": "array", "dtype": "object", "values": [1]}, "names the class 'array'"),
        ({"kind": "V15", "planner": {"kind": "own", "class": "mine.Planner"}}, r"planner is of a class of your own"),
    ],
)
def test_what_a_file_may_not_say(value, sentence):
    with pytest.raises(UserError, match=sentence):
        decode(value, "config.json.algorithm")


def test_a_users_class_is_not_written_as_code():
    found = encode(V15(MyPlanner()))
    assert found["planner"] == {"kind": "own", "class": f"{__name__}.MyPlanner", "settings": {"width": 3}}
    with pytest.raises(UserError, match="--experiment FILE"):
        decode(found, "algorithm")


def test_what_is_named_again_has_the_settings_of_the_file():
    found = encode(V15(MyPlanner(width=7), horizon=4))
    again = decode(found, "algorithm", V15(MyPlanner(), horizon=9))
    assert (again.planner.width, again.horizon) == (7, 4)
    with pytest.raises(UserError, match="is of a class of your own"):
        decode(found, "algorithm", V15())
    found["planner"]["settings"] = {"depth": 1}
    with pytest.raises(UserError, match="MyPlanner with other fields than the one that was named again has"):
        decode(found, "algorithm", V15(MyPlanner()))


def test_a_class_of_the_same_name_is_not_ours():
    fake = type("ICEM", (), {"__module__": "elsewhere"})()
    assert encode(fake) == {"kind": "own", "class": "elsewhere.ICEM", "settings": {}}


def test_infinity_cannot_be_saved():
    with pytest.raises(UserError, match="finite"):
        encode({"g": float("inf")})


def test_no_recipe_has_a_field_that_files_need_for_its_class():
    for cls in codec.KINDS.values():
        assert "kind" not in {field.name for field in dataclasses.fields(cls)}, cls
