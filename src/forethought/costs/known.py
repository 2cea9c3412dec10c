"""Which environments' rewards are known: a closed table, so that nothing a file names is ever imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from forethought.core import AbstractCost
from forethought.costs.gymnasium import (
    AcrobotCost,
    CartPoleCost,
    MountainCarContinuousCost,
    MountainCarCost,
    PendulumCost,
)
from forethought.costs.gymnasium_locomotion import HalfCheetahCost, HopperCost, SwimmerCost, Walker2dCost
from forethought.costs.gymnasium_mujoco import (
    InvertedDoublePendulumCost,
    InvertedPendulumCost,
    PusherCost,
    ReacherCost,
)
from forethought.costs.reaching import PegInsertionCost

KNOWN: dict[str, type[AbstractCost]] = {
    "Pendulum-v1": PendulumCost,
    "MountainCarContinuous-v0": MountainCarContinuousCost,
    "MountainCar-v0": MountainCarCost,
    "CartPole-v1": CartPoleCost,
    "Acrobot-v1": AcrobotCost,
    "InvertedPendulum-v5": InvertedPendulumCost,
    "InvertedDoublePendulum-v5": InvertedDoublePendulumCost,
    "Reacher-v5": ReacherCost,
    "Pusher-v5": PusherCost,
    "Swimmer-v5": SwimmerCost,
    "HalfCheetah-v5": HalfCheetahCost,
    "Hopper-v5": HopperCost,
    "Walker2d-v5": Walker2dCost,
    "forethought/PegInsertion-v0": PegInsertionCost,
}
"""Gymnasium id to the class of its cost."""

LOOKS = frozenset(
    {
        "render_mode",
        "width",
        "height",
        "camera_id",
        "camera_name",
        "default_camera_config",
        "max_geom",
        "visual_options",
        "reset_noise_scale",
    }
)
"""Arguments of every environment that change how it looks or where it starts, and never its reward."""

HARMLESS: dict[str, frozenset[str]] = {
    "Pendulum-v1": frozenset({"g"}),
    "InvertedPendulum-v5": frozenset({"frame_skip"}),
    "InvertedDoublePendulum-v5": frozenset({"frame_skip"}),
    "Reacher-v5": frozenset({"frame_skip"}),
    "Pusher-v5": frozenset({"frame_skip"}),
}
"""Arguments of single environments that do not enter the reward as a function of (x, u, y)."""


def known_cost(env_id: str, kwargs: Mapping[str, Any] | None = None) -> AbstractCost | None:
    """The environment's own reward as a cost, or None where it has to be learned.

    None for an id outside the table (`module:id` among them: who registers an environment may mean another one by
    the same name), and for a keyword argument that could change the reward in a way the class does not know.
    """
    kind = KNOWN.get(env_id)
    if kind is None:
        return None
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    given = dict(kwargs or {})
    if set(given) - fields - LOOKS - HARMLESS.get(env_id, frozenset()):
        return None
    # Configuration files have lists where the environments have pairs, and static fields must be hashable.
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in fields}
    return kind(**arguments)
