"""Every figure in the docs, made from the results: docs/figures.md between its markers.

    python bench/tables.py            # write it
    python bench/tables.py --check    # status 1 if it is not what the results give

Reads results/STUDY/SEED.json (runner.py) and results/speed/FIGURE.json (speed.py, coldstart.py).  What has not been
measured is said to be so.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning import STUDIES, Study
from runner import HERE, RESULTS
from tables_local import local_lines
from tables_locomotion import locomotion_lines
from tables_policies import policy_lines
from tables_speed import speed_page
from tables_trajopt import trajopt_lines
from text import MISSING, distinct, interval, markdown, number, provenance, read

PAGE = HERE.parent / "docs" / "figures.md"
BEGIN, END = "<!-- figures: made by bench/tables.py, do not edit -->", "<!-- end of figures -->"
HEAD = f"""# Figures

{BEGIN}
{END}
"""

TITLES = {
    "pendulum-50": "Pendulum-v1 from 50 steps, today's default",
    "pendulum-30": "Pendulum-v1 from 30 steps, today's default",
    "swingup-auto": "Cart-pole swing-up of the PILCO literature, today's default",
    "swingup-auto-truth": "Cart-pole swing-up: today's planner on the true dynamics",
    "ilqr-v1.5": "Pendulum-v1: iLQR on the learned ensemble",
    "ilqr-truth": "Pendulum-v1: iLQR on the true dynamics, replanning",
    "ilqr-v1.0-truth": "Pendulum-v1: iLQR on the true dynamics, one plan an episode with its feedback",
    "pendulum-auto-truth": "Pendulum-v1: today's planner on the true dynamics (the ceiling)",
    "reacher-auto": "Reacher-v5, today's default",
    "inverted-pendulum-auto": "InvertedPendulum-v5, today's default",
    "pendulum-50-sampled": "Pendulum-v1 from 50 steps, planning through five sampled functions instead of the mean",
    "pendulum": "Pendulum-v1, v1.5",
    "pendulum-truth": "Pendulum-v1: the same planner on the true dynamics (the ceiling)",
    "swingup": "Cart-pole swing-up of the PILCO literature, v1.5",
    "swingup-truth": "Cart-pole swing-up: the same planner on the true dynamics",
    "swingup-tuned": "Cart-pole swing-up, tuned to the task: horizon 17",
    "swingup-tuned-truth": "Cart-pole swing-up at horizon 17: the same planner on the true dynamics",
    "balance": "Cart-pole balance (continuous force), v1.5",
    "inverted-pendulum": "InvertedPendulum-v5, v1.5",
    "reacher": "Reacher-v5, v1.5",
    "cartpole": "CartPole-v1 (discrete), v1.5",
    "mcts-cartpole": "CartPole-v1 (discrete): v1.5 with tree search",
    "mcts-cartpole-truth": "CartPole-v1: the same tree search on the true dynamics",
    "mcts-cartpole-slow": "CartPole-v1: tree search with slower noise",
    "mcts-cartpole-slow-truth": "CartPole-v1: tree search with slower noise on the true dynamics",
    "mcts-cartpole-ensemble": "CartPole-v1: tree search on the ensemble, 30 steps ahead",
    "mcts-cartpole-30-truth": "CartPole-v1: tree search on the true dynamics, 30 steps ahead",
    "mcts-acrobot": "Acrobot-v1 (discrete): v1.5 with tree search",
    "mcts-acrobot-truth": "Acrobot-v1: the same tree search on the true dynamics",
    "mcts-acrobot-60-truth": "Acrobot-v1: tree search on the true dynamics, 60 steps ahead",
    "mcts-mountain-car": "MountainCar-v0 (discrete): v1.5 with tree search",
    "mcts-pendulum": "Pendulum-v1: v1.5 with tree search",
    "swingup-v2.0": "Cart-pole swing-up of the PILCO literature: v2.0 on the Gaussian process",
    "swingup-v2.0-seen": "Cart-pole swing-up: v2.0 that knows only the beginnings of the episodes it has seen",
    "pendulum-v2.0": "Pendulum-v1 in trials of 50 steps: v2.0 on the Gaussian process",
    "ladder-v0.5": "The lecture's ladder at equal data, Pendulum-v1: v0.5",
    "ladder-v1.0": "The lecture's ladder at equal data, Pendulum-v1: v1.0",
    "ladder-open-loop-truth": "The lecture's ladder: open-loop plans on the true dynamics",
    "ladder-v1.5": "The lecture's ladder at equal data, Pendulum-v1: v1.5",
}
TRIAL = {"swingup-auto": 60, "swingup": 60, "swingup-tuned": 60, "swingup-v2.0": 60, "swingup-v2.0-seen": 60}
"""Steps of a trial, where a table counts trials; trial 0 is random."""
PUBLISHED = {
    "swingup": {
        "PILCO": {1: 2, 2: 4, 3: 20, 4: 36, 5: 42},
        "Black-DROPS": {1: 0, 2: 4, 3: 30, 4: 68, 5: 86},
        "MC-PILCO": {1: 0, 2: 14, 3: 78, 4: 94, 5: 100},
    }
}
PUBLISHED["swingup-auto"] = PUBLISHED["swingup-v2.0"] = PUBLISHED["swingup-v2.0-seen"] = PUBLISHED["swingup"]
"""Success in % after a trial."""
PUBLISHED_NOTE = (
    "The columns of the Gaussian-process methods are quoted from the literature from memory (the comparison in the "
    "MC-PILCO paper: share of runs that succeed in that trial); they were not measured here. What is held after trial "
    "k here would be executed as trial k + 1: with their numbers one row lower the comparison is stricter on us."
)
SECONDS = {"cartpole-swingup": 0.05}
"""Of a step, where a table tells the total interaction."""
CLASSIC = 17.5
"""Seconds of interaction that PILCO's paper reports for its cart-pole swing-up (Deisenroth and Rasmussen, 2011)."""
CEILING = {
    "pendulum-50": "pendulum-auto-truth",
    "swingup-auto": "swingup-auto-truth",
    "pendulum": "pendulum-truth",
    "swingup": "swingup-truth",
    "swingup-tuned": "swingup-tuned-truth",
}
ABLATION = "ablation-"
ABLATION_SEEDS = (0, 1, 2, 3)


def seeds_of(name: str, study: Study, results: Path) -> list[dict[str, Any]]:
    """The reported seeds of a study, in order."""
    found = read(results / name)
    wanted = [str(seed) for seed in range(study.first, study.first + study.seeds)]
    return [found[seed] for seed in wanted if seed in found]


def first_solved(runs: Sequence[dict[str, Any]], marks: int) -> list[int | None]:
    """Per seed, the first mark at which it was solved."""
    return [next((i for i in range(marks) if run["marks"][i].get("solved")), None) for run in runs]


def study_lines(name: str, study: Study, results: Path) -> list[str]:
    """One study: its table, and what it was made with."""
    lines = [f"### {TITLES.get(name, name)}", ""]
    command = f"`python bench/runner.py {name} --seeds {study.first}-{study.first + study.seeds - 1}`"
    runs = seeds_of(name, study, results)
    if not runs:
        return [*lines, f"{MISSING} {command}", ""]
    marks = [mark["steps"] for mark in runs[0]["marks"]]
    if any([mark["steps"] for mark in run["marks"]] != marks for run in runs):
        raise SystemExit(f"The seeds of {name} were judged at different steps: run them again with one version.")
    trial, published = TRIAL.get(name), PUBLISHED.get(name, {})
    judged = "solved" in runs[0]["marks"][0]
    rated = "success_rate" in runs[0]["marks"][0]
    timed = "learning_seconds" in runs[0]["marks"][0]
    first = first_solved(runs, len(marks))
    head = ["trial (steps)" if trial else "steps"]
    head += ["seeds solved", "first solved by then"] if judged and study.truth is None else []
    head += ["seeds solved"] if judged and study.truth is not None else []
    head += ["mean success"] if rated else []
    head += ["mean return", "worst seed"]
    head += ["learning, s"] if timed else []
    head += [f"{method}, %" for method in published]
    rows = []
    for i, steps in enumerate(marks):
        at = [run["marks"][i] for run in runs]
        returns = [mark["mean_return"] for mark in at]
        worst = int(np.argmin(returns))
        row = [f"{steps // trial - 1} ({steps})" if trial else str(steps) if study.truth is None else "none"]
        if judged:
            row.append(f"{sum(mark['solved'] for mark in at)} of {len(runs)}")
        if judged and study.truth is None:
            row.append(f"{sum(f is not None and f <= i for f in first)} of {len(runs)}")
        if rated:
            row.append(interval([100.0 * mark["success_rate"] for mark in at]) + " %")
        row += [interval(returns), f"{number(returns[worst])} (seed {runs[worst]['seed']})"]
        if timed:
            row.append(number(float(np.median([mark["learning_seconds"] for mark in at]))))
        if trial:
            row += [str(rates.get(steps // trial - 1, "")) for rates in published.values()]
        rows.append(row)
    lines += [*markdown(head, rows), ""]
    if len(runs) < study.seeds:
        lines += [f"**{len(runs)} of {study.seeds} seeds are measured.**", ""]
    if judged and study.truth is None:
        never = [str(run["seed"]) for run, f in zip(runs, first, strict=True) if f is None]
        lines += [f"Never solved at a mark: {'seeds ' + ', '.join(never) if never else 'none'}.", ""]
    if trial and study.truth is None and study.task in SECONDS:
        lines += [_interaction(marks, first, SECONDS[study.task]), ""]
    if name in CEILING:
        truth = seeds_of(CEILING[name], STUDIES[CEILING[name]], results)
        best = interval([run["marks"][0]["mean_return"] for run in truth]) if truth else "not measured yet"
        lines += [f"The ceiling, the same planner on the true dynamics from the same starts: {best}.", ""]
    if published:
        lines += [PUBLISHED_NOTE, ""]
    return [*lines, f"Command: {command}", "", *provenance(runs)]


def _interaction(marks: Sequence[int], first: Sequence[int | None], step: float) -> str:
    """The median over seeds of what was tried before a controller that passes was held; never is later than any."""
    spent = sorted(np.inf if i is None else marks[i] * step for i in first)
    median = spent[len(spent) // 2]  # of an even number the larger of the two in the middle
    told = f"{median:.1f} s" if np.isfinite(median) else "more than was tried"
    return f"Median total interaction until a controller that passes is held: {told} (the classic paper: {CLASSIC} s)."


def ablation_lines(results: Path) -> list[str]:
    """The default with one thing changed, on development seeds."""
    rows, provenances = [], []
    for name in (n for n in STUDIES if n.startswith(ABLATION)):
        found = read(results / name)
        last = [found[str(seed)]["marks"][-1] for seed in ABLATION_SEEDS if str(seed) in found]
        study = STUDIES[name]
        label = f"{study.task}: {name.removeprefix(ABLATION).replace('-', ' ')}"
        if not last:
            rows.append([label, str(study.marks[-1]), "not measured yet", "", ""])
            continue
        means = [mark["mean_return"] for mark in last]
        rows.append(
            [
                label,
                str(study.marks[-1]),
                f"{sum(m['solved'] for m in last)} of {len(last)}",
                interval(means),
                number(min(means)),
            ]
        )
        provenances += list(found.values())
    head = ["changed", "steps", "seeds solved", "mean return", "worst seed"]
    command = f"python bench/runner.py {ABLATION}NAME --seeds {ABLATION_SEEDS[0]}-{ABLATION_SEEDS[-1]}"
    lines = ["### What matters: the default with one thing changed (development seeds)", ""]
    commits = ", ".join(distinct(run["commit"][:12] for run in provenances)) or "none"
    return [
        *lines,
        *markdown(head, rows),
        "",
        f"Command: `{command}`; the names are in `bench/learning.py`.",
        "",
        f"- commit: {commits}",
        "",
    ]


COMPARED = "compare-"
COMPARED_TASKS = {"pendulum": "Pendulum-v1", "swingup": "cart-pole swing-up"}


def comparison_lines(results: Path) -> list[str]:
    """The models beside each other, everything else at today's default."""
    lines = ["### The models on the same tasks, everything else at today's default", ""]
    for short, title in COMPARED_TASKS.items():
        names = [name for name in STUDIES if name.startswith(f"{COMPARED}{short}-")]
        marks, rows = STUDIES[names[0]].marks, []
        for name in names:
            runs = seeds_of(name, STUDIES[name], results)
            row = [name.removeprefix(f"{COMPARED}{short}-"), str(len(runs))]
            for i in range(len(marks)):
                at = [run["marks"][i] for run in runs]
                returns = [mark["mean_return"] for mark in at]
                row += [interval(returns), number(min(returns))] if at else ["not measured yet", ""]
                if short == "swingup":
                    row.append(interval([100.0 * mark["success_rate"] for mark in at]) + " %" if at else "")
            rows.append(row)
        head = [title, "seeds"]
        for mark in marks:
            head += [f"return at {mark} steps", "worst seed"] + (["mean success"] if short == "swingup" else [])
        lines += [*markdown(head, rows), ""]
    lines += [
        f"Command: `python bench/runner.py {COMPARED}TASK-MODEL --seeds 100-102`; physics knows the equations and",
        "",
    ]
    lines[-2] += " fits their constants."
    return lines


def page(results: Path) -> str:
    """All between the markers."""
    lines = [
        "## Learning",
        "",
        "*Solved* at a mark: the controller held then, without exploration or further learning, passes on ten fixed "
        "starts: their mean return reaches the task's threshold, or each of them passes the success test. Means are "
        "over seeds, of each seed's mean over its starts, with 95% bootstrap intervals over seeds; learning seconds "
        "are medians over seeds, evaluation not included.",
        "",
    ]
    for name, study in STUDIES.items():
        if not name.startswith((ABLATION, COMPARED)):
            lines += study_lines(name, study, results)
    lines += comparison_lines(results)
    lines += ablation_lines(results)
    lines += speed_page(results)
    lines += trajopt_lines(read(results))
    lines += local_lines(results)
    lines += locomotion_lines(results / "locomotion")
    lines += policy_lines(results)
    return "\n".join(lines).rstrip() + "\n"


def within(old: str, figures: str) -> str:
    """The page with new figures between its markers."""
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise SystemExit(f"{PAGE.name} must have the lines\n{BEGIN}\n{END}\nonce each, in this order.")
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n\n{figures}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    old = arguments.page.read_text() if arguments.page.exists() else ""
    new = within(old or HEAD, page(arguments.results))
    if not arguments.check:
        arguments.page.parent.mkdir(parents=True, exist_ok=True)
        arguments.page.write_text(new)
        return 0
    if old == new:
        return 0
    changes = difflib.unified_diff(old.splitlines(), new.splitlines(), "the page", "what the results give", lineterm="")
    print("\n".join(changes))
    return 1


if __name__ == "__main__":
    sys.exit(main())
