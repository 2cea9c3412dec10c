"""Problems of optimal control whose arrays are arguments, so that many of them share a program, and what they come to
by other means: JAX's own derivatives of one rolled-out sum, dense linear algebra, SciPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from forethought import ILQRStatus, LQRStatus, lqr
from lqr_cases import Case, case, condensed


class Wave(eqx.Module):
    """x+ = F_t z + f_t + W sin(V z + b), z = [x; u]: linear systems, pendulums and wild ones."""

    F: Any
    f: Any
    W: Any
    V: Any
    b: Any

    def __call__(self, x, u, t):
        z = jnp.concatenate([x, u])
        return self.F[t] @ z + self.f[t] + self.W @ jnp.sin(self.V @ z + self.b)


class Bowl(eqx.Module):
    """1/2 z^T C_t z + c_t^T z + g^T cos(H z): convex if g is small enough."""

    C: Any
    c: Any
    g: Any
    H: Any

    def __call__(self, x, u, t):
        z = jnp.concatenate([x, u])
        return 0.5 * z @ self.C[t] @ z + self.c[t] @ z + self.g @ jnp.cos(self.H @ z)


class End(eqx.Module):
    """1/2 x^T C x + c^T x."""

    C: Any
    c: Any

    def __call__(self, x):
        return 0.5 * x @ self.C @ x + self.c @ x


class Mortal(eqx.Module):
    """Whether x_0 is below a wall."""

    wall: Any

    def __call__(self, y):
        return y[0] < self.wall


class Control(NamedTuple):
    """The first three arguments of `forethought.ilqr`, and a start."""

    step: Callable
    stage: Callable
    terminal: Callable
    x0: np.ndarray
    us: np.ndarray


def arrays(module):
    """Its leaves as NumPy's in float64: converting them is then no program."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), module)


def linear_quadratic(p: Case, x0, us) -> Control:
    """As a problem of control."""
    (_, n, z), k = p.F.shape, 3
    nothing = np.zeros((k, z))
    step = Wave(p.F, p.f, np.zeros((n, k)), nothing, np.zeros(k))
    return Control(arrays(step), arrays(Bowl(p.C, p.c, np.zeros(k), nothing)), arrays(End(p.C_T, p.c_T)), x0, us)


def wild(n=4, m=2, T=12, seed=0, bend=0.4, dent=0.0, spread=1.0) -> Control:
    """A random smooth system; `bend` is how far it is from linear, `dent` how far its cost is from convex."""
    p, rng, k = case(n, m, T, seed=seed, spread=spread), np.random.default_rng(1000 + seed), 3
    V, H = 0.5 * rng.standard_normal((k, n + m)), rng.standard_normal((k, n + m))
    step = Wave(p.F, p.f, bend * rng.standard_normal((n, k)), V, rng.standard_normal(k))
    stage = Bowl(p.C, p.c, dent * np.ones(k), H)
    x0, us = rng.standard_normal(n), rng.standard_normal((T, m))
    return Control(arrays(step), arrays(stage), arrays(End(p.C_T + 0.1 * np.eye(n), p.c_T)), x0, us)


def pendulum(n=4, m=2, T=12, dt=0.1) -> Control:
    """Swung towards upright in the first two states, by both controls; the others are idle."""
    z = n + m
    F, W, V = np.zeros((T, n, z)), np.zeros((n, 3)), np.zeros((3, z))
    F[:, 0, :2], F[:, 1, 1], F[:, 1, n:] = (1.0, dt), 1.0 - 0.1 * dt, (dt, 0.5 * dt)
    W[1, 0], V[0, 0] = -9.81 * dt, 1.0
    C, last, goal = np.zeros((T, z, z)), np.zeros((n, n)), np.zeros((T, z))
    C[:, 0, 0], C[:, 1, 1], C[:, n:, n:] = 0.1, 0.01, 0.05 * np.eye(m)
    goal[:, 0] = -0.1 * np.pi
    last[0, 0], last[1, 1] = 50.0, 5.0
    step = Wave(F, np.zeros((T, n)), W, V, np.zeros(3))
    end = End(last, np.eye(n)[0] * -50.0 * np.pi)
    x0, us = np.eye(n)[0] * 0.5, np.random.default_rng(0).standard_normal((T, m))
    return Control(arrays(step), arrays(Bowl(C, goal, np.zeros(3), np.zeros((3, z)))), arrays(end), x0, us)


def cartpole_step(x, u, t):
    """Euler's rule, written in scalars; the pole hangs at the angle 0."""
    del t
    cart, pole, length, gravity = 1.0, 0.2, 0.5, 9.81
    sin, cos, spin = jnp.sin(x[1]), jnp.cos(x[1]), x[3]
    mass = cart + pole * sin * sin
    push = (u[0] + pole * sin * (length * spin * spin + gravity * cos)) / mass
    turn = (-u[0] * cos - pole * length * spin * spin * cos * sin - (cart + pole) * gravity * sin) / (length * mass)
    return x + 0.05 * jnp.stack([x[2], spin, push, turn])


def cartpole_stage(x, u, t):
    """Little for the way."""
    del t
    return 0.05 * (x[0] ** 2 + (x[1] - jnp.pi) ** 2) + 0.005 * (x[2] ** 2 + x[3] ** 2) + 0.05 * u[0] ** 2


def cartpole_end(x):
    """Upright at the origin."""
    return 10.0 * (x[0] ** 2 + (x[1] - jnp.pi) ** 2) + x[2] ** 2 + x[3] ** 2


def acrobot_step(x, u, t):
    """Gymnasium's equations with Spong's moments of inertia of 1, both links of length 1 and mass 1; Euler, 0.1 s."""
    del t
    gravity, cos, spin, other = 9.8, jnp.cos(x[1]), x[2], x[3]
    d1, d2 = 0.25 + (1.0 + 0.25 + cos) + 2.0, 0.25 + 0.5 * cos + 1.0
    phi2 = 0.5 * gravity * jnp.cos(x[0] + x[1] - 0.5 * jnp.pi)
    phi1 = -0.5 * other**2 * jnp.sin(x[1]) - other * spin * jnp.sin(x[1])
    phi1 = phi1 + 1.5 * gravity * jnp.cos(x[0] - 0.5 * jnp.pi) + phi2
    turn = (u[0] + d2 / d1 * phi1 - 0.5 * spin**2 * jnp.sin(x[1]) - phi2) / (0.25 + 1.0 - d2**2 / d1)
    return x + 0.1 * jnp.stack([spin, other, -(d2 * turn + phi1) / d1, turn])


@eqx.filter_jit
def rollout(step, x0, us):
    """States that the controls lead to."""
    times = jnp.arange(us.shape[0], dtype=jnp.int32)
    following = lambda x, at: (step(x, *at),) * 2
    _, xs = jax.lax.scan(following, x0, (us, times))
    return jnp.concatenate([x0[None], xs])


def total_of(us, x0, step, stage, terminal):
    """What controls cost."""
    times = jnp.arange(us.shape[0], dtype=jnp.int32)
    ahead = lambda x, at: (step(x, *at), stage(x, *at))
    last, costs = jax.lax.scan(ahead, x0, (us, times))
    return jnp.sum(costs) + terminal(last)


total = eqx.filter_jit(total_of)
slope = eqx.filter_jit(lambda us, x0, *functions: jax.grad(total_of)(us, x0, *functions))


def curves(problem: Control, us, h=1e-5) -> tuple[np.ndarray, np.ndarray]:
    """d^2 J / dU dU [Tm, Tm] and d^2 J / dU dx0 [Tm, n] of the whole sum, by central differences of its gradient."""
    us = np.asarray(us)
    moved = lambda dw: slope(us + dw[: us.size].reshape(us.shape), problem.x0 + dw[us.size :], *problem[:3])
    steps = h * np.eye(us.size + len(problem.x0))
    columns = [np.ravel(moved(e) - moved(-e)) / (2.0 * h) for e in steps]
    found = np.stack(columns, axis=1)
    return found[:, : us.size], found[:, us.size :]


def cost(problem: Control, us) -> float:
    """What controls cost."""
    return float(total(us, problem.x0, *problem[:3]))


def held(us, lo, hi) -> tuple[np.ndarray, np.ndarray]:
    """Which controls are at a limit, up to the rounding of one addition: below, above."""
    us, close = np.asarray(us), 1e-14
    return us - lo <= close * (1.0 + np.abs(us)), hi - us <= close * (1.0 + np.abs(us))


def inside(g, us, lo, hi) -> np.ndarray:
    """A gradient, of which at a limit only what points inside counts."""
    below, above = held(us, lo, hi)
    g = np.where(below, np.minimum(g, 0.0), g)
    return np.where(above, np.maximum(g, 0.0), g)


def gradient(problem: Control, us, lo=-np.inf, hi=np.inf) -> np.ndarray:
    """dJ/du, likewise."""
    return inside(np.asarray(slope(us, problem.x0, *problem[:3])), us, lo, hi)


@eqx.filter_jit
def _expanded(xs, us, step, stage, terminal):
    n, times = xs.shape[1], jnp.arange(us.shape[0], dtype=jnp.int32)
    split = lambda f: lambda z, t: f(z[:n], z[n:], t)
    z = jnp.concatenate([xs[:-1], us], axis=1)
    F = jax.vmap(jax.jacrev(split(step)))(z, times)
    c = jax.vmap(jax.grad(split(stage)))(z, times)
    C = jax.vmap(jax.jacrev(jax.jacrev(split(stage))))(z, times)
    return F, C, c, jax.jacrev(jax.jacrev(terminal))(xs[-1]), jax.grad(terminal)(xs[-1])


def expanded(problem: Control, xs, us) -> Case:
    """Dynamics and cost around a trajectory, in deviations from it."""
    F, C, c, C_T, c_T = (np.array(a) for a in _expanded(xs, us, *problem[:3]))
    return Case(F, np.zeros(F.shape[:2]), C, c, C_T, c_T)


def relative_gradient(problem: Control, xs, us, lo=-np.inf, hi=np.inf) -> float:
    """The documented number: over controls i, the largest max_t |g_ti| / max_t (|dc/du_ti| + |g_ti - dc/du_ti|)."""
    own = expanded(problem, xs, us).c[:, np.shape(xs)[1] :]
    whole = gradient(problem, us)
    size = np.max(np.abs(own) + np.abs(whole - own), axis=0)
    left = np.max(np.abs(gradient(problem, us, lo, hi)), axis=0)
    return float(np.max(left / np.where(size > 0.0, size, 1.0)))


def gains(problem: Control, xs, us, lo=-np.inf, hi=np.inf) -> np.ndarray:
    """K [T, m, n] of the linear-quadratic regulator around a trajectory, for which controls at limits do not exist."""
    p, n = expanded(problem, xs, us), np.shape(xs)[1]
    below, above = held(us, lo, hi)
    p.F[:, :, n:] *= ~(below | above)[:, None, :]
    there = np.pad(~(below | above), ((0, 0), (n, 0)), constant_values=True)
    C = p.C * there[:, :, None] * there[:, None, :] + np.eye(there.shape[1]) * ~there[:, :, None]
    return gains_of(p._replace(C=C, c=p.c * there))


def gains_of(p: Case) -> np.ndarray:
    """K [T, m, n] of the linear-quadratic regulator."""
    solved = lqr(*p)
    assert solved.status == LQRStatus.SOLVED
    return np.asarray(solved.K)


def check_optimum(q: Control, got, lo=-np.inf, hi=np.inf):
    """What `ilqr` returned is consistent, its gradient is that of the rolled-out cost, and it has converged."""
    check_gradient(q, got, lo, hi)
    assert got.status == ILQRStatus.CONVERGED
    assert relative_gradient(q, got.xs, got.us, lo, hi) <= 1e-6
    np.testing.assert_allclose(got.K, gains(q, got.xs, got.us, lo, hi), rtol=1e-7, atol=1e-8)


def check_gradient(q: Control, got, lo=-np.inf, hi=np.inf):
    """However well it has converged."""
    np.testing.assert_allclose(got.xs, rollout(q.step, q.x0, got.us), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.cost, cost(q, got.us), rtol=1e-12, atol=1e-10)
    g, whole = (np.abs(each).max() for each in (gradient(q, got.us, lo, hi), gradient(q, got.us)))
    np.testing.assert_allclose(got.gradient_norm, g, rtol=1e-5, atol=1e-12 * (1.0 + whole))
    relative = relative_gradient(q, got.xs, got.us, lo, hi)
    np.testing.assert_allclose(got.relative_gradient, relative, rtol=1e-5, atol=1e-12)


def bounded_best(p: Case, x0, lo, hi) -> np.ndarray:
    """The optimal actions [T, m] of a linear-quadratic problem within limits, by SciPy's L-BFGS-B on all of them."""
    (T, n, z), (hessian, g) = p.F.shape, condensed(p, x0)
    low, high = (np.broadcast_to(limit, (T, z - n)).ravel() for limit in (lo, hi))
    found = minimize(
        lambda u: (0.5 * u @ hessian @ u + g @ u, hessian @ u + g),
        np.clip(np.zeros(T * (z - n)), low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([low, high], axis=1),
        options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 5000, "maxfun": 10000},
    )
    return found.x.reshape(T, z - n)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Programs that are compiled inside."""
    heard: list[str] = []

    def listen(event: str, seconds: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            heard.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield heard
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
