"""What `runs_per_job` gains: 100 MLPs on MNIST2, one job a run against blocks, whole commands.

    python benchmarks/runs_per_job.py [--runs 100] [--cores 2]

Each row is one `snakemake` command, from its start to the last run's file, with the dataset
prepared beforehand; all in one go on one machine. Compare the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import yaml

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def study(runs: int, runs_per_job: int, stacked: str) -> dict:
    """100 of the paper's MLPs (784-100-100-100-1), two epochs each."""
    population = {
        "dataset": "mnist2",
        "architecture": {"name": "mlp", "width": 100, "depth": 3, "outputs": "one"},
        "recipe": {"optimiser": "sgd", "learning_rate": 0.05, "batch_size": 64, "epochs": 2},
        "size": runs,
        "runs_per_job": runs_per_job,
        "stacked": stacked,
    }
    return {
        "name": f"{stacked}-{runs_per_job}",
        "datasets": {"mnist2": {}},
        "data": {"cache": str(ROOT / "resources")},
        "populations": {"mlp": population},
    }


def snakemake(folder: Path, content: dict, cores: int, target: str) -> float:
    """Seconds that one command takes."""
    config = folder / f"{content['name']}.yaml"
    config.write_text(yaml.safe_dump(content))
    command = ["snakemake", "--cores", str(cores), "--quiet", "all", "--workflow-profile", "none"]
    command += ["--directory", str(folder), "--snakefile", str(ROOT / "Snakefile"), target]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.perf_counter()
    subprocess.run(
        [*command, "--configfile", str(config)],
        env=os.environ | {"PATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def measure(runs: int, cores: int) -> list[dict]:
    """Time each way of training the same runs."""
    block = -(-runs // cores)
    ways = [
        ("one job a run", 1, "no"),
        (f"{block} runs a job, one after another", block, "no"),
        (f"{block} runs a job, stacked", block, "auto"),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way, runs_per_job, stacked in ways:
            content = study(runs, runs_per_job, stacked)
            results = Path(folder) / "results" / content["name"]
            snakemake(Path(folder), content, cores, f"results/{content['name']}/data/mnist2.h5")
            target = f"results/{content['name']}/outputs/mlp.h5"
            seconds = snakemake(Path(folder), content, cores, target)
            rows.append({"way": way, "runs": runs, "cores": cores, "seconds": round(seconds, 1)})
            rows[-1]["gain"] = round(rows[0]["seconds"] / seconds, 2)
            print(f"{way:45s} {seconds:8.1f} s   {rows[-1]['gain']:6.2f} x", flush=True)
            shutil.rmtree(results)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    axes.barh([row["way"] for row in rows], [row["seconds"] for row in rows], color="#0072B2")
    for i, row in enumerate(rows):
        axes.text(row["seconds"], i, f" {row['seconds']:.0f} s ({row['gain']:.1f} ×)", va="center")
    axes.set(xlabel=f"seconds for {rows[0]['runs']} MLPs on MNIST2, {rows[0]['cores']} cores")
    axes.margins(x=0.2)
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    rows = measure(arguments.runs, arguments.cores)
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "runs_per_job.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, RESULTS / "runs_per_job.png")


if __name__ == "__main__":
    main()
