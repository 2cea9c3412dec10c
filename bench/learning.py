"""Learning studies: what is run, and when the controller held so far is judged.

Each study is one task, one algorithm and the steps at which the controller is frozen and evaluated on ten fixed
starts, without exploration or further learning.  `runner.py` runs them, one process per seed.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import wadler_lindig

from forethought.algorithms.globally import V05, V10, V15, V20
from forethought.core import AbstractAlgorithm, AbstractLearner, Task
from forethought.math.rollout import Imagination
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gmm import GMMLearner
from forethought.models.gp_learner import GPLearner
from forethought.models.known import KnownDynamics
from forethought.models.mdn import MDNLearner
from forethought.models.physics import PhysicsLearner
from forethought.models.plain import NetworkLearner
from forethought.planners.icem import ICEM
from forethought.planners.ilqr import ILQR
from forethought.planners.mcts import MCTS
from forethought.planners.mpc import MPC, Planning, PlanOnce
from forethought.runs.evaluation import evaluate
from forethought.tasks import task
from forethought.worlds.classic import CartPoleSwingUp, Pendulum, rk4


@dataclass(frozen=True)
class Study:
    """One row of a table."""

    task: str
    algorithm: AbstractAlgorithm
    marks: tuple[int, ...]
    """Environment steps after which the controller is judged."""
    seeds: int = 10
    first: int = 100
    """The first seed that is reported; another one where those from 100 on were looked into."""
    truth: Any = None
    """The true dynamics, for a study of the planner alone; nothing is learned then."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    """Steps of a training episode, where they are not the task's own, which evaluations keep."""


SWINGUP = tuple(60 * k for k in range(1, 10))  # after trials 0 to 8
PENDULUM = (100, 200, 300, 400)
LONG = ICEM(Imagination(propagation="ts-inf"), samples=256, iterations=10, elites=20)
ONCE = EnsembleLearner(gradient_steps=2000)
TREE = MCTS(simulations=32)
"""Short plans of many branches; the tasks of one far goal hold each branch's action for longer."""
PINK = MCTS(simulations=32, beta=1.0)
"""To balance is to push to and fro: sequences of slower noise fall to one side."""
FAR = MCTS(simulations=24, hold=6, rollouts=16)
CART_NAMES = ("cart", "pole", "length", "drag")


def pendulum_by_law(x: jax.Array, u: jax.Array, theta: dict[str, jax.Array]) -> jax.Array:
    """Pendulum-v1's equations, a rod of a mass and a length; x = [cos th, sin th, w]."""
    pull = 15.0 / theta["length"] * x[1] + 3.0 / (theta["mass"] * theta["length"] ** 2) * jnp.clip(u[0], -2.0, 2.0)
    speed = jnp.clip(x[2] + 0.05 * pull, -8.0, 8.0)
    angle = jnp.arctan2(x[1], x[0]) + 0.05 * speed
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


def cartpole_by_gymnasium(x: jax.Array, u: jax.Array) -> jax.Array:
    """CartPole-v1's equations: Euler's step of 0.02 s; x = [p, v, th, w], u the one-hot choice of -10 N or 10 N."""
    _, v, th, w = x
    sin, cos = jnp.sin(th), jnp.cos(th)
    pushed = (10.0 * (u[1] - u[0]) + 0.05 * w**2 * sin) / 1.1
    turn = (9.8 * sin - cos * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    return x + 0.02 * jnp.stack([v, pushed - 0.05 * turn * cos / 1.1, w, turn])


def acrobot_by_gymnasium(x: jax.Array, u: jax.Array) -> jax.Array:
    """Acrobot-v1's equations, a Runge-Kutta step of 0.2 s; x = [cos th1, sin th1, cos th2, sin th2, w1, w2], u the
    one-hot choice of a torque of -1, 0 or 1 between two links of mass and length 1."""

    def derivative(s: jax.Array) -> jax.Array:
        th1, th2, w1, w2 = s
        d2 = 1.25 + 0.5 * jnp.cos(th2)
        d1 = 3.5 + jnp.cos(th2)
        pull2 = 4.9 * jnp.sin(th1 + th2)
        pull1 = -0.5 * w2 * (w2 + 2.0 * w1) * jnp.sin(th2) + 14.7 * jnp.sin(th1) + pull2
        turn2 = (u[2] - u[0] + d2 / d1 * pull1 - 0.5 * w1**2 * jnp.sin(th2) - pull2) / (1.25 - d2**2 / d1)
        return jnp.stack([w1, w2, -(d2 * turn2 + pull1) / d1, turn2])

    s = rk4(derivative, jnp.stack([jnp.arctan2(x[1], x[0]), jnp.arctan2(x[3], x[2]), x[4], x[5]]), 0.2, 1)
    w = jnp.clip(s[2:], jnp.pi * jnp.asarray([-4.0, -9.0]), jnp.pi * jnp.asarray([4.0, 9.0]))
    return jnp.stack([jnp.cos(s[0]), jnp.sin(s[0]), jnp.cos(s[1]), jnp.sin(s[1]), w[0], w[1]])


def cartpole_by_law(x: jax.Array, u: jax.Array, theta: dict[str, jax.Array]) -> jax.Array:
    """The swing-up's equations with its four constants to be found."""
    system: Any = SimpleNamespace(
        cart=theta["cart"], m=theta["pole"], l=theta["length"], b=theta["drag"], g=CartPoleSwingUp().g
    )
    return rk4(lambda x: CartPoleSwingUp.derivative(system, x, u), x, CartPoleSwingUp().dt, 5)


FIRST_PLANNER = ICEM(Imagination(propagation="ts-inf"), samples=128, iterations=4)
FIRST = V15(FIRST_PLANNER, EnsembleLearner(), base_steps=100)
"""The default before there were other models than the ensemble: its studies stay as they were measured."""
MODELS: dict[str, AbstractLearner] = {
    "physics": PhysicsLearner(pendulum_by_law, {"mass": 0.5, "length": 2.0}, positive=("mass", "length")),
    "gp": GPLearner(),
    "ensemble": EnsembleLearner(),
    "network": NetworkLearner(),
    "mdn": MDNLearner(),
    "gmm": GMMLearner(),
}
CART = PhysicsLearner(cartpole_by_law, {"cart": 1.0, "pole": 1.0, "length": 1.0, "drag": 0.2}, positive=CART_NAMES)


def first(**changes: Any) -> V15:
    """The first default with something changed."""
    return dataclasses.replace(FIRST, **changes)


def compared(task: str, base: int, marks: tuple[int, ...], models: dict[str, AbstractLearner]) -> dict[str, Study]:
    """One study per model, the rest at today's default."""
    short = {"Pendulum-v1": "pendulum", "cartpole-swingup": "swingup"}[task]
    named = {f"compare-{short}-{name}": learner for name, learner in models.items()}
    return {name: Study(task, V15(learner=it, base_steps=base), marks, seeds=3) for name, it in named.items()}


STUDIES: dict[str, Study] = {
    # The model family: today's default (the model is auto: with so few rows the Gaussian process)
    "pendulum-50": Study("Pendulum-v1", V15(), (50,)),
    "pendulum-30": Study("Pendulum-v1", V15(base_steps=30), (30,)),
    "swingup-auto": Study("cartpole-swingup", V15(base_steps=60), SWINGUP[:6]),
    "swingup-auto-truth": Study("cartpole-swingup", V15(), (0,), truth=CartPoleSwingUp()),
    "pendulum-auto-truth": Study("Pendulum-v1", V15(), (0,), truth=Pendulum()),
    "reacher-auto": Study("Reacher-v5", V15(), (100, 250, 500), seeds=5),
    "inverted-pendulum-auto": Study("InvertedPendulum-v5", V15(), (100, 200, 400), seeds=5),
    "pendulum-50-sampled": Study("Pendulum-v1", V15(ICEM(Imagination(propagation="ts-inf"))), (50,), seeds=5),
    **compared("Pendulum-v1", 50, (50, 200), MODELS),
    **compared("cartpole-swingup", 60, (180, 300), MODELS | {"physics": CART}),
    # Trajectory optimisation: iLQR on the learned ensemble beside iCEM, replanning and as feedback around one plan
    "ilqr-v1.5": Study("Pendulum-v1", V15(ILQR(), EnsembleLearner(), base_steps=100), (300,), first=300),
    "ilqr-v1.5-icem": Study("Pendulum-v1", V15(ICEM(), EnsembleLearner(), base_steps=100), (300,), first=300),
    "ilqr-truth": Study("Pendulum-v1", V15(ILQR()), (0,), truth=Pendulum()),
    "ilqr-v1.0": Study("Pendulum-v1", V10(ILQR(), ONCE), (200, 400), seeds=5),
    "ilqr-v1.0-truth": Study("Pendulum-v1", V10(ILQR(), ONCE), (0,), seeds=5, truth=Pendulum()),
    # Tree search as v1.5's planner
    "mcts-cartpole": Study(
        "CartPole-v1", V15(PINK, base_steps=100, refit_every=50, horizon=100), (150, 250, 500), seeds=5, first=300
    ),
    "mcts-cartpole-truth": Study("CartPole-v1", V15(PINK, horizon=100), (0,), seeds=1, truth=cartpole_by_gymnasium),
    # With slower noise, before its ceiling was known
    "mcts-cartpole-slow": Study(
        "CartPole-v1", V15(TREE, base_steps=100, refit_every=50, horizon=100), (150, 250, 500), seeds=5, first=200
    ),
    "mcts-cartpole-slow-truth": Study(
        "CartPole-v1", V15(TREE, horizon=100), (0,), seeds=1, truth=cartpole_by_gymnasium
    ),
    # As it was before the horizon's ceiling was known
    "mcts-cartpole-ensemble": Study(
        "CartPole-v1",
        V15(TREE, EnsembleLearner(), base_steps=100, refit_every=50, horizon=30),
        (250, 500, 1000),
        seeds=5,
    ),
    "mcts-cartpole-30-truth": Study("CartPole-v1", V15(TREE, horizon=30), (0,), seeds=1, truth=cartpole_by_gymnasium),
    # Seeds from 100 on were spent on 60 steps ahead, within which nothing arrives, on the true dynamics either; those
    # from 200 on on a planner that stayed with one action where it saw no difference
    "mcts-acrobot": Study(
        "Acrobot-v1",
        V15(FAR, EnsembleLearner(), base_steps=500, refit_every=100, horizon=150),
        (1000, 2000),
        seeds=5,
        first=300,
    ),
    "mcts-acrobot-truth": Study("Acrobot-v1", V15(FAR, horizon=150), (0,), seeds=1, truth=acrobot_by_gymnasium),
    "mcts-acrobot-60-truth": Study("Acrobot-v1", V15(FAR, horizon=60), (0,), seeds=1, truth=acrobot_by_gymnasium),
    "mcts-mountain-car": Study(
        "MountainCar-v0",
        V15(FAR, EnsembleLearner(), base_steps=200, refit_every=100, horizon=120),
        (600, 1000),
        seeds=5,
    ),
    "mcts-pendulum": Study("Pendulum-v1", V15(MCTS(sequences=128)), (100, 200, 400), seeds=5),
    # Version 2.0: a policy improved in the Gaussian process; on the pendulum in trials of 50 steps
    "swingup-v2.0": Study("cartpole-swingup", V20(GPLearner(), base_steps=60), SWINGUP[:5], seeds=20),
    # The default of its day; it knew only the beginnings that it had seen
    "swingup-v2.0-seen": Study(
        "cartpole-swingup", V20(GPLearner(), base_steps=60, beginnings="seen"), SWINGUP[:5], seeds=20
    ),
    "pendulum-v2.0": Study("Pendulum-v1", V20(GPLearner()), (100, 200), limit=50),
    # 1: the first flagship, and its ceiling
    "pendulum": Study("Pendulum-v1", FIRST, PENDULUM),
    "pendulum-truth": Study("Pendulum-v1", FIRST, (0,), truth=Pendulum()),
    # 2
    # Trial 0 is random by the task's own protocol: 60 steps.  The second study is tuned to the task, in its horizon.
    "swingup": Study("cartpole-swingup", first(base_steps=60), SWINGUP),
    "swingup-tuned": Study("cartpole-swingup", first(base_steps=60, horizon=17), SWINGUP, seeds=5),
    "swingup-truth": Study("cartpole-swingup", FIRST, (0,), truth=CartPoleSwingUp()),
    "swingup-tuned-truth": Study("cartpole-swingup", first(horizon=17), (0,), truth=CartPoleSwingUp()),
    # 3
    "balance": Study("cartpole-balance", FIRST, (200, 400), seeds=5),
    "inverted-pendulum": Study("InvertedPendulum-v5", FIRST, (200, 400), seeds=5),
    "reacher": Study("Reacher-v5", FIRST, (250, 500, 1000), seeds=5),
    "cartpole": Study("CartPole-v1", FIRST, (500, 1000), seeds=5),
    # 4: the lecture's ladder at equal data
    "ladder-v0.5": Study("Pendulum-v1", V05(LONG, ONCE), (200, 400), seeds=5),
    "ladder-v1.0": Study("Pendulum-v1", V10(LONG, ONCE), (200, 400), seeds=5),
    "ladder-open-loop-truth": Study("Pendulum-v1", V10(LONG, ONCE), (0,), seeds=5, truth=Pendulum()),
    "ladder-v1.5": Study("Pendulum-v1", first(base_steps=200), (200, 400), seeds=5),
    # What matters: the first default with one thing changed, on development seeds
    "ablation-none": Study("Pendulum-v1", FIRST, (400,), 4),
    "ablation-refit-per-episode": Study("Pendulum-v1", first(refit_every=10_000), (400,), 4),
    "ablation-base-60": Study("Pendulum-v1", first(base_steps=60), (400,), 4),
    "ablation-bootstrap": Study("Pendulum-v1", first(learner=EnsembleLearner(bootstrap=True)), (400,), 4),
    "ablation-decay": Study("Pendulum-v1", first(learner=EnsembleLearner(weight_decay=1e-5)), (400,), 4),
    "ablation-likelihood": Study("Pendulum-v1", first(learner=EnsembleLearner(variance_weight=0.0)), (400,), 4),
    "ablation-one-member": Study("Pendulum-v1", first(learner=EnsembleLearner(members=1)), (400,), 4),
    "ablation-optimism": Study(
        "Pendulum-v1",
        first(planner=ICEM(Imagination(propagation="ts-inf", risk=-1.0), samples=128, iterations=4)),
        (400,),
        4,
    ),
    "ablation-search": Study(
        "Pendulum-v1",
        first(
            planner=ICEM(
                Imagination(propagation="ts-inf"), samples=64, iterations=3, scale=0.5, narrowest=1.0, momentum=0.1
            )
        ),
        (400,),
        4,
    ),
    "ablation-cartpole": Study("CartPole-v1", FIRST, (500,), 4),
    "ablation-cartpole-horizon-50": Study("CartPole-v1", first(horizon=50), (500,), 4),
    "ablation-horizon-17": Study("Pendulum-v1", first(horizon=17), (400,), 4),
}


def run(study: Study, seed: int) -> dict[str, Any]:
    """Train with one seed, judge at each mark; every number that a table may need."""
    judge = task(study.task, kwargs=study.kwargs or None)
    target = task(study.task, kwargs=study.kwargs or None, limit=study.limit) if study.limit else judge
    began = time.perf_counter()
    if study.truth is not None:
        return {"marks": [_judge_truth(target, study, seed)], "seconds": time.perf_counter() - began}
    algorithm, marks, episodes, learning = study.algorithm, [], [], 0.0
    state = algorithm.init(target, jr.key(seed))
    for mark in study.marks:
        started = time.perf_counter()
        while int(state.steps) < mark:
            budget = mark - int(state.steps)
            if isinstance(algorithm, V05):  # its data are bounded by its base data: that is what "equal data" means
                algorithm = V05(base_steps=mark)
                state = _refit_next(state)
            state, metrics = algorithm.step(target, state, budget)
            if "return" in metrics:
                episodes.append(metrics["return"])
        held, _ = algorithm.step(target, state, 0)  # learn only: the controller held after this step
        if isinstance(algorithm, V20):  # it does not learn twice from the same rows, so it may go on from here
            state = held
        learning += time.perf_counter() - started
        policy = algorithm.policy(target, held)
        result = evaluate(judge, policy, jr.key(seed), judge.starts)
        marks.append(_row(judge, result, mark) | {"learning_seconds": learning})
    return {"marks": marks, "episodes": episodes, "seconds": time.perf_counter() - began}


def _refit_next(state: Any) -> Any:
    """v0.5 fits once; with more base data it is a new run, whose one fit is still to come."""
    return eqx.tree_at(lambda s: s.fits, state, jnp.zeros((), jnp.int32))


def _judge_truth(target: Task, study: Study, seed: int) -> dict[str, Any]:
    """The algorithm's way of planning, on the true dynamics: nothing that is learned can be better by much."""
    algorithm, dynamics = study.algorithm, KnownDynamics(study.truth)
    assert isinstance(algorithm, (V10, V15))
    horizon = algorithm.horizon if isinstance(algorithm, V15) else target.limit
    planning = Planning(algorithm.planner, dynamics, target.cost, target.world.actions, horizon, algorithm.discount)
    policy = MPC(planning) if isinstance(algorithm, V15) else PlanOnce(planning)
    return _row(target, evaluate(target, policy, jr.key(seed), target.starts), 0)


def _row(target: Task, result: Any, mark: int) -> dict[str, Any]:
    returns = np.asarray(result.returns, float)
    row = {"steps": mark, "returns": returns.tolist(), "mean_return": float(returns.mean())}
    if target.success is not None:
        row["success_rate"] = result.successes / len(returns)
        row["solved"] = result.successes == len(returns)
    elif target.threshold is not None:
        row["solved"] = bool(returns.mean() >= target.threshold)
    return row


def settings(study: Study) -> dict[str, Any]:
    """What the figures were made with, as text that can be compared."""
    algorithm = " ".join(wadler_lindig.pformat(study.algorithm, hide_defaults=False).split())
    return {"task": study.task, "algorithm": algorithm, "marks": list(study.marks), "jax": jax.__version__}
