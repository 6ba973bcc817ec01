"""Any registered neuron, built from its name, for tests over the whole registry."""

import inspect

import torch

import neurons

EVERY = neurons.list_neurons()
MULTI_BIT = [name for name in EVERY if issubclass(neurons.neuron_class(name), neurons.MultiBitNeuron)]


def build(name: str, channels: int, backend: str = "torch", **spike) -> neurons.Neuron:
    """The neuron ``name`` with ``channels`` channels, run by plain torch unless another backend is asked for.

    ``spike`` holds the options of a multi-bit spike, for neurons that fire one.
    """
    wanted = inspect.signature(neurons.neuron_class(name)).parameters
    size = {"channels": channels} if "channels" in wanted else {}
    neuron = neurons.create(name, **size, **(spike if name in MULTI_BIT else {}))
    neuron.backend = backend
    return neuron


def currents(neuron: neurons.Neuron, steps: int, batch: int, channels: int, seed: int, dtype=torch.float32):
    """Input ``[T, B, C]`` for ``channels`` neurons, strong enough that they fire and clip."""
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, batch, channels * neuron.inputs_per_neuron)
    return (1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
