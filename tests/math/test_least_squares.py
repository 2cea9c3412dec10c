from __future__ import annotations

import numpy as np
import pytest

from forethought.math.least_squares import Normal, levenberg, root_of_inverse

UNITS = [np.ones(3), np.array([1e10, 1.0, 1e-6]), np.array([1e-8, 1e8, 1.0])]


def line(units):
    """|A p/units - b|^2."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(20, 3)), random.normal(size=20)

    def evaluate(p):
        r, j = a @ (p / units) - b, a / units
        return Normal(float(r @ r), j.T @ r, j.T @ j)

    return evaluate, np.linalg.lstsq(a, b, rcond=None)[0]


@pytest.mark.parametrize("units", UNITS)
def test_the_units_of_the_unknowns_do_not_matter(units) -> None:
    evaluate, best = line(units)
    found = levenberg(evaluate, np.zeros(3))
    np.testing.assert_allclose(found.p / units, best, rtol=1e-6)
    assert found.rounds < 12


@pytest.mark.parametrize("units", UNITS)
def test_the_root_of_an_inverse(units) -> None:
    evaluate, _ = line(units)
    information = evaluate(np.zeros(3)).information
    root = root_of_inverse(information)
    inverse = np.linalg.inv(information * units[:, None] * units)
    np.testing.assert_allclose(root @ root.T / units[:, None] / units, inverse, rtol=1e-9)


def test_an_unknown_that_nothing_depends_on_stays() -> None:
    evaluate, best = line(np.ones(3))

    def wider(p):
        at = evaluate(p[:3])
        return Normal(at.cost, np.append(at.gradient, 0.0), np.pad(at.information, (0, 1)))

    found = levenberg(wider, np.array([0.0, 0.0, 0.0, 7.0]))
    np.testing.assert_allclose(found.p, [*best, 7.0], rtol=1e-6)


def test_a_valley_that_bends() -> None:
    """Rosenbrock's function, with one unknown in units of 1e6."""

    def evaluate(p):
        x, y = p[0], p[1] / 1e6
        r, j = np.array([1.0 - x, 10.0 * (y - x**2)]), np.array([[-1.0, 0.0], [-20.0 * x, 10.0 / 1e6]])
        return Normal(float(r @ r), j.T @ r, j.T @ j)

    np.testing.assert_allclose(levenberg(evaluate, np.array([-1.2, 1e6])).p, [1.0, 1e6], rtol=1e-6)


def test_steps_to_where_nothing_is_finite_do_not_help() -> None:
    """log p = 1 from p = 8: Gauss' and Newton's step leads below 0."""

    def evaluate(p):
        with np.errstate(invalid="ignore", divide="ignore"):
            r, j = np.log(p) - 1.0, np.diag(1.0 / p)
        return Normal(float(r @ r), j.T @ r, j.T @ j)

    np.testing.assert_allclose(levenberg(evaluate, np.array([8.0])).p, [np.e], rtol=1e-6)
