"""The KL-bounded step as compiled programs, one for each way of calling it and shape, which tests share."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from forethought.math.kl_dual import Bracket
from forethought.math.kl_step import KLStep, Start, _trial, kl_step, kl_step_each
from forethought.math.linear_kl import surprise
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost
from kl_cases import Controller, KLCase, kl_case

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Compiled in a third of the time: these programs are small, and run a few times each."""
quick = functools.partial(jax.jit, compiler_options=QUICK)
TIGHT, USUAL = Bracket(tolerance=1e-10), Bracket()


def number(value) -> jax.Array:
    return jnp.asarray(value, jnp.float64)


def parts(p: KLCase) -> tuple:
    """The arguments of `kl_step` but for the bound."""
    T = len(p.F)
    old = LinearGaussianPolicy(*map(number, (p.old_policy.K, p.old_policy.k, np.linalg.cholesky(p.old_policy.cov))))
    cost = QuadraticCost(*map(number, (p.C, p.c, np.zeros(T), p.C_T, p.c_T, 0.0)))
    return LinearDynamics(*map(number, (p.F, p.f, p.W))), cost, Start(number(p.m0), number(p.P0)), old


def plain(policy: LinearGaussianPolicy) -> Controller:
    """With covariances."""
    L = np.asarray(policy.L)
    return Controller(np.asarray(policy.K), np.asarray(policy.k), L @ np.swapaxes(L, 1, 2))


@functools.partial(quick, static_argnames=("how", "entropy"))
def _whole(given, epsilon, guess, how, entropy):
    return kl_step(*given, epsilon, guess=guess, how=how, entropy=entropy)


@functools.partial(quick, static_argnames=("how", "entropy"))
def _each(given, epsilon, guess, how, entropy):
    return kl_step_each(*given, epsilon, guess=guess, how=how, entropy=entropy)


@functools.partial(quick, static_argnames="entropy")
def _tried(given, multiplier, entropy):
    return _trial(*given, surprise(given[3]), multiplier, entropy=entropy)


def whole(given, epsilon, guess=np.nan, how=TIGHT, entropy=0.0) -> KLStep:
    """A bound on the sum; NaN is no guess."""
    return _whole(given, number(epsilon), number(guess), how, entropy)


def each(given, epsilon, guess=np.nan, how=TIGHT, entropy=0.0) -> KLStep:
    """A bound on every step."""
    T = given[3].k.shape[0]
    return _each(given, *(jnp.broadcast_to(number(a), (T,)) for a in (epsilon, guess)), how, entropy)


def tried(given, multiplier, entropy=0.0):
    """What one multiplier for each step gives, or one for all."""
    return _tried(given, jnp.broadcast_to(number(multiplier), given[3].k.shape[:1]), entropy)


def stacked(count, **settings) -> tuple:
    """Many problems."""
    many = [jax.tree.map(np.asarray, parts(usual(seed, **settings))) for seed in range(count)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *many)


def usual(seed=0, **settings) -> KLCase:
    """As `kl_case`, in the one shape that most tests use."""
    return kl_case(**({"n": 3, "m": 2, "T": 4, "seed": seed} | settings))
