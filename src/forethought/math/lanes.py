"""Many problems of one kind, each of which takes as many steps as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap


def in_lanes(function: Callable[..., Any], *arrays: Any) -> Any:
    """function(*arrays), which under `vmap` solves one problem after the other on a CPU.

    A loop under `vmap` goes on until its slowest lane is done, and computes all of them until then.  A core gains
    nothing from that: one after the other, each lane stops where it stops.  On an accelerator all lanes run at once.
    The arguments are trees of arrays; whatever else the function needs it holds.
    """
    lane = custom_vmap(function)

    @lane.def_vmap
    def _(size: int, batched: list[Any], *arrays: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(arrays)
        varies = jax.tree.leaves(batched)
        own = [leaf for leaf, each in zip(leaves, varies, strict=True) if each]

        def one(own: list[Any]) -> Any:
            rest = iter(own)
            mine = [next(rest) if each else leaf for leaf, each in zip(leaves, varies, strict=True)]
            return lane(*jax.tree.unflatten(tree, mine))

        del size
        found = jax.lax.map(one, own) if jax.default_backend() == "cpu" else jax.vmap(one)(own)
        return found, jax.tree.map(lambda _: True, found)

    return lane(*arrays)
