"""Linear-quadratic control against dense solves over the whole horizon, SciPy's Riccati equation and sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from forethought import LQRStatus, UserError
from forethought.math.linear_quadratic import (
    LinearDynamics,
    LinearGaussianPolicy,
    QuadraticCost,
    expected_cost,
    linear_marginals,
    linear_rollout,
    policy_entropy,
    quadratic_cost,
)
from forethought.math.lqr import lqr, lqr_backward, max_entropy_constants, max_entropy_policy, optimal_policy
from forethought.math.small_matrices import cholesky_solve, gram, product, transposed_product
from lqr_cases import Case, best, case, condensed, constant, total, value

DT = 0.1
A, B = np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.5 * DT**2], [DT]])


def dynamics_of(p: Case, W=None) -> LinearDynamics:
    return LinearDynamics(jnp.asarray(p.F), jnp.asarray(p.f), None if W is None else jnp.asarray(W))


def cost_of(p: Case, cc=None, cc_T=0.0) -> QuadraticCost:
    cc = np.zeros(len(p.F)) if cc is None else cc
    return QuadraticCost(*(jnp.asarray(a, jnp.float64) for a in (p.C, p.c, cc, p.C_T, p.c_T, cc_T)))


def start(n, seed=5):
    return np.random.default_rng(seed).standard_normal(n)


SHAPES = [(1, 1, 1), (3, 2, 7), (2, 4, 6), (4, 3, 1), (8, 7, 4), (34, 2, 3)]
SHAPES += [pytest.param(*shape, marks=pytest.mark.slow) for shape in ((1, 1, 5), (5, 1, 12))]


@pytest.mark.parametrize(("n", "m", "T"), SHAPES)
def test_actions_states_and_cost_are_those_of_a_dense_solve(n, m, T):
    """With cross terms, linear terms and offsets; both written-out and library algebra."""
    p, x0 = case(n, m, T, seed=n + m + T), start(n)
    xs, us, least = best(p, x0)
    s = lqr(*p)
    got_xs, got_us = linear_rollout(dynamics_of(p), s.K, s.k, jnp.asarray(x0))
    np.testing.assert_allclose(got_us, us, rtol=1e-9, atol=1e-9 * np.abs(us).max())
    np.testing.assert_allclose(got_xs, xs, rtol=1e-9, atol=1e-9 * np.abs(xs).max())
    scale = abs(least) + total(p, xs, us - us)
    assert value(s, x0) == pytest.approx(least, abs=1e-10 * abs(scale))
    assert float(quadratic_cost(cost_of(p), got_xs, got_us)) == pytest.approx(least, abs=1e-10 * abs(scale))
    assert s.status == LQRStatus.SOLVED
    assert s.failed_at == -1
    assert s.definite.all()
    np.testing.assert_array_equal(s.P, np.swapaxes(s.P, 1, 2))
    np.testing.assert_allclose(s.cholesky @ np.swapaxes(s.cholesky, 1, 2), s.Quu, rtol=1e-12, atol=1e-12)


def test_the_value_function_is_the_least_cost_from_every_step_and_state():
    p = case(seed=3)
    s = lqr(*p)
    for t in range(len(p.F) + 1):
        rest = p._replace(F=p.F[t:], f=p.f[t:], C=p.C[t:], c=p.c[t:])
        for seed in range(3):
            x = start(3, seed)
            assert value(s, x, t) == pytest.approx(best(rest, x)[2], rel=1e-10, abs=1e-10)


def test_quu_is_the_schur_complement_of_the_condensed_hessian():
    """What remains of the first action's Hessian when the best later ones follow."""
    p = case(seed=4)
    hessian, _ = condensed(p, np.zeros(3))
    m = 2
    later = np.linalg.solve(hessian[m:, m:], hessian[m:, :m])
    np.testing.assert_allclose(lqr(*p).Quu[0], hessian[:m, :m] - hessian[:m, m:] @ later, rtol=1e-9)


def test_the_golden_ratio():
    s = lqr(*constant([[1.0]], [[1.0]], 1.0, 1.0, [[1.0]], 60))
    assert s.P[0, 0, 0] == pytest.approx((1 + 5**0.5) / 2, rel=1e-12)
    assert s.K[0, 0, 0] == pytest.approx(-0.6180339887, abs=1e-10)


def test_a_long_horizon_ends_at_the_algebraic_riccati_equation():
    s = lqr(*constant(A, B, np.eye(2), 0.1, np.eye(2), 600))
    P = solve_discrete_are(A, B, np.eye(2), np.array([[0.1]]))
    np.testing.assert_allclose(s.P[0], P, rtol=1e-10)
    np.testing.assert_allclose(s.P[0], [[13.31722444, 3.20156212], [3.20156212, 4.60351402]], atol=6e-9)
    np.testing.assert_allclose(s.K[0], [[-2.5857009, -3.44343592]], atol=6e-9)


def test_unstable_dynamics_over_a_long_horizon():
    rng = np.random.default_rng(2)
    A, B, M = rng.standard_normal((4, 4)), rng.standard_normal((4, 2)), rng.standard_normal((4, 2)) * 0.1
    A *= 1.8 / np.abs(np.linalg.eigvals(A)).max()
    p = constant(A, B, np.eye(4), np.eye(2), np.eye(4), 500)
    p.C[:, :4, 4:], p.C[:, 4:, :4] = M, M.T
    s = lqr(*p)
    np.testing.assert_allclose(s.P[0], solve_discrete_are(A, B, np.eye(4), np.eye(2), s=M), rtol=1e-8)
    xs, _ = linear_rollout(dynamics_of(p), s.K, s.k, jnp.ones(4))
    assert np.abs(xs[-1]).max() < 1e-6


class TestGolden:
    """The double integrator of design note C4 without its constraint: printed figures, tau = 1."""

    T = 20
    p = constant(A, B, np.eye(2), 0.1, 10.0 * np.eye(2), T)
    m0, P0, W = np.array([1.0, 0.0]), 0.01 * np.eye(2), np.tile(1e-4 * np.eye(2), (T, 1, 1))

    def test_figures(self):
        dynamics, cost = dynamics_of(self.p, self.W), cost_of(self.p)
        s = lqr_backward(dynamics, cost)
        np.testing.assert_allclose(s.K[0], [[-2.61683504, -3.45337243]], atol=6e-9)
        calm, lively = optimal_policy(s), max_entropy_policy(s, 1.0)
        J = [float(expected_cost(cost, linear_marginals(dynamics, q, self.m0, self.P0))) for q in (calm, lively)]
        assert J[0] == pytest.approx(6.82474618384, abs=6e-12)
        assert J[1] == pytest.approx(16.82474618384, abs=6e-11)
        H = float(policy_entropy(lively).sum())
        assert pytest.approx(47.2154565869, abs=6e-11) == H  # the note prints ..669, which its own J - H contradicts
        soft = s._replace(v=max_entropy_constants(s, 1.0))
        mean = 0.5 * np.trace(np.asarray(s.P[0]) @ self.P0)
        assert mean + value(soft, self.m0) == pytest.approx(J[1] - H, abs=1e-11)
        assert mean + value(s, self.m0) == pytest.approx(J[0], abs=1e-11)
        assert J[1] - H == pytest.approx(-30.3907104031, abs=6e-11)


@pytest.mark.parametrize("tau", [0.0, 0.3, 2.0])
def test_maximum_entropy(tau):
    """Covariance tau Quu^-1; it costs tau m T/2; J - tau H is stationary in K, k and L."""
    p, rng = case(seed=6), np.random.default_rng(0)
    dynamics, cost = dynamics_of(p, np.tile(0.2 * np.eye(3), (7, 1, 1))), cost_of(p, rng.standard_normal(7), 0.4)
    s = lqr_backward(dynamics, cost)
    policy = max_entropy_policy(s, tau)
    np.testing.assert_allclose(policy.L @ np.swapaxes(policy.L, 1, 2), tau * np.linalg.inv(s.Quu), atol=1e-12)
    assert not np.triu(policy.L, 1).any()
    m0, P0 = start(3), 0.3 * np.eye(3)
    J = lambda q: expected_cost(cost, linear_marginals(dynamics, q, m0, P0))
    assert float(J(policy) - J(optimal_policy(s))) == pytest.approx(tau * 2 * 7 / 2, abs=1e-11)
    assert float(J(optimal_policy(s))) == pytest.approx(value(s, m0) + 0.15 * np.trace(s.P[0]), rel=1e-12)
    if tau:
        free = lambda q: J(q) - tau * policy_entropy(q).sum()
        gradient = jax.grad(free)(policy)
        gradient = gradient._replace(L=jnp.tril(gradient.L))
        assert max(float(jnp.abs(g).max()) for g in gradient) < 1e-11
        soft = s._replace(v=max_entropy_constants(s, tau))
        assert float(free(policy)) == pytest.approx(value(soft, m0) + 0.15 * np.trace(s.P[0]), rel=1e-11)


def test_marginals_and_expected_cost_agree_with_sampling():
    """200,000 rollouts, within four standard errors."""
    N, n, m, T, rng = 200_000, 3, 2, 5, np.random.default_rng(1)
    p = case(n, m, T, seed=8)
    noise, K = rng.standard_normal((T, n, n)) * 0.4, rng.standard_normal((T, m, n)) * 0.3
    k, L = rng.standard_normal((T, m)), np.tril(rng.standard_normal((T, m, m)))
    policy = LinearGaussianPolicy(jnp.asarray(K), jnp.asarray(k), jnp.asarray(L))
    dynamics = dynamics_of(p, noise @ np.swapaxes(noise, 1, 2))
    m0, root = start(n), 0.5 * rng.standard_normal((n, n))
    got = linear_marginals(dynamics, policy, m0, root @ root.T)
    x = m0 + rng.standard_normal((N, n)) @ root.T
    costs = np.zeros(N)

    def compare(sample, mean, cov):
        spread = np.sqrt(np.diag(cov))
        assert (np.abs(sample.mean(0) - mean) < 4 * spread / np.sqrt(N)).all()
        error = np.sqrt((np.outer(spread, spread) ** 2 + np.asarray(cov) ** 2) / N)
        assert (np.abs(np.cov(sample.T) - cov) < 4.5 * error).all()

    for t in range(T):
        u = x @ K[t].T + k[t] + rng.standard_normal((N, m)) @ L[t].T
        z = np.concatenate([x, u], axis=1)
        compare(z, got.mean[t], got.cov[t])
        costs += 0.5 * np.sum(z @ p.C[t] * z, axis=1) + z @ p.c[t]
        x = z @ p.F[t].T + p.f[t] + rng.standard_normal((N, n)) @ noise[t].T
    compare(x, got.last_mean, got.last_cov)
    costs += 0.5 * np.sum(x @ p.C_T * x, axis=1) + x @ p.c_T
    expected = float(expected_cost(cost_of(p), got))
    assert abs(costs.mean() - expected) < 4 * costs.std() / np.sqrt(N)


def test_noise_changes_the_constants_alone():
    p = case(seed=9)
    W = np.tile(np.diag([0.1, 0.5, 2.0]), (7, 1, 1))
    calm, noisy = lqr(*p), lqr(*p, W=W)
    np.testing.assert_array_equal(calm.K, noisy.K)
    np.testing.assert_array_equal(calm.k, noisy.k)
    share = 0.5 * np.einsum("tij,tji->t", W, calm.P[1:])
    np.testing.assert_allclose(noisy.v[:-1] - calm.v[:-1], np.cumsum(share[::-1])[::-1], rtol=1e-11)


def test_no_steps():
    p = case(T=0)
    s = lqr(*p)
    assert s.K.shape == (0, 2, 3)
    np.testing.assert_allclose(s.P, p.C_T[None])
    np.testing.assert_allclose(s.p, p.c_T[None])
    assert s.v.tolist() == [0.0]
    assert s.status == LQRStatus.SOLVED
    xs, us = linear_rollout(dynamics_of(p), s.K, s.k, jnp.ones(3))
    assert xs.shape == (1, 3)
    assert us.shape == (0, 2)


@pytest.mark.parametrize("m", [2, 7])
@pytest.mark.parametrize(
    ("name", "Ruu"),
    [
        ("indefinite", lambda m: np.diag(np.append(np.ones(m - 1), -1.0))),
        ("zero", lambda m: np.zeros((m, m))),
        ("negative", lambda m: -np.eye(m)),
        ("singular", lambda m: np.ones((m, m))),
    ],
)
def test_a_step_without_a_minimum_is_named_and_takes_no_action(m, name, Ruu):
    """Later steps are exact; what is returned for earlier ones is the best answer to u = 0 at that step."""
    n, T, bad = 3, 6, 3
    p = case(n, m, T, seed=1)
    p.F[bad, :, n:] = 0.0  # so that Quu = Cuu there
    p.C[bad, n:, n:] = Ruu(m)
    s = lqr(*p)
    assert s.status == LQRStatus.NOT_POSITIVE_DEFINITE
    assert s.failed_at == bad
    assert s.definite.tolist() == [t != bad for t in range(T)]
    assert not s.K[bad].any()
    assert not s.k[bad].any()
    assert not s.cholesky[bad].any()
    assert all(np.isfinite(leaf).all() for leaf in s)
    still = p._replace(C=p.C.copy(), c=p.c.copy())
    still.C[bad, n:, :], still.C[bad, :, n:], still.c[bad, n:] = 0.0, 0.0, 0.0
    still.C[bad, n:, n:] = np.eye(m)  # the same problem if u = 0 there
    assert value(s, start(n)) == pytest.approx(best(still, start(n))[2], rel=1e-10)
    lively = max_entropy_policy(s, 1.0)
    assert np.isfinite(lively.L).all()
    assert not lively.L[bad].any()
    assert np.isinf(max_entropy_constants(s, 1.0)[: bad + 1]).all()
    gradient = jax.grad(lambda C: lqr(p.F, p.f, C, p.c, p.C_T, p.c_T).P[0].sum())(jnp.asarray(p.C))
    assert np.isfinite(gradient).all()


def test_rounding_is_not_taken_for_definiteness():
    """Two equal columns of B and no cost of control: Quu = B^T P B is singular, though its pivot may round to 1e-17."""
    for seed in range(30):
        p = case(seed=seed)
        p.F[:, :, 4] = 1e4 * p.F[:, :, 3]
        p.C[:, 3:, :], p.C[:, :, 3:] = 0.0, 0.0
        s = lqr(*p)
        assert s.status == LQRStatus.NOT_POSITIVE_DEFINITE
        assert s.failed_at == 6


def test_control_may_cost_nothing_or_less_if_its_effect_does():
    """Cuu = 0, and Cuu < 0 < Quu: what matters is Quu."""
    for Ruu in (0.0, -0.05):
        p = case(m=1, T=5, seed=2)
        p.F[:, :, 3] += 2.0
        p.C[:, 3:, :], p.C[:, :, 3:] = 0.0, 0.0
        p.C[:, 3, 3] = Ruu
        p = p._replace(C_T=np.eye(3))
        s = lqr(*p)
        assert s.status == LQRStatus.SOLVED
        assert value(s, start(3)) == pytest.approx(best(p, start(3))[2], rel=1e-9)


def test_singular_b_with_a_cost_of_control_is_solved():
    p = case(seed=1)
    p.F[:, :, 3:] = 0.0
    s = lqr(*p)
    assert s.status == LQRStatus.SOLVED
    assert value(s, start(3)) == pytest.approx(best(p, start(3))[2], rel=1e-10)


@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e-150, 1e150])
def test_the_unit_of_the_cost_does_not_matter(scale):
    plain, scaled = lqr(*case(seed=5)), lqr(*case(seed=5, scale=scale))
    assert scaled.status == LQRStatus.SOLVED
    np.testing.assert_allclose(scaled.K, plain.K, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(scaled.P / scale, plain.P, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
@pytest.mark.parametrize("index", [1, 3], ids=["state", "control"])
def test_the_units_of_states_and_controls_do_not_matter(unit, index):
    p, units = case(seed=5), np.ones(5)
    units[index] = unit
    own = units[:3]
    other = Case(
        p.F / own[:, None] * units,
        p.f / own,
        p.C * units[:, None] * units,
        p.c * units,
        p.C_T * own[:, None] * own,
        p.c_T * own,
    )
    plain, scaled = lqr(*p), lqr(*other)
    assert scaled.status == LQRStatus.SOLVED
    np.testing.assert_allclose(scaled.K * units[3:, None] / own, plain.K, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(scaled.v, plain.v, rtol=1e-9)


def test_only_the_symmetric_part_of_a_quadratic_form_counts():
    p, rng = case(seed=7), np.random.default_rng(0)
    skew = rng.standard_normal((7, 5, 5))
    last = rng.standard_normal((3, 3))
    odd = p._replace(C=p.C + skew - np.swapaxes(skew, 1, 2), C_T=p.C_T + last - last.T)
    for a, b in zip(lqr(*odd), lqr(*p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("field", Case._fields)
def test_numbers_that_are_not_finite(field, bad):
    """Outside jit a sentence says where; inside, the status, and no gain is ever NaN."""
    p = case()
    array = getattr(p, field).copy()
    index = (2, 0, 1)[: array.ndim] if array.shape[0] == 7 else (1, 1)[: array.ndim]
    array[index] = bad
    p = p._replace(**{field: array})
    with pytest.raises(UserError, match=rf"^{field} in lqr is {bad} at \[{', '.join(map(str, index))}\]"):
        lqr(*p)
    s = jax.jit(lqr)(*p)
    assert s.status == LQRStatus.NOT_FINITE
    # An offset first shows in the value function of its own step, everything else at its own step too.
    assert s.failed_at == (7 if field.endswith("_T") else 2)
    assert np.isfinite(s.K).all()
    assert np.isfinite(s.k).all()
    assert not s.K[: 3 if array.shape[0] == 7 else 7].any()
    good = lqr(*case())
    np.testing.assert_allclose(s.P[3:-1], good.P[3:-1] if array.shape[0] == 7 else s.P[3:-1])


def test_what_overflows_is_named():
    p = constant([[1e60]], [[0.0]], 1.0, 1.0, [[1.0]], 6)
    s = lqr(*p)
    assert s.status == LQRStatus.NOT_FINITE
    assert s.failed_at == 3
    assert np.isfinite(s.P[4:]).all()
    assert np.isfinite(s.K).all()


WRONG = [
    ({"F": np.zeros((3, 5))}, r"F in lqr has shape \[3, 5\]; it must be \[T, n, n\+m\]"),
    ({"F": np.zeros((7, 3, 3))}, "with n and m at least 1"),
    ({"F": np.zeros((7, 0, 3))}, "with n and m at least 1"),
    ({"f": np.zeros((3,))}, r"f in lqr has shape \[3\]; it must be \[T, n\] = \[7, 3\], as F has T=7, n=3 and m=2"),
    ({"C": np.zeros((5, 5))}, r"C in lqr has shape \[5, 5\]; it must be \[T, n\+m, n\+m\] = \[7, 5, 5\]"),
    ({"c": np.zeros((6, 5))}, r"c in lqr has shape \[6, 5\]"),
    ({"C_T": np.zeros((5, 5))}, r"C_T in lqr has shape \[5, 5\]; it must be \[n, n\] = \[3, 3\]"),
    ({"c_T": 0.0}, r"c_T in lqr has shape \[\]"),
    ({"c_T": [[1.0, 2.0], [3.0]]}, "c_T in lqr is no array"),
    ({"f": np.zeros((7, 3), complex)}, "f in lqr holds complex128"),
    ({"f": "nothing"}, "f in lqr holds <U7"),
    ({"f": None}, "f in lqr holds object"),
    ({"passes": "fast"}, "passes='fast'; it must be one of 'auto', 'sequential', 'parallel'"),
    ({"W": np.zeros((7, 3))}, r"W in lqr has shape \[7, 3\]"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=range(len(WRONG)))
def test_mistakes_are_told_in_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        lqr(**{**case()._asdict(), **change})


def test_it_computes_in_64_bit_whatever_jax_is_set_to():
    p = case()
    wide = lqr(*p)
    with jax.enable_x64(False):
        narrow = lqr(*p)
        assert narrow.P.dtype == np.float64
        for a, b in zip(narrow, wide, strict=True):
            np.testing.assert_array_equal(a, b)
        single = lqr(*(jnp.asarray(a, jnp.float32) for a in p))
        assert single.P.dtype == np.float64
        with pytest.raises(UserError, match="jax_enable_x64"):
            jax.jit(lqr)(*p)
        assert not jax.config.read("jax_enable_x64")
    np.testing.assert_array_equal(lqr(*(a.tolist() for a in p)).P, wide.P)
    whole = constant([[1]], [[1]], 1, 1, [[1]], 3)
    np.testing.assert_array_equal(lqr(*(a.astype(int) for a in whole)).P, lqr(*whole).P)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (8, 7)])
def test_a_batch_is_a_loop(n, m):
    """Under vmap, one problem of which has no minimum."""
    many = [case(n, m, 5, seed=seed) for seed in range(4)]
    many[2].C[1, n:, n:] -= 100.0 * np.eye(m)
    batch = jax.vmap(lqr)(*map(np.stack, zip(*many, strict=True)))
    assert batch.status.tolist() == [0, 0, 1, 0]
    for i, p in enumerate(many):
        for a, b in zip(batch, lqr(*p), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-10)


def test_one_program_per_shape():
    """Other numbers, from NumPy or from jax, compile nothing."""
    lqr(*map(jnp.asarray, case(T=9)))  # with what copying to jax compiles
    heard = []

    def listen(event: str, seconds: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            heard.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for seed in range(3):
            lqr(*case(T=9, seed=seed))
            lqr(*map(jnp.asarray, case(T=9, seed=seed)))
        assert heard == []
        lqr(*case(T=11))
        assert len(heard) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_derivatives_of_the_least_cost_are_those_of_differences():
    p, x0 = case(seed=2), start(3)

    def cost(F):
        s = lqr(F, *p[1:])
        return 0.5 * x0 @ s.P[0] @ x0 + s.p[0] @ x0 + s.v[0]

    direction = np.random.default_rng(0).standard_normal(p.F.shape)
    least = lambda h: best(p._replace(F=p.F + h * direction), x0)[2]
    numeric = (least(1e-6) - least(-1e-6)) / 2e-6
    assert float(jnp.sum(jax.grad(cost)(jnp.asarray(p.F)) * direction)) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("k", [0, 1, 4, 5, 20, 33])
def test_products(k):
    rng = np.random.default_rng(k)
    a, b, c = (jnp.asarray(rng.standard_normal(shape)) for shape in ((3, k), (k, 4), (k, 3)))
    np.testing.assert_allclose(product(a, b), np.asarray(a) @ np.asarray(b), atol=1e-13)
    np.testing.assert_allclose(transposed_product(c, b), np.asarray(c).T @ np.asarray(b), atol=1e-13)
    np.testing.assert_allclose(gram(c), np.asarray(c).T @ np.asarray(c), atol=1e-13)
    np.testing.assert_array_equal(gram(c), gram(c).T)


@pytest.mark.parametrize("m", [1, 2, 6, 7])
def test_cholesky(m):
    rng = np.random.default_rng(m)
    root, right = rng.standard_normal((m, m)), rng.standard_normal((m, 3))
    matrix = root @ root.T + np.eye(m)
    got = cholesky_solve(jnp.asarray(matrix), jnp.asarray(right), 1e-14)
    np.testing.assert_allclose(got.lower, np.linalg.cholesky(matrix), atol=1e-12)
    np.testing.assert_allclose(got.whole, np.linalg.solve(matrix, right), atol=1e-12)
    np.testing.assert_allclose(got.lower @ got.half, right, atol=1e-12)
    assert got.definite
    for wrong in (matrix - 1.01 * np.linalg.eigvalsh(matrix)[0] * np.eye(m), np.nan * matrix, 0.0 * matrix):
        assert not cholesky_solve(jnp.asarray(wrong), jnp.asarray(right), 1e-14).definite
