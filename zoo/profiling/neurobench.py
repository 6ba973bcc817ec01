"""Wraps our models for NeuroBench, so that its metrics can measure them (``pip install "snn-zoo[neurobench]"``).

::

    model = zoo.profiling.neurobench.NetworkForNeuroBench(net)
    results = Benchmark(model, loader, [], [], [[Footprint], [ActivationSparsity, SynapticOperations]]).run()

Where its metrics mean the same as the counts of :func:`zoo.profile`, the numbers are equal: ``Dense`` is
``dense_macs``; ``Effective_ACs`` are the additions that binary spikes cause in weight layers; ``Effective_MACs`` are
the products elsewhere whose input is not zero, with levels of multi-bit spikes or with real numbers; activation
sparsity is one minus the spike rate; the footprint is ``bytes``. NeuroBench sees only linear and convolution layers and
recurrent cells. It does not see the weights inside a recurrent-gated neuron, attention, norms, biases and neuron
updates.

Source: Yik et al., "The neurobench framework for benchmarking neuromorphic computing algorithms and systems", Nature
Communications 2025, 10.1038/s41467-025-56739-4.
"""

from typing import Any

from torch import Tensor, nn

import neurons

try:
    from neurobench.hooks.layer import LayerHook
    from neurobench.hooks.neuron import NeuronHook
    from neurobench.models import NeuroBenchModel
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "neurobench":
        raise
    raise ImportError(
        'NeuroBench\'s metrics need NeuroBench; install it with: pip install "snn-zoo[neurobench]"'
    ) from error


class _OutputHook(NeuronHook):
    """Drops the state that a neuron returns beside its output."""

    def hook_fn(self, layer: nn.Module, input: tuple, output: Any) -> None:
        super().hook_fn(layer, input, output[0] if isinstance(output, tuple) and not self.spiking else output)


class NetworkForNeuroBench(NeuroBenchModel):
    """``net``, which takes ``[T, B, ...]`` and returns outputs of that layout, alone or as the first of a tuple.

    NeuroBench's data is ``[B, T, ...]``, and a call returns that layout too.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.eval()
        self.add_activation_module(neurons.Neuron)

    def __call__(self, batch: Tensor) -> Tensor:
        y = self.net(batch.transpose(0, 1))
        return (y[0] if isinstance(y, tuple) else y).transpose(0, 1)

    def __net__(self) -> nn.Module:
        return self.net

    def register_hooks(self) -> None:
        self.activation_hooks += [
            _OutputHook(found["layer"], found["layer_name"]) for found in self.activation_layers()
        ]
        self.connection_hooks += [LayerHook(layer) for layer in self.connection_layers()]
