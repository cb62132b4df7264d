"""Import torchvision beside a CPU build of torch.

torchvision declares the Python side of its compiled operators at import. Where it was built for
CUDA and torch was not, the compiled half does not load, and the import stops with "operator
torchvision::nms does not exist". Declaring the two operators' schemas is enough for its datasets,
models and transforms, which use none of them; ``torchvision.ops.nms`` and ``torchvision.io`` do
not work then. A matching build is left alone.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

__all__ = ["torchvision"]

_MISSING = ("nms", "qnms")
# The library's registrations last as long as this object.
_schemas: torch.library.Library | None = None


def _import_torchvision() -> Any:
    global _schemas
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for name in _MISSING:
        _schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()
importlib.import_module("torchvision.models")
