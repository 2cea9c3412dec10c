"""Section 3.2: the three controllers in linear systems with noise, and what the covariance Quu^-1 is best for."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.lecture.linear_systems import NOISE, STEPS, N, System, controllers, mean_cost, rollouts, system
from forethought.math.linear_quadratic import LinearGaussianPolicy, expected_cost, linear_marginals, policy_entropy
from forethought.math.local_fit import fit_regression
from forethought.types import Scalar

ROLLOUTS, FITTED = 64, 20
"""That costs are averaged over, and that dynamics are fitted to."""


def _costs(seed: int) -> dict[str, float]:
    """Mean costs of the three controllers under the same process noise."""
    it = system(seed)
    return {name: mean_cost(it, *rollouts(it, p, ROLLOUTS, seed)) for name, p in controllers(it).items()}


def noisy(seed: int, full: bool) -> Outcome:
    """How much more open loop costs than feedback."""
    del full
    found = _costs(seed)
    return Outcome(log_ratio(found["open loop"], found["feedback"]), found)


def priced(seed: int, full: bool) -> Outcome:
    """How much more open loop costs than feedback with noise."""
    del full
    found = _costs(seed)
    return Outcome(log_ratio(found["open loop"], found["gaussian"]), found)


def exciting(seed: int, full: bool) -> Outcome:
    """How much better dynamics are fitted to rollouts of the controller with noise."""
    del full
    it, ways = system(seed), controllers(system(seed))
    found, told = {}, {}
    for name in ("feedback", "gaussian"):
        xs, us = rollouts(it, ways[name], FITTED, seed)
        z = jnp.swapaxes(jnp.concatenate([xs[:, :-1], us], axis=2), 0, 1)
        fit = fit_regression(z, jnp.swapaxes(jnp.asarray(xs[:, 1:]), 0, 1), jnp.ones((STEPS, FITTED)))
        # Root mean square over entries and steps but the first, at which all rollouts are in the same state.
        found[name] = float(jnp.sqrt(jnp.mean((fit.dynamics.F - it.dynamics.F)[1:] ** 2)))
        told |= {f"error of [A B], {name}": found[name], f"1 / VIF, {name}": float(jnp.median(fit.information))}
    return Outcome(log_ratio(found["feedback"], found["gaussian"]), told)


@jax.jit
def objective(it: System, policy: LinearGaussianPolicy) -> Scalar:
    """E[cost] - entropy, in closed form."""
    marginals = linear_marginals(it.dynamics, policy, it.x0, jnp.zeros((N, N)))
    return expected_cost(it.cost, marginals) - jnp.sum(policy_entropy(policy))


def entropic(seed: int, full: bool) -> Outcome:
    """By how much the best of some other controllers is worse than N(K x + k, Quu^-1)."""
    del full
    it, random = system(seed), np.random.default_rng([seed, 2])
    best = controllers(it)["gaussian"]
    other = {f"covariance times {s**2:g}": best._replace(L=s * best.L) for s in (0.5, 0.9, 1.1, 2.0)}
    for i in range(8):
        bump = lambda part: part + 0.02 * random.standard_normal(part.shape)
        other[f"other K and k, {i}"] = best._replace(K=bump(best.K), k=bump(best.k))
    least = objective(it, best)
    told = {name: float(objective(it, policy) - least) for name, policy in other.items()}
    return Outcome(min(told.values()), told)


WHERE = (
    f"Random linear systems with {N} states, one action, {STEPS} steps, process noise of {NOISE} in every state, and "
    "LQR on the true equations."
)

NOISY = Claim(
    name="controllers-noise",
    section="3.2, versions 0.5 and 1.0 of the controller",
    sentence="p(u|x) = delta(u = u') does not correct deviations; time-varying feedback does.",
    prediction="Under process noise the open-loop controller costs more than the feedback.",
    how=f"{WHERE} Ratio of mean costs of {ROLLOUTS} rollouts, open loop over feedback.",
    measure=noisy,
    unit=TIMES,
)
PRICED = dataclasses.replace(
    NOISY,
    name="gaussian-noise",
    section="3.2, versions 0.5 and 2.0 of the controller",
    sentence="The linear-Gaussian controller N(K x + k, Quu^-1) corrects deviations, too, and explores.",
    prediction="Under process noise the open-loop controller costs more than the linear-Gaussian one, with all its "
    "exploration.",
    how=f"{WHERE} Ratio of mean costs of {ROLLOUTS} rollouts, open loop over linear-Gaussian.",
    measure=priced,
    note="Where feedback has little to correct its noise is not paid back: it costs m T / 2 = 12.5 in every system.",
)
EXCITING = dataclasses.replace(
    NOISY,
    name="noise-excites",
    section="3.2, versions 1.0 and 2.0 of the controller",
    sentence="Deterministic feedback is too good: its rollouts do not deviate; so noise is added.",
    prediction="Dynamics that are fitted to the feedback's own rollouts are worse than those of the linear-Gaussian "
    "controller's.",
    how=f"{WHERE} Linear regression to {FITTED} rollouts; ratio of errors of [A B], feedback over feedback with noise "
    "of covariance Quu^-1.",
    measure=exciting,
)
ENTROPIC = dataclasses.replace(
    NOISY,
    name="max-entropy",
    section="3.2, version 2.0 of the controller",
    sentence="N(K x + k, Quu^-1) is the controller of least expected cost minus entropy.",
    prediction="The best of twelve other linear-Gaussian controllers has, on average, a larger E[cost] - entropy.",
    how=f"{WHERE} In closed form: the least excess of twelve others, with covariances of a quarter to four times it, "
    "and with other K and k.",
    measure=entropic,
    unit="nats",
)
CLAIMS = (NOISY, PRICED, EXCITING, ENTROPIC)
