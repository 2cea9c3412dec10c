"""What every test shares.

forethought must not be imported here: pytest's jaxtyping plugin adds the shape checks while it is being imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest.mock import patch

import jax
import pytest
from hypothesis import settings

from compiling import FLAGS

# As the command line does. Every array of the library states its dtype, so only what forgets to would notice.
jax.config.update("jax_enable_x64", True)


# Only in this process: whatever a test starts compiles as a user's does, unless it is to round as this one.
with patch.dict(os.environ, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"}):
    jax.devices()

# What an example takes is mostly what it compiles, and the machine's mood.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file() -> Iterator[None]:
    """Compiled programs are let go after each file: each maps memory, and a process has 65,530 maps at most on Linux,
    beyond which the compiler ends it."""
    yield
    jax.clear_caches()
