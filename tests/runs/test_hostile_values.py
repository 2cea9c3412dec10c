"""Values and names that a stranger chose: in recipes, manifests, sums, and logged data."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as save_safetensors

from forethought import UserError
from forethought.runs.checkpoint import numbered, read
from forethought.runs.directory import existing
from forethought.runs.episodes import SUMS, parse_episode, read_sums
from forethought.runs.experiment import Named, read_experiment
from forethought.runs.files import Damaged
from forethought.runs.logged import read_logged
from forethought.runs.progress import from_notes
from forethought.runs.verify import problems
from forethought.tasks import task as make_task
from hostile import BOMB, Bomb, look, sealed
from small import recipe

Sentence = (UserError, Damaged)


@pytest.fixture(autouse=True)
def nothing_went_off():
    yield
    assert not Path(BOMB).exists()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished run of two episodes."""
    return recipe(out=tmp_path_factory.mktemp("runs") / "run", steps=20).run().run


# -- names and values in configurations ----------------------------------------------------------------------------


def config_of(run: Path) -> dict[str, Any]:
    return existing(run).read_config()[1]


STRANGE = ["../../etc/passwd", "/etc/passwd", "os.system", "__import__", "own", "Path", "ICEM\n", "ICEM.__class__", ""]


@pytest.mark.parametrize("kind", STRANGE)
def test_only_names_of_the_table_are_classes(original, kind):
    config = config_of(original)
    config["algorithm"]["planner"] = {"kind": kind, "class": "os.system"}
    with pytest.raises(UserError, match=r"config\.json\.algorithm\.planner (names the class|is of a class)"):
        read_experiment(original, config, Named())


@pytest.mark.parametrize("task", ["os:system", "evil:Env-v0", "a.b:c", ":x", "/tmp/x:y", "mod:Pendulum-v1"])
def test_a_module_in_a_file_is_not_imported(original, task):
    with pytest.raises(UserError, match="name it again, with --task"):
        read_experiment(original, config_of(original) | {"task": task}, Named())


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "../x.xml", "x.xml", "a/b", ["x"], {"kind": "dict", "items": {"a": 1}}]
)
def test_a_file_in_a_recipe_is_not_opened(original, value):
    env = {"kind": "dict", "items": {"xml_file": value}}
    with pytest.raises(UserError, match=r"name it again, with --env\.xml_file"):
        read_experiment(original, config_of(original) | {"env": env}, Named())


@pytest.mark.parametrize("name", ["data", "base"])
def test_paths_of_a_recipe_are_not_opened(run, tmp_path, name):
    """They were needed when the run began; what came of them is in the checkpoint."""
    os.mkfifo(tmp_path / "pipe.csv")  # who opens it hangs
    config = config_of(run) | {name: str(tmp_path / "pipe.csv")}
    found = read_experiment(run, config, Named())
    assert (found.data, found.base) == (None, "random")


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**18,
    -(2**63),
    1.5,
    1e308,
    "",
    "x",
    "../../x",
    [],
    [1, [2]],
    {},
    {"kind": "own"},
]
VALUES += [{"kind": "dict", "items": {}}, {"kind": "array", "dtype": "float64", "values": [[1.0], [2.0, 3.0]]}]
VALUES += [{"kind": "array", "dtype": "int32", "values": "x"}, {"kind": "array", "dtype": "bool", "values": [1, 0]}]
VALUES += [{"kind": "ICEM", "samples": []}, {"kind": ["ICEM"]}, {"kind": "array", "dtype": ["float64"]}]
VALUES += [{"kind": "Box", "low": "a", "high": None}, {"kind": "dict", "items": 3}, {"kind": "Choices", "values": 1}]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value in JSON."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value there."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def outcomes(value: Any, attempt: Callable[[Any], Any], every: int = 1) -> dict[str, int]:
    """How many other values at every place of `value` are refused in a sentence, and how many go through."""
    found = {"refused": 0, "accepted": 0}
    for i, path in enumerate(places(value)):
        for new in VALUES[i % every :: every]:
            try:
                attempt(put(value, path, new))
                found["accepted"] += 1
            except Sentence as error:
                found["refused"] += bool(str(error))
    return found


@pytest.mark.parametrize(("every", "least"), [(8, 75), pytest.param(1, 600, marks=pytest.mark.slow)])
def test_any_value_anywhere_in_a_recipe(original, every, least):
    def attempt(config):
        read_experiment(original, config, Named()).make_task()

    found = outcomes(config_of(original), attempt, every)
    assert found["refused"] > least, found


@pytest.mark.parametrize(("every", "least"), [(16, 20), pytest.param(1, 300, marks=pytest.mark.slow)])
def test_any_value_anywhere_in_a_manifest(run, every, least):
    *others, folder = numbered(run / "checkpoints")
    for other in others:  # which would only be read again each time
        shutil.rmtree(other)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["arrays"] = {}  # nothing reads it: the arrays say it themselves

    def attempt(value):
        sealed(folder / "manifest.json", value)
        from_notes(read(folder).about.notes, "here")
        assert len(list(problems(existing(run)))) < 99

    found = outcomes(manifest, attempt, every)
    assert found["refused"] > least, found


def test_any_value_anywhere_in_config_json(run):
    config = json.loads((run / "config.json").read_bytes()) | {"experiment": {}}

    def attempt(value):
        sealed(run / "config.json", value)
        existing(run).read_config()

    assert outcomes(config, attempt)["refused"] > 40


def test_any_array_of_another_shape_in_a_checkpoint(run):
    """With the right sums."""
    folder = numbered(run / "checkpoints")[-1]
    arrays = load_file(folder / "arrays.safetensors")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in [*list(arrays)[::14], "data.x", "data.count", "data.episode", "episodes", "steps", "key"]:
        for new in (np.zeros((2, 3, 5)), np.array(2**62), np.array(-1), np.zeros(0, np.complex64), np.array([True])):
            data = save_safetensors(arrays | {name: new})
            (folder / "arrays.safetensors").write_bytes(data)
            listed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            sealed(folder / "manifest.json", manifest | {"files": {"arrays.safetensors": listed}})
            look(run)  # nothing but sentences


def test_an_array_where_a_word_is_expected(original):
    """Comparing it with a word gives no yes or no."""
    array = {"kind": "array", "dtype": "bool", "values": [1, 0]}
    config = put(config_of(original), ("algorithm", "planner", "imagination", "propagation"), array)
    with pytest.raises(UserError, match=r"propagation|Imagination"):
        read_experiment(original, config, Named())


# -- episodes and their sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["x", "0" * 64, f"{'0' * 64}  ../000000.safetensors", f"{'0' * 64}  /etc/passwd", f"{'g' * 64}  000000.safetensors"]
    + [f"{'0' * 64}  {number}.safetensors" for number in ("0" * 5, "9" * 10, "٣" * 6, "-00001", "1e9999")]
    + [f"{'0' * 64} 000000.safetensors", f"{'0' * 64}  000000.safetensors\r", ""],
)
def test_a_line_of_sums_that_is_none(tmp_path, line):
    (tmp_path / SUMS).write_text(line + "\n")
    with pytest.raises(Damaged, match="line 1, is not as it was written"):
        read_sums(tmp_path)


COLUMNS = {
    "a column that is missing": ("y", None),
    "a flag that is a number": ("terminated", np.zeros(3)),
    "a state that is no vector": ("x", np.zeros(3)),
    "a next state that is wider": ("y", np.zeros((3, 3))),
    "a column that is longer": ("reward", np.zeros(4)),
    "floats of 32 bits": ("u", np.zeros((3, 1), np.float32)),
    "a time that is no number of 64 bits": ("t", np.zeros(3, np.int32)),
    "a number for all": ("condition", np.zeros((), np.int64)),
}


@pytest.mark.parametrize("how", COLUMNS)
def test_columns_that_are_no_episode(how):
    name, value = COLUMNS[how]
    z, flags, count = np.zeros(3), np.zeros(3, bool), np.zeros(3, np.int64)
    right = {"x": np.zeros((3, 2)), "u": np.zeros((3, 1)), "y": np.zeros((3, 2)), "reward": z, "log_prob": z}
    right |= {"terminated": flags, "truncated": flags, "t": count, "condition": count}
    words = {"format": "forethought episode 1", "about": "{}"}
    assert parse_episode(save_safetensors(right, metadata=words), "f")[0].length == 3
    wrong = {k: v for k, v in (right | {name: value}).items() if v is not None}
    with pytest.raises(Damaged, match=name):
        parse_episode(save_safetensors(wrong, metadata=words), "f")


def test_a_number_twice_in_the_sums(tmp_path):
    (tmp_path / SUMS).write_text(f"{'0' * 64}  000000.safetensors\n" * 2)
    with pytest.raises(Damaged, match="line 2"):
        read_sums(tmp_path)


# -- logged data ---------------------------------------------------------------------------------------------------


def npy(header: str, body: bytes, version: int = 1) -> bytes:
    """An array file with any header."""
    words = header.encode()
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H", len(words)) + words + body


def archive(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


SHAPE = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
ARRAYS = {
    "a shape of terabytes": npy(SHAPE % "(1000000000000,)", bytes(80)),
    "a shape that overflows": npy(SHAPE % "(9223372036854775807, 16)", bytes(80)),
    "a negative shape": npy(SHAPE % "(-10,)", bytes(80)),
    "a shape of numbers that are none": npy(SHAPE % "(1.5,)", bytes(80)),
    "too few numbers": npy(SHAPE % "(11,)", bytes(80)),
    "too many numbers": npy(SHAPE % "(9,)", bytes(80)),
    "an object": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Bomb())),
    "a header that is code": npy("__import__('os').mkdir('/tmp/forethought-test-bomb')", bytes(80)),
    "a deep header": npy("(" * 5000, bytes(80)),
    "a long header": npy(SHAPE % "(10,)" + " " * 60_000, bytes(80)),
    "an unknown format": npy(SHAPE % "(10,)", bytes(80), version=9),
    "no header": b"\x93NUMPY",
    "nothing": b"",
    "a string": npy("{'descr': '<U20', 'fortran_order': False, 'shape': (1,), }", bytes(80)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_lies(tmp_path, kind):
    path = archive(tmp_path / "d.npz", {"x.npy": ARRAYS[kind], "u.npy": npy(SHAPE % "(10,)", bytes(80))})
    with pytest.raises(UserError, match=r"cannot be read as an NPZ|must hold real numbers"):
        read_logged(path, make_task("pendulum"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_bomb_is_not_unpacked(tmp_path, kind):
    """Two gigabytes of zeros in a few megabytes."""
    path = tmp_path / "d.npz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with zipfile.ZipFile(path, "w", kind) as file:
        for name in "xuy":
            file.writestr(f"{name}.npy", npy(SHAPE % "(1250000,)", bytes(10**7)))
    data = bytearray(path.read_bytes())
    # The list at the end says how much there is.
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    with pytest.raises(UserError, match="more than 1073741824 bytes, unpacked"):
        read_logged(path, make_task("pendulum"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


def test_a_zip_that_is_larger_than_it_says(tmp_path):
    path = archive(tmp_path / "d.npz", {"x.npy": npy(SHAPE % "(10,)", bytes(80)), "u.npy": bytes(10**6)})
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 90)
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as an NPZ"):
        read_logged(path, make_task("pendulum"))


def test_a_locked_zip_is_a_sentence(tmp_path):
    path = archive(tmp_path / "d.npz", {"x.npy": npy(SHAPE % "(10,)", bytes(80))})
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        read_logged(path, make_task("pendulum"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name(tmp_path):
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as file:
        for _ in range(2):
            file.writestr("x.npy", npy(SHAPE % "(10,)", bytes(80)))
    with pytest.raises(UserError, match="two arrays of the same name"):
        read_logged(path, make_task("pendulum"))


@pytest.mark.parametrize("name", ["../../x.npy", "/etc/x.npy", "..\\x.npy", "x/y.npy"])
def test_a_member_with_a_path_is_only_a_name(tmp_path, name):
    path = archive(tmp_path / "d.npz", {name: npy(SHAPE % "(10,)", bytes(80))})
    with pytest.raises(UserError, match="has a column"):
        read_logged(path, make_task("pendulum"))


TABLES = {
    "x0,x1,x2,u0,u0\n1,2,3,4,5\n": "two columns 'u0'",
    "x0,x1,x2,u0\n1_0,2,3,4\n": "'1_0' is no number",
    "x0,x1,x2,u0\n1,2,3,inf\n2,2,3,4\n": "u is not finite in row 0",
    "x0,x1,x2,u0\n1,2,3,1e999\n2,2,3,4\n": "u is not finite",
    "x0,x1,x2,u0\n1,2,3\x00,4\n": "cannot be read as CSV|is no number",
    "x0,x1,x2,u0\n=cmd|' /C calc'!A0,2,3,4\n": "is no number",
    "x0,x1,x2,u0,terminated\n1,2,3,4,0.5\n1,2,3,4,0\n": "terminated is 0.5 in row 0",
    "x0,x1,x2,u0,t\n1,2,3,4,1e300\n1,2,3,4,0\n": "something else than whole numbers",
    "x0,x1,x2,u0,t\n1,2,3,4,0.5\n1,2,3,4,0\n": "something else than whole numbers",
    '"x0,x1,x2,u0\n1,2,3,4\n': "holds no rows",
    "x0,x1,x2,u0\n" + "9" * 200_000 + ",2,3,4\n": "cannot be read as CSV",
    "x0,x1,x99999999999999999999,u0\n1,2,3,4\n": "no column x2",
}


@pytest.mark.parametrize("text", TABLES, ids=lambda t: repr(t)[:30])
def test_odd_tables(tmp_path, text):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(UserError, match=TABLES[text]):
        read_logged(tmp_path / "d.csv", make_task("pendulum"))


@pytest.mark.parametrize("ending", ["csv", "npz", "safetensors"])
def test_a_pipe_is_no_data(tmp_path, ending):
    os.mkfifo(tmp_path / f"d.{ending}")
    with pytest.raises(UserError, match="there is no such file"):
        read_logged(tmp_path / f"d.{ending}", make_task("pendulum"))


@pytest.mark.parametrize("ending", ["csv", "npz", "safetensors"])
def test_data_of_terabytes_are_not_read(tmp_path, ending):
    with (tmp_path / f"d.{ending}").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(UserError, match="cannot be read"):
        read_logged(tmp_path / f"d.{ending}", make_task("pendulum"))
