"""All claims, in the order of the lecture."""

from __future__ import annotations

from forethought.lecture import (
    acting,
    amounts,
    bound,
    dual,
    fit_times,
    ilqr_plans,
    linear_control,
    local_models,
    mismatch,
    modes,
    policy_noise,
    replanning,
)
from forethought.lecture.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *mismatch.CLAIMS,
    *replanning.CLAIMS,
    ilqr_plans.MPC,
    *acting.CLAIMS,
    *policy_noise.CLAIMS,
    *amounts.CLAIMS,
    *fit_times.CLAIMS,
    *modes.CLAIMS,
    *local_models.CLAIMS,
    ilqr_plans.TRACKED,
    *linear_control.CLAIMS,
    *bound.CLAIMS,
    *dual.CLAIMS,
)
