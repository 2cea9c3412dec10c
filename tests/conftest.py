"""What every test shares.

forethought must not be imported here: pytest's jaxtyping plugin adds the shape checks while it is being imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

# As the command line does. Every array of the library states its dtype, so only what forgets to would notice.
jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file() -> Iterator[None]:
    """Compiled programs are let go after each file: each maps memory, and a process has 65,530 maps at most on Linux,
    beyond which the compiler ends it."""
    yield
    jax.clear_caches()
