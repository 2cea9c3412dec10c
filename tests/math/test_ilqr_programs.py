"""How iterative LQR is called: in batches, inside jit, with new parameters, without 64-bit numbers, with no steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import control_cases as cc
from control_cases import Control, wild
from forethought import ILQRStatus, UserError, ilqr

n, m, T = 4, 2, 6
LO, HI = np.full((T, m), -0.4), np.full((T, m), 0.6)
PROBLEMS = [wild(T=T, seed=seed, bend=0.2) for seed in range(2)]
STARTS = np.random.default_rng(0).standard_normal((2, 3, n))


def one(problem: Control, x0):
    return ilqr(*problem[:3], x0, problem.us, LO, HI)


@jax.jit
def all_of_them(problems: Control, x0s):
    """Two problems, each from three starts."""
    each = lambda problem, x0s: jax.vmap(lambda x0: one(problem, x0))(x0s)
    return jax.vmap(each)(problems, x0s)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_a_batch_of_batches_inside_jit_is_a_loop():
    """Each problem as long as it needs: numbers, iterations and statuses are those that it has alone."""
    batch = all_of_them(stacked(PROBLEMS), STARTS)
    assert len(np.unique(batch.iterations)) > 2
    for i, problem in enumerate(PROBLEMS):
        for j, x0 in enumerate(STARTS[i]):
            alone = one(problem, x0)
            assert alone.status in (ILQRStatus.CONVERGED, ILQRStatus.SMALL_STEP)
            for a, b in zip(batch, alone, strict=True):
                np.testing.assert_allclose(a[i, j], b, rtol=1e-10, atol=1e-12)
            assert batch.iterations[i, j] == alone.iterations
            assert batch.status[i, j] == alone.status


def test_new_parameters_controls_and_limits_compile_nothing():
    one(PROBLEMS[0], STARTS[0, 0])
    with cc.compilations() as heard:
        for problem, x0 in zip(PROBLEMS, STARTS[1, :2], strict=True):
            ilqr(*problem[:3], x0, 2.0 * problem.us, LO - 1.0, HI)
            ilqr(*problem[:3], x0.tolist(), problem.us.tolist(), LO.tolist(), HI)
        assert heard == []
        jax.jit(lambda x: x + 1.0)(1.0)  # it does hear
        assert len(heard) == 1


def test_it_computes_in_64_bit_whatever_jax_is_set_to():
    wide = one(PROBLEMS[0], STARTS[0, 0])
    single = jnp.asarray(STARTS[0, 0], jnp.float32)
    of_single = one(PROBLEMS[0], np.asarray(single, np.float64))
    with jax.enable_x64(False):
        with cc.compilations() as heard:
            narrow = one(PROBLEMS[0], STARTS[0, 0])
        assert heard == []
        assert {np.dtype(leaf.dtype) for leaf in narrow} == {np.dtype(np.float64), np.dtype(np.int32)}
        for a, b in zip(narrow, wide, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(one(PROBLEMS[0], single), of_single, strict=True):
            np.testing.assert_array_equal(a, b)
        with pytest.raises(UserError, match="jax_enable_x64"):
            jax.jit(lambda x0: one(PROBLEMS[0], x0))(STARTS[0, 0])
        assert not jax.config.read("jax_enable_x64")


def _step(a, x, u, t):
    return a * jnp.sin(x) + u[:1] * jnp.ones(2) * jnp.array([1.0, 0.5]) + 0.1 * t


def _stage(weight, x, u, t):
    return weight * jnp.sum(x**2) + 0.5 * jnp.sum(u**2) + jnp.sum(u) * x[0]


def _end(goal, x):
    return jnp.sum((x - goal) ** 2)


def of_partials(a, weight, goal) -> Control:
    """Plain functions with their parameters as arguments."""
    partials = [jax.tree_util.Partial(f, np.asarray(v, float)) for f, v in ((_step, a), (_stage, weight), (_end, goal))]
    return Control(*partials, np.array([0.3, -0.2]), np.array([[0.5, 0.1]]))


def test_one_step_is_newton_s_method_and_parameters_of_a_partial_compile_nothing():
    """With T = 1 the optimum has a closed form.  The limit is far away, and only one."""
    ilqr(*of_partials(0.7, 0.1, [1.0, 0.5]), -9.0)
    with cc.compilations() as heard:
        found = [ilqr(*of_partials(a, 0.2, [1.0, b]), -10.0) for a, b in ((0.9, 0.3), (-0.4, -2.0))]
    assert heard == []
    for got, (a, b) in zip(found, ((0.9, 0.3), (-0.4, -2.0)), strict=True):
        x = np.array([0.3, -0.2])
        # Quadratic in u: (1 + 2.5) u0 = -x0 - 2 [1, 0.5] (a sin x - goal), u1 = -x0.
        off = a * np.sin(x) - np.array([1.0, b])
        want = [-(x[0] + 2.0 * (off[0] + 0.5 * off[1])) / 3.5, -x[0]]
        np.testing.assert_allclose(got.us, [want], rtol=1e-10)
        assert got.status == ILQRStatus.CONVERGED
        assert got.iterations == 1
        assert got.xs.shape == (2, 2)
        np.testing.assert_allclose(got.K[0, 1], [-1.0, 0.0], atol=1e-12)


def test_without_steps_the_cost_is_the_terminal_one():
    q = wild(T=T, seed=0)
    got = ilqr(*q[:4], np.zeros((0, m)))
    assert got.status == ILQRStatus.CONVERGED
    assert got.iterations == 0
    assert float(got.cost) == pytest.approx(0.5 * q.x0 @ q.terminal.C @ q.x0 + q.terminal.c @ q.x0, rel=1e-12)
    assert got.us.shape == (0, m)
    assert got.K.shape == (0, m, n)
    np.testing.assert_array_equal(got.xs, [q.x0])
    assert got.gradient_norm == 0.0
    assert got.relative_gradient == 0.0


def test_the_time_that_step_and_stage_get_is_a_whole_number():
    """int32; that it is the right one is seen where problems vary in time."""
    heard = []

    def note(where, t):
        heard.append((where, t.dtype, t.shape))
        return t

    step = lambda x, u, t: x + note("step", t)
    stage = lambda x, u, t: jnp.sum(u**2) + jnp.sum(x) * note("stage", t)
    jax.eval_shape(lambda: ilqr(step, stage, lambda x: jnp.sum(x), np.zeros(1), np.ones((4, 1))))
    assert {where for where, *_ in heard} == {"step", "stage"}
    assert {(dtype, shape) for _, dtype, shape in heard} == {(np.dtype(np.int32), ())}


def test_derivatives_forward_through_a_solve_or_a_sentence():
    """Reverse mode is not available: it has to say so, and not be wrong."""
    q = PROBLEMS[0]
    with pytest.raises(ValueError, match=r"[Rr]everse"):
        jax.eval_shape(jax.grad(lambda x0: one(q, x0).cost), q.x0)
