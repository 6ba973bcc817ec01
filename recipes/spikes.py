"""The spikes of a network in training: collecting them, and changing how they are fired."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import neurons
from neurons.spike import FULL_PRECISION

_READOUTS = (neurons.Integrator, neurons.LeakyIntegrator)
"""Neurons that fire no spikes."""


class SpikeMeter:
    """Collects the spikes of all neurons of a network while it is open; an integrator has none."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.outputs: list[tuple[nn.Module, Tensor | float, Tensor]] = []
        """The neuron, its range and its spikes, of each call. (In training the call itself moves the range.)"""
        self.ranges: dict[nn.Module, Tensor | float] = {}

    def __enter__(self):
        modules = self.model.modules()
        spiking = [m for m in modules if isinstance(m, neurons.Neuron) and not isinstance(m, _READOUTS)]
        hooks = [(m.register_forward_pre_hook(self._begin), m.register_forward_hook(self._end)) for m in spiking]
        self.hooks = [hook for pair in hooks for hook in pair]
        return self

    def _begin(self, module: nn.Module, inputs: tuple) -> None:
        self.ranges[module] = module.spike_range.value() if isinstance(module, neurons.MultiBitNeuron) else 1.0

    def _end(self, module: nn.Module, inputs: tuple, output: tuple) -> None:
        self.outputs.append((module, self.ranges[module], output[0]))

    def __exit__(self, *error) -> None:
        for hook in self.hooks:
            hook.remove()

    def mean_size(self) -> Tensor:
        """Mean of abs(y) / r over neurons, differentiable, for the spike penalty."""
        return torch.stack([(y.abs() / largest).mean() for _, largest, y in self.outputs]).mean()


@contextmanager
def in_full_precision(network: nn.Module) -> Iterator[None]:
    """Context in which the multi-bit neurons of ``network`` fire in full precision; afterwards in their own bits."""
    own = {module: module.bits for module in network.modules() if isinstance(module, neurons.MultiBitNeuron)}
    for module in own:
        module.bits = FULL_PRECISION
    try:
        yield
    finally:
        for module, bits in own.items():
            module.bits = bits


@contextmanager
def with_thresholds(network: nn.Module, share: float) -> Iterator[None]:
    """Context in which the multi-bit neurons of ``network`` have this ``share`` of their threshold levels, rounded."""
    own = {
        module: module.threshold_levels for module in network.modules() if isinstance(module, neurons.MultiBitNeuron)
    }
    for module, levels in own.items():
        module.threshold_levels = round(share * levels)
    try:
        yield
    finally:
        for module, levels in own.items():
            module.threshold_levels = levels
