"""Environments that behave badly as processes do.  Importing this registers them; it imports no jax."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from faulty import Faulty


class Awkward(gymnasium.Env):
    """Does `what` in step `at` (-1: in reset, -2: while it is made), with `extra`; observes what that gives."""

    def __init__(self, what: str = "nothing", at: int = 0, extra: Any = None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.what, self.at, self.extra, self.t = what, at, extra, -2
        self.look()

    def look(self) -> np.ndarray:
        found = getattr(self, self.what)() if self.t == self.at else 0.0
        self.t += 1
        return np.array([0.0 if found is None else found])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.t = -1
        return self.look(), {}

    def step(self, action: Any) -> Any:
        return self.look(), 0.0, False, False, {}

    def close(self) -> None:
        if self.what == "note_close":
            Path(self.extra).touch()

    def nothing(self) -> None: ...

    note_close = nothing

    def sleep(self) -> None:
        time.sleep(3600.0)

    def hold(self) -> None:
        """One call in C that never gives up the interpreter's lock."""
        sum(range(10**15))

    def raise_exit(self) -> None:
        sys.exit(3)

    def die_by(self) -> None:
        if self.extra != signal.SIGKILL:
            signal.signal(self.extra, signal.SIG_DFL)
        os.kill(os.getpid(), self.extra)

    def shout(self) -> None:
        print("to standard output")
        os.write(1, b"to its file descriptor\n" * 100)
        assert sys.stdin.read() == ""  # nobody types here

    def spawn(self) -> float:
        """A process that ignores the signals of terminals and outlives this one, if it may; its number."""
        child = subprocess.Popen(["sleep", "3600"], close_fds=False)
        return float(child.pid)

    def spawn_and_die(self) -> None:
        """As `spawn`, and it keeps the connection open."""
        for fd in self.connections():
            os.set_inheritable(fd, True)
        Path(self.extra).write_text(str(int(self.spawn())))
        os._exit(5)

    def connections(self) -> list[int]:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
        return [n for n in numbers if os.path.exists(f"/dev/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode)]

    def garble(self) -> None:
        """Bytes of its own on the connection, and silence."""
        os.write(self.connections()[-1], bytes.fromhex(self.extra))
        time.sleep(3600.0)

    def hang_up(self) -> None:
        os.close(self.connections()[-1])
        time.sleep(3600.0)

    def warn(self) -> None:
        warnings.warn(self.extra, stacklevel=1)

    def tell(self) -> None:
        """What the process is like, as an exception."""
        facts = (sorted({"jax", "equinox"} & set(sys.modules)), os.environ.get("PYTHONPATH"), self.extra)
        raise RuntimeError(facts)


class Switch(Faulty):
    """A `Faulty` whose fault comes as the options of reset: one process for many cases."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        chosen = {"fault": "none", "at": -1} | (options or {})
        self.fault, self.at, self.fault_episode = chosen["fault"], int(chosen["at"]), self.episode + 1
        return super().reset(seed=seed)


class Whole(gymnasium.Env):
    """Actions in a 2x2 box of whole numbers, or `many`; observations in a dict; float64 in part."""

    def __init__(self, many: bool = False) -> None:
        whole = spaces.Box(-3, 3, (2, 2), np.int64)
        self.action_space = spaces.MultiDiscrete([2, 3]) if many else whole
        self.observation_space = spaces.Dict(
            {"a": spaces.Box(-np.inf, np.inf, (2, 2), np.float64), "b": spaces.Discrete(5)}
        )
        self.x = np.zeros((2, 2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.standard_normal((2, 2))
        return {"a": self.x.copy(), "b": 1}, {}

    def step(self, action: Any) -> Any:
        assert action.dtype == np.int64
        assert action.shape == (2, 2)
        self.x = 0.9 * self.x + action + self.np_random.standard_normal((2, 2))
        return {"a": self.x.copy(), "b": int(action.sum()) % 5}, float(self.x.sum()), bool(self.x.sum() > 9), False, {}


for name, maker in {"Awkward-v0": Awkward, "Switch-v0": Switch, "Whole-v0": Whole}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=maker, max_episode_steps=50)
