"""Tests that run side by side must not each take all cores, and none should wait for others."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports numpy or torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

UNIT = Path(__file__).parent / "unit"


@pytest.hookimpl(trylast=True)  # of the tests that were selected
def pytest_collection_modifyitems(items):
    """Whole workflows first, those that share the finished study last of them; then units.

    The shared study is made once, while others wait for it; and short files at the end keep all
    workers busy until then.
    """
    sharing = {item.path for item in items if "smoke" in item.fixturenames}
    items.sort(key=lambda item: (UNIT in item.path.parents, item.path in sharing))
