"""Dynamics that need no learning: what a planner could do if it knew the truth."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import copies
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Spec, State, Time


class KnownDynamics(AbstractDynamics):
    """y = step(x, u), certain.  `step` may be a module whose arrays are then arguments of compiled programs."""

    step: Callable[[Array, Array], Array]

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """The next state with standard deviation 0."""
        del t
        y = self.step(x, u)
        return DiagonalGaussian(y, jnp.zeros_like(y))

    def draw(self, key: RandomKey, particles: int) -> KnownDynamics:
        """Copies: there is no doubt."""
        del key
        return copies(self, particles)


class KnownFitted(AbstractFitted):
    """What a `KnownLearner` carries: the model, always the same."""

    model: KnownDynamics


class KnownLearner(AbstractLearner[KnownFitted]):
    """For a system whose equations are given: nothing is learned.  For a cost that has to be learned it is no use."""

    step: Callable[[Array, Array], Array]
    """The next state of (x, u): a function, or a module whose arrays are then arguments of compiled programs."""

    def init(self, spec: Spec, key: RandomKey) -> KnownFitted:
        """The model."""
        del spec, key
        return KnownFitted(KnownDynamics(self.step))  # pyright: ignore[reportCallIssue]

    def fit(self, fitted: KnownFitted, data: Dataset, key: RandomKey) -> tuple[KnownFitted, Metrics]:
        """The same again."""
        del data, key
        return fitted, {}
