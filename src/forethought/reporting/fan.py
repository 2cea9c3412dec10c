"""What a run's model imagines beside its own episodes.  This is the one part of a report that needs jax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractDynamics
from forethought.errors import printable
from forethought.math.diagnosis import Model, ahead_errors, data_scale, root_mean_square
from forethought.math.hindsight import Stretches, draw_beliefs, roll_out, short_way, stretches
from forethought.planners.mpc import MPC, PlanOnce
from forethought.reporting.charts import number
from forethought.reporting.episode_notes import Limits, episode_paths, read_columns
from forethought.reporting.fan_panel import HORIZON, PARTICLES, STARTS, Fan, choose_episodes, choose_starts, packed
from forethought.reporting.records import Records
from forethought.runs.experiment import OpenRun
from forethought.runs.files import Damaged
from forethought.runs.precision import in_64_bit
from forethought.types import Box, Spec, Trajectory, UserError

CHUNK = 40
"""Fans in one compiled call: always so many, so that nothing compiles anew."""
SEED = 0xFA7


class Imagined(NamedTuple):
    """What the page needs of a model."""

    fan: dict[str, Any] | None
    components: int
    seen: dict[str, Any] | None
    """Errors of mean predictions on these episodes: `steps`, `error`, `persistence`, `noise_floor`."""
    missing: list[str]


@in_64_bit
def imagine(run: OpenRun, records: Records, share: float = 1.0) -> Imagined:
    """The fans of a few episodes of the run, in its newest model.  Raises `UserError` where there is no model."""
    n = run.task.spec.n
    if int(run.state.fits) == 0:
        raise UserError("no model was fitted yet.")
    horizon = _horizon(run)
    fans, pieces, missing = [], [], []
    chosen = choose_episodes(records.episodes)
    paths = episode_paths(records.path)
    for name, label in chosen.items():
        try:
            columns, _ = read_columns(paths[name])
        except (Damaged, KeyError, OSError) as error:
            missing.append(printable(f"Episode {name} cannot be read: {error}"))
            continue
        if columns["x"].shape[1] != n:
            missing.append(f"Episode {name} has {columns['x'].shape[1]} state components, and the task has {n}.")
            continue
        episode = Trajectory(**columns)
        starts = choose_starts(episode.length, STARTS)
        pieces.append(stretches(episode, run.task.spec, starts, horizon))
        fans.append((name, label, episode, starts))
    if not fans:
        raise UserError("there is no whole episode to draw it beside.")
    seen = Stretches(*(np.concatenate(each) for each in zip(*pieces, strict=True)))
    model = Model(run.state.fitted.model, run.task.cost, run.task.spec, _scale(run))
    samples, doubt = _samples(model, seen)
    found = _fans(fans, samples, run.task.spec)
    names = [f"x{i}" for i in range(n)]
    return Imagined(packed(found, names, share), n, _errors(model, seen, doubt), missing)


def _scale(run: OpenRun) -> np.ndarray:
    return data_scale(np.asarray(run.state.data.x)[: int(run.state.data.count)])


def _horizon(run: OpenRun) -> int:
    """How far the run's plans look ahead, or 20 steps."""
    policy = run.algorithm.policy(run.task, run.state)
    planned = policy.planning.horizon if isinstance(policy, (MPC, PlanOnce)) else 20
    return int(np.clip(planned, 1, HORIZON))


def _samples(model: Model, seen: Stretches) -> tuple[np.ndarray, np.ndarray]:
    """Imagined states [S H P n], NaN beyond the real steps; and the variance [n] of the noise of one step."""
    random = np.random.default_rng(SEED)
    drawing = random.integers(2**32, size=jr.key_data(jr.key(0)).shape, dtype=np.uint32)
    drawn: AbstractDynamics = draw_beliefs(model.dynamics, jnp.asarray(drawing), PARTICLES)
    n, H = model.spec.n, seen.u.shape[1]
    parts, noises = [], []
    for first in range(0, len(seen.x), CHUNK):
        part = Stretches(*(v[first : first + CHUNK] for v in seen))
        more = CHUNK - len(part.x)
        padded = Stretches(*(np.concatenate([v, np.repeat(v[:1], more, axis=0)]) for v in part))
        noise = random.integers(2**32, size=(H, 1, CHUNK, PARTICLES, 4), dtype=np.uint32)
        said, _ = roll_out(drawn, model.cost, model.spec, padded, jnp.asarray(noise))
        kept = CHUNK - more
        sample, mean = (np.asarray(v, np.float64)[:, 0, :kept, :, :n] for v in (said.sample, said.mean))  # [H S P n]
        noises.append(short_way(sample[0] - mean[0], model.spec.angles) ** 2)
        parts.append(np.moveaxis(sample, 0, 1))
    with np.errstate(all="ignore"):
        variance = np.concatenate(noises).mean(axis=(0, 1))
    return np.where(seen.real[:, :, None, None], np.concatenate(parts), np.nan), variance


def _fans(fans: list[Any], samples: np.ndarray, spec: Spec) -> list[Fan]:
    """Per episode, with angles near what happened."""
    found, first = [], 0
    for name, label, episode, starts in fans:
        real = np.concatenate([np.asarray(episode.x), np.asarray(episode.y)[-1:]])
        real[:, list(spec.angles)] = np.unwrap(real[:, list(spec.angles)], axis=0)
        own = samples[first : first + len(starts)]
        first += len(starts)
        at = np.minimum(starts[:, None] + 1 + np.arange(own.shape[1]), len(real) - 1)
        truth = real[at][:, :, None]
        found.append(Fan(name, label, real, starts, truth + short_way(own - truth, spec.angles)))
    return found


def _errors(model: Model, seen: Stretches, variance: np.ndarray) -> dict[str, Any]:
    """Error against horizon on the same episodes."""
    more = -len(seen.x) % CHUNK
    padded = Stretches(*(np.concatenate([v, np.repeat(v[:1], more, axis=0)]) for v in seen))
    error, still = (v[: len(seen.x)] for v in ahead_errors(model, padded))
    by_step, still_by_step = (root_mean_square(v, (0, 2)) for v in (error, still))
    floor = float(np.sqrt(np.mean(variance / model.scale**2)))
    return {
        "steps": list(range(1, error.shape[1] + 1)),
        "error": [number(float(v)) for v in by_step],
        "persistence": [number(float(v)) for v in still_by_step],
        "noise_floor": floor,
    }


def named_limits(run: OpenRun) -> Limits | None:
    """Where the task says that actions end."""
    actions = run.task.world.actions
    if not isinstance(actions, Box):
        return None
    return Limits(np.asarray(actions.low, float), np.asarray(actions.high, float), named=True)
