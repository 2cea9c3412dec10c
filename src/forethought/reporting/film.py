"""Evaluation episodes acted out again where the environment renders."""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib
import io
import os
from typing import Any

import jax.random as jr
import numpy as np

from forethought.core import AbstractPolicy, AbstractWitness
from forethought.errors import UserError
from forethought.math.act import start
from forethought.reporting.film_panel import Film, Picture, label, starts_to_film
from forethought.reporting.page import EXTRA
from forethought.reporting.records import Records
from forethought.runs.experiment import OpenRun
from forethought.runs.precision import in_64_bit
from forethought.worlds.gym import GymWorld, Live

WIDTH = 320
"""Pixels that a picture is wide at most."""
FRAMES = 160
"""Pictures of an episode at most: of a longer one every second, third, ..."""
LARGEST = 10**6
"""Bytes of one moving picture."""
QUALITY = 60
SECONDS = (4.0, 20.0)
"""How long a moving picture takes at least, if it has the frames, and at most."""


class Camera(AbstractWitness):
    """Takes a picture after each step."""

    def __init__(self, world: GymWorld, every: int):
        self.world, self.every, self.step = world, every, 0
        self.frames: list[np.ndarray] = []

    def began(self, x: np.ndarray, condition: int) -> None:
        """The first picture."""
        self._take()

    def happened(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """Every so many steps, and at the end."""
        self.step += 1
        if self.step % self.every == 0 or terminated or truncated:
            self._take()

    def _take(self) -> None:
        frame: Any = self.world.env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] not in (3, 4):
            raise UserError("the environment's rgb_array is no picture.")
        self.frames.append(np.asarray(frame[..., :3], np.uint8))


@in_64_bit
def film(run: OpenRun, records: Records) -> Film:
    """The best, the median and the worst start of the newest evaluation, each tried again by the newest controller."""
    if not records.evaluations:
        return Film(missing=["There is no evaluation, whose best, median and worst episode could be shown."])
    world = run.task.world
    if not isinstance(world, GymWorld):
        return Film(missing=[f"{run.task.name} is simulated by Forethought itself and has no pictures."])
    try:
        encoder = importlib.import_module("PIL.Image")
    except ImportError:
        raise UserError(f"Videos need the package Pillow, which is not installed; install it with {EXTRA}.") from None
    said = choose_renderer()
    newest = records.evaluations[-1]
    policy = run.algorithm.policy(run.task, run.state)
    pictures, missing = [], []
    for which, index in starts_to_film(newest["returns"], newest["starts"]):
        try:
            frames, score, pace = act_out(run, policy, newest["starts"], index)
        except Exception as error:  # whatever a renderer, or its driver, raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            hint = said if "mujoco" in reason.lower() or "gl" in reason.lower() else ""
            missing.append(f"{run.task.name} cannot be rendered here ({reason}).{hint}")
            break
        words = label(which, newest["starts"][index], score, float(newest["returns"][index]))
        pictures.append(encoded(encoder, frames, words, pace))
    if newest["env_steps"] != int(run.state.steps):
        missing.append("The newest checkpoint is not of the newest evaluation, so these episodes are others.")
    return Film(pictures, missing)


def choose_renderer() -> str:
    """How MuJoCo is to render without a display, unless that is chosen; and what to say if it fails."""
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return ""
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = name
            return f" MuJoCo was asked to render with MUJOCO_GL={name}."
    return " MuJoCo renders without a display by the system's libEGL or libOSMesa, and neither is installed."


def act_out(
    run: OpenRun, policy: AbstractPolicy, starts: list[int], index: int
) -> tuple[list[np.ndarray], float, float]:
    """(pictures, return, seconds between two pictures) of one evaluation episode, with the random numbers that it had
    in the evaluation."""
    world = run.task.world
    assert isinstance(world, GymWorld)
    source = dataclasses.replace(world.source, kwargs={**world.source.kwargs, "render_mode": "rgb_array"})
    filmed = dataclasses.replace(world, source=source, live=Live(), deadline=None)
    every = max(-(-run.task.limit // FRAMES), 1)
    camera = Camera(filmed, every)
    filmed = filmed.watched(camera)
    k_start, k_run = jr.split(jr.split(jr.key(0), len(starts))[index])
    try:
        at = filmed.reset(k_run, int(starts[index]))
        carry = start(policy, np.asarray(at.x, np.float32), k_start)
        done, _, _ = filmed.collect(policy, carry, at, k_run, run.task.limit)
        fps = float(filmed.env.metadata.get("render_fps") or 30.0)
    finally:
        filmed.close()
    return camera.frames, float(np.sum(done.reward)), every * source.action_repeat / fps


def encoded(encoder: Any, frames: list[np.ndarray], words: str, pace: float) -> Picture:
    """Animated WebP of a bounded size: every second picture, and less quality, until it is small enough."""
    first = frames[0]
    width = min(WIDTH, first.shape[1])
    height = max(round(first.shape[0] * width / first.shape[1]), 1)
    images = [encoder.fromarray(f).resize((width, height)) for f in frames]
    length = float(np.clip(pace * len(images), min(SECONDS[0], 0.1 * len(images)), SECONDS[1]))
    for quality in (QUALITY, QUALITY // 2, QUALITY // 4, 1):
        out = io.BytesIO()
        each = max(round(1000.0 * length / len(images)), 20)
        images[0].save(
            out, "WEBP", save_all=True, append_images=images[1:], duration=each, loop=0, quality=quality, method=2
        )
        if out.tell() <= LARGEST:
            break
        images = images[::2]
    return Picture(words, out.getvalue(), width, height)
