"""What a rule about a field's value can be, and how it says so."""

from __future__ import annotations

import math
import numbers
from pathlib import Path
from typing import Any, NamedTuple


class Number(NamedTuple):
    """A whole or real number between bounds."""

    whole: bool = False
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    none: bool = False
    """None is allowed too."""

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        kind = "a whole number" if self.whole else "a finite number"
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'larger than' if self.open_low else 'at least'} {_short(self.low)}")
        if self.high < math.inf:
            parts.append(f"at most {_short(self.high)}")
        return f"{kind}{', ' if parts else ''}{' and '.join(parts)}{', or None' if self.none else ''}"

    def accepts(self, value: Any) -> bool:
        """Whether the value is one of them; booleans are not numbers, NaN and infinities not finite."""
        if value is None:
            return self.none
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        try:
            number = float(value)
        except OverflowError:  # a whole number that no float can hold
            return False
        above = number > self.low if self.open_low else number >= self.low
        return math.isfinite(number) and above and number <= self.high


class OneOf(NamedTuple):
    """One of a few values."""

    values: tuple[Any, ...]

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return " or ".join(map(str, self.values))

    def accepts(self, value: Any) -> bool:
        """Whether the value is one of them (True is not 1)."""
        # The types first: arrays have no equality that is true or false.
        return any(type(value) is type(v) and value == v for v in self.values)


class Instance(NamedTuple):
    """Anything of certain types."""

    types: tuple[type, ...]
    words: str

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return self.words

    def accepts(self, value: Any) -> bool:
        """Whether the value is of one of the types."""
        return isinstance(value, self.types)


class PathRule(NamedTuple):
    """What the system can take for a path."""

    words: str
    types: tuple[type, ...] = (str, Path)

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return self.words

    def accepts(self, value: Any) -> bool:
        """Whether the value is of one of the types, and if it is a path, one that can be."""
        return isinstance(value, self.types) and (value is None or nameable(str(value)))


class Several(NamedTuple):
    """A tuple of numbers."""

    each: Number

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return f"a tuple, each part of it {self.each.allowed()}"

    def accepts(self, value: Any) -> bool:
        """Whether it is a tuple of such numbers."""
        return isinstance(value, tuple) and all(map(self.each.accepts, value))


class ResetOptions(NamedTuple):
    """What may go to the reset of an environment: nothing that could name a file, since a run keeps it."""

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return "a tuple of dicts from names to numbers, words, and lists of them"

    def accepts(self, value: Any) -> bool:
        """Whether it is such a tuple."""
        proper = isinstance(value, tuple) and all(isinstance(each, dict) for each in value)
        return proper and all(isinstance(k, str) and _harmless(v) for each in value for k, v in each.items())


def _harmless(value: Any, depth: int = 4) -> bool:
    """Whether it is a finite number, a word or None, or a list of them that is not too deep."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_harmless(each, depth - 1) for each in value)
    if isinstance(value, str):
        return value.isidentifier()
    return value is None or isinstance(value, bool) or Number().accepts(value)


def nameable(path: str) -> bool:
    """Whether a file can be called this: at most 255 bytes between two slashes, and 4095 in all."""
    data = path.encode(errors="surrogateescape")
    return len(data) < 4096 and max(map(len, data.split(b"/"))) < 256 and b"\0" not in data


class Either(NamedTuple):
    """What one of two rules allows."""

    first: OneOf
    second: Instance

    def allowed(self) -> str:
        """What is allowed, for the end of a sentence."""
        return f"{self.first.allowed()} or {self.second.allowed()}"

    def accepts(self, value: Any) -> bool:
        """Whether one of them does."""
        return self.second.accepts(value) or self.first.accepts(value)


def _short(value: float | int) -> str:
    """A bound as one would write it."""
    return str(int(value)) if value == int(value) else str(value)
