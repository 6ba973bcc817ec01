"""The mixers of a sequence along time, of the spiking networks and of their twins.

A mixer takes ``(x, state)`` and returns ``(y, state)``. The state is explicit and has the batch first; it is None
before the first step. A mixer of tokens also takes a ``mask [T, B, 1]``: 1 at the tokens, 0 at the padding.
``mixer`` is the name of a neuron, or ``relu``, ``lstm`` or ``gru`` for the twins without spikes.

Tokens are ``[T, B, N]``: :class:`SpikingMixer`, :class:`RecurrentMixer` and :class:`BagOfWords`, and
:class:`StreamSpikes`, which turns a stream of currents into their input. Frames are ``[T, B, C, H, W]``:
:class:`FrameMixer` and :class:`ConvolutionalGRU`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

import neurons
from zoo.engine.program import Buffer, NotInIntegers, Program, Spikes, plain
from zoo.networks.layers import ParallelLayerNorm, RowGroups, TokenConvolution, first_rows, mirrored

RECURRENT: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def spike_options(config: Any, **changed: Any) -> dict[str, Any]:
    """The options of multi-bit neurons from a network's config, with those in ``changed`` replaced."""
    names = ("bits", "threshold_levels", "initial_range", "range_tracking")
    return {name: getattr(config, name) for name in names} | changed


def scan_both_ways(pair: nn.ModuleList, left: Tensor, right: Tensor) -> Tensor:
    """The outputs of two neurons, side by side: the first scans ``left [T, B, N]``, the second ``right`` from its end.

    ``right`` must be 0 at the padding, so that the scan from the end starts at rest.
    """
    return torch.cat([pair[0](left)[0], pair[1](right.flip(0))[0].flip(0)], dim=-1)


class StreamSpikes(nn.Module):
    """The stream of currents, normalised and turned into the input of the layers' weights.

    That is the spikes of a multi-bit (or learnable) LIF; in the twins without spikes it is ReLU, or no function.
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
        """``causal``: step by step, from a state; otherwise whole sequences, with padding."""
        if self.neuron is None:
            raise NotInIntegers("it has no spikes")
        current = program.layer_norm(h, self.norm, masked=not causal)
        return program.neuron(self.neuron, current, keeps_state=causal, masked=not causal)


class SpikingMixer(nn.Module):
    """Convolution over the tokens that feeds gated neurons (or learnable LIF, or ReLU, on all channels).

    Unless it is ``causal``, half of the neurons read from right to left.
    """

    def __init__(self, inputs: int, channels: int, kernel: int, mixer: str, spike: dict[str, Any], causal: bool):
        super().__init__()
        gated = mixer == "input-gated-lif"
        self.outputs = channels if gated else 2 * channels
        self.convolution = TokenConvolution(inputs, 2 * channels, kernel, causal)
        self.directions = 1 if causal or mixer == "relu" else 2
        self.norm = ParallelLayerNorm(2 * channels, self.directions * (2 if gated else 1))
        self.neurons = nn.ModuleList()
        for _ in range(0 if mixer == "relu" else self.directions):
            self.neurons.append(neurons.InputGatedLIF(**spike) if gated else neurons.LearnableLIF())

    def forward(self, s: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        past, before = (None, None) if state is None else state
        current, past = self.convolution(s, past)
        current = self.norm(current)
        if mask is not None:
            current = current * mask  # no current at the padding, so a scan from the end starts at rest
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


class RecurrentRows(RowGroups):
    """A module that runs LSTMs or GRUs of torch, in evaluation mode on whole groups of rows."""

    def run(self, network: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The outputs of ``network``, and its state, with the batch first as in all state."""
        batch = x.shape[1]
        if state is not None:
            state = tuple(self.in_groups(part.unsqueeze(0).contiguous()) for part in state)
            state = state if len(state) > 1 else state[0]  # an LSTM has two parts, a GRU one
        y, state = network(self.in_groups(x), state)
        parts = state if isinstance(state, tuple) else (state,)
        return first_rows(y, batch), tuple(first_rows(part.squeeze(0), batch) for part in parts)


class RecurrentMixer(RecurrentRows):
    """LSTM or GRU instead of convolution and neurons; of two ``directions``, one reads from right to left.

    (PyTorch's packed sequences do the same and take several times as long on a CPU.) ``adds_rows`` is for inputs that
    are computed together, see :class:`zoo.networks.layers.RowGroups`.
    """

    def __init__(self, inputs: int, channels: int, mixer: str, directions: int, adds_rows: bool = True):
        super().__init__()
        kind, self.outputs, self.adds_rows = RECURRENT[mixer], channels, adds_rows
        self.networks = nn.ModuleList([kind(inputs, channels // directions) for _ in range(directions)])

    def forward(self, s: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if len(self.networks) == 1:
            return self.run(self.networks[0], s, state)
        assert mask is not None  # says where whole sequences end, from where they are read to the left
        (right, _), (left, _) = self.run(self.networks[0], s), self.run(self.networks[1], mirrored(s, mask))
        return torch.cat([right, mirrored(left, mask)], dim=-1), None


class BagOfWords(nn.Module):
    """Tokens as they are: nothing is mixed."""

    def __init__(self, inputs: int):
        super().__init__()
        self.outputs = inputs

    def forward(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        return x, None


def over_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer for images on each frame of ``[T, B, C, H, W]``."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def normalised_convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution of width 3 and batch norm."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def folded(norm: nn.Module, kind: type[nn.Module] = nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What batch norm of this ``kind`` does in evaluation mode: the factor and the number to add, ``[C]`` each."""
    plain(norm, kind)
    norm = cast(nn.BatchNorm2d, norm)
    if norm.running_mean is None or norm.running_var is None or not norm.affine:
        raise NotInIntegers(f"{norm} has no instruction of the engine")
    weight, bias, mean, variance = (
        x.detach().double() for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = weight / torch.sqrt(variance + norm.eps)
    return scale.float(), (bias - mean * scale).float()


class FrameMixer(nn.Module):
    """Convolution and batch norm of each frame, into neurons, which run along time; into ReLU where there are none."""

    def __init__(self, inputs: int, outputs: int, stride: int, neuron: nn.Module | None):
        super().__init__()
        self.currents = normalised_convolution(inputs, outputs, stride)
        self.neuron = neuron

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        current = over_frames(self.currents, x)
        if self.neuron is None:
            return torch.relu(current), None
        return self.neuron(current, state)

    def lower(self, program: Program, x: Buffer | Spikes, height: int, width: int) -> Spikes:
        """On pictures ``[height, width, C]``: here the channels come last."""
        if self.neuron is None:
            raise NotInIntegers("it has no spikes")
        convolution, norm = self.currents
        scale, shift = folded(norm)
        current = program.convolution(x, cast(nn.Conv2d, convolution), scale, shift, height, width)
        return program.neuron(self.neuron, current, keeps_state=True, places=current.width // len(scale))


class ConvolutionalGRU(nn.Module):
    """GRU whose products are convolutions, over ``x [T, B, C, H, W]``.

    ``r, z = sigmoid(x W + h U)``; ``n = tanh(x W' + (r * h) U')``; ``h = (1 - z) * n + z * h``.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.outputs = outputs
        self.currents = normalised_convolution(inputs, 3 * outputs)
        self.gates = nn.Conv2d(outputs, 2 * outputs, 3, padding=1, bias=False)
        self.candidate = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        currents = over_frames(self.currents, x)
        if h is None:
            h = currents.new_zeros((currents.shape[1], self.outputs, *currents.shape[3:]))
        outputs = []
        for gates, candidate in zip(*(part.unbind(0) for part in currents.split([2 * self.outputs, self.outputs], 2))):
            r, z = torch.sigmoid(gates + self.gates(h)).chunk(2, dim=1)
            n = torch.tanh(candidate + self.candidate(r * h))
            h = (1 - z) * n + z * h
            outputs.append(h)
        return torch.stack(outputs), h
