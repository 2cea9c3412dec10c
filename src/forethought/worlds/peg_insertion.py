"""Peg insertion: a contact task in MuJoCo for which a controller of torques must be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box

try:
    import mujoco
    from gymnasium.envs.mujoco import MujocoEnv
except ImportError as error:
    raise DependencyNotInstalled('peg insertion needs MuJoCo: pip install "gymnasium[mujoco]"') from error

SPREAD = 0.1
"""Half width in rad of the joint angles at which an episode starts."""


class PegInsertion(MujocoEnv):
    """forethought/PegInsertion-v0: a planar arm of three joints puts the peg that it holds into a slot.

    100 steps of 0.05 s (50 MuJoCo steps of 0.001 s); no gravity; no termination.  Links of 0.4, 0.35 and 0.23 m, the
    last one with the peg, 20 mm thick; the slot is 24 mm wide, a clearance of 2 mm on either side, and 0.1 m deep.
    Block and arm touch with friction (0.5), so that a peg that is merely pulled towards its target sticks to the block.

    *Action* u [3] in [-1, 1]: torques in units of 2, 1.5 and 0.5 N m at shoulder, elbow and wrist.
    *Observation* [10], float64: joint angles [0:3] in rad, which joint limits keep within (-pi, pi), so that none ever
    wraps; their velocities [3:6] in rad/s; tip of the peg minus its target [6:8], and a point 0.1 m further back minus
    its target [8:10], (across, along) the slot in m, along > 0 towards its mouth.  The targets lie on the axis of the
    slot; that of the tip is 0.08 m behind the mouth and 0.02 m before the floor.

    *Success*: at the end of the episode the tip is within 0.01 m of its target, so at least 0.07 m deep in the slot.
    A peg that stands beside the slot is 0.08 m away at least.

    *Reward*, with d^2 = |o[6:8]|^2 + |o[8:10]|^2 of the observation o that the step led to:
    r = -(distance_weight d^2 + log_weight log(1 + d^2/alpha) + control_weight |u|^2),
    the distance cost of Levine, Wagener and Abbeel, Learning contact-rich manipulation skills with guided policy
    search, ICRA 2015, less its constant log(alpha).  alpha is in m^2.

    *Start*: at rest, at joint angles (1.55, -1.65, -1.45) + U(-0.1, 0.1)^3 rad, which the reset seed fixes: the tip is
    about 0.15 m beside the slot and 0.1 m before its mouth.  The reset option "start" [3] gives the angles instead.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 20,
    }

    def __init__(
        self,
        distance_weight: float = 1.0,
        log_weight: float = 0.01,
        alpha: float = 1e-5,
        control_weight: float = 1e-3,
        **kwargs: Any,
    ):
        self.distance_weight = distance_weight
        self.log_weight = log_weight
        self.alpha = alpha
        self.control_weight = control_weight
        self._start: np.ndarray | None = None
        seen = Box(-np.inf, np.inf, (10,), np.float64)
        path = Path(__file__).resolve().with_name("peg_insertion.xml")
        kwargs = {"camera_name": "above"} | kwargs
        super().__init__(str(path), 50, observation_space=seen, **kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode.  Raises `ValueError` for a "start" that is not three angles within the joints' limits."""
        start = (options or {}).get("start")
        self._start = None if start is None else self._allowed(start)
        return super().reset(seed=seed, options=options)

    def reset_model(self) -> np.ndarray:
        """Put the arm at rest at its start; the observation there."""
        # Drawn in any case, so that an option changes this start and no later one.
        drawn = np.array([1.55, -1.65, -1.45]) + self.np_random.uniform(-SPREAD, SPREAD, 3)
        self.set_state(drawn if self._start is None else self._start, np.zeros(3))
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """0.05 s with the torques held."""
        self.do_simulation(action, self.frame_skip)
        # MuJoCo leaves the points where they were before its last step of 0.001 s.
        mujoco.mj_kinematics(self.model, self.data)  # pyright: ignore[reportAttributeAccessIssue]
        seen = self._observation()
        square = float(np.sum(seen[6:10] ** 2))
        near = self.distance_weight * square + self.log_weight * float(np.log1p(square / self.alpha))
        effort = self.control_weight * float(np.sum(np.asarray(action, np.float64) ** 2))
        if self.render_mode == "human":
            self.render()
        away = float(np.linalg.norm(seen[6:8]))
        info = {"reward_distance": -near, "reward_control": -effort, "tip_distance": away, "inserted": away <= 0.01}
        return seen, -(near + effort), False, False, info

    def _observation(self) -> np.ndarray:
        """Angles, velocities, and the two points of the peg relative to their targets."""
        place = lambda name: self.data.site(name).xpos[:2]
        off = [place(name) - place(f"{name} goal") for name in ("tip", "head")]
        return np.concatenate([self.data.qpos, self.data.qvel, *off])

    def _allowed(self, start: Any) -> np.ndarray:
        angles = np.asarray(start, np.float64)
        low, high = self.model.jnt_range.T
        if angles.shape != (3,) or not np.all((low <= angles) & (angles <= high)):
            raise ValueError(
                f"The reset option start was {repr(start)[:80]}; it must be three joint angles in rad, from {low} to "
                f"{high}."
            )
        return angles
