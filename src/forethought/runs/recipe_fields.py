"""Which fields of a recipe say what: whoever puts runs together, or apart, asks here."""

from __future__ import annotations

TASK = ("task", "env", "limit", "action_repeat", "resets")
"""What is to be solved: returns of different tasks are not compared."""
APART = ("seed", "out", "evaluate_every", "on_save_error")
"""What does not change what is learned."""
