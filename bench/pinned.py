"""Importing this puts the process on one core with one thread; before numpy and jax are imported, which count them."""

from __future__ import annotations

import os
import sys

CORE = int(os.environ.get("BENCH_CORE", max(os.sched_getaffinity(0))))
THREADS = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
if {"jax", "numpy"} & sys.modules.keys():
    raise ImportError("pinned must be imported before jax and numpy, which count cores and threads once.")
os.sched_setaffinity(0, {CORE})
os.environ |= THREADS
