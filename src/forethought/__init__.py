"""Forethought: model-based reinforcement learning in JAX."""

from __future__ import annotations
