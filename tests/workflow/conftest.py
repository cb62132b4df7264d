"""Whole workflows in a folder of their own: the checkout's rules, another study, real commands."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from model_metrology import files

ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile",
    "rules",
    "scripts",
    "report",
    "envs",
    "schemas",
    "profiles",
    "model_metrology",
)


class Workflow:
    """A copy of the workflow in `folder`, made if need be, and commands a user gives in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists():
            return
        folder.mkdir(parents=True)
        for part in PARTS:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / part)

    def study(self, content: dict, name: str = "config.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Start Snakemake and leave it running, at the head of a process group of its own."""
        # The interpreter's own folder first: `snakemake` and the scripts' `python` are these.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            ["snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            start_new_session=True,
            **streams | options,
        )

    def run(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        started = self.start(*arguments, **options)
        try:
            output, _ = started.communicate(timeout=1200)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
        if check and started.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{output[-6000:]}")
        return subprocess.CompletedProcess(started.args, started.returncode, output)

    def jobs(self, *arguments: str) -> dict[str, int]:
        """What a run would do: jobs by rule, from a dry run."""
        table = self.run(*arguments, "--dry-run", "--quiet", "rules").stdout
        lines = self.run(*arguments, "--dry-run").stdout.splitlines() if not table else []
        return _job_stats(table.splitlines() or lines)


def assert_rebuilt_alone(workflow: Workflow, figures: Path, names: Iterable[str]) -> None:
    """A figure that was deleted is drawn again, and nothing else is done."""
    for name in names:
        path = figures / name
        content = path.read_bytes()
        path.unlink()
        assert workflow.jobs() == {f"figure_{path.stem}": 1, "all": 1, "total": 2}
        path.write_bytes(content)
        shutil.copystat(path.with_suffix(".png"), path)


def datasets_of(path: Path) -> dict[str, bytes]:
    """All that was computed in an HDF5 file; seconds are measured."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.endswith("history/seconds"):
            text = h5py.check_string_dtype(item.dtype)
            values = np.asarray(item.asstr()[()] if text else item[()])
            found[name] = repr(values.tolist()).encode() if text else values.tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def table_of(path: Path) -> pd.DataFrame:
    """A table without what was measured by the clock."""
    return files.read_table(path).drop(columns="seconds", errors="ignore")


def assert_same_results(one: Workflow, other: Workflow) -> None:
    """All files of one run of the smoke study, or of parts of it, are as those of another."""
    names = [
        path.relative_to(one.folder)
        for ending in ("h5", "csv")
        for path in (one.folder / "results" / "smoke").rglob(f"*.{ending}")
    ]
    stages = {"data", "training", "outputs", "variability", "spectra", "surrogates", "embeddings"}
    assert {name.parts[2] for name in names} == stages
    for name in names:
        mine, theirs = one.folder / name, other.folder / name
        if name.suffix == ".h5":
            assert datasets_of(mine) == datasets_of(theirs), name
        else:
            pd.testing.assert_frame_equal(table_of(mine), table_of(theirs), check_exact=True)


def _job_stats(lines: list[str]) -> dict[str, int]:
    jobs = {}
    for line in lines:
        parts = line.rsplit(maxsplit=1)
        if len(parts) == 2 and parts[1].isdigit() and parts[0].replace("_", "").isalnum():
            jobs[parts[0]] = int(parts[1])
    return jobs


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path / "work flow")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id):
    """The smoke study, run once for all tests that only look at its results.

    Tests run side by side share it, so none may change it: `finished` is a copy to change.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smoke" / "work"
    with FileLock(base.parent / "smoke.lock"):
        workflow = Workflow(folder)
        if not (folder / "report.html").exists():
            workflow.study(smoke_study())
            workflow.run()
    return workflow


@pytest.fixture
def finished(smoke, tmp_path):
    """The smoke study's finished results in a workflow that may be changed."""
    workflow = Workflow(tmp_path / "changed")
    # With Snakemake's record of what each result was made with.
    for folder in ("results", ".snakemake", "resources"):
        if (smoke.folder / folder).exists():
            shutil.copytree(smoke.folder / folder, workflow.folder / folder)
    workflow.study(smoke_study())
    return workflow


def smoke_study() -> dict:
    return yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
