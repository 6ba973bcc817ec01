"""Recurrent-gated LIF: input and the neurons' own last spikes decide how long the current is held ("v2" in PR22).

::

    f, c = the two halves of the input's 2N channels
    F = sigmoid(f + y[t-1] U_f)
    C = relu(c + y[t-1] U_c)
    I = F * I + (1 - F) * C
    V = V + I
    y = Q(V)
    V = V - y

U = [U_f, U_c] is N x 2N and starts orthogonal. Q is the multi-bit spike of :mod:`neurons.spike`; the reset and
the recurrence pass gradient through y.

Source: PR22, improved recurrence "v2".
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurons.input_gated_lif import gated_update
from neurons.kernels import Kernel
from neurons.kernels.operators import full_precision
from neurons.neuron import MultiBitNeuron, SynapticState, check_channels, halves
from neurons.registry import register


class RecurrentState(NamedTuple):
    """Synaptic current, membrane after the reset, and the last spikes, each ``[B, N]``."""

    synaptic_current: Tensor
    membrane: Tensor
    spikes: Tensor


class RecurrentGatedLIFParameters(NamedTuple):
    """``recurrent_weight`` U, ``[N, 2N]``, gate half first; ``spike``, the spike function Q."""

    recurrent_weight: Tensor
    spike: Callable[[Tensor], Tensor]


def recurrent_gated_lif_step(
    x: Tensor, state: RecurrentState, parameters: RecurrentGatedLIFParameters
) -> tuple[Tensor, RecurrentState]:
    """One step on ``x [B, 2N]``, gate half first: the spikes ``[B, N]`` in membrane units and the new state."""
    weight = parameters.recurrent_weight.to(state.spikes.dtype)
    with full_precision(x):
        product = state.spikes @ weight
    f, c = halves(x.to(state.membrane.dtype) + product)
    before = SynapticState(state.synaptic_current, state.membrane)
    y, current, membrane = gated_update(f, c, before, parameters.spike)
    return y, RecurrentState(current, membrane, y)


@register("recurrent-gated-lif")
class RecurrentGatedLIF(MultiBitNeuron):
    """Recurrent-gated LIF over a sequence ``[T, B, 2N]``, gate half first; returns ``[T, B, N]`` of ``channels`` N.

    It learns ``recurrent_weight`` U; f and c come from the layer before, such as :class:`neurons.GatedCurrents`, whose
    start lets the neurons remember. ``bits``, ``threshold_levels`` and the range are those of the spike
    (:class:`neurons.spike.TrackedRange`). Start with a fixed range, ``initial_range=2.0, range_tracking="fixed"``:
    with a tracked one, which moves while U is learned, training fails from some seeds.
    """

    State = RecurrentState
    inputs_per_neuron = 2
    step = staticmethod(recurrent_gated_lif_step)
    kernel = Kernel(learned=("recurrent_weight",), recurrent=True)

    def __init__(self, channels: int, **spike):
        super().__init__(**spike)
        channels = check_channels(channels)
        weight = torch.empty(channels, 2 * channels)
        self.recurrent_weight = nn.Parameter(nn.init.orthogonal_(weight))

    @property
    def channels(self) -> int:
        return len(self.recurrent_weight)

    def check(self, x: Tensor, sequence: bool) -> None:
        super().check(x, sequence)
        if x.dim() != 2 + sequence:
            layout = "[T, B, 2N]" if sequence else "[B, 2N]"
            raise ValueError(f"{type(self).__name__} takes input of shape {layout}; got {list(x.shape)}")

    def step_parameters_with(self, spike: Callable[[Tensor], Tensor]) -> RecurrentGatedLIFParameters:
        return RecurrentGatedLIFParameters(self.recurrent_weight, spike)
