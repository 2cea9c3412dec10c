"""An environment with one fault, which happens where the test says.  Importing this registers "Faulty-v0".

It imports no jax: worker processes make it from the id "faulty:Faulty-v0" and keyword arguments that JSON can hold.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LIMIT = 50
LAST = LIMIT - 1
ID = "faulty:Faulty-v0"

OBSERVATION = ("nan-observation", "inf-observation", "none-observation", "wrong-shape", "short-shape", "lossy-dtype")
"""Faults of the observation, with "far-out" and "in-place"; these can happen in reset too."""

REWARD = ("nan-reward", "inf-reward", "huge-reward", "array-reward", "none-reward", "string-reward")

FAULTS = (
    *OBSERVATION,
    "lossless-dtype",  # no fault, but a warning: from `at` on in every step of every episode from `episode` on
    "far-out",
    "in-place",
    *REWARD,
    "info-none",
    "four-tuple",  # in reset: the observation alone
    "terminated-0.7",
    "exception",
    "hang",
)
"""The 20 that a guard must find.  "die" ends the process, and "none" is healthy."""

IN_RESET = (*OBSERVATION, "lossless-dtype", "far-out", "in-place", "info-none", "four-tuple", "exception", "hang")
"""Those that can happen in reset; "in-place" there changes what the episode before returned last."""


class Faulty(gymnasium.Env):
    """A damped walk in [-8, 8]^3 with the reward -|x|^2, and `fault` at step `at` (-1: in reset; or "last").

    It happens in the episode number `episode` of this instance, or, if `seed` is given, in those with that reset seed
    instead.  With `once`, the path of a file that does not exist yet, it happens once over all processes.
    """

    def __init__(
        self, fault: str = "none", at: int | str = 1, episode: int = 0, seed: int | None = None, once: str = ""
    ):
        if fault not in (*FAULTS, "die", "none"):
            raise ValueError(f"fault is {fault!r}; it must be one of {FAULTS}")
        self.observation_space = spaces.Box(-8.0, 8.0, (3,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.fault, self.at = fault, LAST if at == "last" else int(at)
        self.fault_episode, self.fault_seed, self.once = episode, seed, once
        self.episode, self.t, self.seed = -1, -1, None
        self.x = np.zeros(3)
        self.returned = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.t, self.seed = self.episode + 1, -1, seed
        self.x = self.np_random.uniform(-1.0, 1.0, 3)
        if not self.now():
            return self.look(), {}
        result = [*self.spoilt(0.0)]
        return result[0] if self.fault == "four-tuple" else (result[0], result[-1])

    def step(self, action: Any) -> Any:
        self.t += 1
        self.x = 0.95 * self.x + 0.1 * float(np.asarray(action)[0]) + 0.05 * self.np_random.standard_normal(3)
        reward = -float(self.x @ self.x)
        return self.spoilt(reward) if self.now() else (self.look(), reward, False, False, {})

    def look(self) -> np.ndarray:
        """A new array, as it should be."""
        self.returned = self.x.astype(np.float32)
        return self.returned

    def now(self) -> bool:
        """Whether the fault is to happen in this step or reset."""
        if self.fault == "none":
            return False
        if self.fault == "lossless-dtype":
            return (self.episode, self.t) >= (self.fault_episode, self.at)
        here = self.seed == self.fault_seed if self.fault_seed is not None else self.episode == self.fault_episode
        if self.t != self.at or not here:
            return False
        if self.once:
            if Path(self.once).exists():
                return False
            Path(self.once).touch()
        return True

    def spoilt(self, reward: float) -> tuple[Any, ...]:
        """What this step returns instead."""
        fault, before = self.fault, self.returned
        if fault == "exception":
            raise RuntimeError("the motor is off")
        if fault == "die":
            os._exit(3)
        if fault == "hang":
            time.sleep(3600.0)
        observation: Any = self.look()
        if fault == "in-place":
            before[:] = observation + np.float32(0.25)
            observation = self.returned = before
        observations = {
            "nan-observation": observation * np.float32(np.nan),
            "inf-observation": np.array([0.0, np.inf, 0.0], np.float32),
            "none-observation": None,
            "wrong-shape": np.zeros(4, np.float32),
            "short-shape": observation[:1],
            "lossy-dtype": np.array([0.1, 0.2, 0.3]),  # float64, and not one of them is a float32
            "lossless-dtype": observation.astype(np.float64),
            "far-out": np.array([0.0, 0.0, 1e6], np.float32),
        }
        rewards = {
            "nan-reward": float("nan"),
            "inf-reward": float("inf"),
            "huge-reward": 1e30,
            "array-reward": np.array([reward]),
            "none-reward": None,
            "string-reward": "1.0",
        }
        observation, reward = observations.get(fault, observation), rewards.get(fault, reward)
        terminated = 0.7 if fault == "terminated-0.7" else False
        info = None if fault == "info-none" else {}
        if fault == "four-tuple":
            return observation, reward, terminated, info
        return observation, reward, terminated, False, info


if "Faulty-v0" not in gymnasium.registry:
    made: Any = Faulty
    gymnasium.register("Faulty-v0", entry_point=made, max_episode_steps=LIMIT)
