r"""Kernels of trained networks: what a network takes two points to have in common.

With f : points → R^C the logits, θ the trainable parameters, h the penultimate features and o_m the
output of module m [1]_:

.. math::

   \text{trace NTK} = \sum_c ⟨∇_θ f_c(x), ∇_θ f_c(x')⟩, \quad
   \text{pseudo NTK} = ⟨∇_θ \textstyle\sum_c f_c(x), ∇_θ \sum_c f_c(x')⟩,

   \text{CK} = ⟨h(x), h(x')⟩, \quad \text{Em} = \sum_m ⟨o_m(x), o_m(x')⟩.

Normalised, each is divided by :math:`\sqrt{K(x, x) K(x', x')}`. All are exact, save for those
called projected, which are of gradients after one random projection.

References
----------
.. [1] A. Engel, Z. Wang, N. S. Frank, I. Dumitriu, S. Choudhury, A. Sarwate, T. Chiang, "Faithful
   and efficient explanations for neural networks via neural tangent kernel surrogate models",
   ICLR 2024, arXiv:2305.14585.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_metrology.lazy import lazy_names

if TYPE_CHECKING:
    from model_metrology.kernels.functions import (
        Options,
        conjugate_kernel,
        embedding_kernel,
        kernel,
        kernel_blocks,
        projected_pseudo_ntk,
        projected_trace_ntk,
        pseudo_ntk,
        trace_ntk,
    )
    from model_metrology.kernels.names import KERNELS

__all__ = [
    "KERNELS",
    "Options",
    "conjugate_kernel",
    "embedding_kernel",
    "kernel",
    "kernel_blocks",
    "projected_pseudo_ntk",
    "projected_trace_ntk",
    "pseudo_ntk",
    "trace_ntk",
]

# Imported when first used: names need no torch.
__getattr__ = lazy_names(
    __name__,
    {"names": ["KERNELS"], "functions": [name for name in __all__ if name != "KERNELS"]},
)
