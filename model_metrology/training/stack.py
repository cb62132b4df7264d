"""k networks of one architecture as one: parameters with a leading axis of runs.

One class serves both ways of training. Stacked, the networks' parameters are tensors (k, …) and
one call computes all of them (`torch.func.functional_call` under `torch.vmap`); alone (k = 1)
the network is called as it is. The optimisers in use act element by element, so on stacked
parameters they do to each run what they would do to it alone.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from model_metrology.layout import channels_last
from model_metrology.models import dropout_layers


def _lay_weights_out(network: nn.Module) -> None:
    """Lay a network's convolutions out for images with channels last, twice as fast on CPUs."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _rectify_in_place(network: nn.Module) -> None:
    """Let rectifiers overwrite what convolutions write, where no other module reads it."""
    places = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for module in network.modules():
        if type(module) is not nn.Sequential:  # others may have a forward of their own
            continue
        for before, layer in itertools.pairwise(module):
            if isinstance(before, nn.Conv2d) and isinstance(layer, nn.ReLU):
                layer.inplace = places[layer] == 1


def _images_last(inputs: Tensor) -> Tensor:
    return channels_last(inputs) if inputs.dim() == 4 else inputs


class Stack:
    """k networks, called on inputs (k, batch, …), returning logits (k, batch, C).

    Parameters
    ----------
    networks : sequence of Module
        Of one architecture; taken over, not copied.
    device : torch.device
        Where they go.
    centred : bool
        Subtract each network's outputs at initialisation.
    """

    def __init__(
        self, networks: Sequence[nn.Module], device: torch.device, *, centred: bool = False
    ) -> None:
        self._alone = networks[0] if len(networks) == 1 else None
        for network in networks:
            network.to(device)
            if len(networks) == 1:
                _lay_weights_out(network)
                _rectify_in_place(network)
        self._dropout = dropout_layers(networks[0])
        self.parameters: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        if self._alone is not None:
            self.parameters = dict(self._alone.named_parameters())
            self.buffers = dict(self._alone.named_buffers())
            self._initial = copy.deepcopy(self._alone).eval() if centred else None
        else:
            self.parameters, self.buffers = stack_module_state(list(networks))
            self._shape = copy.deepcopy(networks[0]).to("meta")
            self._start = (
                {name: value.detach().clone() for name, value in self.parameters.items()},
                {name: value.clone() for name, value in self.buffers.items()},
            )
        self._centred = centred

    def __call__(self, inputs: Tensor, *, training: bool) -> Tensor:
        """Logits (k, batch, C) of inputs (k, batch, …)."""
        outputs = self._current(inputs, training)
        if self._centred:
            with torch.no_grad():
                start = self._at_start(inputs)
            outputs = outputs - start
        return outputs

    def _current(self, inputs: Tensor, training: bool) -> Tensor:
        if self._alone is not None:
            outputs: Tensor = self._alone.train(training)(_images_last(inputs[0]))
            return outputs[None]
        self._shape.train(training)
        return self._mapped((self.parameters, self.buffers), inputs)

    def _at_start(self, inputs: Tensor) -> Tensor:
        if self._alone is not None:
            assert self._initial is not None
            outputs: Tensor = self._initial(_images_last(inputs[0]))
            return outputs[None]
        self._shape.eval()
        return self._mapped(self._start, inputs)

    def _mapped(self, state: tuple[dict[str, Tensor], dict[str, Tensor]], x: Tensor) -> Tensor:
        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self._shape, (parameters, buffers), (x,))
            return outputs

        outputs: Tensor = torch.vmap(call)(*state, x)
        return outputs

    def set_dropout(self, keys: Sequence[int]) -> None:
        """Give each network's dropout layers the key of this step."""
        if not self._dropout:
            return
        values = torch.tensor(keys, dtype=torch.int64)
        for name in self._dropout:
            self.buffers[name].copy_(values.view(self.buffers[name].shape))

    def state(self, i: int) -> dict[str, NDArray[np.generic]]:
        """Parameters and buffers of network `i`; if centred, at initialisation too."""
        state = {**self.parameters, **self.buffers}
        if self._centred:
            state |= {f"initial.{name}": value for name, value in self._initial_parameters()}
        return {
            name: self._one(value, i).detach().cpu().contiguous().numpy().copy()
            for name, value in state.items()
            if name not in self._dropout
        }

    def _initial_parameters(self) -> Iterable[tuple[str, Tensor]]:
        if self._alone is None:
            return self._start[0].items()
        assert self._initial is not None
        return self._initial.named_parameters()

    def _one(self, value: Tensor, i: int) -> Tensor:
        return value if self._alone is not None else value[i]

    def load(
        self, parameters: dict[str, NDArray[np.generic]], buffers: dict[str, NDArray[np.generic]]
    ) -> None:
        """Put back what a checkpoint kept."""
        with torch.no_grad():
            for target, source in ((self.parameters, parameters), (self.buffers, buffers)):
                for name, value in target.items():
                    value.copy_(torch.from_numpy(np.asarray(source[name])))
