"""What every test shares.

forethought must not be imported here: pytest's jaxtyping plugin adds the shape checks while it is being imported.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import jax
import pytest
from hypothesis import settings

from compiling import FLAGS

# As the command line does. Every array of the library states its dtype, so only what forgets to would notice.
jax.config.update("jax_enable_x64", True)
# Programs that do not note which line each of their operations comes from are written down faster.
jax.config.update("jax_traceback_in_locations_limit", 0)


# Only in this process: whatever a test starts compiles as a user's does, unless it is to round as this one.
with patch.dict(os.environ, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"}):
    jax.devices()

# What an example takes is mostly what it compiles, and the machine's mood.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


# Tracing makes many short-lived objects: looking for cycles among them every 700 objects takes a tenth of the time.
gc.set_threshold(20_000, 10, 5)

MOST_MAPS, MOST_BYTES = 20_000, 2 * 2**30
"""Each compiled program maps memory, and a process has 65,530 maps at most on Linux, beyond which the compiler ends
it; and several processes share a machine."""


def pytest_collection_finish() -> None:
    """What was imported stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def programs_of_other_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Files share compiled programs, until these are too many.  A file that replaces a function of the library which
    programs are traced from has none of another file and leaves none: it says FRESH = True."""
    fresh = getattr(request.module, "FRESH", False)
    if fresh:
        forget()
    yield
    maps, resident = memory()
    if fresh or maps > MOST_MAPS or resident > MOST_BYTES:
        forget()


def forget() -> None:
    """Let go of all compiled programs, and give their memory back, which the C library would keep."""
    jax.clear_caches()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def memory() -> tuple[int, int]:
    """Parts of memory that this process has mapped, and its resident bytes; none where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Path("/proc/self/maps").read_bytes().count(b"\n"), pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0, 0
