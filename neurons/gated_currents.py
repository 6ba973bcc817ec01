"""The layer before a gated neuron, with a start that lets the neuron remember.

A gated neuron keeps its synaptic current with a time constant of ``-1 / ln F`` steps, where the gate F is the sigmoid
of the first half of its input. A layer's usual start puts that half near zero and F near one half: the neuron forgets
within two steps, and almost no gradient from further back teaches it otherwise. So the bias of that half starts such
that the time constants are spread evenly on a logarithmic scale, from one step to a ``horizon``.
"""

import math

import torch
from torch import Tensor, nn

from neurons.checks import is_real
from neurons.neuron import check_channels


class GatedCurrents(nn.Linear):
    """Linear layer ``[..., inputs] -> [..., 2 * neurons]`` that feeds ``neurons`` gated neurons, gate half first.

    For :class:`neurons.InputGatedLIF` and :class:`neurons.RecurrentGatedLIF`, also in both plug-ins. A
    recurrent-gated neuron should also start with a fixed range (see there).
    ``horizon``, in time steps, is how far back the slowest neuron remembers at the start. Choose about the length of
    the sequences.
    """

    def __init__(self, inputs: int, neurons: int, horizon: float = 100.0):
        check_horizon(horizon)
        super().__init__(inputs, 2 * check_channels(neurons))
        start_gates(self.bias, horizon)


@torch.no_grad()
def start_gates(bias: Tensor, horizon: float = 100.0) -> None:
    """Give the first half of ``bias [2N]``, the gates, time constants from one step to ``horizon`` steps.

    Use it on the bias of any layer that feeds a gated neuron, such as a convolution or a normalisation. It draws no
    random numbers: a channel gets the same time constant every time. Raises ValueError if the bias has no two halves.
    """
    check_horizon(horizon)
    if not isinstance(bias, Tensor) or bias.dim() != 1 or not len(bias) or len(bias) % 2:
        got = f"shape {list(bias.shape)}" if isinstance(bias, Tensor) else repr(bias)
        raise ValueError(f"start_gates takes a layer's bias, of shape [2N], gate half first; got {got}")
    if bias.is_meta:
        return
    gates = bias.detach()[: len(bias) // 2]
    share = (torch.arange(len(gates), dtype=torch.float64, device=gates.device) + 0.5) / len(gates)
    time_constants = horizon**share
    gates.copy_(-torch.log(torch.expm1(1 / time_constants)))  # sigmoid of this is exp(-1 / time constant)


def check_horizon(horizon: float) -> None:
    """Raise ValueError unless ``horizon`` is a finite number of time steps above 1."""
    if not is_real(horizon) or not 1 < horizon < math.inf:
        raise ValueError(f"horizon must be a finite number of time steps above 1; got {horizon!r}")
