"""Learnable LIF: a leaky integrate-and-fire neuron whose leak and threshold are trained (RR24).

::

    U = lambda * U + x
    u = U / theta - 1
    s = 1 where u > 0
    U = U - theta * s

Backward, the surrogate gradient of s with respect to u is ``gamma * max(0, 1 - |u|)`` in RR24, or another of
:mod:`neurons.surrogate`. The reset passes gradient to theta and not through s.

Source: Rathi and Roy, "LITE-SNN: Leveraging Inherent Dynamics to Train Energy-Efficient Spiking Neural
Networks for Sequential Learning", IEEE TCDS 2024, 10.1109/TCDS.2024.3396431 (RR24).
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from neurons.checks import Setting, flag, leak_start, one_or_per_channel, positive, within
from neurons.kernels import Kernel
from neurons.neuron import MembraneState, Neuron, clip, over_channels
from neurons.registry import register
from neurons.surrogate import binary_spike, check_surrogate

SMALLEST_THRESHOLD = 1e-3
"""The smallest threshold, in training too. At zero u is not defined, and below zero its sign would be reversed."""


class LearnableLIFParameters(NamedTuple):
    """``leak`` lambda (per step) and ``threshold`` theta (membrane units), one number or ``[N]``.

    ``gamma`` and ``surrogate`` are the height and the name of the surrogate gradient.
    """

    leak: Tensor
    threshold: Tensor
    gamma: float = 0.3
    surrogate: str = "triangular"


def learnable_lif_step(
    x: Tensor, state: MembraneState, parameters: LearnableLIFParameters
) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the spikes (0 or 1) and the new state."""
    leak = over_channels(parameters.leak, state.membrane)
    threshold = over_channels(parameters.threshold, state.membrane)
    membrane = leak * state.membrane + x
    spike = binary_spike(membrane / threshold - 1, parameters.gamma, parameters.surrogate)
    return spike, MembraneState(membrane - threshold * spike.detach())


@register("learnable-lif")
class LearnableLIF(Neuron):
    """Learnable LIF over a sequence ``[T, B, N]`` of input currents; fires 0 or 1.

    ``leak``, in [0, 1], and ``threshold``, at least 0.001, are initial values: a number is shared by the layer, a
    tensor ``[N]`` has one value per channel. If training takes them out of these intervals, they are clipped.
    ``learn_leak`` and ``learn_threshold`` say whether they are trained. ``gamma``, a finite number above 0, is the
    height of the surrogate gradient, and ``surrogate`` its shape: "triangular" is that of RR24; "arctan" has a tail,
    with which neurons that have fallen silent learn to fire again (:mod:`neurons.surrogate`).
    """

    State = MembraneState
    step = staticmethod(learnable_lif_step)
    kernel = Kernel(learned=("leak", "threshold"), settings=("float gamma", "str surrogate"))
    gamma = Setting(lambda _, gamma: positive(gamma, "gamma"))
    surrogate = Setting(lambda _, surrogate: check_surrogate(surrogate))

    def __init__(
        self,
        leak: float | Tensor = 0.95,
        threshold: float | Tensor = 1.0,
        gamma: float = 0.3,
        learn_leak: bool = True,
        learn_threshold: bool = True,
        surrogate: str = "triangular",
    ):
        super().__init__()
        self.leak = nn.Parameter(leak_start(leak), requires_grad=flag(learn_leak, "learn_leak"))
        says = f"threshold must be positive, {SMALLEST_THRESHOLD} at least, in membrane units"
        start = within(one_or_per_channel(threshold, "threshold"), SMALLEST_THRESHOLD, math.inf, says)
        self.threshold = nn.Parameter(start, requires_grad=flag(learn_threshold, "learn_threshold"))
        self.gamma = gamma
        self.surrogate = surrogate
        lengths = {len(p) for p in (self.leak, self.threshold) if p.dim()}
        if len(lengths) > 1:
            raise ValueError(
                "leak and threshold, where given one per channel, must be of one length; "
                f"got {len(self.leak)} and {len(self.threshold)}"
            )

    @property
    def channels(self) -> int | None:
        for parameter in (self.leak, self.threshold):
            if parameter.dim():
                return len(parameter)
        return None

    def step_parameters(self) -> LearnableLIFParameters:
        threshold = clip(self.threshold, SMALLEST_THRESHOLD, math.inf)
        return LearnableLIFParameters(clip(self.leak, 0.0, 1.0), threshold, self.gamma, self.surrogate)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, surrogate={self.surrogate!r}"
