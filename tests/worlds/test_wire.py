"""Messages arrive as they left, and what is no message is refused before memory is taken for it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces

from forethought.errors import UserError
from forethought.worlds.wire import (
    HEADER,
    MOST_NUMBERS,
    MOST_WORDS,
    GarbledError,
    Kind,
    pack,
    pack_array,
    pack_space,
    plain,
    receive,
    unpack_array,
    unpack_space,
)


def message(kind: int, words: bytes = b"", numbers: bytes = b"", more: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(words), len(numbers)) + words + numbers + more


@pytest.mark.parametrize("piece", [1, 7, 2**16])
def test_messages_come_as_they_went_in_pieces_of_any_size(piece: int) -> None:
    words = {"a": (1, [2.5, ()], {"b": None}), "ä": "\n"}
    data = pack(Kind.FAULT, plain(words, "words"), b"numbers")
    pieces = iter([data[i : i + piece] for i in range(0, len(data), piece)])
    got = receive(lambda: next(pieces))
    assert (got.kind, got.words, bytes(got.numbers)) == (Kind.FAULT, words, b"numbers")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (HEADER.pack(Kind.MOVED, 2**32 - 1, 2**32 - 1), "message with 4294967295 bytes of words"),
        (HEADER.pack(Kind.MOVED, MOST_WORDS + 1, 0), "allowed are 4 and 64 MiB"),
        (HEADER.pack(Kind.MOVED, 0, MOST_NUMBERS + 1), "allowed are 4 and 64 MiB"),
        (message(0), "message of the unknown kind 0"),
        (message(77), "message of the unknown kind 77"),
        (message(Kind.MOVED, numbers=b"12", more=b"3"), "1 bytes after a message"),
        (message(Kind.MOVED, b"[" * 1_000_000), "words that are no JSON (RecursionError)"),
        (message(Kind.MOVED, b"1" * 10_000), "words that are no JSON (ValueError)"),
        (message(Kind.MOVED, b'{"said": '), "words that are no JSON (JSONDecodeError)"),
        (message(Kind.MOVED, b"\xff\xfe\xfd"), "words that are no JSON (UnicodeDecodeError)"),
        (message(Kind.MOVED, b'{"()": 5}'), "words that are no JSON (TypeError)"),
    ],
    ids=range(11),
)
def test_what_is_no_message_is_refused(data: bytes, says: str) -> None:
    pieces = iter([data])
    tracemalloc.start()
    with pytest.raises(GarbledError) as caught:
        receive(lambda: next(pieces))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in str(caught.value)
    assert taken < 10 * len(data) + 100_000


@pytest.mark.parametrize(("words", "numbers"), [("x" * MOST_WORDS, b""), (None, bytes(MOST_NUMBERS + 1))])
def test_what_would_be_refused_is_not_sent(words: str | None, numbers: bytes) -> None:
    with pytest.raises(GarbledError, match="allowed are 4 and 64 MiB"):
        pack(Kind.MOVED, words, numbers)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_arrays_come_as_they_went(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for sent in (array, array.T.copy().T, array[::-1]):
        got = unpack_array(memoryview(pack_array(sent)), (2, 3))
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
        got[0, 0] = 1  # it is the receiver's own


def test_other_dtypes_become_float64() -> None:
    for sent in (np.array([1.5, 2.0], ">f4"), np.array([1.5, 2.0], np.longdouble), [1.5, 2.0]):
        got = unpack_array(memoryview(pack_array(sent)), (2,))
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, [1.5, 2.0])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Discrete(4, start=-2),
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(np.float32([[0.0, -1.5]]), np.float32([[np.inf, 3.25]]), dtype=np.float32),
        spaces.Box(0, 255, (2, 3), np.uint8),
        spaces.Box(-1.0, 1.0, (), np.float32),
    ],
    ids=str,
)
def test_spaces_come_as_they_went(space: spaces.Space) -> None:
    words, numbers = pack_space(space)
    got, rest = unpack_space(words, memoryview(numbers + b"rest"))
    assert got == space
    assert bytes(rest) == b"rest"


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Text(4)], ids=str)
def test_other_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(UserError, match=r"A worker process cannot serve .*; allowed are Box and Discrete"):
        pack_space(space)
