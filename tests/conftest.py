"""Tests that run side by side must not each take all cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports numpy or torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
