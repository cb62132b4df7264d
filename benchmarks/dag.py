"""What planning costs: Snakemake's dry run of studies of up to 10,000 runs.

    python benchmarks/dag.py [--runs 100 300 1000 3000 10000]

Each row is one `snakemake --dry-run` in a fresh folder, from its start to its end: seconds, and the
most memory that its process held. Seconds beyond those of a study of one run grow as a power of the
number of runs, which is fitted. Compare the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def trained(runs: int, runs_per_job: int, **more) -> dict:
    """Small MLPs, their outputs and what is measured of them."""
    population = {
        "dataset": "digits2",
        "architecture": {"name": "mlp", "width": 16, "depth": 1},
        "recipe": {"optimiser": "adam", "learning_rate": 0.01, "batch_size": 64, "epochs": 3},
    }
    large = population | {"size": runs, "runs_per_job": runs_per_job}
    return {
        "name": "scale",
        "datasets": {"digits2": {}},
        "populations": {"reference": population | {"size": 46}, "runs": large},
        "variability": {
            "reference": {"population": "reference", "size": 45},
            "comparisons": {"all": {"title": "All", "populations": ["runs"]}},
        },
    } | more


def explained(runs: int) -> dict:
    """The same, each run with its kernels, surrogates and figures' tables."""
    surrogates = {"populations": ["runs"], "runs": runs, "train": 90, "test": 60}
    return trained(runs, 50, surrogates=surrogates)


def two_layer(runs: int) -> dict:
    """Two-layer networks and their spectra, one run a job."""
    network = {
        "data": {"points": 80, "points_per_dimension": 2},
        "network": {"width_per_dimension": 1.5, "trained": "both"},
        "recipe": {"optimiser": "gd", "learning_rate": 2, "steps": 20},
        "size": runs,
        "runs_per_job": 1,
    }
    return {"name": "scale", "spectra": {"populations": {"GD": network}}}


SHAPES: dict[str, Callable[[int], dict]] = {
    "trained, one run a job": lambda runs: trained(runs, 1),
    "trained, 50 runs a job": lambda runs: trained(runs, 50),
    "two-layer, spectra, one run a job": two_layer,
    "trained, 50 runs a job, kernels and surrogates of each": explained,
}


def dry_run(content: dict) -> dict[str, float]:
    """Seconds, memory and jobs of one dry run."""
    with tempfile.TemporaryDirectory() as folder:
        study, shown = Path(folder) / "study.yaml", Path(folder) / "shown.txt"
        study.write_text(yaml.safe_dump(content))
        command = ["snakemake", "--dry-run", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", folder, "--configfile", str(study)]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        started = time.perf_counter()
        with shown.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PATH": path}
            )
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        text = shown.read_text()
    if status:
        raise RuntimeError(text[-3000:])
    jobs = int(re.findall(r"^total +(\d+)", text, re.MULTILINE)[-1])
    return {"jobs": jobs, "seconds": round(seconds, 2), "memory_mb": round(usage.ru_maxrss / 1024)}


def exponent(rows: pd.DataFrame) -> float:
    """Power of the number of runs with which seconds grow beyond those of one run; NaN: hardly."""
    beyond = rows["seconds"] - rows["seconds"].iloc[0]
    grown = beyond > 1.0  # a second: what a start varies by
    if grown.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(rows["runs"][grown]), np.log(beyond[grown]), 1)[0])


def plot(table: pd.DataFrame, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    looks = zip(["#0072B2", "#D55E00", "#009E73", "#CC79A7"], "osD^", strict=True)
    for (shape, rows), (colour, marker) in zip(
        table.groupby("shape", sort=False), looks, strict=False
    ):
        style = {"color": colour, "marker": marker}
        power = rows["exponent"].iloc[0]
        growth = "hardly grows" if np.isnan(power) else f"$n^{{{power:.2f}}}$"
        axes[0].plot(rows["runs"], rows["seconds"], label=f"{shape}: {growth}", **style)
        axes[1].plot(rows["runs"], rows["memory_mb"], **style)
    ticks = ([2, 5, 10, 20, 50, 100], [100, 200, 500, 1000, 2000])
    for each, limit, label, shown in zip(
        axes, (60, 2000), ("seconds of a dry run", "most memory (MB)"), ticks, strict=True
    ):
        each.axhline(limit, color="grey", linestyle="--", linewidth=1)
        each.text(1, 0.9 * limit, "goal at 10,000 runs", va="top", color="dimgrey")
        each.set(xscale="log", yscale="log", xlabel="runs in the study", ylabel=label)
        each.set_yticks(shown, map(str, shown))
        each.minorticks_off()
        each.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    arguments = parser.parse_args()
    rows = []
    for shape, study in SHAPES.items():
        for runs in [1, *sorted(arguments.runs)]:
            # Planning kernels of each run is the costliest by far: a third of the runs will do.
            if study is explained and runs > 3000:
                continue
            rows.append({"shape": shape, "runs": runs} | dry_run(study(runs)))
            print("{shape:55s} {runs:6d} runs {jobs:6d} jobs {seconds:7.1f} s "
                  "{memory_mb:5d} MB".format(**rows[-1]), flush=True)  # fmt: skip
    table = pd.DataFrame(rows)
    powers = {shape: exponent(part) for shape, part in table.groupby("shape")}
    table["exponent"] = table["shape"].map(powers).round(2)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "dag.csv", index=False)
    plot(table, RESULTS / "dag.png")


if __name__ == "__main__":
    main()
