"""Classifiers of event-camera recordings: convolutions that feed spiking neurons, scanned along time.

A recording becomes frames of event counts (:class:`zoo.inputs.events.Binning`), ``[T, B, 2, H, W]``. Then::

    x = log(1 + counts)
    x = multi-bit LIF(batch norm(convolution(x)))           a few blocks; each after the first halves the resolution
    f, c = batch norm(convolution(x))
    y = input-gated LIF(f, c)
    V[t] = V[t-1] + W y[t] + b                              the integrator readout
    probabilities after T frames = softmax(V[T] / T / temperature)

So every weight layer except the first takes spikes of a few bits. Only the neurons' state remembers the past, and it is
explicit: a recording in slices (:meth:`GestureNetwork.stream`) gives the same answer as the whole recording.

The twins differ only in the neurons. ``mixer`` is ``input-gated-lif`` as above; ``lif``, plain LIF neurons with binary
spikes and no learned parameters; ``relu``, with no memory except the readout's; ``convgru``, ReLU blocks below a
convolutional GRU (Ballas et al., ICLR 2016, arXiv 1511.06432).
"""

from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

import neurons
from neurons.monitors import evaluation_view
from zoo.engine.precision import Precise
from zoo.engine.program import Buffer, Executor, Program, State, part, plain
from zoo.explaining import Axis, Explanation, Layers, Strip, spike_strips, watched
from zoo.inputs import events
from zoo.networks.layers import SequenceDropout, at_least_one
from zoo.networks.mixers import ConvolutionalGRU, FrameMixer, spike_options
from zoo.networks.probabilities import check_temperature, most_probable
from zoo.networks.streaming import Stream, check_same_precision
from zoo.registry import register_architecture

MIXERS = ("input-gated-lif", "lif", "relu", "convgru")
MOST_BLOCKS = 16
GATE_HORIZON = 32.0
"""Frames that the slowest gated neurons remember before training: about a gesture of 1.5 seconds in bins of 50 ms."""

LOGARITHM = torch.log1p(torch.arange(256)).numpy()
"""log(1 + count) of every count that a frame can have."""
SHOWN_FRAMES = 12
ONE_STEP = np.ones(1, np.int64)
Step = Callable[[np.ndarray, Any], tuple[Tensor, Any]]
"""``(frame, state) -> (the readout's membrane [labels], state)``; state None before the first frame."""


@dataclass(frozen=True)
class GestureConfig:
    """All that is needed to rebuild a classifier.

    ``height``, ``width``, ``pool``, ``bin_by`` and ``bin_size`` say how events become frames
    (:class:`zoo.inputs.events.Binning`). Block i of ``blocks`` has ``i * channels`` channels, the last layer of neurons
    ``head``. ``bits``, ``threshold_levels``, ``initial_range`` and ``range_tracking`` are those of the multi-bit spike;
    its threshold keeps the many inactive places silent. ``predict`` divides the logits by ``temperature`` before it
    makes them probabilities (:mod:`zoo.networks.probabilities`).
    """

    labels: list[str]
    height: int = 128
    width: int = 128
    pool: int = 4
    bin_by: str = "time"
    bin_size: int = 50_000
    channels: int = 32
    blocks: int = 4
    head: int = 96
    mixer: str = "input-gated-lif"
    bits: int = 4
    threshold_levels: int = 2
    initial_range: float = 2.0
    range_tracking: str = "fixed"
    dropout: float = 0.1
    temperature: float = 1.0

    def __post_init__(self):
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}; got {self.mixer!r}")
        if not isinstance(self.labels, list | tuple) or len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels must be at least two different names; got {self.labels!r}")
        at_least_one(self, "channels", "blocks", "head")
        if self.blocks > MOST_BLOCKS:
            raise ValueError(f"blocks must be {MOST_BLOCKS} at most, each halves the picture; got {self.blocks}")
        check_temperature(self.temperature)
        self.binning()

    def binning(self) -> events.Binning:
        return events.Binning(self.height, self.width, self.pool, self.bin_by, self.bin_size)

    def neuron(self, channels: int) -> nn.Module | None:
        """The neurons of a block; None for twins without spikes."""
        if self.mixer == "lif":
            return neurons.LearnableLIF(learn_leak=False, learn_threshold=False)
        if self.mixer == "input-gated-lif":
            # Time constants from one step to about ten, so that some channels see motion and others remember.
            leak = torch.linspace(0.0, 0.9, channels)
            return neurons.MultiBitLIF(leak=leak, **spike_options(self))
        return None


class Prediction(NamedTuple):
    """The most probable label, and the probability of each."""

    label: str
    probabilities: dict[str, float]


@register_architecture("gesture-network")
class GestureNetwork(Precise["GestureProgram"]):
    """Classifier of event-camera recordings: ``predict`` takes the events of a recording and returns its label.

    Called on frames of event counts ``[T, B, 2, H, W]`` and their number ``lengths [B]`` (all T unless given) it
    returns logits ``[B, labels]``, computed in floats. ``predict`` and :meth:`stream` run in its ``precision``.
    """

    architecture: ClassVar[str]
    task = "video-classification"
    label_layers: ClassVar = {"output": 0}
    parts: ClassVar = {"blocks": ("blocks",), "head": ("head",), "readout": ("output",)}

    def __init__(self, config: GestureConfig):
        super().__init__()
        self.typed_config, self.binning = config, config.binning()
        sizes = [2, *(config.channels * (i + 1) for i in range(config.blocks))]
        self.blocks = nn.ModuleList(
            FrameMixer(inputs, outputs, 1 if i == 0 else 2, config.neuron(outputs))
            for i, (inputs, outputs) in enumerate(pairwise(sizes))
        )
        if config.mixer == "convgru":
            self.head: nn.Module = ConvolutionalGRU(sizes[-1], config.head)
        elif config.mixer == "input-gated-lif":
            head = FrameMixer(sizes[-1], 2 * config.head, 1, neurons.InputGatedLIF(**spike_options(config)))
            neurons.start_gates(cast(nn.BatchNorm2d, head.currents[1]).bias, GATE_HORIZON)
            self.head = head
        else:
            self.head = FrameMixer(sizes[-1], config.head, 1, config.neuron(config.head))
        height, width = self.binning.shape[1:]
        for _ in range(config.blocks - 1):
            height, width = -(-height // 2), -(-width // 2)
        self.dropout = SequenceDropout(config.dropout)
        self.output = nn.Linear(config.head * height * width, len(config.labels))
        self.readout = neurons.Integrator()

    @property
    def config(self) -> dict[str, Any]:
        """All that is needed to rebuild this network."""
        return asdict(self.typed_config)

    def assets(self) -> dict[str, bytes]:
        """None: the labels are part of the config."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], assets: dict[str, bytes]) -> "GestureNetwork":
        return cls(GestureConfig(**config))

    def scan(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The readout's membrane ``[T, B, labels]`` after each frame of ``[T, B, 2, H, W]``, and the final state."""
        *before, total = [None] * (len(self.blocks) + 2) if state is None else state
        x, after = torch.log1p(frames.to(self.output.weight.dtype)), []
        for layer, layer_state in zip([*self.blocks, self.head], before):
            x, layer_state = layer(x, layer_state)
            after.append(layer_state)
        current = self.output(self.dropout(x.flatten(2)))
        membrane, total = self.readout(current.float(), total)
        return membrane, (*after, total)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        membrane, _ = self.scan(frames)
        if lengths is None:
            return membrane[-1] / len(frames)
        return membrane[lengths - 1, torch.arange(len(lengths), device=lengths.device)] / lengths.unsqueeze(-1)

    def lower(self) -> "GestureProgram":
        planes, height, width = self.binning.shape
        program = Program(self)
        x: Any = program.given(planes * height * width)
        for layer in self.blocks:
            x = program.lower(layer, x, height, width)
            if layer is not self.blocks[0]:
                height, width = -(-height // 2), -(-width // 2)
        y = program.lower(self.head, x, height, width)
        plain(self.output, nn.Linear)
        arranged = self.output.weight.detach().unflatten(1, (-1, height * width)).transpose(1, 2).flatten(1)
        current = program.linear((y,), self.output, arranged=arranged)
        membrane = program.integrator(self.readout, current)
        return GestureProgram(program.finish(), membrane)

    def step(self) -> Step:
        """The network on one frame ``[2, H, W]`` of counts (uint8), in its precision, with the state explicit."""
        found = self.programs()
        if found is not None:
            return found.step

        def in_floats(frame: np.ndarray, state: Any) -> tuple[Tensor, Any]:
            check_same_precision(state, in_integers=False)
            membrane, state = self.scan(torch.from_numpy(frame).to(self.output.weight.device)[None, None], state)
            return membrane[0, 0], state

        return in_floats

    def logits(self, frames: np.ndarray) -> Tensor:
        """The logits ``[labels]`` of one recording as ``frames [T, 2, H, W]`` of counts (uint8), in its precision."""
        step, state, membrane = self.step(), None, None
        for frame in frames:
            membrane, state = step(frame, state)
        if membrane is None:
            raise ValueError("there are no frames")
        return membrane / len(frames)

    def stream(self) -> "GestureStream":
        """A new recording, to be fed in slices."""
        return GestureStream(self)

    def predict(self, recording: Any) -> Prediction:
        """The label of one recording of one gesture, and the probability of each label.

        ``recording`` is an event file (``.aedat``, ``.npz``, ``.npy``), or a structured array or dict with t (in
        microseconds), x, y and p (:func:`zoo.inputs.events.as_events`). Its last, incomplete bin is not used. Raises
        TypeError and ValueError if it is not a recording of this camera or is shorter than one bin; errors of a file
        name the file.
        """
        stream, found = self.stream(), events.as_events(recording)
        with events.naming(recording):
            stream.push(found)
            return stream.answer()

    @torch.inference_mode()
    def explained(self, recording: Any) -> Explanation:
        """What :func:`zoo.explain` shows of one recording: some frames, all spikes, and the answer as it forms."""
        answer, found = self.predict(recording), events.as_events(recording)
        frames = events.bin_events(found, self.binning)
        with evaluation_view(self) as network, watched(network.spiking_layers()) as levels:
            counts = torch.from_numpy(frames).to(self.output.weight.device).unsqueeze(1)
            membrane = network.scan(counts)[0][:, 0].float().cpu()
        by_time = self.binning.by == "time"
        steps = Axis(seconds=self.binning.size / 1e6) if by_time else Axis()
        logits = membrane / torch.arange(1, 1 + len(membrane)).unsqueeze(1) / self.typed_config.temperature
        title = "probability of each label, from all frames so far"
        forming = Strip(title, "curves", logits.softmax(-1), steps, tuple(self.typed_config.labels))
        return Explanation(answer, [_some_frames(frames, steps), *spike_strips(levels, steps), forming])

    def spiking_layers(self) -> Layers:
        """The neurons that fire, by name."""
        layers = [(f"blocks.{place}", block) for place, block in enumerate(self.blocks)] + [("head", self.head)]
        return {name: (at.neuron, at.neuron) for name, at in layers if getattr(at, "neuron", None) is not None}


def _some_frames(frames: np.ndarray, steps: Axis) -> Strip:
    """Evenly spaced frames of ``[T, 2, H, W]``, side by side: events to brighter minus events to darker."""
    shown = frames[np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int)].astype(float)
    picture = np.concatenate(list(shown[:, 1] - shown[:, 0]), axis=1)[::-1]
    seconds = steps.seconds * len(frames) / picture.shape[1]
    title = f"events of {len(shown)} frames of {len(frames)} (red: brighter, blue: darker)"
    return Strip(title, "events", torch.from_numpy(picture.T.copy()), Axis(seconds=seconds))


class GestureProgram(NamedTuple):
    """A classifier in integers: one frame, and the buffer of the readout's membrane."""

    program: Executor
    membrane: Buffer

    def step(self, frame: np.ndarray, state: Any) -> tuple[Tensor, State]:
        check_same_precision(state, in_integers=True)
        x = LOGARITHM[frame.transpose(1, 2, 0)].reshape(1, 1, -1)
        result = self.program.run(x, ONE_STEP, state)
        return torch.from_numpy(part(self.membrane, result, 1, 1)[0, 0].copy()), result.state


class GestureStream(Stream):
    """A recording that is classified while it comes in: it takes slices and gives the prediction so far.

    The network runs on one frame at a time, so the answer depends only on the events, not on how they were sliced.
    """

    def __init__(self, model: GestureNetwork):
        self.model = model
        self.bins = events.BinStream(model.binning)
        self.state: Any = None
        self.membrane: Tensor | None = None

    @torch.inference_mode()
    def push(self, slice_of_events: Any) -> int:
        """Take the next events; return how many bins they completed. Errors are those of ``predict``."""
        found = events.as_events(slice_of_events)
        bins, state, membrane = copy(self.bins), self.state, self.membrane
        with events.naming(slice_of_events):
            frames = bins.push(found)
        if len(frames):  # most slices of a live camera complete none
            with evaluation_view(self.model) as network:
                step = network.step()
                for frame in frames:
                    membrane, state = step(frame, state)
        self.bins, self.state, self.membrane = bins, state, membrane
        return len(frames)

    def answer(self) -> Prediction:
        """The prediction from all complete bins so far; ValueError before the first is complete."""
        if self.membrane is None:
            raise ValueError(events.too_short(self.bins))
        config = self.model.typed_config
        return Prediction(*most_probable(self.membrane / self.bins.count, config.labels, config.temperature))
