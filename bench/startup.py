"""How long a user waits before anything happens.

Each figure is the median of fresh processes.  `import_beyond_jax`: what `import forethought` adds after `import jax`;
`names_beyond_jax`: the same with every public name looked up, for names that are loaded at first use; `help`: the
whole of `forethought --help`.  Prints one JSON object and ends with status 1 if a target is missed.

    python bench/startup.py
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path

RUNS = 7
TARGETS = {"import_beyond_jax": 0.4, "names_beyond_jax": 0.4, "help": 0.5}
IMPORT = """
import time, jax
start = time.perf_counter()
import forethought
first = time.perf_counter() - start
for name in getattr(forethought, "__all__", []):
    getattr(forethought, name)
print(first, time.perf_counter() - start)
"""


def time_imports() -> tuple[float, float]:
    """Seconds for `import forethought`, and for its public names too, in a process that has imported jax."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    first, names = map(float, done.stdout.split())
    return first, names


def time_help() -> float:
    """Seconds of `forethought --help`, process start included."""
    script = Path(sysconfig.get_path("scripts")) / "forethought"
    start = time.perf_counter()
    subprocess.run([script, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, compare."""
    time_imports(), time_help()  # files into the page cache, bytecode onto the disk
    imports = [time_imports() for _ in range(RUNS)]
    runs = {
        "import_beyond_jax": [first for first, _ in imports],
        "names_beyond_jax": [names for _, names in imports],
        "help": [time_help() for _ in range(RUNS)],
    }
    medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
    result = {
        "unit": "s",
        "median": {name: round(value, 4) for name, value in medians.items()},
        "worst": {name: round(max(seconds), 4) for name, seconds in runs.items()},
        "target": TARGETS,
        "met": {name: medians[name] <= TARGETS[name] for name in TARGETS},
        "runs": RUNS,
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "machine": platform.machine(),
    }
    print(json.dumps(result, indent=2))
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
