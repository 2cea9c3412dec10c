"""What swinging up Pendulum-v1 costs at best: dynamic programming on a grid, an oracle for trajectory optimisers.

    python bench/swingup_grid.py                                # 5 and 10 cells per 0.1 rad/s: a minute and a half
    python bench/swingup_grid.py --resolution 20                # 3 minutes and 4.6 GB, which grow with its square
    python bench/swingup_grid.py --resolution 5 --starts 20     # and where descent ends from random torques: 5 minutes

State (th, w), th = 0 upright, from hanging still (pi, 0); Gymnasium's equations, with |u| <= 2 and T = 100:

    minimise   sum over t < T of  wrap(th)^2 + 0.1 w^2 + 0.001 u^2      of the state that the torque u meets
               w' = clip(w + dt (15 sin th + 3 u), -8, 8),   th' = th + dt w',   dt = 0.05

Three figures come of it.  `value` is the value function at the start, interpolated: an estimate, which may lie on
either side of the optimum.  `rolled` is the true cost of the torques that one step of lookahead on the value functions
chooses from the start, and `cost` that of the same torques after a local descent: both are of feasible trajectories, so
the optimum is no more than either.  NumPy and SciPy, float64.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import solve_discrete_are
from scipy.optimize import minimize

DT, SPEED, TORQUE, STEPS = 0.05, 8.0, 2.0, 100
FALL, PUSH = 15.0 * DT, 3.0 * DT
"""Changes of the speed in a step: of gravity at sin th = 1, and of one unit of torque."""
EFFORT = 0.001
START = (np.pi, 0.0)
LOOKS = 4001
"""Torques that one step of lookahead tries, and once more around the best of them."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best torques [T] that were found and what they truly cost."""

    cost: float
    us: np.ndarray
    value: float
    """The value function at the start."""
    rolled: float
    """The cost before the local descent."""
    slope: float
    """Largest component of the projected gradient after the descent."""


def wrap(th: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi), as Gymnasium has it."""
    return (th + np.pi) % (2.0 * np.pi) - np.pi


def step(th: np.ndarray, w: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next angle and speed."""
    w = np.clip(w + FALL * np.sin(th) + PUSH * u, -SPEED, SPEED)
    return th + DT * w, w


def cubic(part: np.ndarray) -> list[np.ndarray]:
    """Lagrange's weights of the nodes -1, 0, 1 and 2 at `part` in [0, 1]."""
    x = part
    return [
        -x * (x - 1.0) * (x - 2.0) / 6.0,
        (x + 1.0) * (x - 1.0) * (x - 2.0) / 2.0,
        -(x + 1.0) * x * (x - 2.0) / 2.0,
        (x + 1.0) * x * (x - 1.0) / 6.0,
    ]


def between(weights: list[np.ndarray], nodes: list[np.ndarray]) -> np.ndarray:
    """The cubic through four nodes, held between the middle two.

    Unheld, it undershoots next to the steep fall from failure to success, and the minimum seeks out just that: the
    value at the start is then 70 too low, and others are negative.
    """
    total = sum(by * node for by, node in zip(weights, nodes, strict=True))
    return np.clip(total, np.minimum(nodes[1], nodes[2]), np.maximum(nodes[1], nodes[2]))


class Grid:
    """Angles th[i] = -pi + i h around the circle, speeds w[j] from -8 to 8, and interpolation between them.

    The next angle depends on the torque only through the next speed, so one step back is two interpolations along one
    axis: Q(th, w') = V(th + dt w', w') and then Q(th, w + fall(th) + k d), d being the distance of the speeds: torques
    are tried where they change the speed by whole cells, and the best is a minimum over shifted copies of one array.
    """

    def __init__(self, resolution: int) -> None:
        self.angles, self.speeds = 80 * resolution, 160 * resolution + 1
        self.h, self.d = 2.0 * np.pi / self.angles, 0.1 / resolution
        self.th = -np.pi + self.h * np.arange(self.angles)
        self.w = -SPEED + self.d * np.arange(self.speeds)
        self.reach = 3 * resolution
        self.effort = EFFORT * (np.arange(-self.reach, self.reach + 1) * self.d / PUSH) ** 2
        self.cost = self.th[:, None] ** 2 + 0.1 * self.w**2
        self._drift()
        self._fall()

    def _drift(self) -> None:
        """Where th + dt w' falls, by column; the outermost columns are there twice."""
        columns = np.clip(np.arange(-1, self.speeds + 1), 0, self.speeds - 1)
        shift = DT * self.w[columns] / self.h
        whole = np.floor(shift).astype(int)
        rows = (np.arange(self.angles)[:, None] + whole - 1) % self.angles
        self.drift_at = rows * self.speeds + columns
        self.drift_by = cubic(shift - whole)

    def _fall(self) -> None:
        """Where w + fall(th) falls, by row, `reach` cells further at both ends; beyond the limits it stays on them."""
        cells = np.arange(-self.reach, self.speeds + self.reach)
        place = np.clip(cells + FALL * np.sin(self.th)[:, None] / self.d, 0.0, self.speeds - 1.0)
        node = np.minimum(np.floor(place).astype(int), self.speeds - 2)
        self.fall_at = np.arange(self.angles)[:, None] * (self.speeds + 2) + node
        self.fall_part = place - node

    def back(self, value: np.ndarray) -> np.ndarray:
        """The value function [angles speeds] one step earlier."""
        flat = np.concatenate([value, value[:3]]).ravel()
        drift = between(self.drift_by, [flat[k * self.speeds :].take(self.drift_at) for k in range(4)]).ravel()
        out = np.empty_like(value)
        for i in range(0, self.angles, 16):  # blocks that stay in the cache
            rows = slice(i, i + 16)
            fall = between(cubic(self.fall_part[rows]), [drift[k:].take(self.fall_at[rows]) for k in range(4)])
            best = np.full((len(fall), self.speeds), np.inf)
            for k, effort in enumerate(self.effort):
                np.minimum(best, fall[:, k : k + self.speeds] + effort, out=best)
            out[rows] = best + self.cost[rows]
        return out

    def at(self, value: np.ndarray, th: np.ndarray, w: np.ndarray) -> np.ndarray:
        """A value function between the nodes."""
        row, column = (wrap(th) + np.pi) / self.h, (w + SPEED) / self.d
        i, j = np.floor(row).astype(int), np.minimum(np.floor(column).astype(int), self.speeds - 2)
        rows = [(i + k) % self.angles for k in (-1, 0, 1, 2)]
        columns = [np.clip(j + k, 0, self.speeds - 1) for k in (-1, 0, 1, 2)]
        across = cubic(column - j)
        return between(cubic(row - i), [between(across, [value[r, c] for c in columns]) for r in rows])


def values(grid: Grid, steps: int = STEPS) -> np.ndarray:
    """The value functions [T+1 angles speeds]; there is no cost at the end."""
    found = np.zeros((steps + 1, grid.angles, grid.speeds))
    for t in reversed(range(steps)):
        found[t] = grid.back(found[t + 1])
    return found


def lookahead(grid: Grid, value: np.ndarray, th: float, w: float) -> float:
    """The best torque at a state, when `value` is what follows."""
    low, high = -TORQUE, TORQUE
    for _ in range(2):
        us = np.linspace(low, high, LOOKS)
        best = us[np.argmin(EFFORT * us**2 + grid.at(value, *step(np.full(LOOKS, th), np.full(LOOKS, w), us)))]
        low, high = max(best - (us[1] - us[0]), -TORQUE), min(best + (us[1] - us[0]), TORQUE)
    return float(best)


def roll(grid: Grid, found: np.ndarray) -> np.ndarray:
    """The torques [T] that lookahead chooses from the start, along the exact motion."""
    (th, w), us = START, []
    for value in found[1:]:
        us.append(lookahead(grid, value, th, w))
        th, w = map(float, step(th, w, us[-1]))
    return np.array(us)


def cost_and_slope(us: np.ndarray) -> tuple[float, np.ndarray]:
    """What torques [T] within the limits cost from the start, and the gradient by the adjoint equations."""
    ths, ws, free = np.empty(len(us)), np.empty(len(us)), np.empty(len(us))
    th, w = START
    for t, u in enumerate(us):
        ths[t], ws[t] = th, w
        ahead = w + FALL * np.sin(th) + PUSH * u
        w = min(max(ahead, -SPEED), SPEED)
        th, free[t] = th + DT * w, float(ahead == w)
    angles = wrap(ths)
    slope, by_th, by_w = np.empty(len(us)), 0.0, 0.0
    for t in reversed(range(len(us))):
        turn = free[t] * (by_w + DT * by_th)  # by the next speed, through which all but th itself acts
        slope[t] = 2.0 * EFFORT * us[t] + PUSH * turn
        by_th = 2.0 * angles[t] + by_th + FALL * np.cos(ths[t]) * turn
        by_w = 0.2 * ws[t] + turn
    return float(np.sum(angles**2 + 0.1 * ws**2 + EFFORT * us**2)), slope


def curvature(us: np.ndarray) -> np.ndarray:
    """The Hessian [T T] of the cost, by the tangents of the motion and of its adjoint in all directions at once."""
    count = len(us)
    (th, w), turns, tangents = START, [], []
    by_us, d_th, d_w = np.eye(count), np.zeros(count), np.zeros(count)
    for t, u in enumerate(us):
        tangents.append((th, d_th, d_w))
        ahead = w + FALL * np.sin(th) + PUSH * u
        w = min(max(ahead, -SPEED), SPEED)
        turns.append(float(ahead == w))
        d_w = turns[t] * (d_w + FALL * np.cos(th) * d_th + PUSH * by_us[t])
        th, d_th = th + DT * w, d_th + DT * d_w
    found, (_, slope) = np.empty((count, count)), cost_and_slope(us)
    by_th, by_w = np.zeros(count), np.zeros(count)  # derivatives of the adjoints, which the gradient contains
    for t in reversed(range(count)):
        th, d_th, d_w = tangents[t]
        turn, d_turn = (slope[t] - 2.0 * EFFORT * us[t]) / PUSH, turns[t] * (by_w + DT * by_th)
        found[t] = 2.0 * EFFORT * by_us[t] + PUSH * d_turn
        by_th = 2.0 * d_th + by_th + FALL * (np.cos(th) * d_turn - np.sin(th) * turn * d_th)
        by_w = 0.2 * d_w + d_turn
    return found


def project(us: np.ndarray) -> np.ndarray:
    """The torques within their limits."""
    return np.clip(us, -TORQUE, TORQUE)


def newton(us: np.ndarray, within: float) -> np.ndarray:
    """Better torques by one projected Newton step, or the same; those within `within` of a limit that holds them stay.

    Near upright the motion amplifies a change 1.21 times a step, which leaves L-BFGS alone far from any minimum.
    """
    cost, slope = cost_and_slope(us)
    free = np.where(slope > 0.0, us > within - TORQUE, us < TORQUE - within)
    sizes, axes = np.linalg.eigh(curvature(us)[np.ix_(free, free)])
    move = -slope
    move[free] = -axes @ ((axes.T @ slope[free]) / np.maximum(np.abs(sizes), 1e-7))
    tries = (project(us + 0.5**k * move) for k in range(34))
    return next((new for new in tries if cost_and_slope(new)[0] < cost), us)


def descend(us: np.ndarray) -> np.ndarray:
    """Torques no worse than the given by L-BFGS-B."""
    settings = {"maxiter": 5000, "maxfun": 20000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-10}
    bounds = [(-TORQUE, TORQUE)] * len(us)
    return minimize(cost_and_slope, us, jac=True, method="L-BFGS-B", bounds=bounds, options=settings).x


def newtons(us: np.ndarray) -> np.ndarray:
    """Torques no worse than the given by some of Newton's steps."""
    for within in (1e-1, 1e-2, 1e-3, 1e-4, 0.0) * 4:
        us = newton(us, within)
    return us


def repeat(better: Callable[[np.ndarray], np.ndarray], us: np.ndarray, rounds: int) -> np.ndarray:
    """What `better` makes of the torques, begun afresh until that no longer helps."""
    for _ in range(rounds):
        before, us = cost_and_slope(us)[0], better(us)
        if before - cost_and_slope(us)[0] < 1e-9:
            break
    return us


def polish(us: np.ndarray) -> np.ndarray:
    """Torques no worse than the given: each way of descent for as long as it helps, and both by turns."""
    return repeat(lambda us: repeat(newtons, repeat(descend, us, 20), 3), us, 10)


def flatness(us: np.ndarray) -> float:
    """Largest component of the projected gradient."""
    return float(np.abs(project(us - cost_and_slope(us)[1]) - us).max())


def best_cost(resolution: int = 10) -> Found:
    """The best swing-up that a grid of this resolution leads to."""
    grid = Grid(resolution)
    found = values(grid)
    value = float(grid.at(found[0], *(np.array([x]) for x in START))[0])
    rolled = roll(grid, found)
    us = polish(rolled)
    return Found(cost_and_slope(us)[0], us, value, cost_and_slope(rolled)[0], flatness(us))


def catch() -> np.ndarray:
    """The linear feedback [2] that holds the pendulum upright at the least cost."""
    a, b = np.array([[1.0 + DT * FALL, DT], [FALL, 1.0]]), np.array([[DT * PUSH], [PUSH]])
    cost = solve_discrete_are(a, b, np.diag([1.0, 0.1]), np.array([[EFFORT]]))
    return np.linalg.solve(EFFORT + b.T @ cost @ b, b.T @ cost @ a)[0]


def switched(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Costs [n] and torques [n T] of full torque that turns over at two times, in steps, then `catch` near upright."""
    gains = catch()
    th, w, caught = np.full(len(first), np.pi), np.zeros(len(first)), np.zeros(len(first), dtype=bool)
    cost, us = np.zeros(len(first)), np.empty((len(first), STEPS))
    for t in range(STEPS):
        angle = wrap(th)
        caught |= (np.abs(angle) < 0.35) & (t > second)
        open_loop = TORQUE * (
            1.0 - 2.0 * np.clip(t + 1.0 - first, 0.0, 1.0) + 2.0 * np.clip(t + 1.0 - second, 0.0, 1.0)
        )
        us[:, t] = np.where(caught, project(-gains[0] * angle - gains[1] * w), open_loop)
        cost += angle**2 + 0.1 * w**2 + EFFORT * us[:, t] ** 2
        th, w = step(th, w, us[:, t])
    return cost, us


def best_switched() -> Found:
    """The best of all torques that turn over twice: owes nothing to the grid, but may miss what is built otherwise."""
    first, second = (x.ravel() for x in np.meshgrid(np.arange(0.0, 15.0, 0.02), np.arange(1.0, 45.0, 0.25)))
    cost, us = switched(first, first + second)
    best = polish(us[np.argmin(cost)])
    return Found(cost_and_slope(best)[0], best, np.nan, float(cost.min()), flatness(best))


def local_costs(count: int, seed: int = 0) -> np.ndarray:
    """Where the same descent ends from no torque and from random torques [count], sorted: the local minima."""
    random = np.random.default_rng(seed)
    starts = [np.zeros(STEPS), *random.uniform(-TORQUE, TORQUE, (count - 1, STEPS))]
    return np.sort([cost_and_slope(polish(us))[0] for us in starts])


def show(name: str, make: Callable[[], Found]) -> None:
    """A line of the table."""
    began = time.perf_counter()
    best = make()
    seconds = time.perf_counter() - began
    print(
        f"{name:>10} {best.value:12.5f} {best.rolled:12.5f} {best.cost:14.8f} {best.slope:9.1e} {seconds:8.1f}",
        flush=True,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, nargs="+", default=[5, 10], help="cells per 0.1 rad/s")
    parser.add_argument("--starts", type=int, default=0, help="local descents from random torques")
    arguments = parser.parse_args()
    print(f"{'resolution':>10} {'value':>12} {'rolled':>12} {'cost':>14} {'gradient':>9} {'seconds':>8}")
    for resolution in arguments.resolution:
        show(str(resolution), partial(best_cost, resolution))
    show("switched", best_switched)
    if arguments.starts:
        print("local minima:", " ".join(f"{cost:.2f}" for cost in local_costs(arguments.starts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
