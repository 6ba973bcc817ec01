"""Export to NIR, the Neuromorphic Intermediate Representation, with nothing approximated.

::

    graph = neurons.nir.export(nn.Sequential(nn.Linear(40, 64), neurons.LearnableLIF()))
    nir.write("network.nir", graph)

Plain neurons and those of both plug-ins are exported alike. What NIR can express is written exactly; anything else is
refused with the reason. The libraries' own exporters refuse the plug-ins' neurons, because they would write a different
neuron.

NIR's own ``LIF`` resets the membrane to a fixed value when it fires, and a learnable LIF subtracts its threshold, so
that the rest of the charge stays. The two fire differently wherever the input overshoots. So a learnable LIF is written
as a small graph of primitives that the importers of snnTorch and of SpikingJelly both know. ``[t-1]`` marks an edge
that closes a loop. It carries the value of the previous step, as in both importers and in NIR's discrete-time
convention::

    charge   = x + leak[t-1]              Linear, identity
    scaled   = charge / theta             Linear, diagonal
    fire     = 1 if scaled > 1            CubaLIF with both time constants one time step: it keeps nothing
    reset    = -theta * fire              Linear, diagonal
    membrane = charge + reset             Linear, identity
    leak     = lambda * membrane          Linear, diagonal

and an integrator as ``sum = x + hold[t-1]``, ``hold = lambda * sum``, with a lambda of 1 if it is not leaky. The time
step is the importers' default, 0.1 ms.

Source of the format: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024,
10.1038/s41467-024-52259-9.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from neurons.input_gated_lif import InputGatedLIF
from neurons.integrator import Integrator
from neurons.leaky_integrator import LeakyIntegrator
from neurons.learnable_lif import LearnableLIF
from neurons.neuron import MultiBitNeuron, Neuron
from neurons.recurrent_gated_lif import RecurrentGatedLIF

if TYPE_CHECKING:
    import nir

TIME_STEP = 1e-4
"""Seconds per step: the value that snnTorch assumes, and the default of SpikingJelly's importer."""


def export(net: nn.Module, channels: int | None = None) -> "nir.NIRGraph":
    """``net`` (a neuron, an ``nn.Linear`` or a Sequential) as a NIR graph for input ``[B, channels]`` per time step.

    ``channels`` is needed only if no layer before the first neuron fixes their number. The graph's nodes are named so
    that their alphabetical order, in which a file stores them, is the order of execution.

    Raises NotImplementedError with the reason for anything that NIR cannot express, ValueError for channels that do not
    fit or are unknown, ImportError with the install command if the ``nir`` package is missing.
    """
    graph = _Graph()
    for place, (name, layer) in enumerate(_layers(net, "")):
        if isinstance(layer, nn.Linear):
            channels = graph.linear(place, name, layer, channels)
        else:
            writer = _WRITERS[_kind(name, layer)]
            channels = _neuron_channels(name, layer, channels)
            graph.start(channels)
            writer(graph, f"n{place:03d}", layer, channels)
    return graph.finish(channels)


def refusal(neuron: Neuron) -> str | None:
    """Why NIR cannot express ``neuron``, or None if it can."""
    if isinstance(neuron, InputGatedLIF | RecurrentGatedLIF):
        return (
            "its synaptic current is the product of two signals, a gate and a current, and NIR multiplies by constants"
        )
    if isinstance(neuron, MultiBitNeuron):
        return "it fires spikes of several levels, and NIR's neurons fire 0 or 1"
    if getattr(neuron, "reset_mechanism", "subtract") != "subtract":
        return "its reset is not by subtraction, and only that one is written here"
    if getattr(neuron, "decay_input", False):
        return "its input is multiplied by 1 - leak (decay_input); multiply the weights before it instead"
    for known in _WRITERS:
        if isinstance(neuron, known) and type(neuron).step is known.step:
            return None
    return "its step is its own, and NIR has no node that stands for it"


def _kind(name: str, neuron: Neuron) -> type[Neuron]:
    if reason := refusal(neuron):
        raise NotImplementedError(f"{name} ({type(neuron).__name__}) cannot be exported to NIR: {reason}")
    return next(known for known in _WRITERS if isinstance(neuron, known))


def _layers(net: nn.Module, name: str):
    """The layers of nested Sequentials, in order, with their names."""
    if isinstance(net, nn.Sequential):
        for child, layer in net.named_children():
            yield from _layers(layer, f"{name}.{child}" if name else child)
    elif isinstance(net, nn.Linear | Neuron):
        yield name or type(net).__name__, net
    else:
        raise NotImplementedError(
            f"{name or 'the network'} is a {type(net).__name__}; the export to NIR takes neurons, nn.Linear and "
            "nn.Sequential of them"
        )


def _neuron_channels(name: str, neuron: Neuron, channels: int | None) -> int:
    if channels is None:
        channels = neuron.channels
    if channels is None:
        raise ValueError(f"{name} ({type(neuron).__name__}) takes any number of channels; say how many: channels=...")
    if neuron.channels not in (None, channels):
        raise ValueError(f"{name} has {neuron.channels} neurons and is given {channels} channels")
    return channels


def _learnable_lif(graph: "_Graph", prefix: str, neuron: LearnableLIF, channels: int) -> None:
    constants = neuron.step_parameters()
    leak, threshold = (_per_channel(value, channels) for value in (constants.leak, constants.threshold))
    graph.diagonal(f"{prefix}_1_charge", np.ones(channels), [graph.last, f"{prefix}_6_leak"])
    graph.diagonal(f"{prefix}_2_scaled", 1 / threshold, [f"{prefix}_1_charge"])
    graph.threshold(f"{prefix}_3_fire", channels, f"{prefix}_2_scaled")
    graph.diagonal(f"{prefix}_4_reset", -threshold, [f"{prefix}_3_fire"])
    graph.diagonal(f"{prefix}_5_membrane", np.ones(channels), [f"{prefix}_1_charge", f"{prefix}_4_reset"])
    graph.diagonal(f"{prefix}_6_leak", leak, [f"{prefix}_5_membrane"])
    graph.last = f"{prefix}_3_fire"


def _integrator(graph: "_Graph", prefix: str, neuron: Integrator, channels: int) -> None:
    _sum(graph, prefix, np.ones(channels))


def _leaky_integrator(graph: "_Graph", prefix: str, neuron: LeakyIntegrator, channels: int) -> None:
    _sum(graph, prefix, _per_channel(neuron.step_parameters().leak, channels))


def _sum(graph: "_Graph", prefix: str, leak: np.ndarray) -> None:
    graph.diagonal(f"{prefix}_1_sum", np.ones(len(leak)), [graph.last, f"{prefix}_2_hold"])
    graph.diagonal(f"{prefix}_2_hold", leak, [f"{prefix}_1_sum"])
    graph.last = f"{prefix}_1_sum"


_WRITERS: dict[type[Neuron], Callable] = {
    LearnableLIF: _learnable_lif,
    Integrator: _integrator,
    LeakyIntegrator: _leaky_integrator,
}


def _per_channel(value: Tensor, channels: int) -> np.ndarray:
    return value.detach().double().expand(channels).cpu().numpy()


class _Graph:
    """The nodes and edges collected so far; ``last`` is the node whose output feeds the next."""

    def __init__(self):
        try:
            import nir
        except ModuleNotFoundError as error:
            if error.name != "nir":
                raise
            raise ImportError('the export to NIR needs nir; install it with: pip install "snn-zoo[nir]"') from error
        self.nir = nir
        self.nodes: dict = {}
        self.edges: list[tuple[str, str]] = []
        self.last = ""

    def start(self, channels: int) -> None:
        if not self.nodes:
            self.nodes["input"] = self.nir.Input({"input": np.array([channels])})
            self.last = "input"

    def add(self, name: str, node, sources: list[str]) -> None:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]

    def diagonal(self, name: str, values: np.ndarray, sources: list[str]) -> None:
        # This is a nir.Scale, but neither library's importer knows that node.
        self.add(name, self.nir.Linear(np.diag(values).astype(np.float32)), sources)

    def threshold(self, name: str, channels: int, source: str) -> None:
        one, zero = np.ones(channels), np.zeros(channels)
        node = self.nir.CubaLIF(
            tau_syn=TIME_STEP * one,
            tau_mem=TIME_STEP * one,
            r=one,
            v_leak=zero,
            v_threshold=one,
            v_reset=zero,
            w_in=one,
        )
        self.add(name, node, [source])

    def linear(self, place: int, name: str, layer: nn.Linear, channels: int | None) -> int:
        if channels not in (None, layer.in_features):
            raise ValueError(f"{name} takes {layer.in_features} channels and is given {channels}")
        self.start(layer.in_features)
        weight = layer.weight.detach().cpu().numpy()
        if layer.bias is None:
            node = self.nir.Linear(weight)
        else:
            node = self.nir.Affine(weight, layer.bias.detach().cpu().numpy())
        self.add(f"n{place:03d}", node, [self.last])
        self.last = f"n{place:03d}"
        return layer.out_features

    def finish(self, channels: int | None) -> "nir.NIRGraph":
        if channels is None or not self.nodes:
            raise ValueError("there is nothing to export: the network has no layers")
        self.add("output", self.nir.Output({"output": np.array([channels])}), [self.last])
        return self.nir.NIRGraph(self.nodes, self.edges)
