"""What stands in a layer of a stream ``h [T, B, N]``: the stream as spikes, and what mixes it along the tokens.

A mixer takes ``(s, state, mask)`` and gives ``(y, state)``. The state is explicit and has the batch first; it is None
before the first token. ``mask [T, B, 1]`` is 1 at the tokens and 0 at the padding of whole sequences. ``mixer`` is the
name of a neuron, or ``relu``, ``lstm`` or ``gru`` in the twins without spikes.
"""

from typing import Any

import torch
from torch import Tensor, nn

import neurons
from zoo.engine.program import Buffer, NotInIntegers, Program, Spikes
from zoo.networks.layers import ParallelLayerNorm, RowGroups, TokenConvolution, first_rows, mirrored

RECURRENT_MIXERS = ("lstm", "gru")
MIXERS = ("input-gated-lif", "learnable-lif", "relu", *RECURRENT_MIXERS)


def spike_options(config: Any, **changed: Any) -> dict[str, Any]:
    """The options of multi-bit neurons in a network's config, some of them ``changed``."""
    names = ("bits", "threshold_levels", "initial_range", "range_tracking")
    return {name: getattr(config, name) for name in names} | changed


def scan_both_ways(pair: nn.ModuleList, left: Tensor, right: Tensor) -> Tensor:
    """The outputs of two neurons, side by side: the first scans ``left [T, B, N]``, the second ``right`` from its end.

    At the padding ``right`` must be 0, so that the scan from there starts at rest.
    """
    return torch.cat([pair[0](left)[0], pair[1](right.flip(0))[0].flip(0)], dim=-1)


class StreamSpikes(nn.Module):
    """The stream of currents, normalised and turned into what the layers' weights take.

    Spikes of a multi-bit (or learnable) LIF; ReLU, or nothing, in the twins.
    """

    def __init__(self, width: int, mixer: str, spike: dict[str, Any]):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neuron: neurons.Neuron | None = None
        self.activation = nn.ReLU() if mixer == "relu" else nn.Identity()
        if mixer == "input-gated-lif":
            self.neuron = neurons.MultiBitLIF(leak=torch.full((width,), 0.1), **spike)
        elif mixer == "learnable-lif":
            self.neuron = neurons.LearnableLIF()

    def forward(self, h: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        current = self.norm(h)
        if mask is not None:
            current = current * mask
        if self.neuron is None:
            return self.activation(current), None
        y, state = self.neuron(current, state)
        return (y if mask is None else y * mask), state

    def lower(self, program: Program, h: Buffer, causal: bool) -> Spikes:
        """``causal``: step by step, from a state; else whole sequences, with padding."""
        if self.neuron is None:
            raise NotInIntegers("it has no spikes")
        current = program.layer_norm(h, self.norm, masked=not causal)
        return program.neuron(self.neuron, current, keeps_state=causal, masked=not causal)


class SpikingMixer(nn.Module):
    """Convolution over the tokens into gated neurons (or learnable LIF, or ReLU, on all channels)."""

    def __init__(self, width: int, kernel: int, mixer: str, spike: dict[str, Any], causal: bool):
        super().__init__()
        gated = mixer == "input-gated-lif"
        self.outputs = width if gated else 2 * width
        self.convolution = TokenConvolution(width, 2 * width, kernel, causal)
        self.directions = 1 if causal or mixer == "relu" else 2
        self.norm = ParallelLayerNorm(2 * width, self.directions * (2 if gated else 1))
        self.neurons = nn.ModuleList()
        for _ in range(0 if mixer == "relu" else self.directions):
            self.neurons.append(neurons.InputGatedLIF(**spike) if gated else neurons.LearnableLIF())

    def forward(self, s: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        past, before = (None, None) if state is None else state
        current, past = self.convolution(s, past)
        current = self.norm(current)
        if mask is not None:
            current = current * mask  # no current at the padding, so a scan from the right starts at rest
        if not self.neurons:
            return torch.relu(current), (past, None)
        if self.directions == 1:
            y, before = self.neurons[0](current, before)
        else:
            y = scan_both_ways(self.neurons, *current.chunk(2, dim=-1))
        return (y if mask is None else y * mask), (past, before)

    def lower(self, program: Program, s: Spikes) -> tuple[Spikes, ...]:
        if not self.neurons:
            raise NotInIntegers("it has no spikes")
        causal = self.convolution.causal
        current = program.lower(self.norm, program.lower(self.convolution, s), masked=not causal)
        inputs, found = current.width // self.directions, []
        for direction, neuron in enumerate(self.neurons):
            options = {"first": direction * inputs, "inputs": inputs, "backwards": bool(direction)}
            found.append(program.neuron(neuron, current, causal, masked=not causal, **options))
        return tuple(found)


class RecurrentMixer(RowGroups):
    """LSTM or GRU in the place of convolution and neurons; in the encoder half of it reads from right to left.

    (PyTorch's packed sequences do the same and take several times as long on a CPU.)
    """

    def __init__(self, width: int, mixer: str, causal: bool):
        super().__init__()
        kind, directions = (nn.LSTM if mixer == "lstm" else nn.GRU), (1 if causal else 2)
        self.outputs = width
        self.networks = nn.ModuleList([kind(width, width // directions) for _ in range(directions)])

    def forward(self, s: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if mask is not None:
            (right, _), (left, _) = self._run(0, s), self._run(1, mirrored(s, mask))
            return torch.cat([right, mirrored(left, mask)], dim=-1), None
        return self._run(0, s, state)

    def _run(self, direction: int, s: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One of the networks, in whole groups of rows; its state is kept with the batch first, as all state is."""
        network, batch = self.networks[direction], s.shape[1]
        if state is not None:
            state = tuple(self.in_groups(part.unsqueeze(0).contiguous()) for part in state)
            state = state if isinstance(network, nn.LSTM) else state[0]
        y, state = network(self.in_groups(s), state)
        parts = state if isinstance(state, tuple) else (state,)
        return first_rows(y, batch), tuple(first_rows(part.squeeze(0), batch) for part in parts)
