"""Multi-bit synaptic LIF: a synaptic current that decays by itself, and multi-bit spikes ("traditional" in PR22).

::

    I = tau * I + x
    V = V + I
    y = Q(V)
    V = V - y

Q is the multi-bit spike of :mod:`neurons.spike`; the reset passes gradient through y.

Source: PR22, the traditional recurrence that "v1" and "v2" improve on.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurons.neuron import MultiBitNeuron, SynapticState, check_channels, over_channels
from neurons.registry import register


class MultiBitSynapticLIFParameters(NamedTuple):
    """``tau``, the synaptic decay per step, ``[N]``; ``spike``, the spike function Q."""

    tau: Tensor
    spike: Callable[[Tensor], Tensor]


def multibit_synaptic_lif_step(
    x: Tensor, state: SynapticState, parameters: MultiBitSynapticLIFParameters
) -> tuple[Tensor, SynapticState]:
    """One step on ``x [B, N]``: the spikes in membrane units and the new state."""
    current = over_channels(parameters.tau, state.membrane) * state.synaptic_current + x
    membrane = state.membrane + current
    y = parameters.spike(membrane)
    return y, SynapticState(current, membrane - y)


@register("multibit-synaptic-lif")
class MultiBitSynapticLIF(MultiBitNeuron):
    """Multi-bit synaptic LIF over a sequence ``[T, B, N]`` of ``channels`` N.

    ``tau`` is one learned decay a neuron and starts at 1, as in PR22; ``bits``, ``threshold_levels`` and the
    range are those of the spike (:class:`neurons.spike.TrackedRange`).
    """

    State = SynapticState
    step = staticmethod(multibit_synaptic_lif_step)

    def __init__(self, channels: int, tau: float = 1.0, learn_tau: bool = True, **spike):
        super().__init__(**spike)
        self.tau = nn.Parameter(torch.full((check_channels(channels),), float(tau)), requires_grad=learn_tau)

    @property
    def channels(self) -> int:
        return len(self.tau)

    def spike_constants(self, spike: Callable[[Tensor], Tensor]) -> MultiBitSynapticLIFParameters:
        return MultiBitSynapticLIFParameters(self.tau, spike)
