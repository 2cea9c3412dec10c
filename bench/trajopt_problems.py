"""The fixed problems of `trajopt.py`, for us and for the peers: NumPy alone, and every constant in one place.

Each costs 0.5 (x-g)'Q(x-g) + 0.5 u'Ru a step and 0.5 (x-g)'Qf(x-g) at the end, without limits.  The equations of motion
of the small ones take and return lists of components and a namespace with sin, cos and tanh, so that numpy, jax and
casadi evaluate literally the same expressions; the large ones are products of matrices.

    pendulum    P1  n=2  m=1 T=100  swing-up, the torque squashed into [-2, 2] by 2 tanh u
    cartpole    P2  n=4  m=1 T=100  swing-up
    quadrotor   P3  n=6  m=2 T=100  in a plane, back to the origin from 1.4 m away
    lqr         P4  n=20 m=5 T=200  random, linear, just unstable: solved exactly by one backward pass
    mlp         P5  n=17 m=6 T=30   a random network of 23-200-200-17, as a learned model is
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

DT = 0.05
GRAVITY = 9.81
Motion = Callable[[Any, list[Any], list[Any]], list[Any]]
"""Derivatives, or next values, of the components of the state: f(namespace, x, u)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be minimised, from where, and what several independent solvers agree that it costs in the end."""

    name: str
    q: np.ndarray
    r: np.ndarray
    qf: np.ndarray
    goal: np.ndarray
    x0: np.ndarray
    u0: np.ndarray
    """The controls [T m] that every solver starts from."""
    optimum: float
    motion: Motion | None = None
    """Next components of the state, of the small problems."""
    arrays: tuple[np.ndarray, ...] = ()
    """A and B, or the weights and biases of the network, of the large ones."""

    @property
    def n(self) -> int:
        """Components of the state."""
        return len(self.x0)

    @property
    def m(self) -> int:
        """Components of a control."""
        return self.u0.shape[1]

    @property
    def horizon(self) -> int:
        """Steps."""
        return len(self.u0)


def pendulum(o: Any, x: list[Any], u: list[Any]) -> list[Any]:
    """Derivatives of the angle from upright and its rate; mass and length are 1."""
    return [x[1], GRAVITY * o.sin(x[0]) + 2.0 * o.tanh(u[0]) - 0.1 * x[1]]


def cartpole(o: Any, x: list[Any], u: list[Any]) -> list[Any]:
    """Derivatives of the position, the angle from hanging, and their rates; the mass sits at the pole's end."""
    cart, pole, length = 1.0, 0.2, 0.5
    sin, cos, spin = o.sin(x[1]), o.cos(x[1]), x[3]
    mass = cart + pole * sin * sin
    push = (u[0] + pole * sin * (length * spin * spin + GRAVITY * cos)) / mass
    turn = (-u[0] * cos - pole * length * spin * spin * cos * sin - (cart + pole) * GRAVITY * sin) / (length * mass)
    return [x[2], spin, push, turn]


def quadrotor(o: Any, x: list[Any], u: list[Any]) -> list[Any]:
    """Derivatives of position, tilt and their rates; the controls are the rotors' thrusts beyond those of hovering."""
    mass, arm, inertia = 0.5, 0.2, 0.01
    lift = GRAVITY + (u[0] + u[1]) / mass
    return [x[3], x[4], x[5], -lift * o.sin(x[2]), lift * o.cos(x[2]) - GRAVITY, arm * (u[0] - u[1]) / inertia]


def runge_kutta(slope: Motion) -> Motion:
    """One step of `DT` by the classical method of fourth order, the control held."""

    def step(o: Any, x: list[Any], u: list[Any]) -> list[Any]:
        def ahead(by: float, slopes: list[Any]) -> list[Any]:
            return [a + by * b for a, b in zip(x, slopes, strict=True)]

        first = slope(o, x, u)
        second = slope(o, ahead(0.5 * DT, first), u)
        third = slope(o, ahead(0.5 * DT, second), u)
        fourth = slope(o, ahead(DT, third), u)
        slopes = zip(first, second, third, fourth, strict=True)
        return ahead(DT / 6.0, [a + 2.0 * b + 2.0 * c + d for a, b, c, d in slopes])

    return step


def step(problem: Problem, o: Any, x: Any, u: Any, arrays: Any = None) -> Any:
    """The next state [n], under numpy or jax.numpy; `arrays` are the problem's own unless they are given."""
    if problem.motion is not None:
        return o.stack(problem.motion(o, list(x), list(u)))
    arrays = problem.arrays if arrays is None else arrays
    if problem.name == "lqr":
        return arrays[0] @ x + arrays[1] @ u
    w1, b1, w2, b2, w3, b3 = arrays
    swish = lambda z: z / (1.0 + o.exp(-z))
    return x + swish(swish(o.concatenate([x, u]) @ w1 + b1) @ w2 + b2) @ w3 + b3


def cost_of(problem: Problem, us: Any, x0: Any = None) -> float:
    """What the controls [T m] cost, in NumPy and float64 whoever found them."""
    x = np.array(problem.x0 if x0 is None else x0, dtype=float)
    total = 0.0
    for u in np.asarray(us, dtype=float):
        error = x - problem.goal
        total += 0.5 * error @ problem.q @ error + 0.5 * u @ problem.r @ u
        x = step(problem, np, x, u)
    error = x - problem.goal
    return float(total + 0.5 * error @ problem.qf @ error)


def states_of(problem: Problem, us: Any, x0: Any = None) -> np.ndarray:
    """The states [T+1 n] that the controls lead through."""
    xs = [np.array(problem.x0 if x0 is None else x0, dtype=float)]
    for u in np.asarray(us, dtype=float):
        xs.append(step(problem, np, xs[-1], u))
    return np.stack(xs)


def batch_x0(count: int = 64) -> np.ndarray:
    """Starts [count 4] for a batch of cart-poles."""
    return np.random.default_rng(3).uniform(-0.3, 0.3, (count, 4))


def make_small() -> list[Problem]:
    """The problems with equations of motion."""
    times = np.arange(100) * DT
    return [
        Problem(
            name="pendulum",
            q=np.diag([0.1, 0.01]),
            r=np.diag([0.01]),
            qf=np.diag([100.0, 10.0]),
            goal=np.zeros(2),
            x0=np.array([np.pi, 0.0]),
            u0=0.5 * np.sin(times * 3.1)[:, None],
            optimum=111.5014,
            motion=runge_kutta(pendulum),
        ),
        Problem(
            name="cartpole",
            q=np.diag([0.1, 0.1, 0.01, 0.01]),
            r=np.diag([0.01]),
            qf=np.diag([10.0, 10.0, 1.0, 1.0]),
            goal=np.array([0.0, np.pi, 0.0, 0.0]),
            x0=np.zeros(4),
            u0=0.1 * np.sin(times * 3.0)[:, None],
            optimum=19.1399,
            motion=runge_kutta(cartpole),
        ),
        Problem(
            name="quadrotor",
            q=np.diag([1.0, 1.0, 1.0, 0.1, 0.1, 0.1]),
            r=0.1 * np.eye(2),
            qf=np.diag([10.0, 10.0, 10.0, 1.0, 1.0, 1.0]),
            goal=np.zeros(6),
            x0=np.array([1.0, -1.0, 0.3, 0.0, 0.0, 0.0]),
            u0=np.zeros((100, 2)),
            optimum=12.210989,
            motion=runge_kutta(quadrotor),
        ),
    ]


def make_lqr(n: int = 20, m: int = 5, horizon: int = 200) -> Problem:
    """A random linear system whose spectral radius is 1.02."""
    random = np.random.default_rng(0)
    a = random.standard_normal((n, n))
    a *= 1.02 / np.max(np.abs(np.linalg.eigvals(a)))
    b = random.standard_normal((n, m)) / np.sqrt(n)
    return Problem(
        name="lqr",
        q=np.eye(n),
        r=0.1 * np.eye(m),
        qf=10.0 * np.eye(n),
        goal=np.zeros(n),
        x0=random.standard_normal(n),
        u0=np.zeros((horizon, m)),
        optimum=31.770792,
        arrays=(a, b),
    )


def make_mlp(n: int = 17, m: int = 6, width: int = 200, horizon: int = 30) -> Problem:
    """A random network that says how the state changes."""
    random = np.random.default_rng(1)
    w1 = random.standard_normal((n + m, width)) / np.sqrt(n + m)
    b1 = 0.1 * random.standard_normal(width)
    w2 = random.standard_normal((width, width)) / np.sqrt(width)
    b2 = 0.1 * random.standard_normal(width)
    w3 = 0.3 * random.standard_normal((width, n)) / np.sqrt(width)
    goal = 0.5 * random.standard_normal(n)
    return Problem(
        name="mlp",
        q=np.eye(n),
        r=np.eye(m),
        qf=np.eye(n),
        goal=goal,
        x0=random.standard_normal(n),
        u0=np.zeros((horizon, m)),
        optimum=310.543,
        arrays=(w1, b1, w2, b2, w3, np.zeros(n)),
    )


PROBLEMS = {problem.name: problem for problem in [*make_small(), make_lqr(), make_mlp()]}
