"""Spectra of kernels: time and memory against the bare LAPACK call, and ways without a kernel.

    python benchmarks/spectra.py

writes ``spectra.csv`` and ``spectra.png`` to ``benchmarks/results`` (``--out`` elsewhere). The
network has d = n/2 inputs and h = 3n/4 tanh units, so a quarter of its conjugate kernel is null.
For each n, in one process after a warm-up:

* ``eigvalsh``: scipy's and numpy's, of a conjugate kernel that is there;
* ``kernel_spectrum`` of the same kernel, without and with ten leading eigenvectors;
  ``ck_spectrum`` and ``ntk_spectrum``, which make the kernel first;
* its ten leading eigenpairs by Lanczos, matrix-free (activations made first), against LAPACK's
  subset driver on the kernel that is there;
* its density by stochastic Lanczos quadrature, likewise matrix-free.

All on one thread (``OMP_NUM_THREADS`` for more). Ways take turns, so that a slow moment of the
machine falls on all of them, and times are the best of the turns, in processor seconds for one
thread. ``error`` is, of eigenvalues, the largest difference to scipy's over the largest
eigenvalue; of the density, the largest error of its CDF. Peak memory is that of a fresh process
above what it needs before, the kernel included where it is there, in units of one kernel.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

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
    LanczosDensity,
    ck_spectrum,
    kernel_spectrum,
    lanczos_density,
    leading_eigenpairs,
    ntk_spectrum,
)
from model_metrology.spectra.kernels import ck_operator, conjugate_kernel_matrix

SIZES = (500, 1000, 2000, 4000)
LARGE = 2000
"""From this size on memory is measured: below, the rest of a process is the larger part."""
LEADING = 10
BARE = "scipy eigvalsh"
# Each way, and the panel of the figure it belongs to.
PANELS = {
    BARE: "all eigenvalues",
    "numpy eigvalsh": "all eigenvalues",
    "kernel_spectrum": "all eigenvalues",
    "ck_spectrum, kernel made": "all eigenvalues",
    "ntk_spectrum, kernel made": "all eigenvalues",
    "scipy eigh, 10 leading": "with eigenvectors, or a part",
    "kernel_spectrum, vectors=10": "with eigenvectors, or a part",
    "leading_eigenpairs, matrix-free": "with eigenvectors, or a part",
    "lanczos_density, matrix-free": "with eigenvectors, or a part",
}


def network(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, v and X."""
    rng = np.random.default_rng(n)
    h, d = 3 * n // 4, n // 2
    return rng.standard_normal((h, d)), rng.choice([-1.0, 1.0], h), rng.standard_normal((n, d))


def ways(n: int, *, there: bool = True) -> dict[str, Callable[[], object]]:
    w, v, x = network(n)
    kernel = conjugate_kernel_matrix(w, x, "tanh") if there else np.eye(1)
    subset = (n - LEADING, n - 1)
    return {
        BARE: lambda: linalg.eigvalsh(kernel),
        "numpy eigvalsh": lambda: np.linalg.eigvalsh(kernel),
        "kernel_spectrum": lambda: kernel_spectrum(kernel),
        "ck_spectrum, kernel made": lambda: ck_spectrum(w, x, "tanh"),
        "ntk_spectrum, kernel made": lambda: ntk_spectrum(w, v, x, "tanh"),
        "scipy eigh, 10 leading": lambda: linalg.eigh(kernel, subset_by_index=subset),
        "kernel_spectrum, vectors=10": lambda: kernel_spectrum(kernel, vectors=LEADING),
        "leading_eigenpairs, matrix-free": lambda: leading_eigenpairs(
            ck_operator(w, x, "tanh"), LEADING
        ),
        "lanczos_density, matrix-free": lambda: lanczos_density(ck_operator(w, x, "tanh")),
    }


def take_turns(
    calls: dict[str, Callable[[], object]], turns: int
) -> tuple[dict[str, float], dict[str, object]]:
    """Seconds and result of each way."""
    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    seconds, results = dict.fromkeys(calls, np.inf), {}
    for _ in range(turns):
        for way, call in calls.items():
            start = clock()
            results[way] = call()
            seconds[way] = min(seconds[way], clock() - start)
    return seconds, results


def errors(results: dict[str, object], n: int) -> dict[str, float]:
    exact = results[BARE]
    found = {
        way: np.abs(results[way].eigenvalues - exact).max() / exact[-1]
        for way in ("kernel_spectrum", "ck_spectrum, kernel made", "kernel_spectrum, vectors=10")
    }
    values = results["leading_eigenpairs, matrix-free"][0]
    leading = exact[: -LEADING - 1 : -1]
    found["leading_eigenpairs, matrix-free"] = np.abs(values - leading).max() / leading[0]
    density = results["lanczos_density, matrix-free"]
    assert isinstance(density, LanczosDensity)
    # With zeros that are zero: scipy's are of either sign.
    exact = results["kernel_spectrum"].eigenvalues
    places = np.concatenate([exact, (exact[1:] + exact[:-1]) / 2])
    shares = np.searchsorted(exact, places, side="right") / n
    found["lanczos_density, matrix-free"] = np.abs(density.cdf(places) - shares).max()
    return found


def measure(n: int) -> list[dict[str, object]]:
    seconds, results = take_turns(ways(n), 2 if n >= 4000 else 5)
    found = errors(results, n)
    return [
        {
            "n": n,
            "way": way,
            "seconds": f"{taken:.4f}",
            "over_scipy": f"{taken / seconds[BARE]:.3f}",
            "error": f"{found[way]:.1e}" if way in found else "",
            "kernels": f"{peak(n, way):.2f}" if n >= LARGE else "",
        }
        for way, taken in seconds.items()
    ]


def peak(n: int, way: str) -> float:
    """Peak memory of one way in a process of its own, in kernels."""
    command = [sys.executable, __file__, "--peak", str(n), way]
    # Arrays of any size that matters go back to the system once freed, and do not count again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


def status(key: str) -> int:
    """A line of this process's memory, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure_peak(n: int, way: str) -> float:
    # Libraries are loaded, threads started and buffers taken by a small one; resource's ru_maxrss
    # would begin with what the calling process had.
    for call in ways(100).values():
        call()
    there = "made" not in way and "free" not in way
    call = ways(n, there=there)[way]
    # A kernel that is there counts as this way's.
    before = status("VmRSS") - (8 * n**2 if there else 0)
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return (status("VmHWM") - before) / (8 * n**2)


@style.styled
def draw(rows: list[dict[str, object]]) -> plt.Figure:
    figure, axes = style.subplots(1, 3, height=4.4)
    places = list(dict.fromkeys(PANELS.values()))
    sizes = sorted({int(str(row["n"])) for row in rows})
    for i, (way, panel) in enumerate(PANELS.items()):
        part = [row for row in rows if row["way"] == way]
        colour = style.colour(i) if i else style.REFERENCE
        ratios = [float(str(row["over_scipy"])) for row in part]
        axes[places.index(panel)].plot(
            sizes, ratios, label=way, color=colour, marker=style.marker(i), ls="-" if i else "--"
        )
        memory = float(str(part[-1]["kernels"] or "nan"))
        axes[2].barh(i, memory, color=colour)
        axes[2].text(memory + 0.05, i, f"{memory:.2f}", va="center", fontsize=9)
    axes[1].axhline(1.0, color=style.REFERENCE, ls="--")
    for ax, title in zip(axes, places, strict=False):
        ax.set(xscale="log", yscale="log", title=title, xlabel="points n (d = n/2, h = 3n/4)")
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
        ticks = (0.5, 1, 2, 4, 8)
        ax.set_yticks(ticks, [f"{tick:g} ×" for tick in ticks])
        ax.set_ylim(0.4, 12)
        ax.minorticks_off()
    axes[0].set_ylabel("time over scipy eigvalsh")
    axes[2].set(title=f"peak memory, n = {sizes[-1]:,}", xlabel="n × n kernels", xlim=(0, 3))
    axes[2].set_yticks([])
    axes[2].invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


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
    take_turns(ways(100), 1)
    rows: list[dict[str, object]] = []
    for n in arguments.sizes:
        rows += measure(n)
        for row in rows[-len(PANELS) :]:
            print(*row.values(), sep=" · ", flush=True)
    with (arguments.out / "spectra.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    style.save(draw(rows), arguments.out / "spectra.png")


if __name__ == "__main__":
    main()
