"""Jobs on one machine share its cards: one each, by locks that go with their processes."""

import os
import select
import subprocess
import sys

import pytest
import torch

from model_metrology import devices

CPU = torch.device("cpu")
# Takes a card, says which, and keeps it until it is told to end.
HOLD = """
import os, sys
from model_metrology.devices import lease_card
lease_card(wait=sys.argv[1] == "wait")
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path):
    started = []

    def start(cards, wait="wait", **more):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": cards, "TMPDIR": str(tmp_path)} | more
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", HOLD, wait]
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_jobs_at_the_same_time_have_a_card_each(job):
    first, second = job("3,5"), job("3,5")
    taken = {process.stdout.readline().strip() for process in (first, second)}
    assert taken == {"3", "5"}


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_job_waits_for_a_card_until_another_has_ended(job, end):
    first = job("3,5")
    card = first.stdout.readline().strip()
    assert job("3,5").stdout.readline().strip() == ({"3", "5"} - {card}).pop()
    third = job("3,5")
    said, _, _ = select.select([third.stdout], [], [], 4)
    assert not said and third.poll() is None
    getattr(first, end)()
    assert third.stdout.readline().strip() == card


def test_the_one_card_of_a_scheduler_is_taken_as_it_is(job):
    # In a container of its own each job sees its card as the first.
    assert [job("0").stdout.readline().strip() for _ in range(2)] == ["0", "0"]


def test_jobs_that_asked_for_none_share_cards_when_all_are_taken(job):
    taken = [job("3,5", "share").stdout.readline().strip() for _ in range(3)]
    assert {*taken[:2]} == {"3", "5"} and taken[2] in {"3", "5"}


def test_what_slurm_gives_is_taken_as_it_is(job):
    assert job("3,5", SLURM_JOB_ID="7").stdout.readline().strip() == "3,5"


def test_cards_are_counted_where_none_are_listed(monkeypatch, tmp_path):
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    # Set first, so that it is put back as it was.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(devices, "_leases", [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    devices.lease_card(wait=True)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for card in ("0", "1"):
        devices.lease_card(wait=True)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == card
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for file in devices._leases:
        os.close(file)


def test_cuda_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.take_device("auto") == devices.take_device("cpu") == CPU
    with pytest.raises(ValueError, match="asks for cuda, and there is none"):
        devices.take_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_single_precision_is_single_precision_on_a_gpu():
    device = devices.take_device("cuda")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 32, 16, 16, generator=generator)
    kernels = torch.randn(64, 32, 3, 3, generator=generator)
    exact = torch.nn.functional.conv2d(images.double(), kernels.double())
    for _ in range(2):
        found = torch.nn.functional.conv2d(images.to(device), kernels.to(device)).cpu()
        # 288 products: a few units in the last place; TF32 would be off by 1e-3.
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
