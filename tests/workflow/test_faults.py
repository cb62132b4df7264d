"""What goes wrong on real machines: nothing is lost, nothing is silently wrong."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import h5py
import psutil
import pytest

from .conftest import Workflow, assert_same_results, datasets_of, smoke_study

TARGET = "results/faults/outputs/base.h5"
BLOCKS = ("0000-0001", "0002-0003")
FILES = (*(f"results/faults/training/base/{block}/runs.h5" for block in BLOCKS), TARGET)


def study():
    return {
        "name": "faults",
        "seed": 3,
        "datasets": {"digits2": {}},
        "populations": {
            "base": {
                "dataset": "digits2",
                "architecture": {"name": "mlp", "width": 64, "depth": 2},
                # Long enough to be met half way: some seconds.
                "recipe": {
                    "optimiser": "adam",
                    "learning_rate": 0.001,
                    "batch_size": 16,
                    "epochs": 30,
                    "checkpoint_epochs": 1,
                },
                "size": 4,
                "runs_per_job": 2,
            }
        },
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of a run that nothing happened to."""
    workflow = Workflow(tmp_path_factory.mktemp("undisturbed") / "work")
    workflow.study(study())
    workflow.run(TARGET)
    return workflow


@pytest.fixture
def copy(undisturbed, tmp_path):
    """The same, to be damaged."""
    subprocess.run(["cp", "-a", undisturbed.folder, tmp_path / "copy"], check=True)
    return Workflow(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path):
    workflow = Workflow(tmp_path / "work")
    workflow.study(study())
    return workflow


def assert_same(workflow, undisturbed):
    for name in FILES:
        assert datasets_of(workflow.folder / name) == datasets_of(undisturbed.folder / name), name


def until(condition, seconds=120):
    """Wait for something; its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return found


def checkpoint(workflow, block):
    return workflow.folder / "results" / "faults" / "checkpoints" / "base" / f"{block}.h5"


def training_jobs(started):
    """Processes of Snakemake that train, by block."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(started.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(part.endswith("train.py") for part in process.cmdline()):
                    logs = [file.path for file in process.open_files() if "logs" in file.path]
                    found |= {block: process for block in BLOCKS for log in logs if block in log}
    return found


def start_and_wait(workflow):
    """Snakemake, half way through the training of both blocks."""
    started = workflow.start(TARGET)
    until(lambda: all(checkpoint(workflow, block).exists() for block in BLOCKS))
    return started


def training_log(workflow, block):
    return (workflow.folder / f"results/faults/logs/training/base/{block}.log").read_text()


# -- kill -9 -----------------------------------------------------------------------------------


def test_a_training_job_that_was_killed_goes_on_where_it_was(fresh, undisturbed):
    started = start_and_wait(fresh)
    training_jobs(started)[BLOCKS[0]].kill()
    output, _ = started.communicate(timeout=120)
    # The other job was left to finish, and what failed is named with its log.
    assert started.returncode and "Error in rule train" in output
    assert f"results/faults/logs/training/base/{BLOCKS[0]}.log" in output
    assert [(fresh.folder / name).exists() for name in FILES] == [False, True, False]
    assert fresh.jobs(TARGET) == {"train": 1, "collect_outputs": 1, "total": 2}
    fresh.run(TARGET)
    assert "go on from their checkpoint after epoch" in training_log(fresh, BLOCKS[0])
    assert_same(fresh, undisturbed)
    assert not checkpoint(fresh, BLOCKS[0]).exists()


@pytest.mark.parametrize("whole", [True, False], ids=["with its jobs", "alone"])
def test_snakemake_that_was_killed_is_started_again(fresh, undisturbed, whole):
    started = start_and_wait(fresh)
    jobs = training_jobs(started)
    assert len(jobs) == 2
    if whole:  # as when the power goes
        os.killpg(started.pid, signal.SIGKILL)
        for job in jobs.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                job.kill()
    else:  # its jobs live on, and write what the new ones write
        os.kill(started.pid, signal.SIGKILL)
    started.wait()
    locked = fresh.run(TARGET, check=False)
    assert locked.returncode and "--unlock" in locked.stdout
    fresh.run("--unlock")
    fresh.run(TARGET)
    psutil.wait_procs(list(jobs.values()), timeout=60)
    if whole:
        assert all("from their checkpoint" in training_log(fresh, block) for block in BLOCKS)
    assert_same(fresh, undisturbed)
    assert fresh.jobs(TARGET) == {}


def test_two_snakemakes_on_one_folder(fresh, undisturbed):
    first = start_and_wait(fresh)
    second = fresh.run(TARGET, check=False)
    assert second.returncode and "LockException" in second.stdout
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    assert_same(fresh, undisturbed)


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_like_one_that_was_not(smoke, tmp_path):
    workflow = Workflow(tmp_path / "work")
    workflow.study(smoke_study())
    generator, kills = random.Random(0), 0
    while True:
        started = workflow.start(stdout=subprocess.DEVNULL)
        try:
            assert started.wait(timeout=generator.uniform(5, 40)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            kills += 1
        workflow.run("--unlock")
    assert kills > 3
    assert_same_results(workflow, smoke)


# -- damaged files -----------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def age(path):
    with h5py.File(path, "w") as file:
        file.attrs["schema_version"], file.attrs["kind"] = 0, "runs"


def test_a_damaged_result_is_named_and_only_it_is_made_again(copy, undisturbed):
    path = copy.folder / FILES[0]
    whole = path.read_bytes()
    damages = {cut: "not a whole HDF5 file", flip: "wrong checksum", age: "schema version 0"}
    for damage, said in damages.items():
        path.write_bytes(whole)
        damage(path)
        result = copy.run(TARGET, check=False)
        assert result.returncode and said in result.stdout
        assert f"{FILES[0]}: " in result.stdout and "delete it and run again" in result.stdout
    path.unlink()
    assert copy.jobs(TARGET) == {"train": 1, "collect_outputs": 1, "total": 2}
    copy.run(TARGET)
    assert_same(copy, undisturbed)


def test_damage_that_nothing_reads_is_found_by_looking(copy):
    path = copy.folder / FILES[1]
    before = path.stat()
    flip(path)
    # As a bad disk does it: no time of change says so.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert copy.jobs(TARGET) == {}
    command = [sys.executable, "-m", "model_metrology.verify", "results"]
    result = subprocess.run(command, cwd=copy.folder, capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout.startswith(FILES[1])
    (copy.folder / TARGET).unlink()
    assert "wrong checksum" in copy.run(TARGET, check=False).stdout


# -- places to write to ------------------------------------------------------------------------


@pytest.fixture
def small_disk(fresh):
    """A file system of its own for results; its size is changed by calling it."""
    results = fresh.folder / "results"
    results.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", results]
        return subprocess.run(command, capture_output=True, text=True)

    first = mount("size=420k")
    if first.returncode:
        pytest.skip(f"no file system can be mounted here: {first.stderr.strip()}")
    yield lambda *options: mount("remount", *options)
    subprocess.run(["umount", results], check=True)


def test_a_full_disk_is_named_and_what_was_finished_is_kept(fresh, small_disk, undisturbed):
    full = fresh.run(TARGET, check=False)
    assert full.returncode and "no space left on the device" in full.stdout.lower()
    assert "make room and run again" in full.stdout
    dataset = fresh.folder / "results" / "faults" / "data" / "digits2.h5"
    made = dataset.stat().st_mtime_ns
    assert not list(fresh.folder.glob("results/**/.*.h5.*"))
    small_disk("size=50m")
    fresh.run(TARGET)
    assert dataset.stat().st_mtime_ns == made
    assert_same(fresh, undisturbed)


def test_results_that_cannot_be_written_stop_before_the_first_job(fresh, small_disk):
    small_disk("ro")
    result = fresh.run(TARGET, check=False)
    assert result.returncode and "results/faults: nothing can be written there" in result.stdout
    assert "rule dataset" not in result.stdout and "Traceback" not in result.stdout


def test_a_file_where_results_belong_stops_before_the_first_job(fresh):
    (fresh.folder / "results").write_text("mine")
    result = fresh.run(TARGET, check=False)
    assert result.returncode and "results/faults: nothing can be written there" in result.stdout
    assert (fresh.folder / "results").read_text() == "mine"
