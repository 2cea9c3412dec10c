from __future__ import annotations

import dataclasses
import hashlib
import shutil

import jax
import jax.random as jr
import numpy as np
import pytest

from fakes import as_trajectory
from forethought import EnsembleLearner, UserError
from forethought.math.dataset import append
from forethought.runs import checkpoint
from forethought.runs.checkpoint import About, best, newest, numbered, read, restore, save
from forethought.runs.files import Damaged, read_sealed, seal
from small import recipe

RUN = "0123456789abcdef"


def about(notes=None, **more) -> About:
    """What a checkpoint of this run says about itself."""
    return About(**{"run": RUN, "notes": notes or {}, "experiment": {"steps": 30}} | more)


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
    said = about({"returns": [1.5, -2.0]}, resumable=False, score=-0.25)
    stored = read(save(tmp_path, state, said), RUN)
    again = restore(stored, template)
    assert same(again, state)
    assert stored.about == said
    assert again.data.capacity == 1024 > template.data.capacity


def test_what_a_checkpoint_is_on_the_disk(tmp_path, state):
    path = save(tmp_path, state, about())
    assert {p.name for p in path.iterdir()} == {"arrays.safetensors", "manifest.json"}
    manifest = read_sealed(path / "manifest.json")
    assert manifest["format"] == checkpoint.FORMAT == 2
    assert manifest["counters"] == {"steps": 700, "episodes": 5, "fits": 0}
    data = (path / "arrays.safetensors").read_bytes()
    listed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["files"] == {"arrays.safetensors": listed}
    assert manifest["arrays"]["key"] == {"kind": "key:threefry2x32", "dtype": "uint32", "shape": [2]}
    assert manifest["arrays"]["data.x"] == {"kind": "array", "dtype": "float64", "shape": [1024, 3]}


def names(folder) -> list[str]:
    """What lies in the folder, hidden or not."""
    return [p.name for p in sorted(folder.iterdir())]


def test_the_newest_three_are_kept_and_nothing_else(tmp_path, state):
    for _ in range(5):
        save(tmp_path, state, about())
    assert names(tmp_path) == ["000003", "000004", "000005"]


def test_the_best_one_stays_too(tmp_path, state):
    for score in (None, -1.0, -5.0, -2.0, -3.0, -4.0):
        save(tmp_path, state, about(score=score))
    assert names(tmp_path) == ["000002", "000004", "000005", "000006"]
    assert best(tmp_path, RUN, print).about.score == -1.0
    save(tmp_path, state, about(score=0.5))
    assert names(tmp_path) == ["000005", "000006", "000007"], "a better one takes its place"


def test_the_newest_of_equals_is_the_best(tmp_path, state):
    first, second = (save(tmp_path, state, about(score=2.0)) for _ in range(2))
    assert best(tmp_path, RUN, print).path == second != first


def test_a_look_does_not_push_out_what_a_run_goes_on_from(tmp_path, state):
    """However often one looks, three are left to go on from; of the looks only the newest is."""
    for _ in range(3):
        save(tmp_path, state, about())
    for _ in range(4):
        save(tmp_path, state, about(resumable=False))
    assert names(tmp_path) == ["000001", "000002", "000003", "000007"]
    assert newest(tmp_path, RUN, print).path.name == "000007"
    assert newest(tmp_path, RUN, print, lambda found: found.resumable).path.name == "000003"


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
    save(tmp_path, template, about({"which": "old"}))
    last = save(tmp_path, state, about({"which": "new"}))
    spoil(last / name, how)
    said = []
    found = newest(tmp_path, RUN, said.append)
    assert found.about.notes == {"which": "old"}
    assert same(restore(found, template), template)
    assert len(said) == 1
    assert str(last) in said[0]
    assert name in said[0]


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "delete"])
@pytest.mark.parametrize("name", ["arrays.safetensors", "manifest.json"])
def test_a_damaged_best_one_gives_way_to_the_next_best(tmp_path, state, name, how):
    spoil(save(tmp_path, state, about(score=3.0)) / name, how)
    for score in (2.0, 1.0):
        save(tmp_path, state, about(score=score))
    assert best(tmp_path, RUN, lambda sentence: None).about.score == 2.0


def test_no_valid_checkpoint_is_a_sentence(tmp_path, state):
    with pytest.raises(UserError, match="there is no checkpoint"):
        newest(tmp_path, RUN, print)
    spoil(save(tmp_path, state, about()) / "arrays.safetensors", "flip")
    with pytest.raises(UserError, match="none of the 1 checkpoints is valid"):
        newest(tmp_path, RUN, print)
    with pytest.raises(UserError, match="none of the 1 checkpoints is valid"):
        best(tmp_path, RUN, print)


def test_every_single_byte_of_the_manifest_counts(tmp_path, template):
    """Whatever is changed in it, spaces too, is seen."""
    path = save(tmp_path, template, about({"returns": [1.0]}))
    original = (path / "manifest.json").read_bytes()
    for i in range(0, len(original), 31):
        (path / "manifest.json").write_bytes(original[:i] + bytes([original[i] ^ 1]) + original[i + 1 :])
        with pytest.raises(Damaged):
            read(path, RUN)


def test_swapped_arrays_are_seen(tmp_path, state, template):
    first, second = save(tmp_path, template, about()), save(tmp_path, state, about())
    shutil.copy(first / "arrays.safetensors", second / "arrays.safetensors")
    with pytest.raises(Damaged, match=r"arrays\.safetensors"):
        read(second, RUN)


def test_another_runs_checkpoint_is_skipped(tmp_path, state):
    """A whole one, copied in from elsewhere."""
    save(tmp_path, state, about({"whose": "mine"}))
    theirs = save(tmp_path, state, about(run="f" * 16))
    with pytest.raises(Damaged, match=f"belongs to another run {chr(92)}({'f' * 16}, and this one is {RUN}"):
        read(theirs, RUN)
    said = []
    assert newest(tmp_path, RUN, said.append).about.notes == {"whose": "mine"}
    assert str(theirs) in said[0]
    assert newest(tmp_path, None, said.append).path == theirs, "without a name any run's will do"


def test_other_settings_do_not_fit(tmp_path, state):
    stored = read(save(tmp_path, state, about()))
    algorithm = dataclasses.replace(recipe().algorithm, learner=EnsembleLearner(members=2, width=9))
    with pytest.raises(UserError, match=r"does not fit this run's settings.*layers.*must be float32\[2, .*9\]"):
        restore(stored, algorithm.init(recipe().make_task(), jr.key(0)))
    deeper = dataclasses.replace(algorithm, learner=EnsembleLearner(members=2, width=8, depth=3))
    with pytest.raises(UserError, match="misses"):
        restore(stored, deeper.init(recipe().make_task(), jr.key(0)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a | {"code": np.zeros(1)}, "has the unknown code"),
        (lambda a: {k: v for k, v in a.items() if k != "data.u"}, "misses data.u"),
        (lambda a: a | {"steps": np.zeros((), np.int64)}, r"steps is int64\[\] and must be int32\[\]"),
        (lambda a: a | {"data.y": a["data.y"][:-1]}, r"data.y is float64\[1023, 3\] and must be float64\[1024, 3\]"),
        (lambda a: a | {"data.count": np.array(1025, a["data.count"].dtype)}, "data.count is 1025, and there are 1024"),
        (lambda a: a | {"data.count": np.array(-1, a["data.count"].dtype)}, "data.count is -1, and there are 1024"),
        (lambda a: a | {"key": np.zeros(3, np.uint32)}, r"key is uint32\[3\] and must be uint32\[2\]"),
    ],
)
def test_arrays_that_are_not_the_states_are_refused(tmp_path, state, template, change, sentence):
    """Sealed or not: what is in a file never decides what a state is made of."""
    stored = read(save(tmp_path, state, about()))
    with pytest.raises(UserError, match=sentence):
        restore(stored._replace(arrays=change(stored.arrays)), template)


def rewrite(path, **changes):
    """Change the manifest, and seal it again."""
    (path / "manifest.json").write_bytes(seal(read_sealed(path / "manifest.json") | changes))


def test_a_newer_format_is_refused_and_not_skipped(tmp_path, template):
    save(tmp_path, template, about())
    rewrite(save(tmp_path, template, about()), format=3)
    with pytest.raises(UserError, match="has the format 3, and this version of forethought reads 2"):
        newest(tmp_path, RUN, print)


@pytest.mark.parametrize(
    "changes",
    [{"notes": []}, {"run": 3}, {"experiment": None}, {"resumable": "yes"}, {"score": "best"}, {"files": []}],
    ids=str,
)
def test_a_manifest_of_another_kind_is_damaged(tmp_path, template, changes):
    path = save(tmp_path, template, about())
    rewrite(path, **changes)
    with pytest.raises(Damaged, match=r"is not as this version writes it|is not what was written"):
        read(path, RUN)


def test_an_unfinished_save_is_not_there(tmp_path, state, template, monkeypatch):
    save(tmp_path, template, about({"which": "old"}))

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, state, about({"which": "new"}))
    assert [p.name for p in numbered(tmp_path)] == ["000001"]
    assert newest(tmp_path, RUN, print).about.notes == {"which": "old"}
    monkeypatch.undo()
    assert save(tmp_path, state, about()).name == "000002"
    assert names(tmp_path) == ["000001", "000002"], "what was left of the save that failed is gone"


def test_links_are_no_checkpoints(tmp_path, state):
    inside = tmp_path / "checkpoints"
    save(inside, state, about())
    elsewhere = save(tmp_path / "elsewhere", state, about())
    (inside / "000009").symlink_to(elsewhere, target_is_directory=True)
    assert [p.name for p in numbered(inside)] == ["000001"]
    (tmp_path / "linked").symlink_to(inside, target_is_directory=True)
    assert numbered(tmp_path / "linked") == []
