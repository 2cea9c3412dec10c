"""What every test shares.

forethought must not be imported here: pytest's jaxtyping plugin adds the shape checks while it is being imported.
"""

from __future__ import annotations

import jax

# As the command line does. Every array of the library states its dtype, so only what forgets to would notice.
jax.config.update("jax_enable_x64", True)
