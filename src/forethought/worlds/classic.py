"""The classic control problems in JAX: their equations of motion, and worlds made of them.

Every system is a frozen module that maps (x, u) to the next state, with its physical constants (SI units) as fields.
The functions below join it to actions, starts, noise and a time limit; the cost is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.math.angles import wrap
from forethought.types import Action, Array, Box, RandomKey, Spec, State
from forethought.worlds.simulated import GaussianStart, SimulatedWorld


def rk4(f: Callable[[State], State], x: State, dt: float, substeps: int) -> State:
    """x after dt seconds of x' = f(x), by `substeps` classical Runge-Kutta steps of order 4."""
    h = dt / substeps

    def substep(_, x):
        k1 = f(x)
        k2 = f(x + 0.5 * h * k1)
        k3 = f(x + 0.5 * h * k2)
        k4 = f(x + h * k3)
        return x + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    return jax.lax.fori_loop(0, substeps, substep, x)


class Pendulum(eqx.Module):
    """Gymnasium's Pendulum-v1.  x = [cos th, sin th, w], th = 0 upright; u [N m] in [-2, 2], rod of mass m, length l.

    w' = clip(w + (3 g/(2 l) sin th + 3/(m l^2) u) dt, -8, 8), th' = th + w' dt (semi-implicit Euler).
    Source: gymnasium/envs/classic_control/pendulum.py (1.4).
    """

    g: float = eqx.field(static=True, default=10.0)
    m: float = eqx.field(static=True, default=1.0)
    l: float = eqx.field(static=True, default=1.0)  # noqa: E741
    dt: float = eqx.field(static=True, default=0.05)
    max_speed: float = eqx.field(static=True, default=8.0)
    max_torque: float = eqx.field(static=True, default=2.0)

    def __call__(self, x: State, u: Action) -> State:
        """The next [cos th, sin th, w]."""
        torque = jnp.clip(u[0], -self.max_torque, self.max_torque)
        angle = jnp.arctan2(x[1], x[0])
        push = 3.0 * self.g / (2.0 * self.l) * jnp.sin(angle) + 3.0 / (self.m * self.l**2) * torque
        speed = jnp.clip(x[2] + push * self.dt, -self.max_speed, self.max_speed)
        angle = angle + speed * self.dt
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


class PendulumStart(eqx.Module):
    """th ~ U(-pi, pi), w ~ U(-1, 1), as Pendulum-v1 starts; x = [cos th, sin th, w]."""

    def __call__(self, key: RandomKey, dtype: str) -> State:
        """One draw."""
        k_angle, k_speed = jr.split(key)
        angle = jr.uniform(k_angle, (), dtype, -np.pi, np.pi)
        speed = jr.uniform(k_speed, (), dtype, -1.0, 1.0)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


class DoubleIntegrator(eqx.Module):
    """x = [p, v], u [m/s^2] held over dt: p' = p + v dt + u dt^2/2, v' = v + u dt (exact)."""

    dt: float = eqx.field(static=True, default=0.1)

    def __call__(self, x: State, u: Action) -> State:
        """The next [p, v]."""
        return jnp.stack([x[0] + x[1] * self.dt + 0.5 * u[0] * self.dt**2, x[1] + u[0] * self.dt])


class Quadrotor(eqx.Module):
    """Planar quadrotor.  x = [p, z, a, vp, vz, w] in m, rad and s; u = thrusts [N] of right and left rotor.

    m p'' = -(u1 + u2) sin a, m z'' = (u1 + u2) cos a - m g, I a'' = r (u1 - u2); RK4, thrusts held over dt.
    Equations: Tedrake, Underactuated Robotics, chapter "Acrobots, Cart-Poles, and Quadrotors"; the constants are of a
    heavier craft, which control at 20 Hz can hold.
    """

    m: float = eqx.field(static=True, default=1.0)
    r: float = eqx.field(static=True, default=0.25)
    inertia: float = eqx.field(static=True, default=0.05)
    g: float = eqx.field(static=True, default=9.81)
    dt: float = eqx.field(static=True, default=0.05)
    substeps: int = eqx.field(static=True, default=2)

    def __call__(self, x: State, u: Action) -> State:
        """The next state."""
        u = u.astype(x.dtype)
        return rk4(lambda x: self.derivative(x, u), x, self.dt, self.substeps)

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt."""
        thrust = (u[0] + u[1]) / self.m
        spin = self.r * (u[0] - u[1]) / self.inertia
        up = thrust * jnp.cos(x[2]) - self.g
        return jnp.stack([x[3], x[4], x[5], -thrust * jnp.sin(x[2]), up, spin])


class Acrobot(eqx.Module):
    """Gymnasium's Acrobot-v1 with a continuous torque.  x = [a, b, da, db]: a from hanging, b relative to the first
    link, in rad and rad/s; u [N m] acts between the links.

    Links of mass 1 kg, length 1 m, centre of mass at 0.5 m and moment of inertia 1 kg m^2 about it; g = 9.8 m/s^2;
    one RK4 step of 0.2 s per `substeps`; |da| <= 4 pi, |db| <= 9 pi; angles are not wrapped here.
    Source: gymnasium/envs/classic_control/acrobot.py (1.4), Sutton and Barto's equations.
    """

    g: float = eqx.field(static=True, default=9.8)
    dt: float = eqx.field(static=True, default=0.2)
    substeps: int = eqx.field(static=True, default=1)

    def __call__(self, x: State, u: Action) -> State:
        """The next state."""
        u = u.astype(x.dtype)
        y = rk4(lambda x: self.derivative(x, u), x, self.dt, self.substeps)
        da = jnp.clip(y[2], -4.0 * np.pi, 4.0 * np.pi)
        db = jnp.clip(y[3], -9.0 * np.pi, 9.0 * np.pi)
        return jnp.stack([y[0], y[1], da, db])

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt, from M(b) [a'', b''] + h = [0, u]."""
        a, b, da, db = x
        d1 = 0.25 + (1.25 + jnp.cos(b)) + 2.0
        d2 = 0.25 + 0.5 * jnp.cos(b) + 1.0
        d3 = 0.25 + 1.0
        h2 = 0.5 * self.g * jnp.sin(a + b)
        h1 = -0.5 * db**2 * jnp.sin(b) - da * db * jnp.sin(b) + 1.5 * self.g * jnp.sin(a) + h2
        ddb = (u[0] + d2 / d1 * h1 - 0.5 * da**2 * jnp.sin(b) - h2) / (d3 - d2**2 / d1)
        dda = -(d2 * ddb + h1) / d1
        return jnp.stack([da, db, dda, ddb])


class CartPole(eqx.Module):
    """Gymnasium's CartPole-v1 with a continuous force.  x = [p, v, th, w], th = 0 upright; u [N] on the cart.

    Cart 1 kg, pole 0.1 kg with half length 0.5 m, g = 9.8 m/s^2, no friction, explicit Euler steps of 0.02 s.
    Source: gymnasium/envs/classic_control/cartpole.py (1.4), equations of Florian, 2007.
    """

    cart: float = eqx.field(static=True, default=1.0)
    pole: float = eqx.field(static=True, default=0.1)
    half: float = eqx.field(static=True, default=0.5)
    g: float = eqx.field(static=True, default=9.8)
    dt: float = eqx.field(static=True, default=0.02)

    def __call__(self, x: State, u: Action) -> State:
        """The next state, x + dt dx/dt."""
        return x + self.dt * self.derivative(x, u.astype(x.dtype))

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt."""
        _, v, th, w = x
        total = self.cart + self.pole
        sin, cos = jnp.sin(th), jnp.cos(th)
        push = (u[0] + self.pole * self.half * w**2 * sin) / total
        dw = (self.g * sin - cos * push) / (self.half * (4.0 / 3.0 - self.pole * cos**2 / total))
        dv = push - self.pole * self.half * dw * cos / total
        return jnp.stack([v, dv, w, dw])


class CartPoleSwingUp(eqx.Module):
    """The cart-pole of the PILCO literature.  x = [p, v, a, w]: m, m/s, rad, rad/s, a = 0 hanging; u [N] on the cart.

    Uniform rod of mass m and length l on a cart of mass M with friction b v, force held over dt:
    v' = (2 m l w^2 sin a + 3 m g sin a cos a + 4 u - 4 b v) / (4 (M+m) - 3 m cos^2 a),
    w' = (-3 m l w^2 sin a cos a - 6 (M+m) g sin a - 6 (u - b v) cos a) / (4 l (M+m) - 3 m l cos^2 a),
    by RK4.  Source: Deisenroth, Efficient Reinforcement Learning using Gaussian Processes, 2010, appendix C.2.
    """

    cart: float = eqx.field(static=True, default=0.5)
    m: float = eqx.field(static=True, default=0.5)
    l: float = eqx.field(static=True, default=0.5)  # noqa: E741
    b: float = eqx.field(static=True, default=0.1)
    g: float = eqx.field(static=True, default=9.82)
    dt: float = eqx.field(static=True, default=0.05)
    substeps: int = eqx.field(static=True, default=5)

    def __call__(self, x: State, u: Action) -> State:
        """The next state; the angle is not wrapped here."""
        u = u.astype(x.dtype)
        return rk4(lambda x: self.derivative(x, u), x, self.dt, self.substeps)

    def derivative(self, x: State, u: Action) -> State:
        """dx/dt."""
        _, v, a, w = x
        m, l, total = self.m, self.l, self.cart + self.m  # noqa: E741
        sin, cos = jnp.sin(a), jnp.cos(a)
        force = u[0] - self.b * v
        dv = (2.0 * m * l * w**2 * sin + 3.0 * m * self.g * sin * cos + 4.0 * force) / (4.0 * total - 3.0 * m * cos**2)
        torque = -3.0 * m * l * w**2 * sin * cos - 6.0 * total * self.g * sin - 6.0 * force * cos
        return jnp.stack([v, dv, w, torque / (4.0 * l * total - 3.0 * m * l * cos**2)])


def pendulum(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """Pendulum-v1: observation [cos th, sin th, w], |u| <= 2 N m, 200 steps of 0.05 s, no noise."""
    return _world("pendulum", Pendulum(), cost, PendulumStart(), _box(2.0), n=3, limit=200, dtype=dtype)


def double_integrator(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """[p, v], |u| <= 1 m/s^2, 100 steps of 0.1 s, start N(0, I), no noise."""
    start = GaussianStart(np.zeros(2), np.ones(2))
    return _world("double-integrator", DoubleIntegrator(), cost, start, _box(1.0), n=2, limit=100, dtype=dtype)


def quadrotor(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """Planar quadrotor, thrusts in [0, m g] each, 100 steps of 0.05 s, start N(0, diag(1, 1, 0.3, 0.3, 0.3, 0.3)^2)."""
    start = GaussianStart(np.zeros(6), np.array([1.0, 1.0, 0.3, 0.3, 0.3, 0.3]))
    system = Quadrotor()
    most = np.full(2, system.m * system.g, np.float32)
    actions = Box(np.zeros(2, np.float32), most)
    return _world("quadrotor", system, cost, start, actions, n=6, limit=100, angles=(2,), dtype=dtype)


def acrobot(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """Acrobot-v1's links, |u| <= 1 N m, 500 steps of 0.2 s, start N(0, 0.05^2) about hanging, no noise."""
    start = GaussianStart(np.zeros(4), np.full(4, 0.05))
    return _world("acrobot", Acrobot(), cost, start, _box(1.0), n=4, limit=500, angles=(0, 1), dtype=dtype)


def cartpole_balance(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """CartPole-v1's cart and pole, |u| <= 10 N, 500 steps of 0.02 s, start N(0, 0.03^2) about upright, no noise."""
    start = GaussianStart(np.zeros(4), np.full(4, 0.03))
    return _world("cartpole-balance", CartPole(), cost, start, _box(10.0), n=4, limit=500, angles=(2,), dtype=dtype)


def cartpole_swingup(cost: AbstractCost, dtype: str = "float32") -> SimulatedWorld:
    """PILCO's cart-pole, |u| <= 10 N, 60 steps of 0.05 s (3 s), start N(0, 0.1^2) about hanging, observation noise
    of standard deviation 0.01 in every state (m, m/s, rad, rad/s)."""
    start = GaussianStart(np.zeros(4), np.full(4, 0.1))
    system = CartPoleSwingUp()
    return _world(
        "cartpole-swingup", system, cost, start, _box(10.0), n=4, limit=60, angles=(2,), noise=0.01, dtype=dtype
    )


def tip_height(x: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Height of the acrobot's tip above its pivot in m, -2 hanging and 2 upright: -cos a - cos(a + b)."""
    return np.asarray(-np.cos(x[..., 0]) - np.cos(x[..., 0] + x[..., 1]))


def pole_angle(x: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Angle of the swing-up's pole from upright in rad, in [0, pi]."""
    return np.asarray(np.pi - np.abs(wrap(x[..., 2])))


def _box(limit: float) -> Box:
    """|u| <= limit for a single action."""
    return Box(np.full(1, -limit, np.float32), np.full(1, limit, np.float32))


def _world(
    name: str,
    system: Callable[[State, Action], State],
    cost: AbstractCost,
    start: Callable[[RandomKey, str], State],
    actions: Box,
    *,
    n: int,
    limit: int,
    angles: tuple[int, ...] = (),
    noise: float = 0.0,
    dtype: str = "float32",
) -> SimulatedWorld:
    """A world without process noise, with the same observation noise in every state."""
    return SimulatedWorld(
        spec=Spec(n=n, m=actions.m, angles=angles),
        actions=actions,
        name=name,
        step=system,
        cost=cost,
        start=start,
        noise_std=np.full(n, noise),
        process_std=np.zeros(n),
        limit=limit,
        dtype=dtype,
    )
