"""Curvature of every cost against central differences of its values, and of other functions against closed forms."""

from __future__ import annotations

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.core import AbstractCost
from forethought.costs import (
    gymnasium,
    gymnasium_locomotion,
    gymnasium_mujoco,
    known,
    learned,
    quadratic,
    reaching,
    saturating,
)
from forethought.costs import terminal as terminal_module
from forethought.costs.known import KNOWN
from forethought.costs.learned import LearnedCost
from forethought.costs.quadratic import Quadratic
from forethought.costs.reaching import ArmOffset, Components, Reaching
from forethought.costs.saturating import CartPoleSwingUpCost, Saturating
from forethought.costs.terminal import TerminalValue
from forethought.math.linearise import REVERSE_FROM, holds_products, slopes
from forethought.math.quadratise import convex_part, curvature, gauss_newton, quadratise, quadratise_terminal

MODULES = [gymnasium, gymnasium_locomotion, gymnasium_mujoco, known, learned, quadratic, reaching, saturating]
MODULES.append(terminal_module)
T0 = np.array(3, np.int32)
rng = np.random.default_rng(0)
SHAPES = {
    "Pendulum-v1": (3, 1),
    "MountainCarContinuous-v0": (2, 1),
    "MountainCar-v0": (2, 3),
    "CartPole-v1": (4, 2),
    "Acrobot-v1": (6, 3),
    "InvertedPendulum-v5": (4, 1),
    "InvertedDoublePendulum-v5": (9, 1),
    "Reacher-v5": (10, 2),
    "Pusher-v5": (23, 7),
    "Swimmer-v5": (8, 2),
    "HalfCheetah-v5": (17, 6),
    "Hopper-v5": (11, 3),
    "Walker2d-v5": (17, 6),
    "forethought/PegInsertion-v0": (10, 3),
}


class Value(eqx.Module):
    """A cost-to-go that is not quadratic."""

    w: np.ndarray

    def __call__(self, x):
        return jnp.log(1.0 + jnp.sum(jnp.exp(self.w * x)))


ROOT = rng.standard_normal((3, 3))
FULL = Quadratic(rng.normal(size=3), ROOT @ ROOT.T, np.array([[2.0, 0.3], [0.3, 1.0]]), np.ones(3), rng.normal(size=2))
COSTS = {name: (kind(), *SHAPES[name], SHAPES[name][0]) for name, kind in KNOWN.items()} | {
    "Quadratic": (FULL, 3, 2, 3),
    "Quadratic with angles": (Quadratic(np.array([3.0, 3.0]), np.ones(2), np.ones(1), angles=(1,)), 2, 1, 2),
    "Saturating": (Saturating(np.array([0.3, 0.1]), np.array([0.5, 0.8])), 2, 1, 2),
    "CartPoleSwingUp": (CartPoleSwingUpCost(), 4, 1, 4),
    "Reaching of components": (Reaching(Components((1, 3)), alpha=0.1), 4, 2, 4),
    "Reaching by an arm": (Reaching(ArmOffset((0.3, 0.5), (0.6, 0.4)), alpha=0.1), 4, 2, 4),
    "LearnedCost": (LearnedCost(3), 3, 1, 5),
    "TerminalValue": (TerminalValue(Saturating(np.zeros(2), np.ones(2)), Value(np.array([0.5, -1.0]))), 2, 1, 4),
}


def test_every_cost_that_is_shipped_is_among_them():
    kinds = {v for m in MODULES for v in vars(m).values() if inspect.isclass(v) and issubclass(v, AbstractCost)}
    assert {kind for kind in kinds if not inspect.isabstract(kind)} == {type(each[0]) for each in COSTS.values()}


STEP = 2e-4


def around(z):
    """z itself and the points [N, d] that `differences` needs."""
    d, e = len(z), STEP * np.eye(len(z))
    pairs = (e[:, None] + e[None]).reshape(-1, d)
    return z + np.concatenate([0.0 * e[:1], e, -e, pairs, -pairs, (e[:, None] - e[None]).reshape(-1, d)])


def differences(values, d):
    """Value, gradient and Hessian by central differences: the errors are of the order of h^2 and eps / h^2."""
    here, up, down, more, less, across = np.split(np.asarray(values), np.cumsum([1, d, d, d * d, d * d]))
    across = across.reshape(d, d)
    hessian = (more.reshape(d, d) + less.reshape(d, d) - across - across.T) / (4.0 * STEP**2)
    return here[0], (up - down) / (2.0 * STEP), hessian


def point(name):
    """x, u and y where a cost has slopes."""
    _, n, m, k = COSTS[name]
    rng = np.random.default_rng(2)
    x, u, y = rng.standard_normal(n), rng.standard_normal(m), rng.standard_normal(k)
    if name == "InvertedDoublePendulum-v5":
        y[3:5] = 0.9, 0.95  # upright enough, and not at the jump
    return x, u, y


def _stages(cost, x, u, y, points):
    n, m = len(x), len(u)
    stage = lambda z: cost.stage(z[:n], z[n : n + m], z[n + m :], T0)
    return quadratise(cost, x, u, y, T0), jax.vmap(stage)(points)


@pytest.fixture(scope="module")
def stages():
    """Of every cost at its point, by one program: the quadratic form, and values around it."""
    inputs = {name: (each[0], *point(name), around(np.concatenate(point(name)))) for name, each in COSTS.items()}
    return eqx.filter_jit(lambda inputs: {name: _stages(*each) for name, each in inputs.items()})(inputs)


@eqx.filter_jit
def _terminals(cost, x, points):
    return quadratise_terminal(cost, x), jax.vmap(cost.terminal)(points)


@pytest.mark.parametrize("name", COSTS)
def test_a_stage_cost_has_the_gradient_and_hessian_of_differences(stages, name):
    got, values = stages[name]
    value, gradient, hessian = differences(values, sum(map(len, point(name))))
    size = max(1.0, np.abs(hessian).max(), abs(float(got.value)))
    assert float(got.value) == pytest.approx(value, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(got.gradient, gradient, rtol=1e-6, atol=1e-7 * size)
    np.testing.assert_allclose(got.hessian, hessian, rtol=1e-5, atol=2e-7 * size)
    np.testing.assert_array_equal(got.hessian, got.hessian.T)
    flat = name in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "InvertedPendulum-v5")
    assert np.any(got.gradient) != flat


@pytest.mark.parametrize("name", ["Quadratic", "TerminalValue", "Saturating"])
def test_so_has_a_terminal_cost(name):
    cost, n, _, _ = COSTS[name]
    x = np.random.default_rng(3).standard_normal(n)
    got, values = _terminals(cost, x, around(x))
    value, gradient, hessian = differences(values, n)
    assert float(got.value) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(got.gradient, gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(got.hessian, hessian, rtol=1e-5, atol=1e-6)
    assert np.any(got.gradient) == (name != "Saturating")


def test_blocks_are_in_the_order_of_state_action_next_state_and_in_the_dtype_of_the_state():
    cost = Quadratic(np.zeros(2), np.array([1.0, 2.0]), np.array([3.0]))
    got = eqx.filter_jit(quadratise)(cost, np.float32([1.0, 1.0]), np.array([1.0]), np.zeros(2), T0)
    np.testing.assert_array_equal(np.diagonal(got.hessian), [2.0, 4.0, 6.0, 0.0, 0.0])
    np.testing.assert_array_equal(got.gradient, [2.0, 4.0, 6.0, 0.0, 0.0])
    assert {leaf.dtype for leaf in got} == {np.dtype(np.float32)}


def test_curvature_of_a_form_is_its_symmetric_part():
    matrix, z = rng.standard_normal((4, 4)), rng.standard_normal(4)
    got = jax.jit(lambda z: curvature(lambda z: z @ matrix @ z, z))(z)
    np.testing.assert_allclose(got.hessian, matrix + matrix.T, rtol=1e-14)
    np.testing.assert_allclose(got.gradient, (matrix + matrix.T) @ z, rtol=1e-13)
    np.testing.assert_array_equal(got.hessian, got.hessian.T)


@eqx.filter_jit
def _residuals_by_both(bend, matrix, offset, z):
    residuals = lambda z: matrix @ z + offset + bend * jnp.sin(z[0]) * jnp.arange(3.0)
    return gauss_newton(residuals, z), curvature(lambda z: 0.5 * jnp.sum(residuals(z) ** 2), z)


@pytest.mark.parametrize("bend", [0.0, 2.0])
def test_gauss_newton_is_exact_for_linear_residuals_and_leaves_their_curvature_out(bend):
    matrix, offset, z = rng.standard_normal((3, 4)), rng.standard_normal(3), rng.standard_normal(4)
    got, exact = _residuals_by_both(bend, matrix, offset, z)
    r = matrix @ z + offset + bend * np.sin(z[0]) * np.arange(3.0)
    slope = matrix + bend * np.cos(z[0]) * np.outer(np.arange(3.0), np.eye(4)[0])
    assert float(got.value) == pytest.approx(0.5 * r @ r, rel=1e-13)
    np.testing.assert_allclose(got.gradient, slope.T @ r, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got.hessian, slope.T @ slope, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(got.hessian, got.hessian.T)
    np.testing.assert_allclose(exact.gradient, got.gradient, rtol=1e-12, atol=1e-13)
    own = bend * -np.sin(z[0]) * (np.arange(3.0) @ r)
    assert float(exact.hessian[0, 0] - got.hessian[0, 0]) == pytest.approx(own, abs=1e-11)


project = jax.jit(convex_part)


def nearest(matrix):
    """By NumPy: no positive semidefinite matrix is nearer in the Frobenius norm (Higham 1988)."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def test_the_convex_part_is_that_of_the_eigenvalues():
    for scale in (1e-8, 1.0, 1e8):
        for _ in range(20):
            matrix = rng.standard_normal((4, 4)) * scale
            matrix = matrix + matrix.T
            got = np.asarray(project(matrix))
            np.testing.assert_allclose(got, nearest(matrix), atol=1e-13 * scale)
            np.testing.assert_array_equal(got, got.T)
            assert np.linalg.eigvalsh(got)[0] > -1e-13 * scale


def test_a_convex_matrix_is_its_own_convex_part_and_a_concave_one_has_none():
    root = rng.standard_normal((4, 4))
    convex = root @ root.T
    convex = 0.5 * (convex + convex.T)
    np.testing.assert_array_equal(project(convex), convex)
    np.testing.assert_array_equal(project(np.zeros((4, 4))), np.zeros((4, 4)))
    np.testing.assert_allclose(project(-convex), 0.0, atol=1e-14)


def test_all_of_a_matrix_is_projected_and_not_its_blocks():
    """x u has positive semidefinite blocks, zeros, and is a saddle."""
    saddle = np.zeros((4, 4))
    saddle[0, 3] = saddle[3, 0] = 2.0
    want = np.zeros((4, 4))
    want[np.ix_([0, 3], [0, 3])] = 1.0
    np.testing.assert_allclose(project(saddle), want, atol=1e-14)


@jax.jit
def _of_cubes(z):
    return curvature(lambda z: jnp.sum(z**3), z), gauss_newton(lambda z: 2.0 * z, z)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_passes_through(bad):
    matrix = -np.eye(4)
    matrix[1, 2] = matrix[2, 1] = bad
    np.testing.assert_array_equal(project(matrix), matrix)
    z = np.array([1.0, bad])
    got, other = _of_cubes(z)
    assert not np.isfinite(got.value)
    assert not np.isfinite(got.gradient[1])
    assert not np.isfinite(got.hessian[1, 1])
    assert got.gradient[0] == 3.0
    assert not np.isfinite(other.value)


FEW, MANY = REVERSE_FROM - 1, REVERSE_FROM + 2


@jax.jit
def _slopes_of_waves(weight, z):
    return slopes(lambda z: jnp.sin(weight @ z), z)


@pytest.mark.parametrize(("d", "k"), [(1, 1), (3, 7), (FEW, 2), (FEW, 20), (MANY, 2), (MANY, MANY - 1), (MANY, MANY)])
def test_slopes_are_the_same_forward_and_backward(d, k):
    weight, z = rng.standard_normal((k, d)), rng.standard_normal(d)
    value, jacobian = _slopes_of_waves(weight, z)
    np.testing.assert_allclose(value, np.sin(weight @ z), rtol=1e-13)
    np.testing.assert_allclose(jacobian, np.cos(weight @ z)[:, None] * weight, rtol=1e-12, atol=1e-13)


def test_few_inputs_go_forward_and_many_with_fewer_outputs_backward():
    """Only forward mode goes through a loop of unknown length, and only reverse mode through a custom one."""
    looped = lambda z: jax.lax.while_loop(lambda a: jnp.sum(a) < 10.0, lambda a: 2.0 * a, z)[:2]
    few, many = np.ones(FEW), np.ones(MANY)
    assert jax.eval_shape(lambda z: slopes(looped, z), few)[1].shape == (2, FEW)
    with pytest.raises(ValueError, match=r"[Rr]everse"):
        jax.eval_shape(lambda z: slopes(looped, z), many)
    custom = jax.custom_vjp(lambda z: z[:2])
    custom.defvjp(lambda z: (z[:2], z), lambda z, g: (7.0 * jnp.pad(g, (0, z.shape[0] - 2)),))
    np.testing.assert_array_equal(jax.jit(lambda z: slopes(custom, z))(many)[1], 7.0 * np.eye(MANY)[:2])
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.eval_shape(lambda z: slopes(custom, z), few)


def test_products_are_found_wherever_they_are():
    matrix, x = rng.standard_normal((3, 3)), np.ones(3)
    inside = lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.cond(x[0] > 0, lambda: matrix @ x, lambda: x), x)
    assert holds_products(lambda x: matrix @ x, x)
    assert holds_products(inside, x)
    assert not holds_products(lambda x: jnp.sum(matrix * x, axis=1), x)
