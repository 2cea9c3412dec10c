"""Two systems that reach a target, in JAX: a cart with drag, and a planar arm of two links.

They are to local methods what the pendulum is to others: smooth, torque or force limited, without noise.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.types import Action, Array, Box, Spec, State
from forethought.worlds.classic import rk4
from forethought.worlds.simulated import GaussianStart, SimulatedWorld

ARM_TARGET = (0.2, 0.7)
"""Where the arm's tip shall be, in m from its shoulder."""


class DragCart(eqx.Module):
    """A cart on a plane, with drag.  x = [px, py, vx, vy] in m and m/s; u = force [N] along both axes.

    m v' = u - c v - k |v| v: linear (bearing) and quadratic (air) drag; RK4, force held over dt.  |v| couples the axes.
    """

    m: float = eqx.field(static=True, default=1.0)
    c: float = eqx.field(static=True, default=0.5)
    """Linear drag, N s/m."""
    k: float = eqx.field(static=True, default=0.5)
    """Quadratic drag, N s^2/m^2."""
    dt: float = eqx.field(static=True, default=0.1)
    substeps: int = eqx.field(static=True, default=2)

    def __call__(self, x: State, u: Action) -> State:
        """The next state."""
        u = u.astype(x.dtype)
        return rk4(lambda x: self.derivative(x, u), x, self.dt, self.substeps)

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt."""
        v = x[2:]
        speed = jnp.sqrt(jnp.sum(v * v) + 1e-12)  # its gradient at rest is 0 and not NaN
        return jnp.concatenate([v, (u - (self.c + self.k * speed) * v) / self.m])


class TwoLinkArm(eqx.Module):
    """A planar arm of two uniform rods.  x = [a, b, da, db]: a from the x axis, b relative to the first link, in rad
    and rad/s, not wrapped; u = torques [N m] at shoulder and elbow.

    M(b) q'' + h(q, q') + damping q' + G(q) = u with q = [a, b],
    M = [[m1 l1^2/3 + m2 (l1^2 + l2^2/3 + l1 l2 cos b), m2 (l2^2/3 + l1 l2 cos(b)/2)], [the same, m2 l2^2/3]],
    h = m2 l1 l2 sin(b)/2 [-2 da db - db^2, da^2],
    G = g [(m1/2 + m2) l1 cos a + m2 l2 cos(a+b)/2, m2 l2 cos(a+b)/2];
    RK4, torques held over dt.  g = 0: the arm moves in a horizontal plane.  The equations are the textbook's: Spong,
    Hutchinson and Vidyasagar, Robot Modeling and Control, section 7.4.
    """

    masses: tuple[float, float] = eqx.field(static=True, default=(1.0, 1.0))
    lengths: tuple[float, float] = eqx.field(static=True, default=(0.5, 0.5))
    damping: float = eqx.field(static=True, default=0.2)
    """N m s/rad, in both joints."""
    g: float = eqx.field(static=True, default=0.0)
    dt: float = eqx.field(static=True, default=0.05)
    substeps: int = eqx.field(static=True, default=4)

    def __call__(self, x: State, u: Action) -> State:
        """The next state."""
        u = u.astype(x.dtype)
        return rk4(lambda x: self.derivative(x, u), x, self.dt, self.substeps)

    def inertia(self, x: State) -> Float[Array, "2 2"]:
        """M(b) in kg m^2."""
        (m1, m2), (l1, l2) = self.masses, self.lengths
        both = l1 * l2 * jnp.cos(x[1])
        first = m1 * l1**2 / 3.0 + m2 * (l1**2 + l2**2 / 3.0 + both)
        cross = m2 * (l2**2 / 3.0 + 0.5 * both)
        second = jnp.full((), m2 * l2**2 / 3.0, x.dtype)
        return jnp.stack([jnp.stack([first, cross]), jnp.stack([cross, second])])

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt; M is inverted in closed form."""
        (m1, m2), (l1, l2) = self.masses, self.lengths
        a, b, da, db = x
        turn = 0.5 * m2 * l1 * l2 * jnp.sin(b)
        outer = 0.5 * m2 * l2 * self.g * jnp.cos(a + b)
        inner = (0.5 * m1 + m2) * l1 * self.g * jnp.cos(a) + outer
        f1 = u[0] + turn * (2.0 * da * db + db**2) - self.damping * da - inner
        f2 = u[1] - turn * da**2 - self.damping * db - outer
        (m11, m12), (_, m22) = self.inertia(x)
        det = m11 * m22 - m12**2
        return jnp.stack([da, db, (m22 * f1 - m12 * f2) / det, (m11 * f2 - m12 * f1) / det])


def drag_cart(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """|u| <= 2 N along each axis, 50 steps of 0.1 s, start N(0, diag(1, 1, 0.3, 0.3)^2), no noise."""
    start = GaussianStart(np.zeros(4), np.array([1.0, 1.0, 0.3, 0.3]))
    return _world("drag-cart", DragCart(), cost, start, np.array([2.0, 2.0]), dtype)


def arm_reach(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """|u| <= (3, 1.5) N m, 50 steps of 0.05 s, at rest at angles N((-0.5, 1), 0.3^2) rad, no noise.

    The angles are not wrapped, and models see them as they are: a whole turn is another state, and no trajectory has a
    jump.
    """
    start = GaussianStart(np.array([-0.5, 1.0, 0.0, 0.0]), np.array([0.3, 0.3, 0.0, 0.0]))
    return _world("arm-reach", TwoLinkArm(), cost, start, np.array([3.0, 1.5]), dtype)


def arm_tip(x: Float[Array, "*batch 4"]) -> Float[Array, "*batch 2"]:
    """The tip of `TwoLinkArm()` in m from its shoulder: l1 (cos a, sin a) + l2 (cos(a+b), sin(a+b))."""
    l1, l2 = TwoLinkArm().lengths
    a, ab = x[..., 0], x[..., 0] + x[..., 1]
    return np.stack([l1 * np.cos(a) + l2 * np.cos(ab), l1 * np.sin(a) + l2 * np.sin(ab)], axis=-1)


def _world(
    name: str,
    system: DragCart | TwoLinkArm,
    cost: AbstractCost,
    start: GaussianStart,
    most: np.ndarray,
    dtype: str,
) -> SimulatedWorld:
    """A world of four states without noise, 50 steps long."""
    most = most.astype(np.float32)
    return SimulatedWorld(
        spec=Spec(n=4, m=2),
        actions=Box(-most, most),
        name=name,
        step=system,
        cost=cost,
        start=start,
        noise_std=np.zeros(4),
        process_std=np.zeros(4),
        limit=50,
        dtype=dtype,
    )
