"""Snakemake alone plans studies and reports on them; scripts run in their rules' environments."""

import os
import subprocess

import pytest
from packaging.requirements import Requirement

from tests.unit.test_environments import scripts_by_environment

from .conda_stand_in import SCRIPTS_RUN, install, make_environment
from .conftest import smoke_study

HEAVY = ("numpy", "torch", "pandas", "h5py", "scipy", "sklearn", "matplotlib")


@pytest.fixture
def outer(tmp_path):
    """An environment with Snakemake and what it needs, and nothing else."""
    make_environment(tmp_path / "outer", [Requirement("snakemake")])
    return tmp_path / "outer"


def snakemake(workflow, outer, *arguments, programs=()):
    path = os.pathsep.join(map(str, [*programs, outer / "bin", "/usr/bin", "/bin"]))
    done = subprocess.run(
        [outer / "bin/python", "-m", "snakemake", "--cores", "2", *arguments],
        cwd=workflow.folder,
        # Nothing of the tests' own environment: what is missing must not be found there.
        env={"PATH": path, "HOME": str(workflow.folder), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert not done.returncode, done.stdout[-6000:]
    return done.stdout


def test_a_study_is_planned_with_snakemake_alone(workflow, outer):
    find = f"from importlib.util import find_spec; print(*filter(find_spec, {HEAVY}))"
    found = subprocess.run([outer / "bin/python", "-c", find], capture_output=True, check=True)
    assert not found.stdout.strip()
    workflow.study(smoke_study())
    assert "figure_separability" in snakemake(workflow, outer, "--dry-run", "--quiet", "rules")


def tiny_study():
    """Data, training, outputs, a figure and a report: one job in each of four environments."""
    study = smoke_study()
    base = study["populations"]["base"]
    one = {"size": 1, "runs_per_job": 1, "recipe": base["recipe"] | {"epochs": 1}}
    return {"name": "tiny", "datasets": {"digits2": {}}, "populations": {"base": base | one}}


def test_scripts_run_in_the_environments_of_their_rules(workflow, outer, tmp_path):
    workflow.study(tiny_study())
    conda = {"programs": [install(tmp_path / "conda")]}
    done = snakemake(workflow, outer, "--sdm", "conda", **conda)
    # Snakemake puts a copy of an environment's file beside the environment.
    names = {path.read_text(): path.name for path in (workflow.folder / "envs").glob("*.yaml")}
    ran = {
        (names[path.with_suffix(".yaml").read_text()], script)
        for path in (workflow.folder / ".snakemake/conda").iterdir()
        if path.is_dir()
        for script in (path / SCRIPTS_RUN).read_text().split()
    }
    assert ran <= set(scripts_by_environment())
    assert {script for _, script in ran} == {
        "dataset.py",
        "train.py",
        "collect_outputs.py",
        "figure.py",
    }

    # Snakemake reports with an extra of its own; a study does not fail for want of it.
    report = workflow.folder / "results/tiny/report.html"
    assert "pip install pygments" in done
    assert not report.exists()
    reporting = tmp_path / "reporting"
    make_environment(reporting, [Requirement("snakemake[reports]")])
    done = snakemake(
        workflow, reporting, "--sdm", "conda", "--forcerun", "figure_training", **conda
    )
    assert "2 of 2 steps (100%) done" in done  # the figure and `all`
    assert "training.png" in report.read_text()
