"""Tables of policies that are improved in a model, of trust regions, and of tree search, on the page of figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tables_speed import bare_provenance
from text import interval, markdown, provenance

MARKS = (600, 1000, 2000, 3000, 5000)
"""Environment steps at which trust-region updates are told about."""


def policy_lines(results: Path) -> list[str]:
    """What `policy_claims`, `policy_speed`, `trust_region` and `mcts` found."""
    lines: list[str] = []
    for name, write in (("policy_claims", _claims), ("policy_speed", _speed)):
        if (path := results / f"{name}.json").exists():
            lines += [*write(json.loads(path.read_text()), results), ""]
    lines += _learning(results / "trust-region")
    for path, write in ((results / "trust-region" / "bound.json", _bound), (results / "mcts.json", _trees)):
        if path.exists():
            lines += [*write(json.loads(path.read_text())), ""]
    return ["## Policies, trust regions and trees", "", *lines] if lines else []


def _claims(found: dict[str, Any], results: Path) -> list[str]:
    """Every claim about v2.0 with its interval and verdict."""
    rows = []
    for row in found["claims"]:
        around = "" if row["interval"] is None else " [{:.3g}, {:.3g}]".format(*row["interval"])
        rows.append((row["claim"], f"{row['mean']:.3g}{around}", row["verdict"]))
    seeds = found["seeds"]
    runs = [json.loads((results / "policy-claims" / f"{seed}.json").read_text()) for seed in seeds]
    times = {side: np.median([run["act_ms"][side] for run in runs]) for side in ("v1.5", "v2.0")}
    return [
        "### The lecture's claims about version 2.0",
        "",
        "On the cart-pole swing-up; `bench/policy_claims.py` says what is compared. Differences are paired by seed, "
        "with Student's 95% interval.",
        "",
        *markdown(("claim", "difference", "verdict"), rows),
        "",
        f"An action takes {times['v1.5']:.1f} ms by v1.5 and {times['v2.0']:.2f} ms by v2.0 (medians over {len(seeds)} "
        "seeds).",
        "",
        f"Command: `python bench/policy_claims.py --seeds {seeds[0]}-{seeds[-1]}`, then `table`",
        "",
        *bare_provenance(runs[-1]),
    ]


def _speed(found: dict[str, Any], results: Path) -> list[str]:
    """A round of policy search by moment matching, and what acting takes."""
    del results
    it, act = found["round"], found["act_ms"]
    rows = [
        ("a round by moment matching, compiled (20 s wanted; a published port: 85 to 110 s)", f"{it['seconds']:.1f} s"),
        ("compiling it", f"{it['compiling']:.1f} s"),
        ("an action of v2.0 (1 ms wanted)", f"{act['v2.0']:.2f} ms"),
        ("an action of v1.5", f"{act['v1.5']:.1f} ms"),
    ]
    return [
        "### One round of policy search on a Gaussian process",
        "",
        *markdown((f"{it['rows']} rows, {len(it['restarts'])} restarts of 50 iterations", "time"), rows),
        "",
        "Command: `taskset -c 0 python bench/policy_speed.py`",
        "",
        *bare_provenance(found),
    ]


def _learning(folder: Path) -> list[str]:
    """Imagined against real updates on Pendulum-v1, at equal environment steps."""
    rows, made = [], []
    for variant in ("imagined", "real"):
        runs = [json.loads(path.read_text()) for path in sorted((folder / variant).glob("*.json"))]
        if not runs:
            continue
        made += runs
        at = [{row["steps"]: row["return"] for row in run["rows"]} for run in runs]
        cells = [interval([each[mark] for each in at if mark in each]) for mark in MARKS]
        worst = min(each[MARKS[-1]] for each in at)
        most = max(row.get("policy_kl_most", 0.0) for run in runs for row in run["rows"])
        seconds = np.median([run["rows"][-1]["seconds"] for run in runs])
        rows.append((variant, *cells, f"{worst:.0f}", f"{most:.4f}", f"{seconds:.0f}"))
    if not made:
        return []
    head = ("updates", *(f"{mark:,} steps" for mark in MARKS), "worst seed", "largest KL (bound 0.01)", "seconds")
    asked = f"{min(run['seed'] for run in made)}-{max(run['seed'] for run in made)}"
    about = (
        "Mean return over seeds of the policy without noise from ten fixed starts, with 95% bootstrap intervals over "
        "seeds, at equal environment steps; solved is -200. `imagined` updates the policy on rollouts in an ensemble, "
        "`real` on the steps of the environment alone. The policy, the value, the bound and the steps are the same."
    )
    lines = ["### Trust-region updates on Pendulum-v1: imagined against real", "", about, "", *markdown(head, rows), ""]
    return [*lines, f"Command: `python bench/trust_region.py learn --seeds {asked}`", "", *provenance(made)]


def _bound(found: dict[str, Any]) -> list[str]:
    """How near the bound the steps end."""
    rows = []
    for row in found["neural"]:
        least, median, most = row["share_min_median_max"]
        within = f"{row['within_a_tenth']} of {row['updates']}"
        rows.append((f"{row['bound']:g}", f"{median:.3f} ({least:.3f} to {most:.3f})", within, str(row["above"])))
    head = ("bound", "KL over bound: median (range)", "within a tenth", "above")
    bandit = found["bandit"]
    told = (
        f"On a quadratic bandit {bandit['steps']} exact steps made the cost rise {bandit['rises']} times; the "
        "multiplier is {:.3f} to {:.3f} times the closed form.".format(*bandit["multiplier_over_closed_form"])
    )
    lines = ["### How near the bound a trust-region step ends", "", *markdown(head, rows), "", told, ""]
    return [*lines, "Command: `python bench/trust_region.py bound`", "", *bare_provenance(found)]


def _trees(found: dict[str, Any]) -> list[str]:
    """Simulations per second beside mctx, and the share of best actions on small stochastic trees."""
    speed = [
        (
            row["search"],
            str(row["simulations"]),
            *(f"{v:,.0f}" for v in row["per_second"].values()),
            f"{row['ratio']:.2f}",
        )
        for row in found["speed"]
    ]
    names = [name for name in found["choices"][0] if name not in ("calls", "trees")]
    picks = [(str(row["calls"]), *(str(row[name]) for name in names)) for row in found["choices"]]
    trees = found["choices"][0]["trees"]
    return [
        "### Tree search beside mctx",
        "",
        *markdown(("search", "simulations", "ours, per second", "mctx, per second", "ratio (median of rounds)"), speed),
        "",
        f"Of {trees} small stochastic trees, in how many the best action was picked, by model calls:",
        "",
        *markdown(("calls", *names), picks),
        "",
        "Command: `python bench/mcts.py`",
        "",
        *bare_provenance(found),
    ]
