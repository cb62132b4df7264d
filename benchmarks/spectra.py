"""Spectra of kernels: time and memory against the bare LAPACK call, and ways without a kernel.

    python benchmarks/spectra.py

writes ``spectra.csv`` and ``spectra.png`` to ``benchmarks/results`` (``--out`` elsewhere). The
network has d = n/2 inputs and h = 3n/4 units. For each n, in one process after a warm-up:

* ``LAPACK``: ``scipy.linalg.eigvalsh`` of a kernel that is there, and numpy's;
* ``kernel_spectrum`` of the same kernel; ``ck_spectrum`` and ``ntk_spectrum``, which make the
  kernel first;
* the ten leading eigenpairs by Lanczos, matrix-free, against a dense subset;
* the density by stochastic Lanczos quadrature, matrix-free, and its largest error as a CDF.

Peak memory is that of a fresh process above what it needs before, in units of one n × n kernel of
float64. Times are the best of three (of one from n = 4,000 on).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import linalg

from model_metrology.plots import style
from model_metrology.spectra.eigen import (
    ck_spectrum,
    kernel_spectrum,
    lanczos_density,
    leading_eigenpairs,
    ntk_spectrum,
)
from model_metrology.spectra.kernels import ck_operator, ntk_matrix

SIZES = (500, 1000, 2000, 4000)
LEADING = 10


def network(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, v and X."""
    rng = np.random.default_rng(n)
    h, d = 3 * n // 4, n // 2
    return rng.standard_normal((h, d)), rng.choice([-1.0, 1.0], h), rng.standard_normal((n, d))


def best(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(n: int) -> list[dict[str, object]]:
    w, v, x = network(n)
    kernel = ntk_matrix(w, v, x, "tanh")
    repeats = 1 if n >= 4000 else 3
    operator = ck_operator(w, x, "tanh")
    ways = {
        "LAPACK (scipy eigvalsh)": lambda: linalg.eigvalsh(kernel),
        "LAPACK (numpy eigvalsh)": lambda: np.linalg.eigvalsh(kernel),
        "kernel_spectrum": lambda: kernel_spectrum(kernel),
        "ck_spectrum, kernel made": lambda: ck_spectrum(w, x, "tanh"),
        "ntk_spectrum, kernel made": lambda: ntk_spectrum(w, v, x, "tanh"),
        "10 leading, dense": lambda: linalg.eigh(kernel, subset_by_index=(n - LEADING, n - 1)),
        "10 leading, Lanczos": lambda: leading_eigenpairs(operator, LEADING),
        "density, Lanczos": lambda: lanczos_density(operator),
    }
    linalg.eigvalsh(kernel[:200, :200])
    seconds = {name: best(way, repeats) for name, way in ways.items()}
    bare = seconds["LAPACK (scipy eigvalsh)"]
    rows: list[dict[str, object]] = [
        {"n": n, "way": name, "seconds": f"{value:.4f}", "over_lapack": f"{value / bare:.3f}"}
        for name, value in seconds.items()
    ]
    for row in rows:
        row["kernels"] = f"{peak(n, str(row['way'])):.2f}" if row["way"] in PEAKS else ""
    exact = ck_spectrum(w, x, "tanh").eigenvalues
    found = lanczos_density(operator)
    # The CDF is compared between eigenvalues, and right of the null space: at one it may count it
    # or not.
    between = ((exact[1:] + exact[:-1]) / 2)[exact[:-1] > 0]
    error = np.abs(found.cdf(between) - np.arange(n - len(between), n) / n).max()
    rows[-1]["cdf_error"] = f"{error:.4f}"
    return rows


PEAKS = ("LAPACK (scipy eigvalsh)", "kernel_spectrum", "ck_spectrum, kernel made")
PEAKS += ("ntk_spectrum, kernel made",)


def peak(n: int, way: str) -> float:
    """Peak memory of one way in a process of its own, in kernels."""
    command = [sys.executable, __file__, "--peak", str(n), way]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout)


def measure_peak(n: int, way: str) -> float:
    w, v, x = network(n)
    kernel = None if "made" in way else ntk_matrix(w, v, x, "tanh")
    ntk_spectrum(*(part[:50] for part in (w, v)), x[:60], "tanh")
    # The kernel that is there counts; Linux lets a process reset its own high-water mark.
    counted = 0.0 if kernel is None else 1.0
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    if kernel is None:
        ck_spectrum(w, x, "tanh") if way.startswith("ck") else ntk_spectrum(w, v, x, "tanh")
    elif way == "kernel_spectrum":
        # In place, as ck_spectrum and ntk_spectrum do.
        kernel_spectrum(kernel, overwrite=True)
    else:
        linalg.eigvalsh(kernel)
    return counted + 1024 * (memory("VmHWM") - before) / (8 * n**2)


def memory(key: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def draw(rows: list[dict[str, object]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for i, way in enumerate(dict.fromkeys(str(row["way"]) for row in rows)):
        part = [row for row in rows if row["way"] == way]
        axes.loglog(
            [row["n"] for row in part],
            [float(str(row["seconds"])) for row in part],
            marker=style.marker(i),
            color=style.colour(i),
            label=way,
        )
    axes.set(xlabel="points n (d = n/2, h = 3n/4)", ylabel="seconds")
    axes.set_title("Spectra of kernels of two-layer networks")
    axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    axes.minorticks_off()
    axes.grid(color="#e6e6e6")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--peak", nargs=2, metavar=("N", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(measure_peak(int(arguments.peak[0]), arguments.peak[1]))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in arguments.sizes:
        rows += measure(n)
        for row in rows[-8:]:
            print(*row.values(), sep=" · ", flush=True)
    with (arguments.out / "spectra.csv").open("w", newline="") as file:
        fields = ["n", "way", "seconds", "over_lapack", "kernels", "cdf_error"]
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, arguments.out / "spectra.png")


if __name__ == "__main__":
    main()
