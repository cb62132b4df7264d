"""The workflow on a real Slurm of one node: the results of a local run, and what is asked for."""

import re
import tempfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from model_metrology.study import folder_name

from ..workflow.conftest import Workflow, assert_same_results, smoke_study
from . import slurm

pytestmark = pytest.mark.cluster

RESULTS = "results/smoke"
# Of every stage of the smoke study a part; the whole takes three times as long.
PART = [
    f"{RESULTS}/{name}"
    for name in (
        "variability/noise 20%/alpha.csv",
        "spectra/measured/GD/0000-0001.h5",
        "spectra/measured/fixed steps/0000-0005.h5",
        "surrogates/base/0000/surrogates.h5",
        "embeddings/articles/wordllama/separability.csv",
        "figures/variability/ensemble_size.png",
        "figures/spectra/images.png",
    )
]
# The profile as it is, for a Slurm that has no accounting and may be asked often.
ON_SLURM = (
    *("--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--slurm-keep-successful-logs"),
)


@pytest.fixture(scope="session")
def cluster():
    if reason := slurm.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        slurm.start(folder)
        yield
        slurm.stop(folder)


@pytest.fixture(scope="session")
def part(cluster, tmp_path_factory):
    """Parts of the smoke study, run by Slurm, each training with all the GPUs that there are."""
    workflow = Workflow(tmp_path_factory.mktemp("slurm") / "work flow")
    workflow.study(smoke_study())
    workflow.run(*PART, *ON_SLURM, "--set-resources", f"train:gpu={slurm.GPUS}")
    return workflow


def jobs_of(workflow, comment=""):
    """What Slurm knows of the jobs of a workflow, and how a comment on them begins."""
    shown = slurm.command("scontrol", "--details", "show", "jobs").split("\n\n")
    jobs = [dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\n|$)", job)) for job in shown]
    own = [job for job in jobs if job.get("WorkDir") == str(workflow.folder)]
    return [job for job in own if job["Comment"].startswith(comment)]


def times(jobs):
    """Start and end of each, in the order of their starts."""
    keys = "StartTime", "EndTime"
    return sorted(tuple(datetime.fromisoformat(job[key]) for key in keys) for job in jobs)


# Slurm's turn comes before that of the local run, which another worker may have begun.
def test_results_are_those_of_a_local_run(part, smoke):
    assert_same_results(part, smoke)
    assert all((part.folder / name).exists() for name in PART)


def test_gpus_are_given_to_one_training_at_a_time(part):
    trainings = jobs_of(part, "rule_train_wildcards")
    assert [job["JOB_GRES"] for job in trainings] == [f"gpu:{slurm.GPUS}"] * 3
    for job in trainings:
        assert "CUDA_VISIBLE_DEVICES=0,1\n" in Path(job["StdOut"]).read_text()
    assert all(end <= start for (_, end), (start, _) in pairwise(times(trainings)))
    # Other jobs asked for none, saw none, and ran side by side.
    others = [job for job in jobs_of(part) if job not in trainings]
    assert {job["JOB_GRES"] for job in others} == {"(null)"}
    assert all("CUDA_VISIBLE_DEVICES=\n" in Path(job["StdOut"]).read_text() for job in others)
    assert any(start < end for (_, end), (start, _) in pairwise(times(others)))


def test_more_gpus_than_there_are_are_refused(cluster, workflow):
    workflow.study(smoke_study())
    asked = "--set-resources", f"dataset:gpu={slurm.GPUS + 1}", "--retries", "0"
    result = workflow.run(f"{RESULTS}/data/digits2.h5", *ON_SLURM, *asked, check=False)
    assert result.returncode and "node configuration is not available" in result.stdout
    assert [job["Reason"] for job in jobs_of(workflow)] == ["BadConstraints"]


def test_short_rules_share_a_job(part):
    (widths,) = jobs_of(part, "rule_measure_width")
    # Two blocks: no more than two cores, and the memory of two.
    assert (widths["NumCPUs"], widths["TimeLimit"]) == ("2", "04:00:00")
    assert "mem=8000M" in widths["TRES"]
    # Jobs of Snakemake have a benchmark each. Two sources, two outputs and two blocks of widths.
    marks = list((part.folder / RESULTS / "benchmarks").rglob("*.tsv"))
    assert len(jobs_of(part)) == len(marks) - 3


def test_a_retry_is_a_new_job_that_asks_for_more_and_failures_name_their_logs(cluster, workflow):
    # In names of Slurm's logs % and a number have a meaning of their own.
    odd = folder_name("it's: a 100%j")
    assert odd == "it@27s@3A a 100@25j"
    study = smoke_study()
    study["datasets"]["it's: a 100%j"] = {"of": "digits2"}
    workflow.study(study)
    fail_in(workflow, "dataset", 'raise ValueError("it never works")')
    fail_in(workflow, "source_items", "if snakemake.resources.mem_mb < 8000: raise MemoryError()")
    targets = f"data/{odd}.h5", "embeddings/sources/sports.h5", "embeddings/sources/business.h5"
    result = workflow.run(*(f"{RESULTS}/{name}" for name in targets), *ON_SLURM, check=False)
    assert result.returncode
    exist = [(workflow.folder / RESULTS / name).exists() for name in targets]
    assert exist == [False, True, True]

    datasets = jobs_of(workflow, "rule_dataset")
    assert [asked(job) for job in datasets] == [
        ("4000M", "01:00:00", "FAILED"),
        ("8000M", "02:00:00", "FAILED"),
        ("12000M", "03:00:00", "FAILED"),
    ]
    # Two rules in one job, side by side.
    assert [asked(job) for job in jobs_of(workflow, "rule_source_items")] == [
        ("8000M", "02:00:00", "FAILED"),
        ("16000M", "04:00:00", "COMPLETED"),
    ]

    message = result.stdout[result.stdout.index("Error in rule dataset") :]
    for log in (f"{RESULTS}/logs/data/{odd}.log", datasets[0]["StdOut"]):
        assert log in message
        assert "it never works" in (workflow.folder / log).read_text()
    assert message.count("ValueError: it never works") >= 2  # both are shown


def fail_in(workflow, script, code):
    """Have a script fail, once it has begun its log."""
    path = workflow.folder / "scripts" / f"{script}.py"
    start = "start_log(snakemake.log[0])\n"
    path.write_text(path.read_text().replace(start, f"{start}{code}\n"))


def asked(job):
    return re.search(r"mem=(\w+)", job["TRES"])[1], job["TimeLimit"], job["JobState"]


@pytest.mark.slow
def test_the_whole_smoke_study_on_slurm(cluster, smoke, workflow):
    workflow.study(smoke_study())
    started = workflow.start(*ON_SLURM, "--quiet", "all")
    output, _ = started.communicate(timeout=3600)
    assert started.returncode == 0, output
    assert_same_results(workflow, smoke)
    assert (workflow.folder / "report.html").exists()
