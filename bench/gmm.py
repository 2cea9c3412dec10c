"""How fast EM fits a Gaussian mixture, beside scikit-learn, on one core.

    python bench/gmm.py                     # n = 20,000 rows, 13 columns, 20 components, full covariances

Both start from the same weights, means and covariances, and run in turn in one process pinned to one core (A B A B,
ratios row by row): once for the same number of rounds, once to the same tolerance on the change of the mean
log-likelihood.  The results are compared too.  Beside that, whole fits as a user calls them: k-means and one start
each.  The figures go into results/gmm.json; the status is 1 if the target is missed.  Needs scikit-learn.
"""

from __future__ import annotations

from pinned import CORE, THREADS  # isort: split

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from runner import RESULTS, commit, machine
from sklearn.mixture import GaussianMixture

from forethought.math.em import Joint, Settings, clusters, em, fit_count, start_from

FLOOR = 1e-6
TARGET = 1.0


def rows(count: int, d: int, components: int, seed: int = 0) -> np.ndarray:
    """Standardised rows from a mixture whose components overlap."""
    random = np.random.default_rng(seed)
    centres = 2.0 * random.normal(size=(components, d))
    mix = 0.8 * random.normal(size=(components, d, d))
    label = random.integers(components, size=count)
    points = centres[label] + np.einsum("nij,nj->ni", mix[label], random.normal(size=(count, d)))
    return (points - points.mean(axis=0)) / points.std(axis=0)


def theirs(points: np.ndarray, start: Joint, rounds: int, tolerance: float) -> GaussianMixture:
    """scikit-learn's EM from the given start; it would otherwise run k-means first."""
    mixture = GaussianMixture(
        len(start.means),
        tol=tolerance,
        max_iter=rounds,
        reg_covar=FLOOR,
        init_params="random_from_data",
        weights_init=np.exp(start.log_weights),
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covs),
        random_state=0,
    )
    return mixture.fit(points)


def seconds(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and processor seconds of one call, and what it gave."""
    began, worked = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - began, time.process_time() - worked, found


def beside(ours: Callable[[], Any], peer: Callable[[], Any], runs: int) -> tuple[dict[str, Any], Any, Any]:
    """Medians of both, called in turn, after one call of each that is not counted."""
    a, b = ours(), peer()
    taken = []
    for _ in range(runs):
        wall_a, cpu_a, a = seconds(ours)
        wall_b, cpu_b, b = seconds(peer)
        taken.append((wall_a, cpu_a, wall_b, cpu_b))
    each = np.asarray(taken)
    wall_ratio, cpu_ratio = each[:, 2] / each[:, 0], each[:, 3] / each[:, 1]
    found = {
        "seconds": each[:, 0].tolist(),
        "peer_seconds": each[:, 2].tolist(),
        "median": float(np.median(each[:, 0])),
        "peer_median": float(np.median(each[:, 2])),
        "processor_median": float(np.median(each[:, 1])),
        "peer_processor_median": float(np.median(each[:, 3])),
        "times_as_fast": float(np.median(wall_ratio)),
        "times_as_fast_by_processor_seconds": float(np.median(cpu_ratio)),
        "least_ratio": float(wall_ratio.min()),
    }
    return found, a, b


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """All three comparisons."""
    n, d, k, rounds, runs = (getattr(arguments, x) for x in ("rows", "columns", "components", "rounds", "runs"))
    points = rows(n, d, k)
    start = start_from(points, clusters(points, k, np.random.default_rng(0)), k, FLOOR)
    fixed = Settings(FLOOR, tolerance=0.0, most=rounds)
    same, a, b = beside(lambda: em(points, start, fixed), lambda: theirs(points, start, rounds, 0.0), runs)
    same |= {
        "rounds": rounds,
        "reseeded": a.reseeded,
        "difference_of_means": float(np.abs(a.joint.means - b.means_).max()),
        "difference_of_covariances": float(np.abs(a.joint.covs - b.covariances_).max()),
        "difference_of_log_likelihood": float(abs(a.history[-1] - b.score(points))),
    }
    # Their tolerance is absolute, ours a part of the log-likelihood: the same number of nats.
    nats = 1e-3
    until = Settings(FLOOR, tolerance=nats / abs(a.history[-1]), most=500)
    settled, a, b = beside(lambda: em(points, start, until), lambda: theirs(points, start, 500, nats), runs)
    settled |= {"nats": nats, "rounds": len(a.history) - 1, "peer_rounds": int(b.n_iter_)}
    whole = Settings(FLOOR, tolerance=until.tolerance, most=500, starts=1)
    plain = GaussianMixture(k, tol=nats, max_iter=500, reg_covar=FLOOR, random_state=0)
    fits, a, b = beside(
        lambda: fit_count(points, k, whole, np.random.default_rng(0)), lambda: plain.fit(points), min(runs, 5)
    )
    fits |= {
        "rounds": len(a.history) - 1,
        "peer_rounds": int(b.n_iter_),
        "log_likelihood": a.history[-1],
        "peer_log_likelihood": float(b.score(points)),
    }
    return {"same_rounds": same, "same_tolerance": settled, "whole_fits": fits}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 20000, "columns": 13, "components": 20, "rounds": 20, "runs": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    before = os.getloadavg()
    warnings.simplefilter("ignore")  # scikit-learn's, of rounds that were fixed on purpose
    found = measured(arguments)
    fastest = min(found[name]["times_as_fast"] for name in ("same_rounds", "same_tolerance"))
    result = {
        "commit": commit(),
        "machine": machine() | {"core": CORE, "numpy": np.__version__, "scikit-learn": sklearn.__version__},
        "settings": vars(arguments) | {"floor": FLOOR, "threads": THREADS},
        "load": {"before": before, "after": os.getloadavg()},
        **found,
        "target": TARGET,
        "met": fastest >= TARGET,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gmm.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, each in found.items():
        print(f"{name}: {each['median']:.3f} s, theirs {each['peer_median']:.3f} s: {each['times_as_fast']:.2f} times")
    print(f"target {TARGET} times as fast: {'met' if result['met'] else 'MISSED'}")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
