"""What a bug report needs: versions, platform, devices, and where the compilation cache is."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from forethought._version import __version__

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


def prepare_jax(cache: bool) -> None:
    """What the command line sets before anything is built: 64-bit, and the persistent compilation cache.

    Compiled programs are native code, so the folder is the user's alone (mode 0700); if it cannot be made, or belongs
    to someone else, there is no cache.
    """
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
