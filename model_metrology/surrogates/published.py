"""What Engel et al. 2024 (ICLR, arXiv:2305.14585) report, to be put beside what is measured.

Means over 100 seeds with standard errors (4 seeds for BERT, one model each for the ResNets and
MobileNetV2, whose errors are not known). TAD and accuracy are fractions here, percent there.
"""

from __future__ import annotations

import math

__all__ = ["PUBLISHED"]

Value = tuple[float, float]
"""A number and its standard error, NaN where there is none."""

NAN = math.nan


def _row(
    tad: Value, tau: Value, accuracy: Value | None = None, r_miss: Value | None = None
) -> dict[str, Value]:
    row = {"tad": (tad[0] / 100, tad[1] / 100), "kendall_tau": tau}
    if accuracy is not None:
        row["network_accuracy"] = (accuracy[0] / 100, accuracy[1] / 100)
    if r_miss is not None:
        row["r_miss"] = r_miss
    return row


_RESNET18 = (93.07, NAN)
_BERT = (83.4, 0.1)

PUBLISHED: dict[tuple[str, str], dict[str, Value]] = {
    ("MLP MNIST2", "trNTK"): _row((0.03, 0.05), (0.708, 0.003), (99.64, 0.01)),
    ("CNN MNIST2", "trNTK"): _row((-0.2, 0.2), (0.857, 0.007), (98.4, 0.1)),
    ("CNN CIFAR2", "trNTK"): _row((-2.1, 0.5), (0.711, 0.003), (94.94, 0.05)),
    ("CNN FMNIST2", "trNTK"): _row((-2.2, 0.2), (0.882, 0.003), (97.95, 0.04)),
    ("ResNet18 CIFAR10", "trNTK"): _row((-0.30, NAN), (0.776, NAN), _RESNET18, (0.75, NAN)),
    ("ResNet18 CIFAR10", "trNTK0"): _row((-0.52, NAN), (0.658, NAN), _RESNET18, (0.65, NAN)),
    ("ResNet18 CIFAR10", "proj-trNTK"): _row((-0.20, NAN), (0.737, NAN), _RESNET18, (0.77, NAN)),
    ("ResNet18 CIFAR10", "proj-pNTK"): _row((-0.30, NAN), (0.407, NAN), _RESNET18, (0.71, NAN)),
    ("ResNet18 CIFAR10", "Em"): _row((-0.32, NAN), (0.768, NAN), _RESNET18, (0.80, NAN)),
    ("ResNet18 CIFAR10", "CK"): _row((-0.20, NAN), (0.630, NAN), _RESNET18, (0.73, NAN)),
    ("ResNet34 CIFAR10", "trNTK"): _row((-0.29, NAN), (0.786, NAN), (93.33, NAN)),
    ("MobileNetV2 CIFAR10", "trNTK"): _row((-0.4, NAN), (0.700, NAN), (93.91, NAN)),
    ("BERT-base CoLA", "trNTK"): _row((0.1, 0.3), (0.809, 0.009), _BERT, (0.67, 0.02)),
    ("BERT-base CoLA", "trNTK0"): _row((0.6, 0.2), (0.5, 0.1), _BERT, (0.71, 0.05)),
    ("BERT-base CoLA", "proj-trNTK"): _row((0.1, 0.2), (0.800, 0.009), _BERT, (0.61, 0.02)),
    ("BERT-base CoLA", "proj-pNTK"): _row((0.5, 0.2), (0.72, 0.02), _BERT, (0.86, 0.03)),
    ("BERT-base CoLA", "Em"): _row((-0.3, 0.5), (0.65, 0.02), _BERT, (0.86, 0.02)),
    ("BERT-base CoLA", "CK"): _row((-0.1, 0.1), (0.52, 0.04), _BERT, (0.91, 0.02)),
}
"""Published measures by network and kernel, named as in its tables."""
