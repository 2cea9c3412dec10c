"""What a bug report needs: versions, platform, devices, and where the compilation cache is."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from forethought._version import __version__
from forethought.runs.files import Damaged, read_sealed

PACKAGES = ("jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium", "mujoco", "safetensors", "tyro", "rich")


def versions() -> dict[str, str]:
    """Installed versions of what results depend on."""
    found = {"forethought": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def machine() -> dict[str, Any]:
    """Platform, devices and settings of this process.  Starts jax's devices."""
    import jax

    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "jax_enable_x64": bool(jax.config.read("jax_enable_x64")),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "executable": sys.executable,
    }


def cache_folder() -> Path:
    """Where compiled programs are kept between processes: the user's cache folder, never a run."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given:
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME")
    # The XDG rule: a relative path is invalid and ignored.
    base = Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache"
    return base / "forethought"


OPTION = "xla_backend_extra_options"
WHOLE_LOOPS = f"--{OPTION}=xla_cpu_small_while_loop_byte_threshold=1000000000"
"""The setting by which XLA compiles a loop of small operations, and those within it, as one function on a CPU.  It can
only be given to a whole process, before its devices start."""

INLINED: dict[str, frozenset[str]] = {"0.10": frozenset()}
"""Planners of which a control step is at least 1.3 times as fast with it whatever the model, by version of jax: from
bench/inlining.py.  It is worth much to `forethought.ilqr` on equations (docs/control.md), but a step of a run is
mostly the model."""


def xla_flags(planner: str | None, given: str, version: str) -> str:
    """XLA_FLAGS of a process that plans with this class: the user's own, and the setting where the table has it.

    Whoever gives options of this kind has chosen, and is not overruled.
    """
    minor = ".".join(version.split(".")[:2])
    wanted = planner in INLINED.get(minor, ()) and OPTION not in given
    return f"{given} {WHOLE_LOOPS}".strip() if wanted else given


def planner_of(plans: Any) -> str | None:
    """The class that an experiment, or the run in a folder, plans with, if it can be read; nothing is checked."""
    if not isinstance(plans, Path):
        return type(getattr(getattr(plans, "algorithm", None), "planner", None)).__name__
    try:
        planner = read_sealed(plans / "config.json")["experiment"]["algorithm"]["planner"]["kind"]
    except (Damaged, OSError, KeyError, TypeError):
        return None
    return planner if isinstance(planner, str) else None


def prepare_jax(cache: bool, plans: Any = None) -> None:
    """What the command line sets before anything is built: XLA's flags for what is planned with, 64-bit, and the
    persistent compilation cache.  `plans` is an experiment, or the folder of a run.

    Compiled programs are native code, so the folder is the user's alone (mode 0700); if it cannot be made, or belongs
    to someone else, there is no cache.
    """
    flags = xla_flags(planner_of(plans), os.environ.get("XLA_FLAGS", ""), metadata.version("jax"))
    if flags:
        os.environ["XLA_FLAGS"] = flags
    import jax

    jax.config.update("jax_enable_x64", True)
    if not cache:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # the user's choice, which jax has read
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
