"""Environments with something wrong that shows only to who looks for it.  Importing this registers them as sick/..."""

from __future__ import annotations

import itertools
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class Healthy(gymnasium.Env):
    """A walk in [-4, 4]^2, which ends at random; nothing is wrong with it."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-4.0, 4.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.x = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action: Any) -> Any:
        self.x = np.float32(0.9) * self.x + np.float32(0.1) * action
        return self.x.copy(), float(self.x.sum()), bool(self.np_random.random() < 0.02), False, {}


class Unseeded(Healthy):
    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.x = np.random.default_rng().normal(size=2).astype(np.float32)
        return self.x.copy(), {}


class Noisy(Healthy):
    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(np.random.default_rng().random()), terminated, truncated, info


class Fixed(Healthy):
    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.x = np.ones(2, np.float32)
        return self.x.copy(), {}


class Endless(Fixed):
    def step(self, action: Any) -> Any:
        return self.x.copy(), 1.0, False, False, {}


class Shared(Healthy):
    everything: ClassVar[np.ndarray] = np.zeros(2, np.float32)

    def reset(self, **kwargs: Any) -> Any:
        self.everything[:] = super().reset(**kwargs)[0]
        return self.everything.copy(), {}

    def step(self, action: Any) -> Any:
        self.everything[:] = np.float32(0.9) * self.everything + np.float32(0.1) * action
        return self.everything.copy(), 0.0, False, False, {}


class Numbered(Healthy):
    count: ClassVar[Any] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.count)

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(self.number), terminated, truncated, info


class Grasping(Healthy):
    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


class Many(Healthy):
    """Another fault in every third step."""

    count = 0

    def step(self, action: Any) -> Any:
        Many.count += 1
        results: list[Any] = list(super().step(action))
        if Many.count % 3 == 0:
            results[Many.count // 3 % 5] = "wrong"
        if Many.count % 17 == 0:
            raise ValueError("the seventeenth step")
        return tuple(results)


class NoInit(Healthy):
    def __init__(self) -> None:
        raise OSError("no such device: /dev/ttyUSB0")


class Quits(Healthy):
    def step(self, action: Any) -> Any:
        sys.exit("enough")


class QuitsAtOnce(Healthy):
    def __init__(self) -> None:
        sys.exit(0)


class NoClose(Healthy):
    def close(self) -> None:
        raise RuntimeError("it is jammed")


class NoReset(Healthy):
    def reset(self, **kwargs: Any) -> Any:
        raise NotImplementedError


class NoSpaces(gymnasium.Env):
    pass


class Discrete(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(5)

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        return 3, {}

    def step(self, action: Any) -> Any:
        return 4, 1.0, False, False, {}


class Unbounded(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Loose(Healthy):
    """A little outside what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.x = np.clip(self.x, -1.0, 1.0)
        return self.x + np.float32(0.5), {}


class Single(Healthy):
    """Of which there can be one."""

    taken: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        if Single.taken:
            raise OSError("the port is busy")
        Single.taken = True

    def close(self) -> None:
        Single.taken = False


class Chatty(Healthy):
    def reset(self, **kwargs: Any) -> Any:
        print("here we go")
        return super().reset(**kwargs)


made: Any
for made in (*Healthy.__subclasses__(), Healthy, NoSpaces):
    name = f"sick/{made.__name__}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=made, max_episode_steps=80)
if "sick/Endless-v0" not in gymnasium.registry:
    made = Endless
    gymnasium.register("sick/Endless-v0", entry_point=made)
