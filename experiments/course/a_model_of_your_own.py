# %% [markdown]
# # A model of your own
#
# Forethought plans with anything that says where one step leads.  Here you write such a model in two classes, a
# regression on random waves, check it, plan with it on Pendulum, find out how wrong it is, and give it doubt.
#
# Run it cell by cell, or as a program: `python experiments/course/a_model_of_your_own.py` (under a minute on one
# core).  With FORETHOUGHT_COURSE=quick everything is tiny, and no number means anything.

# %%
from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from forethought import (
    ICEM,
    V15,
    AbstractDynamics,
    AbstractFitted,
    AbstractLearner,
    Experiment,
    GPLearner,
    Imagination,
    Spec,
    evaluate,
    load,
    task,
)
from forethought.math.gaussian import DiagonalGaussian
from forethought.testing import CheckFailed, check_model

AUTO = Imagination()
QUICK = os.environ.get("FORETHOUGHT_COURSE") == "quick"
TASK = "Pendulum-v1"
OUT = Path("runs") / f"own-model-{time.strftime('%Y%m%d-%H%M%S')}"

# %% [markdown]
# ## The model
#
# y = x + W^T phi(z) + noise, with z = [x; u] and phi the cosines of random directions: a network whose first layer is
# never trained (Rahimi and Recht, *Random features for large-scale kernel machines*, NIPS 2007).  Two methods are all
# that planners ask: `predict`, and `draw`, which gives beliefs about the system.


# %%
class Waves(AbstractDynamics):
    """y = [x; 0] + scale * W^T cos(frequencies z + phases), with Gaussian noise."""

    frequencies: jax.Array
    phases: jax.Array
    weights: jax.Array
    """[p, k]: of each wave in each output."""
    std: jax.Array
    """[k]."""

    def phi(self, x: jax.Array, u: jax.Array) -> jax.Array:
        """The waves at a point."""
        z = jnp.concatenate([x, u]).astype(jnp.float32)
        return jnp.cos(self.frequencies @ z + self.phases)

    def predict(self, x, u, t):
        """The next state, and after it what else is learned (here nothing)."""
        change = self.phi(x, u) @ self.weights
        stay = jnp.concatenate([x, jnp.zeros(change.shape[0] - x.shape[0])]).astype(jnp.float32)
        return DiagonalGaussian(stay + change, self.std)

    def draw(self, key, particles):
        """Copies: this model has no doubt."""
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (particles, *v.shape)), self)


class FittedWaves(AbstractFitted):
    """What is carried from fit to fit."""

    model: Waves


class WavesLearner(AbstractLearner):
    """Ridge regression of the change of state on random waves."""

    count: int = 100
    """How many waves."""
    width: float = 3.0
    """Length-scale of the functions that they make, in units of the states."""
    ridge: float = 1e-3

    def init(self, spec, key):
        """Waves are drawn once; the weights are zero: nothing changes."""
        k_direction, k_phase = jr.split(key)
        directions = jr.normal(k_direction, (self.count, spec.n + spec.m), jnp.float32) / self.width
        phases = jr.uniform(k_phase, (self.count,), jnp.float32, 0.0, 2.0 * jnp.pi)
        weights = jnp.zeros((self.count, spec.outputs), jnp.float32)
        return FittedWaves(Waves(directions, phases, weights, jnp.ones((spec.outputs,), jnp.float32)))

    def fit(self, fitted, data, key):
        """The same tree as `init`, whatever the data: then nothing is compiled twice."""
        weights, std = regress(fitted.model, data, self.ridge)
        model = eqx.tree_at(lambda m: (m.weights, m.std), fitted.model, (weights, std))
        return FittedWaves(model), {"std": std}


@eqx.filter_jit
def regress(model: Waves, data: Any, ridge: float):
    """Least squares on the rows in use: the others are padding, and have no weight."""
    used = (jnp.arange(data.capacity) < data.count).astype(jnp.float32)[:, None]
    phi = jax.vmap(model.phi)(data.x, data.u) * used
    extras = jnp.stack([data.reward, data.terminated], 1)[:, : model.std.shape[0] - data.y.shape[1]]
    change = jnp.concatenate([data.y - data.x, extras], 1).astype(jnp.float32) * used
    gram = phi.T @ phi + ridge * jnp.eye(phi.shape[1], dtype=phi.dtype)
    weights = jnp.linalg.solve(gram, phi.T @ change)
    variance = jnp.sum((change - phi @ weights) ** 2, 0) / jnp.sum(used)
    return weights, jnp.sqrt(variance + 1e-8)


# Question 1: The waves are of z in its own units.  Pendulum's speed goes to 8 and its cosine to 1.  What does one
# `width` for both do, and what would you change?
# Question 2: Why is the *change* regressed, and not the next state?

# %% [markdown]
# ## Check it before you train
#
# A check says in one sentence what is wrong.  First a model with a mistake that is easy to make.


# %%
class Wrong(AbstractLearner):
    """Its fit has other shapes than its `init`."""

    count: int = 20

    def init(self, spec, key):
        """As it should be."""
        return WavesLearner(self.count).init(spec, key)

    def fit(self, fitted, data, key):
        """Twice as many waves as before."""
        return WavesLearner(2 * self.count).init(Spec(n=data.x.shape[1], m=data.u.shape[1]), key), {}


try:
    check_model(Wrong(), Spec(n=3, m=1))
except CheckFailed as error:
    print("The check says:", error)
check_model(WavesLearner(20 if QUICK else 100), Spec(n=3, m=1))
print("WavesLearner passes.")

# Question 3: Why must every fit have the shapes of `init`?  (Look at what a run would have to do otherwise.)

# %% [markdown]
# ## Plan with it


# %%
def learn(name: str, learner: AbstractLearner, imagination: Imagination = AUTO) -> None:
    """v1.5 with this model; prints what came of it, and how wrong the model was before it learned each piece."""
    began = time.perf_counter()
    if QUICK:
        planner = ICEM(imagination, samples=8, elites=4, iterations=1)
        algorithm = V15(planner, learner, base_steps=10, refit_every=10, horizon=3)
    else:
        algorithm = V15(ICEM(imagination, samples=128, iterations=3), learner, base_steps=100)
    experiment = Experiment(TASK, algorithm, steps=30 if QUICK else 240, limit=10 if QUICK else None, out=OUT / name)
    run = experiment.run().run
    held = load(run, experiment=experiment)  # a run holds data, never code: what is yours is named again
    starts = task(TASK).starts[: 1 if QUICK else 3]
    found = evaluate(held.task, held.policy, jr.key(0), starts)
    turns = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    planned = [turn for turn in turns if turn.get("planned")]
    print(f"\n{name}: mean return {found.mean_return:.0f} (solved: -200), {time.perf_counter() - began:.0f} s")
    print("steps  error after 1      after 20   in 95% band  promised too much by")
    for turn in planned:
        row = [turn[key] for key in ("model_error_1", "model_error_20", "coverage_95_1", "exploitation_gap")]
        print(f"{turn['env_steps']:5}  " + "  ".join("       -" if v is None else f"{v:12.3g}" for v in row))


learn("waves", WavesLearner(20 if QUICK else 100))
if not QUICK:
    learn("gp", GPLearner())

# Question 4: After how many steps is the error of your model that of the Gaussian process?
# Question 5: Try width 1 and 10, and 30 and 300 waves.  Which error shows first that a choice is bad: one step ahead
# or twenty?
# Question 6: Is your model as sure as it should be?  95% of what happens should lie in its 95% band.

# %% [markdown]
# ## Give it doubt
#
# The weights of a ridge regression have a posterior, N(W, std^2 (Phi^T Phi + ridge)^-1).  A model that draws from it
# has beliefs that differ where there were no data.


# %%
class Doubtful(AbstractDynamics):
    """Waves with a posterior of their weights."""

    waves: Waves
    root: jax.Array
    """[p, p], root root^T = (Phi^T Phi + ridge)^-1."""

    def predict(self, x, u, t):
        """The mean, wider where the waves were not seen."""
        said = self.waves.predict(x, u, t)
        doubt = jnp.sum((self.root.T @ self.waves.phi(x, u)) ** 2)
        return DiagonalGaussian(said.mean, said.std * jnp.sqrt(1.0 + doubt))

    def draw(self, key, particles):
        """Weights from the posterior."""
        noise = jr.normal(key, (particles, *self.waves.weights.shape), jnp.float32)
        weights = self.waves.weights + jnp.einsum("pq,bqk->bpk", self.root, noise) * self.waves.std
        many = self.waves.draw(key, particles)
        return eqx.tree_at(lambda m: m.weights, many, weights)


class FittedDoubtful(AbstractFitted):
    """What is carried from fit to fit."""

    model: Doubtful


class DoubtfulLearner(AbstractLearner):
    """`WavesLearner` with the posterior of its weights."""

    waves: WavesLearner = WavesLearner()

    def init(self, spec, key):
        """No doubt yet: the first fit brings it."""
        inner = self.waves.init(spec, key).model
        return FittedDoubtful(Doubtful(inner, jnp.zeros((self.waves.count, self.waves.count), jnp.float32)))

    def fit(self, fitted, data, key):
        """The fit of the waves, and the root of the posterior's covariance."""
        inner, metrics = self.waves.fit(FittedWaves(fitted.model.waves), data, key)
        return FittedDoubtful(Doubtful(inner.model, posterior_root(inner.model, data, self.waves.ridge))), metrics


@eqx.filter_jit
def posterior_root(model: Waves, data: Any, ridge: float) -> jax.Array:
    """The inverse of the Cholesky factor of Phi^T Phi + ridge, transposed; in float64: float32 has too few digits."""
    used = (jnp.arange(data.capacity) < data.count)[:, None]
    phi = (jax.vmap(model.phi)(data.x, data.u) * used).astype(jnp.float64)
    lower = jnp.linalg.cholesky(phi.T @ phi + ridge * jnp.eye(phi.shape[1], dtype=jnp.float64))
    identity = jnp.eye(phi.shape[1], dtype=jnp.float64)
    return jax.scipy.linalg.solve_triangular(lower, identity, lower=True).T.astype(jnp.float32)


doubtful = DoubtfulLearner(WavesLearner(20 if QUICK else 100))
learn("doubtful, planning in the mean", doubtful)
learn("doubtful, planning in drawn beliefs", doubtful, Imagination(particles=2 if QUICK else 3, propagation="ts-inf"))

# Question 7: Has the share in the 95% band changed?  Has the return?
# Question 8: Planning in drawn beliefs is slower.  Is it better here?  When would you want it in any case?
# Question 9: Put the classes and `experiment = Experiment(TASK, V15(learner=DoubtfulLearner()), steps=300)` into a file
# of their own.  `forethought train FILE` and `forethought diagnose RUN --experiment FILE` then say more about it.
