"""Where a job computes: on the CPU, or on one GPU of those that there are."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

import torch

__all__ = ["lease_card", "take_device"]

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"

# Seconds between looks for a card that has become free.
_PAUSE = 0.5

# Open files of the cards that this process holds; the system frees them with the process.
_leases: list[int] = []


def take_device(name: str) -> torch.device:
    """Take the device that a study's word stands for.

    On a GPU, single precision is made to mean that (no TF32), and the same job to give the same
    bytes again, as on a CPU.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``auto`` is CUDA where there is one, else the CPU. Of several cards this process sees one.

    Raises
    ------
    ValueError
        If ``cuda`` is asked for and there is none.
    """
    if name == "cpu":
        return torch.device("cpu")
    lease_card(wait=name == "cuda")
    if torch.cuda.is_available():
        _compute_exactly()
        return torch.device("cuda")
    if name == "cuda":
        raise ValueError("device: the study asks for cuda, and there is none; use auto or cpu")
    return torch.device("cpu")


def lease_card(*, wait: bool) -> None:
    """Of several cards that are visible, leave one visible that no other job has taken.

    Jobs on one machine agree by locks of files, which go with the process that holds them, however
    it ends. What Slurm shows its job, and a single card, are left as they are. Must come before
    CUDA is first used.

    Parameters
    ----------
    wait : bool
        Where all cards are taken, wait for one. Otherwise share one, as jobs share a single card:
        a job that did not ask for a GPU should not hold its cores idle for one.
    """
    if "SLURM_JOB_ID" in os.environ:
        return
    listed = os.environ.get(VISIBLE)
    cards = listed.split(",") if listed is not None else _all_cards()
    if len(cards) < 2:
        return
    waited = False
    while (card := next(filter(_lock, cards), None)) is None:
        if not wait:
            card = cards[os.getpid() % len(cards)]
            break
        if not waited:
            logger.info("all %d cards are taken by other jobs; waiting for one", len(cards))
        waited = True
        time.sleep(_PAUSE)
    os.environ[VISIBLE] = card
    logger.info("on card %s of %s", card, ", ".join(cards))


def _all_cards() -> list[str]:
    # Counted by the driver's library of management, which leaves CUDA untouched.
    return [str(index) for index in range(torch.cuda.device_count())]


def _lock(card: str) -> bool:
    import fcntl  # not on Windows, where there is no workflow either

    name = f"model-metrology-{os.getuid()}-card-{card.replace('/', '-')}.lock"
    file = os.open(Path(tempfile.gettempdir(), name), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _leases.append(file)
    return True


def _compute_exactly() -> None:
    # cuDNN's convolutions would otherwise keep 10 bits of float32's mantissa.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # cuBLAS has the same result twice only with workspaces of its own; read when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What has no such algorithm warns, and goes on.
    torch.use_deterministic_algorithms(True, warn_only=True)
