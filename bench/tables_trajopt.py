"""The tables of trajectory optimisation on the page of figures."""

from __future__ import annotations

from typing import Any

from tables_speed import bare_provenance
from text import markdown, met


def trajopt_lines(alone: dict[str, Any]) -> list[str]:
    """What `trajopt`, `trajopt-robust`, `trajopt-optimum` and `inlining` found."""
    lines = []
    if (found := alone.get("trajopt")) is not None:
        lines += [*solve_lines(found), ""]
    if (found := alone.get("trajopt-robust")) is not None:
        rows = [
            (
                name,
                str(row["starts"]),
                ", ".join(f"{k} {v}" for k, v in row["statuses"].items()),
                str(sum(row["wrong"].values())),
            )
            for name, row in found["systems"].items()
        ]
        lines += ["### iLQR from anywhere", "", *markdown(("system", "starts", "ended", "wrong"), rows), ""]
        lines += [
            f"Box solver's relative KKT residual at most {found['kkt']:.1e}; controls of linear problems with limits "
            f"differ from those of a quadratic program by at most {found['difference']:.1e}.",
            "",
            "Command: `python bench/trajopt_robust.py`",
            "",
            *bare_provenance(found),
            "",
        ]
    if (found := alone.get("trajopt-optimum")) is not None:
        reference = found["reference"]["cost"]
        rows = [
            (
                f"`{row['planner']}`",
                f"{row['near']} of {len(row['costs'])}",
                f"{max(row['costs']):.2f}",
                f"{row['seconds']:.2f}",
            )
            for row in found["plans"]
        ]
        head = ("planner", "within 2%", "worst", "median seconds")
        reached = sum(cost <= 1.02 * reference for cost in found["descent alone"]["costs"])
        lines += ["### The best swing-up of Pendulum-v1", "", *markdown(head, rows), ""]
        lines += [
            f"100 steps from hanging still; dynamic programming on a grid, polished, costs {reference:.4f}. Of 50 "
            f"descents from random controls {reached} end there.",
            "",
            "Command: `python bench/trajopt_optimum.py`",
            "",
            *bare_provenance(found),
            "",
        ]
    if (found := alone.get("inlining")) is not None:
        rows = [
            (name, *(f"{1e3 * row['seconds'][kind]:.2f} ms" for kind in ("plain", "inlined")), f"{row['ratio']:.2f}")
            for name, row in found["cases"].items()
        ]
        head = ("planner, model", "plain", "loops compiled whole", "times as fast")
        lines += ["### XLA's loop setting in runs", "", *markdown(head, rows), ""]
        lines += ["Command: `python bench/inlining.py`", "", *bare_provenance(found), ""]
    return lines


def solve_lines(found: dict[str, Any]) -> list[str]:
    """Everyone on every problem, and the targets."""
    rows = []
    for problem, each in found["solves"].items():
        for name, row in each.items():
            if "refused" not in row:
                per = f"{1e6 * row['seconds_per_iteration']:.0f}"
                rows.append(
                    (problem, name, f"{1e3 * row['seconds']:.2f}", str(row["iterations"]), per, f"{row['cost']:.4f}")
                )
    head = ("problem", "library", "solve, ms", "iterations", "us per iteration", "final cost")
    targets = [
        (
            name,
            f"{row['reached']:.3g}",
            next(f"{k} {row[k]:g}" for k in ("at least", "at most") if k in row),
            met(row["met"]),
        )
        for name, row in found["targets"].items()
    ]
    flags = [f"- {name}: {about['version']}, `{about.get('flags')}`" for name, about in found["libraries"].items()]
    return [
        "### Trajectory optimisation beside its peers",
        "",
        "`forethought` and the peer's `-inline` run with the setting by which XLA compiles small loops whole.",
        "",
        *markdown(head, rows),
        "",
        *markdown(("target", "reached", "wanted", ""), targets),
        "",
        *flags,
        "",
        "Command: `python bench/trajopt.py --diffilqrax PYTHON --casadi PYTHON --crocoddyl PYTHON`",
        "",
        *bare_provenance(found),
    ]
