"""The tables of speed for docs/figures.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text import MISSING, markdown, met, milliseconds, provenance, read


def step_lines(title: str, found: dict[str, Any] | None, command: str) -> list[str]:
    """`control` and `fit`."""
    lines = [f"### {title}", ""]
    if found is None:
        return [*lines, f"{MISSING} `{command}`", ""]
    row = [milliseconds(found[key]) for key in ("median", "p95", "max", "processor_median", "target")]
    head = ["", "median", "95th percentile", "worst", "processor, median", "target", ""]
    count = found.get("steps") or found["runs"]
    table = markdown(head, [[f"{count} times", *row, met(found["met"])]])
    return [*lines, *table, "", f"Command: `{command}`", "", *speed_provenance(found)]


def speed_provenance(found: dict[str, Any]) -> list[str]:
    """The same lines as for a study, and how busy the machine was before."""
    return [*provenance([found])[:-1], f"- load before the measurement: {found['load_before']:.2f}", ""]


def peer_lines(found: dict[str, Any] | None) -> list[str]:
    """`peer`."""
    command = "python bench/speed.py peer --peer-python PYTHON"
    lines = ["### One control step at a peer's settings (7 nets of 4x200, CEM 5 x 350, 20 particles, horizon 15)", ""]
    if found is None:
        return [*lines, f"{MISSING} `{command}`", ""]
    names = {"forethought": "Forethought", "eager": "eager PyTorch, the same computation", "mbrl": "mbrl-lib"}
    rows = []
    for who, name in names.items():
        about = found["peers"].get(who)
        if who not in found["seconds"]:
            rows.append([name, str(about), "", "", ""])
            continue
        version = "" if about is None else f" ({'mbrl ' + about['mbrl'] + ', ' if who == 'mbrl' else ''}"
        version += "" if about is None else f"torch {about['torch']})"
        ratio = found["ratio"].get(who)
        row = [name + version, milliseconds(found["seconds"][who]), milliseconds(found["processor_seconds"][who])]
        if ratio is None:
            rows.append([*row, "1", ""])
            continue
        goal = f"2: {met(found['met']['mbrl'])}" if who == "mbrl" else "about 1 expected"
        rows.append([*row, f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]", goal])
    head = ["", "median", "processor, median", "times our time, median [least, most]", "target"]
    peak, share = found["peak_gigaflops"], found["fraction_of_peak"]
    lines += [*markdown(head, rows), ""]
    lines += [
        f"Matrix products of the step: {found['gigaflops']:.0f} GFLOP/s, {100 * share:.0f}% of the core's measured "
        f"float32 peak (target 65%: {met(found['met']['fraction_of_peak'])}; the peak is a product of two 2000 x 2000 "
        f"matrices: jax {peak['jax']:.0f}, NumPy {peak['numpy']:.0f} GFLOP/s; 7 products of 1000 x 200 x 200 reach "
        f"{peak['jax_by_shape']['1000x200x200']:.0f}).",
        "",
    ]
    words = {name: name.replace("_", " ") for name in found["parts"]}
    parts = [[words[name], f"{part['gigaflops']:.0f}"] for name, part in found["parts"].items()]
    lines += [*markdown(["one iteration of CEM, what of it is computed", "GFLOP/s"], parts), ""]
    return [*lines, f"Command: `{command}`", "", *speed_provenance(found)]


def cold_lines(found: dict[str, Any] | None) -> list[str]:
    """`coldstart`."""
    command = "python bench/coldstart.py"
    lines = ["### From the start of a process to a trained Pendulum controller (300 steps)", ""]
    if found is None:
        return [*lines, f"{MISSING} `{command}`", ""]
    names = {"cold": "empty compilation cache", "warm": "with the cache"}
    rows = [
        [name, f"{found['median'][key]:.1f} s", f"{found['target'][key]:.0f} s", met(found["met"][key])]
        for key, name in names.items()
    ]
    lines += [*markdown(["", "median", "target", ""], rows), ""]
    stages = {
        "import_jax": "import jax",
        "import_rest": "import the rest",
        "trace": "trace",
        "lower": "lower",
        "compile_or_load": "compile, or load from the cache",
        "run": "run",
        "interpreter_and_exit": "interpreter and exit",
        "process": "together",
    }
    rows = [[name, *(f"{found['parts'][case][key]:.2f}" for case in names)] for key, name in stages.items()]
    rows.append(["programs compiled", *(str(found["parts"][case]["programs"]) for case in names)])
    lines += [*markdown(["one more process, s", *names.values()], rows), ""]
    return [*lines, f"Command: `{command}`", "", *speed_provenance(found)]


def gp_lines(found: dict[str, Any] | None) -> list[str]:
    """`gp-fit`."""
    command = "python bench/gp.py --peer PYTHON"
    lines = ["### Gaussian process: likelihood with gradient, and fits, for 4 outputs", ""]
    if found is None or not found.get("peers"):
        return [*lines, f"{MISSING} `{command}`", ""]
    rows = []
    for what, title in (("evaluate", "one evaluation"), ("fit", "fit to the same likelihood")):
        for n, at in found[what].items():
            ratio = at["ratio_seconds"]
            goal = {"256": "5", "1000": "1.5"}[n] if what == "evaluate" else ""
            verdict = met(all(ok for name, ok in found["met"].items() if name.startswith(f"evaluate {n} ")))
            row = [f"{title}, {at['outputs']} outputs", n, milliseconds(at["seconds"]["forethought"])]
            row += [f"{ratio['gpytorch']:.1f}", f"{ratio['sklearn']:.1f}", f"{goal}: {verdict}" if goal else ""]
            rows.append(row)
    for n, at in found["default"].items():
        goal = f"1 s: {met(at['seconds'] <= 1.0)}" if n == "256" else ""
        title = f"default fit with restarts, {at['outputs']} outputs"
        rows.append([title, n, milliseconds(at["seconds"]), "", "", goal])
    peers = found["peers"]
    head = ["", "rows", "median", "times our time: GPyTorch", "scikit-learn", "target"]
    lines += [*markdown(head, rows), ""]
    lines += [f"GPyTorch {peers['gpytorch']} (its exact Cholesky), scikit-learn {peers['scikit-learn']}.", ""]
    lines += ["How the cost of one output grows with the rows, exact and sparse (256 inducing points):", ""]
    kinds = ("evaluate", "condition", "predict_100")
    head = ["rows", *(f"{kind.replace('_', ' ')}, {how}" for kind in kinds for how in ("exact", "sparse"))]
    cells = lambda at: [
        milliseconds(at[how][kind]) if kind in at.get(how, {}) else "" for kind in kinds for how in ("exact", "sparse")
    ]
    lines += [*markdown(head, [[str(at["n"]), *cells(at)] for at in found["growth"]]), ""]
    said = (
        f"{kind.replace('_', ' ')}: exact grows as n^{about['exact_exponent']:.1f} at the end, sparse is cheaper from "
        f"{about['sparse_cheaper_from']} rows on"
        for kind, about in found["crossover"].items()
    )
    loads = [load for pair in found["load_before_and_after"].values() for load in pair]
    load = f"- load of the machine meanwhile: {min(loads):.2f} to {max(loads):.2f}"
    return [*lines, "; ".join(said) + ".", "", f"Command: `{command}`", "", *bare_provenance(found), load, ""]


def plan_lines(found: dict[str, Any] | None) -> list[str]:
    """`gp-plan`."""
    command = "python bench/gp_plan.py"
    lines = ["### One iCEM plan over a Gaussian process (20 steps ahead, 100 plans, 3 iterations, Pendulum-v1)", ""]
    if found is None:
        return [*lines, f"{MISSING} `{command}`", ""]
    names = {"mean": "the mean prediction (default)", "functions-5": "five functions of the posterior"}
    names |= {"ensemble-mean": "the default ensemble's mean", "ensemble-5": "its five members"}
    rows = []
    for name, title in names.items():
        case = found["cases"][name]
        goal = f"{milliseconds(found['target'])}: {met(case['median'] <= found['target'])}"
        rows.append(
            [title, milliseconds(case["median"]), milliseconds(case["p95"]), goal if "ensemble" not in name else ""]
        )
    lines += [f"At {found['settings']['rows']} rows, plans tried out in", ""]
    lines += [*markdown(["", "median", "95th percentile", "target"], rows), ""]
    rows = []
    for name, case in found["cases"].items():
        if name.startswith("growth-sparse-"):
            n = name.removeprefix("growth-sparse-")
            exact = found["cases"].get(f"growth-exact-{n}")
            times = lambda it: [milliseconds(it["median"]), milliseconds(it["first_fit_seconds"])]
            rows.append([n, *(["", ""] if exact is None else times(exact)), *times(case)])
    head = ["rows", "plan, exact", "first fit, exact", "plan, sparse (128 points)", "first fit, sparse"]
    lines += ["How that grows (through the mean):", "", *markdown(head, rows), ""]
    return [*lines, f"Command: `{command}`", "", *speed_provenance(found)]


def mixture_lines(found: dict[str, Any] | None) -> list[str]:
    """`gmm`."""
    command = "python bench/gmm.py"
    lines = ["### Gaussian mixture: EM on 20,000 rows, 13 columns, 20 components", ""]
    if found is None:
        return [*lines, f"{MISSING} `{command}`", ""]
    names = {"same_rounds": "the same rounds", "same_tolerance": "to the same tolerance", "whole_fits": "whole fits"}
    rows = []
    for key, title in names.items():
        at = found[key]
        row = [title, milliseconds(at["median"]), milliseconds(at["peer_median"]), f"{at['times_as_fast']:.1f}"]
        rows.append([*row, f"{at['least_ratio']:.1f}"])
    head = ["", "median", "scikit-learn", "times as fast", "least"]
    lines += [*markdown(head, rows), "", f"Target: at least as fast ({met(found['met'])}).", ""]
    version = f"- scikit-learn {found['machine']['scikit-learn']}, load before: {found['load']['before'][0]:.2f}"
    return [*lines, f"Command: `{command}`", "", *bare_provenance(found), version, ""]


def bare_provenance(found: dict[str, Any]) -> list[str]:
    """Commit and machine."""
    return [line for line in provenance([{"settings": ""} | found]) if line.startswith(("- commit", "- machine"))]


def speed_page(results: Path) -> list[str]:
    """The whole section."""
    speed, alone = read(results / "speed"), read(results)
    lines = ["## Speed", "", "Warm, one core, without compilation, unless a table says otherwise.", ""]
    step = "One control step of the default v1.5 on Pendulum-v1"
    lines += step_lines(step, speed.get("control"), "python bench/speed.py control")
    steps = "500 gradient steps of the default ensemble on 400 rows"
    lines += step_lines(steps, speed.get("fit"), "python bench/speed.py fit")
    lines += [*peer_lines(speed.get("peer")), *cold_lines(speed.get("coldstart"))]
    lines += [*gp_lines(alone.get("gp-fit")), *plan_lines(alone.get("gp-plan")), *mixture_lines(alone.get("gmm"))]
    return lines
