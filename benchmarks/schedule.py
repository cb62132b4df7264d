"""How long a study takes on other machines: Snakemake's dry run, played with recorded times.

    python benchmarks/schedule.py results/default [--study config.yaml] [--cores 1 2 4 8 16]

Reads the jobs of a study, and what each waits for, from `snakemake --dry-run --forceall`, the time
of each from its `benchmark:` file, and starts jobs in that order as cores come free. On the machine
where the times were recorded the result can be held against the clock; elsewhere it is a forecast
whose jobs take as long as they did here.
"""

from __future__ import annotations

import argparse
import heapq
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """A job of a dry run."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    benchmark: str
    threads: int
    gpu: int


def planned_jobs(study: Path, folder: Path, *options: str) -> list[Job]:
    """The jobs of a study as Snakemake lists them: a job comes after those it waits for."""
    command = ["snakemake", "--dry-run", "--forceall", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", str(study), "--directory", str(folder), *options]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shown = subprocess.run(
        command,
        env=os.environ | {"PATH": path},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if shown.returncode:
        raise RuntimeError(shown.stdout[-3000:])
    # Jobs of a group are indented once more.
    listed = re.findall(r"^( *)(?:local)?rule (.+):\n((?:\1 {4}.*\n)+)", shown.stdout, re.MULTILINE)
    return [
        _job(rule, dict(re.findall(r"^ +(\w+): (.*)$", text, re.MULTILINE)))
        for _, rule, text in listed
    ]


def _job(rule: str, shown: Mapping[str, str]) -> Job:
    resources = dict(re.findall(r"(\w+)=([^,]+)", shown.get("resources", "")))
    wildcards = re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", shown.get("wildcards", ""))
    return Job(
        rule=rule,
        wildcards=dict(wildcards),
        inputs=_files(shown.get("input", "")),
        outputs=_files(shown.get("output", "")),
        benchmark=shown.get("benchmark", ""),
        threads=int(shown.get("threads", 1)),
        gpu=int(resources.get("gpu", 0)),
    )


def _files(shown: str) -> tuple[str, ...]:
    return tuple(name for name in shown.split(", ") if name)  # commas in names are encoded


def recorded_seconds(job: Job, folder: Path) -> float:
    """Wall time of a job, from its benchmark; jobs without one do nothing."""
    if not job.benchmark:
        return 0.0
    return float(pd.read_csv(folder / job.benchmark, sep="\t")["s"].iloc[0])


@dataclass(frozen=True)
class Schedule:
    """When all was done, and what kept it busy."""

    seconds: float
    busy: float
    longest_chain: float


def simulate(
    jobs: Sequence[Job], seconds: Sequence[float], *, cores: int, gpus: int | None = None
) -> Schedule:
    """Play a plan: whenever something is free, the first job that is ready starts if it fits.

    Of jobs with a GPU, and of the others, later ones do not overtake the first.

    Parameters
    ----------
    jobs
        In an order in which no job comes before one that it waits for.
    seconds
        Of each job.
    cores
        Threads of all jobs that run at a time.
    gpus
        Jobs with a GPU that run at a time; None: as many as there are cores for.

    Returns
    -------
    Schedule
        Seconds until the last job ends; share of cores (or GPUs, if given) that were busy; and
        the longest chain of jobs that wait for each other, which no machine shortens.
    """
    made_by = {name: index for index, job in enumerate(jobs) for name in job.outputs}
    waits = [{made_by[name] for name in job.inputs if name in made_by} for job in jobs]
    needed_by: list[list[int]] = [[] for _ in jobs]
    for index, before in enumerate(waits):
        for other in before:
            needed_by[other].append(index)
    chain = [0.0] * len(jobs)
    for index, before in enumerate(waits):
        chain[index] = seconds[index] + max((chain[other] for other in before), default=0.0)

    left = [len(before) for before in waits]
    # Two queues: a job that waits for a GPU holds up none that needs no GPU.
    ready: dict[bool, list[int]] = {False: [], True: []}
    for index in range(len(jobs)):
        if not left[index]:
            heapq.heappush(ready[_on_gpu(jobs[index], gpus)], index)
    running: list[tuple[float, int]] = []
    now, free, free_gpus = 0.0, cores, gpus or 0
    while running or any(ready.values()):
        for on_gpu in (True, False):
            queue = ready[on_gpu]
            while queue and free >= min(jobs[queue[0]].threads, cores):
                if on_gpu and not free_gpus:
                    break
                index = heapq.heappop(queue)
                free -= min(jobs[index].threads, cores)
                free_gpus -= on_gpu
                heapq.heappush(running, (now + seconds[index], index))
        now, index = heapq.heappop(running)
        free += min(jobs[index].threads, cores)
        free_gpus += _on_gpu(jobs[index], gpus)
        for other in needed_by[index]:
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready[_on_gpu(jobs[other], gpus)], other)
    return Schedule(now, _busy(jobs, seconds, now, cores, gpus), max(chain, default=0.0))


def _on_gpu(job: Job, gpus: int | None) -> bool:
    return gpus is not None and job.gpu > 0


def _busy(
    jobs: Sequence[Job], seconds: Sequence[float], total: float, cores: int, gpus: int | None
) -> float:
    if gpus is None:
        threads = (min(job.threads, cores) for job in jobs)
        used = sum(number * each for number, each in zip(threads, seconds, strict=True))
        return used / (total * cores)
    on_gpus = sum(each for job, each in zip(jobs, seconds, strict=True) if job.gpu)
    return on_gpus / (total * gpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="of a finished study: results/<study>")
    parser.add_argument("--study", type=Path, default=ROOT / "config.yaml")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--start", type=float, default=0.0, help="seconds that each job adds")
    arguments = parser.parse_args()
    folder = arguments.results.absolute().parents[1]
    jobs = planned_jobs(arguments.study.absolute(), folder, "--cores", str(max(arguments.cores)))
    seconds = [recorded_seconds(job, folder) + arguments.start for job in jobs]
    total = Counter[str]()
    for job, each in zip(jobs, seconds, strict=True):
        total[job.rule] += each
    for rule, each in total.most_common(12):
        print(f"{rule:30s} {each:8.1f} s")
    print(f"{len(jobs)} jobs, {sum(seconds):.0f} s")
    for cores in arguments.cores:
        played = simulate(jobs, seconds, cores=cores)
        print(
            f"{cores:4d} cores {played.seconds:8.1f} s, {played.busy:.0%} busy "
            f"(longest chain {played.longest_chain:.1f} s)"
        )


if __name__ == "__main__":
    main()
