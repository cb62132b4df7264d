"""torchvision beside a CPU build of torch, and the front door that waits for neither."""

import subprocess
import sys

import pytest


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_models_and_transforms_work():
    code = """
import torch
from model_metrology.torchvision_compat import torchvision
from torchvision.transforms import functional
image = torch.rand(3, 8, 8)
assert torch.equal(functional.hflip(image), image.flip(-1))
assert torchvision.models.mobilenet_v2(num_classes=2)(torch.rand(2, 3, 32, 32)).shape == (2, 2)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_another_failure_of_the_import_is_not_hidden(monkeypatch):
    from model_metrology import torchvision_compat

    def fails(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_compat.importlib, "import_module", fails)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_compat._import_torchvision()


def test_the_variability_instrument_does_not_wait_for_torch():
    code = """
import sys
from model_metrology import alpha_hat, churn, expected_calibration_error, trimmed_ks
assert alpha_hat([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).alpha == 0.0
assert "torch" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_unknown_names_of_the_front_door_are_attribute_errors():
    import model_metrology

    assert "alpha_hat" in dir(model_metrology)
    with pytest.raises(AttributeError, match="nothing"):
        _ = model_metrology.nothing
