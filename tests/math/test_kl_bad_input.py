"""`forethought.kl_lqr` on what makes no sense or hardly any: a sentence, or a controller within the bound."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import forethought.math.kl_lqr as module
from forethought import KLStatus, LinearGaussian, UserError, kl_lqr
from forethought.math.linear_quadratic import LinearGaussianPolicy
from kl_cases import expected, kl_case

T, n, m = 4, 2, 2
NAN, INF = np.nan, np.inf


@pytest.fixture(autouse=True, scope="module")
def quickly():
    """Programs are compiled in half the time, and run a few times each."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def right(**changes) -> dict:
    """A problem by the names of its arguments; parts of the old policy are `K`, `k` and `cov`."""
    p = kl_case(n, m, T)
    given = {name: value for name, value in zip(p._fields, p, strict=True) if name != "old_policy"}
    given |= p.old_policy._asdict() | {"epsilon": 0.5} | changes
    if "old_policy" in changes:
        return {name: value for name, value in given.items() if name not in ("K", "k", "cov")}
    return given | {"old_policy": LinearGaussian(*(given.pop(name) for name in ("K", "k", "cov")))}


def at(name, value, *index):
    """An argument with one number changed."""
    p = kl_case(n, m, T)
    array = np.array(getattr(p, name) if name in p._fields else getattr(p.old_policy, name))
    array[index] = value
    return array


PLACES = {
    "F": (1, 0, 2),
    "f": (1, 0),
    "W": (2, 0, 0),
    "C": (1, 3, 3),
    "c": (3, 1),
    "C_T": (1, 1),
    "c_T": (0,),
    "m0": (1,),
    "P0": (0, 0),
    "K": (1, 0, 1),
    "k": (2, 1),
    "cov": (0, 0, 0),
}
"""One number of every argument."""


def full(name) -> str:
    return f"old_policy.{name}" if name in ("K", "k", "cov") else name


def covs(one):
    return np.tile(np.asarray(one, float), (T, 1, 1))


MISTAKES = [
    ({"F": np.zeros((4, 4))}, r"F in kl_lqr has shape \[4, 4\]; it must be \[T, n, n\+m\]"),
    ({"F": np.zeros((4, 2, 2))}, "with n and m at least 1"),
    ({"F": np.zeros((4, 0, 2))}, "with n and m at least 1"),
    ({"F": np.zeros((0, 2, 4))}, "T must be at least 1"),
    ({"F": None}, "F in kl_lqr holds object"),
    ({"F": "plant"}, "F in kl_lqr holds <U5"),
    ({"f": np.zeros(2)}, r"f in kl_lqr has shape \[2\]; it must be \[T, n\] = \[4, 2\], as F has T=4, n=2 and m=2"),
    ({"f": None}, "f in kl_lqr holds object"),
    ({"f": np.zeros((4, 2), bool)}, "f in kl_lqr holds bool"),
    ({"W": np.eye(2)}, r"W in kl_lqr has shape \[2, 2\]"),
    ({"W": covs([[1.0, 0.0], [0.0, -1.0]])}, "W in kl_lqr has an eigenvalue of -1 at step 0"),
    ({"W": covs([[0.0, 1.0], [1.0, 0.0]])}, "W in kl_lqr has an eigenvalue of -1"),
    ({"C": np.zeros((4, 2, 2))}, r"C in kl_lqr has shape \[4, 2, 2\]; it must be \[T, n\+m, n\+m\] = \[4, 4, 4\]"),
    ({"C": np.zeros((4, 4, 4), complex)}, "C in kl_lqr holds complex128"),
    ({"c": np.zeros((3, 4))}, r"c in kl_lqr has shape \[3, 4\]"),
    ({"c": None}, "c in kl_lqr holds object"),
    ({"C_T": np.zeros((4, 4))}, r"C_T in kl_lqr has shape \[4, 4\]"),
    ({"c_T": 0.0}, r"c_T in kl_lqr has shape \[\]"),
    ({"c_T": [[1.0], [1.0, 2.0]]}, "c_T in kl_lqr is no array: its rows have different lengths"),
    ({"m0": np.zeros((2, 1))}, r"m0 in kl_lqr has shape \[2, 1\]"),
    ({"m0": ["1", "2"]}, "m0 in kl_lqr holds <U1"),
    ({"m0": None}, "m0 in kl_lqr holds object"),
    ({"P0": np.zeros(2)}, r"P0 in kl_lqr has shape \[2\]"),
    ({"P0": -np.eye(2)}, "P0 in kl_lqr has an eigenvalue of -1; it must be positive semidefinite"),
    ({"P0": None}, "P0 in kl_lqr holds object"),
    ({"K": np.zeros((4, 1, 2))}, r"old_policy.K in kl_lqr has shape \[4, 1, 2\]; it must be \[T, m, n\] = \[4, 2, 2\]"),
    ({"K": None}, "old_policy.K in kl_lqr holds object"),
    ({"k": np.zeros((4, 2, 1))}, r"old_policy.k in kl_lqr has shape \[4, 2, 1\]"),
    ({"cov": np.eye(2)}, r"old_policy.cov in kl_lqr has shape \[2, 2\]"),
    (
        {"cov": covs(np.zeros((2, 2)))},
        "old_policy.cov in kl_lqr has an eigenvalue of 0 at step 0; it must be positive",
    ),
    ({"cov": covs(np.diag([1.0, 0.0]))}, "nothing else is within a finite KL of a controller without noise"),
    ({"cov": covs(np.diag([1.0, -1e-9]))}, "old_policy.cov in kl_lqr has an eigenvalue of -1e-09"),
    ({"cov": covs([[1.0, 2.0], [2.0, 1.0]])}, "old_policy.cov in kl_lqr has an eigenvalue of -1"),
    ({"cov": covs([[1.0, 4.0], [0.0, 1.0]])}, "old_policy.cov in kl_lqr has an eigenvalue of -1"),
    ({"old_policy": None}, "old_policy in kl_lqr is NoneType; it must be a forethought.LinearGaussian"),
    ({"old_policy": (np.zeros((4, 2, 2)), np.zeros((4, 2)), covs(np.eye(2)))}, "old_policy in kl_lqr is tuple"),
    ({"old_policy": {"K": 0, "k": 0, "cov": 0}}, "old_policy in kl_lqr is dict"),
    ({"old_policy": np.zeros((4, 2, 2))}, "old_policy in kl_lqr is ndarray"),
    (
        {"old_policy": LinearGaussianPolicy(jnp.zeros((4, 2, 2)), jnp.zeros((4, 2)), jnp.asarray(covs(np.eye(2))))},
        "old_policy in kl_lqr is LinearGaussianPolicy",
    ),
    ({"epsilon": -1.0}, "epsilon in kl_lqr is -1; it must be at least 0"),
    ({"epsilon": [0.1, 0.1, -0.2, 0.1]}, "epsilon in kl_lqr is -0.2"),
    ({"epsilon": NAN}, "epsilon in kl_lqr is nan; every number must be finite"),
    ({"epsilon": INF}, "epsilon in kl_lqr is inf"),
    ({"epsilon": [0.1, NAN, 0.1, 0.1]}, r"epsilon in kl_lqr is nan at \[1\]"),
    ({"epsilon": [0.1, 0.2]}, r"epsilon in kl_lqr has shape \[2\]; it must be one number, or \[T\]"),
    ({"epsilon": [[0.1]]}, r"epsilon in kl_lqr has shape \[1, 1\]"),
    ({"epsilon": []}, r"epsilon in kl_lqr has shape \[0\]"),
    ({"epsilon": None}, "epsilon in kl_lqr holds object"),
    ({"epsilon": "small"}, "epsilon in kl_lqr holds <U5"),
    ({"epsilon": True}, "epsilon in kl_lqr holds bool"),
    ({"epsilon": 1j}, "epsilon in kl_lqr holds complex128"),
    ({"lam": 0.0}, "lam in kl_lqr is 0; it must be positive"),
    ({"lam": -2.0}, "lam in kl_lqr is -2; it must be positive"),
    ({"lam": NAN}, "lam in kl_lqr is nan"),
    ({"lam": INF}, "lam in kl_lqr is inf"),
    ({"lam": [1.0] * 4}, r"lam in kl_lqr has shape \[4\]; it must be one number, or \[T\], like epsilon"),
    ({"lam": 1.0, "epsilon": [0.1] * 4}, r"lam in kl_lqr has shape \[\]"),
    ({"lam": [1.0, 0.0, 1.0, 1.0], "epsilon": [0.1] * 4}, "lam in kl_lqr is 0"),
    ({"lam": "one"}, "lam in kl_lqr holds <U3"),
    ({"lam": [[1.0], [1.0, 2.0]]}, "lam in kl_lqr is no array"),
    *(
        ({name: at(name, bad, *place)}, rf"{full(name)} in kl_lqr is {bad} at \[{', '.join(map(str, place))}\]")
        for name, place in PLACES.items()
        for bad in (NAN, INF, -INF)
    ),
]

SETTINGS = [
    ({"entropy": -1.0}, "entropy in kl_lqr is -1.0; it must be a number of at least 0"),
    ({"entropy": NAN}, "entropy in kl_lqr is nan"),
    ({"entropy": INF}, "entropy in kl_lqr is inf"),
    ({"entropy": None}, "entropy in kl_lqr is None"),
    ({"entropy": "much"}, "entropy in kl_lqr is 'much'"),
    ({"entropy": True}, "entropy in kl_lqr is True"),
    ({"entropy": [0.0]}, r"entropy in kl_lqr is \[0.0\]"),
    ({"tolerance": 0.0}, "tolerance in kl_lqr is 0.0; it must be between 0 and 1"),
    ({"tolerance": 1.0}, "tolerance in kl_lqr is 1.0"),
    ({"tolerance": -0.1}, "tolerance in kl_lqr is -0.1"),
    ({"tolerance": NAN}, "tolerance in kl_lqr is nan"),
    ({"tolerance": "tight"}, "tolerance in kl_lqr is 'tight'"),
    ({"evaluations": 0}, "evaluations in kl_lqr is 0; it must be a whole number of at least 1"),
    ({"evaluations": -3}, "evaluations in kl_lqr is -3"),
    ({"evaluations": 2.5}, "evaluations in kl_lqr is 2.5"),
    ({"evaluations": True}, "evaluations in kl_lqr is True"),
    ({"evaluations": "all"}, "evaluations in kl_lqr is 'all'"),
]


def numbered(cases):
    return [pytest.param(*case, id=f"{i} {' '.join(case[0])}") for i, case in enumerate(cases)]


@pytest.mark.parametrize(("change", "sentence"), numbered(MISTAKES))
def test_mistakes_are_told_in_a_sentence(monkeypatch, change, sentence):
    """As a user meets it: without the type checks that pytest adds."""
    monkeypatch.setattr(module, "_parts", inspect.unwrap(module._parts))
    with pytest.raises(UserError, match=sentence):
        inspect.unwrap(kl_lqr)(**right(**change))


@pytest.mark.parametrize(("change", "sentence"), numbered(SETTINGS))
def test_settings_that_do_not_exist_are_told(monkeypatch, change, sentence):
    monkeypatch.setattr(module, "_check_settings", inspect.unwrap(module._check_settings))
    with pytest.raises(UserError, match=sentence):
        inspect.unwrap(kl_lqr)(**right(), **change)


def jitted(epsilon_of):
    """All numbers as arguments of a compiled function, so that none is known where it is checked."""

    def run(given, old):
        return kl_lqr(**given | {"epsilon": epsilon_of(given["epsilon"])}, old_policy=LinearGaussian(*old))

    compiled = jax.jit(run)

    def call(**changes):
        given = right(**changes)
        old = given.pop("old_policy")
        return compiled({name: jnp.asarray(v, jnp.float64) for name, v in given.items()}, tuple(map(jnp.asarray, old)))

    return call


whole = jitted(lambda epsilon: epsilon)
each = jitted(lambda epsilon: jnp.broadcast_to(epsilon, (T,)))
BOUNDS = pytest.mark.parametrize("solve", [whole, each], ids=["sum", "each"])


def is_the_old_one(found, given):
    assert found.status == KLStatus.FAILED
    assert np.isinf(found.lam).all()
    assert not found.kl.any()
    assert found.solves <= 50
    for a, b in zip(found.policy, right(**given)["old_policy"], strict=True):
        np.testing.assert_array_equal(a, b)


@BOUNDS
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", PLACES)
def test_inside_jit_what_is_no_number_leaves_the_old_controller(solve, name, bad):
    change = {name: at(name, bad, *PLACES[name])}
    is_the_old_one(solve(**change), change)


UNSOUND = [
    {"W": covs(np.diag([1.0, -1.0]))},
    {"W": covs([[0.0, 1.0], [1.0, 0.0]])},
    {"W": covs(1e-200 * np.diag([1.0, -1.0]))},
    {"P0": -np.eye(2)},
    {"P0": np.array([[1.0, 2.0], [2.0, 1.0]])},
    {"cov": covs(np.zeros((2, 2)))},
    {"cov": covs(np.diag([1.0, 0.0]))},
    {"cov": covs(np.diag([1.0, -1.0]))},
    {"cov": covs([[1.0, 2.0], [2.0, 1.0]])},
    {"cov": at("cov", -1.0, 2, 1, 1)},
    {"epsilon": -1.0},
    {"epsilon": NAN},
    {"epsilon": INF},
    {"epsilon": -INF},
    {"epsilon": 1e-300},
    {"C": at("C", 0.0) - 1e308 * np.eye(4)},
    {"F": at("F", 0.0) + 1e200},
]


@BOUNDS
@pytest.mark.parametrize("change", UNSOUND, ids=[f"{i} {' '.join(c)}" for i, c in enumerate(UNSOUND)])
def test_inside_jit_what_has_no_meaning_leaves_the_old_controller(solve, change):
    """The finite numbers 1e308 and 1e200 are more than can be worked with, and 1e-300 nats less than can be told."""
    found = solve(**change)
    is_the_old_one(found, change)
    if "cov" not in change and "F" not in change and "C" not in change and "W" not in change and "P0" not in change:
        assert float(found.cost) == pytest.approx(expected(kl_case(n, m, T), kl_case(n, m, T).old_policy), rel=1e-12)


@BOUNDS
def test_a_multiplier_that_cannot_be_tried_is_passed_over_inside_jit(solve):
    run = jax.jit(lambda lam: kl_lqr(**right(epsilon=np.full(4, 0.1) if lam.ndim else 0.4), lam=lam).lam)
    shape = (4,) if solve is each else ()
    found = [run(jnp.full(shape, value)) for value in (NAN, INF, -1.0, 0.0)]
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


RAW = kl_case(n, m, T)
HARD = {
    "a known start": {"P0": np.zeros((2, 2))},
    "a start that is known in one direction": {"P0": np.ones((2, 2))},
    "a start from anywhere": {"P0": 1e8 * np.eye(2)},
    "noise in one direction": {"W": covs(np.ones((2, 2)))},
    "noise of nothing": {"W": covs(np.zeros((2, 2)))},
    "old noise of 1e-12": {"cov": covs(1e-12 * np.eye(2))},
    "old noise of 1e-100": {"cov": covs(1e-100 * np.eye(2))},
    "old noise of 1e-300": {"cov": covs(1e-300 * np.eye(2))},
    "old noise of 1e12": {"cov": covs(1e12 * np.eye(2))},
    "old noise of 1e300": {"cov": covs(1e300 * np.eye(2))},
    "old noise of 1e-8 and 1e8": {"cov": covs(np.diag([1e-8, 1e8]))},
    "old noise of 1e-10 and 1e10": {"cov": covs(np.diag([1e-10, 1e10]))},
    "old noise that is nearly singular": {"cov": covs([[1.0, 1.0 - 1e-12], [1.0 - 1e-12, 1.0]])},
    "old gains of 1e6": {"K": 1e6 * RAW.old_policy.K},
    "a cost without a minimum": {"C": RAW.C - 5.0 * np.eye(4)},
    "a cost that rewards everything": {"C": covs(-np.eye(4)), "C_T": -np.eye(2)},
    "a saddle": {"C": covs(np.diag([1.0, -1.0, 1.0, -1.0]))},
    "a linear cost": {"C": 0.0 * RAW.C, "C_T": 0.0 * RAW.C_T},
    "no cost": {"C": 0.0 * RAW.C, "c": 0.0 * RAW.c, "C_T": 0.0 * RAW.C_T, "c_T": 0.0 * RAW.c_T},
    "a cost of the end alone": {"C": 0.0 * RAW.C, "c": 0.0 * RAW.c},
    "no effect of control": {"F": np.concatenate([RAW.F[:, :, :2], 0.0 * RAW.F[:, :, 2:]], axis=2)},
    "two controls that do the same": {"F": RAW.F[:, :, [0, 1, 2, 2]]},
    "no dynamics": {"F": 0.0 * RAW.F},
    "unstable dynamics": {"F": 30.0 * RAW.F},
    "a start far away": {"m0": np.array([1e8, -1e8])},
    "an offset of 1e8": {"f": 1e8 + RAW.f},
    "a bound of 1e-12": {"epsilon": 1e-12},
    "a bound of 1e-6": {"epsilon": 1e-6},
    "a bound of 1e3": {"epsilon": 1e3},
    "a bound of 1e12": {"epsilon": 1e12},
    "a bound of 1e300": {"epsilon": 1e300},
    "a bound of 0": {"epsilon": 0.0},
} | {
    f"a cost in units of {scale:.0e}": {name: scale * getattr(RAW, name) for name in ("C", "c", "C_T", "c_T")}
    for scale in (1e-150, 1e-8, 1e8, 1e150)
}
FAILING = {"old noise of 1e-300", "old noise of 1e-100", "old gains of 1e6", "old noise of 1e-10 and 1e10"}
"""Where the rounding of gains alone is further than the bound, measured in that noise or in states of 1e24."""


@BOUNDS
@pytest.mark.parametrize("name", HARD)
def test_what_is_hard_ends_with_a_controller_within_the_bound(solve, name):
    change = HARD[name]
    found = solve(**change)
    bound = change.get("epsilon", 0.5)
    given = right(**change)
    used = found.kl if solve is each else found.kl.sum()
    assert (np.asarray(used) <= 1.1 * bound).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found._replace(lam=0.0)))
    assert (found.lam > 0.0).all()
    before = solve(**change | {"epsilon": 0.0}).cost
    assert float(found.cost) <= float(before) + 1e-9 * abs(float(before))
    p = RAW._replace(**{k: v for k, v in given.items() if k not in ("epsilon", "old_policy")})
    assert float(found.cost) == pytest.approx(expected(p, LinearGaussian(*map(np.asarray, found.policy))), rel=1e-6)
    status = KLStatus(int(found.status))
    assert (status is KLStatus.FAILED) == (name in FAILING)
    assert np.isinf(found.lam).all() == (status is KLStatus.FAILED or bound == 0.0)
    if status is KLStatus.SOLVED and bound:
        assert np.max(used) >= 0.85 * bound
    symmetric = np.asarray(found.policy.cov)
    assert np.linalg.eigvalsh(symmetric).min() >= -1e-12 * np.abs(symmetric).max()


@BOUNDS
@pytest.mark.parametrize("lift", [0.0, -3.0], ids=["convex", "indefinite"])
def test_one_step_of_one_number(solve, lift):
    p = kl_case(1, 1, 1, lift=lift)
    epsilon = np.full(1, 0.5) if solve is each else 0.5
    found = kl_lqr(*p[:-1], LinearGaussian(*p.old_policy), epsilon)
    assert found.status == KLStatus.SOLVED
    assert 0.45 <= float(found.kl.sum()) <= 0.55
    assert found.policy.K.shape == (1, 1, 1)
