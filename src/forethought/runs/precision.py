"""Runs compute with 64-bit numbers switched on, whoever starts them, and change no global setting for that."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def in_64_bit(function: Callable[P, R]) -> Callable[P, R]:
    """The function with jax's 64-bit numbers on while it runs, in the thread that calls it.

    So a run from Python is the run of the command line, bit for bit, and a controller that was trained there works in
    any program.
    """

    @functools.wraps(function)
    def wide(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return wide
