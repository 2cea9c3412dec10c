"""Learners, and the models that they make."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.checks.sentences import attempt, expect, name_of, pair, require_same_tree, said, short
from forethought.core import AbstractDynamics, AbstractFitted, AbstractLearner
from forethought.math.dataset import append, empty
from forethought.types import Dataset, Spec, Trajectory


def check_model(learner: AbstractLearner, spec: Spec | None = None) -> None:
    """Fit a linear system of the given shapes, and check the learner and the model that it makes.

    Without a spec two are tried: a plain one, and one with an angle and with a learned reward and termination.
    """
    name = name_of(learner, AbstractLearner)
    for case in (Spec(2, 1), Spec(3, 2, extras=2, angles=(2,))) if spec is None else (spec,):
        k_init, k_fit, k_model = jr.split(jr.key(0), 3)
        data = [_linear_data(case, rows) for rows in (40, 50)]
        begun = attempt(f"{name}.init", lambda c=case, k=k_init: learner.init(c, k))
        expect(isinstance(begun, AbstractFitted), f"{name}.init returned {said(begun)}; expected an AbstractFitted")
        # A run is read back by asking for the shapes first: a stranger's recipe may be of any size.
        attempt(f"{name}.init under jax.eval_shape", lambda c=case: eqx.filter_eval_shape(learner.init, c, jr.key(0)))
        fitted = _fit(name, learner, begun, data[0], k_fit)
        require_same_tree(f"{name}.fit", fitted, begun, "what init returned")
        _same_fit(name, learner, begun, fitted, data[0], k_fit)
        counter = _Compilations()
        with counter:
            _fit(name, learner, fitted, data[1], k_fit)
        expect(
            counter.count == 0,
            f"{name}.fit compiled {counter.count} programs again when its data grew from 40 to 50 rows of the same "
            "capacity; expected none: pass arrays of the full capacity and mask the rows from data.count on",
        )
        _check_dynamics(fitted.model, case, data[0], k_model)


def _linear_data(spec: Spec, count: int) -> Dataset:
    """Transitions of y = 0.8 x + 0.5 u B with reward -|x|^2; a capacity of 64 rows, of which `count` are in use."""
    random = np.random.default_rng(0)
    mix = random.normal(size=(spec.m, spec.n))
    x, u = random.normal(size=(64, spec.n))[:count], random.uniform(-1.0, 1.0, (64, spec.m))[:count]
    times, zero = np.arange(count), np.zeros(count)
    rows = Trajectory(
        x=x,
        u=u,
        y=0.8 * x + 0.5 * u @ mix,
        reward=-np.sum(x**2, axis=1),
        terminated=np.zeros(count, bool),
        truncated=times == count - 1,
        t=times,
        log_prob=zero,
        condition=np.zeros(count, np.int64),
    )
    return append(empty(spec, 64), rows, 0)


def _fit(name: str, learner: AbstractLearner, fitted: Any, data: Dataset, key: Any) -> Any:
    """One fit, its result taken apart."""
    result = attempt(f"{name}.fit", lambda: jax.block_until_ready(learner.fit(fitted, data, key)))
    fitted, metrics = pair(f"{name}.fit", result, "(fitted, metrics)")
    expect(isinstance(metrics, dict), f"{name}.fit returned {said(metrics)} as metrics; expected a dict")
    return fitted


def _arrays(tree: Any) -> list[np.ndarray]:
    """Its float arrays."""
    return [np.asarray(v) for v in jax.tree.leaves(tree) if eqx.is_inexact_array(v)]


def _same_fit(name: str, learner: AbstractLearner, begun: Any, fitted: Any, data: Dataset, key: Any) -> None:
    """Whether a fit is a function of its arguments, and looks at the rows in use only."""
    count, before = int(data.count), _arrays(fitted.model)
    agree = lambda other: all(np.allclose(a, b, 1e-3, 1e-4) for a, b in zip(before, _arrays(other.model), strict=True))
    again = _fit(name, learner, begun, data, key)
    expect(agree(again), f"{name}.fit gave two models for the same data and the same key; expected the same model")
    dirty = eqx.tree_at(
        lambda d: (d.x, d.u, d.y, d.reward),
        data,
        replace_fn=lambda v: np.concatenate([v[:count], 0 * v[count:] + 77.0]),
    )
    again = _fit(name, learner, begun, dirty, key)
    expect(
        agree(again), f"{name}.fit looked at rows from data.count on, which are padding; expected rows before it only"
    )


def _check_dynamics(model: AbstractDynamics, spec: Spec, data: Dataset, key: Any) -> None:
    """Shapes, randomness and quality of a fitted model's predictions, and its beliefs."""
    name, rows = name_of(model, AbstractDynamics), int(data.count)
    x, u, t = jnp.asarray(data.x[0], jnp.float32), jnp.asarray(data.u[0], jnp.float32), jnp.zeros((), jnp.int32)
    predict = eqx.filter_jit(lambda m, x, u: m.predict(x, u, t))
    prediction = attempt(f"{name}.predict", lambda: predict(model, x, u))
    mean: Any = getattr(prediction, "mean", None)
    right = eqx.is_array(mean) and mean.shape == (spec.outputs,) and bool(jnp.all(jnp.isfinite(mean)))
    shape = f"expected finite numbers of shape ({spec.outputs},): the next state, then {spec.extras} extra outputs"
    expect(right, f"{name}.predict has a mean that is {said(mean)} ({short(mean) if right else 'see shape'}); {shape}")
    _check_noise(name, prediction, mean, key)
    xs, us = jnp.asarray(data.x[:rows], jnp.float32), jnp.asarray(data.u[:rows], jnp.float32)
    many = lambda m, xs, us: jax.vmap(lambda x, u: m.predict(x, u, t).mean)(xs, us)
    means = np.asarray(attempt(f"{name}.predict under vmap", lambda: eqx.filter_jit(many)(model, xs, us)))
    expect(np.allclose(means[0], mean, 1e-3, 1e-3), f"{name}.predict gives another mean under vmap; expected the same")
    error, idle = (np.mean((guess - data.y[:rows]) ** 2) for guess in (means[:, : spec.n], data.x[:rows]))
    worse = (
        f"a squared error of {error:.3g} on its own {rows} rows of a linear system; guessing no change has {idle:.3g}"
    )
    expect(error < idle, f"{name}.predict has {worse}: expected less")
    _check_beliefs(name, model, spec, (x, u, t), key)


def _check_noise(name: str, prediction: Any, mean: Any, key: Any) -> None:
    """Whether samples are random as the prediction says."""
    draws = np.asarray(attempt(f"{name}: sample", lambda: eqx.filter_jit(_samples)(prediction, key)))
    log_prob = attempt(f"{name}: log_prob", lambda: prediction.log_prob(mean))
    right = draws.shape == (500, *mean.shape) and np.isfinite(draws).all()
    expect(right, f"{name}: sample gave {said(draws[0])}; expected finite numbers of shape {mean.shape}")
    spread = draws.std(axis=0, dtype=np.float64)
    if np.all(spread <= 1e-6 * (1.0 + np.abs(np.asarray(mean)))):
        certain = np.allclose(draws[0], mean) and not bool(jnp.isfinite(log_prob))
        seen = f"while log_prob of the mean is {float(log_prob):.3g}"
        expect(certain, f"{name}: sample does not vary with its key, {seen}; expected random samples")
        return
    expect(
        jnp.shape(log_prob) == () and jnp.isfinite(log_prob), f"{name}: log_prob gave {log_prob}; expected one number"
    )
    off = np.max(np.abs(draws.mean(axis=0) - np.asarray(mean)) / (spread / np.sqrt(500) + 1e-6 + 1e-4 * np.abs(mean)))
    expect(off < 6.0, f"{name}: the mean of 500 samples is {off:.0f} standard errors from mean; expected less than 6")


def _samples(prediction: Any, key: Any) -> Any:
    """500 draws."""
    return jax.vmap(prediction.sample)(jr.split(key, 500))


def _check_beliefs(name: str, model: AbstractDynamics, spec: Spec, point: tuple[Any, ...], key: Any) -> None:
    """Whether `draw` stacks beliefs on every array, for fewer and for more beliefs than a small ensemble has."""
    for particles in (1, 7):
        what = f"{name}.draw(key, {particles})"
        drawn = attempt(what, lambda p=particles: eqx.filter_eval_shape(lambda m, k: m.draw(k, p), model, key))
        expect(isinstance(drawn, AbstractDynamics), f"{what} gave {said(drawn)}; expected an AbstractDynamics")
        for path, leaf in jax.tree_util.tree_leaves_with_path(drawn):
            stacked = not hasattr(leaf, "shape") or leaf.shape[:1] == (particles,)
            where = f"{what} left {jax.tree_util.keystr(path)[:80]} with shape {getattr(leaf, 'shape', None)}"
            expect(stacked, f"{where}; expected a leading axis of {particles} on every array")
    each = eqx.filter_vmap(lambda belief: belief.predict(*point).mean, in_axes=eqx.if_array(0), axis_size=7)
    found = np.asarray(attempt(f"{name}.draw", lambda: eqx.filter_jit(lambda m, k: each(m.draw(k, 7)))(model, key)))
    right = found.shape == (7, spec.outputs) and np.isfinite(found).all()
    expect(right, f"the beliefs of {name}.draw predict {said(found)}; expected finite numbers, one row per belief")


class _Compilations:
    """How many programs are compiled inside a with block."""

    def __init__(self) -> None:
        self.count = 0

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event.endswith("backend_compile_duration")

    def __enter__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)
