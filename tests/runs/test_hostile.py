"""Files that a stranger made, to harm: every one ends in a sentence, at once, and without much memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought import UserError
from forethought.runs.checkpoint import numbered
from forethought.runs.episodes import parse_episode, read_episode
from forethought.runs.experiment import open_run
from forethought.runs.files import DEPTH, WORDS, Damaged, parse_json, read_bytes, seal, unseal
from forethought.runs.logged import read_logged
from forethought.runs.resume import resume
from forethought.tasks import task as make_task
from hostile import BOMB, Bomb, look, sealed
from small import recipe


@pytest.fixture(autouse=True)
def nothing_went_off():
    yield
    assert not Path(BOMB).exists()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished run of two episodes."""
    return recipe(out=tmp_path_factory.mktemp("runs") / "run", steps=20).run().run


# -- code in files -------------------------------------------------------------------------------------------------


def zipped(name: str = "x.npy") -> bytes:
    """A pickle in a zip, which is how other libraries keep checkpoints."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, pickle.dumps(Bomb()))
    return data.getvalue()


def objects() -> bytes:
    """An array of objects, which NumPy keeps as a pickle."""
    data = io.BytesIO()
    np.savez(data, x=np.array([Bomb()], object), u=np.zeros((1, 1)))
    return data.getvalue()


CODE = {"pickle": lambda: pickle.dumps(Bomb()), "zip": zipped, "data.pkl": lambda: zipped("a/data.pkl"), "npz": objects}


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("ending", ["npz", "safetensors", "csv"])
def test_code_in_logged_data_is_not_run(tmp_path, kind, ending):
    path = tmp_path / f"data.{ending}"
    path.write_bytes(CODE[kind]())
    with pytest.raises(UserError, match=r"cannot be read|holds no rows|row 2"):
        read_logged(path, make_task("pendulum"))


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("name", ["arrays.safetensors", "manifest.json"])
def test_code_in_a_checkpoint_is_not_run(run, kind, name):
    data = CODE[kind]()
    for folder in numbered(run / "checkpoints"):
        (folder / name).write_bytes(data)
        if name == "arrays.safetensors":
            manifest = json.loads((folder / "manifest.json").read_bytes())
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            sealed(folder / "manifest.json", manifest)
    with pytest.raises(UserError, match=r"none of the .* checkpoints is valid"):
        open_run(run)


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize(
    "name", ["config.json", "run.json", "episodes/000000.safetensors", "journal/000009.journal", "episodes/SHA256SUMS"]
)
def test_code_elsewhere_is_named(run, kind, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(CODE[kind]())
    assert any(Path(name).name in sentence for sentence in look(run))


# -- headers, sizes, depths ----------------------------------------------------------------------------------------


def peak() -> int:
    """Most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture
def memory():
    """Holds that what happens needs little of it."""
    before = peak()
    yield
    assert peak() - before < 300 * 2**20


@pytest.mark.parametrize("length", [2**63, 2**40, 10**9, WORDS + 1, 200])
def test_a_header_that_lies_about_its_length(tmp_path, memory, length):
    path = tmp_path / "000000.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    with pytest.raises(UserError, match="safetensors file"):
        read_episode(path)


def header(tensors: dict[str, Any]) -> bytes:
    words = json.dumps({"__metadata__": {"format": "forethought episode 1", "about": "{}"}, **tensors}).encode()
    return struct.pack("<Q", len(words)) + words


TENSORS = {
    "terabytes": {"x": {"dtype": "F64", "shape": [2**37], "data_offsets": [0, 2**40]}},
    "an overflow": {"x": {"dtype": "F64", "shape": [2**63, 2**3], "data_offsets": [0, 0]}},
    "an overlap": {n: {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]} for n in "xy"},
    "backwards": {"x": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]}},
    "negative": {"x": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}},
    "no dtype": {"x": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
    "a float8": {"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}},
    "a path": {"../../x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}},
    "no tensor": {"x": 1},
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_cannot_be(tmp_path, memory, kind):
    with pytest.raises(Damaged, match="000000"):
        parse_episode(header(TENSORS[kind]) + bytes(8), "000000.safetensors")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "episodes/SHA256SUMS", "episodes/000000.safetensors"])
def test_a_file_of_many_gigabytes_is_not_read(run, memory, name):
    with (run / name).open("r+b") as file:
        file.truncate(2**43)  # it takes no room on the disk
    assert any("bytes" in sentence and Path(name).name in sentence for sentence in look(run))


@pytest.mark.parametrize("name", ["manifest.json", "arrays.safetensors"])
def test_a_checkpoint_of_a_gigabyte_is_not_read(run, memory, name):
    """Less than what may be read: but it is not what its manifest says."""
    for folder in numbered(run / "checkpoints"):
        with (folder / name).open("r+b") as file:
            file.truncate(2**30)
    with pytest.raises(UserError, match="none of the"):
        open_run(run)


def test_a_recipe_that_asks_for_terabytes_is_refused(run, memory):
    config = json.loads((run / "config.json").read_bytes())
    config["experiment"]["algorithm"]["learner"] |= {"members": 1000, "width": 100_000, "depth": 5}
    sealed(run / "config.json", config)
    with pytest.raises(UserError, match="does not fit this run's settings: they need 4800"):
        open_run(run)


DEEP = [b"[" * 10**6, b'{"a":' * 10**6, b"[" * 10**6 + b"]" * 10**6, b'"\\"' + b"[" * 100 + b'"' + b"[" * (DEPTH + 1)]


@pytest.mark.parametrize("data", DEEP, ids=["open", "objects", "closed", "after a string"])
def test_json_a_million_deep(data):
    with pytest.raises(Damaged, match="too deep"):
        parse_json(data, "f")


@pytest.mark.parametrize("quotes", [b'"\\' * 10**6, b'"' * (10**6 + 1), b'"' + b"\\\\" * 10**6, b'"' + b"a" * 10**7])
def test_quotes_that_never_end_take_no_time(quotes):
    with pytest.raises(Damaged, match="is no JSON"):
        parse_json(quotes, "f")


def test_brackets_in_strings_do_not_count():
    assert parse_json(json.dumps({"a": "[" * 999 + '\\"{'}).encode(), "f") == {"a": "[" * 999 + '\\"{'}


ODD = [
    b"NaN",
    b'{"a": Infinity}',
    b"-Infinity",
    b"1e999",
    b"-1e400",
    b'{"a": 1, "a": 2}',
    b"9" * 5000,
    b"1" + b"0" * 19,
]
ODD += [
    b"",
    b"\xff",
    b'"\\ud800"',
    b"{'a': 1}",
    b"[1,]",
    b"01",
    b"// a",
    b"\xef\xbb\xbf{}",
    b'{"a": 9223372036854775808}',
]


@pytest.mark.parametrize("data", ODD, ids=lambda d: repr(d)[:24])
def test_odd_json_is_refused(data):
    with pytest.raises(Damaged, match="is no JSON"):
        parse_json(data, "f")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_damaged(data):
    for read_it in (parse_json, unseal):
        try:
            read_it(data, "f")
        except Damaged:
            continue


Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is no text.
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abc[]{}"\\', max_size=3), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), Json, max_size=4), st.data())
def test_what_is_sealed_comes_back_and_every_byte_counts(value, data):
    written = seal(value)
    assert json.dumps(unseal(written, "f"), sort_keys=True) == json.dumps(value, sort_keys=True)
    at, bit = data.draw(st.integers(0, len(written) - 1)), data.draw(st.integers(0, 7))
    spoiled = bytearray(written)
    spoiled[at] ^= 1 << bit
    with pytest.raises(Damaged):
        unseal(bytes(spoiled), "f")


@pytest.mark.parametrize(("old", "new"), [(b"00e9", b"00E9"), (b"e+22", b"E+22"), (b"\n", b" \n"), (b"}\n", b"}")])
def test_the_same_value_in_other_words_is_not_what_was_written(old, new):
    written = seal({"a": "\xe9", "b": 1e22})
    assert old in written
    with pytest.raises(Damaged, match="SHA-256 differs"):
        unseal(written.replace(old, new, 1), "f")


# -- links, pipes, devices -----------------------------------------------------------------------------------------

PLACES = ["config.json", "run.json", "metrics.jsonl", "checkpoints", "episodes"]
INSIDE = ["episodes/000000.safetensors", "episodes/SHA256SUMS", "checkpoints/000002"]
INSIDE += ["checkpoints/000002/arrays.safetensors", "checkpoints/000002/manifest.json", "metrics.crc"]


@pytest.mark.parametrize("name", [*PLACES, *INSIDE])
def test_links_are_not_followed(run, tmp_path, name):
    """Not even where what they lead to is what was written."""
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    said = look(run)
    assert any(Path(name).name in sentence and "link" in sentence for sentence in said), said


@pytest.mark.parametrize("name", [".config.json.part", ".run.json.part", "error.txt", "metrics.jsonl.damaged"])
def test_nothing_is_written_through_a_link(run, tmp_path, name):
    """Files that are only written, when a run goes on."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / name).symlink_to(victim)
    (run / "metrics.jsonl").write_text("damaged")
    resume(run, steps=30)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["000003.journal", ".000003.journal.part", "000002.journal", "000002.before"])
def test_no_journal_is_written_through_a_link(run, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / "journal").mkdir(exist_ok=True)
    (run / "journal" / name).symlink_to(victim)
    resume(run, steps=40)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", [*PLACES[:3], *INSIDE[:2], *INSIDE[3:]])
def test_pipes_do_not_block(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    assert any(Path(name).name in sentence for sentence in look(run))


@pytest.mark.parametrize("name", [*PLACES[:3], *INSIDE[:2], *INSIDE[3:]])
def test_folders_in_place_of_files(run, name):
    (run / name).unlink()
    (run / name).mkdir()
    assert any(Path(name).name in sentence for sentence in look(run))


@pytest.mark.parametrize("name", PLACES[3:])
def test_files_in_place_of_folders(run, name):
    shutil.rmtree(run / name)
    (run / name).write_text("a file")
    assert any(name in sentence for sentence in look(run))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_devices_are_no_files(device):
    with pytest.raises(Damaged, match=r"no plain file|cannot be read"):
        read_bytes(Path(device).resolve(), 100)
