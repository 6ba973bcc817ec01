"""The ledger of a profile: what each layer cost, and which tensors hold spikes.

The meter, and the counters of operations and layers, write into it.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo.profiling.counts import Counts
from zoo.profiling.spikes import Tags

RASTER_NEURONS, RASTER_STEPS = 32, 120
"""How many neurons and steps of the first input are kept for drawing."""


@dataclass
class Row:
    """One layer: its size, its counts over all inputs, and its spikes."""

    name: str
    kind: str
    parameters: int = 0
    bytes: int = 0
    """Bytes of its parameters and buffers, as they are in memory."""
    counts: Counts = field(default_factory=Counts)
    state_bytes: int | None = None
    """Memory for its state, in bytes per sample; None for a layer without known state."""
    levels: Counter = field(default_factory=Counter)
    """How often each level was fired; empty for a layer that fires no spikes."""
    synaptic_operations: int = 0
    """Products of its spikes with weights: for each spike, the number of weights that it meets. Only multi-bit neurons
    have them: zeros and ones do not say which layer they come from."""
    raster: list[list[int]] = field(default_factory=list, repr=False)
    """Levels of the first neurons at the first steps of the first sample."""

    @property
    def spike_rate(self) -> float | None:
        """The share of outputs that are not zero."""
        fired = sum(self.levels.values())
        return (fired - self.levels[0]) / fired if fired else None

    def as_dict(self) -> dict:
        """All but the raster, as a dict for JSON."""
        levels = {str(level): self.levels[level] for level in sorted(self.levels)}
        counted = {"counts": self.counts.as_dict(), "levels": levels, "spike_rate": self.spike_rate}
        return {part: value for part, value in vars(self).items() if part != "raster"} | counted


class Ledger:
    """One row per layer of ``model``, and the tags of tensors; ``running`` are the names of the layers now running."""

    def __init__(self, model: nn.Module):
        self.tags = Tags()
        self.rows: dict[str, Row] = {}
        self.running: list[str] = [type(model).__name__]
        self.result_tag: int | Tensor | None = None
        """The sources of an operation's result, as found by its counter."""
        self.finished_inputs = 0
        self.noted = 0
        """The number of times that spikes were noted."""
        self._parameters = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    @property
    def innermost(self) -> str:
        """The name of the innermost running layer."""
        return self.running[-1]

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether the tensor is a constant of the model, or a view of one."""
        return tensor.untyped_storage().data_ptr() in self._parameters

    def book(self, name: str, counts: Counts) -> None:
        self.rows[name].counts += counts

    def note_operations(self, sources: int | Tensor, fired: Tensor, each: int) -> None:
        """Book that every spike, where ``fired`` is True, meets ``each`` weights; ``sources`` are of the same shape."""
        spikes = Counter({sources: int(fired.sum())}) if isinstance(sources, int) else Counter(sources[fired].tolist())
        for source, count in spikes.items():
            if (name := self.tags.neuron(source)) in self.rows:
                self.rows[name].synaptic_operations += count * each

    def note_spikes(self, name: str, levels: Tensor) -> None:
        """Add the levels that a neuron fired to its histogram, and keep the first of them for drawing."""
        self.noted += 1
        row = self.rows[name]
        values, counts = levels.unique(return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist()):
            row.levels[int(value)] += count
        if not self.finished_inputs and len(row.raster) < RASTER_STEPS and levels.dim() > 1:
            row.raster.append(levels[0].flatten()[:RASTER_NEURONS].to(torch.int16).tolist())
