"""Which numbers can be worked with."""

from __future__ import annotations

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from forethought.types import Array, Flag, UserError

T = TypeVar("T")

LARGEST = 1e12
"""Observations beyond this are taken for a broken sensor: their squares, and sums of those, are still finite float32
numbers, and no unit of a real machine needs more."""


def need_x64(what: str) -> None:
    """Raise `UserError` if jax computes in 32 bits only: `what` (which begins the sentence) is wrong in those."""
    if not jax.config.read("jax_enable_x64"):
        raise UserError(
            f"{what} computes in float64, and jax has it switched off: call jax.config.update('jax_enable_x64', True) "
            "first, or choose another model."
        )


def credible(x: Float[Array, "*shape"]) -> Flag:
    """Whether every number is finite and at most `LARGEST` in magnitude."""
    return jnp.all(jnp.abs(x) <= LARGEST)  # NaN is not


def where_all(flag: Flag, new: T, old: T) -> T:
    """Every array of `new` if the flag is true, every array of `old` if not; what is no array is `new`'s."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b) if eqx.is_array(a) else a, new, old)


def nan_free(tree: PyTree) -> Flag:
    """Whether no array of the tree holds a NaN; infinities may be meant."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.all(jnp.asarray([jnp.all(~jnp.isnan(leaf)) for leaf in leaves], bool))


def nan_appeared(new: PyTree, old: PyTree) -> bool:
    """Whether an array of `new` holds a NaN though the same array of `old` does not.  In NumPy: nothing is compiled.

    An array that had NaN before (places that are still empty, say) may have them again.
    """
    known = {path: leaf for path, leaf in jax.tree_util.tree_flatten_with_path(old)[0] if _has_nan(leaf)}
    found = jax.tree_util.tree_flatten_with_path(new)[0]
    return any(path not in known and _has_nan(leaf) for path, leaf in found)


def _has_nan(leaf: object) -> bool:
    number = isinstance(leaf, float) or eqx.is_inexact_array(leaf)
    return number and bool(np.isnan(np.asarray(leaf)).any())
