"""Checks for a user's own classes, as Gymnasium's check_env is for environments.

Each check runs an object on small synthetic problems, in a few seconds, and returns None or raises `CheckFailed` with
one sentence: what is wrong, what was seen, and what is expected.
"""

from __future__ import annotations

from forethought.checks.cost import check_cost
from forethought.checks.model import check_model
from forethought.checks.planner import check_planner
from forethought.checks.policy import check_policy
from forethought.checks.sentences import CheckFailed
from forethought.checks.world import check_world

__all__ = ["CheckFailed", "check_cost", "check_model", "check_planner", "check_policy", "check_world"]
