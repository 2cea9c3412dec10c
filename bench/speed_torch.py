"""The peers' side of `speed.py`: a process of their own, which imports torch, and mbrl-lib if it is asked for.

It needs neither jax nor this library.  Each line on standard input asks for one control step, `mbrl` or `eager`; each
line on standard output answers with the wall and processor seconds that it took.  The first line says which versions
answer, and why one of the two cannot.

    echo eager | python bench/speed_torch.py '{"members": 7, "width": 200, ...}'      # speed.py fills this in
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

LIMITS = (2.4, 12 * 2 * math.pi / 360)
LOW, HIGH = -10.0, 0.5
"""Bounds of the logarithm of the variance."""


class Eager:
    """The computation of `CEM` on an ensemble, written down in PyTorch as one would: TS-infinity with the rows of each
    member together, one batched product per layer, noise from the model, cart-pole's reward and termination."""

    def __init__(self, s: dict[str, Any]):
        self.s = s
        self.random = torch.Generator().manual_seed(0)
        sizes = [s["n"] + s["m"], *[s["width"]] * s["depth"], 2 * s["n"]]
        shapes = list(itertools.pairwise(sizes))
        self.weights = [self.normal(s["members"], i, o) / (2 * i**0.5) for i, o in shapes]
        self.biases = [torch.zeros(s["members"], 1, o) for _, o in shapes]
        self.mean = torch.zeros(s["horizon"], s["m"])

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def step(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Next states [E, R, n] of states [E, R, n] and actions [E, R, m], sampled."""
        z = torch.cat([x, u], -1)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = torch.nn.functional.silu(torch.baddbmm(b, z, w), inplace=True)
        mean, v = torch.baddbmm(self.biases[-1], z, self.weights[-1]).chunk(2, -1)
        variance = math.exp(LOW) + math.exp(HIGH) * torch.sigmoid(v - HIGH)
        return x + mean + torch.sqrt(variance) * self.normal(*mean.shape)

    def costs(self, plans: torch.Tensor) -> torch.Tensor:
        """Mean cost [N] over particles of the plans [N, H, m]."""
        s, count = self.s, plans.shape[0]
        rows = count * s["particles"]
        padded = -(-rows // s["members"]) * s["members"]
        us = plans.repeat(s["particles"], 1, 1)
        us = torch.cat([us, us[: padded - rows]]).reshape(s["members"], -1, s["horizon"], s["m"])
        x = torch.zeros(*us.shape[:2], s["n"])
        total, alive = torch.zeros(us.shape[:2]), torch.ones(us.shape[:2], dtype=torch.bool)
        for h in range(s["horizon"]):
            x = self.step(x, us[:, :, h])
            total = total - alive.float()
            alive &= (x[..., 0].abs() <= LIMITS[0]) & (x[..., 2].abs() <= LIMITS[1])
        return total.reshape(-1)[:rows].reshape(s["particles"], count).mean(0)

    @torch.no_grad()
    def act(self) -> np.ndarray:
        """One control step: plan, take the first action, shift."""
        s, mean = self.s, self.mean
        std, best = torch.full_like(mean, 0.5), mean
        for _ in range(s["iterations"]):
            near = torch.minimum(std, 0.5 * (1 - mean.abs()))
            noise = torch.empty(s["samples"], *mean.shape)
            torch.nn.init.trunc_normal_(noise, a=-2.0, b=2.0, generator=self.random)
            plans = torch.cat([mean[None], mean + near * noise / 0.8796]).clamp(-1, 1)
            index = self.costs(plans).topk(s["elites"], largest=False).indices
            elite = plans[index]
            best = elite[0]
            mean, std = 0.1 * mean + 0.9 * elite.mean(0), 0.1 * std + 0.9 * elite.std(0)
        both = torch.stack([mean, best])
        chosen = both[self.costs(both).argmin()]
        self.mean = torch.cat([mean[1:], mean[-1:]])
        return chosen[0].numpy()


def mbrl_agent(s: dict[str, Any]) -> Callable[[], np.ndarray]:
    """mbrl-lib's own agent, optimizer and ensemble, as its PETS cart-pole example sets them."""
    import gymnasium
    import mbrl.models  # pyright: ignore[reportMissingImports]
    import omegaconf  # pyright: ignore[reportMissingImports]
    from mbrl.env import reward_fns, termination_fns  # pyright: ignore[reportMissingImports]
    from mbrl.planning import create_trajectory_optim_agent_for_model  # pyright: ignore[reportMissingImports]

    class Spaces:
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (s["n"],), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (s["m"],), np.float32)

    network = mbrl.models.GaussianMLP(
        s["n"] + s["m"],
        s["n"],
        "cpu",
        num_layers=s["depth"],
        ensemble_size=s["members"],
        hid_size=s["width"],
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = mbrl.models.OneDTransitionRewardModel(
        network, normalize=True, normalize_double_precision=True, learned_rewards=False
    )
    random = np.random.default_rng(0)
    batch = random.normal(size=(100, s["n"] + s["m"]))
    assert model.input_normalizer is not None
    model.input_normalizer.update_stats(batch)
    env = mbrl.models.ModelEnv(
        Spaces(),
        model,
        termination_fns.cartpole,
        reward_fns.cartpole,
        torch.Generator().manual_seed(0),
    )
    optimizer = {
        "_target_": "mbrl.planning.CEMOptimizer",
        "num_iterations": s["iterations"],
        "elite_ratio": s["elites"] / s["samples"],
        "population_size": s["samples"],
        "alpha": 0.1,
        "device": "cpu",
        "lower_bound": [],  # the agent fills these in
        "upper_bound": [],
        "return_mean_elites": False,
        "clipped_normal": False,
    }
    agent = {
        "_target_": "mbrl.planning.TrajectoryOptimizerAgent",
        "_recursive_": False,  # the agent makes its optimizer itself
        "action_lb": [-1.0] * s["m"],
        "action_ub": [1.0] * s["m"],
        "planning_horizon": s["horizon"],
        "optimizer_cfg": optimizer,
        "replan_freq": 1,
        "verbose": False,
    }
    made = create_trajectory_optim_agent_for_model(env, omegaconf.OmegaConf.create(agent), s["particles"])
    return lambda: made.act(np.zeros(s["n"], np.float32))


def main() -> int:
    """Answer until standard input ends."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], np.ndarray]] = {"eager": Eager(settings).act}
    about: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if settings["mbrl"]:
        try:
            from importlib import metadata

            steps["mbrl"] = mbrl_agent(settings)
            about["mbrl"] = metadata.version("mbrl")
        except Exception as error:  # whatever it is, the figure without it says so
            about["mbrl_missing"] = f"{type(error).__name__}: {error}"
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        action = steps[line.strip()]()
        took = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        print(json.dumps(took | {"action": float(action[0])}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
