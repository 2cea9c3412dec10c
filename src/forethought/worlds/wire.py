"""Messages between a run and its worker processes: words in JSON, numbers as raw bytes, a length before each.

Neither side trusts the other with its memory or its program: sizes are bounded before anything is allocated, and what
comes is data and never code.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from forethought.errors import UserError

HEADER = struct.Struct("<BII")
"""Kind, bytes of words, bytes of numbers."""

STEP = struct.Struct("<d??")
"""Reward, terminated, truncated; the observation follows."""

MOST_WORDS = 4 * 2**20
MOST_NUMBERS = 64 * 2**20
PIECE = 2**16
"""Bytes that are read at once."""

_REALS = ("<f4", "<f8", "<f2")
_WHOLE = ("|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8")
_DTYPES = tuple(np.dtype(code) for code in (*_REALS, *_WHOLE, "|b1"))
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_TUPLE = "()"
"""The key that marks a tuple, which JSON does not have."""


class Kind(IntEnum):
    """What a message is."""

    MAKE = 1  # to the worker: which environment
    RESET = 2
    ACT = 3
    CLOSE = 4
    SPACES = 5  # from the worker: the environment is made
    BEGAN = 6
    MOVED = 7
    FAULT = 8  # a transition that is none
    SORRY = 9  # a sentence for the user: the environment cannot be made


class GarbledError(Exception):
    """Bytes that are no message."""


class Message(NamedTuple):
    """One message."""

    kind: Kind
    words: Any
    numbers: memoryview


def pack(kind: Kind, words: Any = None, numbers: bytes = b"") -> bytes:
    """The bytes of a message.  Raises `GarbledError` if it is larger than the other side would take."""
    text = b"" if words is None else json.dumps(words, separators=(",", ":")).encode()
    _require_size(len(text), len(numbers))
    return HEADER.pack(kind, len(text), len(numbers)) + text + numbers


def receive(read: Callable[[], bytes]) -> Message:
    """The next message, of pieces as `read` gives them (it must not return nothing).

    Raises `GarbledError` for what is no message, before any memory is taken for it.  The two sides take turns, so
    that bytes after a message are such a case too.
    """
    data = bytearray()
    while len(data) < HEADER.size:
        data += read()
    kind, words, numbers = HEADER.unpack_from(data)
    if kind not in _KINDS:
        raise GarbledError(f"a message of the unknown kind {kind}")
    _require_size(words, numbers)
    start = HEADER.size + words
    while len(data) < start + numbers:
        data += read()
    if len(data) > start + numbers:
        raise GarbledError(f"{len(data) - start - numbers} bytes after a message")
    return Message(Kind(kind), _read_words(data[HEADER.size : start]), memoryview(data)[start:])


def pack_array(array: Any) -> bytes:
    """An array's dtype and numbers, without its shape.  Dtypes beyond the usual become float64."""
    array = np.asarray(array)
    code = _CODES.get(array.dtype)
    if code is None:
        array = array.astype(np.float64)
        code = _CODES[array.dtype]
    return bytes((code,)) + array.tobytes()


def unpack_array(numbers: memoryview, shape: tuple[int, ...]) -> np.ndarray:
    """A new array of what `pack_array` made.  Raises `GarbledError` if it has another size."""
    if len(numbers) < 1 or numbers[0] >= len(_DTYPES):
        raise GarbledError("an array of an unknown dtype")
    dtype = _DTYPES[numbers[0]]
    if len(numbers) - 1 != math.prod(shape) * dtype.itemsize:
        raise GarbledError(f"an array of {len(numbers) - 1} bytes, where the shape {shape} was to come in {dtype}")
    # A copy is aligned in memory, and can be written to.
    return np.frombuffer(numbers[1:], dtype).reshape(shape).copy()


def pack_space(space: spaces.Space) -> tuple[dict[str, Any], bytes]:
    """A Discrete or Box space in words and numbers.  Raises `UserError` for any other."""
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}, b""
    if not isinstance(space, spaces.Box) or space.dtype not in _CODES:
        raise UserError(f"A worker process cannot serve {space}; allowed are Box and Discrete.")
    words = {"shape": list(space.shape), "dtype": _CODES[space.dtype]}
    return words, pack_array(space.low) + pack_array(space.high)


def unpack_space(words: Mapping[str, Any], numbers: memoryview) -> tuple[spaces.Space, memoryview]:
    """What `pack_space` described, and the numbers after it.  Raises `GarbledError` for anything else."""
    try:
        if "n" in words:
            return spaces.Discrete(int(words["n"]), start=int(words["start"])), numbers
        shape, dtype = tuple(int(k) for k in words["shape"]), _DTYPES[words["dtype"]]
        size = 1 + math.prod(shape) * dtype.itemsize
        low, high = unpack_array(numbers[:size], shape), unpack_array(numbers[size : 2 * size], shape)
        return spaces.Box(low, high, shape, dtype.type), numbers[2 * size :]
    except (AssertionError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise GarbledError(f"a description of a space that cannot be read ({error})") from error


def plain(value: Any, name: str) -> Any:
    """The value with its tuples marked, so that JSON gives it back as it was.

    Raises `UserError`, with `name` in its sentence, for what is not made of None, truth values, numbers, strings, and
    lists, tuples and dicts of them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [plain(part, name) for part in value]}
    if isinstance(value, list):
        return [plain(part, name) for part in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) and key != _TUPLE for key in value):
        return {key: plain(part, f"{name}[{key!r}]") for key, part in value.items()}
    raise UserError(
        f"{name} is a {type(value).__name__}, and a worker process can only be given None, truth values, numbers, "
        "strings, and lists, tuples and dicts (with strings as keys) of them."
    )


def _require_size(words: int, numbers: int) -> None:
    """Raise `GarbledError` for a message that is too large."""
    if words > MOST_WORDS or numbers > MOST_NUMBERS:
        most = f"{MOST_WORDS // 2**20} and {MOST_NUMBERS // 2**20} MiB"
        raise GarbledError(f"a message with {words} bytes of words and {numbers} of numbers; allowed are {most}")


def _read_words(text: bytearray) -> Any:
    """JSON with its tuples restored; None of nothing."""
    if not text:
        return None
    try:
        return json.loads(text, object_hook=_restored)
    except (ValueError, TypeError, RecursionError) as error:
        raise GarbledError(f"words that are no JSON ({type(error).__name__})") from error


def _restored(found: dict[str, Any]) -> Any:
    """A dict, or the tuple that it stands for."""
    return tuple(found[_TUPLE]) if found.keys() == {_TUPLE} else found


_KINDS = frozenset(int(kind) for kind in Kind)
