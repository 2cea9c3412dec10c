"""The process of one claim: python -m forethought.lecture.worker MODULE NAME OUT full|quick cache|no-cache."""

from __future__ import annotations

import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Measure, and write the claim's file."""
    module, name, out, length, cache = argv
    from forethought.runs.machine import prepare_jax

    prepare_jax(cache == "cache")
    from forethought.lecture.measuring import claims_in, keep, measure

    keep(Path(out), measure(claims_in(module)[name], length == "full"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
