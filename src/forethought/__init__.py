"""Forethought: model-based reinforcement learning in JAX.

Public names are loaded when they are first used, so that importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forethought._version import __version__

if TYPE_CHECKING:
    from forethought.algorithms.dyna import Dyna
    from forethought.algorithms.globally import V05, V10, V15, V20
    from forethought.algorithms.imitation import Guide
    from forethought.algorithms.improve import Improve
    from forethought.algorithms.local_start import InitialController
    from forethought.algorithms.locally import Local
    from forethought.algorithms.soft_actor_critic import SoftActorCritic
    from forethought.algorithms.trust_region import TrustRegion
    from forethought.comparing.comparison import Comparison, compare
    from forethought.core import (
        AbstractAlgorithm,
        AbstractCost,
        AbstractDynamics,
        AbstractFitted,
        AbstractLearner,
        AbstractPlanner,
        AbstractPolicy,
        AbstractPrediction,
        AbstractWitness,
        AbstractWorld,
        Plan,
        Problem,
        RunState,
        Task,
    )
    from forethought.math.constrained import Constraints
    from forethought.math.ilqr import ILQRSolution, ilqr
    from forethought.math.ilqr_solve import ILQRStatus
    from forethought.math.kl_dual import KLStatus
    from forethought.math.kl_lqr import KLSolution, LinearGaussian, kl_lqr
    from forethought.math.lqr import lqr
    from forethought.math.riccati import LQRSolution, LQRStatus
    from forethought.math.rollout import Imagination
    from forethought.models.auto import AutoLearner
    from forethought.models.ensemble import EnsembleLearner
    from forethought.models.gmm import GMMLearner
    from forethought.models.gp_learner import GPLearner
    from forethought.models.known import KnownLearner
    from forethought.models.linear import LinearLearner
    from forethought.models.mdn import MDNLearner
    from forethought.models.physics import PhysicsLearner
    from forethought.models.plain import NetworkLearner
    from forethought.models.value import ValueLearner
    from forethought.planners.cem import CEM
    from forethought.planners.icem import ICEM
    from forethought.planners.ilqr import ILQR
    from forethought.planners.mcts import MCTS
    from forethought.planners.mpc import MPC
    from forethought.planners.mppi import MPPI
    from forethought.planners.shooting import RandomShooting
    from forethought.runs.evaluation import evaluate
    from forethought.runs.experiment import Experiment, Result
    from forethought.runs.loaded import ControlError, LoadedPolicy, load
    from forethought.runs.resume import resume
    from forethought.runs.stopping import Until
    from forethought.tasks import catalogue, task
    from forethought.types import Box, Choices, Dataset, Spec, Trajectory, UserError
    from forethought.worlds.guard import Guard, TransitionError

_WHERE = {
    "algorithms.dyna": ("Dyna",),
    "algorithms.globally": ("V05", "V10", "V15", "V20"),
    "algorithms.imitation": ("Guide",),
    "algorithms.improve": ("Improve",),
    "algorithms.local_start": ("InitialController",),
    "algorithms.locally": ("Local",),
    "algorithms.soft_actor_critic": ("SoftActorCritic",),
    "algorithms.trust_region": ("TrustRegion",),
    "core": (
        "AbstractAlgorithm",
        "AbstractCost",
        "AbstractDynamics",
        "AbstractFitted",
        "AbstractLearner",
        "AbstractPlanner",
        "AbstractPolicy",
        "AbstractPrediction",
        "AbstractWitness",
        "AbstractWorld",
        "Plan",
        "Problem",
        "RunState",
        "Task",
    ),
    "math.constrained": ("Constraints",),
    "math.ilqr": ("ILQRSolution", "ilqr"),
    "math.ilqr_solve": ("ILQRStatus",),
    "math.kl_dual": ("KLStatus",),
    "math.kl_lqr": ("KLSolution", "LinearGaussian", "kl_lqr"),
    "math.lqr": ("lqr",),
    "math.riccati": ("LQRSolution", "LQRStatus"),
    "math.rollout": ("Imagination",),
    "models.auto": ("AutoLearner",),
    "models.ensemble": ("EnsembleLearner",),
    "models.gmm": ("GMMLearner",),
    "models.gp_learner": ("GPLearner",),
    "models.known": ("KnownLearner",),
    "models.linear": ("LinearLearner",),
    "models.mdn": ("MDNLearner",),
    "models.physics": ("PhysicsLearner",),
    "models.plain": ("NetworkLearner",),
    "models.value": ("ValueLearner",),
    "planners.cem": ("CEM",),
    "planners.icem": ("ICEM",),
    "planners.ilqr": ("ILQR",),
    "planners.mcts": ("MCTS",),
    "planners.mpc": ("MPC",),
    "planners.mppi": ("MPPI",),
    "planners.shooting": ("RandomShooting",),
    "comparing.comparison": ("Comparison", "compare"),
    "runs.evaluation": ("evaluate",),
    "runs.loaded": ("ControlError", "LoadedPolicy", "load"),
    "runs.experiment": ("Experiment", "Result"),
    "runs.resume": ("resume",),
    "runs.stopping": ("Until",),
    "tasks": ("catalogue", "task"),
    "types": ("Box", "Choices", "Dataset", "Spec", "Trajectory", "UserError"),
    "worlds.guard": ("Guard", "TransitionError"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "CEM",
    "ICEM",
    "ILQR",
    "MCTS",
    "MPC",
    "MPPI",
    "V05",
    "V10",
    "V15",
    "V20",
    "AbstractAlgorithm",
    "AbstractCost",
    "AbstractDynamics",
    "AbstractFitted",
    "AbstractLearner",
    "AbstractPlanner",
    "AbstractPolicy",
    "AbstractPrediction",
    "AbstractWitness",
    "AbstractWorld",
    "AutoLearner",
    "Box",
    "Choices",
    "Comparison",
    "Constraints",
    "ControlError",
    "Dataset",
    "Dyna",
    "EnsembleLearner",
    "Experiment",
    "GMMLearner",
    "GPLearner",
    "Guard",
    "Guide",
    "ILQRSolution",
    "ILQRStatus",
    "Imagination",
    "Improve",
    "InitialController",
    "KLSolution",
    "KLStatus",
    "KnownLearner",
    "LQRSolution",
    "LQRStatus",
    "LinearGaussian",
    "LinearLearner",
    "LoadedPolicy",
    "Local",
    "MDNLearner",
    "NetworkLearner",
    "PhysicsLearner",
    "Plan",
    "Problem",
    "RandomShooting",
    "Result",
    "RunState",
    "SoftActorCritic",
    "Spec",
    "Task",
    "Trajectory",
    "TransitionError",
    "TrustRegion",
    "Until",
    "UserError",
    "ValueLearner",
    "__version__",
    "catalogue",
    "compare",
    "evaluate",
    "ilqr",
    "kl_lqr",
    "load",
    "lqr",
    "resume",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'forethought' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"forethought.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
