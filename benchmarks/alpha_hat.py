"""Exact α̂ against linear programmes: time, agreement, and how time grows with n.

    python benchmarks/alpha_hat.py

writes ``alpha_hat.csv`` and ``alpha_hat.png`` to ``benchmarks/results`` (``--out`` elsewhere).
The peers solve the same problem in the form that suits a solver best: one variable a knot, the
tube as bounds, the slopes as two sparse rows a knot, HiGHS's dual simplex (its interior-point
method takes two to five times as long here).

* ``bisection over an LP``: is a trimming of share α within c? 30 feasibility programmes, to
  1e-9 in α. The usual way.
* ``one LP``: the cap L as one more variable, minimised. The best a solver can do.

All on one thread. Times are the best of several runs for ours, of one for the programmes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import optimize, sparse

from model_metrology.variability import AlphaHat, alpha_hat
from model_metrology.variability.trimming import Knots, two_sample_knots

LP_SIZES = (500, 2000, 8000)
SIZES = (500, 1000, 2000, 8000, 30_000, 100_000, 300_000, 1_000_000)
BISECTION_STEPS = 30
# At the default of 1e-7 bisection is off by as much, and no faster.
PRECISE = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of n gaps: like logit gaps, two humps; the candidate's are wider."""
    rng = np.random.default_rng([20, n])
    side = np.where(rng.random((2, n)) < 0.5, -3.0, 3.0)
    reference, candidate = side + 1.5 * rng.normal(size=(2, n))
    return 1.15 * candidate, reference


def tube(knots: Knots, c: float) -> np.ndarray:
    """Bounds of F̃ at each knot."""
    bounds = np.column_stack((np.maximum(knots.before - c, 0), np.minimum(knots.at + c, 1)))
    bounds[0], bounds[-1] = 0.0, 1.0
    return bounds


def solve(cost: np.ndarray, rows: sparse.csr_array, bound: np.ndarray, bounds: np.ndarray) -> float:
    result = optimize.linprog(cost, rows, bound, bounds=bounds, method="highs-ds", options=PRECISE)
    if result.status == 2:
        return np.inf
    if result.status != 0:
        raise RuntimeError(result.message)
    return float(result.fun)


def climbs(k: int) -> sparse.csr_array:
    """Matrix whose product with heights at k + 1 knots are the k climbs."""
    return sparse.diags_array([-np.ones(k), np.ones(k)], offsets=[0, 1], shape=(k, k + 1)).tocsr()


def by_bisection(sample: np.ndarray, reference: np.ndarray, c: float) -> float:
    knots = two_sample_knots(sample, reference)
    share = np.diff(knots.mass)
    climb = climbs(len(share))
    rows = sparse.vstack((climb, -climb)).tocsr()
    bounds, cost = tube(knots, c), np.zeros(len(share) + 1)
    low, high = 0.0, 1.0
    for _ in range(BISECTION_STEPS):
        alpha = (low + high) / 2
        bound = np.concatenate((share / (1 - alpha), np.zeros(len(share))))
        if solve(cost, rows, bound, bounds) == np.inf:
            low = alpha
        else:
            high = alpha
    return high


def by_one_programme(sample: np.ndarray, reference: np.ndarray, c: float) -> float:
    knots = two_sample_knots(sample, reference)
    share = np.diff(knots.mass)
    climb = climbs(len(share))
    steep = sparse.hstack((climb, sparse.csr_array(-share[:, None])))
    fall = sparse.hstack((-climb, sparse.csr_array((len(share), 1))))
    bounds = np.vstack((tube(knots, c), [1.0, np.inf]))
    cost = np.append(np.zeros(len(share) + 1), 1.0)
    rows = sparse.vstack((steep, fall)).tocsr()
    return 1.0 - 1.0 / solve(cost, rows, np.zeros(2 * len(share)), bounds)


def seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []

    def add(method: str, n: int, taken: float, alpha: float, exact: float, ours: float) -> None:
        row = {
            "method": method,
            "n": n,
            "seconds": f"{taken:.6g}",
            "alpha_hat": f"{alpha:.12f}",
            "difference": f"{abs(alpha - exact):.1e}",
            "times_slower": f"{taken / ours:.0f}",
        }
        rows.append(row)
        cells = (row["seconds"], row["alpha_hat"], row["difference"], row["times_slower"])
        print(f"{method:<22} {n:>9,} {' '.join(f'{cell:>14}' for cell in cells)}", flush=True)

    head = ("seconds", "alpha_hat", "difference", "times slower")
    print(f"{'method':<22} {'n':>9} {' '.join(f'{cell:>14}' for cell in head)}")
    for n in SIZES:
        sample, reference = draw(n)
        result: AlphaHat = alpha_hat(sample, reference)
        exact = result.alpha
        ours = seconds(lambda s=sample, r=reference: alpha_hat(s, r), max(5, 200_000 // n))
        add("exact (ours)", n, ours, exact, exact, ours)
        if n not in LP_SIZES:
            continue
        for name, peer in (("one LP", by_one_programme), ("bisection over an LP", by_bisection)):
            start = time.perf_counter()
            alpha = peer(sample, reference, result.tolerance)
            add(name, n, time.perf_counter() - start, alpha, exact, ours)
    return rows


def draw_figure(rows: list[dict[str, object]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5.0, 3.6), layout="constrained")
    styles = {"exact (ours)": "o-", "one LP": "s--", "bisection over an LP": "^:"}
    for method, style in styles.items():
        points = [(int(r["n"]), float(r["seconds"])) for r in rows if r["method"] == method]
        axes.loglog(*zip(*points, strict=True), style, label=method)
    axes.set_xlabel("points in each of the two samples")
    axes.set_ylabel("seconds, one thread, sort included")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = measure()
    with open(out / "alpha_hat.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw_figure(rows, out / "alpha_hat.png")


if __name__ == "__main__":
    main()
