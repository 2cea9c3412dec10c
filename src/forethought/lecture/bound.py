"""Section 3.2, the KL bound on and off: what an improvement delivers of its promise, and how local models stay true."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.algorithms.local_batch import Batch, batch_of
from forethought.algorithms.locally import Local
from forethought.core import RunState, Task
from forethought.lecture.claim import TIMES, Claim, Outcome, log_ratio
from forethought.math.local_fit import fit_regression
from forethought.tasks import task

STD, ITERATIONS, ROLLOUTS = 0.02, 6, 10
"""Process noise on the arm's joint velocities in rad/s per step; improvements; rollouts of each."""
SHARE = 0.5
"""Of a predicted improvement that counts as having been realised."""
Bound = Literal["sum", "none"]


def arm() -> Task:
    """The two-link arm with process noise."""
    made = task("arm-reach")
    return dataclasses.replace(
        made, world=dataclasses.replace(made.world, process_std=np.asarray([0.0, 0.0, STD, STD]))
    )


def method(bound: Bound, seed: int) -> Local:
    """Linear regression at every step, so that no global model is in between."""
    return Local(conditions=(seed,), rollouts=ROLLOUTS, fit="regression", bound=bound)


def run(bound: Bound, seed: int, iterations: int) -> list[tuple[Batch, dict[str, Any]]]:
    """The rollouts of each iteration, with what was told about the improvement before them (nothing of the first)."""
    target, local = arm(), method(bound, seed)
    state, found, told = local.init(target, jr.key(seed)), [], {}
    for i in range(iterations + 1):
        for j in range(ROLLOUTS):
            state, metrics = local.step(target, state, target.limit)
            told = metrics if j == 0 and i else told
        found.append((_newest(target, state, seed), told))
    return found


def _newest(target: Task, state: RunState, seed: int) -> Batch:
    return batch_of(state.data, int(state.fitted.first), (seed,), ROLLOUTS, target.limit, target.spec.angles)


def realised(seed: int, bound: Bound) -> tuple[float, list[list[float]]]:
    """Share of improvements that delivered at least half of what was predicted, and both of each."""
    found = run(bound, seed, ITERATIONS)
    costs = [float(np.mean(batch.cost)) for batch, _ in found]
    pairs = [
        [float(told["local_predicted"][0] or 0.0), costs[i] - costs[i + 1]] for i, (_, told) in enumerate(found[1:])
    ]
    return float(np.mean([actual >= SHARE * predicted for predicted, actual in pairs])), pairs


def kept(seed: int, full: bool) -> Outcome:
    """How much larger the share of realised improvements is with the bound."""
    del full
    (bounded, b), (free, f) = realised(seed, "sum"), realised(seed, "none")
    told = {"share with the bound": bounded, "share without": free}
    return Outcome(bounded - free, told | {"predicted and actual with": b, "predicted and actual without": f})


def _rows(batch: Batch) -> tuple[Float[np.ndarray, "T N d"], Float[np.ndarray, "T N n"]]:
    z = np.concatenate([np.asarray(batch.x)[0, :, :-1], np.asarray(batch.u)[0]], axis=2)
    return np.swapaxes(z, 0, 1), np.swapaxes(np.asarray(batch.x)[0, :, 1:], 0, 1)


def strayed(seed: int, bound: Bound) -> float:
    """Error of the first rollouts' local model on those of the improved controller, in units of the first's change."""
    (before, _), (after, _) = run(bound, seed, 1)
    z, y = _rows(before)
    fit = jax.jit(fit_regression)(jnp.asarray(z), jnp.asarray(y), jnp.ones(z.shape[:2]))
    unit = np.sqrt(np.mean((y - z[:, :, :4]) ** 2, axis=(0, 1)))
    z, y = _rows(after)
    off = np.einsum("tij,tnj->tni", fit.dynamics.F, z) + np.asarray(fit.dynamics.f)[:, None] - y
    return float(np.sqrt(np.mean((off / unit) ** 2)))


def local(seed: int, full: bool) -> Outcome:
    """How much larger the error of the old local model is after a step without the bound."""
    del full
    free, bounded = strayed(seed, "none"), strayed(seed, "sum")
    return Outcome(log_ratio(free, bounded), {"without the bound": free, "with": bounded})


WHERE = (
    f"The local method on the two-link arm with process noise of {STD} rad/s per step: {ROLLOUTS} rollouts per "
    "iteration, linear regression, and a bound of 0.5 nats per step that adapts, or none."
)

KEPT = Claim(
    name="kl-realised",
    section="3.2, the KL bound",
    sentence="The controller has to be kept close to the old one, as the model is a local one.",
    prediction="With the KL bound improvements deliver at least half of what they predicted more often than without.",
    how=f"{WHERE} Share of {ITERATIONS} improvements whose rollouts became cheaper by at least {SHARE} of the "
    "prediction: with the bound minus without.",
    measure=kept,
    unit="share of improvements",
    seeds=tuple(range(100, 105)),
    full_seeds=tuple(range(100, 110)),
)
LOCAL = dataclasses.replace(
    KEPT,
    name="kl-local",
    sentence="If the trajectory distribution stays close to the old one, so do the dynamics.",
    prediction="After one improvement without the bound the old local model is more wrong about the new rollouts than "
    "after one with it.",
    how=f"{WHERE} Ratio of root mean square one-step errors of the first fit on the next rollouts, without over with, "
    "in units of the first rollouts' change per step.",
    measure=local,
    unit=TIMES,
    seeds=tuple(range(100, 110)),
    full_seeds=tuple(range(100, 130)),
)
CLAIMS = (KEPT, LOCAL)
