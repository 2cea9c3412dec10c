"""Mistakes in a call of `forethought.ilqr` are told in a sentence that names the argument."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import forethought.math.ilqr as module
from forethought import Constraints, UserError, ilqr

n, m, T = 2, 1, 5
A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
INF, NAN = np.inf, np.nan
US = np.zeros((T, m))


def step(x, u, t):
    return A @ x + B @ u


def stage(x, u, t):
    return jnp.sum(x**2) + jnp.sum(u**2)


def terminal(x):
    return jnp.sum(x**2)


RIGHT = {"step": step, "stage": stage, "terminal": terminal, "x0": [1.0, 0.0], "us": US}


def put(shape, value, *index):
    array = np.zeros(shape)
    array[index] = value
    return array


ARRAYS = [
    ({"x0": []}, r"x0 in ilqr has shape \[0\]; it must be one state \[n\]"),
    ({"x0": 1.0}, r"x0 in ilqr has shape \[\]"),
    ({"x0": np.zeros((1, 2))}, r"x0 in ilqr has shape \[1, 2\]"),
    ({"x0": [[1.0, 2.0], [3.0]]}, "x0 in ilqr is no array: its rows have different lengths"),
    ({"x0": "up"}, "x0 in ilqr holds <U2; it must hold real numbers"),
    ({"x0": ["1.0", "2.0"]}, "x0 in ilqr holds <U3"),
    ({"x0": {"angle": 0.0}}, "x0 in ilqr holds object"),
    ({"x0": np.zeros(2, complex)}, "x0 in ilqr holds complex128"),
    ({"x0": [True, False]}, "x0 in ilqr holds bool"),
    ({"x0": [0.0, NAN]}, r"x0 in ilqr is nan at \[1\]; every number must be finite"),
    ({"x0": [-INF, 0.0]}, r"x0 in ilqr is -inf at \[0\]"),
    ({"us": np.zeros(T)}, r"us in ilqr has shape \[5\]; it must be \[T, m\]"),
    ({"us": np.zeros((1, T, m))}, r"us in ilqr has shape \[1, 5, 1\]"),
    ({"us": np.zeros((T, 0))}, r"us in ilqr has shape \[5, 0\]"),
    ({"us": 0.0}, r"us in ilqr has shape \[\]"),
    ({"us": []}, r"us in ilqr has shape \[0\]"),
    ({"us": [[0.0], [0.0, 1.0]]}, "us in ilqr is no array"),
    ({"us": US.astype(complex)}, "us in ilqr holds complex128"),
    ({"us": US.astype(str)}, "us in ilqr holds <U"),
    ({"us": put((T, m), NAN, 3, 0)}, r"us in ilqr is nan at \[3, 0\]"),
    ({"us": put((T, m), INF, 0, 0)}, r"us in ilqr is inf at \[0, 0\]"),
    ({"lo": np.zeros(3)}, r"lo in ilqr has shape \[3\]; it must be a number, or \[m\] = \[1\], or \[T, m\] = \[5, 1\]"),
    ({"lo": np.zeros((T + 1, m))}, r"lo in ilqr has shape \[6, 1\]"),
    ({"lo": np.zeros((1, T, m))}, r"lo in ilqr has shape \[1, 5, 1\]"),
    ({"hi": np.zeros((T, m + 1))}, r"hi in ilqr has shape \[5, 2\]"),
    ({"hi": []}, r"hi in ilqr has shape \[0\]"),
    ({"lo": NAN}, "lo in ilqr holds NaN; a limit is a number, or infinite"),
    ({"hi": put((T, m), NAN, 2, 0)}, "hi in ilqr holds NaN"),
    ({"lo": "low"}, "lo in ilqr holds <U3"),
    ({"hi": [[1.0], [1.0, 2.0]]}, "hi in ilqr is no array"),
    ({"hi": 1j}, "hi in ilqr holds complex128"),
    ({"lo": 1.0, "hi": -1.0}, r"lo in ilqr is 1.0 and hi -1.0; lo must not be larger"),
    ({"lo": put((T, m), 2.0, 3, 0), "hi": 1.0}, r"lo in ilqr is 2.0 and hi 1.0 at \[3, 0\]"),
    ({"lo": [1.0], "hi": put((T, m), 2.0, slice(0, 4), 0)}, r"lo in ilqr is 1.0 and hi 0.0 at \[4, 0\]"),
    ({"lo": INF, "hi": INF}, r"lo in ilqr is \+inf or hi is -inf somewhere"),
    ({"lo": -INF, "hi": -INF}, r"lo in ilqr is \+inf or hi is -inf somewhere"),
    ({"lo": INF}, r"lo in ilqr is \+inf or hi is -inf somewhere"),
    ({"hi": -INF}, r"lo in ilqr is \+inf or hi is -inf somewhere"),
    ({"xs": np.zeros((T, n))}, r"xs in ilqr has shape \[5, 2\]; it must be \[T\+1, n\] = \[6, 2\]"),
    ({"xs": np.zeros((T + 1, n + 1))}, r"xs in ilqr has shape \[6, 3\]"),
    ({"xs": np.zeros(n)}, r"xs in ilqr has shape \[2\]"),
    ({"xs": put((T + 1, n), NAN, 4, 1)}, r"xs in ilqr is nan at \[4, 1\]"),
    ({"xs": [[0.0, 0.0], [0.0]]}, "xs in ilqr is no array"),
    ({"xs": "rollout"}, "xs in ilqr holds <U7"),
]

SETTINGS = [
    ({"hessian": "fast"}, "hessian='fast'; it must be one of 'exact', 'projected', 'gauss-newton'"),
    ({"hessian": None}, "hessian=None"),
    ({"damping": "both"}, "damping='both'; it must be one of 'control', 'state'"),
    ({"iterations": -1}, "iterations=-1; it must be a whole number, 0 or larger"),
    ({"iterations": 2.5}, "iterations=2.5"),
    ({"iterations": True}, "iterations=True"),
    ({"iterations": "many"}, "iterations='many'"),
    ({"tolerance": -1e-6}, "tolerance=-1e-06; it must be a number, 0 or larger"),
    ({"tolerance": NAN}, "tolerance=nan"),
    ({"tolerance": INF}, "tolerance=inf"),
    ({"tolerance": "small"}, "tolerance='small'"),
    ({"cost_tolerance": -1.0}, "cost_tolerance=-1.0"),
    ({"cost_tolerance": None}, "cost_tolerance=None"),
    ({"violation": -1e-3}, "violation=-0.001"),
    ({"violation": NAN}, "violation=nan"),
]

GAUSS = {"hessian": "gauss-newton"}
FUNCTIONS = [
    ({"step": lambda x, u, t: jnp.append(x, 0.0)}, r"step in ilqr returns shape \[3\] for a state of 2"),
    ({"step": lambda x, u, t: x[0]}, r"step in ilqr returns shape \[\]"),
    ({"step": lambda x, u, t: x[None]}, r"step in ilqr returns shape \[1, 2\]"),
    ({"step": lambda x, u, t: (x, u)}, "step in ilqr returns tuple; it must return one array"),
    ({"step": lambda x, u, t: [x[0], x[1]]}, "step in ilqr returns list"),
    ({"step": lambda x, u, t: None}, "step in ilqr returns NoneType"),
    ({"stage": lambda x, u, t: x}, r"stage in ilqr returns shape \[2\]; it must be one number"),
    ({"stage": lambda x, u, t: u}, r"stage in ilqr returns shape \[1\]; it must be one number"),
    ({"stage": lambda x, u, t: {"cost": x[0]}}, "stage in ilqr returns dict"),
    ({"stage": lambda x, u, t: None}, "stage in ilqr returns NoneType"),
    ({"terminal": lambda x: x}, r"terminal in ilqr returns shape \[2\]; it must be one number"),
    ({"terminal": lambda x: (x[0],)}, "terminal in ilqr returns tuple"),
    ({"stage": stage} | GAUSS, r"stage in ilqr returns shape \[\]; it must be a vector of residuals \[r\]"),
    ({"stage": lambda x, u, t: x} | GAUSS, r"terminal in ilqr returns shape \[\]; it must be a vector of residuals"),
    ({"constraints": Constraints(less=lambda x, u, t: x[0])}, r"constraints.less in ilqr returns shape \[\]"),
    ({"constraints": Constraints(equal=lambda x, u, t: A)}, r"constraints.equal in ilqr returns shape \[2, 2\]"),
    ({"constraints": Constraints(final_equal=lambda x: x[0])}, r"constraints.final_equal in ilqr returns shape \[\]"),
    ({"constraints": Constraints(final_less=lambda x: (x,))}, "constraints.final_less in ilqr returns tuple"),
    ({"constraints": Constraints(less=lambda x, u, t: x), "xs": np.zeros((T + 1, n))}, "ilqr got xs and constraints"),
]


def numbered(cases):
    return [pytest.param(*case, id=f"{i} {' '.join(case[0])}") for i, case in enumerate(cases)]


@pytest.mark.parametrize(("change", "sentence"), numbered(SETTINGS))
def test_settings_that_do_not_exist_are_told(monkeypatch, change, sentence):
    """As a user meets it: without the type checks that pytest adds."""
    monkeypatch.setattr(module, "_check_settings", inspect.unwrap(module._check_settings))
    with pytest.raises(UserError, match=sentence):
        inspect.unwrap(ilqr)(**(RIGHT | change))


@pytest.mark.parametrize(("change", "sentence"), numbered(ARRAYS + FUNCTIONS))
def test_mistakes_are_told_in_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        ilqr(**(RIGHT | change))


LOOSE = {
    "a terminal cost of the number 0": {"terminal": lambda x: 0},
    "a terminal cost of the number 0.0": {"terminal": lambda x: 0.0},
    "a stage cost of the number 1": {"stage": lambda x, u, t: 1},
    "a step in single precision": {"step": lambda x, u, t: jnp.asarray(step(x, u, t), jnp.float32)},
    "a stage cost in single precision": {"stage": lambda x, u, t: jnp.asarray(stage(x, u, t), jnp.float32)},
    "a step of whole numbers": {"step": lambda x, u, t: jnp.round(x).astype(jnp.int32)},
    "a stage cost of whole numbers": {"stage": lambda x, u, t: t},
    "residuals of whole numbers": {"stage": lambda x, u, t: u, "terminal": lambda x: jnp.zeros(2, int)} | GAUSS,
}


@pytest.mark.parametrize("name", LOOSE)
def test_numbers_of_another_type_are_taken_as_they_are(name):
    """A cost of 0 is written so by many; nothing here needs more than a conversion."""
    shapes = jax.eval_shape(lambda: ilqr(**(RIGHT | LOOSE[name])))
    assert shapes.us.shape == (T, m)
    assert {shapes.xs.dtype, shapes.us.dtype, shapes.cost.dtype} == {np.dtype(np.float64)}


WRONG_TYPES = [
    ({"stage": lambda x, u, t: x[0] > 0.0}, "stage in ilqr"),
    ({"stage": lambda x, u, t: x[0] * 1j}, "stage in ilqr"),
    ({"step": lambda x, u, t: x * 1j}, "step in ilqr"),
    ({"step": lambda x, u, t: x > 0.0}, "step in ilqr"),
    ({"terminal": lambda x: x[0] * 1j}, "terminal in ilqr"),
]


@pytest.mark.parametrize(("change", "sentence"), numbered(WRONG_TYPES))
def test_functions_that_return_no_real_numbers_are_named(change, sentence):
    with pytest.raises(UserError, match=sentence):
        jax.eval_shape(lambda: ilqr(**(RIGHT | change)))
