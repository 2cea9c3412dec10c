"""What ships passes its own checks, and what is broken is told so in the right sentence."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought import CEM, ICEM, MPPI, EnsembleLearner, Imagination, RandomShooting, task
from forethought.checks.sentences import name_of
from forethought.core import (
    AbstractCost,
    AbstractDynamics,
    AbstractFitted,
    AbstractLearner,
    AbstractPlanner,
    AbstractPolicy,
    AbstractPrediction,
    AbstractWitness,
    AbstractWorld,
)
from forethought.costs.learned import LearnedCost
from forethought.policies.excitation import ColouredPolicy, RandomPolicy
from forethought.testing import CheckFailed, check_cost, check_model, check_planner, check_policy, check_world
from forethought.types import Box, Spec

SMALL = Imagination(particles=2)
PLANT = Spec(2, 1)


# What ships.


PLANNERS = [ICEM(SMALL, samples=32), CEM(SMALL, samples=64, elites=8), MPPI(SMALL, samples=64)]


@pytest.mark.parametrize("planner", PLANNERS, ids=lambda p: type(p).__name__)
def test_shipped_planners(planner) -> None:
    check_planner(planner, discrete=False)


@pytest.mark.slow
@pytest.mark.parametrize("planner", PLANNERS, ids=lambda p: type(p).__name__)
def test_shipped_planners_with_choices(planner) -> None:
    check_planner(planner)


def test_shipped_baseline() -> None:
    check_planner(RandomShooting(SMALL, samples=200))


LEARNER = EnsembleLearner(members=2, width=8, depth=1, gradient_steps=100)


def test_shipped_learner() -> None:
    check_model(LEARNER, Spec(3, 1, extras=2, angles=(2,)))


@pytest.mark.slow
def test_shipped_learner_on_both_problems() -> None:
    check_model(LEARNER)


@pytest.mark.parametrize("name", ["CartPole-v1", "cartpole-swingup"])
def test_shipped_costs_policies_and_worlds(name) -> None:
    found = task(name)
    check_cost(found.cost, found.spec)
    check_policy(RandomPolicy(found.world.actions), found.spec, found.world.actions)
    check_policy(ColouredPolicy(found.world.actions), found.spec, found.world.actions)
    check_world(found.world)


def test_shipped_learned_cost() -> None:
    check_cost(LearnedCost(3), Spec(3, 1))


def refused(check, *arguments: Any, **named: Any) -> str:
    """The one sentence."""
    with pytest.raises(CheckFailed) as failure:
        check(*arguments, **named)
    text = str(failure.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert "expected" in text
    return text


# Costs.


class Cost(AbstractCost):
    """A cost that can be broken in each of its parts."""

    broken: str = eqx.field(static=True, default="")
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x, u, y, t):
        if self.broken == "vector":
            return x**2
        if self.broken == "double":
            return jnp.sum(np.array([1.0, 0.1]) * x**2)
        if self.broken == "branch":
            return jnp.sum(x**2) if x[0] > 0.0 else jnp.sum(u**2)
        if self.broken == "nan":
            return jnp.sum(jnp.sqrt(x))
        return jnp.sum(y**2)

    def terminal(self, x):
        return 0.0 if self.broken == "number" else jnp.zeros((), x.dtype)

    def alive(self, y):
        return jnp.float32(1.0) if self.broken == "alive" else jnp.abs(y[0]) < 9.0


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (
            "vector",
            "Cost.stage returned an array of shape (2,) and dtype float32; expected a float32 array of shape ()",
        ),
        ("double", "Cost.stage returned float64 for a float32 state with 64-bit on; expected float32"),
        ("branch", "Cost.stage under jit raised TracerBoolConversionError"),
        ("nan", "at random states; expected finite numbers"),
        ("number", "Cost.terminal returned float 0.0; expected a float32 array"),
        ("alive", "Cost.alive returned an array of shape () and dtype float32; expected a boolean"),
    ],
)
def test_broken_costs(broken, sentence) -> None:
    assert sentence in refused(check_cost, Cost(broken), PLANT)


def test_a_sound_cost() -> None:
    check_cost(Cost(), PLANT)


def test_what_is_no_object_of_the_kind() -> None:
    assert "Cost is a class; expected an object of it" in refused(name_of, Cost, AbstractCost)
    assert "Cost is no AbstractPlanner; expected" in refused(name_of, Cost(), AbstractPlanner)


# Planners: a sound one with a fault put in.


class Faulty(AbstractPlanner):
    """Random shooting with a fault."""

    fault: str = eqx.field(static=True)
    inner: RandomShooting = RandomShooting(Imagination(particles=1), samples=100)

    def init(self, problem):
        return self.inner.init(problem)

    def plan(self, problem, warm, key):
        plan, after = self.inner.plan(problem, warm, key)
        change = lambda where, value: eqx.tree_at(where, plan, value)
        if self.fault == "limits":
            plan = change(lambda p: p.policy.us, 3.0 * plan.policy.us)
        if self.fault == "idle":
            plan = change(lambda p: p.policy.us, 0.0 * plan.policy.us)
        if self.fault == "ok":
            plan = change(lambda p: p.ok, jnp.ones((), bool))
        if self.fault == "unsafe":
            plan = change(lambda p: p.policy.us, jnp.where(plan.ok, plan.policy.us, 1.0))
        if self.fault == "cost":
            plan = change(lambda p: p.cost, 0.1 * plan.cost)
        if self.fault == "warm":
            after = eqx.tree_at(lambda w: w.mean, after, after.mean[1:])
        return (plan, after, {}) if self.fault == "triple" else (plan, after)

    def shift(self, warm):
        return eqx.tree_at(lambda w: w.mean, warm, warm.mean[1:]) if self.fault == "shift" else self.inner.shift(warm)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("limits", "expected an action from [-1.0] to [2.0]"),
        ("idle", "doing nothing costs"),
        ("ok", "Faulty.plan says ok=True for a state that is NaN; expected ok=False"),
        ("unsafe", "Faulty.plan gave the action [1.] for a state that is NaN; expected the safe one, [0.]"),
        ("cost", "expected the same within a tenth"),
        ("warm", "Faulty.plan (warm start) returned .mean as an array of shape (9, 1)"),
        ("shift", "Faulty.shift returned .mean as an array of shape (9, 1)"),
        ("triple", "expected a tuple (plan, warm)"),
    ],
)
def test_broken_planners(fault, sentence) -> None:
    assert sentence in refused(check_planner, Faulty(fault), discrete=False)


# Learners: linear regression with a fault.


class Normal(AbstractPrediction):
    mean: Any
    std: Any
    fault: str = eqx.field(static=True)

    def sample(self, key):
        if self.fault == "sample":
            return self.mean + self.std
        shift = 1.0 if self.fault == "biased" else 0.0
        return self.mean + self.std * (shift + jr.normal(key, self.mean.shape, self.mean.dtype))

    def log_prob(self, y):
        return jax.scipy.stats.norm.logpdf(y, self.mean, self.std).sum()


class Line(AbstractDynamics):
    """y = [x, u] W."""

    weight: Any
    std: Any
    fault: str = eqx.field(static=True)

    def predict(self, x, u, t):
        y = jnp.concatenate([x, u]) @ self.weight
        return Normal(y[:1] if self.fault == "short" else y, self.std, self.fault)

    def draw(self, key, particles):
        if self.fault == "draw":
            return self
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *v.shape)), self)


class FittedLine(AbstractFitted):
    model: Line
    fits: Any


class Regression(AbstractLearner):
    fault: str = eqx.field(static=True, default="")

    def init(self, spec, key):
        size = (spec.n + spec.m, spec.n)
        model = Line(jnp.zeros(size, jnp.float32), jnp.ones((spec.n,), jnp.float32), self.fault)
        return FittedLine(model, 0 if self.fault == "count" else jnp.zeros((), jnp.int32))

    def fit(self, fitted, data, key):
        rows = slice(0, int(data.count)) if self.fault == "slice" else slice(None)
        weight = (np.arange(data.capacity) < data.count)[rows].astype(np.float32)
        if self.fault == "padding":
            weight = np.ones_like(weight)
        z = np.concatenate([data.x, data.u], 1)[rows].astype(np.float32)
        y = data.y[rows].astype(np.float32)
        found = _least_squares(z, y, weight)
        if self.fault == "noise":
            found = found + np.random.default_rng().normal(size=found.shape).astype(np.float32)
        if self.fault == "lazy":
            found = fitted.model.weight
        if self.fault == "dtype":
            found = found.astype(jnp.float16)
        model = Line(found, jnp.full_like(fitted.model.std, 0.1), self.fault)
        after = FittedLine(model, fitted.fits + 1)
        return after if self.fault == "alone" else (after, {})


@jax.jit
def _least_squares(z, y, weight):
    left = (z * weight[:, None]).T @ z + 1e-4 * jnp.eye(z.shape[1], dtype=z.dtype)
    return jnp.linalg.solve(left, (z * weight[:, None]).T @ y)


def test_a_sound_learner() -> None:
    check_model(Regression(), PLANT)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("count", "returned .fits as int 1; what init returned had int 0; expected the same, or an array"),
        ("dtype", "Regression.fit returned .model.weight as an array of shape (3, 2) and dtype float16"),
        ("alone", "expected a tuple (fitted, metrics)"),
        ("slice", "programs again when its data grew from 40 to 50 rows"),
        ("padding", "Regression.fit looked at rows from data.count on"),
        ("noise", "gave two models for the same data and the same key"),
        ("lazy", "guessing no change has"),
        ("short", "expected finite numbers of shape (2,): the next state, then 0 extra outputs"),
        ("draw", "Line.draw(key, 1) left .weight with shape (3, 2); expected a leading axis of 1 on every array"),
        ("sample", "Line: sample does not vary with its key"),
        ("biased", "standard errors from mean"),
    ],
)
def test_broken_learners(fault, sentence) -> None:
    assert sentence in refused(check_model, Regression(fault), PLANT)


# Policies.


class Hold(AbstractPolicy):
    fault: str = eqx.field(static=True)

    def init(self, x, key):
        return 0 if self.fault == "count" else jnp.zeros((), jnp.int32)

    def act(self, carry, x, t):
        u = jnp.full((1,), 5.0 if self.fault == "limits" else 0.5, jnp.float32)
        if self.fault == "shape":
            u = u[0]
        if self.fault == "branch" and t > 3:
            u = -u
        return u, carry + 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("limits", "Hold.act at step 0 gave [5.0]; expected an action from [-1.0] to [1.0]"),
        ("shape", "expected an action of shape (1,)"),
        ("branch", "it must work on traced arrays"),
        ("count", "the carry it was given had int 0"),
    ],
)
def test_broken_policies(fault, sentence) -> None:
    box = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    assert sentence in refused(check_policy, Hold(fault), PLANT, box)


# Worlds.


class Lossy(AbstractWitness):
    """A witness that is not told everything as it was."""

    def __init__(self, witness, fault):
        self.witness, self.fault, self.rows = witness, fault, []

    def began(self, x, condition):
        if self.fault == "unbegun":
            return
        if self.fault == "twice begun":
            self.witness.began(x, condition)
        self.witness.began(x + 1.0 if self.fault == "elsewhere" else x, condition + (self.fault == "other"))

    def happened(self, u, y, reward, terminated, truncated):
        if self.fault == "deaf":
            return
        if self.fault == "backwards":
            self.rows.append((u, y, reward, terminated, truncated))
            if len(self.rows) == 7:
                for row in self.rows[::-1]:
                    self.witness.happened(*row)
                self.rows.clear()
            return
        if self.fault == "unclipped":
            u = u + 0.5
        if self.fault == "single":
            y = y.astype(np.float16)
        if self.fault == "sign":
            reward = -reward
        if self.fault == "flag":
            truncated = not truncated
        if self.fault == "echo":
            self.witness.happened(u, y, reward, terminated, truncated)
        with contextlib.suppress(Exception) if self.fault == "hides" else contextlib.nullcontext():
            self.witness.happened(u, y, reward, terminated, truncated)


class Spoiled(AbstractWorld):
    """A sound world whose answers are changed on the way out."""

    spec: Any
    actions: Any
    inner: AbstractWorld
    fault: str = eqx.field(static=True)
    replayable: Any = eqx.field(static=True, default=True)
    log: list = eqx.field(static=True, default_factory=list)

    def reset(self, key, condition=None):
        if self.log[-1:] == ["closed"] and self.fault == "shut":
            raise OSError("the port is closed.")
        moved = self.log[-1:] == ["closed"] and self.fault == "moved"
        self.log.append(condition)
        if moved:
            return self.inner.reset(key, 5)
        at = self.inner.reset(key, None if self.fault == "reset" else condition)
        if self.fault == "restless":
            at = dataclasses.replace(at, x=np.float32(at.x + 0.01 * len(self.log)).astype(np.float64))
        return dataclasses.replace(at, t=np.asarray(1)) if self.fault == "clock" else at

    def collect(self, policy, carry, at, key, steps):
        if self.fault == "fresh" and self.log[-1] == 8 and int(at.t) > 0:
            at = self.inner.reset(key, 8)
        if self.fault == "random":
            at = self.inner.reset(key, len(self.log))
        if self.fault == "worn":
            key = jr.key(len(self.log))
        trajectory, carry, now = self.inner.collect(policy, carry, at, key, steps)
        changes = {
            "reward": ("reward", trajectory.reward[:, None]),
            "flags": ("terminated", trajectory.terminated.astype(float)),
            "torn": ("x", np.concatenate([trajectory.x[:1], trajectory.x[:0:-1]])),
            "start": ("x", trajectory.x[::-1]),
            "time": ("t", trajectory.t * 0),
            "action": ("u", trajectory.u * 9.0),
        }
        if self.fault in changes:
            field, value = changes[self.fault]
            trajectory = eqx.tree_at(lambda t: getattr(t, field), trajectory, value)
        now = dataclasses.replace(now, done=np.asarray(True)) if self.fault == "done" else now
        return trajectory, carry, now

    def rollouts(self, policy, key, conditions, steps):
        found = self.inner.rollouts(policy, key, conditions, steps)
        return found[::-1] if self.fault == "order" else found

    def fresh(self):
        if self.fault == "new every time":
            return Spoiled(self.spec, self.actions, dataclasses.replace(self.inner, noise_std=np.ones(3)), "")
        return self

    def watched(self, witness):
        if self.fault == "unwatched":
            return self
        if self.fault == "no world":
            return None
        seen = dataclasses.replace(self, inner=self.inner.watched(Lossy(witness, self.fault)))
        return seen if self.fault == "spied" else Unspied(self.spec, self.actions, self.replayable, seen, self)

    def close(self):
        if self.fault == "stuck" or (self.fault == "once" and self.log[-1] == "closed"):
            raise OSError("the port is closed.")
        self.log.append("closed")


class Unspied(AbstractWorld):
    """The watched world, whose copies nobody watches."""

    spec: Any
    actions: Any
    replayable: Any = eqx.field(static=True)
    seen: AbstractWorld
    plain: AbstractWorld

    def reset(self, key, condition=None):
        return self.seen.reset(key, condition)

    def collect(self, policy, carry, at, key, steps):
        return self.seen.collect(policy, carry, at, key, steps)

    def rollouts(self, policy, key, conditions, steps):
        return self.plain.rollouts(policy, key, conditions, steps)

    def fresh(self):
        return self.plain.fresh()

    def watched(self, witness):
        return self.plain.watched(witness)

    def close(self):
        self.plain.close()


@pytest.fixture(scope="module")
def pendulum():
    return task("pendulum").world


@pytest.fixture(scope="module")
def noisy(pendulum):
    """A world in which the key of `collect` counts."""
    return dataclasses.replace(pendulum, noise_std=np.full(3, 0.01, np.float32))


def spoiled(world, fault, **more):
    return Spoiled(world.spec, world.actions, world, fault, **more)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("reset", "expected the same start"),
        ("clock", "Spoiled.reset gave t = 1; expected 0"),
        ("reward", "reward is an array of shape (7, 1) and dtype float64; expected finite floats of shape (7,)"),
        ("flags", "expected booleans of shape (7,)"),
        ("start", "expected the cursor's"),
        ("torn", "y[t] is not x[t+1]"),
        ("time", "expected [0, 1, 2, 3, 4, 5, 6]"),
        ("action", "expected an action from [-2.0] to [2.0]"),
        ("done", "the cursor's done is True and the last flags say False"),
        ("order", "Spoiled.rollouts with condition 12: x[0] is"),
        ("random", "x[0] is"),
        ("fresh", "Spoiled.fresh is not independent"),
    ],
)
def test_broken_worlds(fault, sentence, pendulum) -> None:
    assert sentence in refused(check_world, spoiled(pendulum, fault))


SEEN = "(x, condition, transitions before it)"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unbegun", f"began was called with {SEEN} []; expected [("),
        ("twice begun", f"began was called with {SEEN} [("),
        ("elsewhere", f"began was called with {SEEN} [("),
        ("other", ", 8, 0)]; expected [("),
        ("deaf", "the witness saw 0 transitions when collect returned 7; expected each of them once"),
        ("unwatched", "the witness saw 0 transitions when collect returned 7"),
        ("echo", "the witness saw 14 transitions when collect returned 7"),
        ("backwards", "the witness saw u as "),
        ("unclipped", "the witness saw u as "),
        ("single", "the witness saw y as "),
        ("sign", "the witness saw reward as "),
        ("flag", "the witness saw truncated as True at step 0, and collect returned False; expected the same"),
        ("hides", "Spoiled.watched hid an error of the witness; expected collect to end with it"),
        ("spied", "Spoiled.fresh of a watched world is watched too; expected a copy that nobody watches"),
        ("no world", "Spoiled.watched returned NoneType None; expected an AbstractWorld"),
    ],
)
def test_worlds_that_do_not_show_what_happens(fault, sentence, noisy) -> None:
    assert sentence in refused(check_world, spoiled(noisy, fault))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("worn", "for the same condition, policy and key; expected the same (declare replayable=False if that"),
        ("new every time", "policy and key in a fresh copy; expected the same (declare replayable=False if that"),
        ("restless", "expected the same start (declare replayable=False if that cannot be)"),
        ("moved", "and then after close ["),
    ],
)
def test_worlds_that_are_not_as_replayable_as_they_say(fault, sentence, noisy) -> None:
    assert sentence in refused(check_world, spoiled(noisy, fault))
    check_world(spoiled(noisy, fault, replayable=False))


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_replayable_is_yes_or_no(value, pendulum) -> None:
    assert "Spoiled.replayable is " in refused(check_world, spoiled(pendulum, "", replayable=value))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("stuck", "Spoiled.close raised OSError (the port is closed); expected no error"),
        ("once", "Spoiled.close raised OSError (the port is closed); expected no error"),
        ("shut", "Spoiled.reset raised OSError (the port is closed); expected no error"),
    ],
)
def test_worlds_that_cannot_be_closed(fault, sentence, pendulum) -> None:
    assert sentence in refused(check_world, spoiled(pendulum, fault))


def test_a_sound_world_and_a_machine(noisy) -> None:
    check_world(spoiled(noisy, ""))
    check_world(spoiled(noisy, "", replayable=False))
