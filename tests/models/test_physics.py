from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.models.auto import AutoLearner
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.linear import LinearLearner
from forethought.models.physics import PhysicsLearner
from forethought.runs.log import warnings_of
from forethought.testing import check_model
from forethought.types import Spec, UserError
from forethought.worlds.classic import Pendulum
from poor import CASES, SPEC, all_finite, episode

NOW = jnp.zeros((), jnp.int32)
predict = eqx.filter_jit(lambda model, x, u: model.predict(x, u, NOW))
means = eqx.filter_jit(lambda model, xs, us: jax.vmap(lambda x, u: model.predict(x, u, NOW).mean)(xs, us))
POLE = Spec(3, 1)
TRUE = {"friction": 0.2, "length": 1.3, "mass": 0.8}


def swing(x, u, theta):
    """Pendulum-v1 with a bearing, x = [cos th, sin th, w]."""
    push = 15.0 / theta["length"] * x[1] + 3.0 / (theta["mass"] * theta["length"] ** 2) * u[0]
    speed = x[2] + 0.05 * (push - theta["friction"] * x[2])
    angle = jnp.arctan2(x[1], x[0]) + 0.05 * speed
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


def simple(x, u, theta):
    """Linear in its parameters."""
    return theta["a"] * x + theta["b"] * jnp.sum(u)


GUESS = {"mass": 1.5, "length": 0.7, "friction": 0.0}
SWING = PhysicsLearner(swing, GUESS, positive=("mass", "length"))
SIMPLE = PhysicsLearner(simple, {"a": 0.5, "b": 1.0})


def rolled(step, rows: int, seed: int = 0, noise: float = 0.0):
    """An episode under random torques, observed with noise."""
    random = np.random.default_rng(seed)
    angle = random.uniform(2.0, 4.0)
    xs, us = [np.array([np.cos(angle), np.sin(angle), random.uniform(-1, 1)])], random.uniform(-2, 2, (rows, 1))
    step = jax.jit(step)
    for u in us:
        xs.append(np.asarray(step(xs[-1], u)))
    seen = np.array(xs) + noise * random.normal(size=(rows + 1, 3))
    return as_trajectory(seen[:-1], us, seen[1:])


def truth(x, u):
    return swing(x, u, TRUE)


def fit(learner, spec, *episodes, key: int = 1):
    return learner.fit(learner.init(spec, jr.key(0)), as_dataset(spec, *episodes), jr.key(key))


def found(metrics):
    return {name.removeprefix("theta_"): value for name, value in metrics.items() if name.startswith("theta_")}


@pytest.mark.parametrize("horizon", [1, 8])
def test_parameters_come_back_from_fifty_steps(horizon) -> None:
    _, metrics = fit(dataclasses.replace(SWING, horizon=horizon), POLE, rolled(truth, 50))
    np.testing.assert_allclose([found(metrics)[k] for k in TRUE], list(TRUE.values()), rtol=1e-6)


def test_the_world_of_the_library_comes_back() -> None:
    after, metrics = fit(SWING, POLE, rolled(Pendulum(m=0.7, l=1.2), 50))
    np.testing.assert_allclose([found(metrics)[k] for k in ("mass", "length")], [0.7, 1.2], rtol=1e-3)
    assert abs(found(metrics)["friction"]) < 1e-3
    assert (np.asarray(after.model.belief.noise) < 1e-5).all()


def test_several_steps_ahead_beat_one_where_observations_are_noisy() -> None:
    wrong = {1: [], 10: []}
    for seed in range(12):
        data = rolled(truth, 150, seed, noise=0.05)
        for horizon, errors in wrong.items():
            _, metrics = fit(dataclasses.replace(SWING, horizon=horizon), POLE, data)
            errors.append([abs(found(metrics)[k] / TRUE[k] - 1.0) for k in ("mass", "friction")])
    one, ten = (np.mean(errors, axis=0) for errors in wrong.values())
    assert (ten < 0.8 * one).all(), (one, ten)


def test_stretches_end_with_their_episode_and_at_rows_that_cannot_be_used() -> None:
    learner = dataclasses.replace(SWING, horizon=6)
    first, second, third = (rolled(truth, 25, seed) for seed in range(3))
    third.x[11, 0] = np.nan
    _, metrics = fit(learner, POLE, first, second, third)
    assert metrics["left_out"] == 2  # it is a next state, too
    np.testing.assert_allclose([found(metrics)[k] for k in TRUE], list(TRUE.values()), rtol=1e-6)


def plane(rows: int, noise: float = 0.1, seed: int = 0, a: float = 0.9, b: float = 2.0):
    random = np.random.default_rng(seed)
    x, u = random.normal(size=(rows, 2)), random.normal(size=(rows, 1))
    y = np.asarray(a * x + b * u + noise * random.normal(size=(rows, 2)))
    return as_trajectory(x, u, y)


def test_the_posterior_of_a_linear_law_is_that_of_regression() -> None:
    data = plane(60)
    after, metrics = fit(dataclasses.replace(SIMPLE, doubt=1e4), SPEC, data)
    design = np.stack([data.x.ravel(), np.repeat(data.u[:, 0], 2)], axis=1)
    best, *_ = np.linalg.lstsq(design, data.y.ravel(), rcond=None)
    np.testing.assert_allclose([metrics["theta_a"], metrics["theta_b"]], best, rtol=0.01)
    residual = data.y - (design @ best).reshape(-1, 2)
    noise = np.sqrt((residual**2).sum(0) / (60 - 1.0))  # two parameters over two outputs
    np.testing.assert_allclose(after.model.belief.noise, noise, rtol=0.02)
    expected = np.linalg.inv(sum(np.einsum("i,j->ij", r, r) / noise[i % 2] ** 2 for i, r in enumerate(design)))
    root = np.asarray(after.model.root)
    np.testing.assert_allclose(root @ root.T, expected, rtol=0.05, atol=1e-7)


def test_predictions_are_widened_by_the_doubt_about_theta() -> None:
    after, _ = fit(SIMPLE, SPEC, plane(6))
    it, x, u = after.model, np.array([3.0, -2.0]), np.array([4.0])
    design = np.array([[3.0, 4.0], [-2.0, 4.0]])
    doubt = np.sum((design @ np.asarray(it.root)) ** 2, axis=1)
    here = predict(it, x, u)
    np.testing.assert_allclose(here.std, np.sqrt(np.asarray(it.belief.noise) ** 2 + doubt), rtol=1e-9)
    drawn = it.draw(jr.key(0), 4000)
    each = np.asarray(jax.vmap(lambda b: b.predict(x, u, NOW).mean)(drawn))
    np.testing.assert_allclose(each.std(0), np.sqrt(doubt), rtol=0.05)
    np.testing.assert_allclose(each.mean(0), here.mean, atol=5 * np.sqrt(doubt.max() / 4000))
    np.testing.assert_allclose(predict(jax.tree.map(lambda v: v[0], drawn), x, u).std, it.belief.noise)


def test_what_the_data_do_not_tell_stays_as_guessed_with_its_doubt() -> None:
    learner = PhysicsLearner(simple, {"a": 0.5, "b": 1.0, "idle": 4.0, "size": 2.0}, ("size",), doubt=0.5)
    after, metrics = fit(learner, SPEC, plane(50))
    assert metrics["theta_idle"] == pytest.approx(4.0)
    assert metrics["theta_size"] == pytest.approx(2.0)
    drawn = after.model.draw(jr.key(0), 4000).theta
    assert np.std(drawn["idle"]) == pytest.approx(0.5 * 4.0, rel=0.05)
    assert np.std(np.log(drawn["size"])) == pytest.approx(0.5, rel=0.05)
    assert np.std(drawn["b"]) < 0.05
    assert (np.asarray(drawn["size"]) > 0).all()


def test_arrays_and_trees_of_parameters() -> None:
    law = lambda x, u, theta: x + theta["arm"]["gains"] * u[0] + theta["bias"]
    learner = PhysicsLearner(law, {"arm": {"gains": np.ones(2)}, "bias": 0.0})
    random = np.random.default_rng(0)
    x, u = random.normal(size=(40, 2)), random.normal(size=(40, 1))
    _, metrics = fit(learner, SPEC, as_trajectory(x, u, x + np.array([0.3, -2.0]) * u + 0.7))
    np.testing.assert_allclose(metrics["theta_arm.gains"], [0.3, -2.0], rtol=1e-6)
    np.testing.assert_allclose(metrics["theta_bias"], 0.7, rtol=1e-6)


class Springs(eqx.Module):
    """Physics as a module with constants of its own."""

    offsets: jax.Array
    rate: float = 0.1

    def __call__(self, x, u, theta):
        return x + self.rate * (theta["k"] * (self.offsets - x) + u[0])


def test_a_module_may_be_the_law() -> None:
    law = Springs(jnp.array([1.0, -1.0]))
    random = np.random.default_rng(0)
    x, u = random.normal(size=(40, 2)), random.normal(size=(40, 1))
    data = as_trajectory(x, u, np.asarray(jax.vmap(lambda x, u: law(x, u, {"k": 3.0}))(x, u)))
    after, metrics = fit(PhysicsLearner(law, {"k": 1.0}), SPEC, data)
    np.testing.assert_allclose(metrics["theta_k"], 3.0, rtol=1e-6)
    assert any(np.array_equal(leaf, law.offsets) for leaf in jax.tree.leaves(after))
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(after)), "checkpoints hold arrays only"


def test_angles_are_compared_the_short_way_round() -> None:
    law = lambda x, u, theta: jnp.stack([x[0] + 0.1 * x[1], x[1] + theta["gain"] * u[0]])
    random = np.random.default_rng(0)
    x, u = np.stack([random.uniform(-np.pi, np.pi, 80), 4 * random.normal(size=80)], 1), random.normal(size=(80, 1))
    y = np.array(jax.vmap(lambda x, u: law(x, u, {"gain": 0.6}))(x, u))
    y[:, 0] = (y[:, 0] + np.pi) % (2 * np.pi) - np.pi
    after, metrics = fit(PhysicsLearner(law, {"gain": 1.0}), Spec(2, 1, angles=(0,)), as_trajectory(x, u, y))
    assert metrics["theta_gain"] == pytest.approx(0.6, rel=1e-6)
    assert (np.asarray(after.model.belief.noise) < 1e-4).all()
    found = predict(after.model, np.array([3.1, 1.0]), np.zeros(1))
    np.testing.assert_allclose(found.mean, [3.2 - 2 * np.pi, 1.0], rtol=1e-9)


def with_drag(x, u):
    return truth(x, u) + jnp.array([0.0, 0.0, -0.02]) * x[2] * jnp.abs(x[2]) + jnp.array([0.0, 0.05, 0.0]) * u[0]


@pytest.mark.parametrize("residual", [LinearLearner("quadratic"), EnsembleLearner(2, 32, gradient_steps=800)])
def test_a_learner_of_the_residual_explains_what_physics_does_not(residual) -> None:
    data, fresh = rolled(with_drag, 200), rolled(with_drag, 60, seed=5)
    errors = []
    for learner in (SWING, dataclasses.replace(SWING, residual=residual)):
        after, metrics = fit(learner, POLE, data)
        assert not metrics["failed"]
        errors.append(np.sqrt(np.mean((np.asarray(means(after.model, fresh.x, fresh.u)) - fresh.y) ** 2)))
    assert errors[1] < 0.6 * errors[0]
    assert any(name.startswith("residual_") for name in metrics)


def test_the_residuals_prediction_is_moved_by_what_physics_says() -> None:
    after, _ = fit(dataclasses.replace(SIMPLE, residual=LinearLearner()), SPEC, plane(40))
    model, x, u = after.model, np.array([0.3, 0.9]), np.array([-0.4])
    here, inner = predict(model, x, u), predict(model.belief.residual, x, u)
    moved = np.asarray(simple(x, u, model.belief.theta)) - x
    np.testing.assert_allclose(here.mean, inner.mean + moved, rtol=1e-12)
    np.testing.assert_allclose(here.sample(jr.key(3)), inner.sample(jr.key(3)) + moved, rtol=1e-12)
    np.testing.assert_allclose(here.log_prob(here.mean + 0.1), inner.log_prob(inner.mean + 0.1), rtol=1e-9)


def test_a_residual_model_supplies_the_learned_cost() -> None:
    spec = Spec(2, 1, extras=2)
    data = plane(60)
    data = dataclasses.replace(data, reward=3.0 - data.x[:, 0], terminated=data.x[:, 1] > 50.0)
    after, metrics = fit(dataclasses.replace(SIMPLE, residual=LinearLearner()), spec, data)
    assert not metrics["failed"]
    mean = predict(after.model, np.array([0.5, 0.0]), np.array([1.0])).mean
    np.testing.assert_allclose(mean, [0.45 + 2.0, 2.0, 2.5, 0.0], atol=0.1)
    with pytest.raises(UserError, match=r"predicts the next state only: give the physics model a residual learner"):
        SIMPLE.init(spec, jr.key(0))


def test_a_residual_that_fails_is_said() -> None:
    x, u, y = (np.asarray(v) for v in (plane(3).x, plane(3).u, plane(3).y))
    learner = dataclasses.replace(SIMPLE, residual=LinearLearner(lambda z: jnp.log(z)))
    _, metrics = fit(learner, SPEC, as_trajectory(x, u, y))
    assert metrics["failed"]
    assert metrics["says"].startswith("Residual model: The basis functions")
    assert not any(name.startswith("theta_") for name in metrics), "these equations are not kept"


def test_a_residual_that_fails_leaves_the_model_from_before() -> None:
    """New equations with what the old ones left over would be wrong by the difference."""
    learner = dataclasses.replace(SIMPLE, residual=LinearLearner(lambda z: jnp.where(z[0] > 3.5, jnp.nan, z)))
    before, metrics = fit(learner, SPEC, plane(40))
    assert not metrics["failed"]
    assert "says" not in metrics
    far = plane(41, a=1.8)
    far.x[7, 0] = 40.0  # where the basis is not defined
    after, metrics = learner.fit(before, as_dataset(SPEC, far), jr.key(2))
    assert metrics["failed"]
    assert after is before


def test_what_the_residual_learner_says_is_said() -> None:
    gp = GPLearner(restarts=0, evaluations=5, functions=4, waves=8)
    auto = AutoLearner(gp, EnsembleLearner(2, 8, gradient_steps=5))
    _, metrics = fit(dataclasses.replace(SIMPLE, residual=auto), SPEC, plane(20))
    assert metrics["says"].startswith("Residual model: the Gaussian process, as there are 20 rows of data")
    assert list(warnings_of({f"fit_{name}": value for name, value in metrics.items()}, 20, 0)) == [metrics["says"]]


def test_a_refit_begins_where_the_last_one_ended() -> None:
    learner = dataclasses.replace(SWING, rounds=3)
    data = as_dataset(POLE, rolled(truth, 50))
    fitted, wrong = learner.init(POLE, jr.key(0)), []
    for _ in range(4):
        fitted, metrics = learner.fit(fitted, data, jr.key(0))
        wrong.append(abs(found(metrics)["mass"] - 0.8))
    assert wrong[-1] < 1e-6


def test_shapes_and_dtypes_never_change() -> None:
    begun = SWING.init(POLE, jr.key(0))
    after, _ = fit(SWING, POLE, rolled(truth, 50))
    look = lambda tree: [(v.shape, v.dtype, v.weak_type) for v in jax.tree.leaves(tree)]
    assert jax.tree.structure(after) == jax.tree.structure(begun)
    assert look(after) == look(begun)
    assert after.resized({}) is after


def test_check_model() -> None:
    check_model(SIMPLE, Spec(2, 1))
    check_model(dataclasses.replace(SIMPLE, residual=LinearLearner()), Spec(3, 2, extras=2, angles=(2,)))


@pytest.mark.parametrize("learner", [SIMPLE, dataclasses.replace(SIMPLE, residual=LinearLearner())], ids=["", "+"])
@pytest.mark.parametrize("case", CASES)
def test_poor_data(case, learner) -> None:
    begun = learner.init(SPEC, jr.key(0))
    data = as_dataset(SPEC, episode(case))
    after, metrics = learner.fit(begun, data, jr.key(1))
    assert all_finite(after)
    here = predict(after.model, np.array([0.1, -0.2]), np.array([0.3]))
    assert all_finite((here.mean, here.sample(jr.key(0)))), here
    assert metrics["failed"] == (int(data.count) - metrics["left_out"] < 2)
    if metrics["failed"]:
        assert after is begun


def raises(x, u, theta):
    raise ValueError("no such spring")


def branches(x, u, theta):
    return x if x[0] > 0 else -x


@pytest.mark.parametrize(
    ("law", "match"),
    [
        (lambda x, u, theta: x[:1], r"returned an array of shape \(1,\).*expected the next state.*shape \(2,\)"),
        (lambda x, u, theta: jnp.outer(x, x), r"returned an array of shape \(2, 2\)"),
        (lambda x, u, theta: x > 0, r"dtype bool; expected the next state"),
        (lambda x, u, theta: (x, x), r"expected the next state, an array of shape \(2,\)"),
        (lambda x, u, theta: None, r"returned None; expected"),
        (lambda x, u, theta: x * theta["mass"], r"failed: KeyError: 'mass'"),
        (lambda x, u: x, r"x of size 2 and u of size 1, failed: TypeError"),
        (lambda x, u, theta: x + u @ jnp.ones((3, 2)), r"u of size 1, failed: TypeError"),
        (raises, r"failed: ValueError: no such spring"),
        (branches, r"failed: TracerBoolConversionError"),
    ],
)
def test_a_law_that_is_none_is_refused(law, match) -> None:
    with pytest.raises(UserError, match=match):
        PhysicsLearner(law, {"a": 1.0}).init(SPEC, jr.key(0))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"theta": {}}, r"theta of the physics model is empty"),
        ({"theta": {"a": "much", "b": 1.0}}, r"theta's 'a' is much; it must be a finite number"),
        ({"theta": {"a": np.nan, "b": 1.0}}, r"theta's 'a' is nan; it must be a finite number"),
        ({"theta": {"a": np.array([1.0, np.inf]), "b": 1.0}}, r"theta's 'a' is .*it must be a finite number"),
        ({"positive": ("mass",)}, r"positive names 'mass', which is not in theta; theta has a, b"),
        ({"theta": {"a": 0.0, "b": 1.0}, "positive": ("a",)}, r"theta's 'a' is 0.0; it is said to be positive"),
        ({"theta": {"a": -1.0, "b": 1.0}, "positive": ("a",)}, r"theta's 'a' is -1.0; it is said to be positive"),
        ({"horizon": 0}, r"horizon of the physics model is 0; it must be at least 1"),
        ({"doubt": 0.0}, r"doubt of the physics model is 0.0; it must be a positive number"),
        ({"doubt": -1.0}, r"doubt of the physics model is -1.0; it must be a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, match) -> None:
    with pytest.raises(UserError, match=match):
        dataclasses.replace(SIMPLE, **settings).init(SPEC, jr.key(0))


def test_a_law_that_gives_nothing_finite_is_refused() -> None:
    law = lambda x, u, theta: jnp.sqrt(-(theta["a"] ** 2) - x**2)
    with pytest.raises(UserError, match=r"gives no finite state for any of 40 rows.*with x = .*u = .*theta as first"):
        fit(PhysicsLearner(law, {"a": 1.0}), SPEC, plane(40))


def test_rows_where_the_law_is_not_finite_are_left_out() -> None:
    law = lambda x, u, theta: x + theta["a"] * u[0] + 0.0 * jnp.sqrt(x[0] + 0.5)
    data = plane(40, noise=0.0, a=1.0, b=0.7)
    _, metrics = fit(PhysicsLearner(law, {"a": 1.0}), SPEC, data)
    assert metrics["left_out"] == (data.x[:, 0] < -0.5).sum() > 0
    assert metrics["theta_a"] == pytest.approx(0.7, rel=1e-6)


def test_derivatives_that_are_not_finite_fail_and_say_so() -> None:
    law = lambda x, u, theta: x + jnp.sqrt(theta["a"]) * u[0]
    _, metrics = fit(PhysicsLearner(law, {"a": 0.0}), SPEC, plane(40))
    assert metrics["failed"]
    assert "derivatives of f with respect to theta are not finite" in metrics["says"]


@pytest.mark.parametrize(("n", "m", "match"), [(2, 2, "actions of size 2"), (3, 1, "states of size 3")])
def test_data_of_another_system_are_refused(n, m, match) -> None:
    x = np.zeros((10, n))
    other = as_dataset(Spec(n, m), as_trajectory(x, np.zeros((10, m)), x))
    with pytest.raises(UserError, match=match):
        SIMPLE.fit(SIMPLE.init(SPEC, jr.key(0)), other, jr.key(0))


def test_it_needs_64_bits() -> None:
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(UserError, match=r"The physics model computes in float64.*jax_enable_x64"):
            SIMPLE.init(SPEC, jr.key(0))
    finally:
        jax.config.update("jax_enable_x64", True)
