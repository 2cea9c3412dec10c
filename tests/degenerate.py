"""Problems of control that have something wrong with them, all of one shape and chosen by a number: one program is all
of them, limits and scales included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from forethought import ILQRStatus

T, N, M = 8, 2, 2
A = np.array([[1.0, 0.1], [0.0, 1.0]])
B = np.array([[0.005, 0.0], [0.1, 0.05]])
INF, NAN = np.inf, np.nan

STEPS: dict[str, Callable] = {
    "linear": lambda x, u: jnp.sum(A * x, axis=1) + jnp.sum(B * u, axis=1),
    "no effect": lambda x, u: jnp.sum(A * x, axis=1),
    "one control": lambda x, u: jnp.sum(A * x, axis=1) + 0.1 * u[0],
    "same effect": lambda x, u: jnp.sum(A * x, axis=1) + 0.1 * jnp.sum(u),
    "unstable": lambda x, u: 3.0 * x + u,
    "exploding": lambda x, u: x + 0.1 * x**3 + 0.1 * u,
    "still": lambda x, u: x,
    "forgetful": lambda x, u: u,
    "whole": lambda x, u: jnp.floor(x).astype(jnp.int32) + 0.1 * u,
    "wall": lambda x, u: jnp.where(jnp.abs(x) < 1.5, x + 0.1 * u, jnp.nan),
    "cliff": lambda x, u: jnp.where(jnp.abs(x) < 1.5, x + 0.1 * u, jnp.inf),
    "nothing": lambda x, u: jnp.nan * x,
    "overflow": lambda x, u: x * 1e300 + u,
    "root": lambda x, u: jnp.sqrt(x) + 0.1 * u,
    "kinked": lambda x, u: jnp.abs(x) + 0.1 * u,
}


def _step_cost(x, u):
    return jnp.where(x[0] > 0.5, 1.0, 0.0) + 0.5 * jnp.sum(u**2)


SQUARE = lambda x, u: 0.5 * jnp.sum(x**2) + 0.05 * jnp.sum(u**2)
STAGES: dict[str, Callable] = {
    "square": SQUARE,
    "zero": lambda x, u: jnp.zeros(()),
    "no effort": lambda x, u: 0.5 * jnp.sum(x**2),
    "saddle": lambda x, u: 0.5 * (x[0] ** 2 - x[1] ** 2) + 0.05 * jnp.sum(u**2),
    "hill": lambda x, u: -0.5 * jnp.sum(x**2) - 0.5 * jnp.sum(u**2) - 0.1 * jnp.sum(u),
    "well": lambda x, u: jnp.sum(u**4 - u**2) + 0.5 * jnp.sum(x**2),
    "slope": lambda x, u: jnp.sum(x) + jnp.sum(u),
    "cubic": lambda x, u: jnp.sum(u**3) + 0.5 * jnp.sum(x**2),
    "quartic": lambda x, u: jnp.sum(u**4) + jnp.sum(x**4),
    "stairs": _step_cost,
    "kink": lambda x, u: jnp.sum(jnp.abs(x)) + 0.05 * jnp.sum(u**2),
    "kink of control": lambda x, u: 0.5 * jnp.sum(x**2) + 0.1 * jnp.sum(jnp.abs(u)) + 0.05 * jnp.sum(u**2),
    "root": lambda x, u: jnp.sum(jnp.sqrt(u)) + 0.5 * jnp.sum(x**2),
    "distance": lambda x, u: jnp.sqrt(jnp.sum(x**2)) + 0.05 * jnp.sum(u**2),
    "barrier": lambda x, u: -0.1 * jnp.sum(jnp.log(1.0 - u)) + 0.05 * jnp.sum(u**2) - jnp.sum(x),
    "nothing": lambda x, u: jnp.nan * x[0],
    "infinite": lambda x, u: jnp.where(x[0] > 0.5, jnp.inf, SQUARE(x, u)),
    "constant": lambda x, u: jnp.ones(()) * 1e6 + SQUARE(x, u),
    "cross": lambda x, u: 0.5 * jnp.sum(x**2) + 0.05 * jnp.sum(u**2) + 3.0 * x[0] * u[0],
}


class Step(eqx.Module):
    """In units of state and control that may be anything."""

    kind: Any
    unit: Any
    push: Any

    def __call__(self, x, u, t):
        del t
        branches = [lambda x, u, f=f: f(x, u).astype(x.dtype) for f in STEPS.values()]
        return self.unit * jax.lax.switch(self.kind, branches, x / self.unit, u / self.push)


class Stage(eqx.Module):
    """Likewise, and in any unit of the cost."""

    kind: Any
    unit: Any
    push: Any
    worth: Any

    def __call__(self, x, u, t):
        del t
        return self.worth * jax.lax.switch(self.kind, list(STAGES.values()), x / self.unit, u / self.push)


class End(eqx.Module):
    """weight |x|^2."""

    weight: Any
    unit: Any

    def __call__(self, x):
        return self.weight * jnp.sum((x / self.unit) ** 2)


class Odd(NamedTuple):
    """What is wrong, and the statuses that say so."""

    statuses: str
    step: str = "linear"
    stage: str = "square"
    end: float = 1.0
    x0: tuple[float, float] = (1.0, -0.5)
    u: float | tuple[float, float] = 0.2
    lo: float | tuple[float, float] = -INF
    hi: float | tuple[float, float] = INF
    unit: float = 1.0
    push: float = 1.0
    worth: float = 1.0

    def arguments(self) -> tuple:
        """Of `forethought.ilqr`, up to the limits."""
        index = lambda table, name: np.int32(list(table).index(name))
        unit, push, worth = np.float64(self.unit), np.float64(self.push), np.float64(self.worth)
        step, stage = Step(index(STEPS, self.step), unit, push), Stage(index(STAGES, self.stage), unit, push, worth)
        full = lambda value: self.push * np.broadcast_to(np.asarray(value, float), (T, M))
        x0 = self.unit * np.asarray(self.x0, float)
        return step, stage, End(np.float64(self.worth * self.end), unit), x0, full(self.u), full(self.lo), full(self.hi)

    def named(self) -> set[ILQRStatus]:
        """The statuses."""
        return {ILQRStatus[name] for name in self.statuses.split()}


ODD: dict[str, Odd] = {
    "nothing wrong": Odd("CONVERGED"),
    "zero cost": Odd("CONVERGED NOT_POSITIVE_DEFINITE", stage="zero", end=0.0),
    "zero cost but for the end": Odd("CONVERGED NOT_POSITIVE_DEFINITE SMALL_STEP", stage="zero"),
    "no cost of control": Odd("CONVERGED NOT_POSITIVE_DEFINITE SMALL_STEP", stage="no effort"),
    "no cost of control and no effect": Odd("NOT_POSITIVE_DEFINITE", stage="no effort", step="no effect"),
    "no effect": Odd("CONVERGED", step="no effect"),
    "one control without effect": Odd("CONVERGED", step="one control"),
    "controls of the same effect": Odd("CONVERGED", step="same effect"),
    "controls of the same effect that cost nothing": Odd(
        "NOT_POSITIVE_DEFINITE SMALL_STEP", step="same effect", stage="no effort"
    ),
    "unstable": Odd("CONVERGED", step="unstable"),
    "unstable with limits": Odd("CONVERGED", step="unstable", lo=-0.5, hi=0.5),
    "exploding": Odd("CONVERGED", step="exploding"),
    "exploding from the start": Odd("NOT_FINITE", step="exploding", x0=(60.0, 0.0)),
    "still": Odd("CONVERGED", step="still"),
    "forgetful": Odd("CONVERGED", step="forgetful"),
    "whole numbers": Odd("CONVERGED SMALL_STEP", step="whole"),
    "a saddle of states": Odd("UNBOUNDED", stage="saddle"),
    "a saddle of states with limits": Odd("CONVERGED", stage="saddle", lo=-0.5, hi=0.5),
    "a saddle of states that can be used": Odd("UNBOUNDED", stage="saddle", step="unstable"),
    "a hill": Odd("UNBOUNDED", stage="hill", end=0.0),
    "a hill with limits": Odd("CONVERGED", stage="hill", end=0.0, lo=-1.0, hi=1.0),
    "the top of a hill with limits": Odd(
        "NOT_POSITIVE_DEFINITE", stage="hill", step="no effect", end=0.0, u=-0.1, lo=-1.0, hi=1.0
    ),
    "a double well": Odd("CONVERGED", stage="well"),
    "the middle of a double well": Odd("NOT_POSITIVE_DEFINITE", stage="well", x0=(0.0, 0.0), u=0.0),
    "cross terms": Odd("UNBOUNDED", stage="cross"),
    "cross terms with limits": Odd("CONVERGED", stage="cross", lo=-1.0, hi=1.0),
    "a slope": Odd("UNBOUNDED", stage="slope", end=0.0),
    "a slope with limits": Odd("CONVERGED", stage="slope", end=0.0, lo=(-1.0, -2.0), hi=(1.0, 3.0)),
    "a slope with a limit below": Odd("CONVERGED", stage="slope", end=0.0, lo=-1.0),
    "a slope with a limit above": Odd("UNBOUNDED", stage="slope", end=0.0, hi=1.0),
    "a cubic": Odd("UNBOUNDED", stage="cubic", u=-1.0),
    "a quartic": Odd("CONVERGED SMALL_STEP", stage="quartic", x0=(0.5, 0.5)),
    "the bottom of a quartic": Odd("CONVERGED NOT_POSITIVE_DEFINITE", stage="quartic", end=0.0, x0=(0.0, 0.0), u=0.0),
    "equal limits": Odd("CONVERGED", lo=0.3, hi=0.3),
    "equal limits of one control": Odd("CONVERGED", lo=(0.3, -1.0), hi=(0.3, 1.0)),
    "equal limits on a hill": Odd("CONVERGED", stage="hill", lo=0.3, hi=0.3),
    "a limit below": Odd("CONVERGED", lo=-0.4),
    "a limit above": Odd("CONVERGED", hi=0.1),
    "a start outside of the limits": Odd("CONVERGED", u=50.0, lo=-1.0, hi=1.0),
    "limits far away": Odd("CONVERGED", lo=-1e8, hi=1e8),
    "tiny limits": Odd("CONVERGED", lo=-1e-8, hi=1e-8),
    "a start at the optimum": Odd("CONVERGED", x0=(0.0, 0.0), u=0.0),
    "the way to rest": Odd("CONVERGED", x0=(0.0, 0.0), u=1.0),
    "a wall": Odd("CONVERGED", step="wall"),
    "a wall that is in the way": Odd("CONVERGED SMALL_STEP", step="wall", stage="slope", lo=-1.0, hi=1.0),
    "beyond the wall": Odd("NOT_FINITE", step="wall", x0=(2.0, 0.0)),
    "a cliff": Odd("CONVERGED", step="cliff"),
    "beyond the cliff": Odd("NOT_FINITE", step="cliff", x0=(2.0, 0.0)),
    "a model of nothing": Odd("NOT_FINITE", step="nothing"),
    "overflow": Odd("NOT_FINITE", step="overflow"),
    "a cost of nothing": Odd("NOT_FINITE", stage="nothing"),
    "a cost that is infinite at the start": Odd("NOT_FINITE", stage="infinite"),
    "a cost that is infinite elsewhere": Odd("CONVERGED", stage="infinite", x0=(0.4, 0.0)),
    "stairs": Odd("CONVERGED", stage="stairs"),
    "stairs to step down": Odd("CONVERGED SMALL_STEP", stage="stairs", x0=(0.45, 1.0)),
    "a kink": Odd("SMALL_STEP ITERATION_LIMIT", stage="kink", x0=(0.01, -0.01)),
    "a kink of the controls": Odd("SMALL_STEP ITERATION_LIMIT", stage="kink of control"),
    "a kink of the dynamics": Odd("CONVERGED SMALL_STEP", step="kinked", x0=(0.01, 0.02)),
    "a root whose slope is infinite": Odd("NOT_FINITE", stage="root", u=0.0),
    "a root of what is negative": Odd("NOT_FINITE", stage="root", u=-0.1),
    "a root with limits": Odd("CONVERGED SMALL_STEP NOT_FINITE NOT_POSITIVE_DEFINITE", stage="root", lo=0.0, hi=1.0),
    "a root of the state": Odd("CONVERGED SMALL_STEP NOT_FINITE", step="root", x0=(1.0, 0.5)),
    "a root of the state whose slope is infinite": Odd("NOT_FINITE", step="root", x0=(0.0, 0.0), u=0.0),
    "no slope at the goal": Odd("NOT_FINITE", stage="distance", x0=(0.0, 0.0), u=0.0),
    "a distance": Odd("CONVERGED SMALL_STEP", stage="distance"),
    "a barrier": Odd("CONVERGED", stage="barrier", u=0.0),
    "a large constant": Odd("CONVERGED SMALL_STEP", stage="constant"),
    "a start that is NaN": Odd("NOT_FINITE", x0=(NAN, 0.0)),
    "a start that is infinite": Odd("NOT_FINITE", x0=(0.0, -INF)),
    "controls that are NaN": Odd("NOT_FINITE", u=(0.1, NAN)),
    "controls that are infinite": Odd("NOT_FINITE", u=INF),
    "controls that are infinite with limits": Odd("NOT_FINITE", u=-INF, lo=-1.0, hi=1.0),
    "limits the wrong way round": Odd("INFEASIBLE", lo=(0.5, -1.0), hi=(0.4, 1.0)),
    "a limit that is NaN": Odd("INFEASIBLE", lo=(-1.0, NAN), hi=1.0),
    "a limit below of +inf": Odd("INFEASIBLE", lo=INF, hi=INF),
    "a limit above of -inf": Odd("INFEASIBLE", lo=-INF, hi=-INF),
    "limits the wrong way round and NaN": Odd("INFEASIBLE NOT_FINITE", lo=0.5, hi=0.4, x0=(NAN, NAN), u=NAN),
}
"""Every one of them has to end with a status and without NaN."""

SCALES = {
    "small cost": {"worth": 1e-8},
    "large cost": {"worth": 1e8},
    "small states": {"unit": 1e-8},
    "large states": {"unit": 1e8},
    "small controls": {"push": 1e-8},
    "large controls": {"push": 1e8},
    "everything else": {"unit": 1e8, "push": 1e-8, "worth": 1e8},
    "tiny cost": {"worth": 1e-100},
    "huge cost": {"worth": 1e100},
}
"""Of problems that are the same otherwise."""
SCALED = [
    "nothing wrong",
    "exploding",
    "unstable",
    "a hill with limits",
    "a double well",
    "equal limits of one control",
]
"""Those that are tried in every one of them."""
