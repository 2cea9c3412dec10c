"""The fan: which episodes and steps it is drawn for, its bands, and what a fitted model really imagines."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from forethought import V15, Experiment, RandomShooting
from forethought.models.linear import LinearLearner
from forethought.reporting.episode_notes import EpisodeNote
from forethought.reporting.fan import imagine, named_limits
from forethought.reporting.fan_panel import PARTICLES, Fan, bands, choose_episodes, choose_starts, fan_panel, packed
from forethought.reporting.film import film
from forethought.reporting.records import read_records
from forethought.runs.experiment import open_run
from report_cases import data_of, invented_fan, write_run
from small import call


class Painted(gymnasium.Env):
    """A point that is pushed, with noise, and a picture of it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    broken = False

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2)
        return self.x.copy(), {}

    def step(self, action):
        push = float(np.asarray(action).item())
        self.x = np.array([self.x[0] + 0.1 * self.x[1], 0.9 * self.x[1] + 0.3 * push]) + 0.05 * self.np_random.normal(
            size=2
        )
        return self.x.copy(), -float(self.x @ self.x), False, False, {}

    def render(self):
        if Painted.broken:
            raise RuntimeError("no driver")
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[20, int(np.clip(30 + 10 * self.x[0], 0, 59))] = 255
        return picture


if "tests/Painted-v0" not in gymnasium.registry:
    gymnasium.register("tests/Painted-v0", entry_point=Painted, max_episode_steps=20)


def noted(number: int, score: float, rows: int = 10, complete: bool = True) -> EpisodeNote:
    none = np.zeros(1)
    return EpisodeNote(number, rows, complete, score, none, none, none, none, hot=False)


def test_the_newest_best_and_worst_episodes_are_among_those_that_are_shown():
    scores = np.random.default_rng(0).normal(size=500)
    scores[[17, 400]] = 50.0, -50.0
    found = choose_episodes([noted(i, s) for i, s in enumerate(scores)])
    assert len(found) == 8
    assert "newest" in found[499]
    assert found[17] == "episode 17 (best, return 50)"
    assert "worst" in found[400]
    assert choose_episodes([]) == {}
    assert choose_episodes([noted(0, math.nan, complete=False)]) == {
        0: "episode 0 (newest, return not finite, broken off)"
    }


def test_starts_are_spread_over_the_episode():
    assert choose_starts(1, 20).tolist() == [0]
    assert choose_starts(5, 20).tolist() == [0, 1, 2, 3]
    starts = choose_starts(1000, 20)
    assert (len(starts), starts[0], starts[-1]) == (20, 0, 998)


def test_bands_end_at_the_ranks_that_hold_their_share():
    """A further draw lies below the a-th smallest of P with probability a / (P + 1)."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, PARTICLES + 1))[None, None, :, None]
    assert bands(values)[0, 0, 0].tolist() == [1.0, 4.0, 10.0, 20.0, 30.0, 36.0, 39.0]
    for low, high, share in ((1, 39, 0.95), (4, 36, 0.8), (10, 30, 0.5)):
        assert (high - low) / (PARTICLES + 1) == share
    values[0, 0, 3] = np.inf
    assert np.isnan(bands(values)).all()


def test_of_many_components_the_worst_are_drawn_in_a_bounded_size():
    random = np.random.default_rng(0)
    fans = []
    for number in range(8):
        real = random.normal(size=(1001, 50))
        starts = choose_starts(1000, 20)
        at = np.minimum(starts[:, None] + 1 + np.arange(30), 1000)
        imagined = real[at][:, :, None] + 0.01 * random.normal(size=(20, 30, PARTICLES, 50))
        imagined[..., [3, 44]] += 2.0
        fans.append(Fan(number, f"episode {number}", real, starts, imagined))
    found = packed(fans, [f"x{i}" for i in range(50)])
    assert len(found["components"]) == 8
    assert {"x3", "x44"} <= set(found["components"])
    assert len(json.dumps(found)) < 1_500_000
    assert all(len(e["starts"]) >= 2 for e in found["episodes"])
    assert "Of 50 state components the 8 components" in " ".join(fan_panel(found, 50, 8)["missing"])
    # What is left out between is there around each start.
    episode, c = found["episodes"][5], found["components"].index("x44")
    start = episode["starts"][1]
    np.testing.assert_allclose(episode["near"][1][c], fans[5].real[start - 15 : start + 31, 44], rtol=1e-3, atol=1e-9)


def one_fan(real: np.ndarray, imagined: np.ndarray) -> Fan:
    """From the first step of an episode [T+1 n], of which one rollout [H n] is imagined again and again."""
    return Fan(0, "episode 0", real, np.array([0]), np.repeat(imagined[None, :, None], PARTICLES, axis=2))


def test_a_component_that_lies_far_from_zero_keeps_its_digits():
    real = np.stack([300.0 + 1e-3 * np.arange(31), 1e-3 * np.arange(31)], axis=1)
    (episode,) = packed([one_fan(real, real[1:] + 5e-4)], ["x0", "x1"])["episodes"]
    for c in (0, 1):
        np.testing.assert_allclose(episode["real"][c], real[:, c], rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.array(episode["bands"][0][c])[:, 3], real[1:, c] + 5e-4, rtol=0, atol=1e-5)
    assert max(len(str(v)) for v in episode["real"][0]) <= 9  # and no more of them than it needs


def test_what_is_not_finite_is_worse_than_anything_and_no_end_of_the_episode():
    real = np.random.default_rng(0).normal(size=(21, 10))
    imagined = np.concatenate([real[1:] + 0.5, np.full((10, 10), np.nan)])  # beyond the end
    imagined[:, 9] = [*real[1:5, 9], *[np.inf] * 26]
    found = packed([one_fan(real, imagined)], [f"x{i}" for i in range(10)])
    assert "x9" in found["components"]
    assert "From 1 of 1 start a rollout is not finite; the fan ends there." in fan_panel(found, 10, 1)["missing"]
    imagined[:20, 9] = real[1:, 9]
    whole = packed([one_fan(real, imagined)], [f"x{i}" for i in range(10)])
    assert "x9" not in whole["components"]
    assert not [m for m in fan_panel(whole, 10, 1)["missing"] if "not finite" in m]


def test_an_episode_with_a_state_that_is_not_finite_hides_no_component():
    real = np.random.default_rng(0).normal(size=(21, 10))
    imagined = real[1:].copy()
    imagined[:, 9] += 3.0
    real[-1, 9] = np.nan
    assert "x9" in packed([one_fan(real, imagined)], [f"x{i}" for i in range(10)])["components"]


def test_which_episodes_and_steps_are_not_drawn_is_said(tmp_path):
    run = read_records(write_run(tmp_path / "run", episodes=12, rows=40))
    said = " ".join(fan_panel(invented_fan(run), 3, 12)["missing"])
    assert "Of 12 episodes 8 are drawn" in said
    assert "Of their 312 steps 160 can be chosen" in said
    few = read_records(write_run(tmp_path / "few", episodes=2, rows=10))
    assert fan_panel(invented_fan(few), 3, 2)["missing"] == []


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A run whose model is of the right kind, and whose data are many."""
    algorithm = V15(RandomShooting(samples=8), LinearLearner(), base_steps=60, refit_every=20, horizon=5)
    out = tmp_path_factory.mktemp("fan") / "run"
    Experiment("tests/Painted-v0", algorithm, steps=120, out=out, evaluate_every=120).run()
    return open_run(out)


def test_the_fan_is_what_the_model_imagines(opened):
    """Of a linear system with noise 0.05, whose model is linear: errors and bands are known."""
    records = read_records(opened.directory.path)
    found = imagine(opened, records)
    assert not found.missing
    assert found.components == 2
    assert found.seen is not None
    assert found.fan is not None
    assert found.fan["horizon"] == 5
    assert len(found.fan["episodes"]) == 6
    scale = np.asarray(opened.state.data.x)[:120].std(axis=0)
    noise = float(np.sqrt(np.mean((0.05 / scale) ** 2)))
    assert found.seen["error"][0] == pytest.approx(noise, rel=0.25)
    assert found.seen["noise_floor"] == pytest.approx(noise, rel=0.25)
    assert found.seen["persistence"][4] > 3 * found.seen["error"][4]
    inside, widths = [], []
    for episode in found.fan["episodes"]:
        real = np.array(episode["real"])
        for start, band in zip(episode["starts"], episode["bands"], strict=True):
            first = np.array(band, float)[:, 0]  # one step ahead: [component, 7]
            after = real[:, start + 1]
            inside.append((first[:, 0] <= after) & (after <= first[:, 6]))
            widths.append(first[:, 6] - first[:, 0])
    assert 0.85 <= np.mean(inside) <= 1.0
    # From the smallest to the largest of 39 Gaussian values is 4.3 standard deviations on average.
    assert np.mean(widths) == pytest.approx(4.3 * 0.05, rel=0.25)


def test_beyond_the_end_of_an_episode_nothing_is_drawn(opened):
    fan = imagine(opened, read_records(opened.directory.path)).fan
    assert fan is not None
    episode = fan["episodes"][0]
    last = episode["bands"][episode["starts"].index(18)][0]
    assert [step[0] is None for step in last] == [False, False, True, True, True]


def test_the_task_names_its_limits(opened):
    limits = named_limits(opened)
    assert limits is not None
    assert limits.named
    assert (limits.low, limits.high) == (-1.0, 1.0)


def test_the_best_the_median_and_the_worst_start_are_acted_out_again(opened):
    records = read_records(opened.directory.path)
    found = film(opened, records)
    assert not found.missing
    newest = records.evaluations[-1]
    order = np.argsort(newest["returns"])
    expected = [newest["starts"][i] for i in (order[-1], order[len(order) // 2 - 1], order[0])]
    assert [f"start {s}," in p.label for s, p in zip(expected, found.pictures, strict=True)] == [True] * 3
    assert not [p.label for p in found.pictures if "the evaluation had" in p.label]  # the same returns again
    for picture in found.pictures:
        assert len(picture.data) < 10**6
        image = Image.open(io.BytesIO(picture.data))
        assert (image.format, image.size) == ("WEBP", (60, 40))
        assert image.n_frames >= 2  # pictures that are the same are one


def test_what_cannot_be_rendered_is_a_sentence(opened, monkeypatch):
    monkeypatch.setattr(Painted, "broken", True)
    found = film(opened, read_records(opened.directory.path))
    assert not found.pictures
    assert "cannot be rendered here (UserError" in found.missing[0] or "no driver" in found.missing[0]
    nothing = dataclasses.replace(read_records(opened.directory.path), evaluations=[])
    assert "There is no evaluation" in film(opened, nothing).missing[0]


def test_the_report_of_a_real_run_has_all_of_it(opened, capsys, tmp_path):
    run = Path(shutil.copytree(opened.directory.path, tmp_path / "run"))
    answer = call(capsys, "report", run, "--json", "--video")
    assert answer.status == 0, answer.err
    found = data_of(run / "report.html")["runs"][0]
    panels = {p["id"]: p for p in found["panels"]}
    assert panels["fan"]["fan"]["components"] == ["x0", "x1"]
    assert not panels["fan"]["missing"]
    assert [f["id"] for f in panels["error"]["figures"]] == ["error-ahead", "error-training"]
    assert len(panels["film"]["videos"]) == 3
    assert panels["planner"]["figures"][-1]["label"] == "Share of actions at a limit, per episode"
    assert not any("has not come to its end" in s for s in found["sentences"])
    assert call(capsys, "check", run).status == 0  # a report is no damage
