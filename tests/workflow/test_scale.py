"""Large studies: planning grows as the number of runs does, and so does what a plan foretells."""

import importlib.util
import sys
from collections import Counter
from itertools import pairwise

import pytest

from .conftest import ROOT


def benchmark(name):
    """A module of the folder `benchmarks`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


dag, schedule = benchmark("dag"), benchmark("schedule")


def chain(*seconds):
    """Jobs of which each waits for the one before."""
    files = [f"results/{i}" for i in range(len(seconds) + 1)]
    return [job([a], [b]) for a, b in pairwise(files)], list(seconds)


def job(inputs, outputs, gpu=0, threads=1):
    return schedule.Job("rule", {}, tuple(inputs), tuple(outputs), "", threads, gpu)


def test_jobs_that_wait_for_each_other_take_their_sum():
    jobs, seconds = chain(1, 2, 3)
    for cores in (1, 4):
        played = schedule.simulate(jobs, seconds, cores=cores)
        assert (played.seconds, played.longest_chain) == (6, 6)


@pytest.mark.parametrize(("cores", "expected"), [(1, 12), (2, 8), (3, 6), (9, 4)])
def test_jobs_that_are_free_share_the_cores(cores, expected):
    jobs = [job([], [f"results/{i}"]) for i in range(5)]
    # In their order: the last begins at 8 on one core, at 4 on two, at 2 on three.
    played = schedule.simulate(jobs, [3, 2, 2, 1, 4], cores=cores)
    assert played.seconds == expected
    assert played.longest_chain == 4
    assert played.busy == pytest.approx(12 / (cores * played.seconds))


def test_a_job_that_waits_for_a_gpu_holds_up_no_other():
    jobs = [job([], [f"results/{i}"], gpu) for i, gpu in enumerate((1, 1, 0))]
    played = schedule.simulate(jobs, [5, 5, 8], cores=2, gpus=1)
    assert (played.seconds, played.busy) == (10, 1)


def test_threads_are_counted():
    jobs = [job([], [f"results/{i}"], threads=2) for i in range(3)]
    assert schedule.simulate(jobs, [1, 1, 1], cores=4).seconds == 2
    assert schedule.simulate(jobs, [1, 1, 1], cores=1).seconds == 3  # a job has what there is


def test_a_plan_has_all_jobs_and_what_they_wait_for(smoke):
    jobs = schedule.planned_jobs(smoke.folder / "config.yaml", smoke.folder, "--cores", "2")
    expected = smoke.jobs("--forceall")
    assert Counter(each.rule for each in jobs) + Counter(total=len(jobs)) == Counter(expected)
    made = {name: i for i, each in enumerate(jobs) for name in each.outputs}
    # Each comes after those it waits for; the last waits for figures.
    assert all(
        made[name] < i for i, each in enumerate(jobs) for name in each.inputs if name in made
    )
    assert all((smoke.folder / name).exists() for name in made)
    assert jobs[-1].rule == "all" and set(jobs[-1].inputs) <= set(made)
    seconds = [schedule.recorded_seconds(each, smoke.folder) for each in jobs]
    assert all(each > 0 for each in seconds[:-1])
    played = schedule.simulate(jobs, seconds, cores=2)
    assert max(played.longest_chain, sum(seconds) / 2) <= played.seconds <= sum(seconds)


@pytest.mark.parametrize("shape", list(dag.SHAPES))
def test_hundreds_of_runs_are_planned_with_hardly_more_memory(shape):
    few, many = (dag.dry_run(dag.SHAPES[shape](runs)) for runs in (1, 400))
    assert many["jobs"] > few["jobs"]
    assert many["memory_mb"] < 2 * few["memory_mb"]


@pytest.mark.slow
def test_ten_thousand_runs_are_planned_in_two_gigabytes_and_linear_time():
    few, some, many = (dag.dry_run(dag.trained(runs, 1)) for runs in (1, 2_500, 10_000))
    assert many["jobs"] > 10_000 and many["memory_mb"] < 2_000
    # Four times the runs: linear would be four, its square sixteen. Beyond the start-up.
    assert many["seconds"] - few["seconds"] < 8 * (some["seconds"] - few["seconds"])
