from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.random as jr
import numpy as np
import pytest

from fakes import as_trajectory
from forethought import EnsembleLearner, UserError
from forethought.math.dataset import append
from forethought.runs import checkpoint
from forethought.runs.checkpoint import Damaged, load, load_newest, numbered, save
from small import recipe


@pytest.fixture(scope="module")
def template():
    experiment = recipe()
    return experiment.algorithm.init(experiment.make_task(), jr.key(0))


@pytest.fixture
def state(template):
    """A state in which nothing is as in the template."""
    random = np.random.default_rng(0)
    fresh = recipe().algorithm.init(recipe().make_task(), jr.key(5))
    rows = as_trajectory(random.normal(size=(700, 3)), random.normal(size=(700, 1)), random.normal(size=(700, 3)))
    data = append(fresh.data, rows, 4)
    return dataclasses.replace(fresh, data=data, steps=fresh.steps + 700, episodes=fresh.episodes + 5)


def same(a, b) -> bool:
    """Bit for bit, with the same types of leaves."""

    def equal(u, v):
        if isinstance(u, jax.Array) and jax.numpy.issubdtype(u.dtype, jax.dtypes.prng_key):
            u, v = jr.key_data(u), jr.key_data(v)
        one, two = np.asarray(u), np.asarray(v)
        return type(u) is type(v) and one.dtype == two.dtype and np.array_equal(one, two)

    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(equal, a, b))


def test_a_state_comes_back_bit_for_bit(tmp_path, state, template):
    assert not same(state, template)
    path = save(tmp_path, state, {"returns": [1.5, -2.0]})
    again, notes = load(path, template)
    assert same(again, state)
    assert notes == {"returns": [1.5, -2.0]}
    assert again.data.capacity == 1024 > template.data.capacity


def test_the_newest_three_are_kept_and_nothing_else(tmp_path, state):
    for _ in range(5):
        save(tmp_path, state, {})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["000003", "000004", "000005"]


def spoil(path, how):
    """Damage one file."""
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    path.unlink()
    if how != "delete":
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "delete"])
@pytest.mark.parametrize("name", ["arrays.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, state, template, name, how):
    save(tmp_path, template, {"which": "old"})
    newest = save(tmp_path, state, {"which": "new"})
    spoil(newest / name, how)
    said = []
    again, notes = load_newest(tmp_path, template, said.append)
    assert notes == {"which": "old"}
    assert same(again, template)
    assert len(said) == 1
    assert str(newest) in said[0]
    assert name in said[0]


def test_no_valid_checkpoint_is_a_sentence(tmp_path, state, template):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_newest(tmp_path, template, print)
    spoil(save(tmp_path, state, {}) / "arrays.safetensors", "flip")
    with pytest.raises(UserError, match="none of the 1 checkpoints is valid"):
        load_newest(tmp_path, template, print)


def test_every_single_byte_of_the_manifest_counts(tmp_path, template):
    """Whatever is changed in it, but for spaces, is seen."""
    path = save(tmp_path, template, {"returns": [1.0]})
    original = (path / "manifest.json").read_bytes()
    for i in range(0, len(original), 97):
        if not chr(original[i]).isspace():
            (path / "manifest.json").write_bytes(original[:i] + bytes([original[i] ^ 1]) + original[i + 1 :])
            with pytest.raises(Damaged):
                load(path, template)


def test_swapped_arrays_are_seen(tmp_path, state, template):
    first, second = save(tmp_path, template, {}), save(tmp_path, state, {})
    shutil.copy(first / "arrays.safetensors", second / "arrays.safetensors")
    with pytest.raises(Damaged, match="SHA-256"):
        load(second, template)


def test_other_settings_do_not_fit(tmp_path, state):
    path = save(tmp_path, state, {})
    algorithm = dataclasses.replace(recipe().algorithm, learner=EnsembleLearner(members=2, width=9))
    with pytest.raises(Damaged, match=r"layers.*must be float32\[2, .*9\]"):
        load(path, algorithm.init(recipe().make_task(), jr.key(0)))
    deeper = dataclasses.replace(algorithm, learner=EnsembleLearner(members=2, width=8, depth=3))
    with pytest.raises(Damaged, match="misses"):
        load(path, deeper.init(recipe().make_task(), jr.key(0)))


def test_a_newer_format_is_refused_and_not_skipped(tmp_path, template):
    path = save(tmp_path, template, {})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["format"] += 1
    manifest["sha256"] = checkpoint._own_hash(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has the format 2, and this version of forethought reads 1"):
        load_newest(tmp_path, template, print)


def test_an_unfinished_save_is_not_there(tmp_path, state, template, monkeypatch):
    save(tmp_path, template, {"which": "old"})

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, state, {"which": "new"})
    assert [p.name for p in numbered(tmp_path)] == ["000001"]
    assert load_newest(tmp_path, template, print)[1] == {"which": "old"}
    monkeypatch.undo()
    assert save(tmp_path, state, {}).name == "000002"
