"""The profiles, as far as they can be tried without a cluster."""

import re

import pytest
import yaml

from ..workflow.conftest import ROOT, smoke_study

PROFILES = ("slurm", "cluster-generic")


def profile(name):
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())


def asked_by_rule(workflow, *arguments):
    """Resources by rule, from a dry run."""
    shown = workflow.run(*arguments, "--dry-run").stdout
    found = re.findall(r"rule (\w+):\n(?:.+\n)*? +resources: (.*)", shown)
    return {rule: dict(re.findall(r"(\w+)=(\w+)", resources)) for rule, resources in found}


@pytest.mark.parametrize("name", PROFILES)
def test_a_dry_run_plans_every_job(workflow, name):
    workflow.study(smoke_study())
    assert workflow.jobs("--workflow-profile", f"profiles/{name}") == workflow.jobs()


def test_rules_that_can_use_a_gpu_ask_for_one_if_the_study_insists(workflow):
    workflow.study(smoke_study())
    arguments = "--workflow-profile", "profiles/slurm"
    insisting = asked_by_rule(workflow, *arguments, "--config", "device=cuda")
    asking = {rule for rule, resources in insisting.items() if resources.get("gpu") == "1"}
    can = {"train", "train_width", "image_spectra", "subject_outputs", "kernel_columns", "embed"}
    assert asking == can
    taking = asked_by_rule(workflow, *arguments)
    assert {resources.get("gpu", "0") for resources in taking.values()} == {"0"}
    # In a group, what its rules ask for adds up.
    assert not asking & set(profile("slurm")["groups"])


def test_requests_grow_with_the_study(workflow):
    study = smoke_study()
    workflow.study(study)
    small = asked_by_rule(workflow)
    for population in study["populations"].values():
        population |= {"size": 100_000, "runs_per_job": 100_000}
    study["surrogates"] |= {"train": None, "tile": None}
    workflow.study(study)
    large = asked_by_rule(workflow)
    for rule in ("collect_outputs", "measure", "kernel_columns", "surrogates"):
        assert int(large[rule]["mem_mb"]) > int(small[rule]["mem_mb"]), rule
    # 597 test points of digits2, two logits in single precision, three times beside 2,000 MB.
    assert int(large["collect_outputs"]["mem_mb"]) == 2000 + round(3 * 1e5 * 597 * 2 * 4 / 1e6)
    # As the whole study does not, a job that computes columns asks for what it is given.
    assert int(small["kernel_columns"]["mem_mb"]) >= 2000 + study["surrogates"]["memory_mb"]


def test_groups_are_of_rules_that_there_are():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    settings = profile("slurm")
    assert set(settings["groups"]) <= set(re.findall(r"^ *rule (\w+):", rules, re.MULTILINE))
    stages = {path.name for path in (ROOT / "report").iterdir() if path.is_dir()}
    figures = {f"figures_{stage}" for stage in stages}
    assert set(settings["group-components"]) == set(settings["groups"].values()) | figures


def test_a_job_is_submitted_by_the_command_of_the_profile(workflow, monkeypatch, tmp_path):
    qsub = tmp_path / "bin" / "qsub"
    qsub.parent.mkdir()
    # Keeps what it was asked, runs the script at once, and prints an id.
    qsub.write_text(
        f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\n'
        'for last; do :; done\nsh "$last" > /dev/null 2>&1\necho 1.server\n'
    )
    qsub.chmod(0o755)
    monkeypatch.setenv("PATH", str(qsub.parent), prepend=":")
    workflow.study(smoke_study())
    target = "results/smoke/data/digits2.h5"
    options = "--workflow-profile", "profiles/cluster-generic"
    workflow.run(target, *options, "--seconds-between-status-checks", "1")
    assert (workflow.folder / target).exists()
    asked = (tmp_path / "asked").read_text()
    assert "-l select=1:ncpus=1:mem=4000mb:ngpus=0 -l walltime=60:00" in asked
