"""Tasks by name: a world, its cost, its time limit and how success is judged, put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forethought.core import AbstractCost, Task
from forethought.costs.gymnasium import CartPoleCost, PendulumCost
from forethought.costs.known import KNOWN, known_cost
from forethought.costs.learned import LearnedCost
from forethought.costs.quadratic import Quadratic
from forethought.costs.reaching import ArmOffset, Reaching
from forethought.costs.saturating import CartPoleSwingUpCost, Saturating
from forethought.types import Trajectory, UserError
from forethought.worlds import classic, reaching
from forethought.worlds.guard import Guard
from forethought.worlds.gym import GymWorld, gym_world
from forethought.worlds.registered import PEG_INSERTION
from forethought.worlds.simulated import SimulatedWorld
from forethought.worlds.source import find


def swung_up(trajectory: Trajectory) -> bool:
    """Whether, during all of the last second, the pole is within 10 degrees of upright and the cart within 0.1 m of
    the origin: the 21 observations from 2 s to 3 s of a full episode of 60 steps of 0.05 s, noise included."""
    if trajectory.length < 20 or int(trajectory.t[-1]) != 59:
        return False
    x = np.concatenate([np.asarray(trajectory.x)[-20:-19], np.asarray(trajectory.y)[-20:]])
    return bool(np.all(classic.pole_angle(x) <= np.deg2rad(10.0)) and np.all(np.abs(x[:, 0]) <= 0.1))


def stood_up(trajectory: Trajectory) -> bool:
    """Whether the acrobot's tip is more than 1 m above its pivot at the end of the episode."""
    return bool(classic.tip_height(np.asarray(trajectory.y)[-1]) > 1.0)


def arrived(trajectory: Trajectory) -> bool:
    """Whether every position and velocity ends within 0.1 of the origin (m, rad, s)."""
    return bool(np.all(np.abs(np.asarray(trajectory.y)[-1]) <= 0.1))


def parked(trajectory: Trajectory) -> bool:
    """Whether the cart ends within 0.02 m of the origin, slower than 0.05 m/s."""
    speed = np.linalg.norm(np.asarray(trajectory.y)[-1, 2:4])
    return bool(MISSES["drag-cart"](trajectory) <= 0.02 and speed <= 0.05)


def reached(trajectory: Trajectory) -> bool:
    """Whether the tip of the two-link arm ends within 0.02 m of its target."""
    return MISSES["arm-reach"](trajectory) <= 0.02


def inserted(trajectory: Trajectory) -> bool:
    """Whether the tip of the peg ends within 0.01 m of its target, so at least 0.07 m deep in the slot."""
    return MISSES[PEG_INSERTION](trajectory) <= 0.01


def _ends(place: Callable[[np.ndarray], Any]) -> Callable[[Trajectory], float]:
    """How far from zero a reading of the last observation is."""
    return lambda trajectory: float(np.linalg.norm(place(np.asarray(trajectory.y)[-1])))


MISSES: dict[str, Callable[[Trajectory], float]] = {
    "drag-cart": _ends(lambda y: y[:2]),
    "arm-reach": _ends(lambda y: np.asarray(reaching.arm_tip(y)) - reaching.ARM_TARGET),
    "Reacher-v5": _ends(lambda y: y[8:10]),
    PEG_INSERTION: _ends(lambda y: y[6:8]),
}
"""Name of a task of reaching to how far from its target an episode ends, in m, from the last observation."""


@dataclasses.dataclass(frozen=True)
class Classic:
    """One row of the table of pure-JAX tasks."""

    about: str
    world: Callable[[AbstractCost], SimulatedWorld]
    cost: Callable[[], AbstractCost]
    threshold: float | None = None
    success: Callable[[Trajectory], bool] | None = None


def _double_integrator_cost() -> AbstractCost:
    return Quadratic(np.zeros(2), np.array([1.0, 0.1]), np.array([0.1]))


def _quadrotor_cost() -> AbstractCost:
    hover = np.full(2, 0.5 * classic.Quadrotor().m * classic.Quadrotor().g)
    weights = np.array([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    return Quadratic(np.zeros(6), weights, np.full(2, 0.1), rest=hover, angles=(2,))


def _acrobot_cost() -> AbstractCost:
    weight = np.array([0.25, 0.25, 0.01, 0.01])
    return Saturating(np.array([np.pi, 0.0, 0.0, 0.0]), weight, angles=(0, 1))


def _drag_cart_cost() -> AbstractCost:
    weight = np.array([1.0, 1.0, 0.1, 0.1])
    return Quadratic(np.zeros(4), weight, np.full(2, 0.05), 10.0 * weight)


def _arm_reach_cost() -> AbstractCost:
    return Reaching(ArmOffset(reaching.ARM_TARGET, reaching.TwoLinkArm().lengths))


CLASSIC: dict[str, Classic] = {
    "cartpole-swingup": Classic(
        "swing a pole up and balance it, as in the PILCO literature (noisy, 3 s)",
        classic.cartpole_swingup,
        CartPoleSwingUpCost,
        success=swung_up,
    ),
    "pendulum": Classic("Pendulum-v1 in JAX", classic.pendulum, PendulumCost, threshold=-200.0),
    "double-integrator": Classic(
        "push a mass to the origin: linear-quadratic, for checks",
        classic.double_integrator,
        _double_integrator_cost,
        success=arrived,
    ),
    "quadrotor": Classic(
        "fly a planar quadrotor to the origin and hover", classic.quadrotor, _quadrotor_cost, success=arrived
    ),
    "acrobot": Classic(
        "swing two links up and hold them, with a continuous torque between them",
        classic.acrobot,
        _acrobot_cost,
        success=stood_up,
    ),
    "cartpole-balance": Classic(
        "keep CartPole-v1's pole up with a continuous force", classic.cartpole_balance, CartPoleCost, threshold=475.0
    ),
    "drag-cart": Classic(
        "drive a cart with drag to the origin in the plane, and stop there",
        reaching.drag_cart,
        _drag_cart_cost,
        success=parked,
    ),
    "arm-reach": Classic(
        "reach a point with a planar arm of two links and torques",
        reaching.arm_reach,
        _arm_reach_cost,
        success=reached,
    ),
}
"""Name to task."""

THRESHOLDS = {"Pendulum-v1": -200.0}
"""Returns at which a task counts as solved, where Gymnasium registers none."""

SUCCESSES = {PEG_INSERTION: inserted}
"""How an episode of a Gymnasium environment is judged, where its return alone does not tell."""


def task(
    name: str,
    kwargs: Mapping[str, Any] | None = None,
    limit: int | None = None,
    action_repeat: int = 1,
    history: int = 1,
    angles: Sequence[int] = (),
    *,
    resets: Sequence[Mapping[str, Any]] = (),
) -> Task:
    """The task of a classic name, a Gymnasium id or module:id.

    `kwargs` go to gymnasium.make; `limit` (in steps) replaces the task's own; `action_repeat`, `history`, `angles` and
    `resets` are those of `gym_world`.  The cost is the environment's own reward where `known_cost` has it, for plain
    observations and actions; otherwise reward and termination are learned with the model.  A known reward is computed
    from wrapped angles, which changes nothing while an episode ends before they make a whole turn.  A threshold or a
    success test holds for the task as registered: with other arguments there is none.  Raises `UserError` for a name
    that matches nothing, and for options that the task does not have.
    """
    if name in CLASSIC:
        others = {"action_repeat": action_repeat, "history": history, "angles": angles, "resets": resets}
        return _classic(name, kwargs, limit, others)
    spec = find(name, tuple(CLASSIC))
    world = gym_world(name, kwargs, action_repeat, history, limit, angles, resets=resets)
    plain = action_repeat == 1 and history == 1
    cost = known_cost(name, kwargs) if plain else None
    registered = not kwargs and limit in (None, spec.max_episode_steps)
    threshold = THRESHOLDS.get(name, spec.reward_threshold) if registered else None
    return Task(
        name=name,
        world=world,
        cost=LearnedCost(world.spec.n) if cost is None else cost,
        limit=world.limit,
        threshold=None if threshold is None else float(threshold),
        success=SUCCESSES.get(name) if registered and plain else None,
    )


def equip(task: Task, guard: Guard, workers: int, *, replayable: bool) -> Task:
    """The task with settings of its Gymnasium environment: what it may return, in how many worker processes it runs
    (1: in this process), and whether it can be replayed.  Any other world has its own.

    Raises `UserError` if there are to be workers for a world that is not a Gymnasium environment.
    """
    world = task.world
    replayable = replayable and world.replayable
    if not isinstance(world, GymWorld):
        if workers > 1:
            raise UserError(
                f"workers is {workers}, but {task.name} is simulated in this process; only Gymnasium environments have "
                "worker processes."
            )
        if replayable == world.replayable:
            return task
        if isinstance(world, SimulatedWorld):
            return dataclasses.replace(task, world=dataclasses.replace(world, replayable=False))
        raise UserError(
            f"replayable is False, but the world of {task.name} says that it is replayable; say it in the world."
        )
    guard = world.source.guard if guard == Guard() else guard
    if workers == 1 and guard == world.source.guard and replayable == world.replayable:
        return task
    world.close()
    source = dataclasses.replace(world.source, guard=guard)
    deadline = guard.deadline if workers > 1 else None
    made = dataclasses.replace(world, source=source, replayable=replayable, deadline=deadline)
    first, *others = (made.fresh() for _ in range(workers))
    return dataclasses.replace(task, world=first, beside=tuple(others))


def catalogue() -> dict[str, str]:
    """Task names with one line on each: the classic ones, then the Gymnasium ids whose rewards are known.  Every other
    Gymnasium id is a task too, with reward and termination learned."""
    classics = {name: row.about for name, row in CLASSIC.items()}
    peg = {PEG_INSERTION: "put a peg into a slot by torques, with contacts (MuJoCo); its reward is known"}
    return classics | dict.fromkeys(KNOWN, "Gymnasium; its reward is known") | peg


def _classic(name: str, kwargs: Mapping[str, Any] | None, limit: int | None, others: Mapping[str, Any]) -> Task:
    """A task of the table, whose success test holds for its own time limit only."""
    given = {f"env.{key}": value for key, value in dict(kwargs or {}).items()}
    given |= {key: value for key, value in others.items() if value not in (1, (), [])}
    for key, value in given.items():
        wrong = (
            f"{name} takes no environment arguments, action_repeat or history, nor angles or resets; Gymnasium ids do"
        )
        raise UserError(f"{key} is {repr(value)[:80]}, but {wrong}.")
    if limit is not None and limit < 1:
        raise UserError(f"limit of {name} was {limit}; it must be 1 or larger.")
    row = CLASSIC[name]
    cost = row.cost()
    world = row.world(cost)
    same = limit is None or limit == world.limit
    if limit is not None:
        world = dataclasses.replace(world, limit=limit)
    return Task(
        name=name,
        world=world,
        cost=cost,
        limit=world.limit,
        threshold=row.threshold if same else None,
        success=row.success if same else None,
    )
