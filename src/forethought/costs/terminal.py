"""The terminal-value hook: what happens after the horizon."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.types import Action, Array, Flag, Scalar, State, Time


class TerminalValue(AbstractCost):
    """Any cost, with c_T(x) = value(x) in place of its own terminal cost.

    `value` is a module (a pytree, so that it may hold learned parameters) that maps one state [n] to the cost-to-go, a
    scalar in units of the stage cost: a cost, not a return, so lower is better.
    """

    cost: AbstractCost
    value: Callable[[State], Scalar]

    extras: int = eqx.field(static=True, init=False)

    def __post_init__(self):
        """Read as many extra outputs as the wrapped cost."""
        self.extras = self.cost.extras

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """The wrapped cost's."""
        return self.cost.stage(x, u, y, t)

    def terminal(self, x: State) -> Scalar:
        """The value function's."""
        return self.value(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """The wrapped cost's."""
        return self.cost.alive(y)
