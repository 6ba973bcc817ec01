"""Input-gated LIF: the input itself decides how long the synaptic current is held ("v1" in PR22).

::

    f, c = the two halves of the input's 2N channels
    F = sigmoid(f)
    C = relu(c)
    I = F * I + (1 - F) * C
    V = V + I
    y = Q(V)
    V = V - y

Q is the multi-bit spike of :mod:`neurons.spike`; the reset passes gradient through y.

Source: PR22, improved recurrence "v1".
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.kernels import Kernel
from neurons.neuron import MultiBitNeuron, SynapticState, halves
from neurons.registry import register


class InputGatedLIFParameters(NamedTuple):
    """``spike``, the spike function Q."""

    spike: Callable[[Tensor], Tensor]


def gated_update(f: Tensor, c: Tensor, state: SynapticState, spike: Callable[[Tensor], Tensor]):
    """The part that v1 and v2 share: spikes and new state from the gate and candidate currents."""
    gate = torch.sigmoid(f)
    current = gate * state.synaptic_current + (1 - gate) * torch.relu(c)
    membrane = state.membrane + current
    y = spike(membrane)
    return y, current, membrane - y


def input_gated_lif_step(
    x: Tensor, state: SynapticState, parameters: InputGatedLIFParameters
) -> tuple[Tensor, SynapticState]:
    """One step on ``x [B, 2N]``, gate half first: the spikes ``[B, N]`` in membrane units and the new state."""
    y, current, membrane = gated_update(*halves(x.to(state.membrane.dtype)), state, parameters.spike)
    return y, SynapticState(current, membrane)


@register("input-gated-lif")
class InputGatedLIF(MultiBitNeuron):
    """Input-gated LIF over a sequence ``[T, B, 2N]``, gate half first; returns ``[T, B, N]``.

    It has no weights of its own: f and c come from the layer before, such as :class:`neurons.GatedCurrents`, whose
    start lets the neurons remember. ``bits``, ``threshold_levels`` and the range are those of the spike
    (:class:`neurons.spike.TrackedRange`).
    """

    State = SynapticState
    inputs_per_neuron = 2
    step = staticmethod(input_gated_lif_step)
    kernel = Kernel()

    def step_parameters_with(self, spike: Callable[[Tensor], Tensor]) -> InputGatedLIFParameters:
        return InputGatedLIFParameters(spike)
